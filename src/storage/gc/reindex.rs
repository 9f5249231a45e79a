//! Indexes the tombstones of a store of an earlier version, which had no index of them. It runs once in the background, one partition at a
//! time; then a key in `meta` says that it is done.

use std::sync::{Arc, atomic::Ordering};

use tracing::info;

use super::Turn;
use crate::{
    error::{Error, Result},
    storage::{
        META, Store,
        commit::Incarnation,
        table::{Table, due_index},
    },
};

/// Key in `meta` that says that all garbage is indexed.
pub const INDEXED_KEY: &[u8] = b"tombstones-indexed";

/// Progress of the indexing.
#[derive(Default)]
pub enum Indexing {
    /// It is not known yet whether it is needed.
    #[default]
    Unknown,
    /// Under way.
    Begun(Begun),
    /// Every tombstone has its entry, unless the engine was reopened after this incarnation.
    Done(Incarnation),
}

/// An indexing under way.
pub struct Begun {
    /// A reopened engine may have lost entries: then the indexing starts again.
    incarnation: Incarnation,
    tables: Vec<Arc<Table>>,
    /// The next partition, of the last table.
    partition: u8,
    entered: u64,
}

impl Indexing {
    /// Whether every tombstone has its entry.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// Indexes one partition, if there is one left.
    pub fn step(&mut self, store: &Store) -> Result<Turn> {
        let reindex = &store.0.context.reindex;
        if reindex.load(Ordering::Acquire) {
            // An indexing under way may have inserted entries into the old tree, and have marked the store as indexed since.
            store.meta()?.remove(INDEXED_KEY)?;
            reindex.store(false, Ordering::Release);
            *self = Self::Unknown;
        }
        let next = match self {
            Self::Done(incarnation) if *incarnation == store.incarnation() => return Ok(Turn::Later),
            Self::Done(_) => Self::Unknown,
            Self::Unknown => {
                let incarnation = store.incarnation();
                let indexed = store.meta()?.get(INDEXED_KEY)?.is_some();
                if indexed { Self::Done(incarnation) } else { Self::Begun(Begun::new(store)) }
            }
            Self::Begun(begun) if begun.incarnation != store.incarnation() => Self::Unknown,
            Self::Begun(begun) => match begun.tables.last() {
                // It had no rows left. A table of its name that was made since is indexed as it is written.
                Some(table) if table.is_removed() => {
                    begun.next_table();
                    return Ok(Turn::Now);
                }
                Some(table) => {
                    begun.entered += index_partition(table, begun.partition)?;
                    begun.advance();
                    return Ok(Turn::Now);
                }
                None if begun.finish(store)? => Self::Done(begun.incarnation),
                None => Self::Unknown,
            },
        };
        *self = next;
        Ok(Turn::Now)
    }
}

impl Begun {
    fn new(store: &Store) -> Self {
        // Tables made from now on are indexed as they are written.
        let incarnation = store.incarnation();
        let tables = store.read_tables().values().cloned().collect();
        Self { incarnation, tables, partition: 0, entered: 0 }
    }

    fn advance(&mut self) {
        match self.partition.checked_add(1) {
            Some(next) => self.partition = next,
            None => self.next_table(),
        }
    }

    fn next_table(&mut self) {
        self.tables.pop();
        self.partition = 0;
    }

    /// Marks the store as indexed, unless it was reopened since the start.
    fn finish(&self, store: &Store) -> Result<bool> {
        store.with_engine(|engine| {
            // While the engine is held it is not replaced, so the mark follows the entries in one log.
            if self.incarnation != store.incarnation() {
                return Ok(false);
            }
            engine.tree(META)?.insert(INDEXED_KEY, &[1])?;
            if self.entered > 0 {
                info!(tombstones = self.entered, "indexed the tombstones of a store of an earlier version");
            }
            Ok(true)
        })
    }
}

/// Indexes the tombstones of a partition. Writers continue: the entry of a row that is rewritten meanwhile will be skipped.
fn index_partition(table: &Table, number: u8) -> Result<u64> {
    table.writing(|trees| {
        let mut entered = 0;
        for item in trees.partition(number) {
            let Some((row, bytes)) = table.readable(item)? else { continue };
            let head = match table.decode(&row, &bytes) {
                Ok(record) => record.head,
                // Not needed here, and for `check` to find.
                Err(Error::Corrupt(_)) => continue,
                Err(error) => return Err(error),
            };
            if !head.live {
                table.insert_index_entries(trees, &row, &head, true)?;
                entered += 1;
            } else if let (Some(at_ms), Some(removal_floor_ms)) =
                (head.expires_at_ms, due_index::removal_floor_ms(&head))
            {
                table.index_expiring(trees, &row, (at_ms, removal_floor_ms))?;
            }
        }
        Ok(entered)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            expiry, removal,
            tests::{stop_sweeping, swept},
        },
        *,
    };
    use crate::storage::tests::{Fixture, NOW_MS, close, deleted, merge, put, table, wait_until};

    /// A value that had come late lost its later floor when it was indexed again, and was removed before other members had it.
    #[test]
    fn a_late_value_stays_when_it_is_indexed_again() {
        let fixture = Fixture::new();
        let store = fixture.open();
        stop_sweeping(&store);
        store.0.context.floors.announced(NOW_MS);
        merge(&store, "k", put("1", Some(NOW_MS - 7), 0));
        store.meta().and_then(|meta| meta.remove(INDEXED_KEY)).expect("removes");
        let mut indexing = Indexing::default();
        while !indexing.is_done() {
            indexing.step(&store).expect("indexes");
        }
        store.sweep_to(swept(0, NOW_MS));
        expiry::announce(&store).expect("announces");
        removal::remove(&store, true).expect("removes");
        assert_eq!(store.tables()[0].1.live, 1);
        store.sweep_to(swept(0, NOW_MS + 1));
        removal::remove(&store, true).expect("removes");
        assert_eq!(store.tables()[0].1.live, 0);
        close(store);
    }

    /// The worker kept a table that was removed as it had no rows yet, failed to index it for ever, and never said that it was done: digests
    /// were compared no more.
    #[test]
    fn a_table_that_is_removed_while_tombstones_are_indexed_is_passed_over() {
        let fixture = Fixture::new();
        let store = fixture.open();
        stop_sweeping(&store);
        merge(&store, "k", deleted(NOW_MS - 2));
        store.meta().and_then(|meta| meta.remove(INDEXED_KEY)).expect("removes");
        let mut indexing = Indexing::default();
        assert_eq!(indexing.step(&store), Ok(Turn::Now));
        store.sweep_to(swept(NOW_MS - 1, 0));
        removal::remove(&store, false).expect("removes");
        wait_until("the table is removed", || {
            store.remove_empty_tables().expect("removes");
            store.table(&table()).is_none()
        });
        merge(&store, "k", deleted(NOW_MS));
        for _ in 0..1_000 {
            indexing.step(&store).expect("indexes");
        }
        assert!(indexing.is_done());
        close(store);
    }
}
