//! What a node reports about itself: readiness, and figures.

use std::{collections::BTreeMap, mem, sync::PoisonError};

use tracing::{debug, info, warn};

use super::{Node, Range, process};
use crate::{
    core::{digest::Path, hex::to_hex, name::TableName},
    replication::SyncStatus,
    storage::table::partition::Counts,
};

/// Whether the node serves clients fully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Everything works.
    Ready,
    /// Reads and subscriptions work, writes are refused, for this reason.
    ReadOnly(String),
    /// It is looking for the cluster it was told to join, and does not know yet how much there is to receive. Says whose answer it waits
    /// for, if known. Serves what it has.
    Joining(Option<String>),
    /// Other members refuse it, and it has no link. Says why and what to do. Serves what it has.
    Refused(String),
    /// It is receiving the cluster's data. Serves what it has.
    Syncing {
        /// Rows received.
        done: u64,
        /// Rows to receive in total, as far as known.
        total: u64,
    },
    /// Its clock is wrong, or was when it made timestamps, which keeps it from the other nodes. Says what is wrong and what to do.
    Clock(String),
    /// Some of its data cannot be read, and the other members have not sent it again yet. Serves the rest.
    Repairing {
        /// The number of unreadable key ranges.
        ranges: u64,
    },
    /// A part of it has stopped working until a restart, for this reason.
    Broken(String),
    /// It is stopping.
    Draining,
}

impl Node {
    /// How many keys these tables have, including expired ones that are not swept yet; `None` if not counted yet.
    pub fn keys_total(&self, of: impl Fn(&TableName) -> bool) -> Option<u64> {
        let tables = self.store.is_counted().then(|| self.store.tables())?;
        Some(tables.iter().filter(|(name, _)| of(name)).map(|(_, counts)| counts.live).sum())
    }
}

impl Readiness {
    /// Why a node with this progress is not ready; `None` if it is.
    pub fn of(progress: &SyncStatus) -> Option<Self> {
        match progress {
            SyncStatus::Complete | SyncStatus::Agreed | SyncStatus::Alone => None,
            SyncStatus::Refused(why) => Some(Self::Refused(why.clone())),
            SyncStatus::Syncing { done, total } => Some(Self::Syncing { done: *done, total: *total }),
            SyncStatus::Joining(why) => Some(Self::Joining(why.clone())),
        }
    }

    /// The name for people and programs.
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

    /// What there is to say beyond the name.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::ReadOnly(why) | Self::Refused(why) | Self::Clock(why) | Self::Broken(why) => Some(why),
            Self::Joining(why) => why.as_deref(),
            Self::Ready | Self::Syncing { .. } | Self::Repairing { .. } | Self::Draining => None,
        }
    }
}

/// How a table is replicated. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each node takes writes, and replicas become equal afterwards.
    Eventual,
    /// A majority agrees on one order of writes.
    Strong,
}

impl Mode {
    /// The name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Strong => "strong",
        }
    }
}

/// Figures of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStats {
    /// Its name.
    pub name: TableName,
    /// How it is replicated.
    pub mode: Mode,
    /// Live keys.
    pub keys: u64,
    /// Bytes of its live keys and values: the values as stored, which is compressed.
    pub bytes: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// The digest of its rows, shortened: equal on nodes that hold the same. `None` if there is no digest tree, or not yet.
    pub root: Option<String>,
    /// Key ranges that cannot be read.
    pub unreadable_ranges: u64,
    /// Whether all rows are counted: the figures are of those that are.
    pub is_counted: bool,
}

impl TableStats {
    /// Whether it is shown. An eventual table without rows is as good as none.
    fn is_listed(&self) -> bool {
        self.mode == Mode::Strong
            || self.keys + self.tombstones + self.unreadable_ranges > 0
            || !self.is_counted
    }
}

/// Figures since the node's start; counters unless marked as gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Milliseconds since the start (gauge).
    pub uptime_ms: u64,
    /// Memory of the process in bytes (gauge); `None` if the system does not tell.
    pub memory_bytes: Option<u64>,
    /// Tables by name: the strong ones, and the eventual ones that have rows (gauges).
    pub tables: Vec<TableStats>,
    /// Whether the rows of all tables are counted.
    pub is_counted: bool,
    /// Writes that changed a key.
    pub writes: u64,
    /// Writes that lost to a later one.
    pub writes_superseded: u64,
    /// Flush-and-sync rounds. Fewer than writes, because one round serves all that wait.
    pub commits: u64,
    /// Changes published to the change stream.
    pub changes: u64,
    /// Subscriptions open now (gauge).
    pub subscriptions: u64,
    /// Times a subscriber had to resynchronize because it read too slowly.
    pub resyncs: u64,
    /// Values that expired.
    pub expired: u64,
    /// Records that failed to decode.
    pub corrupt_records: u64,
    /// 1 if the rows at the start differed from those at the last close, otherwise 0.
    pub start_mismatches: u64,
    /// Whether rows may be missing, outdated, or wrongly undeleted (gauge); `Node::suspected_loss` says why.
    pub may_have_lost_rows: bool,
    /// Size of the storage directory in bytes (gauge).
    pub disk_bytes: u64,
    /// Writes refused because the storage was failing.
    pub writes_refused: u64,
    /// Key ranges that cannot be read, over all tables (gauge).
    pub unreadable_ranges: u64,
    /// Bytes of the log read to check for damage.
    pub scrubbed_bytes: u64,
    /// Places in the log where damage was found.
    pub damaged_frames: u64,
}

