//! One node: the whole API of the system, as function calls. HTTP and the command line make these calls; the layers below do not know who
//! calls.
//!
//! The node owns the write path (`write`, `batch`, `removal`): it checks the condition, takes the timestamp and merges, and only then waits
//! for the commit and the replicas. It also owns readiness and figures (`stats`), cluster commands and the view of the cluster
//! ([`cluster`]), the proofs that administrators give ([`admin`]), and the order of start and shutdown.
//!
//! The wall clock enters the system here, and with it the timestamps of writes.

pub mod admin;
pub mod admin_token;
mod background;
mod backup;
mod backup_pace;
mod backup_schedule;
mod batch;
pub mod cluster;
mod counts;
pub mod etcd;
mod link;
pub mod process;
mod reads;
mod removal;
pub mod reports;
mod row_count;
mod stats;
pub mod strong;
mod write;
mod write_concern;
mod write_tracker;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::{sync::Notify, task::JoinSet};
use tracing::debug;

pub use self::{
    admin::AdminKeys,
    admin_token::{AdminToken, TOKEN_FILE},
    backup::BackupLines,
    backup_schedule::{LastBackup, Schedule as BackupSchedule, ScheduledBackups},
    batch::Batch,
    cluster::{
        ClockState, ClusterView, EtcdView, GroupMember, GroupView, MemberState, MemberView, ProposalResult,
        RequestFigures, SyncStatus,
    },
    link::{IncomingLink, LINK_PATH, other_protocol, subprotocol},
    removal::Removal,
    stats::{Mode, Readiness, Stats, TableStats},
    write::{Action, Condition, Expiry, Import, Imported, Patch, Write, Written},
    write_concern::{Replicas, WriteConcern},
};
use self::{
    background::CloseOnDrop,
    counts::Counts,
    row_count::RowCount,
    write_tracker::{WritePermit, WriteTracker},
};
pub use crate::replication::{
    link::address::network, request_id::with_request_id, strong::backend::Choice as StrongBackend,
};
pub use crate::storage::{
    WallClock,
    changes::{
        change::{Change, Cursor, Effect, Gone, Topic},
        delivery::{Offered, Sink},
        subscription::{Notice, Start, Subscription},
    },
    environment::run_aside,
    table::{
        Entry,
        scan::{Counted, Page, Range, Row},
    },
};
use crate::{
    core::{
        clock::NodeId,
        name::{Key, TableName},
    },
    error::{Error, Result},
    replication::{
        self, Replication,
        strong::backend::{self, Backend},
    },
    storage::{
        self, Environment, Store,
        commit::{Incarnation, timestamps::Timestamps},
        environment::wall_clock::system_ms,
        table::mode::RAFT_LOG,
    },
};

/// Settings of a node.
#[derive(Clone)]
pub struct Options {
    /// The address others reach this node at, as text.
    pub address: String,
    /// Settings of its storage.
    pub storage: storage::Options,
    /// How far a foreign timestamp may be ahead of the wall clock, in milliseconds.
    pub clock_drift_max_ms: u64,
    /// The largest value, in bytes of JSON text.
    pub value_bytes_max: u64,
    /// Settings of replication.
    pub replication: replication::Options,
    /// Who agrees on the order of writes to strong tables.
    pub strong_backend: StrongBackend,
    /// The mode of a table that a write makes.
    pub new_tables: Mode,
    /// Whether it answers the etcd API, and so keeps what the last revisions changed.
    pub etcd_api: bool,
    /// The backups that it makes by itself, if it does.
    pub backups: Option<BackupSchedule>,
}

/// The system's clock, unchecked, for commands that run briefly. A node uses the checked clock of `storage::environment::wall_clock`.
pub fn wall_clock() -> WallClock {
    Arc::new(system_ms)
}

/// A node.
pub struct Node {
    options: Options,
    store: Store,
    timestamps: Arc<Timestamps>,
    replication: Replication,
    strong: Arc<dyn Backend>,
    admin_keys: AdminKeys,
    admin_token: AdminToken,
    write_tracker: WriteTracker,
    started: Instant,
    draining: AtomicBool,
    /// The phase logged last.
    last_phase: Mutex<&'static str>,
    drain_begun: Notify,
    authenticator: admin::Authenticator,
    backups: backup_schedule::Figures,
    background: Mutex<JoinSet<()>>,
    reporter: OnceLock<Arc<dyn reports::Reporter>>,
    row_count: RowCount,
    counts: Counts,
}

