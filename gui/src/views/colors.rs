//! Sizes and colors, dark and light.

use egui::{
    Color32, Context, CornerRadius, FontFamily, FontId, Stroke, Style, TextStyle, ThemePreference, Ui,
    Visuals, vec2,
};

use crate::settings::Theme;

/// Colors with a meaning.
#[derive(Clone, Copy, Debug)]
pub struct Colors {
    /// What can be done, and what is selected.
    pub accent: Color32,
    /// As it should be.
    pub good: Color32,
    /// To be looked at.
    pub warning: Color32,
    /// Wrong.
    pub bad: Color32,
    /// Strings of JSON.
    pub string: Color32,
    /// Numbers of JSON.
    pub number: Color32,
    /// Names of members of JSON.
    pub name: Color32,
    /// `true`, `false` and `null`.
    pub word: Color32,
}

const DARK: Colors = Colors {
    accent: Color32::from_rgb(0xf2, 0x8c, 0x4a),
    good: Color32::from_rgb(0x5f, 0xc9, 0x8a),
    warning: Color32::from_rgb(0xe8, 0xb8, 0x4b),
    bad: Color32::from_rgb(0xf0, 0x6b, 0x6b),
    string: Color32::from_rgb(0xa5, 0xd6, 0x8a),
    number: Color32::from_rgb(0xf0, 0xa8, 0x70),
    name: Color32::from_rgb(0x7c, 0xb8, 0xf0),
    word: Color32::from_rgb(0xc9, 0x9a, 0xf0),
};

const LIGHT: Colors = Colors {
    accent: Color32::from_rgb(0xb4, 0x4d, 0x12),
    good: Color32::from_rgb(0x1b, 0x7a, 0x43),
    warning: Color32::from_rgb(0x8f, 0x5f, 0x00),
    bad: Color32::from_rgb(0xb8, 0x25, 0x25),
    string: Color32::from_rgb(0x2f, 0x6f, 0x1e),
    number: Color32::from_rgb(0xa0, 0x46, 0x0c),
    name: Color32::from_rgb(0x1a, 0x57, 0x9c),
    word: Color32::from_rgb(0x74, 0x37, 0xa8),
};

/// The colors of the theme that is shown.
pub fn of(ui: &Ui) -> Colors {
    if ui.visuals().dark_mode { DARK } else { LIGHT }
}

/// Sets sizes and colors for both themes.
pub fn install(context: &Context) {
    context.all_styles_mut(sizes);
    context.style_mut_of(egui::Theme::Dark, |style| {
        let panel = Color32::from_rgb(0x1c, 0x1f, 0x26);
        let visuals = visuals(Visuals::dark(), DARK, panel, Color32::from_rgb(0x13, 0x15, 0x1a));
        style.visuals = Visuals { faint_bg_color: Color32::from_rgb(0x23, 0x27, 0x30), ..visuals };
        style.visuals.override_text_color = Some(Color32::from_rgb(0xdd, 0xe1, 0xe8));
        style.visuals.weak_text_color = Some(Color32::from_rgb(0x94, 0x9c, 0xaa));
    });
    context.style_mut_of(egui::Theme::Light, |style| {
        let panel = Color32::from_rgb(0xf5, 0xf6, 0xf8);
        let visuals = visuals(Visuals::light(), LIGHT, panel, Color32::WHITE);
        style.visuals = Visuals { faint_bg_color: Color32::from_rgb(0xea, 0xec, 0xf0), ..visuals };
        style.visuals.override_text_color = Some(Color32::from_rgb(0x1d, 0x22, 0x2b));
        style.visuals.weak_text_color = Some(Color32::from_rgb(0x5b, 0x64, 0x72));
    });
}

/// Shows the theme that the settings want.
pub fn apply(context: &Context, theme: Theme) {
    context.set_theme(match theme {
        Theme::System => ThemePreference::System,
        Theme::Light => ThemePreference::Light,
        Theme::Dark => ThemePreference::Dark,
    });
}

fn sizes(style: &mut Style) {
    style.spacing.item_spacing = vec2(8.0, 6.0);
    style.spacing.button_padding = vec2(10.0, 5.0);
    style.spacing.interact_size.y = 26.0;
    for (text, size, family) in [
        (TextStyle::Small, 11.5, FontFamily::Proportional),
        (TextStyle::Body, 14.0, FontFamily::Proportional),
        (TextStyle::Button, 14.0, FontFamily::Proportional),
        (TextStyle::Heading, 18.0, FontFamily::Proportional),
        (TextStyle::Monospace, 13.0, FontFamily::Monospace),
    ] {
        style.text_styles.insert(text, FontId::new(size, family));
    }
}

fn visuals(base: Visuals, colors: Colors, panel: Color32, field: Color32) -> Visuals {
    let mut visuals = base;
    visuals.panel_fill = panel;
    visuals.window_fill = panel;
    visuals.extreme_bg_color = field;
    visuals.warn_fg_color = colors.warning;
    visuals.error_fg_color = colors.bad;
    visuals.hyperlink_color = colors.accent;
    visuals.selection.bg_fill = colors.accent.gamma_multiply(0.28);
    visuals.selection.stroke = Stroke::new(1.5, colors.accent);
    let corner = CornerRadius::same(5);
    let widgets = &mut visuals.widgets;
    for widget in [
        &mut widgets.noninteractive,
        &mut widgets.inactive,
        &mut widgets.hovered,
        &mut widgets.active,
        &mut widgets.open,
    ] {
        widget.corner_radius = corner;
    }
    visuals
}
