//! Disk: the tables of one node in one directory. The only layer that names sled, and only in `engine`.
//!
//! In reading order: `merge` is the write path, `batch` with `intents` that of many rows at once, `table` the reads; `row`, `record`,
//! `codec` and `chunks` are their bytes, `scan` lists; `commit` makes durable and `recovery` survives a disk that fails; `pump`,
//! `watch`, `queue` and `subscription` carry each `change` to subscribers, `agreed` and `backlog` to those who come from elsewhere;
//! `timestamps` gives timestamps; `sweep` works beside all that. `partition` and `digests` say what rows there are to other replicas, `copy`
//! reads them for those, `accept` takes theirs; `notes` is what the node keeps beside its tables; all of it runs on `environment` and
//! `threads`. `check`, `compact` and `salvage` are for stores nobody has open.
//!
//! What is known of the disk: `log` reads the engine's file without the engine, `mark` says how far it was durable, `suspected_loss` that
//! something may be lost, and `quiet` catches the engine's panics. `repair` deals with pages that cannot be read, `gaps` finds where
//! such end, `lost` keeps account of what was on them, and `scrub` looks for them in the segments of the log.
//!
//! Trees of the engine: `meta`; `batches`; `expiry`, `expired` and `tombstones`; and for each table `rows/NAME` and `chunks/NAME`. One
//! that was copied because of damage has `#` and a number at the end of its name, and `generations` says which is in use.
//!
//! Lock order: `tables`, then a table's own locks, then `engine`.

pub mod changes;
pub mod commit;
mod counters;
pub mod engine;
pub mod environment;
mod gc;
pub mod offline;
pub mod open;
mod options;
mod repair;
pub mod table;
pub(crate) mod tables;
mod threads;
pub(crate) mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, mpsc},
    thread::JoinHandle,
};

use tracing::error;

use self::{
    changes::{
        backlog::Backlogs,
        change::Topic,
        hub::Hub,
        subscription::{Start, Subscription},
        wakeups::Wakeups,
    },
    commit::{Committer, Incarnation},
    counters::Counters,
    engine::{Engine, Tree, suspected_loss::SuspectedLoss},
    open::Identity,
    table::{
        Entry, Table,
        codec::Samples,
        context::TableContext,
        digests::{Checked, SharedKey},
        jobs::RepairJob,
        row_count::CloseComparison,
        scan::{Counted, Page, Range, Row},
    },
    table::{floors::Floors, jobs::GcJob},
};
pub use self::{
    commit::Durability,
    environment::{Environment, Randomness, Threads, WallClock},
    options::{Options, Peers},
};
use crate::{
    core::{
        clock::NodeId,
        name::{Key, TableName},
    },
    error::{Error, Result},
    storage::engine::meta,
};

/// An open store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    options: Options,
    identity: Identity,
    suspected_loss: SuspectedLoss,
    /// `None` while it is opened again, and after the end.
    engine: RwLock<Option<Engine>>,
    tables: RwLock<BTreeMap<TableName, Arc<Table>>>,
    context: TableContext,
    checked: Mutex<Checked>,
    hub: Arc<Hub>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The thread that scrubs ends when this is gone.
    scrub: Mutex<Option<mpsc::Sender<()>>>,
    /// The thread that panicked, if one did.
    stopped: OnceLock<String>,
    /// Who sweeps, where there is no thread for it.
    sweeper: Mutex<Option<gc::Worker>>,
    backlogs: Backlogs,
    /// What damage was reported, where there is no thread that repairs.
    repairer: Mutex<Option<mpsc::Receiver<RepairJob>>>,
    /// Held as long as the store is: what keeps a second process out.
    _lock: File,
}

