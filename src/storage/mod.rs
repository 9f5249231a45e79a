//! Storage: the tables of one node in one directory. The only layer that uses sled, and only in `engine`.
//!
//! - `table` holds rows: `merge` is the write path of every write, `batch` writes many rows atomically, `scan` lists, and `record` and
//!   `codec` define the bytes of a row. Its `digests` describe the rows so that replicas can compare them. `tables` finds, makes and
//!   removes tables.
//! - `commit` makes writes durable and issues the node's timestamps.
//! - `changes` carries every change to subscribers.
//! - `transfer` reads rows for a peer and applies a peer's rows.
//! - `gc` announces expired values and removes garbage.
//! - `open` opens a directory, and reopens it after a disk failure: lock, format, damage, the node's identity. `repair` handles damaged
//!   pages while the store is open. `offline` has the tools for stores that no node has open.
//! - `backup` reads a consistent state of a running store, and keeps it in a directory of its own. `unfinished` gives a directory its name
//!   once it is complete.
//! - `engine` wraps sled; `environment` gives time, randomness and threads.
//!
//! A write goes through `table::merge` into the engine; from there `changes::pump` publishes it, and `commit` acknowledges it when it is
//! durable.
//!
//! Trees of the engine: `meta`; `batches`; `expiry`, `expired` and `tombstones`; and for each table `rows/NAME` and `chunks/NAME`. A tree
//! that was copied because of damage has `#` and a number after its name; `generations` says which one is in use.
//!
//! Lock order: `tables`, then a table's own locks, then `engine`.

pub mod backup;
pub mod changes;
pub mod commit;
pub mod counters;
pub mod engine;
pub mod environment;
mod gc;
pub mod offline;
pub mod open;
mod options;
mod repair;
pub mod table;
pub(crate) mod tables;
pub mod temporary;
mod threads;
pub(crate) mod transfer;
mod unfinished;
mod weak;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, atomic::AtomicBool, mpsc},
    thread::JoinHandle,
};

use tracing::error;

use self::{
    changes::{
        backlog::Backlogs,
        change::Topic,
        delivery::Deliveries,
        hub::Hub,
        subscription::{Start, Subscription},
        wakeups::Wakeups,
    },
    commit::{Committer, Incarnation},
    counters::Counters,
    engine::{Engine, Tree, agreement_file::AgreementFile, suspected_loss::SuspectedLoss},
    open::Identity,
    table::{
        Entry, Table,
        cache::HotValues,
        codec::Samples,
        context::TableContext,
        digests::{Checked, SharedKey},
        jobs::RepairJob,
        mode::StrongTables,
        row_count::CloseComparison,
        scan::{Page, Range, Row},
    },
    table::{floors::Floors, jobs::GcJob},
};
pub use self::{
    commit::Durability,
    environment::{Environment, Randomness, Threads, WallClock},
    options::{Buffers, Options, Peers},
    weak::WeakStore,
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
    agreement_file: AgreementFile,
    /// `None` while the store is reopened, and after it is closed.
    engine: RwLock<Option<Engine>>,
    tables: RwLock<BTreeMap<TableName, Arc<Table>>>,
    context: TableContext,
    checked: Mutex<Checked>,
    /// Held while all rows are counted.
    counting: Mutex<()>,
    hub: Arc<Hub>,
    /// Whether anybody has subscribed: from then on every table gets a pump.
    is_followed: AtomicBool,
    /// Whether every table that was there has got it.
    has_pumps: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Dropping it ends the scrub thread.
    scrub: Mutex<Option<mpsc::Sender<()>>>,
    /// Name of a thread that panicked, if one did.
    stopped: OnceLock<String>,
    /// The garbage collector, if there is no thread for it.
    sweeper: Mutex<Option<gc::Worker>>,
    backlogs: Backlogs,
    /// Reported damage, if there is no thread that repairs it.
    repairer: Mutex<Option<mpsc::Receiver<RepairJob>>>,
    /// Held while the store is open: keeps a second process out.
    _lock: File,
}

