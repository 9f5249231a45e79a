//! The keys of the table that is open: names of all of them, and what rows show of those that were looked at.
//!
//! A listing is numbered; what comes for another number is old and is dropped. The watch begins before the listing, so a change always is
//! newer than what is listed after it, and wins.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use crate::message::{Change, Command, Row};

/// Most keys that are listed. Their names take about 100 MB then; a prefix shows the others.
pub const KEYS_MAX: usize = 1_000_000;
/// Most rows whose contents are kept. Those that are in view are read again.
const DETAILS_MAX: usize = 20_000;
/// Keys that are read at once, beyond those in view.
const AHEAD: usize = 32;
/// Most keys that are read at once.
const DETAILS_AT_ONCE_MAX: usize = 256;
/// How long to wait with the next attempt after reading failed.
const RETRY_MS: u64 = 2000;
/// A watch that lasted so long has gone well: the pause after it is the shortest again.
const LASTED_MS: u64 = 60_000;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The beginning of its value.
    pub preview: String,
    /// The version of which this is; versions sort as text.
    pub version: String,
    /// When it expires.
    pub expires_at_ms: Option<u64>,
    /// When it was seen to change.
    pub changed_ms: Option<u64>,
}

/// How far a listing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Keys are coming.
    Loading,
    /// All keys are there. `is_cut`: all that are listed.
    Loaded {
        /// Whether there are more keys than are listed.
        is_cut: bool,
    },
    /// All keys are there but those of a part of the table that cannot be read.
    Incomplete(String),
    /// It has failed.
    Failed(String),
}

/// Keys whose contents are being read.
#[derive(Clone, Debug)]
struct Asked {
    first: Arc<str>,
    last: Arc<str>,
    count: usize,
}

/// The keys of a table with a prefix.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Its number.
    pub generation: u64,
    /// The table.
    pub table: String,
    /// What the keys begin with.
    pub prefix: String,
    /// How far it is.
    pub progress: Progress,
    keys: Vec<Arc<str>>,
    /// The keys of a listing that began again, until all of them are there. Meanwhile the old ones are shown.
    coming: Option<Vec<Arc<str>>>,
    /// The rows that were in view.
    visible: Range<usize>,
    /// How often in a row it had to begin again.
    attempt: u32,
    /// When all keys were there.
    listed_at_ms: Option<u64>,
    details: HashMap<Arc<str>, Details>,
    /// Keys that changed while the listing was loading.
    changed: HashSet<Arc<str>>,
    /// Up to where changes have come.
    cursor: Option<String>,
    /// The keys whose contents are being read.
    asked: Option<Asked>,
    retry_at_ms: u64,
}

impl Listing {
    /// A listing that begins.
    pub fn new(generation: u64, table: String, prefix: String) -> Self {
        Self {
            generation,
            table,
            prefix,
            progress: Progress::Loading,
            keys: Vec::new(),
            coming: None,
            visible: 0..0,
            attempt: 0,
            listed_at_ms: None,
            details: HashMap::new(),
            changed: HashSet::new(),
            cursor: None,
            asked: None,
            retry_at_ms: 0,
        }
    }

    /// The command that asks for it.
    pub fn command(&self) -> Command {
        let (table, prefix) = (self.table.clone(), self.prefix.clone());
        let goes_on = self.cursor.clone().filter(|_| self.progress == Progress::Loaded { is_cut: false });
        Command::Open { generation: self.generation, table, prefix, attempt: self.attempt, goes_on }
    }

    /// Takes up to where changes have come.
    pub fn reached(&mut self, cursor: String) {
        self.cursor = Some(cursor);
    }

    /// What has changed since may not be all: whatever comes next, it begins again.
    pub fn forget_position(&mut self) {
        self.cursor = None;
    }

    /// Goes on with the changes since, if all keys are there and it is known up to where they have changed; begins again if not.
    pub fn go_on(&mut self, generation: u64, now_ms: u64) {
        if self.cursor.is_none() || self.progress != (Progress::Loaded { is_cut: false }) {
            return self.begin_again(generation);
        }
        self.generation = generation;
        self.listed_at_ms = Some(now_ms);
        self.asked = None;
        self.retry_at_ms = 0;
    }

    /// Begins again. The keys that are there stay until all of the new ones are.
    pub fn begin_again(&mut self, generation: u64) {
        self.generation = generation;
        self.progress = Progress::Loading;
        self.coming = Some(Vec::new());
        self.changed = HashSet::new();
        self.cursor = None;
        self.asked = None;
        self.retry_at_ms = 0;
    }

