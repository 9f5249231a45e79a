//! Disk: the tables of one node in one directory. The only layer that names sled, and only in `engine`.
//!
//! In reading order: `table` is the write path and point reads, `record`, `codec` and `chunks` are its bytes, `scan` lists,
//! `commit` makes durable, `watch` and `subscription` carry changes to subscribers, `sweep` works beside all that; `check` and
//! `compact` are for a store that no node has open.
//!
//! Trees of the engine: `meta`, `expiry`, and for each table `rows/NAME` and `chunks/NAME`.
//!
//! Lock order: `tables`, then a table's own locks, then `engine`.

pub mod check;
pub mod chunks;
pub mod codec;
pub mod commit;
pub mod compact;
pub mod engine;
mod open;
pub mod record;
pub mod scan;
pub mod subscription;
mod sweep;
pub mod table;
#[cfg(test)]
mod tests;
pub mod watch;

use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::{error, info, warn};

pub use self::commit::Durability;
use self::{
    codec::Samples,
    commit::{Committer, Round},
    engine::{Engine, Tree},
    open::Identity,
    scan::{Page, Range, Row},
    subscription::{Start, Subscription},
    sweep::Chore,
    table::{Counts, Entry, Existing, Merged, Surroundings, Table, Trees},
    watch::{Hub, Topic},
};
use crate::{
    core::{
        clock::NodeId,
        name::{Key, TableName},
        register::Register,
    },
    error::{Error, Result},
};

/// A wall clock: Unix milliseconds.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How often a store whose disk fails is tried again.
const RECOVERY_PAUSE: Duration = Duration::from_millis(250);
/// The stack of a pump: there may be a thousand of them.
const PUMP_STACK_BYTES: usize = 256 * 1024;

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

/// A figure that threads keep together.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less, of a gauge.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The figure.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Figures since the store was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Merges that changed a row.
    pub writes: Counter,
    /// Merges that lost against what was there.
    pub writes_superseded: Counter,
    /// Writes refused because the storage was failing.
    pub writes_refused: Counter,
    /// Rounds of flush and sync.
    pub commits: Counter,
    /// Changes published.
    pub changes: Counter,
    /// Subscriptions open now.
    pub subscriptions: Counter,
    /// Subscribers told to resynchronise because they read too slowly.
    pub resyncs: Counter,
    /// Values that expired.
    pub expired: Counter,
    /// Records found damaged.
    pub corrupt_records: Counter,
}

