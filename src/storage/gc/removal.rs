//! Removal of garbage: tombstones and expired values that the floors have passed.

use tracing::error;

use super::{SWEEP_ROWS_MAX, Turn};
use crate::{
    core::name::TableName,
    error::{Error, Result},
    storage::{
        Store,
        engine::{Slice, Tree},
        table::{
            Table, chunks,
            due_index::{self, removal_floor_ms},
            partition::Partition,
            record::{Head, Record},
            trees::{self, Trees},
        },
    },
};

/// Removes what is due, up to a limit of each kind. `indexed`: all garbage has its entry.
///
/// Garbage that comes from a peer after the floors have passed its time is late: other members may still hold what it ended. Its entry lies
/// at a later floor, which rises so far only once all members have it.
pub fn remove(store: &Store, indexed: bool) -> Result<Turn> {
    if !store.is_sweeping() {
        return Ok(Turn::Later);
    }
    let floors = &store.0.context.floors;
    let begun = floors.begin();
    let swept = store.durable_floors()?;
    let counters = store.counters();
    let tombstones = Garbage { tree: trees::TOMBSTONES, to_ms: swept.tombstones_ms, since_ms: tombstone_ms };
    let expired = Garbage { tree: trees::EXPIRED, to_ms: swept.expired_ms, since_ms: removal_floor_ms };
    let (tombstones_removed, more_tombstones) = tombstones.remove(store)?;
    let (removed, more_expired) = expired.remove(store)?;
    counters.tombstones_swept.add(tombstones_removed);
    counters.expired_swept.add(removed);
    if more_tombstones || more_expired {
        return Ok(Turn::Now);
    }
    if indexed {
        floors.finish(begun);
    }
    Ok(Turn::Later)
}

fn tombstone_ms(head: &Head) -> Option<u64> {
    (!head.live).then(|| head.marker.timestamp.unix_ms())
}

/// One kind of garbage.
struct Garbage {
    /// The tree of its entries.
    tree: &'static str,
    /// Entries up to here are due.
    to_ms: u64,
    /// The instant of a row's entry, if the row is of this kind.
    since_ms: fn(&Head) -> Option<u64>,
}

/// An entry of garbage that is due.
struct Entry<'a> {
    at_ms: u64,
    /// The instant of the row itself: earlier, if it came late.
    own_ms: u64,
    name: TableName,
    row: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(entry: &'a [u8], value: &[u8]) -> Option<Self> {
        let (at_ms, name, row) = due_index::parse(entry)?;
        Some(Self { at_ms, own_ms: due_index::instant(value).unwrap_or(at_ms), name, row })
    }
}

impl Garbage {
    /// Removes some of what is due. Returns how much, and whether there may be more.
    fn remove(&self, store: &Store) -> Result<(u64, bool)> {
        let tree = store.index_of_garbage(self.tree)?;
        let due: Vec<(Slice, Slice)> =
            store.due_entries(&tree, self.to_ms).take(SWEEP_ROWS_MAX).collect::<Result<_>>()?;
        let entries = due.iter().map(|(entry, value)| Entry::parse(entry, value)).collect::<Option<Vec<_>>>();
        let Some(mut entries) = entries else {
            return Err(Error::Corrupt(format!(
                "the tree {} has an invalid entry; DynaRust compact rebuilds it",
                self.tree
            )));
        };
        // Rows that are neighbours on disk, one after the other.
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name).then_with(|| a.row.cmp(b.row)));
        let mut removed = 0;
        for entry in entries {
            removed += u64::from(self.remove_row(store, &tree, &entry)?);
        }
        Ok((removed, due.len() == SWEEP_ROWS_MAX))
    }

    fn remove_row(&self, store: &Store, tree: &Tree, due: &Entry<'_>) -> Result<bool> {
        let Entry { at_ms, own_ms, name, row } = due;
        let entry = due_index::entry(*at_ms, name, row);
        let Some(table) = store.table(name) else {
            tree.remove(&entry)?;
            return Ok(false);
        };
        match table.sweep(row, |head| (self.since_ms)(head) == Some(*own_ms), (tree, &entry)) {
            // A damaged record is for `check` to find; its entry would block all others.
            Err(error @ Error::Corrupt(_)) => {
                error!(%error, "a row cannot be removed");
                Ok(false)
            }
            // Its own entries go with the row. This one lies elsewhere.
            Ok(true) if at_ms != own_ms => tree.remove(&entry).map(|()| true),
            other => other,
        }
    }
}

impl Table {
    /// Removes a row if `is_garbage` says so, and its entry in any case: a rewritten row does not need it.
    fn sweep(
        &self,
        row: &[u8],
        is_garbage: impl FnOnce(&Head) -> bool,
        (tree, entry): (&Tree, &[u8]),
    ) -> Result<bool> {
        self.writing(|trees| {
            let mut partition = self.lock_row(row);
            let bytes = self.stored(trees, row)?;
            let record = bytes.as_deref().map(|bytes| self.decode(row, bytes)).transpose();
            let garbage = record.map(|record| record.filter(|record| is_garbage(&record.head)));
            match garbage {
                Ok(Some(record)) => self.remove_row(trees, &mut partition, row, &record).map(|()| true),
                Ok(None) => tree.remove(entry).map(|()| false),
                Err(error) => tree.remove(entry).and(Err(error)),
            }
        })
    }

    /// Removes a row if it is a tombstone written at `written_ms` (Unix milliseconds), and its entry in any case. Returns whether it was.
    ///
    /// # Errors
    /// `Corrupt`, `StorageFull`, `NotReady`.
    pub(in crate::storage) fn sweep_tombstone(
        &self,
        row: &[u8],
        written_ms: u64,
        index: (&Tree, &[u8]),
    ) -> Result<bool> {
        self.sweep(row, |head| tombstone_ms(head) == Some(written_ms), index)
    }

    /// Removes an existing row and everything it needed.
    pub(in crate::storage) fn remove_row(
        &self,
        trees: &Trees,
        partition: &mut Partition,
        row: &[u8],
        record: &Record<'_>,
    ) -> Result<()> {
        self.remove_stored(trees, row)?;
        self.update_digests(partition, row, Some(&record.head), None);
        self.remove_index_entries(trees, row, &record.head, None)?;
        chunks::remove(&trees.chunks, row, record)
    }
}
