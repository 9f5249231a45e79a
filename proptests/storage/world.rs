//! A store, its model, and the steps that both take.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dynarust::{
    core::{
        clock::{NodeId, Timestamp},
        name::{Key, TableName},
        register::Register,
    },
    error::Error,
    storage::{
        Buffers, Durability, Environment, Options, Store, WallClock,
        offline::{check, compact},
        table::{Counted, Existing, Range},
    },
};
use futures_util::FutureExt;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    crash,
    model::State,
    steps::{Step, TABLES, Text, Write},
};
use crate::generators::value;

const NOW_MS: u64 = 1_700_000_000_000;
/// Far longer than anything takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A store under test.
pub struct World {
    directory: TempDir,
    /// One life of the store after the other has a directory of its own.
    life: u32,
    store: Option<Store>,
    now_ms: Arc<AtomicU64>,
    writes: u64,
    /// What the store looked like after each step since it was last known to be durable; the last is now.
    history: Vec<State>,
    /// Whether a crash can have left chunks that no row names.
    crashed: bool,
    runtime: Runtime,
}

impl World {
    /// An empty store.
    pub fn new() -> Self {
        let mut world = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            life: 0,
            store: None,
            now_ms: Arc::new(AtomicU64::new(NOW_MS)),
            writes: 100,
            history: vec![State::default()],
            crashed: false,
            runtime: tokio::runtime::Builder::new_current_thread().build().expect("a runtime"),
        };
        world.open();
        world
    }

    /// Takes a step, and compares.
    pub fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write(table, write) => self.write(*table, write)?,
            Step::Again(table, key) => self.write_again(*table, key)?,
            Step::Batch(table, writes, fails) => self.batch(*table, writes, *fails)?,
            Step::Patch(table, key, text) => self.patch(*table, key, *text)?,
            Step::List(table, range, rows_max) => self.list(*table, range, *rows_max)?,
            Step::Count(table, prefix) => self.count(*table, prefix)?,
            Step::Bound(more) => self.raise_bound(*more),
            Step::Advance(ms) => {
                self.now_ms.fetch_add(*ms, Ordering::SeqCst);
            }
            Step::Durable => {
                self.runtime.block_on(self.store().durable(self.store().incarnation())).expect("is durable");
                self.history.drain(..self.history.len() - 1);
            }
            // The first poll hands it to the committer, and nobody stays for the answer.
            Step::DurableBehind => drop(self.store().durable(self.store().incarnation()).now_or_never()),
            Step::Crash => self.crash()?,
            Step::Close => self.close()?,
            Step::Compact => self.compact()?,
        }
        self.settle()
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open between steps")
    }

    fn state(&self) -> &State {
        self.history.last().expect("there is always a present")
    }

    fn now(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn clock(&self) -> WallClock {
        let now_ms = self.now_ms.clone();
        Arc::new(move || now_ms.load(Ordering::SeqCst))
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join(format!("life-{}", self.life))
    }

    fn open(&mut self) {
        let options = Options {
            data: self.data(),
            durability: Durability::None,
            cache_bytes: 8 * 1024 * 1024,
            buffers: Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: TABLES + 1,
            subscriptions_max: 10,
            set_aside_damaged: false,
            peers: Default::default(),
            environment: Environment::new(self.clock()),
        };
        let store = self.store.insert(Store::open(options).expect("the store opens"));
        store.count_rows().expect("counts");
    }

    fn shut(&mut self) {
        let store = self.store.take().expect("open between steps");
        store.close().expect("closes");
    }

    fn register(&mut self, write: &Write) -> Register {
        self.writes += 1;
        let timestamp = Timestamp { hlc: (NOW_MS << 16) + self.writes - write.age, node: NodeId(1) };
        match write.value {
            Some((text, ttl_ms)) => {
                Register::live(value(&text.json()), ttl_ms.map(|ttl_ms| self.now() + ttl_ms), timestamp)
            }
            None => Register::deleted(timestamp),
        }
    }

    fn write(&mut self, table: usize, write: &Write) -> Result<(), TestCaseError> {
        let register = self.register(write);
        let mut next = self.state().clone();
        let merged = self.store().merge(&table_name(table), &key(write.key), |_| Ok(register.clone()));
        let existed =
            self.state().tables[table].get(write.key).is_some_and(|it| it.value_at(self.now()).is_some());
        let changed = next.merge(table, write.key, register.clone());
        let merged = merged.expect("merges");
        prop_assert_eq!((merged.timestamp, merged.changed), (register.timestamp(), changed));
        prop_assert_eq!(merged.created, changed && !existed);
        self.history.push(next);
        self.check_key(table, write.key)
    }

    fn write_again(&self, table: usize, name: &str) -> Result<(), TestCaseError> {
        if let Some(register) = self.state().tables[table].get(name) {
            let merged = self.store().merge(&table_name(table), &key(name), |_| Ok(register.clone()));
            prop_assert!(!merged.expect("merges").changed, "once is enough");
        }
        self.check_key(table, name)
    }

    fn batch(&mut self, table: usize, writes: &[Write], fails: bool) -> Result<(), TestCaseError> {
        let registers: Vec<Register> = writes.iter().map(|write| self.register(write)).collect();
        let keys = writes.iter().map(|write| key(write.key)).chain(fails.then(|| key("refused")));
        let decisions = registers.iter().cloned().map(Ok).chain(fails.then_some(Err(Error::MissingValue)));
        let decided: Vec<_> =
            keys.zip(decisions).map(|(key, decision)| (key, |_: Option<&Existing<'_>>| decision)).collect();
        let merged = self.store().merge_all(&table_name(table), decided);
        prop_assert_eq!(merged.is_err(), fails);
        if let Ok(merged) = merged {
            let mut next = self.state().clone();
            for ((write, register), merged) in writes.iter().zip(registers).zip(merged) {
                prop_assert_eq!(merged.changed, next.merge(table, write.key, register));
            }
            self.history.push(next);
        }
        writes.iter().try_for_each(|write| self.check_key(table, write.key))
    }

    fn patch(&mut self, table: usize, name: &'static str, text: Text) -> Result<(), TestCaseError> {
        let patch = value(&format!(r#"{{"patched":{}}}"#, text.json()));
        let register = self.register(&Write { key: name, value: None, age: 0 });
        let (timestamp, now_ms) = (register.timestamp(), self.now());
        let merged = self.store().merge(&table_name(table), &key(name), |existing| {
            let existing =
                existing.filter(|existing| existing.visible_at(now_ms)).ok_or(Error::MissingValue)?;
            Ok(Register::live(existing.value()?.merge_patch(&patch)?, existing.expires_at_ms(), timestamp))
        });
        let mut next = self.state().clone();
        let present = self.state().tables[table].get(name).and_then(|register| register.value_at(now_ms));
        prop_assert_eq!(merged.is_ok(), present.is_some());
        if let Some((value, expires_at_ms)) = present {
            let value = value.merge_patch(&patch).expect("merges");
            next.merge(table, name, Register::live(value, expires_at_ms, timestamp));
            self.history.push(next);
        }
        self.check_key(table, name)
    }

    fn list(&self, table: usize, range: &Range, rows_max: usize) -> Result<(), TestCaseError> {
        let expected = self.state().list(table, range, self.now());
        let mut next = range.clone();
        let (mut keys, mut pages) = (Vec::new(), 0);
        loop {
            let of_keys = self.store().keys(&table_name(table), &next, rows_max).expect("lists");
            let of_rows = self.store().rows(&table_name(table), &next, rows_max).expect("lists");
            prop_assert!(of_keys.rows.len() <= rows_max && of_rows.rows.len() <= rows_max);
            prop_assert!(
                of_rows.rows.iter().map(|row| &row.key).eq(of_keys.rows.iter().take(of_rows.rows.len()))
            );
            prop_assert!(
                of_rows.rows.len() == of_keys.rows.len() || of_rows.more,
                "a page of rows that ends early says so"
            );
            keys.extend(of_keys.rows.iter().map(Key::to_string));
            pages += 1;
            next.after = of_keys.rows.last().cloned();
            if !of_keys.more {
                break;
            }
            prop_assert!(next.after.is_some() && pages <= expected.len(), "a listing ends");
        }
        prop_assert_eq!(keys, expected);
        Ok(())
    }

    fn count(&self, table: usize, prefix: &str) -> Result<(), TestCaseError> {
        let range = Range { prefix: prefix.to_owned(), ..Range::default() };
        let expected = self.state().list(table, &range, self.now()).len() as u64;
        let counted = Counted { keys: expected, incomplete: false };
        prop_assert_eq!(self.store().count(&table_name(table), &range), Ok(counted));
        Ok(())
    }

    fn raise_bound(&mut self, more: u64) {
        let mut next = self.state().clone();
        next.bound += more;
        self.store().set_clock_bound(next.bound).expect("sets the bound");
        self.history.push(next);
    }

    /// Kills the store: another life begins with what its files held.
    fn crash(&mut self) -> Result<(), TestCaseError> {
        let from = self.data();
        self.life += 1;
        crash::copy(&from, &self.data());
        self.shut();
        std::fs::remove_dir_all(from).expect("removes the life before");
        self.crashed = true;
        // Opening it completes an atomic batch of which the log has the intent and not all rows.
        self.open();
        self.shut();
        let (dump, now_ms) = (crash::dump(&self.data(), self.now()), self.now());
        self.history.iter_mut().for_each(|state| state.sweep(now_ms));
        self.open();
        let bound = self.store().clock_bound();
        let is_it = |state: &State| {
            let same = |table: usize| {
                dump.tables.get(table_name(table).as_str()).cloned().unwrap_or_default() == state.heads(table)
            };
            state.bound == bound && (0..TABLES).all(same)
        };
        // The latest of those that look alike: they differ in nothing.
        let Some(at) = self.history.iter().rposition(is_it) else {
            return Err(TestCaseError::fail(format!(
                "no instant looked as after the crash: bound {bound}, {dump:?}"
            )));
        };
        let state = self.history.swap_remove(at);
        self.history = vec![state];
        self.check_all()
    }

    fn close(&mut self) -> Result<(), TestCaseError> {
        self.shut();
        self.history.drain(..self.history.len() - 1);
        self.check_disk()?;
        self.open();
        self.check_all()
    }

    fn compact(&mut self) -> Result<(), TestCaseError> {
        self.shut();
        self.history.drain(..self.history.len() - 1);
        compact::compact(&self.data(), &self.clock(), false, |_| {}).expect("compacts");
        self.crashed = false;
        self.check_disk()?;
        self.open();
        prop_assert_eq!(self.store().clock_bound(), self.state().bound);
        self.check_all()
    }

    /// Waits until the sweep has removed what has expired, and only that: late garbage goes when the floors rise.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let now_ms = self.now_ms.fetch_add(1, Ordering::SeqCst) + 1;
        let mut swept = self.state().clone();
        swept.sweep(now_ms);
        if swept != *self.state() {
            self.history.push(swept);
        }
        let counted = |it: &Self| (0..TABLES).all(|table| it.state().has_counts(table, it.counts(table)));
        if counted(self) {
            return Ok(());
        }
        // Another value that expires wakes the sweep, which else looks once a second.
        let at = Timestamp { hlc: 1 + self.writes, node: NodeId(1) };
        let wake = Register::live(value("0"), Some(u64::MAX), at);
        self.store().merge(&table_name(TABLES), &key("wake"), |_| Ok(wake)).expect("merges");
        // The floor of a node that is alone is its own present. Tombstones stay.
        self.store().set_tombstone_grace(u64::MAX);
        let end = Instant::now() + DEADLINE;
        while !counted(self) {
            prop_assert!(Instant::now() < end, "counts: {:?}", self.store().tables());
            self.store().advance_floors(now_ms).expect("passes");
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    fn counts(&self, table: usize) -> dynarust::storage::table::partition::Counts {
        let tables = self.store().tables();
        tables
            .into_iter()
            .find(|(name, _)| *name == table_name(table))
            .map_or_else(Default::default, |(_, counts)| counts)
    }

    fn check_key(&self, table: usize, name: &str) -> Result<(), TestCaseError> {
        let found = self.store().get(&table_name(table), &key(name)).expect("reads");
        let register = self.state().tables[table].get(name);
        let expected = register.and_then(|register| {
            let (value, expires_at_ms) = register.value_at(self.now())?;
            Some((value.clone(), expires_at_ms, register.timestamp()))
        });
        prop_assert_eq!(found.map(|it| (it.value, it.expires_at_ms, it.timestamp)), expected);
        Ok(())
    }

    fn check_all(&self) -> Result<(), TestCaseError> {
        for table in 0..TABLES {
            self.list(table, &Range::default(), 3)?;
            for name in self.state().tables[table].keys() {
                self.check_key(table, name)?;
            }
        }
        Ok(())
    }

    /// Compares what lies on disk while nobody has it open.
    fn check_disk(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(crash::blobs(&self.data()), 0);
        let report = check::check(&self.data(), &self.clock(), |_| {}).expect("checks");
        prop_assert!(report.is_sound(), "{report:?}");
        let dump = crash::dump(&self.data(), self.now());
        for table in 0..TABLES {
            let name = table_name(table);
            let heads = dump.tables.get(name.as_str()).cloned().unwrap_or_default();
            prop_assert_eq!(heads, self.state().heads(table));
            let checked = report.tables.iter().find(|it| it.name == name).map(|it| it.rows);
            prop_assert!(self.state().has_counts(table, checked.unwrap_or_default()), "{checked:?}");
        }
        // A crash after the chunks and before the row leaves some that nobody names.
        prop_assert!(
            dump.chunk_bytes == dump.chunked_bytes || self.crashed && dump.chunk_bytes > dump.chunked_bytes,
            "{dump:?}"
        );
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            // A case that failed has said so.
            let _ = store.close();
        }
    }
}

fn table_name(table: usize) -> TableName {
    TableName::parse(&format!("t{table}")).expect("a table name")
}

fn key(name: &str) -> Key {
    Key::parse(name).expect("a key")
}
