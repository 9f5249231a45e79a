//! How a store is kept; `config` composes it.

use std::path::PathBuf;

use super::{commit::Durability, machine::Machine};

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
    /// What it runs on.
    pub machine: Machine,
}
