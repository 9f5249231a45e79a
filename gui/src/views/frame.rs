//! What surrounds the pages: tabs and the connection above, the banner of a connection that is lost, and the line below.

use egui::{Align, Button, Color32, Frame, Layout, Margin, Panel, RichText, Sense, Spinner, Ui, vec2};

use super::colors;
use crate::{
    model::{Link, Model, Page, listing::Progress},
    settings::{PLAIN_TOKEN, Theme},
};

/// The tabs, and the connection.
pub fn top(ui: &mut Ui, model: &mut Model) {
    let frame = Frame::new().fill(ui.visuals().faint_bg_color).inner_margin(Margin::symmetric(12, 8));
    Panel::top("top").frame(frame).show(ui, |ui| {
        ui.horizontal(|ui| {
            ui.label(RichText::new("DynaRust").strong().size(17.0).color(colors::of(ui).accent));
            ui.add_space(12.0);
            for (at, page) in Page::ALL.into_iter().enumerate() {
                let tab = ui.add(Button::selectable(model.page == page, page.name()));
                if tab.on_hover_text(format!("Ctrl+{}", at + 1)).clicked() {
                    model.page = page;
                }
            }
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                if ui.button("Help").on_hover_text("The keys of the keyboard: F1").clicked() {
                    model.shows_help = true;
                }
                let theme = match model.settings.theme {
                    Theme::System => "Theme: system",
                    Theme::Light => "Theme: light",
                    Theme::Dark => "Theme: dark",
                };
                if ui.button(theme).on_hover_text("Light, dark, or as the desktop has it: Ctrl+T").clicked() {
                    model.settings.theme = model.settings.theme.next();
                }
                connection(ui, model);
            });
        });
    });
}

fn connection(ui: &mut Ui, model: &mut Model) {
    let colors = colors::of(ui);
    let (color, text) = match &model.link {
        Link::Connected { address } => (colors.good, address.clone()),
        Link::Connecting { address, .. } => (colors.warning, format!("{address}\u{2026}")),
        Link::Lost { .. } | Link::Refused { .. } => (colors.bad, "Not connected".to_owned()),
        Link::Idle => (ui.visuals().weak_text_color(), "Connect".to_owned()),
    };
    if ui.button(text).on_hover_text("Nodes, token and TLS: Ctrl+O").clicked() {
        model.open_dialog();
    }
    let (response, painter) = ui.allocate_painter(vec2(10.0, 10.0), Sense::hover());
    painter.circle_filled(response.rect.center(), 4.5, color);
}

/// What is wrong with the connection, if anything is.
pub fn banner(ui: &mut Ui, model: &mut Model) {
    if model.sends_token_in_plain_text() {
        let warning = colors::of(ui).warning;
        let frame = Frame::new().fill(warning.gamma_multiply(0.22)).inner_margin(Margin::symmetric(12, 4));
        Panel::top("plain token").frame(frame).show(ui, |ui| {
            ui.label(RichText::new(PLAIN_TOKEN).color(warning));
        });
    }
    let now_ms = model.now_ms;
    let (text, is_refused) = match &model.link {
        Link::Idle | Link::Connected { .. } | Link::Connecting { after: None, .. } => return,
        Link::Connecting { address, after: Some(why) } => {
            (format!("{why}. Connecting to {address}\u{2026}"), false)
        }
        Link::Lost { address, why, retry_at_ms } => {
            let seconds = retry_at_ms.saturating_sub(now_ms).div_ceil(1000);
            (format!("{address}: {why}. Trying again in {seconds} s"), false)
        }
        Link::Refused { address, why } => (format!("{address}: {why}"), true),
    };
    let colors = colors::of(ui);
    let fill = if is_refused { colors.bad } else { colors.warning };
    let frame = Frame::new().fill(fill.gamma_multiply(0.22)).inner_margin(Margin::symmetric(12, 8));
    Panel::top("banner").frame(frame).show(ui, |ui| {
        ui.horizontal(|ui| {
            if !is_refused {
                ui.add(Spinner::new().size(14.0).color(fill));
            }
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                if ui.button("Connection\u{2026}").clicked() {
                    model.open_dialog();
                }
                if ui.button("Try now").clicked() {
                    model.retry();
                }
                ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
                    ui.add(egui::Label::new(RichText::new(text).color(fill).strong()).wrap());
                });
            });
        });
    });
}

/// The result of the last action, and how much there is.
pub fn bottom(ui: &mut Ui, model: &Model) {
    let frame = Frame::new().fill(ui.visuals().faint_bg_color).inner_margin(Margin::symmetric(12, 4));
    Panel::bottom("bottom").frame(frame).show(ui, |ui| {
        ui.horizontal(|ui| {
            ui.label(RichText::new(&model.notice).small());
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                let weak = |text: String, color: Color32| RichText::new(text).small().color(color);
                let color = ui.visuals().weak_text_color();
                if let Some(ms) = model.answer_ms.filter(|_| model.is_connected()) {
                    ui.label(weak(format!("answers in {ms} ms"), color));
                    ui.separator();
                }
                if let Some(text) = listed(model) {
                    ui.label(weak(text, color));
                }
            });
        });
    });
}

fn listed(model: &Model) -> Option<String> {
    let listing = model.listing.as_ref()?;
    let (table, keys) = (&listing.table, count_of_keys(listing.keys().len() as u64));
    let (table, keys) = (table.as_str(), keys.as_str());
    Some(match &listing.progress {
        Progress::Loading => format!("{table}: {keys}, reading\u{2026}"),
        Progress::Loaded { is_cut: false } => format!("{table}: {keys}"),
        Progress::Loaded { is_cut: true } => format!("{table}: the first {keys}; a prefix shows others"),
        Progress::Incomplete(_) => format!("{table}: {keys}, and some that cannot be read"),
        Progress::Failed(_) => format!("{table}: not read"),
    })
}

/// How many keys there are, in words.
pub fn count_of_keys(number: u64) -> String {
    format!("{} {}", thousands(number), if number == 1 { "key" } else { "keys" })
}

/// A number with its thousands apart.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_apart() {
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(super::thousands(number), expected);
        }
        assert_eq!([1, 2].map(super::count_of_keys), ["1 key", "2 keys"]);
    }
}
