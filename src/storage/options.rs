//! How a store is kept; `config` composes it.

use std::path::PathBuf;

use super::{commit::Durability, environment::Environment};

/// How a store is kept.
#[derive(Clone)]
pub struct Options {
    /// The directory.
    pub data: PathBuf,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Memory for pages of the engine, in bytes.
    pub cache_bytes: u64,
    /// Bytes of the log that are read each second to look for damage; 0 for none.
    pub scrub_bytes_per_second: u64,
    /// Most tables there can be.
    pub tables_max: usize,
    /// Most subscriptions at one time.
    pub subscriptions_max: usize,
    /// Move a directory that does not open aside, and start empty, instead of refusing to start.
    pub set_aside_damaged: bool,
    /// What says whether others hold what this node holds.
    pub peers: Peers,
    /// What it runs on.
    pub environment: Environment,
}

/// What says whether there are other nodes that hold what this one holds, so that they can give back what its storage lost.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    /// Whether the node was told to join others.
    pub joins: bool,
    /// The name of the note in which it remembers them.
    pub note: &'static str,
    /// Whether such a note names any.
    pub are_in: fn(&[u8]) -> bool,
}

/// Of a node that is alone.
impl Default for Peers {
    fn default() -> Self {
        Self { joins: false, note: "", are_in: |_| false }
    }
}
