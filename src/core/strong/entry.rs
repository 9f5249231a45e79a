//! What the log of the Raft group carries.

use std::fmt;

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
