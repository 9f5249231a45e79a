//! Options of a store; `config` fills them in.

use std::path::PathBuf;

use super::{commit::Durability, environment::Environment};

/// Options of a store.
#[derive(Clone)]
pub struct Options {
    /// Its directory.
    pub data: PathBuf,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Memory for the engine's pages, in bytes.
    pub cache_bytes: u64,
    /// Bytes of the log that the scrub reads per second; 0 turns it off.
    pub scrub_bytes_per_second: u64,
    /// Most tables.
    pub tables_max: usize,
    /// Most subscriptions at a time.
    pub subscriptions_max: usize,
    /// Move a directory that does not open aside and start empty, instead of refusing to start.
    pub set_aside_damaged: bool,
    /// How to tell whether other nodes hold what this node holds.
    pub peers: Peers,
    /// The environment it runs in.
    pub environment: Environment,
}

/// How to tell whether other nodes hold what this node holds, so that they can restore what its storage lost.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    /// Whether the node was told to join others.
    pub joins: bool,
    /// Name of the note that lists them.
    pub note: &'static str,
    /// Whether the note lists any.
    pub are_in: fn(&[u8]) -> bool,
}

/// A node without peers.
impl Default for Peers {
    fn default() -> Self {
        Self { joins: false, note: "", are_in: |_| false }
    }
}
