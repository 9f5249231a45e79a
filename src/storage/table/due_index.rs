//! The index trees of the garbage collector: which row is due when, and which entries a row needs.
//!
//! The key of an entry is milliseconds as u64 big-endian ‖ length of the table's name ‖ name ‖ row. So each tree is ordered by time, over all
//! tables. Most entries have no value. Of garbage that came late (see `core::protocol::agreement`), the entry lies at the floor that may
//! remove it, and its value is the instant at which it would lie otherwise; if the expiry is not announced yet, its value is that floor.

use std::time::Duration;

use crate::{
    core::name::TableName,
    error::{Error, Result},
    storage::{
        Store,
        engine::{Slice, Tree},
        table::jobs::GcJob,
        table::{Table, floors::above, record::Head, trees::Trees},
    },
};

/// Longest sleep of the worker: the wall clock may be changed meanwhile.
pub const WORKER_SLEEP_MAX: Duration = Duration::from_secs(1);

/// The entry of a row that is due at `at_ms`.
pub fn entry(at_ms: u64, table: &TableName, row: &[u8]) -> Vec<u8> {
    let name = table.as_str().as_bytes();
    let mut entry = Vec::with_capacity(9 + name.len() + row.len());
    entry.extend_from_slice(&at_ms.to_be_bytes());
    entry.push(name.len() as u8);
    entry.extend_from_slice(name);
    entry.extend_from_slice(row);
    entry
}

/// Time, table and row of an entry; `None` if the bytes are not one.
pub fn parse(entry: &[u8]) -> Option<(u64, TableName, &[u8])> {
    let (at_ms, rest) = entry.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first()?;
    let (name, row) = rest.split_at_checked(usize::from(*length))?;
    let name = TableName::parse(std::str::from_utf8(name).ok()?).ok()?;
    (!row.is_empty()).then_some((u64::from_be_bytes(*at_ms), name, row))
}

