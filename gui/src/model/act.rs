//! What the user does: connects, edits keys, runs transactions.

use super::{
    Dialog, Model, Page,
    editor::{Editor, Waiting},
    transaction,
};
use crate::{
    message::{Command, Place},
    settings::parse_addresses,
};

/// What a new key begins with.
const NEW_VALUE: &str = "{}";

impl Model {
    /// Opens the dialog for a connection.
    pub fn open_dialog(&mut self) {
        self.dialog = Some(Dialog {
            addresses: self.settings.addresses.join("\n"),
            token: self.token.clone(),
            tls: self.settings.tls,
            ca_file: self.settings.ca_file.clone(),
            error: None,
        });
    }

    /// Connects as the dialog says, if that makes sense.
    pub fn confirm_dialog(&mut self) {
        let Some(dialog) = &mut self.dialog else { return };
        match parse_addresses(&dialog.addresses) {
            Err(error) => dialog.error = Some(error),
            Ok(_) if !dialog.token.trim().chars().all(|letter| letter.is_ascii_graphic()) => {
                dialog.error = Some("a token has letters, digits and signs, without spaces".into());
            }
            Ok(_) if dialog.tls && dialog.ca_file.trim().is_empty() && !dialog.ca_file.is_empty() => {
                dialog.error = Some("the file of certificates has no name".into());
            }
            Ok(addresses) => {
                self.settings.addresses = addresses;
                self.settings.tls = dialog.tls;
                self.settings.ca_file = dialog.ca_file.trim().to_owned();
                self.token = dialog.token.trim().to_owned();
                self.dialog = None;
                self.listing = None;
                self.connect();
            }
        }
    }

    /// Shows a key in the editor. Where something was typed that is not written, it asks first.
    pub fn open_key(&mut self, place: Place) {
        self.selected = Some(place.key.as_str().into());
        let is_same = self.editor.as_ref().is_some_and(|editor| editor.place == place && !editor.is_new);
        if is_same {
            return;
        }
        match &mut self.editor {
            Some(editor) if editor.is_dirty() && editor.text != NEW_VALUE => {
                // What failed before has nothing to do with the question that comes.
                editor.failure = None;
                self.waiting_place = Some(place);
            }
            _ => self.load(place),
        }
    }

    /// Gives up what was typed, for the key that waits.
    pub fn discard(&mut self) {
        match self.waiting_place.take() {
            Some(place) => self.load(place),
            None => self.editor = None,
        }
    }

    pub(super) fn load(&mut self, place: Place) {
        self.waiting_place = None;
        let request = self.next_number();
        self.editor = Some(Editor::load(place.clone(), request));
        self.send(Command::Get { request, place });
    }

    /// Begins a new key in the table that is open.
    pub fn new_key(&mut self) {
        let table = self.listing.as_ref().map_or_else(|| "kv".to_owned(), |listing| listing.table.clone());
        let key = self.listing.as_ref().map(|listing| listing.prefix.clone()).unwrap_or_default();
        if self.editor.as_ref().is_some_and(|editor| editor.is_dirty() && !editor.is_new) {
            self.notice = "Save or discard what you typed first".into();
            return;
        }
        self.page = Page::Data;
        self.editor = Some(Editor::create(table, NEW_VALUE.to_owned(), key));
    }

    /// Writes what is in the editor.
    pub fn save(&mut self) {
        let request = self.next_number();
        let Some(editor) = &mut self.editor else { return };
        if editor.waiting != Waiting::Nothing || editor.conflict.is_some() {
            return;
        }
        match editor.write() {
            Err(why) => editor.failure = Some(why),
            Ok((json, expiry, guard)) => {
                editor.failure = None;
                editor.waiting = Waiting::Save(request);
                let place = editor.place.clone();
                self.writing = Some((json.clone(), expiry));
                self.send(Command::Set { request, place, json, expiry, guard });
            }
        }
    }

    /// Deletes the key that is in the editor: the first call asks, the second does it.
    pub fn delete(&mut self) {
        let request = self.next_number();
        let Some(editor) = &mut self.editor else { return };
        let Some(base) = editor.base.as_ref().filter(|_| editor.waiting == Waiting::Nothing) else { return };
        if !std::mem::replace(&mut editor.confirms_deletion, true) {
            return;
        }
        editor.confirms_deletion = false;
        editor.waiting = Waiting::Delete(request);
        let (place, version) = (editor.place.clone(), base.version.clone());
        self.send(Command::Delete { request, place, version });
    }

    /// Runs the transaction that is typed, if its lines are right.
    pub fn run_transaction(&mut self) {
        if self.transaction.waiting.is_some() {
            return;
        }
        self.transaction.outcome = None;
        match transaction::parse(&self.transaction.text) {
            Err(errors) => self.transaction.errors = errors,
            Ok(transaction) => {
                let request = self.next_number();
                self.transaction.errors.clear();
                self.transaction.waiting = Some(request);
                self.send(Command::Transact { request, transaction });
            }
        }
    }
}
