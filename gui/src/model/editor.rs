//! One key and its value while it is edited. A write is guarded by the version that was read, so that nobody's change is lost unseen: what
//! somebody else wrote meanwhile is shown beside what is in the editor.

use super::{
    json, time,
    value::{EDIT_BYTES_MAX, shown},
};
use crate::message::{Entry, Expiry, Guard, Place, Value};

/// How long a deletion can be confirmed after it was asked for.
const CONFIRM_MS: u64 = 5000;

/// When the value is to expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Never.
    Forever,
    /// When it expires already.
    Keep,
    /// After a time to live, as it is typed.
    Ttl(String),
}

impl Lifetime {
    /// That of what is there, unchanged.
    fn of(entry: Option<&Entry>) -> Self {
        match entry.and_then(|entry| entry.expires_at_ms) {
            Some(_) => Self::Keep,
            None => Self::Forever,
        }
    }
}

/// What the editor waits for, by the number of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing.
    Nothing,
    /// The value.
    Load(u64),
    /// A write.
    Save(u64),
    /// A deletion.
    Delete(u64),
}

impl Waiting {
    /// The request.
    pub fn request(self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Load(request) | Self::Save(request) | Self::Delete(request) => Some(request),
        }
    }
}

/// What somebody else wrote since the value was read; `None` if it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key as it is now.
    pub theirs: Option<Entry>,
    /// Its value as it is shown, made once and not in each frame.
    pub text: String,
}

impl Conflict {
    /// The key as it is now.
    pub fn new(theirs: Option<Entry>) -> Self {
        let text = theirs.as_ref().map_or_else(|| "(deleted)".to_owned(), |entry| shown(&entry.value));
        Self { theirs, text }
    }
}

/// A deletion that was asked for once, and is to be confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Confirming {
    until_ms: u64,
    text: String,
}

/// A change that was seen while the editor waited for an answer.
#[derive(Clone, Debug)]
struct Held {
    version: String,
    entry: Option<Entry>,
}

/// A key that is edited.
#[derive(Clone, Debug)]
pub struct Editor {
    /// Which. The key of a new one can still be typed.
    pub place: Place,
    /// Whether the key is new: its name can be typed.
    pub is_new: bool,
    /// What was read, or written last.
    pub base: Option<Entry>,
    /// The text.
    pub text: String,
    /// When it is to expire.
    pub lifetime: Lifetime,
    /// What it waits for.
    pub waiting: Waiting,
    /// What somebody else wrote meanwhile.
    pub conflict: Option<Conflict>,
    /// Why the last request failed.
    pub failure: Option<String>,
    confirming: Option<Confirming>,
    /// The text as it was read, or written last.
    clean: String,
    /// Whether the user began this key, rather than opened it.
    is_begun: bool,
    /// The newest version that was seen of the key; versions sort as text.
    newest: String,
    /// The newest change that was seen while a read or a write was on its way.
    held: Option<Held>,
    /// What was found out about a text, so that it is not parsed in each frame.
    checked: (String, Result<(), json::Mark>),
}

impl Editor {
    /// A key that is to be read.
    pub fn load(place: Place, request: u64) -> Self {
        Self {
            waiting: Waiting::Load(request),
            is_new: false,
            is_begun: false,
            ..Self::create(place.table, String::new(), place.key)
        }
    }

    /// A new key.
    pub fn create(table: String, text: String, key: String) -> Self {
        let checked = json::check(&text);
        Self {
            place: Place { table, key },
            is_new: true,
            base: None,
            clean: text.clone(),
            is_begun: true,
            newest: String::new(),
            held: None,
            checked: (text.clone(), checked),
            text,
            lifetime: Lifetime::Forever,
            waiting: Waiting::Nothing,
            conflict: None,
            failure: None,
            confirming: None,
        }
    }

    /// Reads the key again, and shows what is there until the answer comes.
    pub fn read_again(&mut self, request: u64) {
        self.waiting = Waiting::Load(request);
    }

