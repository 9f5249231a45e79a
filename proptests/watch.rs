//! The change stream against a model of one subscriber, who reads when it likes, goes away, and comes back with any cursor it
//! ever had. Obeying what it is told, it must end with what the table holds; per key it sees versions in their order and none
//! twice; and where it kept up it sees every one.

mod client;
mod travel;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dynarust::{
    core::{
        clock::{NodeId, Timestamp},
        name::{Key, TableName},
        register::Register,
    },
    storage::{
        Buffers, Durability, Environment, Options, Store,
        changes::{Cursor, Notice, Start, Subscription, Topic},
        table::merge::Existing,
    },
};
use futures_util::{FutureExt, StreamExt};
use proptest::{collection::vec, prelude::*, sample::Index};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use self::client::{Client, Known, topics};
use crate::{cases, generators::value};

const NOW_MS: u64 = 1_700_000_000_000;
/// Far longer than anything takes.
const DEADLINE: Duration = Duration::from_secs(20);
/// What a queue of the hub surely holds for one subscriber, and twice of which it surely keeps the newest of; and more keys than that.
const QUEUED: usize = 256;
const KEYS_MANY: usize = 400;

#[derive(Clone, Debug)]
enum Step {
    /// One write of a key: a value, perhaps one that expires in so many milliseconds, or a delete.
    Write(usize, Option<Option<u64>>),
    /// Writes of distinct keys, all or none.
    Batch(BTreeSet<usize>),
    /// So many writes, over so many keys in turn.
    Burst(usize, usize),
    /// Time passes; what is over then has ended when the step is done.
    Advance(u64),
    /// The subscriber reads at most so many notices, if they are there.
    Read(usize),
    /// The subscriber reads until it knows what the table holds.
    CatchUp,
    /// The subscriber comes back with a cursor that it once had.
    Resume(Index),
    /// The subscriber comes back with a cursor from elsewhere.
    ResumeElsewhere(u32, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let expiry = prop_oneof![3 => Just(None), 1 => (1..500u64).prop_map(Some)];
    let written = prop_oneof![1 => Just(None), 4 => expiry.prop_map(Some)];
    prop_oneof![
        12 => (0..6usize, written).prop_map(|(key, written)| Step::Write(key, written)),
        3 => proptest::collection::btree_set(0..12usize, 1..6).prop_map(Step::Batch),
        1 => (1..900usize, 1..100usize).prop_map(|(count, keys)| Step::Burst(count, keys)),
        1 => (1..900usize).prop_map(|count| Step::Burst(count, KEYS_MANY)),
        2 => (1..400u64).prop_map(Step::Advance),
        6 => (1..10usize).prop_map(Step::Read),
        2 => Just(Step::CatchUp),
        2 => any::<Index>().prop_map(Step::Resume),
        1 => (any::<u32>(), 0..50u64).prop_map(|(epoch, sequence)| Step::ResumeElsewhere(epoch, sequence)),
    ]
}

struct World {
    store: Store,
    _directory: TempDir,
    runtime: Runtime,
    now_ms: Arc<AtomicU64>,
    writes: u64,
    /// What the table holds, and when it expires.
    table: BTreeMap<String, (Register, Option<u64>)>,
    /// How many changes the store will have published once it is at rest.
    changes: u64,
    topics: Vec<Topic>,
    subscription: Option<Subscription>,
    client: Client,
    /// Each cursor the client had, what it knew then, and how many changes of its topics there had been.
    cursors: Vec<(Cursor, Client, usize)>,
    /// Changes of the client's topics, and those since it last had read all.
    wanted: usize,
    unread: usize,
    /// Whether the client may have been spared changes, or sent back, since the test began to count what it is told.
    skipped: bool,
    told: usize,
    /// Distinct keys are so few that no queue can overflow.
    few_keys: bool,
    elsewhere: bool,
}

impl World {
    fn new(topics: Vec<Topic>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let now_ms = Arc::new(AtomicU64::new(NOW_MS));
        let clock = now_ms.clone();
        let store = Store::open(Options {
            data: directory.path().join("storage.db"),
            durability: Durability::None,
            cache_bytes: 8 * 1024 * 1024,
            buffers: Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 2,
            subscriptions_max: 2,
            set_aside_damaged: false,
            peers: Default::default(),
            environment: Environment::new(Arc::new(move || clock.load(Ordering::SeqCst))),
        })
        .expect("the store opens");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let subscription = Some(runtime.block_on(store.watch(topics.clone(), Start::Now)).expect("watches"));
        Self {
            store,
            _directory: directory,
            runtime,
            now_ms,
            writes: 0,
            table: BTreeMap::new(),
            changes: 0,
            topics,
            subscription,
            client: Client::default(),
            cursors: Vec::new(),
            wanted: 0,
            unread: 0,
            skipped: false,
            told: 0,
            few_keys: true,
            elsewhere: false,
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write(key, written) => self.write(*key, *written),
            Step::Batch(keys) => self.batch(keys),
            Step::Burst(count, keys) => {
                self.few_keys &= *keys <= 100;
                (0..*count).for_each(|number| self.write(number % keys, Some(None)));
            }
            Step::Advance(ms) => self.advance(*ms)?,
            Step::Read(count) => self.read(*count)?,
            Step::CatchUp => self.catch_up()?,
            Step::Resume(index) => self.resume(index),
            Step::ResumeElsewhere(epoch, sequence) => {
                self.elsewhere = true;
                self.skipped = true;
                self.watch(Start::After(Cursor {
                    epoch: *epoch,
                    sequence: *sequence,
                    agreed_ms: 0,
                    cluster: 0,
                }));
            }
        }
        Ok(())
    }