    /// It has failed, and is to begin again: after a pause that grows each time, unless it went well for long.
    pub fn failed(&mut self, now_ms: u64) {
        let lasted_ms = self.listed_at_ms.take().map_or(0, |at_ms| now_ms.saturating_sub(at_ms));
        self.attempt = if lasted_ms >= LASTED_MS { 0 } else { self.attempt.saturating_add(1) };
    }

    /// The keys, in order.
    pub fn keys(&self) -> &[Arc<str>] {
        &self.keys
    }

    /// What is known of a key.
    pub fn details(&self, key: &str) -> Option<&Details> {
        self.details.get(key)
    }

    /// Where a key stands, if it is listed.
    pub fn position(&self, key: &str) -> Option<usize> {
        self.keys.binary_search_by(|listed| (**listed).cmp(key)).ok()
    }

    /// Takes the next keys, which are in order.
    pub fn add(&mut self, mut page: Vec<Arc<str>>) {
        // A change knows better whether a key is there.
        if !self.changed.is_empty() {
            page.retain(|key| !self.changed.contains(key));
        }
        merge(self.coming.as_mut().unwrap_or(&mut self.keys), page);
    }

    /// The listing has ended.
    pub fn end(&mut self, is_cut: bool, now_ms: u64) {
        self.finish(Progress::Loaded { is_cut }, now_ms);
    }

    /// The listing has ended, and a part of the table cannot be read.
    pub fn end_incomplete(&mut self, why: String, now_ms: u64) {
        self.finish(Progress::Incomplete(why), now_ms);
    }

    fn finish(&mut self, progress: Progress, now_ms: u64) {
        self.progress = progress;
        self.listed_at_ms = Some(now_ms);
        let changed = std::mem::take(&mut self.changed);
        if let Some(keys) = self.coming.take() {
            self.keys = keys;
            // What was read before may be old.
            self.details.retain(|key, _| changed.contains(key));
            self.asked = None;
        }
    }

    /// Takes what rows show. If these are all that were asked for, keys that are not among them have no value any more.
    pub fn fill(&mut self, rows: Vec<Row>, is_all: bool, now_ms: u64) {
        let Some(asked) = self.asked.take() else { return };
        let count = rows.len();
        let last = rows.last().map(|row| Arc::clone(&row.key));
        for row in rows {
            let known = self.details.get(&row.key);
            // A change may have come before this answer, and be newer.
            if known.is_some_and(|known| known.version > row.version) || self.position(&row.key).is_none() {
                continue;
            }
            let changed_ms = known.and_then(|known| known.changed_ms);
            let (preview, version, expires_at_ms) = (row.preview, row.version, row.expires_at_ms);
            self.details.insert(row.key, Details { preview, version, expires_at_ms, changed_ms });
        }
        if count == 0 && !is_all {
            self.retry_at_ms = now_ms + RETRY_MS;
        }
        // An answer that is full ends at its last row.
        let last = match last {
            _ if is_all && count < asked.count => asked.last,
            Some(last) => last.min(asked.last),
            None => return,
        };
        let begin = self.keys.partition_point(|key| *key < asked.first);
        let end = self.keys.partition_point(|key| *key <= last);
        for key in self.keys.get(begin..end).unwrap_or_default() {
            self.details.entry(Arc::clone(key)).or_insert_with(|| Details {
                preview: String::new(),
                version: String::new(),
                expires_at_ms: None,
                changed_ms: None,
            });
        }
    }

    /// Takes a change.
    pub fn change(
        &mut self,
        change: &Change,
        preview: impl FnOnce(&crate::message::Value) -> String,
        now_ms: u64,
    ) {
        let key = change.key();
        if !key.starts_with(&*self.prefix) {
            return;
        }
        if self.progress == Progress::Loading {
            self.changed.insert(Arc::clone(key));
        }
        let is_cut = self.progress == Progress::Loaded { is_cut: true };
        match change {
            Change::Set(entry) => {
                if let Some(coming) = &mut self.coming {
                    insert(coming, key, is_cut);
                }
                if !insert(&mut self.keys, key, is_cut) {
                    // Once others are deleted there would be room for it.
                    if matches!(self.progress, Progress::Loaded { .. }) {
                        self.progress = Progress::Loaded { is_cut: true };
                    }
                    return;
                }
                self.bound_details();
                let details = Details {
                    preview: preview(&entry.value),
                    version: entry.version.clone(),
                    expires_at_ms: entry.expires_at_ms,
                    changed_ms: Some(now_ms),
                };
                self.details.insert(Arc::clone(key), details);
            }
            Change::Deleted { .. } => {
                for keys in self.coming.iter_mut().chain([&mut self.keys]) {
                    if let Ok(at) = keys.binary_search(key) {
                        keys.remove(at);
                    }
                }
                self.details.remove(key);
            }
        }
    }

