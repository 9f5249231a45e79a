//! The keys that work wherever one is.

use egui::{Key, KeyboardShortcut, Modifiers, Ui};

use super::View;
use crate::model::{Model, Page};

const fn ctrl(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::COMMAND, key)
}

const fn plain(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::NONE, key)
}

/// All keys, for the help.
pub const KEYS: &[(&str, &str)] = &[
    ("Ctrl+1 \u{2026} Ctrl+4", "Data, Changes, Transaction, Cluster"),
    ("Ctrl+O", "Connection: nodes, token, TLS"),
    ("Ctrl+F", "The prefix of the keys that are listed"),
    ("Up, Down, Page Up, Page Down, Home, End", "In the tree: go to another row"),
    ("Enter", "In the tree: open the key, or the table"),
    ("Left, Right", "In the tree: close or open a table"),
    ("Delete", "In the tree: delete the key"),
    ("Ctrl+N", "A new key"),
    ("Ctrl+S", "Save"),
    ("Ctrl+Shift+F", "Indent the JSON"),
    ("Ctrl+Enter", "Run the transaction"),
    ("F5, Ctrl+R", "Read again"),
    ("Ctrl+T", "Light, dark, as the desktop has it"),
    ("Tab, Shift+Tab", "The next field, the one before"),
    ("Escape", "Close a dialog; leave a field"),
    ("Ctrl+Q", "Close the window"),
    ("F1", "These keys"),
];

/// Does what the keys say that were pressed.
pub fn act(ui: &Ui, model: &mut Model, view: &mut View) {
    let pressed = |shortcut: KeyboardShortcut| ui.input_mut(|input| input.consume_shortcut(&shortcut));
    if pressed(plain(Key::F1)) {
        model.shows_help = !model.shows_help;
    }
    if pressed(ctrl(Key::T)) {
        model.settings.theme = model.settings.theme.next();
    }
    if pressed(ctrl(Key::Q)) {
        model.close();
    }
    if model.dialog.is_some() || model.next.is_some() || model.shows_help {
        return;
    }
    if pressed(KeyboardShortcut::new(Modifiers::COMMAND | Modifiers::SHIFT, Key::F)) {
        if let Some(editor) = &mut model.editor {
            editor.format();
        }
    } else if pressed(ctrl(Key::F)) {
        model.page = Page::Data;
        view.focus_filter = true;
    }
    for (page, key) in Page::ALL.into_iter().zip([Key::Num1, Key::Num2, Key::Num3, Key::Num4]) {
        if pressed(ctrl(key)) {
            model.page = page;
        }
    }
    if pressed(ctrl(Key::O)) {
        model.open_dialog();
    }
    if pressed(ctrl(Key::N)) {
        model.new_key();
    }
    if pressed(ctrl(Key::S)) && model.page == Page::Data {
        model.save();
    }
    if pressed(ctrl(Key::R)) || pressed(plain(Key::F5)) {
        model.reload();
    }
    if model.page == Page::Transaction && pressed(ctrl(Key::Enter)) {
        model.run_transaction();
    }
}
