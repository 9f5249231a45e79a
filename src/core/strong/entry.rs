//! What the log of the Raft group carries.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::core::{
    name::{Key, TableName},
    protocol::message::Row,
};

/// One entry of the log. It was evaluated by a leader, so applying it asks no questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The term of the leader that evaluated it. If it commits in another term it is void: something else may have come
    /// in between.
    pub term: u64,
    /// What it does, in order.
    pub effects: Vec<Effect>,
    /// Tells the leader that proposed it whether it came to be. It stays on that node.
    #[serde(skip)]
    pub proposal: Proposal,
}

impl Entry {
    /// An entry that was evaluated in a term.
    pub fn new(term: u64, effects: Vec<Effect>) -> Self {
        Self { term, effects, proposal: Proposal::default() }
    }
}

/// Whether an entry went to the log of the leader that proposed it. One that did not is nowhere, and has no effect ever. One
/// that did may be in other logs too, even if it is gone from this one. Clones share it; all are equal.
#[derive(Clone, Debug, Default)]
pub struct Proposal(Arc<AtomicBool>);

impl Proposal {
    /// The entry goes to the log.
    pub fn note_appended(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it went to the log, or may have gone.
    pub fn was_appended(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl PartialEq for Proposal {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// One effect of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Makes a strong table. Does nothing if it is there.
    Create(TableName),
    /// Merges a row.
    Merge(TableName, Row),
    /// Removes the tombstones of all strong tables that were written at or before this instant (Unix milliseconds), which
    /// every replica has applied durably.
    Sweep(u64),
}

/// What applying an entry gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// Its effects are in the store.
    Done,
    /// It committed in another term than it was evaluated in, and has no effect on any replica.
    Void,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} effects of term {}", self.effects.len(), self.term)
    }
}

/// A row's name.
pub type Name = (TableName, Key);
