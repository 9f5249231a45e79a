//! Histories of real clusters under faults, checked for linearizability: clients on all nodes read, write, delete, compare and set a few
//! keys while the leader is killed, stopped or cut off.
//!
//! The usual run is short: ten histories with one fault each. `DYNARUST_HISTORIES=200` records that many, of `DYNARUST_HISTORY_SECONDS`
//! (60) each, with one fault after another. Cuts need root; elsewhere their place is taken by kills.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    RECOVERY,
    client::{Client, Door, Fate, doors},
    history::{Event, Held, Operation, expect_linearizable},
    leader, make, wait_until_same, wait_until_strong, wait_until_whole,
};
use crate::{
    crash::ledger::Chance,
    harness::{
        cluster::Cluster,
        http::{Request, Response},
        network::{Network, say},
        wait_until,
    },
};

const TABLE: &str = "register";
const CLIENTS: usize = 5;
/// Keys in use at once. After a while, all clients go on to new ones: short histories are quickly checked.
const KEYS: u64 = 3;
const KEYS_FOR: Duration = Duration::from_secs(3);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a fault lasts in the short form: elections take place, and requests run into their time limits.
const FAULT: Duration = Duration::from_millis(1_500);
/// Operations answered before and after each fault.
const OPERATIONS: u64 = 40;

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillLeader,
    KillFollower,
    KillAll,
    StopLeader,
    StopFollower,
    StopLeaderAndKillFollower,
    CutLeader,
    CutFollower,
    CutAll,
    LeaderHearsNobody,
    NobodyHearsLeader,
    CutOneLink,
}

/// Those of the short form, the most telling first.
const FAULTS: [Fault; 12] = [
    Fault::KillLeader,
    Fault::CutLeader,
    Fault::StopLeader,
    Fault::KillAll,
    Fault::LeaderHearsNobody,
    Fault::NobodyHearsLeader,
    Fault::StopLeaderAndKillFollower,
    Fault::CutOneLink,
    Fault::CutAll,
    Fault::KillFollower,
    Fault::CutFollower,
    Fault::StopFollower,
];

/// A cluster, and its network if there is one.
struct World {
    network: Option<Network>,
    cluster: Cluster,
    doors: Vec<Door>,
}

impl World {
    fn new(members: usize) -> Self {
        let network = Network::new(members);
        let cluster = match &network {
            Some(network) => Cluster::start_in(network, members),
            None => Cluster::start(members),
        };
        make(&cluster[0], TABLE);
        cluster.running().for_each(|node| wait_until_strong(node, TABLE));
        wait_until_whole(&cluster, TABLE);
        let doors = doors(&cluster, members, network.as_ref());
        Self { network, cluster, doors }
    }

    fn members(&self) -> usize {
        self.doors.len()
    }

    /// Breaks something, waits, and repairs it.
    fn suffer(&mut self, fault: Fault, lasting: Duration) {
        let members = self.members();
        let leads = leader(&self.cluster, 0..members).expect("one leads");
        let other = |step: usize| (leads + step) % members;
        match fault {
            Fault::KillLeader => self.kill(&[leads], lasting),
            Fault::KillFollower => self.kill(&[other(1)], lasting),
            Fault::KillAll => self.kill(&(0..members).collect::<Vec<_>>(), Duration::ZERO),
            Fault::StopLeader => self.stop(leads, lasting),
            Fault::StopFollower => self.stop(other(1), lasting),
            Fault::StopLeaderAndKillFollower => {
                self.cluster[leads].signal("STOP");
                self.kill(&[other(1)], lasting);
                self.cluster[leads].signal("CONT");
            }
            Fault::CutLeader => self.cut(lasting, |network| isolate(network, leads, members)),
            Fault::CutFollower => self.cut(lasting, |network| isolate(network, other(1), members)),
            Fault::CutAll => self.cut(lasting, Network::cut_all),
            Fault::LeaderHearsNobody => {
                self.cut(lasting, |network| (1..members).for_each(|step| network.cut(other(step), leads)))
            }
            Fault::NobodyHearsLeader => {
                self.cut(lasting, |network| (1..members).for_each(|step| network.cut(leads, other(step))))
            }
            Fault::CutOneLink => self.cut(lasting, |network| network.cut_between(leads, other(1))),
        }
    }

