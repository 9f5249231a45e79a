//! How a store is kept; `config` composes it.

use std::{path::PathBuf, sync::Arc};

use super::commit::Durability;

/// A wall clock: Unix milliseconds.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a store is kept.
#[derive(Clone)]
pub struct Options {
    /// The directory.
    pub data: PathBuf,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Memory for pages of the engine, in bytes.
    pub cache_bytes: u64,
    /// Most tables there can be.
    pub tables_max: usize,
    /// Most subscriptions at one time.
    pub subscriptions_max: usize,
    /// Move a directory that does not open aside, and start empty, instead of refusing to start.
    pub set_aside_damaged: bool,
    /// The wall clock.
    pub now_ms: WallClock,
}
