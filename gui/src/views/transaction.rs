//! The page of transactions.

use egui::{
    CentralPanel, Frame, Key, KeyboardShortcut, Margin, Modifiers, RichText, ScrollArea, TextEdit, Ui,
};

use super::colors;
use crate::model::Model;

const GRAMMAR: &str = "check TABLE KEY exists | absent | version VERSION | value JSON\n\
                       set TABLE KEY [ttl 1h30m] JSON\n\
                       delete TABLE KEY\n\
                       get TABLE KEY\n\
                       else";

/// The page.
pub fn show(ui: &mut Ui, model: &mut Model) {
    let frame = Frame::new().fill(ui.visuals().panel_fill).inner_margin(Margin::same(16));
    CentralPanel::default().frame(frame).show(ui, |ui| {
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            ui.heading("Transaction");
            ui.weak("If all checks hold, what stands above else is done, otherwise what stands below it: all of it or nothing.");
            ui.label(RichText::new(GRAMMAR).monospace().weak());
            ui.add_space(6.0);
            let field = TextEdit::multiline(&mut model.transaction.text)
                .id_salt("transaction")
                .code_editor()
                .lock_focus(false)
                .char_limit(1024 * 1024)
                .return_key(KeyboardShortcut::new(Modifiers::NONE, Key::Enter))
                .desired_rows(10)
                .desired_width(f32::INFINITY);
            let field = ui.add(field);
            field.widget_info(|| {
                egui::WidgetInfo::labeled(
                    egui::Role::MultilineTextInput,
                    true,
                    "Lines of the transaction",
                )
            });
            if field.changed() {
                model.transaction.errors.clear();
            }
            ui.add_space(4.0);
            let can_run = model.is_connected() && model.transaction.waiting.is_none();
            let name = if model.transaction.waiting.is_some() { "Running\u{2026}" } else { "Run" };
            let run = egui::Button::new(RichText::new(name).strong());
            if ui.add_enabled(can_run, run).on_hover_text("Ctrl+Enter").clicked() {
                model.run_transaction();
            }
            results(ui, model);
        });
    });
}

fn results(ui: &mut Ui, model: &Model) {
    let colors = colors::of(ui);
    for error in &model.transaction.errors {
        ui.colored_label(colors.bad, error.to_string());
    }
    match &model.transaction.outcome {
        None => {}
        Some(Err(why)) => {
            ui.colored_label(colors.bad, why);
        }
        Some(Ok(outcome)) => {
            let (text, color) = match outcome.succeeded {
                true => ("All checks hold. Done:", colors.good),
                false => ("A check does not hold. Done instead:", colors.warning),
            };
            ui.colored_label(color, text);
            if outcome.results.is_empty() {
                ui.weak("nothing");
            }
            for result in &outcome.results {
                ui.label(RichText::new(result).monospace());
            }
        }
    }
}