    fn kill(&mut self, killed: &[usize], lasting: Duration) {
        killed.iter().for_each(|member| self.cluster.kill(*member));
        pass(lasting);
        killed.iter().for_each(|member| self.cluster.restart(*member));
    }

    fn stop(&self, member: usize, lasting: Duration) {
        self.cluster[member].signal("STOP");
        pass(lasting);
        self.cluster[member].signal("CONT");
    }

    fn cut(&mut self, lasting: Duration, cut: impl Fn(&Network)) {
        match &self.network {
            Some(network) => {
                cut(network);
                pass(lasting);
                assert!(network.lost() > 0, "nothing was cut");
                network.heal();
            }
            None => {
                say("cuts need root: a follower is killed instead");
                self.kill(&[0], lasting);
            }
        }
    }
}

fn isolate(network: &Network, member: usize, members: usize) {
    (1..members).for_each(|step| network.cut_between(member, (member + step) % members));
}

fn pass(lasting: Duration) {
    let begun = Instant::now();
    wait_until("time passes", lasting + RECOVERY, || begun.elapsed() >= lasting);
}

/// What clients record.
struct Recorder {
    /// Begins the names of keys, so that each history has its own.
    prefix: String,
    begun: Instant,
    stop: AtomicBool,
    answered: AtomicU64,
    unknown: AtomicU64,
    next: AtomicU64,
    histories: Mutex<HashMap<String, Vec<Event>>>,
}

impl Recorder {
    fn new(prefix: String) -> Self {
        Self {
            prefix,
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            next: AtomicU64::new(1),
            histories: Mutex::default(),
        }
    }

    fn wait_for(&self, more: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("operations are answered", RECOVERY, || {
            self.answered.load(Ordering::Relaxed) >= before + more
        });
    }

    fn record(&self, key: &str, operation: Operation, called: Duration, returned: Option<Duration>) {
        let count = if returned.is_some() { &self.answered } else { &self.unknown };
        count.fetch_add(1, Ordering::Relaxed);
        let event = Event { operation, called, returned };
        let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        histories.entry(key.to_owned()).or_default().push(event);
    }

    /// Runs clients for as long as `disturb` takes, and returns what they recorded.
    fn run(self, doors: &[Door], seed: u64, disturb: impl FnOnce(&Self)) -> HashMap<String, Vec<Event>> {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let recorder = &self;
            for client in 0..CLIENTS {
                let actor = Actor {
                    chance: Chance::new(seed * 1_000 + client as u64),
                    connections: Client::new(doors, PATIENCE),
                    member: client % doors.len(),
                    members: doors.len(),
                    seen: HashMap::new(),
                };
                scope.spawn(move || actor.act(recorder));
            }
            let stop = Stop(&self.stop);
            disturb(&self);
            drop(stop);
        });
        self.histories.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client.
struct Actor {
    chance: Chance,
    connections: Client,
    member: usize,
    members: usize,
    /// What it read last of each key: the value, and its entity tag.
    seen: HashMap<String, (Held, Option<String>)>,
}

impl Actor {
    fn act(mut self, recorder: &Recorder) {
        while !recorder.stop.load(Ordering::Relaxed) {
            let window = recorder.begun.elapsed().as_millis() / KEYS_FOR.as_millis();
            let key = format!("{}-{window}-{}", recorder.prefix, self.chance.below(KEYS));
            if self.chance.below(4) == 0 {
                self.member = (self.member + 1) % self.members;
            }
            match self.chance.below(10) {
                0..4 => self.read(recorder, &key),
                4..6 => self.write(recorder, &key),
                6..9 => self.swap(recorder, &key),
                _ => self.replace_version(recorder, &key),
            }
        }
    }

    /// Sends a request. Returns the answer, if there was one, and when it was sent and came.
    fn send(&mut self, recorder: &Recorder, request: &Request) -> (Fate, Duration, Duration) {
        let called = recorder.begun.elapsed();
        let fate = self.connections.send(self.member, request);
        let returned = recorder.begun.elapsed();
        if !matches!(fate, Fate::Done(_)) {
            self.member = (self.member + 1) % self.members;
            thread::park_timeout(Duration::from_millis(10));
        }
        (fate, called, returned)
    }

