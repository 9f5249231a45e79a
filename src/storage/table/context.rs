//! What the tables of a store share: its clock, counters and caches, and the ways to its threads.

use std::sync::{Arc, atomic::AtomicBool, mpsc};

use super::{
    agreed::AgreedInstants,
    cache::{DecodedValues, SharedValues},
    digests::SharedKey,
    floors::Floors,
    jobs::GcJob,
    lost::Reports,
    row_count::CloseComparison,
};
use crate::storage::{WallClock, commit::Committer, counters::Counters};

/// What a table shares with the store around it.
#[derive(Clone)]
pub struct TableContext {
    /// The wall clock, in Unix milliseconds.
    pub now_ms: WallClock,
    /// Where figures are kept.
    pub counters: Arc<Counters>,
    /// Where failures are reported and writers wait.
    pub committer: Arc<Committer>,
    /// Values that were decoded a while ago.
    pub decoded: Arc<DecodedValues>,
    /// Long values that are being read.
    pub shared: Arc<SharedValues>,
    /// The key under which rows are hashed.
    pub digest_key: Arc<SharedKey>,
    /// Work for the thread that sweeps.
    pub jobs: mpsc::Sender<GcJob>,
    /// How far the dead are gone.
    pub floors: Arc<Floors>,
    /// What was here at the opening.
    pub close_comparison: Arc<CloseComparison>,
    /// At which instants this store was compared with others, and what came late.
    pub agreed: Arc<AgreedInstants>,
    /// Where damage is reported.
    pub repairs: Reports,
    /// Whether what is due when is to be entered again, of all rows.
    pub reindex: Arc<AtomicBool>,
}
