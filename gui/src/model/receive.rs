//! What messages of the client come to.

use super::{
    CHANGES_MAX, Event, Link, Model, Seen,
    editor::{Conflict, Waiting},
    listing::Progress,
};
use crate::message::{Change, Entry, Message, Place, Value};

/// As much of a value as a row shows.
pub const PREVIEW_CHARS_MAX: usize = 120;

/// The beginning of a value, in one line.
pub fn preview(value: &Value) -> String {
    match value {
        Value::Json(text) => {
            let mut preview: String = text.chars().take(PREVIEW_CHARS_MAX).collect();
            if preview.len() < text.len() {
                preview.push('\u{2026}');
            }
            preview.replace('\n', " ")
        }
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
    }
}

impl Model {
    /// Takes a message of the client.
    pub fn receive(&mut self, message: Message) {
        match message {
            Message::Connecting { address } => {
                let after = match &self.link {
                    Link::Lost { why, .. } => Some(why.clone()),
                    Link::Connecting { after, .. } => after.clone(),
                    Link::Idle | Link::Connected { .. } | Link::Refused { .. } => None,
                };
                self.link = Link::Connecting { address, after };
            }
            Message::Connected { address } => self.connected(address),
            Message::Lost { address, why, retry_ms } => {
                self.link = Link::Lost { address, why, retry_at_ms: self.now_ms + retry_ms };
                self.lose_requests();
            }
            Message::Refused { address, why } => {
                self.link = Link::Refused { address, why };
                self.lose_requests();
            }
            Message::Tables(tables) => self.tables = Some(tables),
            Message::Cluster(cluster, answer_ms) => {
                self.cluster = Some(cluster);
                self.answer_ms = Some(answer_ms);
            }
            Message::Anew { generation } => {
                self.with_listing(generation, |listing, _| listing.begin_again(generation))
            }
            Message::Keys { generation, keys } => {
                self.with_listing(generation, |listing, _| listing.add(keys))
            }
            Message::Listed { generation, is_cut } => {
                self.with_listing(generation, |listing, now_ms| listing.end(is_cut, now_ms))
            }
            Message::Incomplete { generation, why } => {
                self.with_listing(generation, |listing, now_ms| listing.end_incomplete(why, now_ms));
            }
            Message::Details { generation, rows, is_all } => {
                self.with_listing(generation, |listing, now_ms| listing.fill(rows, is_all, now_ms));
            }
            Message::Changed { generation, change } => self.changed(generation, change),
            Message::Position { generation, cursor } => {
                self.with_listing(generation, |listing, _| listing.reached(cursor));
            }
            Message::Broken { generation, why, may_retry, missed } => {
                if missed {
                    self.with_listing(generation, |listing, _| listing.forget_position());
                }
                self.broken(generation, why, may_retry);
            }
            Message::Got { .. }
            | Message::Written { .. }
            | Message::Conflict { .. }
            | Message::Transacted { .. }
            | Message::Failed { .. } => self.answered(message),
        }
    }

    fn with_listing(&mut self, generation: u64, change: impl FnOnce(&mut super::Listing, u64)) {
        let now_ms = self.now_ms;
        if let Some(listing) = self.listing.as_mut().filter(|listing| listing.generation == generation) {
            change(listing, now_ms);
        }
    }

    fn connected(&mut self, address: String) {
        self.notice = format!("Connected to {address}");
        self.link = Link::Connected { address };
        let open = self.listing.as_ref().map(|listing| listing.table.clone());
        let table = open.unwrap_or_else(|| self.settings.table.clone());
        if !table.is_empty() {
            self.go_on_with_table(&table);
        }
        if let Some(place) = self.wanted.take() {
            self.open_key(place);
        } else if self
            .editor
            .as_ref()
            .is_some_and(|it| it.waiting == Waiting::Nothing && !it.is_dirty() && !it.is_new)
        {
            // It may have changed while nobody looked.
            self.load_again();
        }
    }

    /// The answers to what was under way will not come.
    fn lose_requests(&mut self) {
        if let Some(editor) = &mut self.editor {
            let failure = match editor.waiting {
                Waiting::Nothing => None,
                Waiting::Load(_) => Some("The connection was lost"),
                Waiting::Save(_) | Waiting::Delete(_) => {
                    Some("The connection was lost: whether this was written is not known. Reload to see")
                }
            };
            if let Some(failure) = failure {
                editor.failed(Some(failure.into()), None);
                self.next = None;
            }
        }
        if self.transaction.waiting.take().is_some() {
            let why = "The connection was lost: whether the transaction was made is not known";
            self.transaction.outcome = Some(Err(why.into()));
        }
    }