    /// What to ask for, so that the rows in view show something. Once at a time.
    pub fn look(&mut self, visible: Range<usize>, now_ms: u64) -> Option<Command> {
        let visible = visible.start.min(self.keys.len())..visible.end.min(self.keys.len());
        self.visible = visible.clone();
        self.bound_details();
        if self.asked.is_some() || now_ms < self.retry_at_ms || self.is_failed() {
            return None;
        }
        let first = visible.clone().find(|at| !self.details.contains_key(&self.keys[*at]))?;
        let end = (visible.end + AHEAD).min(first + DETAILS_AT_ONCE_MAX).min(self.keys.len());
        let start = Arc::clone(&self.keys[first]);
        let last = Arc::clone(&self.keys[end - 1]);
        self.asked = Some(Asked { first: Arc::clone(&start), last, count: end - first });
        Some(Command::Details {
            generation: self.generation,
            table: self.table.clone(),
            prefix: self.prefix.clone(),
            start,
            count: end - first,
        })
    }

    /// Keeps what is known of the rows in view, once there is too much.
    fn bound_details(&mut self) {
        if self.details.len() < DETAILS_MAX {
            return;
        }
        let visible = self.visible.start.min(self.keys.len())..self.visible.end.min(self.keys.len());
        let keep: HashSet<&Arc<str>> = self.keys[visible].iter().collect();
        self.details.retain(|key, _| keep.contains(key));
    }

    fn is_failed(&self) -> bool {
        matches!(self.progress, Progress::Failed(_))
    }
}

/// Adds a page to keys, both in order. Only keys behind the first of the page are moved: those that changes have put there.
fn merge(keys: &mut Vec<Arc<str>>, page: Vec<Arc<str>>) {
    let Some(first) = page.first() else { return };
    let at = keys.partition_point(|key| key < first);
    let mut behind = keys.split_off(at).into_iter().peekable();
    for key in page {
        while let Some(other) = behind.next_if(|other| *other < key) {
            keys.push(other);
        }
        if behind.peek() != Some(&key) && keys.last() != Some(&key) {
            keys.push(key);
        }
    }
    keys.extend(behind);
}

