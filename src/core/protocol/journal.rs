//! The keys this node wrote, in order, for pushing them to peers. In memory and bounded.
//!
//! For the latest writes the journal also holds the rows, so that they are not read and decoded again for each peer.
//! Older rows are read when they are sent, so a slow or new peer gets only the newest version. All peers share one
//! journal; a peer is just a cursor into it. A peer whose cursor has fallen off the end has missed writes, and a
//! comparison finds which.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use super::message::Row;
use crate::core::name::{Key, TableName};

/// Most keys held: how far behind a peer can be and still catch up without a comparison. About 8 MiB.
pub const KEYS_MAX: usize = 65_536;
/// About how many bytes of rows are held: a tenth of a second at a node's full write rate.
const ROWS_BYTES_MAX: usize = 1024 * 1024;

/// The latest keys written, numbered from 1.
#[derive(Debug)]
pub struct Journal {
    keys: VecDeque<(TableName, Key)>,
    /// The number of the last key.
    last: u64,
    keys_max: usize,
    /// The rows of the last of the keys, where known.
    rows: VecDeque<Option<Row>>,
    rows_bytes: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new(KEYS_MAX)
    }
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The row; `None` if it is to be read when it is sent.
    pub row: Option<Row>,
}

/// What follows a cursor.
#[derive(Debug, PartialEq)]
pub struct Following {
    /// The writes, with the latest row of each key.
    pub writes: Vec<JournalEntry>,
    /// The cursor after them.
    pub cursor: u64,
}

impl Journal {
    /// An empty journal that holds up to `keys_max` keys.
    pub fn new(keys_max: usize) -> Self {
        Self { keys: VecDeque::new(), last: 0, keys_max, rows: VecDeque::new(), rows_bytes: 0 }
    }

    /// Appends a key that was written and can be read by now, with its row. Returns its number.
    pub fn append(&mut self, table: TableName, key: Key, row: Option<Row>) -> u64 {
        if self.keys.len() == self.keys_max {
            self.keys.pop_front();
        }
        self.keys.push_back((table, key));
        self.last += 1;
        self.rows_bytes += row.as_ref().map_or(0, Row::cost);
        self.rows.push_back(row);
        while self.rows_bytes > ROWS_BYTES_MAX || self.rows.len() > self.keys.len() {
            let row = self.rows.pop_front().expect("what has bytes is not empty");
            self.rows_bytes -= row.as_ref().map_or(0, Row::cost);
        }
        self.last
    }

    /// Counts a write without recording it, because there is no peer to send it to. Whoever follows from an earlier
    /// cursor has missed something.
    pub fn skip(&mut self) {
        self.last += 1;
        self.keys = VecDeque::new();
        self.rows = VecDeque::new();
        self.rows_bytes = 0;
    }

    /// The number of the last key; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether the journal still holds everything after a cursor.
    pub fn reaches(&self, cursor: u64) -> bool {
        cursor >= self.last - self.keys.len() as u64
    }

