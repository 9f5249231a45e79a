//! What the user does: connects, edits keys, runs transactions.

use super::{
    Dialog, Model, Next, Page,
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
            cert_file: self.settings.cert_file.clone(),
            key_file: self.settings.key_file.clone(),
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
            Ok(_)
                if dialog.tls && dialog.cert_file.trim().is_empty() != dialog.key_file.trim().is_empty() =>
            {
                dialog.error = Some(
                    "a certificate of this client needs its private key: name both files, or neither".into(),
                );
            }
            Ok(_) => {
                if let Some(dialog) = self.dialog.take() {
                    self.go(Next::Connect(dialog));
                }
            }
        }
    }

    fn connect_by(&mut self, dialog: Dialog) {
        // It was checked before.
        let Ok(addresses) = parse_addresses(&dialog.addresses) else { return };
        if self.is_elsewhere(&dialog) {
            // Another cluster has other keys.
            (self.editor, self.selected, self.listing) = (None, None, None);
            self.changes.clear();
        }
        self.settings.addresses = addresses;
        self.settings.tls = dialog.tls;
        self.settings.ca_file = dialog.ca_file.trim().to_owned();
        self.settings.cert_file = dialog.cert_file.trim().to_owned();
        self.settings.key_file = dialog.key_file.trim().to_owned();
        self.token = dialog.token.trim().to_owned();
        self.listing = None;
        self.connect();
    }

    /// Whether a dialog names none of the nodes that were known.
    fn is_elsewhere(&self, dialog: &Dialog) -> bool {
        let addresses = parse_addresses(&dialog.addresses).unwrap_or_default();
        !addresses.iter().any(|address| self.settings.addresses.contains(address))
    }

    /// Shows a key in the editor. Where something was typed that is not written, it asks first.
    pub fn open_key(&mut self, place: Place) {
        self.select_place(&place);
        let is_same = self.editor.as_ref().is_some_and(|editor| editor.place == place && !editor.is_new);
        if !is_same {
            self.go(Next::Open(place));
        }
    }

    /// Goes on to what replaces the editor. Where something was typed that is not written, it asks first.
    pub(super) fn go(&mut self, next: Next) {
        let is_replaced = match &next {
            Next::Open(_) | Next::New | Next::Close => true,
            Next::Connect(dialog) => self.is_elsewhere(dialog),
        };
        match &mut self.editor {
            Some(editor) if is_replaced && editor.is_dirty() => {
                // What failed before has nothing to do with the question that comes.
                editor.failure = None;
                editor.keep();
                self.next = Some(next);
            }
            _ => self.proceed(next),
        }
    }

    /// Does what waited until the editor was saved or given up.
    pub(super) fn proceed(&mut self, next: Next) {
        self.next = None;
        match next {
            Next::Open(place) => self.load(place),
            Next::New => self.create(),
            Next::Connect(dialog) => self.connect_by(dialog),
            Next::Close => self.is_closing = true,
        }
    }

    /// Closes the window. Where something was typed that is not written, it asks first.
    pub fn close(&mut self) {
        self.go(Next::Close);
    }

    /// Gives up what was typed, for what waits.
    pub fn discard(&mut self) {
        self.editor = None;
        if let Some(next) = self.next.take() {
            self.proceed(next);
        }
    }

    pub(super) fn load(&mut self, place: Place) {
        self.next = None;
        let request = self.next_number();
        self.editor = Some(Editor::load(place.clone(), request));
        self.send(Command::Get { request, place });
    }

    /// Reads the key in the editor again, while what is in it stays.
    pub(super) fn load_again(&mut self) {
        let request = self.next_number();
        let Some(editor) = self.editor.as_mut().filter(|it| !it.is_busy()) else { return };
        editor.read_again(request);
        let place = editor.place.clone();
        self.send(Command::Get { request, place });
    }

    /// Selects a key in the tree, if its table is the one that is listed.
    pub(super) fn select_place(&mut self, place: &Place) {
        let is_listed = self.listing.as_ref().is_some_and(|listing| listing.table == place.table);
        self.select(is_listed.then(|| place.key.as_str().into()));
    }

    /// Selects a key of the table that is listed, or none.
    pub fn select(&mut self, key: Option<std::sync::Arc<str>>) {
        if self.selected != key {
            self.keep();
        }
        self.selected = key;
    }

    /// Asks no longer whether the key is really to be deleted.
    pub fn keep(&mut self) {
        if let Some(editor) = &mut self.editor {
            editor.keep();
        }
    }

    /// Whether the key that is selected in the tree is the one in the editor.
    fn is_selected_shown(&self) -> bool {
        let (Some(editor), Some(listing), Some(key)) = (&self.editor, &self.listing, &self.selected) else {
            return false;
        };
        editor.place.table == listing.table && editor.place.key == **key
    }

    /// Deletes the key that is selected in the tree: the first call shows it, the second asks, the third does it.
    pub fn delete_selected(&mut self) {
        if self.is_selected_shown() {
            self.delete();
        } else if let (Some(listing), Some(key)) = (&self.listing, &self.selected) {
            let place = Place { table: listing.table.clone(), key: key.to_string() };
            self.open_key(place);
        }
    }

    /// Begins a new key in the table that is open. Where something was typed that is not written, it asks first.
    pub fn new_key(&mut self) {
        self.page = Page::Data;
        self.go(Next::New);
    }

    fn create(&mut self) {
        let table = self.listing.as_ref().map_or_else(|| "kv".to_owned(), |listing| listing.table.clone());
        let key = self.listing.as_ref().map(|listing| listing.prefix.clone()).unwrap_or_default();
        self.editor = Some(Editor::create(table, NEW_VALUE.to_owned(), key));
    }

    /// Writes what is in the editor, if there is something to write.
    pub fn save(&mut self) {
        let request = self.next_number();
        let Some(editor) = &mut self.editor else { return };
        if editor.is_busy() || editor.conflict.is_some() || !editor.has_to_save() {
            return;
        }
        editor.keep();
        match editor.write() {
            Err(why) => {
                editor.failure = Some(why);
                // It is in the editor that this can be put right.
                self.next = None;
            }
            Ok((json, expiry, guard)) => {
                editor.failure = None;
                editor.waiting = Waiting::Save(request);
                let place = editor.place.clone();
                self.writing = Some((editor.text.clone(), expiry));
                self.send(Command::Set { request, place, json, expiry, guard });
            }
        }
    }

    /// Deletes the key that is in the editor: the first call asks, the second does it.
    pub fn delete(&mut self) {
        let (request, now_ms) = (self.next_number(), self.now_ms);
        let Some(editor) = self.editor.as_mut().filter(|editor| !editor.is_busy()) else { return };
        let Some(version) = editor.base.as_ref().map(|base| base.version.clone()) else { return };
        if !editor.confirms_deletion(now_ms) {
            editor.ask_deletion(now_ms);
            return;
        }
        editor.keep();
        editor.waiting = Waiting::Delete(request);
        let place = editor.place.clone();
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