/// Puts a key where it belongs; whether it is listed. A key behind the end of a listing that is cut is not.
fn insert(keys: &mut Vec<Arc<str>>, key: &Arc<str>, is_cut: bool) -> bool {
    let Err(at) = keys.binary_search(key) else { return true };
    if (is_cut && at == keys.len()) || keys.len() >= KEYS_MAX {
        return false;
    }
    keys.insert(at, Arc::clone(key));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Entry, Value};

    fn key(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    fn set(name: &str, json: &str) -> Change {
        Change::Set(Entry {
            key: key(name),
            value: Value::Json(json.into()),
            version: "v".into(),
            timestamp_ms: 1,
            expires_at_ms: None,
        })
    }

    fn deleted(name: &str) -> Change {
        Change::Deleted { key: key(name), version: "v".into(), timestamp_ms: 1, expired: false }
    }

    fn preview(value: &Value) -> String {
        format!("{value:?}")
    }

    fn names(listing: &Listing) -> Vec<&str> {
        listing.keys().iter().map(|key| &**key).collect()
    }

    #[test]
    fn a_change_knows_better_than_a_listing_that_began_before_it() {
        let mut listing = Listing::new(1, "t".into(), String::new());
        listing.add(vec![key("a"), key("c")]);
        listing.change(&deleted("e"), preview, 5);
        listing.change(&set("d", "1"), preview, 5);
        listing.change(&set("z", "1"), preview, 5);
        listing.change(&deleted("a"), preview, 5);
        // Read before e was deleted, and before d was there.
        listing.add(vec![key("e"), key("f")]);
        listing.end(false, 0);
        assert_eq!(names(&listing), ["c", "d", "f", "z"]);
        listing.change(&set("e", "1"), preview, 5);
        assert_eq!(names(&listing), ["c", "d", "e", "f", "z"]);
        assert_eq!(listing.position("e"), Some(2));
        assert_eq!(listing.details("e").and_then(|details| details.changed_ms), Some(5));
    }

    #[test]
    fn only_rows_in_view_are_read_and_once_at_a_time() {
        let mut listing = Listing::new(7, "t".into(), String::new());
        listing.add((0..100_000).map(|at| key(&format!("k{at:06}"))).collect());
        listing.end(false, 0);
        let asked = listing.look(50_000..50_040, 0).expect("nothing is known yet");
        let Command::Details { start, count, generation: 7, .. } = asked else { panic!("{asked:?}") };
        assert_eq!((&*start, count), ("k050000", 40 + AHEAD));
        assert_eq!(listing.look(60_000..60_040, 0), None, "one at a time");
        let row = |at: usize| Row {
            key: key(&format!("k{at:06}")),
            preview: "1".into(),
            version: "v".into(),
            expires_at_ms: None,
        };
        listing.fill((50_000..50_010).map(row).collect(), false, 0);
        let asked = listing.look(50_000..50_040, 0);
        assert!(matches!(&asked, Some(Command::Details { start, .. }) if &**start == "k050010"), "{asked:?}");
        // One that is not in the answer is gone, and is not asked for again.
        listing.fill((50_011..50_080).map(row).collect(), true, 0);
        assert_eq!(listing.look(50_000..50_040, 0), None);
        // A failure is not tried again at once.
        assert!(listing.look(0..10, 0).is_some());
        listing.fill(Vec::new(), false, 0);
        assert_eq!(listing.look(0..10, RETRY_MS - 1), None);
        assert!(listing.look(0..10, RETRY_MS).is_some());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut listing = Listing::new(1, "t".into(), String::new());
        listing.add((0..30_000).map(|at| key(&format!("k{at:06}"))).collect());
        listing.end(true, 0);
        for at in 0..30_000 {
            listing.change(&set(&format!("k{at:06}"), "1"), preview, 0);
            if at == 9 {
                listing.look(0..10, 0);
            }
            assert!(listing.details.len() <= DETAILS_MAX, "also where nobody draws frames");
        }
        assert!((0..10).all(|at| listing.details(&format!("k{at:06}")).is_some()), "those in view stay");
        listing.change(&set("z", "1"), preview, 0);
        assert_eq!(listing.position("z"), None, "behind the end of what is listed");
    }
    #[test]
    fn old_rows_stay_until_a_listing_that_began_again_is_complete() {
        let mut listing = Listing::new(1, "t".into(), String::new());
        listing.add(vec![key("a"), key("b")]);
        listing.end(false, 0);
        listing.failed(10);
        assert!(matches!(listing.command(), Command::Open { attempt: 1, .. }));
        listing.begin_again(2);
        listing.add(vec![key("b"), key("c")]);
        listing.change(&set("d", "1"), preview, 0);
        listing.change(&deleted("b"), preview, 0);
        assert_eq!(names(&listing), ["a", "d"]);
        listing.add(vec![key("e")]);
        listing.end(false, 20);
        assert_eq!(names(&listing), ["c", "d", "e"]);
        assert!(listing.details("d").is_some());
        listing.failed(30);
        assert!(matches!(listing.command(), Command::Open { attempt: 2, .. }));
        listing.begin_again(3);
        listing.end(false, 40);
        listing.failed(40 + LASTED_MS);
        assert!(matches!(listing.command(), Command::Open { attempt: 0, .. }), "it went well for long");
    }

    /// Each page sorted all keys again once a change had come; now only what stands behind the page's first key is moved.
    #[test]
    fn pages_are_merged_with_keys_that_changes_brought() {
        let mut listing = Listing::new(1, "t".into(), String::new());
        for name in ["b", "m", "z"] {
            listing.change(&set(name, "1"), preview, 0);
        }
        listing.add(vec![key("a"), key("b"), key("c")]);
        listing.add(vec![key("c"), key("l"), key("n")]);
        listing.end(false, 0);
        assert_eq!(names(&listing), ["a", "b", "c", "l", "m", "n", "z"]);
    }

    #[test]
    fn what_is_read_late_overwrites_nothing_newer() {
        let mut listing = Listing::new(1, "t".into(), String::new());
        listing.add(vec![key("a"), key("c"), key("d")]);
        listing.end(false, 0);
        assert!(listing.look(0..2, 0).is_some());
        listing.change(&set("a", "new"), preview, 5);
        listing.change(&set("b", "1"), preview, 5);
        let row = |name: &str| Row {
            key: key(name),
            preview: "old".into(),
            version: "u".into(),
            expires_at_ms: None,
        };
        listing.fill(vec![row("a")], true, 0);
        let shown = |listing: &Listing, name: &str| listing.details(name).map(|it| it.preview.clone());
        assert!(shown(&listing, "a").is_some_and(|it| it.contains("new")));
        assert_eq!(shown(&listing, "c").as_deref(), Some(""), "it was asked for, and has no value");
        listing.add(vec![key("e"), key("f")]);
        // An answer that is full says nothing of keys behind its last row.
        assert!(listing.look(4..6, 0).is_some());
        listing.fill(vec![row("dd"), row("e")], true, 0);
        assert_eq!(shown(&listing, "f"), None);
    }
}
