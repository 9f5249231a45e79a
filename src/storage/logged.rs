//! A change as the ring and the queues keep it: the record as it was stored, decoded and rendered once, by the first subscriber
//! that comes to it.
//!
//! Never by the pump, and never under the hub's lock: a long value's chunks are read from the engine, which may be waiting for
//! the pump.

use std::sync::{Arc, OnceLock};

use tracing::error;

use super::{
    change::{Change, Cursor, Effect, Gone},
    engine::Slice,
    table::Table,
};
use crate::core::{
    clock::Timestamp,
    name::{Key, TableName},
    register::Payload,
};

/// A change with its place in the stream.
pub struct Logged {
    /// Its place.
    pub cursor: Cursor,
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that did it.
    pub timestamp: Timestamp,
    /// About what it costs in memory.
    pub bytes: usize,
    source: Source,
    change: OnceLock<Option<Arc<Change>>>,
}

/// Where a change's value is to be had.
pub enum Source {
    /// The record that the feed gave, of this row.
    Record(Arc<Table>, Slice, Slice),
    /// Nowhere: the value went without a tombstone.
    Gone(Gone),
}

impl Logged {
    /// A change of a key that nobody decoded yet.
    pub fn new(
        cursor: Cursor,
        (table, key): (TableName, Key),
        timestamp: Timestamp,
        bytes: usize,
        source: Source,
    ) -> Self {
        Self { cursor, table, key, timestamp, bytes, source, change: OnceLock::new() }
    }

    /// What it made of its key. `None` where the value was long and a later write, whose change follows, has removed it; or
    /// where it is damaged, which the log says.
    pub fn change(&self) -> Option<Arc<Change>> {
        self.change.get_or_init(|| self.effect().map(|effect| self.decoded(effect))).clone()
    }

    fn effect(&self) -> Option<Effect> {
        let (table, row, bytes) = match &self.source {
            Source::Record(table, row, bytes) => (table, row, bytes),
            Source::Gone(gone) => return Some(Effect::Deleted(*gone)),
        };
        match table.read_change(row, bytes) {
            Ok(Some((_, Payload::Live { value, expires_at_ms }))) => {
                Some(Effect::Updated { value, expires_at_ms })
            }
            Ok(Some((_, Payload::Deleted))) => Some(Effect::Deleted(Gone::Deleted)),
            Ok(None) => None,
            Err(error) => {
                error!(%error, "a change was not published");
                None
            }
        }
    }

    fn decoded(&self, effect: Effect) -> Arc<Change> {
        let (table, key) = (self.table.clone(), self.key.clone());
        Arc::new(Change::new(Some(self.cursor), table, key, self.timestamp, effect))
    }
}
