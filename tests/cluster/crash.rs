//! Nodes that are killed or stopped while the cluster is written to: nothing acknowledged is lost, and a client that goes on to
//! another node never fails.

use super::ledger::Ledger;
use crate::harness::cluster::Cluster;

const WRITERS: usize = 4;
const KILLS: usize = 9;
/// Writes between two disturbances.
const WRITES: u64 = 60;

#[test]
fn kill_9_of_one_node_after_another_under_load_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::new(WRITERS);
    ledger.load(&mut cluster, |cluster, acknowledged| {
        for kill in 0..KILLS {
            cluster.kill(kill % 3);
            // Every third time the next one goes before it is back.
            if kill % 3 == 2 {
                cluster.kill((kill + 1) % 3);
                Ledger::wait_for(WRITES, acknowledged);
                cluster.restart((kill + 1) % 3);
            }
            Ledger::wait_for(WRITES, acknowledged);
            cluster.restart(kill % 3);
            Ledger::wait_for(WRITES, acknowledged);
        }
    });
    cluster.wait_until_ready_and_linked();
    let took = cluster.wait_until_equal();
    eprintln!("{} writes acknowledged, of one mind after {took:?}", ledger.acknowledged());
    ledger.verify(&cluster);
}

#[test]
fn all_killed_at_once_come_back_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::new(WRITERS);
    for _ in 0..2 {
        ledger.load(&mut cluster, |cluster, acknowledged| {
            Ledger::wait_for(WRITES, acknowledged);
            for member in 0..3 {
                cluster.kill(member);
            }
            for member in 0..3 {
                cluster.restart(member);
            }
            Ledger::wait_for(WRITES, acknowledged);
        });
    }
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    ledger.verify(&cluster);
}

#[test]
fn a_rolling_restart_fails_no_request_of_a_client_that_goes_on_to_another_node() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::new(WRITERS);
    ledger.load(&mut cluster, |cluster, acknowledged| {
        for member in 0..3 {
            Ledger::wait_for(WRITES, acknowledged);
            let outcome = cluster.terminate(member);
            assert_eq!(outcome.code(), Some(0), "{outcome:?}");
            Ledger::wait_for(WRITES, acknowledged);
            cluster.restart(member);
            // As who restarts them in turn would: the next when this one is ready.
            cluster.wait_until_ready_and_linked();
        }
        Ledger::wait_for(WRITES, acknowledged);
    });
    assert!(ledger.moves() > 0, "nobody saw that a node was away");
    cluster.wait_until_equal();
    ledger.verify(&cluster);
}
