//! What the tables of a store share: its clock, counters and caches, and the channels to its threads.

use std::sync::{Arc, atomic::AtomicBool, mpsc};

use super::{
    agreed::AgreedInstants,
    cache::{HotValues, SharedValues},
    digests::SharedKey,
    floors::Floors,
    jobs::GcJob,
    lost::Reports,
    mode::StrongTables,
    row_count::CloseComparison,
    tap::Tap,
};
use crate::storage::{WallClock, commit::Committer, counters::Counters, environment::Waiting};

/// What all tables of a store share.
#[derive(Clone)]
pub struct TableContext {
    /// The wall clock, in Unix milliseconds.
    pub now_ms: WallClock,
    /// Counters and gauges.
    pub counters: Arc<Counters>,
    /// Takes reports of failures; writers wait there.
    pub committer: Arc<Committer>,
    /// Values of keys that were read lately.
    pub hot: Arc<HotValues>,
    /// Long values that are being read.
    pub shared: Arc<SharedValues>,
    /// Most recent changes that the digest tree of a partition keeps.
    pub recents_max: usize,
    /// The key under which rows are hashed.
    pub digest_key: Arc<SharedKey>,
    /// Jobs for the garbage collector.
    pub jobs: mpsc::Sender<GcJob>,
    /// The removal floors.
    pub floors: Arc<Floors>,
    /// The comparison with the last close.
    pub close_comparison: Arc<CloseComparison>,
    /// When this store was compared with others, and which rows came late.
    pub agreed: Arc<AgreedInstants>,
    /// Where damage is reported.
    pub repairs: Reports,
    /// The strong tables.
    pub strong: Arc<StrongTables>,
    /// Whether all rows must be indexed again.
    pub reindex: Arc<AtomicBool>,
    /// The rows that change while a backup runs.
    pub tap: Arc<Tap>,
    /// Requests that wait for batches.
    pub waiting: Arc<Waiting>,
}
