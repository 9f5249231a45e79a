//! Cuts that last longer than `--forget-after`: the majority forgets whom it does not hear, sweeps what it deleted, and goes on. When
//! both sides meet again nothing that was acknowledged is gone, and no deleted key is back.
//!
//! Nodes went by what they did not have: the node that came back forgot the two others in turn, and called what they had written
//! deleted. 790 of 790 rows that a majority had acknowledged were gone on all three.
//!
//! They take a minute and a half, most of it waiting. `DYNARUST_LONG_CUTS=20` runs so many of each kind, with every node cut off in turn.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::model::Model;
use crate::harness::{
    DEADLINE, Node,
    cluster::{CONVERGENCE, Cluster, member},
    network::Network,
    wait_until,
};

/// Keys of each kind.
const KEYS: usize = 40;
/// Longer than a member may be away before it is forgotten, which is a minute.
const FORGOTTEN: Duration = Duration::from_secs(100);

/// What the node does that is cut off.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Alone {
    Idles,
    Writes,
    WritesAndDeletes,
}

fn tombstones(node: &Node) -> u64 {
    let tables = node.get("/_/tables").expect(200).json();
    tables.as_array().expect("tables").iter().filter_map(|table| table["tombstones"].as_u64()).sum()
}

fn keys(kind: &str, value: Option<&str>) -> Vec<(String, Option<serde_json::Value>)> {
    (0..KEYS).map(|row| (format!("{kind}-{row}"), value.map(Into::into))).collect()
}

fn survives_a_long_cut(away: usize, alone: Alone) {
    let Some(network) = Network::new(3) else { return };
    let cluster = Cluster::start_in_with(&network, 3, |setup| {
        setup.flag("--forget-after", "1m").flag("--tombstone-grace", "1s")
    });
    let (one, other) = ((away + 1) % 3, (away + 2) % 3);
    let mut model = Model::new("t");
    for kind in ["kept", "deleted", "changed", "deleted-alone", "changed-alone"] {
        model.write(&cluster[0], keys(kind, Some("before")));
    }
    cluster.wait_until_equal();
    cluster.wait_until_agreed();
    network.cut_between(away, one);
    network.cut_between(away, other);
    for row in 0..KEYS {
        let path = format!("/expiring/key/{row}?w=majority");
        cluster[one].put(&format!("{path}&ttl=2s"), r#"{"value":1}"#).expect(200);
        cluster[other].put(&format!("/majority/key/{row}?w=majority"), r#"{"value":1}"#).expect(200);
    }
    model.write(&cluster[one], keys("new", Some("majority")));
    model.write(&cluster[other], keys("changed", Some("majority")));
    model.write(&cluster[one], keys("deleted", None));
    if alone != Alone::Idles {
        model.write(&cluster[away], keys("new-alone", Some("alone")));
        model.write(&cluster[away], keys("changed-alone", Some("alone")));
    }
    if alone == Alone::WritesAndDeletes {
        model.write(&cluster[away], keys("deleted-alone", None));
        for row in 0..KEYS {
            let path = format!("/expiring/key/alone-{row}?ttl=2s");
            cluster[away].put(&path, r#"{"value":1}"#).expect(200);
        }
    }
    let gone = cluster.address(away);
    for node in [one, other] {
        wait_until("it is forgotten", FORGOTTEN, || member(&cluster[node], &gone)["state"] == "forgotten");
        wait_until("what it may have missed is swept", CONVERGENCE, || tombstones(&cluster[node]) == 0);
    }
    wait_until("it keeps both, whom it cannot forget alone", CONVERGENCE, || {
        cluster[away].view()["kept_without_majority"] == 2
    });

    network.heal();
    let begun = Instant::now();
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    eprintln!("of one mind {:?} after the cut, {away} away, {alone:?}", begun.elapsed());
    let rounds = cluster.sum("rounds");
    wait_until("rounds go on", DEADLINE, || cluster.sum("rounds") > rounds + 60);
    model.expect_on(&cluster);
    for node in cluster.running() {
        node.get("/majority/count").expect_body(&format!(r#"{{"count":{KEYS}}}"#));
        node.get("/expiring/count").expect_body(r#"{"count":0}"#);
    }
    cluster.wait_until_equal();
}

/// Each kind with another node cut off, side by side: most of the time they wait.
#[test]
fn a_majority_keeps_what_it_acknowledged_while_a_node_was_cut_off_for_long() {
    let rounds: usize = std::env::var("DYNARUST_LONG_CUTS").map_or(1, |text| text.parse().expect("a number"));
    for round in 0..rounds {
        thread::scope(|scope| {
            for (away, alone) in (0..).zip([Alone::WritesAndDeletes, Alone::Writes, Alone::Idles]) {
                scope.spawn(move || survives_a_long_cut((away + round) % 3, alone));
            }
        });
    }
}