impl Store {
    /// Opens the directory, creating it where it is missing, and starts the threads that work beside requests.
    ///
    /// # Errors
    /// `StorageInUse`, `StorageUnusable` (not a directory, no permission, a newer format), `StorageDamaged`, `StorageFull`.
    pub fn open(options: Options) -> Result<Self> {
        let (engine, lock, identity) = open::open(&options)?;
        let counters = Arc::new(Counters::default());
        let (jobs, work) = mpsc::channel();
        let (repairs, damage) = mpsc::channel();
        let context = TableContext {
            now_ms: options.environment.clock().clone(),
            counters: counters.clone(),
            committer: Arc::new(Committer::new(options.durability)),
            decoded: Arc::default(),
            shared: Arc::default(),
            digest_key: Arc::new(SharedKey::new(identity.digest_key)),
            jobs,
            floors: Arc::new(Floors::new(identity.swept)),
            close_comparison: Arc::new(CloseComparison::new(engine.content())),
            agreed: Arc::default(),
            repairs,
            reindex: Arc::default(),
        };
        let (wakeups, crowded) = Wakeups::new();
        let epoch = options.environment.fresh_epoch()?;
        let hub = Arc::new(Hub::new(epoch, &context, options.subscriptions_max, wakeups));
        let suspected_loss = SuspectedLoss::new(identity.suspected_loss.clone());
        let store = Self(Arc::new(Inner {
            options,
            identity,
            suspected_loss,
            engine: RwLock::new(Some(engine)),
            tables: RwLock::default(),
            context,
            checked: Mutex::default(),
            hub,
            threads: Mutex::default(),
            scrub: Mutex::default(),
            stopped: OnceLock::new(),
            sweeper: Mutex::default(),
            backlogs: Backlogs::default(),
            repairer: Mutex::default(),
            _lock: lock,
        }));
        store.restore_agreed()?;
        store.open_tables()?;
        store.remove_unused_trees()?;
        store.spawn("wake", move || changes::wakeups::run(&crowded))?;
        let sweeper = gc::Worker::new(work);
        match store.environment().threads() {
            Threads::Many => {
                let committing = store.clone();
                store.spawn("commit", move || committing.run_commits())?;
                let sweeping = store.clone();
                store.spawn("sweep", move || sweeper.run(&sweeping))?;
                let repairing = store.clone();
                store.start_scrub()?;
                store.spawn("repair", move || repairing.run_repairs(&damage))?;
            }
            Threads::One => {
                *store.sweeper() = Some(sweeper);
                *store.repairer() = Some(damage);
            }
        }
        Ok(store)
    }

    /// What it runs on.
    pub fn environment(&self) -> &Environment {
        &self.0.options.environment
    }

    /// The node whose store this is.
    pub fn node(&self) -> NodeId {
        self.0.identity.node
    }

    /// The bound of the node's clock that is durable.
    pub fn clock_bound(&self) -> u64 {
        self.0.identity.clock_bound
    }

    /// Where a damaged store was moved before this one was made, if it was.
    pub fn set_aside(&self) -> Option<&PathBuf> {
        self.0.identity.set_aside.as_ref()
    }

    /// Sets the clock's bound. Durable by the next commit.
    pub fn set_clock_bound(&self, bound: u64) -> Result<()> {
        meta::write_clock_bound(&self.meta()?, bound)
    }

    /// The visible value of a key.
    pub fn get(&self, table: &TableName, key: &Key) -> Result<Option<Entry>> {
        self.read_table(table, None, |table| table.get(key))
    }

    /// Returns when all merges before the call are as durable as the options promise.
    ///
    /// # Errors
    /// `StorageFull` where the storage failed since `incarnation`: then some of them may be lost.
    pub async fn acknowledge(&self, incarnation: Incarnation) -> Result<()> {
        self.0.context.committer.acknowledge(incarnation).await
    }

    /// The present life of the store: taken before merging, it ties the acknowledgement to the engine that was merged into.
    pub fn incarnation(&self) -> Incarnation {
        self.0.context.committer.incarnation()
    }

    /// Returns when everything before the call survives a power cut, whatever the options promise.
    ///
    /// # Errors
    /// As `acknowledge`.
    pub async fn durable(&self, incarnation: Incarnation) -> Result<()> {
        self.0.context.committer.durable(incarnation).await
    }

