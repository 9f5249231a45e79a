//! One node: the whole API of the system, as calls. Everything above it is a way to make these calls from afar, everything
//! below it does not know who calls.
//!
//! The wall clock lives here, and the node's hybrid logical clock with it. The clock's bound is made durable ahead of the timestamps, in the background while there are
//! writes; an idle node writes nothing.

mod bound;
mod stats;
mod write;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{sync::Notify, task::JoinHandle};
use tracing::{info, warn};

pub use self::{
    stats::{Readiness, Stats, TableStats},
    write::{Action, Condition, Import, Imported, Patch, Write, Written},
};
pub use crate::storage::{
    change::{Change, Cursor, Effect, Gone, Topic},
    scan::{Page, Range, Row},
    subscription::{Notice, Start, Subscription},
    table::Entry,
};
use crate::{
    core::{
        clock::{Clock, NodeId},
        name::{Key, TableName},
    },
    error::{Error, Result},
    storage::{self, Store, WallClock},
};

/// Longer batches are merged on a thread of their own, so that they hold up no other request.
const INLINE_WRITES_MAX: usize = 16;

/// How a node runs.
#[derive(Clone)]
pub struct Options {
    /// The address others reach this node at, as text.
    pub address: String,
    /// How its data is kept.
    pub storage: storage::Options,
    /// How far ahead of the wall clock a foreign timestamp may be, in milliseconds.
    pub clock_drift_max_ms: u64,
    /// The largest value, in bytes of JSON text.
    pub value_bytes_max: u64,
}