impl Store {
    /// Opens the directory, creates it if it is missing, and starts the background threads.
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
            hot: Arc::new(HotValues::new(options.buffers.decoded_bytes)),
            shared: Arc::default(),
            recents_max: options.buffers.recents_max,
            digest_key: Arc::new(SharedKey::new(identity.digest_key)),
            jobs,
            floors: Arc::new(Floors::new(identity.swept, identity.agreement.reached_ms())),
            close_comparison: Arc::new(CloseComparison::new(engine.content())),
            agreed: Arc::default(),
            repairs,
            strong: Arc::new(StrongTables::read(&engine)?),
            reindex: Arc::default(),
            tap: Arc::default(),
            waiting: Arc::default(),
        };
        let deliveries = Arc::<Deliveries>::default();
        let (wakeups, waiting) = Wakeups::new(Arc::clone(&deliveries));
        let epoch = options.environment.fresh_epoch()?;
        let hub = Arc::new(Hub::new(epoch, &context, &options, wakeups));
        let suspected_loss = SuspectedLoss::new(identity.suspected_loss.clone());
        let agreement_file = AgreementFile::new(identity.agreement.clone());
        let store = Self(Arc::new(Inner {
            options,
            identity,
            suspected_loss,
            agreement_file,
            engine: RwLock::new(Some(engine)),
            tables: RwLock::default(),
            context,
            checked: Mutex::default(),
            counting: Mutex::default(),
            hub,
            is_followed: AtomicBool::new(false),
            has_pumps: AtomicBool::new(false),
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
        store.spawn("wake", move || changes::wakeups::run(&waiting))?;
        for _ in 0..Deliveries::threads() {
            let deliveries = Arc::clone(&deliveries);
            store.spawn("deliver", move || deliveries.run())?;
        }
        store.start_threads(gc::Worker::new(work), damage)?;
        Ok(store)
    }

    /// The environment it runs in.
    pub fn environment(&self) -> &Environment {
        &self.0.options.environment
    }

    /// The node that owns the store.
    pub fn node(&self) -> NodeId {
        self.0.identity.node
    }

    /// The durable bound of the node's clock.
    pub fn clock_bound(&self) -> u64 {
        self.0.identity.clock_bound
    }

    /// Where the damaged store was moved that this one replaces, if there was one.
    pub fn set_aside(&self) -> Option<&PathBuf> {
        self.0.identity.set_aside.as_ref()
    }

    /// Sets the clock's bound. Durable by the next commit.
    pub fn set_clock_bound(&self, bound: u64) -> Result<()> {
        let meta = self.meta()?;
        // A write fails here before it asks for anything else of the engine.
        self.0.context.committer.noticed(meta::write_clock_bound(&meta, bound))
    }

    /// The visible value of a key.
    pub fn get(&self, table: &TableName, key: &Key) -> Result<Option<Entry>> {
        self.read_table(table, None, |table| table.get(key))
    }

    /// Waits until all merges before the call are as durable as the options promise.
    ///
    /// # Errors
    /// `StorageFull` if the storage failed since `incarnation`: then some merges may be lost.
    pub async fn acknowledge(&self, incarnation: Incarnation) -> Result<()> {
        self.0.context.committer.acknowledge(incarnation).await
    }

    /// Most subscriptions at a time.
    pub fn subscriptions_max(&self) -> usize {
        self.0.options.subscriptions_max
    }

    /// The current incarnation of the store. Take it before merging: it ties the acknowledgement to the engine that was written to.
    pub fn incarnation(&self) -> Incarnation {
        self.0.context.committer.incarnation()
    }

    /// Waits until everything before the call survives a power cut, whatever the options promise.
    ///
    /// # Errors
    /// As `acknowledge`.
    pub async fn durable(&self, incarnation: Incarnation) -> Result<()> {
        self.0.context.committer.durable(incarnation).await
    }

    /// Has the storage fail as it does when the disk takes nothing. It is opened again soon.
    #[cfg(test)]
    pub(crate) fn fail(&self, why: &str) {
        self.0.context.committer.fail(why);
    }

    /// A page of visible keys.
    pub fn keys(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Key>> {
        self.read_table(table, Page::default(), |table| table::scan::keys(table, range, rows_max))
    }

    /// A page of visible rows: at most `rows_max`, and about a quarter MiB.
    pub fn rows(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Row>> {
        self.read_table(table, Page::default(), |table| table::scan::rows(table, range, rows_max))
    }

    /// Whether keys of a listing are known to be unreadable.
    pub fn has_unreadable(&self, table: &TableName, range: &Range) -> bool {
        self.table(table).is_some_and(|table| table::scan::has_unreadable(&table, range).unwrap_or(false))
    }

    /// Whether a table exists: it has rows, or had some not long ago.
    pub fn has_table(&self, name: &TableName) -> bool {
        self.read_tables().contains_key(name)
    }

    /// Subscribes to topics. Writes acknowledged before the call are not delivered as changes, neither now nor to a client that resumes
    /// from the cursor of a snapshot started now.
    ///
    /// # Errors
    /// `TooMany` at the limit of subscriptions, `Draining`, `Io` if no thread can be started.
    pub async fn watch(&self, topics: Vec<Topic>, start: Start) -> Result<Subscription> {
        let is_fresh = match start {
            Start::Now | Start::Snapshot | Start::Resync => true,
            Start::After(_) => false,
        };
        if !self.has_pumps() {
            let store = self.clone();
            self.environment().run(move || store.start_pumps()).await?;
        }
        if is_fresh {
            self.published(&topics).await;
        }
        Subscription::begin(self.clone(), self.0.hub.clone(), topics, start)
    }

    /// What is followed, and by how many subscriptions: the topics that most subscriptions have.
    pub fn topics(&self) -> Vec<(Topic, u64)> {
        self.0.hub.topics()
    }

    /// Waits until every write of these topics before the call is in the change stream.
    pub async fn published(&self, topics: &[Topic]) {
        let named: BTreeSet<&TableName> = topics.iter().filter_map(Topic::table).collect();
        let tables = match topics.contains(&Topic::All) {
            true => self.all_tables(),
            false => named.into_iter().filter_map(|name| self.table(name)).collect(),
        };
        for table in tables {
            if let Ok(progress) = table.with_trees(|trees| Ok(trees.progress.clone())) {
                progress.caught_up().await;
            }
        }
    }

    /// Counters and gauges.
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

    /// The store's clock in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.0.options.environment.now_ms()
    }

    /// Makes everything durable, ends the threads and closes the directory; another process may open it then. It blocks: do not call it
    /// from an async task.
    pub fn close(&self) -> Result<()> {
        self.0.hub.end();
        // The worker may be gone already.
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
        // Waiting writers merged before the tables were closed.
        self.0.context.committer.answer(&synced);
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                error!("a thread of the storage panicked");
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
            None => Err(Error::NotReady("the storage is being reopened; try again in a moment".into())),
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
pub(crate) mod tests;