    /// Takes the answer to a read. What was typed meanwhile stays, beside a value that is another.
    pub fn loaded(&mut self, entry: Option<Entry>) {
        self.waiting = Waiting::Nothing;
        if self.is_dirty() || self.is_begun {
            self.failure = None;
            let version = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.version.clone());
            if version(&entry) != version(&self.base) {
                self.note(&version(&entry).unwrap_or_default());
                self.conflict = Some(Conflict::new(entry));
            }
        } else {
            let is_gone = entry.is_none();
            self.take(entry);
            self.failure = is_gone.then(|| "There is no value: it was deleted, or has expired".to_owned());
        }
        self.hear_held();
    }

    /// Whether a deletion was asked for, and nothing was typed since. It lapses after a while.
    pub fn confirms_deletion(&self, now_ms: u64) -> bool {
        self.confirming.as_ref().is_some_and(|it| now_ms < it.until_ms && it.text == self.text)
    }

    /// Asks whether the key is really to be deleted.
    pub fn ask_deletion(&mut self, now_ms: u64) {
        let until_ms = now_ms + CONFIRM_MS;
        self.confirming = Some(Confirming { until_ms, text: self.text.clone() });
    }

    /// Asks no longer.
    pub fn keep(&mut self) {
        self.confirming = None;
    }

    /// Whether there is something to write: what was typed, or a new key.
    pub fn has_to_save(&self) -> bool {
        self.is_dirty() || self.is_new
    }

    /// Whether it waits for an answer that comes before anything else. A key that is read again can be written.
    pub fn is_busy(&self) -> bool {
        match self.waiting {
            Waiting::Nothing => false,
            Waiting::Load(_) => self.base.is_none() && !self.is_new,
            Waiting::Save(_) | Waiting::Delete(_) => true,
        }
    }

    fn note(&mut self, version: &str) {
        if *version > *self.newest {
            version.clone_into(&mut self.newest);
        }
    }

    /// Takes a value as the one that is edited, in place of all that was typed.
    pub fn take(&mut self, entry: Option<Entry>) {
        self.conflict = None;
        self.failure = None;
        self.confirming = None;
        self.is_begun = false;
        self.note(&entry.as_ref().map(|entry| entry.version.clone()).unwrap_or_default());
        self.lifetime = Lifetime::of(entry.as_ref());
        self.text = entry.as_ref().map(|entry| shown(&entry.value)).unwrap_or_default();
        self.clean.clone_from(&self.text);
        self.is_new = entry.is_none();
        self.base = entry;
    }

    /// Whether something was typed that is not written.
    pub fn is_dirty(&self) -> bool {
        self.text != self.clean || self.lifetime != Lifetime::of(self.base.as_ref())
    }

    /// Why the text cannot be edited, if it cannot.
    pub fn read_only(&self) -> Option<String> {
        match &self.base.as_ref()?.value {
            Value::Bytes(bytes) => Some(format!("{} bytes that are no JSON, in hexadecimal", bytes.len())),
            Value::Json(text) if text.len() > EDIT_BYTES_MAX => Some(format!(
                "{} bytes: values of more than {EDIT_BYTES_MAX} are not edited here",
                text.len()
            )),
            Value::Json(_) => None,
        }
    }

    /// Whether the text is JSON.
    ///
    /// # Errors
    /// Where it is not.
    pub fn check(&mut self) -> Result<(), json::Mark> {
        if self.checked.0 != self.text {
            self.checked = (self.text.clone(), json::check(&self.text));
        }
        self.checked.1.clone()
    }

    /// Indents the text, if it is JSON.
    pub fn format(&mut self) {
        if self.read_only().is_none() && self.check().is_ok() {
            self.text = json::format(&self.text);
        }
    }

    /// What is to be written: the text, when it expires, and the guard.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn write(&mut self) -> Result<(String, Expiry, Guard), String> {
        if self.place.table.is_empty() || self.place.key.is_empty() {
            return Err("name the table and the key".into());
        }
        if let Some(why) = self.read_only() {
            return Err(why);
        }
        self.check().map_err(|mark| format!("line {}, column {}: {}", mark.line, mark.column, mark.why))?;
        let kept = self.base.as_ref().and_then(|base| base.expires_at_ms);
        let expiry = match (&self.lifetime, kept) {
            (Lifetime::Forever, _) | (Lifetime::Keep, None) => Expiry::Never,
            (Lifetime::Keep, Some(at_ms)) => Expiry::At(at_ms),
            (Lifetime::Ttl(text), _) => Expiry::After(time::parse_ttl(text)?),
        };
        let guard = self.base.as_ref().map_or(Guard::Absent, |base| Guard::Version(base.version.clone()));
        Ok((json::compact(&self.text), expiry, guard))
    }

    /// The write was made, of this text: what is in the editor is now what is there.
    pub fn written(&mut self, version: String, timestamp_ms: u64, written: &(String, Expiry)) {
        let (text, expiry) = written;
        let expires_at_ms = match expiry {
            Expiry::Never => None,
            Expiry::At(at_ms) => Some(*at_ms),
            Expiry::After(ms) => Some(timestamp_ms + ms),
        };
        let key = self.place.key.as_str().into();
        let value = Value::Json(json::compact(text));
        self.note(&version);
        self.base = Some(Entry { key, value, version, timestamp_ms, expires_at_ms });
        self.clean.clone_from(text);
        self.lifetime = Lifetime::of(self.base.as_ref());
        (self.is_new, self.is_begun) = (false, false);
        self.conflict = None;
        self.failure = None;
        self.confirming = None;
        self.waiting = Waiting::Nothing;
        self.hear_held();
    }

    /// Hears of the change that came while an answer was awaited.
    fn hear_held(&mut self) {
        if let Some(held) = self.held.take() {
            self.changed(&held.version, held.entry.as_ref());
        }
    }

    /// A request has failed, or its guard did not hold.
    pub fn failed(&mut self, failure: Option<String>, conflict: Option<Conflict>) {
        self.waiting = Waiting::Nothing;
        self.failure = failure;
        if let Some(theirs) = conflict.as_ref().and_then(|conflict| conflict.theirs.as_ref()) {
            self.note(&theirs.version.clone());
        }
        self.conflict = conflict.or(self.conflict.take());
        self.hear_held();
    }

    /// The key is now so, as somebody else wrote it. What was not touched follows; what was typed stays, beside theirs. A change that is older
    /// than what was seen already came late, and is nothing new.
    pub fn changed(&mut self, version: &str, theirs: Option<&Entry>) {
        // A value that expires keeps its version.
        let is_known = match theirs {
            Some(_) => version <= self.newest.as_str(),
            None => version < self.newest.as_str() || (version == self.newest && self.is_absent()),
        };
        if is_known {
            return;
        }
        // It may be our own write, whose answer is on its way.
        if self.waiting != Waiting::Nothing {
            if self.held.as_ref().is_none_or(|held| *held.version <= *version) {
                self.held = Some(Held { version: version.to_owned(), entry: theirs.cloned() });
            }
            return;
        }
        self.note(version);
        if self.is_dirty() || self.is_begun {
            self.conflict = Some(Conflict::new(theirs.cloned()));
        } else {
            self.take(theirs.cloned());
        }
    }

    /// Whether the key has no value as far as is known.
    fn is_absent(&self) -> bool {
        match &self.conflict {
            Some(conflict) => conflict.theirs.is_none(),
            None => self.base.is_none(),
        }
    }

    /// Goes on with what was typed, over what somebody else wrote.
    pub fn keep_mine(&mut self) {
        if let Some(conflict) = self.conflict.take() {
            self.base = conflict.theirs;
            self.clean = self.base.as_ref().map(|base| shown(&base.value)).unwrap_or_default();
            self.is_new = self.base.is_none();
            if self.lifetime == Lifetime::Keep
                && self.base.as_ref().is_none_or(|base| base.expires_at_ms.is_none())
            {
                self.lifetime = Lifetime::Forever;
            }
        }
    }

    /// Drops what was typed, for the newest that is known of the key; whether there is anything.
    pub fn revert(&mut self) -> bool {
        match (self.conflict.take(), self.base.clone()) {
            (Some(conflict), _) => self.take(conflict.theirs),
            (None, Some(base)) => self.take(Some(base)),
            (None, None) => return false,
        }
        true
    }

    /// Takes what somebody else wrote, and drops what was typed.
    pub fn take_theirs(&mut self) {
        if let Some(conflict) = self.conflict.take() {
            self.take(conflict.theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str, version: &str) -> Entry {
        Entry {
            key: "k".into(),
            value: Value::Json(json.into()),
            version: version.into(),
            timestamp_ms: 1000,
            expires_at_ms: None,
        }
    }

    fn loaded(entry: Entry) -> Editor {
        let mut editor = Editor::load(Place { table: "t".into(), key: "k".into() }, 1);
        editor.loaded(Some(entry));
        editor
    }

    #[test]
    fn a_write_is_guarded_by_what_was_read() {
        let mut editor = loaded(entry("{\"a\":1}", "v1"));
        assert!(!editor.is_dirty());
        assert_eq!(editor.text, "{\n  \"a\": 1\n}");
        editor.text = "[1,".into();
        assert!(editor.is_dirty());
        assert!(
            editor.write().is_err_and(|why| why.starts_with("line 1, column 3")),
            "wrong JSON is not sent"
        );
        editor.text = "[1]".into();
        assert_eq!(editor.write(), Ok(("[1]".into(), Expiry::Never, Guard::Version("v1".into()))));
        editor.written("v2".into(), 5000, &("[1]".into(), Expiry::After(1000)));
        assert!(!editor.is_dirty());
        assert_eq!(editor.base.as_ref().and_then(|base| base.expires_at_ms), Some(6000));
        // The time to live of a value is kept when only the value is changed.
        editor.text = "[2]".into();
        assert_eq!(editor.write(), Ok(("[2]".into(), Expiry::At(6000), Guard::Version("v2".into()))));
        let mut new = Editor::create("t".into(), "1".into(), String::new());
        assert!(new.write().is_err());
        new.place.key = "k".into();
        assert_eq!(new.write(), Ok(("1".into(), Expiry::Never, Guard::Absent)));
        new.lifetime = Lifetime::Ttl("soon".into());
        assert!(new.write().is_err());
    }

    #[test]
    fn a_change_of_somebody_else_is_followed_or_shown_beside_what_was_typed() {
        let mut editor = loaded(entry("1", "v1"));
        editor.changed("v2", Some(&entry("2", "v2")));
        assert_eq!((editor.text.as_str(), editor.conflict.is_none()), ("2", true));
        editor.text = "3".into();
        editor.changed("v2", Some(&entry("2", "v2")));
        assert_eq!(editor.conflict, None, "it is known already");
        editor.changed("v4", Some(&entry("4", "v4")));
        assert_eq!(editor.text, "3");
        assert_eq!(editor.conflict, Some(Conflict::new(Some(entry("4", "v4")))));
        let mut theirs = editor.clone();
        theirs.take_theirs();
        assert_eq!((theirs.text.as_str(), theirs.is_dirty()), ("4", false));
        editor.keep_mine();
        assert_eq!(editor.write(), Ok(("3".into(), Expiry::Never, Guard::Version("v4".into()))));
        editor.changed("v5", None);
        editor.keep_mine();
        assert_eq!(editor.write().map(|written| written.2), Ok(Guard::Absent), "deleted meanwhile");
    }

    #[test]
    fn bytes_and_long_values_are_shown_and_not_edited() {
        let bytes = Entry { value: Value::Bytes(vec![0, 255, 16]), ..entry("", "v") };
        let mut editor = loaded(bytes);
        assert_eq!(editor.text, "00 ff 10");
        assert!(editor.write().is_err_and(|why| why.contains("3 bytes")));
        let long = format!("\"{}\"", "\u{e9}".repeat(EDIT_BYTES_MAX));
        let mut editor = loaded(entry(&long, "v"));
        assert!(editor.text.len() < EDIT_BYTES_MAX + 8);
        assert!(editor.write().is_err());
    }
    /// Versions were compared for equality only, so a change that came late put an older value into the editor.
    #[test]
    fn a_change_that_comes_late_is_nothing_new() {
        let mut editor = loaded(entry("3", "v3"));
        editor.changed("v2", Some(&entry("2", "v2")));
        editor.changed("v1", None);
        assert_eq!((editor.text.as_str(), &editor.conflict), ("3", &None));
        editor.text = "mine".into();
        editor.changed("v2", Some(&entry("2", "v2")));
        assert_eq!(editor.conflict, None);
        editor.text = "3".into();
        // A value that expires keeps its version.
        editor.changed("v3", None);
        assert!(editor.base.is_none());
        // Nobody typed anything: the key that is made again is followed.
        editor.changed("v4", Some(&entry("4", "v4")));
        assert_eq!((editor.text.as_str(), &editor.conflict), ("4", &None));
    }

    #[test]
    fn a_read_again_keeps_what_was_typed_and_shows_what_is_there() {
        let mut editor = loaded(entry("1", "v1"));
        editor.read_again(2);
        editor.text = "2".into();
        editor.changed("v3", Some(&entry("3", "v3")));
        editor.loaded(Some(entry("1", "v1")));
        assert_eq!(editor.conflict, Some(Conflict::new(Some(entry("3", "v3")))), "seen while it was read");
        let mut editor = loaded(entry("1", "v1"));
        editor.text = "2".into();
        editor.read_again(2);
        editor.loaded(Some(entry("1", "v1")));
        assert_eq!((editor.text.as_str(), &editor.conflict), ("2", &None));
        editor.read_again(3);
        editor.loaded(None);
        assert_eq!(editor.conflict, Some(Conflict::new(None)));
        // What was typed is given up while the key is read: for what is there, not for what was there.
        let mut editor = loaded(entry("1", "v1"));
        editor.text = "2".into();
        editor.changed("v2", Some(&entry("5", "v2")));
        editor.read_again(4);
        editor.changed("v3", Some(&entry("6", "v3")));
        assert!(editor.revert());
        assert_eq!(editor.text, "5");
        editor.loaded(Some(entry("5", "v2")));
        assert_eq!((editor.text.as_str(), editor.is_dirty()), ("6", false));
    }

    #[test]
    fn json_is_written_without_the_indent_of_the_editor() {
        let mut editor = loaded(entry("{\"a\":[1,\" b \"]}", "v1"));
        editor.text.push('\n');
        let (json, ..) = editor.write().expect("JSON");
        assert_eq!(json, "{\"a\":[1,\" b \"]}");
        editor.written("v2".into(), 5, &(editor.text.clone(), Expiry::Never));
        assert!(!editor.is_dirty());
    }
}