impl Node {
    /// The strong tables, and the eventual ones that have rows, by name, as far as they are counted.
    pub fn tables(&self) -> Vec<TableStats> {
        let mut tables = self.tables_without_roots();
        // That of others would wait for the partition that is being counted.
        for table in tables.iter_mut().filter(|table| table.is_counted) {
            table.root = self.table_root(&table.name);
        }
        tables
    }

    /// As `tables`, without the digests of their rows, which take a while to compute.
    pub fn tables_without_roots(&self) -> Vec<TableStats> {
        // Before the figures are read, which may be counted meanwhile.
        let uncounted = self.store.uncounted_tables();
        let strong = self.store.strong_tables();
        let empty = strong.iter().map(|name| (name.clone(), Counts::default()));
        let counts: BTreeMap<_, _> = empty.chain(self.store.tables()).collect();
        let tables = counts.into_iter().map(|(name, counts)| TableStats {
            mode: if strong.contains(&name) { Mode::Strong } else { Mode::Eventual },
            keys: counts.live,
            bytes: counts.live_bytes,
            tombstones: counts.tombstones,
            root: None,
            unreadable_ranges: self.store.unreadable_ranges_of(&name),
            is_counted: !uncounted.contains(&name),
            name,
        });
        tables.filter(TableStats::is_listed).collect()
    }

    /// The digest of a table's rows as they are now, in hexadecimal; `None` while it is not available.
    fn table_root(&self, table: &TableName) -> Option<String> {
        // The last possible instant, so that every row is included.
        let sums = self.store.sums(table, Path::ROOT, 0, u64::MAX).ok().flatten()?;
        let root = self.store.digest_key().root([(table, *sums.first()?)].into_iter());
        Some(to_hex(&root.0))
    }

    /// For how long the node has run, in milliseconds.
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Figures of the node.
    pub fn stats(&self) -> Stats {
        let is_counted = self.store.is_counted();
        Stats { tables: self.tables(), is_counted, disk_bytes: self.store.disk_bytes(), ..self.quick_stats() }
    }

    /// Those that cost little to read: without the tables and the size of the directory.
    pub fn quick_stats(&self) -> Stats {
        let counters = self.store.counters();
        Stats {
            uptime_ms: self.uptime_ms(),
            memory_bytes: process::memory_bytes(),
            tables: Vec::new(),
            is_counted: self.store.is_counted(),
            writes: counters.writes.value(),
            writes_superseded: counters.writes_superseded.value(),
            commits: counters.commits.value(),
            changes: counters.changes.value(),
            subscriptions: counters.subscriptions.value(),
            resyncs: counters.resyncs.value(),
            expired: counters.expired.value(),
            corrupt_records: counters.corrupt_records.value(),
            start_mismatches: counters.start_mismatches.value(),
            may_have_lost_rows: self.store.suspected_loss().is_some(),
            disk_bytes: 0,
            writes_refused: counters.writes_refused.value(),
            unreadable_ranges: self.store.unreadable_ranges(),
            scrubbed_bytes: counters.scrubbed_bytes.value(),
            damaged_frames: counters.damaged_frames.value(),
        }
    }

    /// Whether the node serves clients. Logs each change since the last call.
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

    /// A node that joins says elsewhere whom it waits for, and a node that stops says so too.
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
            // Without other members there is nobody to repair from, so it is as ready as it will be.
            let others = cluster.members.iter().filter(|member| member.state.is_replica()).count() > 1;
            let ranges = if others { self.store.unreadable_ranges() } else { 0 };
            match cluster.unready() {
                // It is syncing to get back what it lost.
                Some(Readiness::Syncing { .. }) | None if ranges > 0 => Some(Readiness::Repairing { ranges }),
                unready => unready,
            }
        };
        failure.or_else(unready).unwrap_or(Readiness::Ready)
    }

    /// Whether some keys in this range are already known to be unreadable.
    pub fn has_unreadable_keys(&self, table: &TableName, range: &Range) -> bool {
        self.store.has_unreadable(table, range)
    }

    /// How many key ranges cannot be read.
    pub fn unreadable_ranges(&self) -> u64 {
        self.store.unreadable_ranges()
    }
}
