//! Nodes that die or hang while strong tables are written to: no answered write is lost, and writes are answered again soon.

use std::time::Duration;

use super::{
    backend,
    client::doors,
    leader,
    ledger::{Ledger, Progress},
    make, wait_until_same, wait_until_strong, wait_until_whole, wait_until_writable,
};
use crate::{
    cluster::clocks::with_clock,
    harness::{cluster::Cluster, http::Request},
};

const TABLE: &str = "stock";
/// Writes between two disturbances.
const WRITES: u64 = 40;
/// Longest time without an answer when a leader dies: an election, on a machine with much else to do. On an idle one it takes half a second.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A cluster with a strong table.
fn cluster_of(members: usize) -> Cluster {
    let cluster = backend::start(members);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    wait_until_whole(&cluster, TABLE);
    cluster
}

/// Disturbs a cluster that is written to. Then all nodes have all that was answered, and take writes.
fn survives(members: usize, disturb: impl FnOnce(&mut Cluster, &Progress)) -> Ledger {
    let mut cluster = cluster_of(members);
    let doors = doors(&cluster, members, None);
    let mut ledger = Ledger::default();
    ledger.load(&doors, &mut cluster, TABLE, |cluster, progress| {
        progress.wait_for(WRITES);
        disturb(cluster, progress);
        progress.wait_for(WRITES);
        eprintln!("{} writes answered", progress.answered());
    });
    wait_until_whole(&cluster, TABLE);
    ledger.verify(&wait_until_same(&cluster, TABLE));
    for node in cluster.running() {
        ledger.verify(&node.get(&format!("/{TABLE}/store")).expect(200).json());
    }
    eprintln!("longest silence {:?}", ledger.silence);
    ledger
}

fn leader_of(cluster: &Cluster, members: usize) -> usize {
    leader(cluster, 0..members).expect("one leads, as writes are answered")
}

#[test]
fn kill_9_of_the_leader_again_and_again_loses_no_answered_write() {
    let ledger = survives(3, |cluster, progress| {
        for _ in 0..3 {
            let leader = leader_of(cluster, 3);
            cluster.kill(leader);
            // Two of three go on without it.
            progress.wait_for(WRITES);
            cluster.restart(leader);
            progress.wait_for(WRITES);
        }
    });
    assert!(ledger.silence < SILENCE_MAX, "{:?}", ledger.silence);
}

#[test]
fn kill_9_of_all_three_at_once_loses_no_answered_write() {
    survives(3, |cluster, progress| {
        for _ in 0..2 {
            (0..3).for_each(|member| cluster.kill(member));
            (0..3).for_each(|member| cluster.restart(member));
            progress.wait_for(WRITES);
        }
    });
}

#[test]
fn a_cluster_of_one_that_is_killed_has_all_that_was_answered() {
    survives(1, |cluster, progress| {
        for _ in 0..2 {
            cluster.kill(0);
            cluster.restart(0);
            progress.wait_for(WRITES);
        }
    });
}

/// A leader that is stopped still believes that it leads when it goes on.
#[test]
fn a_leader_that_hangs_is_replaced_and_does_no_harm_when_it_goes_on() {
    let ledger = survives(3, |cluster, progress| {
        let leader = leader_of(cluster, 3);
        cluster[leader].signal("STOP");
        progress.wait_for(WRITES);
        cluster[leader].signal("CONT");
        progress.wait_for(WRITES);
    });
    assert!(ledger.silence < SILENCE_MAX, "{:?}", ledger.silence);
}

#[test]
fn five_nodes_go_on_without_their_leader_and_one_more() {
    survives(5, |cluster, progress| {
        let leader = leader_of(cluster, 5);
        let other = (leader + 1) % 5;
        cluster.kill(leader);
        cluster.kill(other);
        progress.wait_for(WRITES);
        cluster.restart(other);
        cluster.restart(leader);
    });
}

/// As who updates a cluster does it: one node after the other, each once the one before is back.
#[test]
fn a_rolling_restart_loses_no_answered_write() {
    let ledger = survives(3, |cluster, progress| {
        for member in 0..3 {
            let outcome = cluster.terminate(member);
            assert_eq!(outcome.code(), Some(0), "{outcome:?}");
            progress.wait_for(WRITES);
            cluster.restart(member);
            wait_until_whole(cluster, TABLE);
        }
    });
    assert!(ledger.silence < SILENCE_MAX, "{:?}", ledger.silence);
}

