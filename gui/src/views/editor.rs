//! The editor of one key.

use egui::{
    Button, ComboBox, Frame, Key, KeyboardShortcut, Margin, Modifiers, RichText, ScrollArea, TextEdit, Ui,
    vec2,
};

use super::{colors, highlight};
use crate::model::{
    Model,
    editor::{Editor, Lifetime, Waiting},
    json::Mark,
    time,
};

/// The room below the text, for what is wrong with it.
const FOOT: f32 = 34.0;

/// The editor.
pub fn show(ui: &mut Ui, model: &mut Model) {
    let (now_ms, is_connected) = (model.now_ms, model.is_connected());
    let Some(editor) = &mut model.editor else { return };
    names(ui, editor);
    facts(ui, editor, now_ms);
    ui.add_space(4.0);
    let action = ui.horizontal_wrapped(|ui| buttons(ui, editor, now_ms, is_connected)).inner;
    let conflict = conflict(ui, editor, now_ms);
    if let Some(failure) = &editor.failure {
        ui.colored_label(colors::of(ui).bad, failure);
    }
    ui.add_space(4.0);
    if matches!(editor.waiting, Waiting::Load(_)) && editor.is_busy() {
        ui.weak("Reading\u{2026}");
    } else {
        texts(ui, editor);
    }
    match action.or(conflict) {
        Some(Action::Save) => model.save(),
        Some(Action::Delete) => model.delete(),
        Some(Action::Keep) => editor.keep_mine(),
        Some(Action::Take) => editor.take_theirs(),
        Some(Action::Discard) => model.discard(),
        None => {}
    }
}

enum Action {
    Save,
    Delete,
    Keep,
    Take,
    Discard,
}

/// The names of table and key; of a new key they can be typed.
fn names(ui: &mut Ui, editor: &mut Editor) {
    if !editor.is_new {
        let name = RichText::new(&editor.place.key).monospace().size(17.0).strong();
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new(format!("{} /", editor.place.table)).weak().size(15.0));
            ui.label(name);
            if editor.is_dirty() {
                ui.label(RichText::new("not saved").color(colors::of(ui).warning).small());
            }
        });
        return;
    }
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("Table");
        let table = TextEdit::singleline(&mut editor.place.table).desired_width(130.0).char_limit(256);
        ui.add(table).labelled_by(label.id);
        let label = ui.label("Key");
        let key = TextEdit::singleline(&mut editor.place.key).desired_width(240.0).char_limit(1024);
        ui.add(key.hint_text("name of the new key")).labelled_by(label.id);
    });
}

fn facts(ui: &mut Ui, editor: &Editor, now_ms: u64) {
    let Some(base) = &editor.base else {
        if editor.is_new {
            ui.weak("New: it is saved only if there is no such key yet.");
        }
        return;
    };
    ui.horizontal_wrapped(|ui| {
        let written = format!("Written {}", time::ago(base.timestamp_ms, now_ms));
        ui.label(RichText::new(written).weak().small());
        ui.label(RichText::new(format!("Version {}", base.version)).weak().small());
        if let Some(at_ms) = base.expires_at_ms {
            let left = format!("Expires in {}", time::left(at_ms, now_ms));
            ui.label(RichText::new(left).color(colors::of(ui).warning).small());
        }
    });
}

fn buttons(ui: &mut Ui, editor: &mut Editor, now_ms: u64, is_connected: bool) -> Option<Action> {
    let mut action = None;
    let is_idle = !editor.is_busy();
    let is_right = editor.check().is_ok() && editor.read_only().is_none();
    let can_save = is_connected && is_idle && is_right && editor.has_to_save() && editor.conflict.is_none();
    let save = if matches!(editor.waiting, Waiting::Save(_)) { "Saving\u{2026}" } else { "Save" };
    let save = Button::new(RichText::new(save).strong()).min_size(vec2(72.0, 0.0));
    let why = if is_right { "Ctrl+S" } else { "The text is no JSON" };
    if ui.add_enabled(can_save, save).on_hover_text("Ctrl+S").on_disabled_hover_text(why).clicked() {
        action = Some(Action::Save);
    }
    if ui.add_enabled(is_right, Button::new("Indent")).on_hover_text("Ctrl+Shift+F").clicked() {
        editor.format();
    }
    let can_discard = editor.has_to_save();
    let is_given_up = can_discard && ui.add_enabled(is_idle, Button::new("Discard")).clicked();
    if is_given_up && !editor.revert() {
        action = Some(Action::Discard);
    }
    if editor.base.is_some() {
        let is_asked = editor.confirms_deletion(now_ms);
        let delete = if is_asked { "Really delete" } else { "Delete" };
        let color = if is_asked { colors::of(ui).bad } else { ui.visuals().text_color() };
        let delete = Button::new(RichText::new(delete).color(color));
        // Space or Enter that is held down confirms nothing.
        let is_repeat = |event: &egui::Event| matches!(event, egui::Event::Key { repeat: true, .. });
        let is_held = ui.input(|input| input.events.iter().any(is_repeat));
        if ui.add_enabled(is_connected && is_idle, delete).clicked() && !is_held {
            action = Some(Action::Delete);
        }
        if is_asked && ui.button("Keep it").clicked() {
            editor.keep();
        }
    }
    lifetime(ui, editor, now_ms);
    action
}