impl Node {
    /// Opens the storage and starts all background tasks.
    ///
    /// # Errors
    /// As `Store::open`.
    pub async fn start(options: Options) -> Result<Arc<Self>> {
        let (storage, environment) = (options.storage.clone(), &options.storage.environment);
        let (store, admin_token) = environment
            .run(move || {
                let (data, environment) = (storage.data.clone(), storage.environment.clone());
                let store = Store::open(storage)?;
                let token =
                    AdminToken::read_or_make(&data, &environment).inspect_err(|_| drop(store.close()))?;
                Ok::<_, Error>((store, token))
            })
            .await?;
        let close_on_drop = CloseOnDrop::new(&store);
        let timestamps = Arc::new(Timestamps::new(store.clone(), options.clock_drift_max_ms));
        let background = background::run(&store, &timestamps);
        timestamps.wait_for_wall_clock().await;
        let replication = Replication::start(options.replication.clone(), store.clone(), timestamps.clone())?;
        let parts = strong::parts(&replication, &store, &timestamps, &options);
        let log = options.storage.data.join(RAFT_LOG);
        let strong = backend::start(parts, log, &options.strong_backend).await?;
        let mut admin_keys = AdminKeys::of(&options.replication.secrets);
        admin_keys.0.push(admin_token.key());
        let node = Arc::new(Self {
            counts: Counts::new(store.environment()),
            options,
            store,
            timestamps,
            replication,
            strong,
            admin_keys,
            admin_token,
            write_tracker: WriteTracker::default(),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            last_phase: Mutex::new(Readiness::Ready.phase()),
            drain_begun: Notify::new(),
            authenticator: admin::Authenticator::new()?,
            backups: backup_schedule::Figures::default(),
            background: Mutex::new(background),
            reporter: OnceLock::new(),
            row_count: RowCount::default(),
        });
        close_on_drop.disarm();
        node.count_rows();
        if let Some(schedule) = node.options.backups.clone() {
            let backups = backup_schedule::run(Arc::downgrade(&node), schedule);
            node.background.lock().unwrap_or_else(PoisonError::into_inner).spawn(backups);
        }
        debug!(id = %node.id(), data = %node.options.storage.data.display(), "the node is up");
        Ok(node)
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.store.node()
    }

    /// The token that may do everything here.
    pub fn admin_token(&self) -> &AdminToken {
        &self.admin_token
    }

    /// The address others reach this node at.
    pub fn address(&self) -> &str {
        &self.options.address
    }

    /// Whether others reach this node under the host `name`, as configured or learned from peers.
    pub fn is_reached_as(&self, name: &str) -> bool {
        let is_host =
            |address: &str| address.rsplit_once(':').is_some_and(|(host, _)| host.eq_ignore_ascii_case(name));
        is_host(self.address()) || self.replication.address().is_some_and(|address| is_host(&address))
    }

    /// Unix milliseconds on this node's wall clock.
    pub fn now_ms(&self) -> u64 {
        self.store.now_ms()
    }

    /// Most subscriptions at a time.
    pub fn subscriptions_max(&self) -> usize {
        self.store.subscriptions_max()
    }

    /// The largest value accepted, in bytes of JSON text as sent.
    pub fn value_bytes_max(&self) -> u64 {
        self.options.value_bytes_max
    }

    /// The live value of a key, read from memory or disk without locks and without waiting.
    ///
    /// # Errors
    /// `Corrupt` if the bytes on disk are not what was written.
    pub fn get(&self, table: &TableName, key: &Key) -> Result<Option<Entry>> {
        self.store.get(table, key)
    }

    /// Writes, and returns when the write is as durable as `--durability` asks.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `Conflict`, `BadJson` (an invalid patch), `TooLarge` (a patched value), `StorageFull`, `TooMany`
    /// (tables), `Draining`.
    pub async fn write(&self, table: &TableName, write: Write) -> Result<Written> {
        self.write_in(table, write, None).await
    }

    /// The same, and if the write makes the table, in this mode instead of the one for new tables.
    ///
    /// # Errors
    /// As `write`.
    pub async fn write_in(&self, table: &TableName, write: Write, new: Option<Mode>) -> Result<Written> {
        self.make_table(table, new, [&write]).await?;
        if self.turns_out_strong(table).await {
            return self.write_strong(table, write).await;
        }
        let (incarnation, _permit) = self.begin_write().await?;
        let written = self.merge(table, write)?;
        self.store.acknowledge(incarnation).await?;
        Ok(written)
    }