    /// A page of visible keys.
    pub fn keys(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Key>> {
        self.read_table(table, Page::default(), |table| table::scan::keys(table, range, rows_max))
    }

    /// A page of visible rows: at most `rows_max`, and about a quarter MiB.
    pub fn rows(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Row>> {
        self.read_table(table, Page::default(), |table| table::scan::rows(table, range, rows_max))
    }

    /// Whether it is known already that keys of a listing cannot be read.
    pub fn has_unreadable(&self, table: &TableName, range: &Range) -> bool {
        self.table(table).is_some_and(|table| table::scan::has_unreadable(&table, range).unwrap_or(false))
    }

    /// How many visible keys begin so.
    pub fn count(&self, table: &TableName, range: &Range) -> Result<Counted> {
        self.read_table(table, Counted::default(), |table| table::scan::count(table, range))
    }

    /// Whether there is a table: one that has rows, or had some not long ago.
    pub fn has_table(&self, name: &TableName) -> bool {
        self.read_tables().contains_key(name)
    }

    /// Follows topics. What was acknowledged before is no change to those who start now, nor to those who come back with the
    /// cursor of a snapshot that they begin now.
    ///
    /// # Errors
    /// `TooMany` at the limit of subscriptions, `Draining`.
    pub async fn watch(&self, topics: Vec<Topic>, start: Start) -> Result<Subscription> {
        let is_fresh = match start {
            Start::Now | Start::Snapshot | Start::Resync => true,
            Start::After(_) => false,
        };
        if is_fresh {
            let tables: BTreeSet<&TableName> = topics.iter().map(Topic::table).collect();
            for table in tables.into_iter().filter_map(|name| self.table(name)) {
                if let Ok(progress) = table.with_trees(|trees| Ok(trees.progress.clone())) {
                    progress.caught_up().await;
                }
            }
        }
        Subscription::begin(self.clone(), self.0.hub.clone(), topics, start)
    }

    /// Figures.
    pub fn counters(&self) -> &Counters {
        &self.0.context.counters
    }

    /// Bytes of the directory.
    pub fn disk_bytes(&self) -> u64 {
        self.read_engine().as_ref().map_or(0, Engine::disk_bytes)
    }

    /// Why writes are refused, if they are.
    pub fn failure(&self) -> Option<String> {
        self.0.context.committer.failure()
    }

    /// Unix milliseconds by the store's clock.
    pub fn now_ms(&self) -> u64 {
        self.0.options.environment.now_ms()
    }

    /// Makes everything durable, ends the threads and closes the directory, which another may open then. May wait: not for
    /// an async task.
    pub fn close(&self) -> Result<()> {
        self.0.hub.end();
        // The thread may be gone already, with nobody to tell.
        let _ = self.0.context.jobs.send(GcJob::Stop);
        let _ = self.0.context.repairs.send(RepairJob::Stop);
        drop(self.0.scrub.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.0.context.committer.stop();
        for table in self.read_tables().values() {
            table.close();
        }
        self.save_agreed();
        let engine = self.0.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        let synced = engine.map_or(Ok(()), |engine| engine.close(self.content()));
        // Whoever waits merged before the tables were closed.
        self.0.context.committer.answer(&synced);
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                error!("a thread of the storage had panicked");
            }
        }
        synced
    }

    fn train(&self, name: &TableName, samples: &Samples) -> Result<()> {
        let Some(table) = self.table(name) else { return Ok(()) };
        let meta = self.meta()?;
        table.train(samples, |number, bytes| open::write_dictionary(&meta, name, number, bytes))
    }

    fn meta(&self) -> Result<Tree> {
        self.with_engine(|engine| engine.tree(META))
    }

    fn with_engine<T>(&self, run: impl FnOnce(&Engine) -> Result<T>) -> Result<T> {
        match self.read_engine().as_ref() {
            Some(engine) => run(engine),
            None => Err(Error::NotReady("the storage is being opened again; try again in a moment".into())),
        }
    }

    fn read_engine(&self) -> RwLockReadGuard<'_, Option<Engine>> {
        self.0.engine.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_tables(&self) -> RwLockReadGuard<'_, BTreeMap<TableName, Arc<Table>>> {
        self.0.tables.read().unwrap_or_else(PoisonError::into_inner)
    }
}

const META: &str = "meta";

#[cfg(test)]
mod tests;
