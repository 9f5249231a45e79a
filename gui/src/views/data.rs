//! The page of tables and keys: the tree beside the editor.

use egui::{CentralPanel, Frame, Key, Margin, Panel, RichText, TextEdit, Ui};

use super::{View, editor, tree};
use crate::model::{FILTER_PAUSE_MS, Model};

const TREE_WIDTH: f32 = 430.0;
const TREE_WIDTH_MIN: f32 = 220.0;

/// The page.
pub fn show(ui: &mut Ui, model: &mut Model, view: &mut View) {
    let frame = Frame::new().fill(ui.visuals().panel_fill).inner_margin(Margin::same(12));
    Panel::left("tree").default_size(TREE_WIDTH).min_size(TREE_WIDTH_MIN).frame(frame).show(ui, |ui| {
        ui.horizontal(|ui| filter(ui, model, view));
        ui.add_space(4.0);
        tree::show(ui, model, &mut view.tree);
    });
    CentralPanel::default().frame(frame.inner_margin(Margin::symmetric(16, 12))).show(ui, |ui| {
        if model.editor.is_some() {
            editor::show(ui, model);
        } else {
            ui.vertical_centered(|ui| {
                ui.add_space(ui.available_height() * 0.35);
                let text = RichText::new("Choose a key in the tree, or make a new one").weak();
                ui.label(text.size(16.0));
                ui.add_space(8.0);
                if ui.button("New key").clicked() {
                    model.new_key();
                }
            });
        }
    });
}

fn filter(ui: &mut Ui, model: &mut Model, view: &mut View) {
    let label = ui.label("Prefix");
    let width = (ui.available_width() - 90.0).max(60.0);
    let is_open = model.listing.is_some();
    let hint = if is_open { "of the keys: Ctrl+F" } else { "open a table first" };
    let field = TextEdit::singleline(&mut model.filter).hint_text(hint).desired_width(width).char_limit(1024);
    let field = ui.add_enabled(is_open, field).labelled_by(label.id);
    if std::mem::take(&mut view.focus_filter) {
        field.request_focus();
    }
    if field.changed() {
        model.filter_changed();
        ui.ctx().request_repaint_after(std::time::Duration::from_millis(FILTER_PAUSE_MS));
    }
    // Down from the prefix into the list.
    if field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter)) {
        model.apply_filter();
        view.tree.focus();
    }
    if ui.button("New key").on_hover_text("Ctrl+N").clicked() {
        model.new_key();
    }
}
