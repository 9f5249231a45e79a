//! A change as the ring and the queues keep it: the record as it was stored, decoded and rendered once, by the first subscriber
//! that comes to it.
//!
//! Never by the pump, and never under the hub's lock: a long value's chunks are read from the engine, which may be waiting for
//! the pump.

use std::sync::{Arc, OnceLock};

use tracing::error;

use super::change::{Change, Cursor, Effect, Gone};
use crate::{
    core::{
        clock::Timestamp,
        name::{Key, TableName},
        register::Payload,
    },
    storage::{
        engine::Slice,
        table::{
            Table,
            record::{Head, Record},
        },
    },
};

/// What a change costs in memory beside its key and value.
const CHANGE_OVERHEAD_BYTES: usize = 256;

/// A change with its place in the stream.
pub struct LoggedChange {
    /// Its place; `None` for one that is told from the store.
    pub cursor: Option<Cursor>,
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that did it.
    pub timestamp: Timestamp,
    /// A cursor of another node with an instant up to there lacks it; see `agreed`.
    pub label_ms: u64,
    /// What only those need to be told who came with the cursor of another node.
    pub quiet: bool,
    /// About what it costs in memory.
    pub bytes: usize,
    source: Source,
    change: OnceLock<Option<Arc<Change>>>,
}

/// A change that has no place yet.
pub struct NewChange {
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that did it.
    pub timestamp: Timestamp,
    /// The later of its timestamp and, of a value that expired, its expiry.
    pub label_ms: u64,
    /// Whether it is the end of what nobody saw here.
    pub quiet: bool,
    /// About what it costs in memory.
    pub bytes: usize,
    /// Where its value is.
    pub source: Source,
}

impl NewChange {
    /// What a row says of its key.
    pub fn of_row(
        table: &Arc<Table>,
        key: Key,
        head: &Head,
        bytes: usize,
        (row, record): (Slice, Slice),
    ) -> Self {
        let timestamp = head.marker.timestamp;
        let source = Source::Record(table.clone(), row, record);
        let (table, label_ms) = (table.name().clone(), timestamp.unix_ms());
        Self { table, key, timestamp, label_ms, quiet: head.quiet, bytes, source }
    }

    /// The end of a value that has no tombstone.
    pub fn of_end(table: &TableName, key: Key, head: &Head, gone: Gone, quiet: bool) -> Self {
        let bytes = CHANGE_OVERHEAD_BYTES + 2 * key.as_str().len();
        let (table, timestamp) = (table.clone(), head.marker.timestamp);
        let expired_ms = match gone {
            Gone::Expired => head.expires_at_ms,
            Gone::Deleted => None,
        };
        let label_ms = timestamp.unix_ms().max(expired_ms.unwrap_or(0));
        Self { table, key, timestamp, label_ms, quiet, bytes, source: Source::Gone(gone) }
    }
}

/// What a row's change costs in memory: the value is held as stored, decoded and rendered.
pub fn change_bytes(row: &[u8], bytes: &[u8], record: &Record<'_>) -> usize {
    CHANGE_OVERHEAD_BYTES + 2 * row.len() + bytes.len() + 2 * record.plain_bytes()
}

/// Where a change's value is to be had.
pub enum Source {
    /// The record that the feed gave, of this row.
    Record(Arc<Table>, Slice, Slice),
    /// Nowhere: the value went without a tombstone.
    Gone(Gone),
}

impl LoggedChange {
    /// A change of a key that nobody decoded yet.
    pub fn new(
        cursor: Option<Cursor>,
        NewChange { table, key, timestamp, label_ms, quiet, bytes, source }: NewChange,
    ) -> Self {
        Self { cursor, table, key, timestamp, label_ms, quiet, bytes, source, change: OnceLock::new() }
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
        Arc::new(Change::new(self.cursor, table, key, self.timestamp, effect))
    }
}
