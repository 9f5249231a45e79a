//! Keys, values, changes, transactions and the cluster, as the window knows them. Plain data.

use std::sync::Arc;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// JSON text.
    Json(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Value {
    /// Its length in bytes.
    pub fn length(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: Value,
    /// Its version, by which writes are guarded.
    pub version: String,
    /// When it was written, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// When it expires, in Unix milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// What a list shows of a key besides its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Arc<str>,
    /// The beginning of its value, in one line.
    pub preview: String,
    /// Its version.
    pub version: String,
    /// When it expires, in Unix milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// How a table is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each node takes writes alone.
    Eventual,
    /// A majority agrees on each write.
    Strong,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: Mode,
    /// Keys that have a value.
    pub keys: u64,
}

/// A change that was seen as it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key was set.
    Set(Entry),
    /// A key was deleted, or has expired.
    Deleted {
        /// The key.
        key: Arc<str>,
        /// The version of the deletion.
        version: String,
        /// When, in Unix milliseconds.
        timestamp_ms: u64,
        /// Whether it has expired.
        expired: bool,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Set(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }
}

/// The cluster as the node sees it that answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The id of the cluster.
    pub id: String,
    /// The id of the node that answers.
    pub node: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Its version.
    pub version: String,
    /// How long it has run.
    pub uptime_ms: u64,
    /// Whether it serves.
    pub phase: String,
    /// What there is to say of the phase.
    pub detail: String,
    /// All members.
    pub members: Vec<Member>,
    /// The leader of the strong tables, its term, and how far their log is applied; `None` without a group.
    pub group: Option<Group>,
}

/// The group of the strong tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The id of the leader; empty while none is known.
    pub leader: String,
    /// The term.
    pub term: u64,
    /// The last entry that the node has applied.
    pub applied_index: u64,
    /// The last entry in its log.
    pub log_index: u64,
    /// The ids of the members that count for majorities.
    pub voters: Vec<String>,
    /// The ids of those that only follow.
    pub learners: Vec<String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// Its id.
    pub node: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Its state, as a word.
    pub state: &'static str,
    /// How long it has been in this state.
    pub since_ms: u64,
    /// Whether the node that answers has a link with it.
    pub linked: bool,
    /// The round trip to it.
    pub round_trip_ms: Option<f64>,
    /// Its rows.
    pub rows: Option<u64>,
    /// How old its data may be.
    pub lag_ms: Option<u64>,
    /// Rows that wait to be sent to it.
    pub outbox: u64,
    /// Why it takes no rows.
    pub trouble: String,
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key has no value.
    Absent,
    /// The key has this version.
    Version(String),
}

/// When a value expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It does not.
    Never,
    /// At this instant, in Unix milliseconds.
    At(u64),
    /// So many milliseconds after the write.
    After(u64),
}

/// The name of a key and of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The table.
    pub table: String,
    /// The key.
    pub key: String,
}

/// What a transaction expects of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whether it has a value.
    Exists(bool),
    /// Its version.
    Version(String),
    /// Its value, as JSON.
    Json(String),
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a key.
    Get(Place),
    /// Sets a key.
    Set(Place, String, Expiry),
    /// Deletes a key.
    Delete(Place),
}

/// A transaction: if all checks hold, the first list of operations, otherwise the second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What is checked.
    pub checks: Vec<(Place, Expected)>,
    /// What is done if all checks hold.
    pub success: Vec<Operation>,
    /// What is done otherwise.
    pub failure: Vec<Operation>,
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether all checks held.
    pub succeeded: bool,
    /// What each operation gave, in words.
    pub results: Vec<String>,
}
