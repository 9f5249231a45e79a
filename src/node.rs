//! Node (skeleton): the whole API of the system.
use std::{path::PathBuf, sync::Arc, time::Duration};

pub use crate::storage::{
    table::{Entry, Page, Range, Row},
    watch::{Change, Cursor, Effect, Gone, Notice, Start, Subscription, Topic},
};
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        json::Value,
        name::{Key, TableName},
    },
    error::Result,
};

/// What must hold for a write to happen, looked at under the same lock as the write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: the write always happens.
    #[default]
    Always,
    /// The key is absent here (`If-None-Match: *`).
    Absent,
    /// The key has a value here (`If-Match: *`).
    Present,
    /// The key's version here is one of these (`If-Match: "v1", "v2"`); an empty list never holds.
    Version(Vec<Timestamp>),
    /// The key's version here is none of these (`If-None-Match: "v1"`); an absent key passes.
    NotVersion(Vec<Timestamp>),
}

/// A patch of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(Value),
}

/// What a write does to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Gives it a value, for `ttl` or for ever.
    Put {
        /// The value.
        value: Value,
        /// How long it is to be seen.
        ttl: Option<Duration>,
    },
    /// Changes its value. An expiry stays.
    Patch(Patch),
    /// Removes it. Absent keys are `NotFound` unless `force`, which writes the tombstone all the same.
    Delete {
        /// Write the tombstone even where the key is absent.
        force: bool,
    },
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// What to do.
    pub action: Action,
    /// What must hold.
    pub condition: Condition,
}

/// A write that happened, and is durable as `--durability` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version it made.
    pub timestamp: Timestamp,
    /// Whether the key was absent here before.
    pub created: bool,
}

/// A row to import. Without a timestamp it is a new write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its table.
    pub table: TableName,
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// The version to keep, if it has one.
    pub timestamp: Option<Timestamp>,
    /// Unix milliseconds at which it expires, if it does.
    pub expires_at_ms: Option<u64>,
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows that changed what was here.
    pub written: u64,
    /// Rows that were here already, or older than what is here.
    pub skipped: u64,
}

/// Whether the node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Everything works.
    Ready,
    /// Reads and subscriptions work, writes are refused: why.
    ReadOnly(String),
    /// Not yet: `done` of `total` of the phase.
    Starting {
        /// What it is doing.
        phase: &'static str,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// It is stopping.
    Draining,
}

/// Figures of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStats {
    /// Its name.
    pub name: TableName,
    /// Live keys.
    pub keys: u64,
    /// Tombstones.
    pub tombstones: u64,
}

/// Figures of the node since its start; counters unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tables, by name.
    pub tables: Vec<TableStats>,
    /// Writes that changed a key.
    pub writes: u64,
    /// Writes that lost against a later one that was there.
    pub writes_superseded: u64,
    /// Flush-and-sync rounds: fewer than writes, as one serves all that wait.
    pub commits: u64,
    /// Changes published to the change stream.
    pub changes: u64,
    /// Subscriptions open now (gauge).
    pub subscriptions: u64,
    /// Times a subscriber had to be told to resynchronise because it read too slowly.
    pub resyncs: u64,
    /// Values that expired.
    pub expired: u64,
    /// Records that did not decode.
    pub corrupt_records: u64,
    /// Bytes of the storage directory (gauge).
    pub disk_bytes: u64,
    /// Writes refused because the storage was failing.
    pub writes_refused: u64,
}

/// How a node runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address others reach this node at, as text.
    pub address: String,
    /// The storage directory.
    pub data: PathBuf,
    /// How far ahead of the wall clock a foreign timestamp may be, in milliseconds.
    pub clock_drift_max_ms: u64,
}

/// A node.
pub struct Node;

#[expect(unused_variables, reason = "skeleton")]
impl Node {
    /// Opens the storage and starts everything that runs beside requests.
    pub async fn start(options: Options) -> Result<Arc<Self>> {
        todo!()
    }
    /// This node's id.
    pub fn id(&self) -> NodeId {
        todo!()
    }
    /// The address others reach this node at.
    pub fn address(&self) -> &str {
        todo!()
    }
    /// Unix milliseconds by this node's wall clock.
    pub fn now_ms(&self) -> u64 {
        todo!()
    }
    /// The live value of a key. Answers from memory or disk at once; no lock is held and nothing waits.
    pub fn get(&self, table: &TableName, key: &Key) -> Result<Option<Entry>> {
        todo!()
    }
    /// Writes, and returns when that is durable.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `Conflict`, `BadJson` (a patch that is none), `TooLarge` (a patched value),
    /// `StorageFull`, `TooMany` (tables), `Draining`.
    pub async fn write(&self, table: &TableName, write: Write) -> Result<Written> {
        todo!()
    }
    /// Writes many in one durable commit; results in order. `atomic`: the first failure keeps all from happening, and is returned.
    pub async fn batch(
        &self,
        table: &TableName,
        writes: Vec<Write>,
        atomic: bool,
    ) -> Result<Vec<Result<Written>>> {
        todo!()
    }
    /// Merges rows in one durable commit.
    pub async fn import(&self, rows: Vec<Import>) -> Result<Imported> {
        todo!()
    }
    /// A page of live keys: at most `rows_max`. May read the disk.
    pub async fn keys(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Key>> {
        todo!()
    }
    /// A page of live rows: at most `rows_max`, and about a quarter MiB.
    pub async fn rows(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Row>> {
        todo!()
    }
    /// How many live keys begin so.
    pub async fn count(&self, table: &TableName, prefix: &str) -> Result<u64> {
        todo!()
    }
    /// The tables that have rows, by name.
    pub fn tables(&self) -> Vec<TableStats> {
        todo!()
    }
    /// Follows topics.
    ///
    /// # Errors
    /// `TooMany` at the limit of subscriptions, `Draining`.
    pub fn watch(self: &Arc<Self>, topics: Vec<Topic>, start: Start) -> Result<Subscription> {
        todo!()
    }
    /// Advertised addresses of the members not known to be gone, sorted, this node's included.
    pub fn members(&self) -> Vec<String> {
        todo!()
    }
    /// Whether the node serves.
    pub fn readiness(&self) -> Readiness {
        todo!()
    }
    /// Figures.
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// The largest value taken, in bytes of JSON text as sent.
    pub fn value_bytes_max(&self) -> u64 {
        todo!()
    }
    /// Begins the end: refuses writes, ends every subscription with `Notice::Shutdown`. Requests in flight finish.
    pub fn drain(&self) {
        todo!()
    }
    /// Flushes, syncs and closes the storage.
    pub async fn close(&self) -> Result<()> {
        todo!()
    }
}