    fn read(&mut self, recorder: &Recorder, key: &str) {
        let (fate, called, returned) =
            self.send(recorder, &Request::new("GET", &format!("/{TABLE}/key/{key}")));
        let Fate::Done(answer) = fate else { return };
        let held = match answer.status {
            404 => None,
            _ => held(&answer.json()["value"]),
        };
        self.seen.insert(key.to_owned(), (held, answer.header("etag").map(str::to_owned)));
        recorder.record(key, Operation::Read(held), called, Some(returned));
    }

    fn write(&mut self, recorder: &Recorder, key: &str) {
        let path = format!("/{TABLE}/key/{key}");
        let value = (self.chance.below(5) > 0).then(|| recorder.next.fetch_add(1, Ordering::Relaxed));
        let request = match value {
            Some(value) => Request::new("PUT", &path).body(format!(r#"{{"value":{value}}}"#)),
            None => Request::new("DELETE", &format!("{path}?force=true")),
        };
        let (fate, called, returned) = self.send(recorder, &request);
        let returned = match fate {
            Fate::Done(answer) => {
                answer.expect(200);
                Some(returned)
            }
            Fate::Refused => return,
            Fate::Unknown => None,
        };
        recorder.record(key, Operation::Write(value), called, returned);
    }

    /// Compares with what it saw last, and sets; if it differs, it reads in the same step.
    fn swap(&mut self, recorder: &Recorder, key: &str) {
        let (expected, _) = self.seen.get(key).cloned().unwrap_or_default();
        let value = recorder.next.fetch_add(1, Ordering::Relaxed);
        let compare = match expected {
            Some(expected) => json!({ "table": TABLE, "key": key, "value": expected }),
            None => json!({ "table": TABLE, "key": key, "absent": true }),
        };
        let transaction = json!({
            "compare": [compare],
            "success": [{ "op": "put", "table": TABLE, "key": key, "value": value }],
            "failure": [{ "op": "get", "table": TABLE, "key": key }],
        });
        let request = Request::new("POST", "/_/txn").body(transaction.to_string());
        let (fate, called, returned) = self.send(recorder, &request);
        let swap = Operation::Swap(expected, Some(value));
        match fate {
            Fate::Done(answer) => {
                let answer = answer.expect(200).json();
                let (operation, seen) = if answer["succeeded"] == true {
                    (swap, Some(value))
                } else {
                    let seen = held(&answer["results"][0]["value"]);
                    assert_ne!(seen, expected, "a comparison failed that holds: {answer}");
                    (Operation::Read(seen), seen)
                };
                self.seen.insert(key.to_owned(), (seen, None));
                recorder.record(key, operation, called, Some(returned));
            }
            Fate::Refused => {}
            Fate::Unknown => recorder.record(key, swap, called, None),
        }
    }

    /// Replaces the version that it read last, or makes the key if it was absent. No two versions have one value.
    fn replace_version(&mut self, recorder: &Recorder, key: &str) {
        let condition = match self.seen.get(key) {
            Some((Some(_), Some(etag))) => ("If-Match", etag.clone()),
            Some((None, _)) => ("If-None-Match", "*".to_owned()),
            _ => return self.read(recorder, key),
        };
        let (expected, _) = self.seen[key].clone();
        let value = recorder.next.fetch_add(1, Ordering::Relaxed);
        let request = Request::new("PUT", &format!("/{TABLE}/key/{key}")).header(condition.0, &condition.1);
        let (fate, called, returned) = self.send(recorder, &request.body(format!(r#"{{"value":{value}}}"#)));
        let swap = Operation::Swap(expected, Some(value));
        match fate {
            Fate::Done(answer) if answer.status == 412 => {
                self.seen.remove(key);
                recorder.record(key, Operation::Differs(expected), called, Some(returned));
            }
            Fate::Done(answer) => {
                let etag = answer.expect(200).header("etag").map(str::to_owned);
                self.seen.insert(key.to_owned(), (Some(value), etag));
                recorder.record(key, swap, called, Some(returned));
            }
            Fate::Refused => {}
            Fate::Unknown => recorder.record(key, swap, called, None),
        }
    }
}

fn held(value: &Value) -> Held {
    if value.is_null() { None } else { Some(value.as_u64().expect("a number")) }
}

/// One history with these faults.
fn one_history(world: &mut World, number: u64, faults: &[Fault], lasting: Duration) {
    let doors = world.doors.clone();
    let recorder = Recorder::new(format!("h{number}"));
    let histories = recorder.run(&doors, number, |recorder| {
        for fault in faults {
            recorder.wait_for(OPERATIONS);
            world.suffer(*fault, lasting);
            recorder.wait_for(OPERATIONS);
        }
    });
    let count =
        |known: bool| histories.values().flatten().filter(|event| event.returned.is_some() == known).count();
    eprintln!(
        "history {number}, {faults:?}: {} operations, {} of unknown outcome",
        count(true),
        count(false)
    );
    let checked = Instant::now();
    expect_linearizable(&histories);
    if checked.elapsed() > Duration::from_secs(1) {
        eprintln!("checked in {:?}", checked.elapsed());
    }
}

fn short_histories(members: usize, first: u64, faults: &[Fault]) {
    let mut world = World::new(members);
    for (number, fault) in (first..).zip(faults) {
        one_history(&mut world, number, &[*fault], FAULT);
        world.cluster.wait_until_linked();
    }
    wait_until_whole(&world.cluster, TABLE);
    wait_until_same(&world.cluster, TABLE);
}

#[test]
fn histories_of_three_nodes_under_faults_are_linearizable() {
    short_histories(3, 0, &FAULTS[..8]);
}

#[test]
fn histories_of_five_nodes_under_faults_are_linearizable() {
    short_histories(5, 100, &[Fault::KillLeader, Fault::CutLeader]);
}

/// What this test of tests is about: reads that are not linearizable are found.
#[test]
fn a_history_with_stale_reads_on_a_node_that_is_cut_off_is_refused() {
    let world = World::new(3);
    let Some(network) = &world.network else { return };
    let away = (leader(&world.cluster, 0..3).expect("one leads") + 1) % 3;
    let path = format!("/{TABLE}/key/stale");
    let mut events = Vec::new();
    let begun = Instant::now();
    let mut record = |operation: Operation, run: &dyn Fn() -> Response| {
        let called = begun.elapsed();
        let answer = run().expect(200);
        events.push(Event { operation, called, returned: Some(begun.elapsed()) });
        answer
    };
    record(Operation::Write(Some(1)), &|| world.cluster[away].put(&path, r#"{"value":1}"#));
    record(Operation::Read(Some(1)), &|| world.cluster[away].get(&path));
    isolate(network, away, 3);
    record(Operation::Write(Some(2)), &|| world.cluster[(away + 1) % 3].put(&path, r#"{"value":2}"#));
    let stale = record(Operation::Read(Some(1)), &|| world.cluster[away].get(&format!("{path}?read=stale")));
    assert_eq!(stale.json()["value"], 1, "it cannot know of the other");
    super::history::check(&events).expect_err("a stale read is not linearizable");
}

/// `DYNARUST_HISTORIES=200 cargo test --release --test tests strong::linearizable::many -- --nocapture`
#[test]
fn many_long_histories_under_faults_are_linearizable() {
    let Some(histories) = number("DYNARUST_HISTORIES") else { return };
    let lasting = Duration::from_secs(number("DYNARUST_HISTORY_SECONDS").unwrap_or(60));
    let mut chance = Chance::new(number("DYNARUST_SEED").unwrap_or(1));
    for history in 0..histories {
        let mut world = World::new(if history % 4 == 3 { 5 } else { 3 });
        let doors = world.doors.clone();
        let recorder = Recorder::new(format!("h{history}"));
        let begun = Instant::now();
        let mut faults = Vec::new();
        let recorded = recorder.run(&doors, history, |recorder| {
            while begun.elapsed() < lasting {
                let fault = FAULTS[chance.below(FAULTS.len() as u64) as usize];
                faults.push(fault);
                recorder.wait_for(OPERATIONS);
                world.suffer(fault, Duration::from_millis(200 + chance.below(4_000)));
            }
            recorder.wait_for(OPERATIONS);
        });
        eprintln!("history {history}: {} operations, {faults:?}", recorded.values().flatten().count());
        expect_linearizable(&recorded);
        wait_until_whole(&world.cluster, TABLE);
        wait_until_same(&world.cluster, TABLE);
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}
