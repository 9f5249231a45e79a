//! The keys this node wrote, in the order in which it did, for the peers to be told. In memory and bounded.
//!
//! The journal holds no values: a key's row is read when it is sent, so that a peer that is slow gets the newest only. It is
//! one for all peers, and each peer is no more than a place in it, its cursor. A peer whose cursor has fallen off the end has
//! missed something, and comparing will find what.

use std::collections::{HashSet, VecDeque};

use super::name::{Key, TableName};

/// How many keys it holds: what a peer can miss and still be told of alone. About 8 MiB.
pub const KEYS_MAX: usize = 65_536;

/// The keys written lately, numbered from 1.
#[derive(Debug)]
pub struct Journal {
    keys: VecDeque<(TableName, Key)>,
    /// The number of the last key.
    last: u64,
    keys_max: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new(KEYS_MAX)
    }
}

/// What comes after a cursor.
#[derive(Debug, PartialEq, Eq)]
pub struct Following {
    /// Keys, each once.
    pub keys: Vec<(TableName, Key)>,
    /// The cursor after them.
    pub cursor: u64,
}

impl Journal {
    /// An empty journal that keeps so many keys.
    pub fn new(keys_max: usize) -> Self {
        Self { keys: VecDeque::new(), last: 0, keys_max }
    }

    /// Notes that a key was written, which must be readable by now. Returns its number.
    pub fn append(&mut self, table: TableName, key: Key) -> u64 {
        if self.keys.len() == self.keys_max {
            self.keys.pop_front();
        }
        self.keys.push_back((table, key));
        self.last += 1;
        self.last
    }

    /// The number of the last key; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether everything after a cursor is still here.
    pub fn reaches(&self, cursor: u64) -> bool {
        cursor >= self.last - self.keys.len() as u64
    }

    /// What comes after a cursor, from at most `keys_max` entries; `None` where some of it is gone.
    pub fn following(&self, cursor: u64, keys_max: usize) -> Option<Following> {
        if !self.reaches(cursor) {
            return None;
        }
        let skipped = self.keys.len() - (self.last.saturating_sub(cursor)) as usize;
        let mut seen = HashSet::new();
        let taken = self.keys.len().saturating_sub(skipped).min(keys_max);
        let entries = self.keys.range(skipped..skipped + taken);
        // The row is read after this, so whichever entry of a key stands for it, the newest value goes.
        let keys = entries.filter(|entry| seen.insert(*entry)).cloned().collect();
        Some(Following { keys, cursor: cursor + taken as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(keys: &[&str]) -> Journal {
        let mut journal = Journal::new(3);
        for key in keys {
            append(&mut journal, key);
        }
        journal
    }

    fn append(journal: &mut Journal, key: &str) -> u64 {
        journal.append(TableName::parse("t").expect("a name"), Key::parse(key).expect("a key"))
    }

    fn following(journal: &Journal, cursor: u64, keys_max: usize) -> Option<(String, u64)> {
        let following = journal.following(cursor, keys_max)?;
        let keys: Vec<&str> = following.keys.iter().map(|(_, key)| key.as_str()).collect();
        Some((keys.concat(), following.cursor))
    }

    #[test]
    fn a_cursor_finds_what_came_after_it_and_each_key_once() {
        let journal = journal(&["a", "b", "a"]);
        assert_eq!(following(&journal, 0, 10), Some(("ab".into(), 3)));
        assert_eq!(following(&journal, 1, 10), Some(("ba".into(), 3)));
        assert_eq!(following(&journal, 0, 1), Some(("a".into(), 1)));
        assert_eq!(following(&journal, 3, 10), Some((String::new(), 3)));
    }

    #[test]
    fn a_cursor_that_fell_off_the_end_is_told_so() {
        let mut journal = journal(&["a", "b", "c"]);
        assert!(journal.reaches(0));
        assert_eq!(append(&mut journal, "d"), 4);
        assert!(!journal.reaches(0));
        assert_eq!(following(&journal, 0, 10), None);
        assert_eq!(following(&journal, 1, 10), Some(("bcd".into(), 4)));
    }

    #[test]
    fn an_empty_journal_has_nothing_for_anybody() {
        let journal = Journal::default();
        assert_eq!(following(&journal, 0, 10), Some((String::new(), 0)));
        assert_eq!(journal.last(), 0);
    }
}
