//! Tombstones of a store that was written before there was an index of them. They are entered once, in the background, a
//! partition at a time; then a mark in `meta` says that it is done.

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

/// The key in `meta` that says that all dead rows are entered.
pub const INDEXED_KEY: &[u8] = b"tombstones-indexed";

/// How far the indexing of a store is.
#[derive(Default)]
pub enum Indexing {
    /// Nobody looked yet whether it is to be done.
    #[default]
    Unknown,
    /// On its way.
    Begun(Begun),
    /// Every tombstone has its entry, unless the engine was opened again after this life.
    Done(Incarnation),
}

/// An indexing on its way.
pub struct Begun {
    /// An engine that was opened again may have lost entries: all begins anew.
    incarnation: Incarnation,
    tables: Vec<Arc<Table>>,
    /// The partition that is next, of the last table.
    partition: u8,
    entered: u64,
}

impl Indexing {
    /// Whether every tombstone has its entry.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// Indexes a partition, if there is one to be done.
    pub fn step(&mut self, store: &Store) -> Result<Turn> {
        let reindex = &store.0.context.reindex;
        if reindex.load(Ordering::Acquire) {
            // One that is on its way may have entered rows in the tree of before, and said since that all are.
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
            None => {
                self.tables.pop();
                self.partition = 0;
            }
        }
    }

    /// Marks the store as indexed, unless it was opened again since the beginning.
    fn finish(&self, store: &Store) -> Result<bool> {
        store.with_engine(|engine| {
            // As long as the engine is held no other takes its place, so the mark follows the entries in one log.
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

/// Enters the tombstones of a partition. Writers go on: an entry of a row that is written meanwhile will be passed over.
fn index_partition(table: &Table, number: u8) -> Result<u64> {
    table.writing(|trees| {
        let mut entered = 0;
        for item in trees.partition(number) {
            let Some((row, bytes)) = table.readable(item)? else { continue };
            let head = match table.decode(&row, &bytes) {
                Ok(record) => record.head,
                // Of no use here, and for `check` to find.
                Err(Error::Corrupt(_)) => continue,
                Err(error) => return Err(error),
            };
            if !head.live {
                let entry = due_index::entry(head.marker.timestamp.unix_ms(), table.name(), &row);
                trees.tombstones.insert(&entry, &[])?;
                entered += 1;
            } else if let (Some(at_ms), Some(removal_floor_ms)) =
                (head.expires_at_ms, due_index::removal_floor_ms(&head))
                && trees.expired.get(&due_index::entry(removal_floor_ms, table.name(), &row))?.is_none()
            {
                trees.expiry.insert(&due_index::entry(at_ms, table.name(), &row), &[])?;
            }
        }
        Ok(entered)
    })
}