/// An open store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    options: Options,
    identity: Identity,
    /// `None` while it is opened again, and after the end.
    engine: RwLock<Option<Engine>>,
    tables: RwLock<BTreeMap<TableName, Arc<Table>>>,
    around: Surroundings,
    hub: Arc<Hub>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
        let (chores, work) = mpsc::channel();
        let around = Surroundings {
            now_ms: options.now_ms.clone(),
            counters: counters.clone(),
            committer: Arc::new(Committer::new(options.durability)),
            chores,
        };
        let hub = Arc::new(Hub::new(fresh_epoch()?, counters, options.subscriptions_max));
        let store = Self(Arc::new(Inner {
            options,
            identity,
            engine: RwLock::new(Some(engine)),
            tables: RwLock::default(),
            around,
            hub,
            threads: Mutex::default(),
            _lock: lock,
        }));
        store.open_tables()?;
        let committing = store.clone();
        store.spawn("commit", move || committing.commit())?;
        let sweeping = store.clone();
        store.spawn("sweep", move || sweep::run(&sweeping, &work))?;
        Ok(store)
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
        open::write_clock_bound(&self.meta()?, bound)
    }

    /// The visible value of a key.
    pub fn get(&self, table: &TableName, key: &Key) -> Result<Option<Entry>> {
        self.table(table).map_or(Ok(None), |table| table.get(key))
    }

    /// Merges into one key; see `Table::merge`. Not durable before `acknowledge`.
    pub fn merge(
        &self,
        table: &TableName,
        key: &Key,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<Merged> {
        self.table_or_new(table)?.merge(key, decide)
    }

    /// Merges into many keys, all or none; see `Table::merge_all`.
    pub fn merge_all<D>(&self, table: &TableName, writes: Vec<(Key, D)>) -> Result<Vec<Merged>>
    where
        D: FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    {
        self.table_or_new(table)?.merge_all(writes)
    }

    /// Returns when all merges before the call are as durable as the options promise.
    pub async fn acknowledge(&self) -> Result<()> {
        self.0.around.committer.acknowledge().await
    }

    /// Returns when everything before the call survives a power cut, whatever the options promise.
    pub async fn durable(&self) -> Result<()> {
        self.0.around.committer.durable().await
    }

    /// A page of visible keys.
    pub fn keys(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Key>> {
        self.table(table).map_or(Ok(empty_page()), |table| scan::keys(&table, range, rows_max))
    }

    /// A page of visible rows: at most `rows_max`, and about a quarter MiB.
    pub fn rows(&self, table: &TableName, range: &Range, rows_max: usize) -> Result<Page<Row>> {
        self.table(table).map_or(Ok(empty_page()), |table| scan::rows(&table, range, rows_max))
    }

    /// How many visible keys begin so.
    pub fn count(&self, table: &TableName, prefix: &str) -> Result<u64> {
        self.table(table).map_or(Ok(0), |table| scan::count(&table, prefix))
    }

    /// The tables, by name, with the rows they have, as far as those are counted.
    pub fn tables(&self) -> Vec<(TableName, Counts)> {
        self.read_tables().values().map(|table| (table.name().clone(), table.counted())).collect()
    }

    /// Counts the rows of all tables that were there when the store was opened. Takes a scan.
    pub fn count_rows(&self) -> Result<()> {
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        tables.iter().try_for_each(|table| table.count())
    }

    /// Whether a table was ever written to.
    pub fn has_table(&self, name: &TableName) -> bool {
        self.read_tables().contains_key(name)
    }

    /// Follows topics.
    ///
    /// # Errors
    /// `TooMany` at the limit of subscriptions, `Draining`.
    pub fn watch(&self, topics: Vec<Topic>, start: Start) -> Result<Subscription> {
        Subscription::begin(self.clone(), self.0.hub.clone(), topics, start)
    }

    /// Ends every subscription, and lets none begin.
    pub fn end_subscriptions(&self) {
        self.0.hub.end();
    }

    /// Figures.
    pub fn counters(&self) -> &Counters {
        &self.0.around.counters
    }

    /// Bytes of the directory.
    pub fn disk_bytes(&self) -> u64 {
        self.read_engine().as_ref().map_or(0, Engine::disk_bytes)
    }

    /// Why writes are refused, if they are.
    pub fn failure(&self) -> Option<String> {
        self.0.around.committer.failure()
    }

    /// Unix milliseconds by the store's clock.
    pub fn now_ms(&self) -> u64 {
        (self.0.options.now_ms)()
    }

    /// Makes everything durable, ends the threads and closes the directory, which another may open then. May wait: not for
    /// an async task.
    pub fn close(&self) -> Result<()> {
        self.0.hub.end();
        // The thread may be gone already, with nobody to tell.
        let _ = self.0.around.chores.send(Chore::Stop);
        self.0.around.committer.stop();
        for table in self.read_tables().values() {
            table.close();
        }
        let engine = self.0.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        let synced = engine.map_or(Ok(()), |engine| engine.sync());
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                error!("a thread of the storage had panicked");
            }
        }
        synced
    }

    fn table(&self, name: &TableName) -> Option<Arc<Table>> {
        self.read_tables().get(name).cloned()
    }

    fn table_or_new(&self, name: &TableName) -> Result<Arc<Table>> {
        if let Some(table) = self.table(name) {
            return Ok(table);
        }
        if let Some(reason) = self.failure() {
            return Err(Error::StorageFull(reason));
        }
        let mut tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(name) {
            return Ok(table.clone());
        }
        if tables.len() >= self.0.options.tables_max {
            return Err(Error::TooMany(format!(
                "this node has its {} tables: use one of them, or raise --max-tables",
                self.0.options.tables_max
            )));
        }
        let table = self.open_table(name.clone())?;
        table.count()?;
        tables.insert(name.clone(), table.clone());
        Ok(table)
    }

    fn open_tables(&self) -> Result<()> {
        let names = self.with_engine(|engine| Ok(engine.tree_names(ROWS)))?;
        let mut tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let name = TableName::parse(&name)?;
            let table = self.open_table(name.clone())?;
            tables.insert(name, table);
        }
        Ok(())
    }

    fn open_table(&self, name: TableName) -> Result<Arc<Table>> {
        let (trees, dictionaries) = self.with_engine(|engine| {
            Ok((open_trees(engine, &name)?, open::read_dictionaries(&engine.tree(META)?, &name)?))
        })?;
        let table = Arc::new(Table::new(name, self.0.around.clone(), trees, dictionaries));
        self.start_pump(&table)?;
        Ok(table)
    }

    fn start_pump(&self, table: &Arc<Table>) -> Result<()> {
        let feed = table.with_trees(|trees| Ok(trees.rows.subscribe()))?;
        let (table, hub, now_ms) = (table.clone(), self.0.hub.clone(), self.0.options.now_ms.clone());
        self.spawn("pump", move || watch::pump(feed, &table, &hub, &now_ms))
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(PUMP_STACK_BYTES).spawn(run);
        let thread = thread.map_err(|e| Error::io(format_args!("starting the {name} thread"), &e))?;
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    fn train(&self, name: &TableName, samples: &Samples) -> Result<()> {
        let Some(table) = self.table(name) else { return Ok(()) };
        let meta = self.meta()?;
        table.train(samples, |number, bytes| open::write_dictionary(&meta, name, number, bytes))
    }

    fn expire(&self, name: &TableName, row: &[u8], at_ms: u64) -> Result<()> {
        let Some(table) = self.table(name) else { return Ok(()) };
        table.expire(row, at_ms, |key, head| {
            self.counters().expired.increment();
            self.0.hub.publish_expired(name, key, head);
        })
    }

    fn expiry(&self) -> Result<Tree> {
        self.with_engine(|engine| engine.tree(EXPIRY))
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

    /// The commit thread.
    fn commit(&self) {
        loop {
            match self.0.around.committer.next_round() {
                Round::Sync(waiters) => {
                    let result = self.with_engine(Engine::sync);
                    self.counters().commits.increment();
                    if let Err(error) = &result {
                        error!(%error, "a commit failed: writes are refused until the storage recovers");
                        self.0.around.committer.fail(&error.to_string());
                    }
                    for waiter in waiters {
                        // A client that went away wants no answer.
                        let _ = waiter.send(result.clone());
                    }
                }
                Round::Recover => {
                    if !self.recover() {
                        return;
                    }
                }
                Round::Stop => return,
            }
        }
    }

    /// Opens the store again as soon as the disk takes data. False where the store is to be closed instead.
    fn recover(&self) -> bool {
        warn!(reason = self.failure(), "writes are refused; reads and subscriptions go on");
        loop {
            if !self.0.around.committer.pause(RECOVERY_PAUSE) {
                return false;
            }
            if open::probe(&self.0.options.data).is_err() {
                continue;
            }
            match self.reopen() {
                Ok(()) => {
                    self.0.around.committer.recover();
                    info!("the storage was opened again; writes are taken");
                    return true;
                }
                Err(error) => error!(%error, "the storage does not open again yet"),
            }
        }
    }

    fn reopen(&self) -> Result<()> {
        // No table may be made meanwhile.
        let tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        for table in tables.values() {
            table.close();
        }
        let mut slot = self.0.engine.write().unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
        let engine = Engine::open(&self.0.options.data, self.0.options.cache_bytes)?;
        let trees =
            tables.values().map(|table| open_trees(&engine, table.name())).collect::<Result<Vec<_>>>()?;
        *slot = Some(engine);
        drop(slot);
        // What was visible and not yet durable is gone: whoever saw it must look again.
        self.0.hub.renew(fresh_epoch()?);
        for (table, trees) in tables.values().zip(trees) {
            table.reopen(trees);
            self.start_pump(table)?;
        }
        Ok(())
    }
}

const META: &str = "meta";
const EXPIRY: &str = "expiry";
const ROWS: &str = "rows/";
const CHUNKS: &str = "chunks/";

fn open_trees(engine: &Engine, name: &TableName) -> Result<Trees> {
    Ok(Trees {
        rows: engine.tree(&format!("{ROWS}{name}"))?,
        chunks: engine.tree(&format!("{CHUNKS}{name}"))?,
        expiry: engine.tree(EXPIRY)?,
    })
}

fn empty_page<T>() -> Page<T> {
    Page { rows: Vec::new(), more: false }
}

fn fresh_epoch() -> Result<u32> {
    getrandom::u32().map_err(|e| Error::Io(format!("asking the system for randomness: {e}")))
}
