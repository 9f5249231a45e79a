//! A subscriber who goes from node to node with the last cursor that it had, however the nodes got there: rows that come late or out of
//! order, imports of old versions, expiries, sweeps, restarts. Nodes here are stores; what replication does to them is done by
//! hand. In the end, when all hold the same, so does the client, who does nothing but what the last notice of each key said.

mod client;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dynarust::{
    core::{
        clock::{NodeId, Timestamp},
        digest::DigestKey,
        name::{Key, TableName},
        protocol::message::Row,
        register::Register,
    },
    error::Error,
    storage::{
        Buffers, Durability, Environment, Options, Store,
        changes::{Cursor, Effect, Notice, Start, Subscription, Topic},
        table::scan::Range,
    },
};
use futures_util::{FutureExt, StreamExt};
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use self::client::topics;
use crate::{cases, generators::value};

const NODES: usize = 3;
const KEYS: usize = 6;
const BEGIN_MS: u64 = 1_700_000_000_000;
const SETTLE_MS: u64 = 2_000;
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
enum Step {
    /// A write on a node: a value, perhaps with a time to live, or a delete.
    Write(usize, usize, Option<Option<u64>>),
    /// A row of so many milliseconds ago comes to a node.
    Import(usize, usize, u64),
    /// A node gets a key's row of another.
    Push(usize, usize, usize),
    /// Two nodes come to hold the same, and say so.
    Compare(usize, usize),
    /// All hold the same, and what is dead everywhere goes.
    Sweep,
    Advance(u64),
    /// A node stops and starts again; the client, if it was there, is at none.
    Restart(usize),
    /// The client reads at most so many notices.
    Read(usize),
    /// The client reads all that there is, and its position.
    CatchUp,
    /// The client goes to a node, with its cursor.
    Travel(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    let expiry = prop_oneof![2 => Just(None), 1 => (1..4_000u64).prop_map(Some)];
    let written = prop_oneof![1 => Just(None), 3 => expiry.prop_map(Some)];
    prop_oneof![
        8 => (node.clone(), 0..KEYS, written).prop_map(|(node, key, written)| Step::Write(node, key, written)),
        1 => (node.clone(), 0..KEYS, 1..20_000u64).prop_map(|(node, key, ago)| Step::Import(node, key, ago)),
        5 => (node.clone(), node.clone(), 0..KEYS).prop_map(|(from, to, key)| Step::Push(from, to, key)),
        4 => (node.clone(), node.clone()).prop_map(|(one, other)| Step::Compare(one, other)),
        1 => Just(Step::Sweep),
        4 => (1..3_000u64).prop_map(Step::Advance),
        1 => node.clone().prop_map(Step::Restart),
        4 => (1..6usize).prop_map(Step::Read),
        3 => Just(Step::CatchUp),
        3 => node.prop_map(Step::Travel),
    ]
}

struct Place {
    directory: TempDir,
    /// `None` only while it is opened again.
    store: Option<Store>,
}

struct World {
    now_ms: Arc<AtomicU64>,
    places: Vec<Place>,
    writes: u64,
    /// The last instant at which two nodes held the same.
    equal_ms: [[u64; NODES]; NODES],
    runtime: Runtime,
    subscription: Option<(usize, Subscription)>,
    cursor: Option<Cursor>,
    known: BTreeMap<String, String>,
    resyncing: bool,
    resyncs: usize,
    topics: Vec<Topic>,
}

impl World {
    fn new(topics: Vec<Topic>) -> Self {
        let now_ms = Arc::new(AtomicU64::new(BEGIN_MS));
        let places = (0..NODES).map(|_| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let store = open(&directory, &now_ms);
            store.rekey(DigestKey([7; 32])).expect("rekeys");
            Place { directory, store: Some(store) }
        });
        let places = places.collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut world = Self {
            now_ms,
            places,
            writes: 0,
            equal_ms: [[0; NODES]; NODES],
            runtime,
            subscription: None,
            cursor: None,
            known: BTreeMap::new(),
            resyncing: false,
            resyncs: 0,
            topics,
        };
        world.advance(SETTLE_MS);
        world.compare_all();
        // Twice: an instant is good for cursors when what was held then has been told.
        (0..NODES).for_each(|node| world.agree(node));
        world.watch(0, Start::Snapshot);
        world.catch_up();
        world
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn store(&self, node: usize) -> &Store {
        self.places[node].store.as_ref().expect("it is open")
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write(node, key, written) => {
                let register = self.register(self.now_ms(), *written);
                self.merge(*node, &name(*key), &register);
            }
            Step::Import(node, key, ago_ms) => {
                let at_ms = self.now_ms() - ago_ms;
                // What is older than what was swept is written anew by who imports it.
                if (0..NODES).all(|node| self.store(node).swept().latest_ms() < at_ms) {
                    let register = self.register(at_ms, Some(None));
                    self.merge(*node, &name(*key), &register);
                }
            }
            Step::Push(from, to, key) => self.push(*from, *to, &name(*key)),
            Step::Compare(one, other) if one != other => self.compare(*one, *other),
            Step::Compare(..) => {}
            Step::Sweep => self.sweep(),
            Step::Advance(ms) => self.advance(*ms),
            Step::Restart(node) => self.restart(*node),
            Step::Read(count) => self.read(*count),
            Step::CatchUp => self.catch_up(),
            Step::Travel(node) => self.travel(*node),
        }
    }