/// The machine's clock.
pub fn wall_clock() -> WallClock {
    Arc::new(|| {
        // A clock before 1970 is as good as none; timestamps then count on from the last one.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// A node.
pub struct Node {
    options: Options,
    store: Store,
    clock: Mutex<Clock>,
    /// One renewal of the bound at a time: the others find it done.
    renewal: tokio::sync::Mutex<()>,
    last_write_ms: AtomicU64,
    draining: AtomicBool,
    drain_begun: Notify,
    background: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    /// Opens the storage and starts everything that runs beside requests.
    ///
    /// # Errors
    /// As `Store::open`.
    pub async fn start(options: Options) -> Result<Arc<Self>> {
        let storage = options.storage.clone();
        let store = blocking(move || Store::open(storage)).await?;
        let clock = Clock::new(store.node(), store.clock_bound(), options.clock_drift_max_ms);
        let node = Arc::new(Self {
            options,
            store,
            clock: Mutex::new(clock),
            renewal: tokio::sync::Mutex::default(),
            last_write_ms: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            drain_begun: Notify::new(),
            background: Mutex::default(),
        });
        node.wait_for_the_wall_clock().await;
        let weak = Arc::downgrade(&node);
        let background = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(bound::BOUND_CHECK);
            loop {
                ticks.tick().await;
                let Some(node) = weak.upgrade() else { return };
                node.keep_bound_ahead().await;
            }
        });
        *node.background.lock().unwrap_or_else(PoisonError::into_inner) = Some(background);
        let counting = node.clone();
        tokio::spawn(async move { counting.rows_counted().await });
        info!(id = %node.id(), data = %node.options.storage.data.display(), "the node is up");
        Ok(node)
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.store.node()
    }

    /// The address others reach this node at.
    pub fn address(&self) -> &str {
        &self.options.address
    }

    /// Unix milliseconds by this node's wall clock.
    pub fn now_ms(&self) -> u64 {
        self.store.now_ms()
    }

    /// The largest value taken, in bytes of JSON text as sent.
    pub fn value_bytes_max(&self) -> u64 {
        self.options.value_bytes_max
    }

    /// The live value of a key. Answers from memory or disk at once; no lock is held and nothing waits.
    ///
    /// # Errors
    /// `Corrupt` where the bytes on disk are not what was written.
    pub fn get(&self, table: &TableName, key: &Key) -> Result<Option<Entry>> {
        self.store.get(table, key)
    }

    /// Writes, and returns when that is durable.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `Conflict`, `BadJson` (a patch that is none), `TooLarge` (a patched value),
    /// `StorageFull`, `TooMany` (tables), `Draining`.
    pub async fn write(&self, table: &TableName, write: Write) -> Result<Written> {
        let life = self.before_writing().await?;
        let written = self.merge(table, write)?;
        self.store.acknowledge(life).await?;
        Ok(written)
    }

    /// Writes many in one durable commit; results in order. `atomic`: the first failure keeps all from happening, and is
    /// returned.
    ///
    /// # Errors
    /// As `write`; without `atomic` only what concerns all writes.
    pub async fn batch(
        self: &Arc<Self>,
        table: &TableName,
        writes: Vec<Write>,
        atomic: bool,
    ) -> Result<Vec<Result<Written>>> {
        let life = self.before_writing().await?;
        let (node, table) = (self.clone(), table.clone());
        let long = writes.len() > INLINE_WRITES_MAX;
        let merge = move || {
            if atomic { node.merge_atomic(&table, writes) } else { Ok(node.merge_each(&table, writes)) }
        };
        let results = if long { blocking(merge).await? } else { merge()? };
        self.store.acknowledge(life).await?;
        Ok(results)
    }

    /// Merges rows in one durable commit.
    ///
    /// # Errors
    /// `ClockDrift` for a version too far ahead, and then no row was merged; else as `write`, and then some may have been.
    pub async fn import(self: &Arc<Self>, rows: Vec<Import>) -> Result<Imported> {
        let now_ms = self.now_ms();
        for timestamp in rows.iter().filter_map(|row| row.timestamp) {
            self.clock().observe(now_ms, timestamp).map_err(|drift| Error::ClockDrift {
                ahead_ms: drift.ahead_ms,
                allowed_ms: drift.allowed_ms,
            })?;
        }
        // After that, as the bound must lie above those too.
        let life = self.before_writing().await?;
        let node = self.clone();
        let imported = blocking(move || node.merge_imports(rows)).await?;
        self.store.acknowledge(life).await?;
        Ok(imported)
    }

    /// A page of live keys: at most `rows_max`. May read the disk.
    pub async fn keys(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Key>> {
        let (store, table, range) = (self.store.clone(), table.clone(), range.clone());
        blocking(move || store.keys(&table, &range, rows_max)).await
    }

    /// A page of live rows: at most `rows_max`, and about a quarter MiB.
    pub async fn rows(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Row>> {
        let (store, table, range) = (self.store.clone(), table.clone(), range.clone());
        blocking(move || store.rows(&table, &range, rows_max)).await
    }

    /// How many live keys begin so.
    pub async fn count(&self, table: &TableName, prefix: &str) -> Result<u64> {
        let (store, table, prefix) = (self.store.clone(), table.clone(), prefix.to_owned());
        blocking(move || store.count(&table, &prefix)).await
    }

    /// Follows topics. What was acknowledged before is no change to those who start now.
    ///
    /// # Errors
    /// `TooMany` at the limit of subscriptions, `Draining`.
    pub async fn watch(&self, topics: Vec<Topic>, start: Start) -> Result<Subscription> {
        self.store.watch(topics, start).await
    }

    /// Advertised addresses of the members not known to be gone, sorted, this node's included.
    pub fn members(&self) -> Vec<String> {
        vec![self.options.address.clone()]
    }

    /// Whether the node serves.
    pub fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Acquire) {
            return Readiness::Draining;
        }
        self.store.failure().map_or(Readiness::Ready, Readiness::ReadOnly)
    }

    /// Where the damaged storage went that this node's replaces, if it was started so.
    pub fn set_aside(&self) -> Option<&PathBuf> {
        self.store.set_aside()
    }

    /// The names of all tables that were ever written to, in order.
    pub fn table_names(&self) -> Vec<TableName> {
        self.store.tables().into_iter().map(|(name, _)| name).collect()
    }

    /// Returns when the rows of all tables are counted, which takes a moment after a start; or cannot be, as the disk fails.
    pub async fn rows_counted(&self) {
        if self.store.is_counted() {
            return;
        }
        let store = self.store.clone();
        if let Err(error) = blocking(move || store.count_rows()).await {
            warn!(%error, "not all rows are counted");
        }
    }

    /// The tables that have rows, by name, as far as those are counted.
    pub fn tables(&self) -> Vec<TableStats> {
        let tables = self.store.tables().into_iter();
        tables
            .filter(|(_, counts)| counts.live + counts.tombstones > 0)
            .map(|(name, counts)| TableStats { name, keys: counts.live, tombstones: counts.tombstones })
            .collect()
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let counters = self.store.counters();
        Stats {
            tables: self.tables(),
            writes: counters.writes.value(),
            writes_superseded: counters.writes_superseded.value(),
            commits: counters.commits.value(),
            changes: counters.changes.value(),
            subscriptions: counters.subscriptions.value(),
            resyncs: counters.resyncs.value(),
            expired: counters.expired.value(),
            corrupt_records: counters.corrupt_records.value(),
            disk_bytes: self.store.disk_bytes(),
            writes_refused: counters.writes_refused.value(),
        }
    }

    /// Begins the end: refuses writes, ends every subscription with `Notice::Shutdown`. Requests in flight finish.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.drain_begun.notify_waiters();
        self.store.end_subscriptions();
    }

    /// Returns when the end begins: for those who hold a connection open without a subscription.
    pub async fn drained(&self) {
        // Made before the look, so that an end which begins in between is not missed.
        let begun = self.drain_begun.notified();
        if !self.draining.load(Ordering::Acquire) {
            begun.await;
        }
    }

    /// Flushes, syncs and closes the storage.
    ///
    /// # Errors
    /// `StorageFull` or `Io` where the last sync failed; everything acknowledged was synced before.
    pub async fn close(&self) -> Result<()> {
        self.drain();
        if let Some(background) = self.background.lock().unwrap_or_else(PoisonError::into_inner).take() {
            background.abort();
        }
        // The next start need not wait: nothing above the last timestamp was handed out.
        let last = self.clock().last();
        let store = self.store.clone();
        blocking(move || {
            let kept = store.set_clock_bound(last + 1);
            let closed = store.close();
            kept.and(closed)
        })
        .await
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        // The clock is one number: it is whole whatever panicked.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what may wait for a disk or another thread where that holds up no request.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        Err(stopped) => Err(Error::Io(format!("a task of the storage stopped: {stopped}"))),
    }
}
