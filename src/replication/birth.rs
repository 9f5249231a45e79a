//! What a node remembers of its cluster over restarts: which it belongs to, whether it has all of it, and up to when it shared
//! what it wrote.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    storage::Store,
};

/// The name of the note in the storage.
const NOTE: &str = "cluster";
/// The format of the note.
const FORMAT: u8 = 1;

/// What a node remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// The cluster's id: random, that of its first node.
    pub cluster: u64,
    /// Whether it belongs there for good: it has had all that the cluster has, or the cluster began with it. Before that it goes
    /// over to any cluster it meets.
    pub settled: bool,
    /// Whether it has finished its first sync.
    pub whole: bool,
    /// Up to here (Unix milliseconds) others had what it wrote.
    pub shared_ms: u64,
    /// Up to here (Unix milliseconds) it had all that the cluster had.
    pub held_ms: u64,
    /// The highest of its incarnations that it knows to have been forgotten.
    pub forgotten: u64,
}

impl Birth {
    /// What a store says, or else that of a new node: one that is to join others is not whole before it has what they have.
    ///
    /// # Errors
    /// `StorageDamaged` for a note that this program did not write.
    pub fn read(store: &Store, joins: bool) -> Result<Self> {
        let Some(note) = store.note(NOTE)? else {
            let cluster = store.machine().random()?;
            return Ok(Self {
                cluster,
                settled: false,
                whole: !joins,
                shared_ms: 0,
                held_ms: 0,
                forgotten: 0,
            });
        };
        let read = match note.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).ok(),
            Some(_) | None => None,
        };
        read.ok_or_else(|| Error::StorageDamaged("the note of the node's cluster is not readable".into()))
    }

    /// Writes it down. Durable by the next commit.
    pub fn write(&self, store: &Store) -> Result<()> {
        let note = postcard::to_extend(self, vec![FORMAT])
            .map_err(|e| Error::Io(format!("writing the note of the cluster: {e}")))?;
        store.set_note(NOTE, &note)
    }
}
