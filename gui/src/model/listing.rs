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

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The beginning of its value.
    pub preview: String,
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
    /// It has failed.
    Failed(String),
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
    details: HashMap<Arc<str>, Details>,
    /// Keys that changed while the listing was loading.
    changed: HashSet<Arc<str>>,
    /// The keys whose contents are being read.
    asked: Option<Range<usize>>,
    asked_from: Option<Arc<str>>,
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
            details: HashMap::new(),
            changed: HashSet::new(),
            asked: None,
            asked_from: None,
            retry_at_ms: 0,
        }
    }

    /// The command that asks for it.
    pub fn command(&self) -> Command {
        let (table, prefix) = (self.table.clone(), self.prefix.clone());
        Command::Open { generation: self.generation, table, prefix }
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

    /// Takes the next keys.
    pub fn add(&mut self, keys: Vec<Arc<str>>) {
        let is_later = |key: &Arc<str>| self.keys.last().is_none_or(|last| last < key);
        if self.changed.is_empty() && keys.first().is_none_or(is_later) {
            self.keys.extend(keys);
            return;
        }
        // A change may have put a key behind these, and knows better whether a key is there.
        let changed = &self.changed;
        self.keys.extend(keys.into_iter().filter(|key| !changed.contains(key)));
        // Two runs that are sorted already: a stable sort only merges them.
        self.keys.sort();
        self.keys.dedup();
    }

    /// The listing has ended.
    pub fn end(&mut self, is_cut: bool) {
        self.progress = Progress::Loaded { is_cut };
        self.changed = HashSet::new();
    }

    /// Takes what rows show. If these are all that were asked for, keys that are not among them have no value any more.
    pub fn fill(&mut self, rows: Vec<Row>, is_all: bool, now_ms: u64) {
        let asked = self.asked.take();
        let is_empty = rows.is_empty();
        let last = rows.last().map(|row| Arc::clone(&row.key));
        for row in rows {
            let changed_ms = self.details.get(&row.key).and_then(|known| known.changed_ms);
            let details = Details { preview: row.preview, expires_at_ms: row.expires_at_ms, changed_ms };
            if self.position(&row.key).is_some() {
                self.details.insert(row.key, details);
            }
        }
        if is_empty && !is_all {
            self.retry_at_ms = now_ms + RETRY_MS;
        }
        let (Some(asked), Some(from)) = (asked, self.asked_from.take()) else { return };
        let begin = self.keys.partition_point(|key| *key < from);
        let end = match last {
            _ if is_all => (begin + asked.len()).min(self.keys.len()),
            Some(last) => self.keys.partition_point(|key| *key <= last),
            None => begin,
        };
        for key in self.keys.get(begin..end).unwrap_or_default() {
            let gone = || Details { preview: String::new(), expires_at_ms: None, changed_ms: None };
            self.details.entry(Arc::clone(key)).or_insert_with(gone);
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
        let found = self.keys.binary_search(key);
        match change {
            Change::Set(entry) => {
                if let Err(at) = found {
                    // A key behind the end of a cut listing is not listed.
                    let is_cut = self.progress == Progress::Loaded { is_cut: true };
                    if (is_cut && at == self.keys.len()) || self.keys.len() >= KEYS_MAX {
                        return;
                    }
                    self.keys.insert(at, Arc::clone(key));
                }
                let details = Details {
                    preview: preview(&entry.value),
                    expires_at_ms: entry.expires_at_ms,
                    changed_ms: Some(now_ms),
                };
                self.details.insert(Arc::clone(key), details);
            }
            Change::Deleted { .. } => {
                if let Ok(at) = found {
                    self.keys.remove(at);
                }
                self.details.remove(key);
            }
        }
    }

    /// What to ask for, so that the rows in view show something. Once at a time.
    pub fn look(&mut self, visible: Range<usize>, now_ms: u64) -> Option<Command> {
        let visible = visible.start.min(self.keys.len())..visible.end.min(self.keys.len());
        if self.details.len() > DETAILS_MAX {
            let keep: HashSet<&Arc<str>> = self.keys[visible.clone()].iter().collect();
            self.details.retain(|key, _| keep.contains(key));
        }
        if self.asked.is_some() || now_ms < self.retry_at_ms || self.is_failed() {
            return None;
        }
        let first = visible.clone().find(|at| !self.details.contains_key(&self.keys[*at]))?;
        let end = (visible.end + AHEAD).min(first + DETAILS_AT_ONCE_MAX).min(self.keys.len());
        self.asked = Some(first..end);
        let start = Arc::clone(&self.keys[first]);
        self.asked_from = Some(Arc::clone(&start));
        Some(Command::Details {
            generation: self.generation,
            table: self.table.clone(),
            prefix: self.prefix.clone(),
            start,
            count: end - first,
        })
    }

    fn is_failed(&self) -> bool {
        matches!(self.progress, Progress::Failed(_))
    }
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
        Change::Deleted { key: key(name), timestamp_ms: 1, expired: false }
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
        listing.end(false);
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
        listing.end(false);
        let asked = listing.look(50_000..50_040, 0).expect("nothing is known yet");
        let Command::Details { start, count, generation: 7, .. } = asked else { panic!("{asked:?}") };
        assert_eq!((&*start, count), ("k050000", 40 + AHEAD));
        assert_eq!(listing.look(60_000..60_040, 0), None, "one at a time");
        let row =
            |at: usize| Row { key: key(&format!("k{at:06}")), preview: "1".into(), expires_at_ms: None };
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
        listing.end(true);
        for at in 0..30_000 {
            listing.change(&set(&format!("k{at:06}"), "1"), preview, 0);
        }
        listing.look(0..10, 0);
        assert_eq!(listing.details.len(), 10);
        listing.change(&set("z", "1"), preview, 0);
        assert_eq!(listing.position("z"), None, "behind the end of what is listed");
    }
}
