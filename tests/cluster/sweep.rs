//! Marks of deleted keys go when every member has the deletion, and what was deleted stays so, whoever returns.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{wait_for_absence, wait_for_body};
use crate::harness::{
    DEADLINE, Node, Setup,
    cluster::{CONVERGENCE, Cluster, SECRET, member},
    wait_until,
};

const KEYS: usize = 60;

fn tombstones(node: &Node) -> u64 {
    let tables = node.get("/_/tables").expect(200).json();
    tables.as_array().expect("tables").iter().filter_map(|table| table["tombstones"].as_u64()).sum()
}

fn wait_until_swept(node: &Node) {
    wait_until("the marks are swept", CONVERGENCE, || tombstones(node) == 0);
}

fn start() -> Cluster {
    let cluster = Cluster::start_with(3, |setup| setup.flag("--tombstone-grace", "1s"));
    for row in 0..KEYS {
        cluster[row % 3].put(&format!("/t/key/k{row}?w=all"), r#"{"value":"old"}"#).expect(200);
    }
    cluster
}

#[test]
fn marks_of_deleted_keys_are_held_while_a_member_is_away_and_swept_on_all_when_it_is_back() {
    let mut cluster = start();
    cluster.wait_until_equal();
    cluster.terminate(2);
    let away = Instant::now();
    for row in 0..20 {
        cluster[0].delete(&format!("/t/key/k{row}")).expect(200);
    }
    // Longer than the grace. Sweeps are further apart than that: what they may sweep shows in the floor.
    let rounds = cluster.sum("rounds");
    wait_until("rounds go on", DEADLINE, || cluster.sum("rounds") > rounds + 60);
    for node in cluster.running() {
        assert_eq!(tombstones(node), 20, "swept before all members have it");
        let floor = &node.view()["floor_age_ms"];
        let floor_age = floor.as_u64().map_or(Duration::MAX, Duration::from_millis);
        assert!(
            floor_age >= away.elapsed(),
            "the floor is {floor} ms ago; the member left {:?} ago",
            away.elapsed()
        );
    }
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        wait_until_swept(node);
        node.get("/t/count").expect_body(&format!(r#"{{"count":{}}}"#, KEYS - 20));
    }
}

/// The worst return: what it has was deleted and the marks are gone, and it wrote what nobody has.
#[test]
fn a_node_that_returns_after_the_sweep_brings_nothing_deleted_back_and_its_own_writes_along() {
    let mut cluster = start();
    cluster.wait_until_agreed();
    // Alone for a while, and it writes.
    cluster.kill(0);
    cluster.kill(1);
    cluster[2].put("/t/key/own", r#"{"value":"nobody has it"}"#).expect(200);
    cluster[2].put("/t/key/k59", r#"{"value":"changed alone"}"#).expect(200);
    let away = cluster.address(2);
    cluster.kill(2);
    cluster.restart(0);
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    for row in 0..40 {
        cluster[row % 2].delete(&format!("/t/key/k{row}")).expect(200);
    }
    wait_until("it is given up", CONVERGENCE, || member(&cluster[0], &away)["state"] == "down");
    let command = Setup::new().environment("CLUSTER_SECRET", SECRET);
    let (_, forgotten) = command.run(&["forget", &away, "--at", &cluster.address(0)]);
    assert_eq!(forgotten.code(), Some(0), "{forgotten:?}");
    for node in cluster.running() {
        wait_until_swept(node);
    }

    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        for row in 0..40 {
            wait_for_absence(node, &format!("/t/key/k{row}"));
        }
        wait_for_body(node, "/t/key/own", r#"{"value":"nobody has it"}"#);
        wait_for_body(node, "/t/key/k59", r#"{"value":"changed alone"}"#);
        let keys = node.get("/t/keys").expect(200).json();
        assert_eq!(keys.as_array().map(Vec::len), Some(KEYS - 40 + 1), "{keys}");
    }
    let state = |node: &Node| member(node, &away)["state"].clone();
    assert_eq!(state(&cluster[0]), Value::from("alive"), "{}", cluster[0].view());
}

#[test]
fn expired_values_are_removed_everywhere_and_come_back_from_nobody() {
    let mut cluster = start();
    cluster[0].put("/t/key/expiring?ttl=2s&w=all", r#"{"value":1}"#).expect(200);
    cluster.terminate(2);
    for node in cluster.running() {
        wait_for_absence(node, "/t/key/expiring");
    }
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        wait_for_absence(node, "/t/key/expiring");
        node.get("/t/count").expect_body(&format!(r#"{{"count":{KEYS}}}"#));
    }
}

/// Values that expired are swept without a grace, and what was written before that is older than what was swept.
#[test]
fn an_import_of_old_versions_after_expired_values_were_swept_stays_everywhere() {
    let cluster = Cluster::start(3);
    cluster[0].put("/t/key/expiring?ttl=1s&w=all", r#"{"value":1}"#).expect(200);
    for node in cluster.running() {
        wait_until("the expired value is swept", CONVERGENCE, || {
            node.view()["swept"]["expired_age_ms"].is_u64()
        });
    }
    let line = r#"{"table":"t","key":"old","value":1,"version":"018bcfe568000000-000000000000abcd"}"#;
    let imported = cluster[0].post("/_/import", line).expect(200).json();
    assert_eq!(imported["written"], 1, "{imported}");
    for node in cluster.running() {
        wait_for_body(node, "/t/key/old", r#"{"value":1}"#);
        assert_eq!(node.view()["zombies_refused"], 0);
    }
}