    fn register(&mut self, at_ms: u64, written: Option<Option<u64>>) -> Register {
        self.writes += 1;
        let timestamp = Timestamp { hlc: (at_ms << 16) + self.writes, node: NodeId(1) };
        match written {
            Some(ttl_ms) => {
                let expires_at_ms = ttl_ms.map(|ttl_ms| at_ms + ttl_ms);
                Register::live(value(&self.writes.to_string()), expires_at_ms, timestamp)
            }
            None => Register::deleted(timestamp),
        }
    }

    fn merge(&self, node: usize, name: &str, register: &Register) {
        let register = register.clone();
        self.store(node).merge(&table(), &key(name), |_| Ok(register)).expect("merges");
    }

    fn push(&self, from: usize, to: usize, name: &str) {
        let row = self.store(from).read_row(&table(), &key(name)).expect("reads");
        if let Some((_, register)) = row.and_then(Row::into_register) {
            self.merge(to, name, &register);
        }
    }

    /// As a round of two peers does: both roots at one instant, and where they differ the rows that do.
    fn compare(&mut self, one: usize, other: usize) {
        let at_ms = self.now_ms() - SETTLE_MS;
        let root = |world: &Self, node: usize| world.store(node).root(at_ms).expect("reads");
        if root(self, one) != root(self, other) {
            for number in 0..KEYS {
                self.push(one, other, &name(number));
                self.push(other, one, &name(number));
            }
        }
        // None where a tree was built a moment ago.
        if root(self, one).is_some_and(|of_one| Some(of_one) == root(self, other)) {
            self.equal_ms[one][other] = at_ms;
            self.equal_ms[other][one] = at_ms;
        }
        self.agree(one);
        self.agree(other);
    }

    fn compare_all(&mut self) {
        for one in 0..NODES {
            (0..one).for_each(|other| self.compare(one, other));
        }
    }

    fn agree(&self, node: usize) {
        let others = (0..NODES).filter(|other| *other != node);
        let equal_ms = others.map(|other| self.equal_ms[node][other]).min().expect("others");
        self.store(node).agree(equal_ms).expect("agrees");
    }

    fn sweep(&mut self) {
        (0..2).for_each(|_| self.compare_all());
        let pairs = (0..NODES).flat_map(|one| (0..one).map(move |other| (one, other)));
        let floor_ms = pairs.map(|(one, other)| self.equal_ms[one][other]).min().expect("pairs");
        for node in 0..NODES {
            self.store(node).advance_floors(floor_ms).expect("passes");
        }
        wait_until("all is swept", || (0..NODES).all(|node| !self.store(node).is_sweeping()));
    }

    /// Time passes, and all ends are told by its end.
    fn advance(&mut self, ms: u64) {
        let now_ms = self.now_ms.fetch_add(ms, Ordering::SeqCst) + ms;
        // Another value that expires wakes the sweep, which else looks once a second.
        let wake = self.register(now_ms, Some(Some(1 << 40)));
        for node in 0..NODES {
            let wake = wake.clone();
            self.store(node).merge(&wake_table(), &key("wake"), |_| Ok(wake)).expect("merges");
        }
        let is_told =
            |node: usize| self.store(node).next_expiry_ms().expect("reads").is_none_or(|at| at > now_ms);
        wait_until("all ends are told", || {
            // So that a client who reads nothing is not waited for.
            self.now_ms.fetch_add(1, Ordering::SeqCst);
            (0..NODES).all(is_told)
        });
    }