fn lifetime(ui: &mut Ui, editor: &mut Editor, now_ms: u64) {
    if editor.read_only().is_some() {
        return;
    }
    let kept = editor.base.as_ref().and_then(|base| base.expires_at_ms);
    let name = |lifetime: &Lifetime| match lifetime {
        Lifetime::Forever => "Never expires".to_owned(),
        Lifetime::Keep => match kept {
            Some(at_ms) => format!("Expires as before, in {}", time::left(at_ms, now_ms)),
            None => "Expires as before".to_owned(),
        },
        Lifetime::Ttl(_) => "Expires after".to_owned(),
    };
    let current = name(&editor.lifetime);
    let combo = ComboBox::from_id_salt("lifetime").selected_text(current.clone()).width(150.0);
    let combo = combo.show_ui(ui, |ui| {
        let mut choices = vec![Lifetime::Forever];
        choices.extend(kept.map(|_| Lifetime::Keep));
        choices.push(Lifetime::Ttl("1h".into()));
        for choice in choices {
            let is_it = std::mem::discriminant(&choice) == std::mem::discriminant(&editor.lifetime);
            if ui.selectable_label(is_it, name(&choice)).clicked() && !is_it {
                editor.lifetime = choice;
            }
        }
    });
    combo.response.widget_info(|| {
        let name = format!("Lifetime: {current}");
        egui::WidgetInfo::labeled(egui::Role::ComboBox, true, name)
    });
    if let Lifetime::Ttl(text) = &mut editor.lifetime {
        let is_wrong = time::parse_ttl(text).is_err();
        let color = is_wrong.then(|| colors::of(ui).bad);
        let field = TextEdit::singleline(text).desired_width(80.0).text_color_opt(color).char_limit(32);
        let field = ui.add(field.hint_text("1h 30m"));
        field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Time to live"));
        if is_wrong {
            ui.colored_label(colors::of(ui).bad, "a number with s, m, h or d");
        }
    }
}

/// What somebody else wrote, and what to do about it.
fn conflict(ui: &mut Ui, editor: &Editor, now_ms: u64) -> Option<Action> {
    let conflict = editor.conflict.as_ref()?;
    let colors = colors::of(ui);
    let mut action = None;
    let frame = Frame::new().fill(colors.warning.gamma_multiply(0.18)).corner_radius(5.0);
    frame.inner_margin(Margin::symmetric(10, 8)).show(ui, |ui| {
        ui.horizontal_wrapped(|ui| {
            let text = match &conflict.theirs {
                Some(theirs) => {
                    format!("Somebody else changed this key {}.", time::ago(theirs.timestamp_ms, now_ms))
                }
                None => "Somebody else deleted this key.".to_owned(),
            };
            ui.label(RichText::new(text).strong().color(colors.warning));
            if ui.button("Keep mine").on_hover_text("What you typed stays, to be saved over theirs").clicked()
            {
                action = Some(Action::Keep);
            }
            if ui.button("Take theirs").on_hover_text("What you typed is dropped").clicked() {
                action = Some(Action::Take);
            }
        });
    });
    action
}

fn texts(ui: &mut Ui, editor: &mut Editor) {
    if editor.conflict.is_none() {
        return mine(ui, editor);
    }
    ui.columns(2, |columns| {
        columns[0].label(RichText::new("Mine").strong());
        mine(&mut columns[0], editor);
        columns[1].label(RichText::new("Theirs").strong());
        if let Some(conflict) = &mut editor.conflict {
            field(&mut columns[1], "theirs", "Their value", &mut conflict.text, None, false);
        }
    });
}

fn mine(ui: &mut Ui, editor: &mut Editor) {
    let read_only = editor.read_only();
    let mark = if read_only.is_some() { None } else { editor.check().err() };
    if field(ui, "mine", "Value", &mut editor.text, mark.as_ref(), read_only.is_none()) {
        editor.keep();
    }
    match (mark, read_only) {
        (Some(mark), _) => {
            let text = format!("Line {}, column {}: {}", mark.line, mark.column, mark.why);
            ui.colored_label(colors::of(ui).bad, text);
        }
        (None, Some(why)) => {
            ui.colored_label(colors::of(ui).warning, why);
        }
        (None, None) => {
            ui.label(RichText::new(format!("JSON, {} bytes", editor.text.len())).weak().small());
        }
    }
}

/// A field of code over the room that is left; whether it has just got the keyboard.
fn field(
    ui: &mut Ui,
    id: &str,
    name: &str,
    text: &mut String,
    mark: Option<&Mark>,
    is_editable: bool,
) -> bool {
    let range = mark.map(|mark| mark.range.clone());
    let mut layouter = |ui: &Ui, text: &dyn egui::TextBuffer, width: f32| {
        let mut job =
            highlight::json(ui, text.as_str(), range.as_ref().filter(|it| it.end <= text.as_str().len()));
        job.wrap.max_width = width;
        ui.fonts_mut(|fonts| fonts.layout_job(job))
    };
    let height = (ui.available_height() - FOOT).max(80.0);
    let area = ScrollArea::vertical().id_salt(id).max_height(height).auto_shrink(false).show(ui, |ui| {
        let edit = TextEdit::multiline(text)
            .id_salt(id)
            .code_editor()
            .desired_rows(1)
            .min_size(vec2(0.0, height))
            .desired_width(f32::INFINITY)
            .interactive(is_editable)
            // Ctrl+Enter is no line of its own.
            .return_key(KeyboardShortcut::new(Modifiers::NONE, Key::Enter))
            // Tab goes on: everything can be reached by the keyboard.
            .lock_focus(false)
            .layouter(&mut layouter);
        let response = ui.add(edit);
        response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::MultilineTextInput, is_editable, name));
        response.gained_focus()
    });
    area.inner
}
