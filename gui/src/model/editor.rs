//! One key and its value while it is edited. A write is guarded by the version that was read, so that nobody's change is lost unseen: what
//! somebody else wrote meanwhile is shown beside what is in the editor.

use super::{json, time};
use crate::message::{Entry, Expiry, Guard, Place, Value};

/// The longest text that can be edited here. A longer one is shown in part.
pub const EDIT_BYTES_MAX: usize = 1024 * 1024;
/// So many bytes of a value that is no JSON are shown.
const HEX_BYTES_MAX: usize = 4096;

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
    /// Whether the next deletion was asked for once, and is to be confirmed.
    pub confirms_deletion: bool,
    /// The text as it was read, or written last.
    clean: String,
    /// What the key was seen to become while a write was on its way; `Some(None)` if it was deleted.
    seen: Option<Option<Entry>>,
    /// What was found out about a text, so that it is not parsed in each frame.
    checked: (String, Result<(), json::Mark>),
}

impl Editor {
    /// A key that is to be read.
    pub fn load(place: Place, request: u64) -> Self {
        Self {
            waiting: Waiting::Load(request),
            is_new: false,
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
            clean: String::new(),
            seen: None,
            checked: (text.clone(), checked),
            text,
            lifetime: Lifetime::Forever,
            waiting: Waiting::Nothing,
            conflict: None,
            failure: None,
            confirms_deletion: false,
        }
    }

    /// Takes a value as the one that is edited, in place of all that was typed.
    pub fn take(&mut self, entry: Option<Entry>) {
        self.conflict = None;
        self.failure = None;
        self.confirms_deletion = false;
        self.waiting = Waiting::Nothing;
        self.seen = None;
        self.lifetime = match entry.as_ref().and_then(|entry| entry.expires_at_ms) {
            Some(_) => Lifetime::Keep,
            None => Lifetime::Forever,
        };
        self.text = entry.as_ref().map(|entry| shown(&entry.value)).unwrap_or_default();
        self.clean.clone_from(&self.text);
        self.is_new = entry.is_none();
        self.base = entry;
    }

    /// Whether something was typed that is not written.
    pub fn is_dirty(&self) -> bool {
        let lifetime = match self.base.as_ref().and_then(|base| base.expires_at_ms) {
            Some(_) => Lifetime::Keep,
            None => Lifetime::Forever,
        };
        self.text != self.clean || self.lifetime != lifetime
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
        Ok((self.text.clone(), expiry, guard))
    }

    /// The write was made: what is in the editor is now what is there.
    pub fn written(&mut self, version: String, timestamp_ms: u64, written: &(String, Expiry)) {
        let (text, expiry) = written;
        let expires_at_ms = match expiry {
            Expiry::Never => None,
            Expiry::At(at_ms) => Some(*at_ms),
            Expiry::After(ms) => Some(timestamp_ms + ms),
        };
        let key = self.place.key.as_str().into();
        let value = Value::Json(text.clone());
        self.base = Some(Entry { key, value, version, timestamp_ms, expires_at_ms });
        self.clean.clone_from(text);
        self.lifetime = if expires_at_ms.is_some() { Lifetime::Keep } else { Lifetime::Forever };
        self.is_new = false;
        self.conflict = None;
        self.failure = None;
        self.waiting = Waiting::Nothing;
        if let Some(seen) = self.seen.take() {
            self.changed(seen.as_ref());
        }
    }

    /// A request has failed, or its guard did not hold.
    pub fn failed(&mut self, failure: Option<String>, conflict: Option<Conflict>) {
        self.waiting = Waiting::Nothing;
        self.seen = None;
        self.failure = failure;
        self.conflict = conflict.or(self.conflict.take());
    }

    /// The key is now so, as somebody else wrote it. What was not touched follows; what was typed stays, beside theirs.
    pub fn changed(&mut self, theirs: Option<&Entry>) {
        let known = self.base.as_ref().map(|base| base.version.as_str());
        if matches!(self.waiting, Waiting::Load(_)) || known == theirs.map(|entry| entry.version.as_str()) {
            return;
        }
        // It may be our own write, whose answer is on its way.
        if matches!(self.waiting, Waiting::Save(_) | Waiting::Delete(_)) {
            self.seen = Some(theirs.cloned());
            return;
        }
        if self.is_dirty() || self.is_new {
            self.conflict = Some(Conflict { theirs: theirs.cloned() });
        } else {
            self.take(theirs.cloned());
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

    /// Takes what somebody else wrote, and drops what was typed.
    pub fn take_theirs(&mut self) {
        if let Some(conflict) = self.conflict.take() {
            self.take(conflict.theirs);
        }
    }
}

/// A value as the editor shows it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Json(text) if text.len() > EDIT_BYTES_MAX => {
            let end = (0..=EDIT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            format!("{}\u{2026}", &text[..end])
        }
        Value::Json(text) => json::format(text),
        Value::Bytes(bytes) => hex(&bytes[..bytes.len().min(HEX_BYTES_MAX)], bytes.len() > HEX_BYTES_MAX),
    }
}

/// Bytes in lines of sixteen.
fn hex(bytes: &[u8], is_cut: bool) -> String {
    let line = |line: &[u8]| {
        let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.join(" ")
    };
    let mut lines: Vec<String> = bytes.chunks(16).map(line).collect();
    if is_cut {
        lines.push("\u{2026}".into());
    }
    lines.join("\n")
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
        editor.take(Some(entry));
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
        editor.changed(Some(&entry("2", "v2")));
        assert_eq!((editor.text.as_str(), editor.conflict.is_none()), ("2", true));
        editor.text = "3".into();
        editor.changed(Some(&entry("2", "v2")));
        assert_eq!(editor.conflict, None, "it is known already");
        editor.changed(Some(&entry("4", "v4")));
        assert_eq!(editor.text, "3");
        assert_eq!(editor.conflict, Some(Conflict { theirs: Some(entry("4", "v4")) }));
        let mut theirs = editor.clone();
        theirs.take_theirs();
        assert_eq!((theirs.text.as_str(), theirs.is_dirty()), ("4", false));
        editor.keep_mine();
        assert_eq!(editor.write(), Ok(("3".into(), Expiry::Never, Guard::Version("v4".into()))));
        editor.changed(None);
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
}