/// Both hold every write, so neither goes on alone, and nothing is lost.
#[test]
fn of_two_nodes_neither_writes_alone_and_both_go_on_together() {
    if backend::skips_raft() {
        return;
    }
    let mut cluster = cluster_of(2);
    cluster[0].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    cluster.kill(1);
    let refused = cluster[0].put("/stock/key/a", r#"{"value":2}"#);
    match refused.status {
        503 => drop(refused.expect_problem(503, "no-quorum")),
        _ => drop(refused.expect_problem(504, "outcome-unknown")),
    }
    cluster[0].get("/stock/key/a").expect_problem(503, "no-quorum");
    assert!(cluster[0].get("/stock/key/a?read=stale").expect(200).text().contains("value"));
    cluster.restart(1);
    wait_until_whole(&cluster, TABLE);
    cluster[1].put("/stock/key/a", r#"{"value":3}"#).expect(200);
    for node in cluster.running() {
        node.get("/stock/key/a").expect_body(r#"{"value":3}"#);
    }
}

/// A write that waits for a leader when the node is asked to stop must not hold it up.
#[test]
fn a_node_without_a_majority_stops_in_order() {
    let mut cluster = cluster_of(3);
    cluster.kill(0);
    cluster.kill(1);
    cluster[2].get("/stock/key/a?read=stale").expect_problem(404, "not-found");
    let outcome = cluster.terminate(2);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
}

/// A node that starts and does not know yet that a table is strong would take writes into an eventual table of that name.
#[test]
fn a_node_that_was_killed_when_a_table_was_made_knows_it_when_it_starts_alone() {
    if backend::skips_raft() {
        return;
    }
    let mut cluster = cluster_of(3);
    cluster[1].put("/_/tables/new", r#"{"mode":"strong"}"#).expect(201);
    (0..3).for_each(|member| cluster.kill(member));
    for member in 0..3 {
        cluster.restart(member);
        let put = cluster[member].put("/new/key/a", r#"{"value":1}"#);
        // Whoever led before has appended it to its log.
        assert!(matches!(put.status, 503 | 504), "{put}");
        cluster.kill(member);
    }
    (0..3).for_each(|member| cluster.restart(member));
    wait_until_whole(&cluster, "new");
    wait_until_same(&cluster, "new");
}

/// openraft gives the followers one heartbeat's time to confirm a leader: on a busy machine a read of a healthy cluster was refused at once.
#[test]
fn a_read_is_answered_if_the_followers_hang_for_a_moment_only() {
    if backend::skips_raft() {
        return;
    }
    let cluster = cluster_of(3);
    cluster[0].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    let leader = leader_of(&cluster, 3);
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    let mut connection = cluster[leader].connect();
    followers.iter().for_each(|member| cluster[*member].signal("STOP"));
    connection.write(&Request::new("GET", "/stock/key/a").to_bytes()).expect("a request can be sent");
    let is_hasty = connection.has_answer(Duration::from_millis(300));
    followers.iter().for_each(|member| cluster[*member].signal("CONT"));
    let read = connection.receive("GET").expect("an answer");
    assert!(!is_hasty, "nobody can have confirmed the leader: {read}");
    read.expect_body(r#"{"value":1}"#);
}

/// The clock of the node that leads next is behind, and what it writes must be later all the same. Needs libfaketime.
#[test]
fn a_leader_whose_clock_is_behind_loses_no_write_and_repeats_no_version() {
    let offsets = ["+3s", "-3s", "+0s"];
    let setups: Option<Vec<_>> = offsets
        .iter()
        .map(|offset| with_clock(backend::member().flag("--max-clock-drift", "20s"), offset))
        .collect();
    let Some(setups) = setups else { return };
    let mut cluster = Cluster::start_from(setups);
    make(&cluster[0], TABLE);
    let (mut last, mut value) = (String::new(), 0);
    for round in 0..4 {
        let leads = leader_of(&cluster, 3);
        for step in 0..9 {
            value += 1;
            let node = &cluster[(leads + step) % 3];
            let put = node.put("/stock/key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
            let version = put.json()["version"].as_str().expect("a version").to_owned();
            assert!(version > last, "round {round}: {version} after {last}");
            last = version;
            cluster[(leads + step + 1) % 3]
                .get("/stock/key/a")
                .expect_body(&format!(r#"{{"value":{value}}}"#));
        }
        cluster.kill(leads);
        wait_until_writable(&cluster[(leads + 1) % 3], TABLE);
        cluster.restart(leads);
        wait_until_whole(&cluster, TABLE);
    }
    let rows = wait_until_same(&cluster, TABLE);
    assert_eq!(rows["a"], value);
}