    fn register(&mut self, written: Option<Option<u64>>) -> (Register, Option<u64>) {
        self.writes += 1;
        let now_ms = self.now_ms.load(Ordering::SeqCst);
        let timestamp = Timestamp { hlc: (now_ms << 16) + self.writes, node: NodeId(1) };
        match written {
            Some(ttl_ms) => {
                let expires_at_ms = ttl_ms.map(|ttl_ms| now_ms + ttl_ms);
                (Register::live(value(&self.writes.to_string()), expires_at_ms, timestamp), expires_at_ms)
            }
            None => (Register::deleted(timestamp), None),
        }
    }

    fn write(&mut self, number: usize, written: Option<Option<u64>>) {
        let (register, expires_at_ms) = self.register(written);
        self.store.merge(&table(), &key(number), |_| Ok(register.clone())).expect("merges");
        self.wrote(number, register, expires_at_ms);
    }

    fn batch(&mut self, keys: &BTreeSet<usize>) {
        let registers: Vec<_> = keys.iter().map(|number| (*number, self.register(Some(None)).0)).collect();
        let writes = registers.iter().map(|(number, register)| {
            let register = register.clone();
            (key(*number), |_: Option<&Existing<'_>>| Ok(register))
        });
        self.store.merge_all(&table(), writes.collect()).expect("merges");
        for (number, register) in registers {
            self.wrote(number, register, None);
        }
    }

    fn wrote(&mut self, number: usize, register: Register, expires_at_ms: Option<u64>) {
        let name = key(number).to_string();
        let is_live = register.value_at(0).is_some();
        let before = if is_live {
            self.table.insert(name.clone(), (register, expires_at_ms))
        } else {
            self.table.remove(&name)
        };
        // A delete of nothing is told to nobody.
        if is_live || before.is_some() {
            self.changed(&name);
        }
    }

    fn changed(&mut self, name: &str) {
        self.changes += 1;
        if self.is_wanted(name) {
            self.wanted += 1;
            self.unread += 1;
            self.skipped |= self.unread > QUEUED;
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.topics.iter().any(|topic| match topic {
            Topic::Key(_, key) => key.as_str() == name,
            Topic::Prefix(_, prefix) => name.starts_with(prefix),
            Topic::All => true,
        })
    }

    /// The feed carries values that were not over when it was read: it is to be empty when time passes.
    fn advance(&mut self, ms: u64) -> Result<(), TestCaseError> {
        self.wait_for_the_feed()?;
        let now_ms = self.now_ms.fetch_add(ms, Ordering::SeqCst) + ms;
        let over = |(_, (_, at_ms)): &(&String, &(Register, Option<u64>))| {
            at_ms.is_some_and(|at_ms| at_ms <= now_ms)
        };
        let over: Vec<String> = self.table.iter().filter(over).map(|(name, _)| name.clone()).collect();
        for name in over {
            self.table.remove(&name);
            self.changed(&name);
        }
        // Another value that expires wakes the sweep, which else looks once a second.
        self.writes += 1;
        let timestamp = Timestamp { hlc: (now_ms << 16) + self.writes, node: NodeId(1) };
        let wake = Register::live(value("0"), Some(u64::MAX), timestamp);
        self.store.merge(&wake_table(), &key(0), |_| Ok(wake)).expect("merges");
        self.changes += 1;
        if self.topics.contains(&Topic::All) {
            self.unread += 1;
            self.skipped |= self.unread > QUEUED;
        }
        self.wait_for_the_feed()
    }

    fn wait_for_the_feed(&self) -> Result<(), TestCaseError> {
        let end = std::time::Instant::now() + DEADLINE;
        while self.store.counters().changes.value() < self.changes {
            prop_assert!(
                std::time::Instant::now() < end,
                "{:?} of {} changes",
                self.store.counters(),
                self.changes
            );
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    fn read(&mut self, count: usize) -> Result<(), TestCaseError> {
        for _ in 0..count {
            let next = self.runtime.block_on(async { self.subscription.as_mut()?.next().now_or_never() });
            let Some(notice) = next else { return Ok(()) };
            self.hear(&notice.expect("a subscription goes on"))?;
        }
        Ok(())
    }

    /// Reads on until nothing is missing and nothing is left. That nothing was too much, the order of versions says.
    fn catch_up(&mut self) -> Result<(), TestCaseError> {
        self.wait_for_the_feed()?;
        loop {
            self.read(usize::MAX)?;
            if !self.client.resyncing && self.client.known == self.expected() {
                break;
            }
            let subscription = self.subscription.as_mut().expect("there is one between steps");
            let next = self.runtime.block_on(async { timeout(DEADLINE, subscription.next()).await });
            let Ok(notice) = next else { return Err(TestCaseError::fail(self.missing())) };
            self.hear(&notice.expect("a subscription goes on"))?;
        }
        if !self.skipped {
            prop_assert_eq!(self.told, self.wanted, "who kept up was told of everything");
        }
        self.unread = 0;
        Ok(())
    }

    fn hear(&mut self, notice: &Notice) -> Result<(), TestCaseError> {
        if let Notice::Change(change) = notice
            && change.table == wake_table()
        {
            prop_assert!(self.topics.contains(&Topic::All), "{} was not asked for", change.table);
            return Ok(());
        }
        self.client.hear(notice)?;
        let cursor = match notice {
            Notice::Change(change) => {
                self.told += 1;
                prop_assert!(self.is_wanted(change.key.as_str()), "{} was not asked for", change.key);
                change.cursor
            }
            Notice::Position(cursor) | Notice::Sync(cursor) => Some(*cursor),
            Notice::Resync(_) => {
                prop_assert!(!self.few_keys || self.elsewhere, "few keys are coalesced, never dropped");
                self.skipped = true;
                None
            }
            Notice::Incomplete | Notice::Shutdown | Notice::Failed(_) => None,
        };
        if let Some(cursor) = cursor {
            self.cursors.push((cursor, self.client.clone(), self.told));
        }
        Ok(())
    }

    fn resume(&mut self, index: &Index) {
        if self.cursors.is_empty() {
            return;
        }
        let (cursor, client, told) = self.cursors[index.index(self.cursors.len())].clone();
        self.client = client;
        self.client.resume();
        self.told = told;
        self.watch(Start::After(cursor));
    }

    fn watch(&mut self, start: Start) {
        // The one before is over first, as when a client comes back.
        self.subscription = None;
        self.subscription =
            Some(self.runtime.block_on(self.store.watch(self.topics.clone(), start)).expect("watches"));
    }

    fn missing(&self) -> String {
        let expected = self.expected();
        let differs = |key: &&String| self.client.known.get(*key) != expected.get(*key);
        let keys: BTreeSet<&String> =
            expected.keys().chain(self.client.known.keys()).filter(differs).collect();
        format!("the client is never told what became of {keys:?}")
    }

    fn expected(&self) -> Known {
        let wanted = self.table.iter().filter(|(name, _)| self.is_wanted(name));
        wanted
            .map(|(name, (register, _))| {
                let (value, _) = register.value_at(0).expect("the table holds live values");
                (name.clone(), (value.as_str().to_owned(), register.timestamp()))
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.subscription = None;
        // A case that failed has said so.
        let _ = self.store.close();
    }
}

fn table() -> TableName {
    TableName::parse("t").expect("a table name")
}

fn wake_table() -> TableName {
    TableName::parse("wake").expect("a table name")
}

fn key(number: usize) -> Key {
    Key::parse(&format!("k{number}")).expect("a key")
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn a_subscriber_ends_with_what_the_table_holds(topics in topics(), steps in vec(step(), 1..40)) {
        let mut world = World::new(topics);
        for step in &steps {
            world.take(step)?;
        }
        world.catch_up()?;
    }
}
