//! Histories of real clusters under faults, checked for linearizability: clients on all nodes read, write, delete, compare and set a few
//! keys while the leader is killed, stopped or cut off.
//!
//! The usual run is short: ten histories with one fault each. `DYNARUST_HISTORIES=200` records that many, of `DYNARUST_HISTORY_SECONDS`
//! (60) each, with one fault after another. Cuts need root; elsewhere their place is taken by kills.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    RECOVERY, backend,
    client::{Door, doors},
    history::{Event, Operation, check},
    leader, make,
    recorder::{Recorder, TABLE},
    wait_until_same, wait_until_strong, wait_until_whole,
};
use crate::{
    crash::ledger::Chance,
    harness::{
        cluster::Cluster,
        etcd::Etcd,
        http::Response,
        network::{Network, say},
        wait_until,
    },
};

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
    KillEtcd,
    StopEtcd,
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

/// Those of nodes whose strong tables are in an etcd, and of that.
const FAULTS_WITH_ETCD: [Fault; 7] = [
    Fault::KillEtcd,
    Fault::StopEtcd,
    Fault::KillAll,
    Fault::StopLeader,
    Fault::KillLeader,
    Fault::StopLeaderAndKillFollower,
    Fault::StopFollower,
];

/// The faults there are.
fn all_faults() -> &'static [Fault] {
    if backend::is_etcd() { &FAULTS_WITH_ETCD } else { &FAULTS }
}

/// A cluster, and its network if there is one, or its etcd.
struct World {
    network: Option<Network>,
    etcd: Option<Arc<Etcd>>,
    cluster: Cluster,
    doors: Vec<Door>,
}

impl World {
    fn new(members: usize) -> Self {
        let etcd = backend::is_etcd().then(|| Arc::new(Etcd::start().expect("etcd is installed")));
        // It is outside of such networks.
        let network = if etcd.is_some() { None } else { Network::new(members) };
        let cluster = match (&network, &etcd) {
            (Some(network), _) => Cluster::start_in(network, members),
            (None, Some(etcd)) => Cluster::start_with(members, |setup| setup.etcd(etcd)),
            (None, None) => Cluster::start(members),
        };
        make(&cluster[0], TABLE);
        cluster.running().for_each(|node| wait_until_strong(node, TABLE));
        wait_until_whole(&cluster, TABLE);
        let doors = doors(&cluster, members, network.as_ref());
        Self { network, etcd, cluster, doors }
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
            Fault::KillEtcd => {
                self.etcd().kill();
                pass(lasting);
                self.etcd().restart();
            }
            Fault::StopEtcd => {
                self.etcd().signal("STOP");
                pass(lasting);
                self.etcd().signal("CONT");
            }
        }
    }

    fn etcd(&self) -> &Etcd {
        self.etcd.as_deref().expect("only where there is one")
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
                // They may have had no link just then, after the fault before.
                wait_until("something is cut", RECOVERY, || network.lost() > 0);
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

/// Checks each key of a history, and panics with the story of one that is not linearizable.
fn expect_linearizable(histories: &HashMap<String, Vec<Event>>) {
    for (key, events) in histories {
        if let Err(why) = check(events) {
            panic!("the history of {key} is not linearizable: {why}");
        }
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
    let faults = all_faults();
    short_histories(3, 0, &faults[..faults.len().min(8)]);
}

#[test]
fn histories_of_five_nodes_under_faults_are_linearizable() {
    if backend::skips_raft() {
        return;
    }
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
    check(&events).expect_err("a stale read is not linearizable");
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
                let fault = all_faults()[chance.below(all_faults().len() as u64) as usize];
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