    /// What follows a cursor, from at most `keys_max` entries. `None` if some of it is gone. Only writes after
    /// `held_after` come with rows: an older row may have been overwritten, deleted and swept elsewhere since.
    pub fn following(&self, cursor: u64, held_after: u64, keys_max: usize) -> Option<Following> {
        if !self.reaches(cursor) {
            return None;
        }
        let skipped = self.keys.len() - (self.last.saturating_sub(cursor)) as usize;
        let taken = self.keys.len().saturating_sub(skipped).min(keys_max);
        let unheld = self.keys.len() - self.rows.len();
        let first = self.last - self.keys.len() as u64 + 1;
        let mut places = HashMap::with_capacity(taken);
        let mut writes: Vec<JournalEntry> = Vec::with_capacity(taken);
        for (at, entry) in self.keys.range(skipped..skipped + taken).enumerate() {
            let held =
                (skipped + at).checked_sub(unheld).filter(|_| first + (skipped + at) as u64 > held_after);
            let row = held.and_then(|at| self.rows[at].as_ref());
            match places.entry(entry) {
                Entry::Vacant(place) => {
                    place.insert(writes.len());
                    let (table, key) = entry.clone();
                    writes.push(JournalEntry { table, key, row: row.cloned() });
                }
                Entry::Occupied(place) => {
                    let held = &mut writes[*place.get()].row;
                    // Concurrent writes may be appended in the other order. A row that is read when it is sent is the
                    // newest.
                    *held = match (held.take(), row) {
                        (Some(held), Some(row)) if held.marker < row.marker => Some(row.clone()),
                        (Some(held), Some(_)) => Some(held),
                        (None, _) | (_, None) => None,
                    };
                }
            }
        }
        Some(Following { writes, cursor: cursor + taken as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        clock::{NodeId, Timestamp},
        json::Value,
        register::Register,
    };

    fn journal(keys: &[&str]) -> Journal {
        let mut journal = Journal::new(3);
        for key in keys {
            append(&mut journal, key);
        }
        journal
    }

    fn append(journal: &mut Journal, key: &str) -> u64 {
        journal.append(TableName::parse("t").expect("a name"), Key::parse(key).expect("a key"), None)
    }

    fn append_row(journal: &mut Journal, name: &str, hlc: u64, length: usize) {
        let value = Value::trusted(format!("\"{}\"", "x".repeat(length)));
        let key = Key::parse(name).expect("a key");
        let row = Row::new(key.clone(), Register::live(value, None, Timestamp { hlc, node: NodeId(1) }));
        journal.append(TableName::parse("t").expect("a name"), key, Some(row));
    }

    /// Each key, and the timestamp of the row held for it.
    fn held(journal: &Journal, cursor: u64) -> Vec<(String, Option<u64>)> {
        let writes = journal.following(cursor, 0, 10).expect("all of it is there").writes;
        let hlc = |row: Row| row.marker.timestamp.hlc;
        writes.into_iter().map(|entry| (entry.key.as_str().to_owned(), entry.row.map(hlc))).collect()
    }

    fn following(journal: &Journal, cursor: u64, keys_max: usize) -> Option<(String, u64)> {
        let following = journal.following(cursor, 0, keys_max)?;
        let keys: Vec<&str> = following.writes.iter().map(|entry| entry.key.as_str()).collect();
        Some((keys.concat(), following.cursor))
    }

    #[test]
    fn a_cursor_finds_what_follows_it_and_each_key_once() {
        let journal = journal(&["a", "b", "a"]);
        assert_eq!(following(&journal, 0, 10), Some(("ab".into(), 3)));
        assert_eq!(following(&journal, 1, 10), Some(("ba".into(), 3)));
        assert_eq!(following(&journal, 0, 1), Some(("a".into(), 1)));
        assert_eq!(following(&journal, 3, 10), Some((String::new(), 3)));
    }

    #[test]
    fn a_cursor_that_fell_off_the_end_gets_nothing() {
        let mut journal = journal(&["a", "b", "c"]);
        assert!(journal.reaches(0));
        assert_eq!(append(&mut journal, "d"), 4);
        assert!(!journal.reaches(0));
        assert_eq!(following(&journal, 0, 10), None);
        assert_eq!(following(&journal, 1, 10), Some(("bcd".into(), 4)));
    }

    #[test]
    fn the_latest_row_of_a_key_is_held_and_an_unknown_one_is_read() {
        let mut journal = Journal::new(4);
        for (name, hlc) in [("a", 1), ("b", 3), ("a", 4), ("b", 2)] {
            append_row(&mut journal, name, hlc, 1);
        }
        assert_eq!(held(&journal, 0), [("a".into(), Some(4)), ("b".into(), Some(3))]);
        assert_eq!(held(&journal, 3), [("b".into(), Some(2))]);
        append(&mut journal, "a");
        assert_eq!(held(&journal, 1), [("b".into(), Some(3)), ("a".into(), None)]);
        append_row(&mut journal, "a", 5, 1);
        assert_eq!(held(&journal, 2), [("a".into(), None), ("b".into(), Some(2))]);
        let writes = journal.following(2, 3, 10).expect("all of it is there").writes;
        assert!(
            writes[0].row.is_none() && writes[1].row.is_some(),
            "rows are held only after the third entry: {writes:?}"
        );
    }

    #[test]
    fn rows_are_bounded_by_bytes_and_keys_by_count() {
        let mut journal = Journal::new(4);
        let half = ROWS_BYTES_MAX / 2;
        for (name, hlc, length) in [("a", 1, half), ("b", 2, half), ("c", 3, 1)] {
            append_row(&mut journal, name, hlc, length);
        }
        assert_eq!(held(&journal, 0), [("a".into(), None), ("b".into(), Some(2)), ("c".into(), Some(3))]);
        append_row(&mut journal, "d", 4, 2 * ROWS_BYTES_MAX);
        assert_eq!(held(&journal, 2), [("c".into(), None), ("d".into(), None)]);
        assert_eq!(journal.rows_bytes, 0);
        for hlc in 5..10 {
            append_row(&mut journal, "e", hlc, 1);
        }
        assert_eq!(held(&journal, 5), [("e".into(), Some(9))]);
        assert_eq!(journal.rows.len(), 4);
    }

    #[test]
    fn skipped_writes_and_everything_before_them_are_missed() {
        let mut journal = journal(&["a", "b"]);
        journal.skip();
        assert_eq!((journal.last(), journal.reaches(2), journal.reaches(3)), (3, false, true));
        assert_eq!(following(&journal, 2, 10), None);
        assert_eq!(following(&journal, 3, 10), Some((String::new(), 3)));
        assert_eq!(append(&mut journal, "c"), 4);
        assert_eq!(following(&journal, 3, 10), Some(("c".into(), 4)));
        assert_eq!(following(&journal, 2, 10), None);
    }

    #[test]
    fn an_empty_journal_has_nothing_to_send() {
        let journal = Journal::default();
        assert_eq!(following(&journal, 0, 10), Some((String::new(), 0)));
        assert_eq!(journal.last(), 0);
    }
}
