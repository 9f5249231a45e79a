//! Options of a store; `config` fills them in.

use std::path::PathBuf;

use super::{commit::Durability, environment::Environment};
use crate::core::{
    digest::tree::RECENTS_MAX,
    memory_pressure::{Level, MemoryPressure},
};

/// Options of a store.
#[derive(Clone)]
pub struct Options {
    /// Its directory.
    pub data: PathBuf,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Memory for the engine's pages, in bytes.
    pub cache_bytes: u64,
    /// Memory for what it keeps beside them.
    pub buffers: Buffers,
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

/// Memory for what a store keeps beside pages, in bytes.
#[derive(Clone, Debug)]
pub struct Buffers {
    /// Decoded values of hot keys.
    pub decoded_bytes: u64,
    /// Changes for subscribers who come back.
    pub changes_bytes: u64,
    /// Most recent changes that the digest tree of each partition keeps, of 96 bytes each.
    pub recents_max: usize,
    /// Whether memory is scarce: then there are fewer changes, and slow subscribers resynchronise.
    pub pressure: MemoryPressure,
}

/// The share of the changes that is kept while memory is scarce.
const SCARCE_SHARE: u64 = 4;

impl Buffers {
    /// Whether memory is scarce.
    pub fn are_scarce(&self) -> bool {
        self.pressure.level() > Level::Low
    }

    /// How many bytes of changes to keep now.
    pub fn changes_bytes_now(&self) -> usize {
        (if self.are_scarce() { self.changes_bytes / SCARCE_SHARE } else { self.changes_bytes }) as usize
    }
}

/// Where memory is no concern.
impl Default for Buffers {
    fn default() -> Self {
        Self {
            decoded_bytes: 16 << 20,
            changes_bytes: 32 << 20,
            recents_max: RECENTS_MAX,
            pressure: MemoryPressure::default(),
        }
    }
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