    fn changed(&mut self, generation: u64, change: Change) {
        let now_ms = self.now_ms;
        let Some(listing) = self.listing.as_mut().filter(|it| it.generation == generation) else { return };
        listing.change(&change, preview, now_ms);
        let table = listing.table.clone();
        if let Some(editor) =
            self.editor.as_mut().filter(|it| it.place.table == table && it.place.key == **change.key())
        {
            match &change {
                Change::Set(entry) => editor.changed(&entry.version, Some(entry)),
                Change::Deleted { version, .. } => editor.changed(version, None),
            }
        }
        let place = Place { table, key: change.key().to_string() };
        let event = match &change {
            Change::Set(entry) => Event::Set(preview(&entry.value)),
            Change::Deleted { expired: true, .. } => Event::Expired,
            Change::Deleted { expired: false, .. } => Event::Deleted,
        };
        self.changes.push_front(Seen { at_ms: now_ms, place, event });
        self.changes.truncate(CHANGES_MAX);
    }

    fn broken(&mut self, generation: u64, why: String, may_retry: bool) {
        let Some(listing) = self.listing.as_mut().filter(|it| it.generation == generation) else { return };
        if may_retry {
            self.notice = format!("Read again: {why}");
            listing.failed(self.now_ms);
            // The prefix that is typed now is listed when its time has come.
            let (table, listed) = (listing.table.clone(), listing.prefix.clone());
            let (typed, due_ms) = (std::mem::replace(&mut self.filter, listed), self.filter_due_ms);
            self.go_on_with_table(&table);
            (self.filter, self.filter_due_ms) = (typed, due_ms);
        } else {
            listing.progress = Progress::Failed(why);
        }
    }

    /// Takes the answer to a request of the editor or of the transaction.
    fn answered(&mut self, message: Message) {
        match message {
            Message::Transacted { request, outcome } if self.transaction.waiting == Some(request) => {
                self.transaction.waiting = None;
                self.transaction.outcome = Some(Ok(outcome));
            }
            Message::Failed { request, why } if self.transaction.waiting == Some(request) => {
                self.transaction.waiting = None;
                self.transaction.outcome = Some(Err(why));
            }
            Message::Failed { request, why } => {
                if let Some(editor) = self.editor_of(request) {
                    editor.failed(Some(why), None);
                    self.next = None;
                }
            }
            Message::Got { request, entry } => self.got(request, entry),
            Message::Written { request, version, timestamp_ms } => {
                self.written(request, version, timestamp_ms)
            }
            Message::Conflict { request, theirs } => {
                if let Some(editor) = self.editor_of(request) {
                    editor.failed(None, Some(Conflict::new(theirs)));
                    self.next = None;
                }
            }
            // The answer to what nobody waits for any more, or a message that is no answer.
            _ => {}
        }
    }

    /// The editor, if it waits for this request.
    fn editor_of(&mut self, request: u64) -> Option<&mut super::Editor> {
        self.editor.as_mut().filter(|editor| editor.waiting.request() == Some(request))
    }

    fn got(&mut self, request: u64, entry: Option<Entry>) {
        if let Some(editor) = self.editor_of(request) {
            editor.loaded(entry);
        }
    }

    fn written(&mut self, request: u64, version: String, timestamp_ms: u64) {
        let written = self.writing.clone();
        let Some(editor) = self.editor_of(request) else { return };
        let name = format!("{}/{}", editor.place.table, editor.place.key);
        match (editor.waiting, written) {
            (Waiting::Save(_), Some(written)) => {
                editor.written(version, timestamp_ms, &written);
                let place = editor.place.clone();
                self.notice = format!("Saved {name}");
                self.after_save(place);
            }
            (Waiting::Delete(_), _) => {
                self.editor = None;
                self.notice = format!("Deleted {name}");
                if let Some(next) = self.next.take() {
                    self.proceed(next);
                }
            }
            (Waiting::Save(_) | Waiting::Load(_) | Waiting::Nothing, _) => {}
        }
        self.writing = None;
    }

    fn after_save(&mut self, place: crate::message::Place) {
        match self.next.take() {
            // It asks once more if something was typed meanwhile.
            Some(next) => self.go(next),
            None => self.select_place(&place),
        }
        // A write may have made a table.
        if !self.known_tables().iter().any(|table| table.name == place.table) {
            self.send(crate::message::Command::Refresh);
        }
        if self.listing.is_none() && self.is_connected() {
            self.open_table(&place.table);
            self.select_place(&place);
        }
    }
}