/// The instant that an entry has as its value, if it has one.
pub fn instant(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// The value of an entry.
fn late_value(is_late: bool, instant_ms: u64) -> Vec<u8> {
    if is_late { instant_ms.to_be_bytes().to_vec() } else { Vec::new() }
}

/// Inserts the entry of garbage that a floor may remove at `due_ms`, and without being late could at `own_ms`.
pub fn insert_garbage(
    tree: &Tree,
    (table, row): (&TableName, &[u8]),
    own_ms: u64,
    due_ms: u64,
) -> Result<()> {
    tree.insert(&entry(due_ms, table, row), late_value(due_ms != own_ms, own_ms).as_slice())
}

/// The floor of expired values at which a value may be removed: by then no earlier write can reach a replica that has removed it. `None` if
/// the value does not expire.
pub fn removal_floor_ms(head: &Head) -> Option<u64> {
    head.expires_at_ms.map(|at_ms| at_ms.max(head.marker.timestamp.unix_ms()))
}

impl Store {
    /// An index of eventual tables, while writes are taken.
    ///
    /// # Errors
    /// `StorageFull`, `NotReady`.
    pub(in crate::storage) fn index_of_garbage(&self, name: &str) -> Result<Tree> {
        let tree = self.with_engine(|engine| engine.tree(name))?;
        // After the tree: it may be that of a storage that is being reopened, and a table of it be missing still.
        match self.failure() {
            Some(reason) => Err(Error::StorageFull(reason)),
            None => Ok(tree),
        }
    }

    /// The entries of an index up to an instant (Unix milliseconds), as far as they can be read. What cannot is reported, and the index is rebuilt.
    pub(in crate::storage) fn due_entries(
        &self,
        index: &Tree,
        at_ms: u64,
    ) -> impl Iterator<Item = Result<(Slice, Slice)>> {
        index.range(&[], Some(&above(at_ms))).filter(|item| match item {
            Err(Error::Corrupt(_)) => {
                self.report_damage();
                false
            }
            Ok(_) | Err(_) => true,
        })
    }
}

impl Table {
    /// Inserts the entries of a row that is about to be set, under the lock of its partition. `silent`: the expiry is not to be announced
    /// if it has passed.
    pub(in crate::storage) fn insert_index_entries(
        &self,
        trees: &Trees,
        row: &[u8],
        head: &Head,
        silent: bool,
    ) -> Result<()> {
        let (name, floors) = (self.name(), &self.context.floors);
        match (head.live, head.expires_at_ms, removal_floor_ms(head)) {
            (false, ..) => {
                let written_ms = head.marker.timestamp.unix_ms();
                // A strong table's go by its log.
                let due_ms = if self.strong { written_ms } else { floors.tombstone_due_ms(written_ms) };
                insert_garbage(&trees.tombstones, (name, row), written_ms, due_ms)?;
            }
            (true, Some(at_ms), Some(removal_floor_ms)) => {
                let due_ms = floors.expired_due_ms(removal_floor_ms);
                if silent && !self.strong && at_ms <= (self.context.now_ms)() {
                    return insert_garbage(&trees.expired, (name, row), removal_floor_ms, due_ms);
                }
                let value = late_value(due_ms != removal_floor_ms, due_ms);
                trees.expiry.insert(&entry(at_ms, name, row), &value)?;
                // What is due later it finds by itself: a turn of it for each write costs a core.
                let awake_ms = (self.context.now_ms)() + WORKER_SLEEP_MAX.as_millis() as u64;
                if at_ms < awake_ms {
                    self.wake_worker();
                }
            }
            (true, ..) => {}
        }
        Ok(())
    }

    /// Inserts the entry of a row again that expires at `at_ms`, and may be removed at a floor of expired values.
    pub(in crate::storage) fn index_expiring(
        &self,
        trees: &Trees,
        row: &[u8],
        (at_ms, removal_floor_ms): (u64, u64),
    ) -> Result<()> {
        let name = self.name();
        let due_ms = self.context.floors.expired_due_ms(removal_floor_ms);
        if due_ms != removal_floor_ms && !self.strong {
            // It may have come late, and its entry lie elsewhere. Whether its end was announced nobody can tell.
            return insert_garbage(&trees.expired, (name, row), removal_floor_ms, due_ms);
        }
        if trees.expired.get(&entry(removal_floor_ms, name, row))?.is_none() {
            trees.expiry.insert(&entry(at_ms, name, row), &[])?;
        }
        Ok(())
    }

    /// Removes the entries of a row that the row in its place does not have.
    pub(in crate::storage) fn remove_index_entries(
        &self,
        trees: &Trees,
        row: &[u8],
        old: &Head,
        new: Option<&Head>,
    ) -> Result<()> {
        let name = self.name();
        let tombstone_ms = |head: &Head| (!head.live).then(|| head.marker.timestamp.unix_ms());
        let entries = [
            (&trees.expiry, old.expires_at_ms, new.and_then(|new| new.expires_at_ms)),
            (&trees.expired, removal_floor_ms(old), new.and_then(removal_floor_ms)),
            (&trees.tombstones, tombstone_ms(old), new.and_then(tombstone_ms)),
        ];
        for (tree, old_ms, new_ms) in entries {
            if let Some(old_ms) = old_ms
                && new_ms != Some(old_ms)
            {
                tree.remove(&entry(old_ms, name, row))?;
            }
        }
        Ok(())
    }

    /// Whether subscribers see a stored value as present: it is a live value whose expiry was not announced.
    pub(in crate::storage) fn is_shown_to_subscribers(
        &self,
        trees: &Trees,
        row: &[u8],
        head: &Head,
    ) -> Result<bool> {
        match head.expires_at_ms {
            _ if !head.live => Ok(false),
            // An expired value counts as seen as long as its entry is there: its expiry was not announced yet.
            Some(at_ms) if !self.is_visible(head) => {
                Ok(trees.expiry.get(&entry(at_ms, self.name(), row))?.is_some())
            }
            Some(_) | None => Ok(true),
        }
    }

    /// Wakes the worker.
    fn wake_worker(&self) {
        // The worker outlives the tables, except while both are dropped.
        let _ = self.context.jobs.send(GcJob::Wake);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::{table::row::row_of, tests::key};

    proptest! {
        #[test]
        fn an_entry_round_trips(at_ms: u64, table in "[a-z0-9][a-z]{0,63}", name in ".{1,100}") {
            prop_assume!(table != "key");
            let (table, row) = (TableName::parse(&table).expect("a name"), row_of(&key(&name)));
            let made = entry(at_ms, &table, &row);
            prop_assert_eq!(parse(&made), Some((at_ms, table.clone(), row.as_slice())));
            prop_assert!(entry(at_ms.saturating_sub(1), &table, &row) <= made);
        }

        #[test]
        fn no_entry_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some((at_ms, table, row)) = parse(&bytes) {
                prop_assert_eq!(entry(at_ms, &table, row), bytes);
            }
        }
    }
}