    /// Merges rows in one durable commit. If more `replicas` than this node will be waited for, the other nodes also learn of the rows that
    /// were here already.
    ///
    /// # Errors
    /// `ClockDrift` for a version too far in the future, and then no row was merged; otherwise as `write`, and then some may have been.
    pub async fn import(self: &Arc<Self>, rows: Vec<Import>, replicas: Replicas) -> Result<Imported> {
        for row in &rows {
            if !self.turns_out_strong(&row.table).await && self.makes_strong(&row.table, None) {
                self.create_strong(row.table.clone()).await?;
            }
        }
        let (strong, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| self.is_strong(&row.table));
        let from_strong = self.import_strong(strong).await?;
        if rows.is_empty() {
            return Ok(from_strong);
        }
        for timestamp in rows.iter().filter_map(|row| row.timestamp) {
            self.timestamps.observe(timestamp).map_err(|drift| Error::ClockDrift {
                ahead_ms: drift.ahead_ms,
                allowed_ms: drift.allowed_ms,
            })?;
        }
        // Only now, because the clock bound must lie above the observed timestamps too.
        let (incarnation, _permit) = self.begin_write().await?;
        let node = self.clone();
        let imported = self.environment().run(move || node.merge_imports(rows, replicas)).await?;
        self.store.acknowledge(incarnation).await?;
        Ok(imported.and(from_strong))
    }

    /// Follows topics. Writes acknowledged before are not reported as changes.
    ///
    /// # Errors
    /// `TooMany` at the limit of subscriptions, `Draining`.
    pub async fn watch(&self, topics: Vec<Topic>, start: Start) -> Result<Subscription> {
        self.store.watch(topics, start).await
    }

    /// Waits until every write of these topics before the call is in the change stream.
    pub async fn published(&self, topics: &[Topic]) {
        self.store.published(topics).await;
    }

    /// Where the damaged storage was moved, if this node started with a new one in its place.
    pub fn set_aside(&self) -> Option<&PathBuf> {
        self.store.set_aside()
    }

    /// Why the storage may be missing acknowledged writes, if it may.
    pub fn suspected_loss(&self) -> Option<String> {
        self.store.suspected_loss()
    }

    /// The names of all tables ever written to, in order.
    pub fn table_names(&self) -> Vec<TableName> {
        self.store.tables().into_iter().map(|(name, _)| name).collect()
    }

    /// Starts the shutdown: refuses writes, ends every subscription with `Notice::Shutdown`, and tells the other nodes. Requests in flight
    /// finish.
    pub fn drain(&self) {
        self.write_tracker.close();
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        self.drain_begun.notify_waiters();
        self.store.end_subscriptions();
        let replication = self.replication.clone();
        tokio::spawn(async move { replication.stop().await });
    }

    /// Returns when the shutdown starts.
    pub async fn drained(&self) {
        // Register first, then check, so that a shutdown in between is not missed.
        let begun = self.drain_begun.notified();
        if !self.is_draining() {
            begun.await;
        }
    }

    /// Flushes, syncs and closes the storage.
    ///
    /// # Errors
    /// `StorageFull` or `Io` if the last sync failed; everything acknowledged was synced before.
    pub async fn close(&self) -> Result<()> {
        self.drain();
        self.strong.stop().await;
        self.replication.stop().await;
        self.background.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        let (store, timestamps) = (self.store.clone(), self.timestamps.clone());
        let closing = self.environment().run(move || {
            let kept = timestamps.end();
            let closed = store.close();
            kept.and(closed)
        });
        closing.await
    }

    /// Closes the storage at once: the other nodes are not told, and requests in flight get no response. Everything written is there at the
    /// next start. For a node whose runtime ends; otherwise use `close`.
    ///
    /// # Errors
    /// As `close`.
    pub fn halt(&self) -> Result<()> {
        self.store.close()
    }

    fn environment(&self) -> &Environment {
        self.store.environment()
    }

    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Checks that the node accepts writes, and that timestamps are available for them.
    async fn begin_write(&self) -> Result<(Incarnation, WritePermit<'_>)> {
        let permit = self.write_tracker.begin()?;
        Ok((self.timestamps.before_writing().await?, permit))
    }
}
