//! What a store should look like: a register for each key, and the clock's bound.

use std::collections::BTreeMap;

use dynarust::{
    core::register::{Payload, Register},
    storage::table::{partition::Counts, record::Head, scan::Range},
};

use super::steps::TABLES;

/// The rows of one table.
pub type Rows = BTreeMap<String, Register>;
/// The heads of the records of one table.
pub type Heads = BTreeMap<String, (dynarust::core::register::Marker, bool, Option<u64>)>;

/// All that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Rows by table and key, tombstones included.
    pub tables: [Rows; TABLES],
    /// The clock's bound.
    pub bound: u64,
}

impl State {
    /// Merges one write; whether it changed anything.
    pub fn merge(&mut self, table: usize, key: &str, register: Register) -> bool {
        let rows = &mut self.tables[table];
        match rows.get_mut(key) {
            Some(present) => {
                let before = present.marker();
                present.merge(register);
                present.marker() != before
            }
            None => rows.insert(key.to_owned(), register).is_none(),
        }
    }

    /// Removes what has expired, as the sweep does.
    pub fn sweep(&mut self, now_ms: u64) {
        for rows in &mut self.tables {
            rows.retain(|_, register| !has_expired(register, now_ms));
        }
    }

    /// Whether a table has these counts. Of the bytes the model knows only that of the keys: values are compressed.
    pub fn has_counts(&self, table: usize, counts: Counts) -> bool {
        let rows = &self.tables[table];
        let live = || rows.iter().filter(|(_, row)| matches!(row.payload(), Payload::Live { .. }));
        let key_bytes: u64 = live().map(|(key, _)| key.len() as u64).sum();
        let live = live().count() as u64;
        (counts.live, counts.tombstones) == (live, rows.len() as u64 - live)
            && if live == 0 { counts.live_bytes == 0 } else { counts.live_bytes > key_bytes }
    }

    /// The heads of a table's records.
    pub fn heads(&self, table: usize) -> Heads {
        let head = |register: &Register| match register.payload() {
            Payload::Live { expires_at_ms, .. } => (register.marker(), true, *expires_at_ms),
            Payload::Deleted => (register.marker(), false, None),
        };
        self.tables[table].iter().map(|(key, register)| (key.clone(), head(register))).collect()
    }

    /// The keys of a listing, in its order.
    pub fn list(&self, table: usize, range: &Range, now_ms: u64) -> Vec<&str> {
        let wanted = |key: &str| {
            key.starts_with(&range.prefix)
                && range.start.as_deref().is_none_or(|start| key >= start)
                && range.end.as_deref().is_none_or(|end| key < end)
        };
        let visible = self.tables[table].iter().filter(|(_, register)| register.value_at(now_ms).is_some());
        let mut keys: Vec<&str> = visible.map(|(key, _)| key.as_str()).filter(|key| wanted(key)).collect();
        if range.reverse {
            keys.reverse();
        }
        keys
    }
}

/// Whether a record's value is over.
pub fn is_over(head: &Head, now_ms: u64) -> bool {
    head.live && !head.visible_at(now_ms)
}

fn has_expired(register: &Register, now_ms: u64) -> bool {
    matches!(register.payload(), Payload::Live { expires_at_ms: Some(at_ms), .. } if *at_ms <= now_ms)
}
