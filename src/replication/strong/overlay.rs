//! The state that requests are evaluated on: the store, and over it the registers that are decided and not applied yet.

use std::collections::{BTreeMap, HashSet};

use crate::{
    core::{
        clock::Timestamp,
        etcd,
        name::{KEY_BYTES_MAX, Key, TableName},
        register::{Payload, Register},
        strong::{
            entry::{Effect, Name},
            evaluate::View,
        },
    },
    error::{Error, Result},
    storage::{Store, commit::timestamps::Timestamps, table::scan::Range},
};

/// Most rows of a page.
const PAGE_ROWS: usize = 1_000;

/// What entries in flight write.
#[derive(Default)]
pub struct Overlay {
    /// The term that they were evaluated in. Those of an earlier term count no longer.
    pub term: u64,
    /// Ordered, because requests of the etcd API read ranges.
    rows: BTreeMap<Name, Register>,
    created: HashSet<TableName>,
    /// What was there before each effect that was added and not kept yet, oldest first.
    before: Vec<Before>,
}

/// What was there before an effect was added.
enum Before {
    /// A row, or none.
    Row(Name, Option<Register>),
    /// No table of this name.
    NoTable(TableName),
}

impl Overlay {
    /// Nothing, in this term.
    pub fn of(term: u64) -> Self {
        Self { term, ..Self::default() }
    }

    /// Adds an effect that is decided, until it is kept or undone.
    pub fn add(&mut self, effect: &Effect) {
        match effect {
            Effect::Create(table) => {
                if self.created.insert(table.clone()) {
                    self.before.push(Before::NoTable(table.clone()));
                }
            }
            Effect::Merge(table, row) => {
                if let Some((key, register)) = row.clone().into_register() {
                    let name = (table.clone(), key);
                    let before = self.rows.insert(name.clone(), register);
                    self.before.push(Before::Row(name, before));
                }
            }
            Effect::Sweep(_) => {}
        }
    }

    /// Keeps what was added: it will be proposed.
    pub fn keep(&mut self) {
        self.before.clear();
    }

    /// Takes back what was added and not kept.
    pub fn undo(&mut self) {
        while let Some(before) = self.before.pop() {
            match before {
                Before::Row(name, Some(register)) => drop(self.rows.insert(name, register)),
                Before::Row(name, None) => drop(self.rows.remove(&name)),
                Before::NoTable(table) => drop(self.created.remove(&table)),
            }
        }
    }

    /// An entry is applied, or will not be. Registers of later entries stay.
    pub fn settle(&mut self, term: u64, written: &[(Name, Timestamp)]) {
        if self.term != term {
            return;
        }
        for (name, timestamp) in written {
            if self.rows.get(name).is_some_and(|register| register.timestamp() == *timestamp) {
                self.rows.remove(name);
            }
        }
    }
}

/// The state that requests are evaluated on.
pub struct Overlaid<'a> {
    /// What is not applied yet.
    pub overlay: &'a Overlay,
    /// What is.
    pub store: &'a Store,
    /// The clock that will stamp what follows.
    pub timestamps: &'a Timestamps,
}

impl View for Overlaid<'_> {
    fn is_strong(&self, table: &TableName) -> bool {
        self.overlay.created.contains(table) || self.store.is_strong(table)
    }

    fn check_room(&self) -> Result<()> {
        let is_new = |table: &&TableName| !self.store.is_strong(table);
        self.store.check_room_for_strong(self.overlay.created.iter().filter(is_new).count())
    }

    fn has_eventual_rows(&self, table: &TableName) -> bool {
        !self.store.is_strong(table) && self.store.has_table(table)
    }

    fn register(&self, table: &TableName, key: &Key) -> Result<Option<Register>> {
        if let Some(register) = self.overlay.rows.get(&(table.clone(), key.clone())) {
            return Ok(Some(register.clone()));
        }
        let row = self.store.read_known_row(table, key)?;
        if let Some(row) = &row {
            // What replaces it must be later, even if it was applied before this node's last start.
            self.timestamps.observe_stored(row.marker.timestamp);
        }
        let unreadable = || Error::Corrupt(format!("the row of key {:?} in table {table}", key.as_str()));
        row.map(|row| row.into_register().map(|(_, register)| register).ok_or_else(unreadable)).transpose()
    }

    fn page(&self, table: &TableName, low: &str, high: &str) -> Result<etcd::evaluate::Page> {
        let range = Range { start: Some(low.into()), end: Some(high.into()), ..Range::default() };
        let page = self.store.rows(table, &range, PAGE_ROWS)?;
        if page.incomplete {
            return Err(Error::Corrupt(format!("rows of table {table} cannot be read")));
        }
        let last = page.rows.last().filter(|_| page.more).map(|row| row.key.clone());
        // As of a single row.
        if let Some(latest) = page.rows.iter().map(|row| row.entry.timestamp).max() {
            self.timestamps.observe_stored(latest);
        }
        let mut rows: BTreeMap<_, _> = page.rows.into_iter().map(|row| (row.key, row.entry.value)).collect();
        // What is behind the last row is for the next page.
        let is_in_page = |key: &Key| match &last {
            Some(last) => key <= last,
            None => key.as_str() < high,
        };
        for ((name, key), register) in self.overlay.rows.range((table.clone(), at_or_below(low))..) {
            if name != table || !is_in_page(key) {
                break;
            }
            if key.as_str() < low {
                continue;
            }
            match register.payload() {
                Payload::Live { value, .. } => rows.insert(key.clone(), value.clone()),
                Payload::Deleted => rows.remove(key),
            };
        }
        Ok(etcd::evaluate::Page { rows: rows.into_iter().collect(), last })
    }
}

/// A key at or below some text; the first key for an empty one.
fn at_or_below(text: &str) -> Key {
    let end = (0..=text.len().min(KEY_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    Key::parse(&text[..end.unwrap_or_default()])
        .unwrap_or_else(|_| Key::parse("\0").expect("it is the first key"))
}

/// The name and version of what an effect writes.
pub fn written(effect: &Effect) -> Option<(Name, Timestamp)> {
    match effect {
        Effect::Merge(table, row) => Some(((table.clone(), row.key.clone()), row.marker.timestamp)),
        Effect::Create(_) | Effect::Sweep(_) => None,
    }
}

/// About how many bytes an effect has.
pub fn effect_bytes(effect: &Effect) -> usize {
    match effect {
        Effect::Merge(_, row) => row.cost(),
        Effect::Create(_) | Effect::Sweep(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{clock::NodeId, json::Value, protocol::message::Row};

    #[test]
    fn what_is_undone_leaves_what_earlier_entries_write() {
        let [table, other] = ["stock", "other"].map(|name| TableName::parse(name).expect("a name"));
        let merge = |key: &str, hlc| {
            let timestamp = Timestamp { hlc, node: NodeId(1) };
            let key = Key::parse(key).expect("a key");
            let register = Register::live(Value::trusted("1".into()), None, timestamp);
            Effect::Merge(table.clone(), Row::new(key, register))
        };
        let mut overlay = Overlay::of(1);
        let first = merge("a", 1);
        overlay.add(&first);
        overlay.keep();
        for effect in [merge("a", 2), merge("a", 3), merge("b", 4), Effect::Create(other.clone())] {
            overlay.add(&effect);
        }
        overlay.undo();
        let hlcs: Vec<_> = overlay.rows.values().map(|register| register.timestamp().hlc).collect();
        assert_eq!((hlcs, overlay.created.is_empty()), (vec![1], true));
        overlay.settle(1, &[written(&first).expect("a row")]);
        assert!(overlay.rows.is_empty());
    }
}
