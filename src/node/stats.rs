//! What a node says of itself.

use std::{mem, sync::PoisonError};

use tracing::{debug, info, warn};

use super::{Node, Range};
use crate::{core::name::TableName, replication::Progress};

/// Whether the node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Everything works.
    Ready,
    /// Reads and subscriptions work, writes are refused: why.
    ReadOnly(String),
    /// It looks for the cluster that it was told to join, and does not know yet what there is: of whom it waits for an answer, if
    /// that is known. Serves what it has.
    Joining(Option<String>),
    /// Other members refuse it, and it is linked with none: why, and what to do. Serves what it has.
    Refused(String),
    /// It receives what the cluster has. Serves what it has.
    Syncing {
        /// Rows received.
        done: u64,
        /// Rows there are to receive, as far as is known.
        total: u64,
    },
    /// Its clock, or what it stamped while that was wrong, keeps it from the other nodes: what is wrong, and what to do.
    Clock(String),
    /// Some of what it holds cannot be read, and the other members have not given it back yet. Serves the rest.
    Repairing {
        /// How many ranges of keys.
        ranges: u64,
    },
    /// It does not do all that it should, until it is started again: why.
    Broken(String),
    /// It is stopping.
    Draining,
}

impl Node {
    /// How many keys these tables have, expired ones until they are swept included; `None` where they are not counted yet.
    pub fn keys_total(&self, of: impl Fn(&TableName) -> bool) -> Option<u64> {
        let tables = self.store.is_counted().then(|| self.store.tables())?;
        Some(tables.iter().filter(|(name, _)| of(name)).map(|(_, counts)| counts.live).sum())
    }
}

impl Readiness {
    /// What follows from how far a node has come to hold what the cluster holds, where that is not enough.
    pub fn of(progress: &Progress) -> Option<Self> {
        match progress {
            Progress::Whole | Progress::Agreed | Progress::Alone => None,
            Progress::Refused(why) => Some(Self::Refused(why.clone())),
            Progress::Syncing { done, total } => Some(Self::Syncing { done: *done, total: *total }),
            Progress::Joining(why) => Some(Self::Joining(why.clone())),
        }
    }

    /// Its name, as people and programs see it.
    pub fn phase(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::ReadOnly(_) => "read-only",
            Self::Joining(_) => "joining",
            Self::Refused(_) => "refused",
            Self::Syncing { .. } => "syncing",
            Self::Clock(_) => "clock",
            Self::Repairing { .. } => "repairing",
            Self::Broken(_) => "broken",
            Self::Draining => "draining",
        }
    }

    /// What there is to know of it beside its name.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::ReadOnly(why) | Self::Refused(why) | Self::Clock(why) | Self::Broken(why) => Some(why),
            Self::Joining(why) => why.as_deref(),
            Self::Ready | Self::Syncing { .. } | Self::Repairing { .. } | Self::Draining => None,
        }
    }
}

/// Figures of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStats {
    /// Its name.
    pub name: TableName,
    /// Live keys.
    pub keys: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// The digest of its rows, some digits of it: equal on nodes that hold the same. `None` where there are no trees, or not yet.
    pub root: Option<String>,
    /// Ranges of keys that cannot be read.
    pub unreadable_ranges: u64,
}

/// Figures of the node since its start; counters unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Milliseconds since the start (gauge).
    pub uptime_ms: u64,
    /// Memory of the process, in bytes (gauge); `None` where the system does not say.
    pub memory_bytes: Option<u64>,
    /// Tables that have rows, by name (gauges).
    pub tables: Vec<TableStats>,
    /// Writes that changed a key.
    pub writes: u64,
    /// Writes that lost against a later one that was there.
    pub writes_superseded: u64,
    /// Flush-and-sync rounds: fewer than writes, as one serves all that wait.
    pub commits: u64,
    /// Changes published to the change stream.
    pub changes: u64,
    /// Subscriptions open now (gauge).
    pub subscriptions: u64,
    /// Times a subscriber had to be told to resynchronise because it read too slowly.
    pub resyncs: u64,
    /// Values that expired.
    pub expired: u64,
    /// Records that did not decode.
    pub corrupt_records: u64,
    /// Whether the rows were not those of the last close when the node started: 0 or 1.
    pub start_mismatches: u64,
    /// Whether rows may be missing, older than they were, or back from the dead (gauge); `Node::suspected_loss` says why.
    pub may_have_lost_rows: bool,
    /// Bytes of the storage directory (gauge).
    pub disk_bytes: u64,
    /// Writes refused because the storage was failing.
    pub writes_refused: u64,
    /// Ranges of keys that cannot be read, of all tables (gauge).
    pub unreadable_ranges: u64,
    /// Bytes of the log that were read to look for damage.
    pub scrubbed_bytes: u64,
    /// Places of the log where damage was found.
    pub damaged_frames: u64,
}

impl Node {
    /// Whether the node serves. Where that is not what it was when somebody asked last, the log says so.
    pub fn readiness(&self) -> Readiness {
        let readiness = self.readiness_now();
        let phase = readiness.phase();
        let before =
            mem::replace(&mut *self.last_phase.lock().unwrap_or_else(PoisonError::into_inner), phase);
        if before != phase {
            self.log_readiness(&readiness);
        }
        readiness
    }

    /// A node that joins says elsewhere for whom it waits; one that stops, that it does.
    fn log_readiness(&self, readiness: &Readiness) {
        let (phase, detail) = (readiness.phase(), readiness.detail());
        match readiness {
            Readiness::Ready => info!("ready"),
            Readiness::Joining(_) | Readiness::Syncing { .. } | Readiness::Draining => {
                debug!(phase, detail, "not ready")
            }
            Readiness::ReadOnly(_) | Readiness::Refused(_) | Readiness::Clock(_) | Readiness::Broken(_) => {
                warn!("not ready ({phase}): {}", detail.unwrap_or_default())
            }
            Readiness::Repairing { ranges } => {
                warn!("not ready ({phase}): ranges of keys that cannot be read: {ranges}")
            }
        }
    }

    fn readiness_now(&self) -> Readiness {
        if self.is_draining() {
            return Readiness::Draining;
        }
        let failure = self.store.failure().map(Readiness::ReadOnly);
        let failure = failure.or_else(|| self.store.stopped_thread().map(Readiness::Broken));
        let unready = || {
            let cluster = self.cluster();
            // Who is alone with what it lost is as ready as it will ever be.
            let others = cluster.members.iter().filter(|member| member.state.is_replica()).count() > 1;
            let ranges = if others { self.store.unreadable_ranges() } else { 0 };
            match cluster.unready() {
                // It is that because of what it lost.
                Some(Readiness::Syncing { .. }) | None if ranges > 0 => Some(Readiness::Repairing { ranges }),
                unready => unready,
            }
        };
        failure.or_else(unready).unwrap_or(Readiness::Ready)
    }

    /// Whether it is known already that keys of a listing cannot be read.
    pub fn has_unreadable_keys(&self, table: &TableName, range: &Range) -> bool {
        self.store.lacks(table, range)
    }

    /// How many ranges of keys cannot be read.
    pub fn unreadable_ranges(&self) -> u64 {
        self.store.unreadable_ranges()
    }
}