    /// All come to hold the same, and the client reads all that comes.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        if self.subscription.is_none() {
            self.travel(0);
        }
        for _ in 0..2 {
            for one in 0..NODES {
                for other in (0..NODES).filter(|other| *other != one) {
                    (0..KEYS).for_each(|number| self.push(one, other, &name(number)));
                }
            }
        }
        self.advance(1);
        let end = Instant::now() + DEADLINE;
        loop {
            self.read(usize::MAX);
            let node = self.subscription.as_ref().expect("it is somewhere").0;
            let expected = self.visible(node);
            if !self.resyncing && self.known == expected {
                return Ok(());
            }
            if Instant::now() >= end {
                prop_assert_eq!(&self.known, &expected, "what the client knows and what node {} holds", node);
            }
            self.pause();
        }
    }

    fn visible(&self, node: usize) -> BTreeMap<String, String> {
        let page = self.store(node).rows(&table(), &Range::default(), 100).expect("reads");
        let rows = page.rows.into_iter().map(|row| (row.key, row.entry.value.as_str().to_owned()));
        rows.filter(|(key, _)| self.topics.iter().any(|topic| topic.covers(&table(), key)))
            .map(|(key, value)| (key.to_string(), value))
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.subscription = None;
        for store in self.places.iter().filter_map(|place| place.store.as_ref()) {
            // A case that failed has said so.
            let _ = store.close();
        }
    }
}

fn open(directory: &TempDir, now_ms: &Arc<AtomicU64>) -> Store {
    let end = Instant::now() + DEADLINE;
    loop {
        let clock = now_ms.clone();
        let store = Store::open(Options {
            data: directory.path().join("storage.db"),
            durability: Durability::None,
            cache_bytes: 8 * 1024 * 1024,
            buffers: Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 3,
            subscriptions_max: 2,
            set_aside_damaged: false,
            peers: Default::default(),
            environment: Environment::new(Arc::new(move || clock.load(Ordering::SeqCst))),
        });
        match store {
            // A read for a client who has gone may not be over.
            Err(Error::StorageInUse(_)) if Instant::now() < end => {}
            store => return store.expect("the store opens"),
        }
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "not within the deadline: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn table() -> TableName {
    TableName::parse("t").expect("a table name")
}

fn wake_table() -> TableName {
    TableName::parse("wake").expect("a table name")
}

fn name(number: usize) -> String {
    format!("k{number}")
}

fn key(name: &str) -> Key {
    Key::parse(name).expect("a key")
}

/// A client that is sent a snapshot each time misses nothing either: most travels are to be without one.
#[test]
fn a_subscriber_who_travels_is_seldom_sent_a_snapshot() {
    let mut world = World::new(vec![Topic::Prefix(table(), String::new())]);
    let mut resyncs = 0;
    for round in 0..12 {
        for key in 0..KEYS {
            world.take(&Step::Write(round % NODES, key, Some(None)));
            (0..NODES).for_each(|to| world.push(round % NODES, to, &name(key)));
        }
        world.take(&Step::Advance(2_500));
        (0..2).for_each(|_| world.compare_all());
        world.take(&Step::CatchUp);
        world.take(&Step::Write(
            (round + 1) % NODES,
            round % KEYS,
            if round % 2 == 0 { None } else { Some(None) },
        ));
        if round % 4 == 3 {
            world.take(&Step::Restart((round + 2) % NODES));
        }
        world.take(&Step::Travel((round + 2) % NODES));
        let resyncs_before = world.resyncs;
        world.take(&Step::CatchUp);
        resyncs += world.resyncs - resyncs_before;
    }
    world.finish().expect("it misses nothing");
    assert!(resyncs <= 2, "{resyncs} of 12 were snapshots");
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_subscriber_who_travels_misses_nothing(topics in topics(), steps in vec(step(), 1..60)) {
        let mut world = World::new(topics);
        for step in &steps {
            world.take(step);
        }
        world.finish()?;
    }
}
