//! Draws the model, and tells it what the user did. All that a view keeps for itself is what only the screen needs.

mod changes;
mod cluster;
mod colors;
mod data;
mod dialogs;
mod editor;
mod frame;
mod highlight;
mod keyboard;
mod transaction;
mod tree;

use crate::model::{Model, Page};

/// For how long a row that has changed is shown in another color.
pub const FLASH_MS: u64 = 1500;

/// What only the screen needs.
#[derive(Debug, Default)]
pub struct View {
    tree: tree::State,
    /// Whether the field of the prefix is to get the keyboard.
    focus_filter: bool,
}

/// Sets fonts, sizes and colors, once.
pub fn install(context: &egui::Context) {
    colors::install(context);
}

/// Draws everything.
pub fn show(ui: &mut egui::Ui, model: &mut Model, view: &mut View) {
    model.tick();
    colors::apply(ui.ctx(), model.settings.theme);
    keyboard::act(ui, model, view);
    frame::top(ui, model);
    frame::banner(ui, model);
    frame::bottom(ui, model);
    match model.page {
        Page::Data => data::show(ui, model, view),
        Page::Changes => changes::show(ui, model),
        Page::Transaction => transaction::show(ui, model),
        Page::Cluster => cluster::show(ui, model),
    }
    dialogs::connection(ui.ctx(), model);
    dialogs::unsaved(ui.ctx(), model);
    dialogs::help(ui.ctx(), model);
}
