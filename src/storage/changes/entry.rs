//! Changes as the ring and the queues hold them: the record as stored, decoded and rendered once, by the first subscriber that needs it.
//!
//! The pump never decodes, and nobody decodes under the hub's lock: a long value's chunks are read from the engine, which may be waiting
//! for the pump.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

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

/// Memory that a change takes beside its key and value.
const CHANGE_OVERHEAD_BYTES: usize = 256;

/// A change with its position in the stream.
pub struct LoggedChange {
    /// Its position; `None` if it was read from the store.
    pub cursor: Option<Cursor>,
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that did it.
    pub timestamp: Timestamp,
    /// A foreign cursor with an instant up to this one lacks the change; see `table::agreed`.
    pub label_ms: u64,
    /// Only subscribers that came with a foreign cursor need it.
    pub quiet: bool,
    /// Memory it takes, approximately.
    pub bytes: usize,
    source: Source,
    change: OnceLock<Option<Arc<Change>>>,
}

/// How a subscription starts.
pub enum Joined {
    /// With these changes, then with new ones.
    Replay(VecDeque<Arc<LoggedChange>>),
    /// With changes read from the store: the ring does not reach back to the cursor's instant.
    Stored,
    /// With a snapshot: the cursor cannot be resumed.
    Missed,
}

/// A change that has no position yet.
pub struct NewChange {
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that did it.
    pub timestamp: Timestamp,
    /// The later of its timestamp and, for an expired value, its expiry.
    pub label_ms: u64,
    /// Whether it ends a value that no subscriber of this node saw.
    pub quiet: bool,
    /// Memory it takes, approximately.
    pub bytes: usize,
    /// Where its value comes from.
    pub source: Source,
}

impl NewChange {
    /// The change that a row makes.
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

    /// The end of a value that leaves no tombstone.
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

/// Memory that a row's change takes: the value is held as stored, decoded and rendered.
pub fn change_bytes(row: &[u8], bytes: &[u8], record: &Record<'_>) -> usize {
    CHANGE_OVERHEAD_BYTES + 2 * row.len() + bytes.len() + 2 * record.plain_bytes()
}

/// Where a change's value comes from.
pub enum Source {
    /// The record from the feed, with its row.
    Record(Arc<Table>, Slice, Slice),
    /// There is none: the value was removed without a tombstone.
    Gone(Gone),
}

impl LoggedChange {
    /// Makes a change that is not decoded yet.
    pub fn new(
        cursor: Option<Cursor>,
        NewChange { table, key, timestamp, label_ms, quiet, bytes, source }: NewChange,
    ) -> Self {
        Self { cursor, table, key, timestamp, label_ms, quiet, bytes, source, change: OnceLock::new() }
    }

    /// Decodes the change. `None` if the value was long and a later write, whose change follows, has removed it; or if it is damaged, which
    /// is logged.
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
            Ok(Some((head, Payload::Deleted))) => {
                Some(Effect::Deleted(if head.expired { Gone::Expired } else { Gone::Deleted }))
            }
            Ok(None) => None,
            Err(error) => {
                error!(%error, "a change could not be published");
                None
            }
        }
    }

    fn decoded(&self, effect: Effect) -> Arc<Change> {
        let (table, key) = (self.table.clone(), self.key.clone());
        Arc::new(Change::new(self.cursor, table, key, self.timestamp, effect))
    }
}

#[cfg(test)]
impl LoggedChange {
    /// The end of the value of a key of its own, with a number and a size.
    pub fn of_test(sequence: u64, bytes: usize) -> Self {
        let new_change = NewChange {
            table: TableName::parse("t").expect("a name"),
            key: Key::parse(&format!("k{sequence}")).expect("a key"),
            timestamp: Timestamp { hlc: sequence, node: crate::core::clock::NodeId(1) },
            label_ms: 0,
            quiet: false,
            bytes,
            source: Source::Gone(Gone::Deleted),
        };
        Self::new(Some(Cursor { epoch: 1, sequence, agreed_ms: 0, cluster: 0 }), new_change)
    }
}
