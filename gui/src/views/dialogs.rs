//! The dialogs: the connection, what is not saved, and the keys of the keyboard.

use egui::{Button, Context, Frame, Grid, Id, Modal, RichText, TextEdit, Ui};

use super::{colors, keyboard::KEYS};
use crate::{
    model::Model,
    settings::{PLAIN_TOKEN, is_plain_token, parse_addresses},
};

const WIDTH: f32 = 420.0;
const MARGIN: i8 = 18;

/// A dialog over the rest of the window.
fn modal(context: &Context, name: &str) -> Modal {
    let frame = Frame::popup(&context.global_style()).inner_margin(MARGIN);
    Modal::new(Id::unique(name)).frame(frame)
}

/// The connection.
pub fn connection(context: &Context, model: &mut Model) {
    if model.dialog.is_none() {
        return;
    }
    let mut answer = None;
    let modal = modal(context, "connection").show(context, |ui| {
        ui.set_width(WIDTH);
        ui.heading("Connection");
        fields(ui, model);
        ui.add_space(8.0);
        ui.horizontal(|ui| {
            if ui.add(Button::new(RichText::new("Connect").strong())).clicked() {
                answer = Some(true);
            }
            if ui.button("Cancel").clicked() {
                answer = Some(false);
            }
        });
    });
    match answer {
        Some(true) => model.confirm_dialog(),
        Some(false) => model.dialog = None,
        None if modal.should_close() => model.dialog = None,
        None => {}
    }
}

fn fields(ui: &mut Ui, model: &mut Model) {
    let Some(dialog) = &mut model.dialog else { return };
    let label = ui.label("Nodes, one a line, as host:port of their --grpc listeners");
    let addresses = TextEdit::multiline(&mut dialog.addresses).desired_rows(3).desired_width(f32::INFINITY);
    ui.add(addresses.char_limit(8192)).labelled_by(label.id);
    let label =
        ui.label("Token, or the admin token of a node; empty if the nodes ask for none. It is not kept.");
    let token = TextEdit::singleline(&mut dialog.token).password(true).desired_width(f32::INFINITY);
    ui.add(token.char_limit(8192)).labelled_by(label.id);
    ui.checkbox(&mut dialog.tls, "TLS");
    ui.add_enabled_ui(dialog.tls, |ui| {
        for (text, file) in [
            ("File of certificates to trust; empty for those of the system", &mut dialog.ca_file),
            ("File of a certificate of yours, if the nodes ask for one", &mut dialog.cert_file),
            ("File of its private key", &mut dialog.key_file),
        ] {
            let label = ui.label(text);
            let file = TextEdit::singleline(file).desired_width(f32::INFINITY);
            ui.add(file.char_limit(4096)).labelled_by(label.id);
        }
    });
    let addresses = parse_addresses(&dialog.addresses).unwrap_or_default();
    if is_plain_token(dialog.tls, &dialog.token, &addresses) {
        ui.colored_label(colors::of(ui).warning, PLAIN_TOKEN);
    }
    if let Some(error) = &dialog.error {
        ui.colored_label(colors::of(ui).bad, error);
    }
}

/// Something is to replace the editor, and what was typed is not saved.
pub fn unsaved(context: &Context, model: &mut Model) {
    let (Some(_), Some(editor)) = (&model.next, &model.editor) else { return };
    // The save runs; what comes of it is seen in the editor.
    if editor.is_busy() {
        return;
    }
    let can_save = editor.conflict.is_none() && model.is_connected();
    let name = editor.place.key.clone();
    let mut closes = false;
    let modal = modal(context, "unsaved").show(context, |ui| {
        ui.set_width(WIDTH);
        ui.heading("Not saved");
        ui.label(format!("What you typed for {name} is not saved."));
        ui.add_space(8.0);
        ui.horizontal(|ui| {
            if ui.add_enabled(can_save, Button::new(RichText::new("Save").strong())).clicked() {
                model.save();
            }
            if ui.button("Discard").clicked() {
                model.discard();
            }
            closes = ui.button("Go on typing").clicked();
        });
    });
    if closes || modal.should_close() {
        model.next = None;
    }
}

/// The keys of the keyboard.
pub fn help(context: &Context, model: &mut Model) {
    if !model.shows_help {
        return;
    }
    let mut closes = false;
    let modal = modal(context, "help").show(context, |ui| {
        ui.heading("Keys");
        Grid::new("keys").num_columns(2).spacing([24.0, 6.0]).show(ui, |ui| {
            for (key, what) in KEYS {
                ui.label(RichText::new(*key).strong());
                ui.label(*what);
                ui.end_row();
            }
        });
        ui.add_space(8.0);
        closes = ui.button("Close").clicked();
    });
    if closes || modal.should_close() {
        model.shows_help = false;
    }
}
