//! Coming back somewhere else, or after a restart, with a cursor of before: what was missed is told, and no snapshot is sent where the rest
//! is known. Delivery is at least once here.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, Node, Setup,
    cluster::{CONVERGENCE, Cluster},
    network::Network,
    sse::{Block, Events},
    wait_until,
};

const ALL: &str = "/t/subscribe?prefix=";

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    u64::try_from(since.as_millis()).expect("not so late")
}

/// The instant in an id, if it has one.
fn agreed_ms(id: &str) -> Option<u64> {
    id.split('.').nth(2).map(|instant| instant.parse().expect("an instant is a number"))
}

/// A position of a node that speaks of all that was written before the call.
fn position(node: &Node) -> String {
    let asked_ms = now_ms();
    let mut found = None;
    wait_until("the node agrees with all others", CONVERGENCE, || {
        let id = Events::open(node, ALL).1.id.expect("a stream says its position at once");
        let is_new = agreed_ms(&id).is_some_and(|agreed_ms| agreed_ms > asked_ms);
        found = is_new.then_some(id);
        is_new
    });
    found.expect("it was found")
}

/// Any position of a node that another node takes.
fn any_position(node: &Node) -> String {
    let mut found = None;
    wait_until("the node has agreed once", CONVERGENCE, || {
        found = Events::open(node, ALL).1.id.filter(|id| agreed_ms(id).is_some());
        found.is_some()
    });
    found.expect("it was found")
}

/// What a client knows that read on from `id` until it read of `last`: of each key the value told last, null for one that is gone. Panics
/// at a snapshot.
fn told_since(node: &Node, id: &str, last: &str) -> BTreeMap<String, Value> {
    let mut events = Events::resume(node, ALL, id);
    let mut told = BTreeMap::new();
    loop {
        let event = events.event();
        assert!(event.is_data(), "it is no replay that {id} gets: {event:?}");
        let event = event.json();
        let key = event["key"].as_str().expect("a key").to_owned();
        let is_last = key == last;
        told.insert(key, event.get("value").cloned().unwrap_or_default());
        if is_last {
            return told;
        }
    }
}

/// What a client knows in the end, snapshot or not, that knew `known`.
fn known_since(
    node: &Node,
    id: &str,
    last: &str,
    mut known: BTreeMap<String, Value>,
) -> BTreeMap<String, Value> {
    let mut events = Events::resume(node, ALL, id);
    let mut is_last = false;
    let mut in_snapshot = false;
    loop {
        let event: Block = events.event();
        if event.is_control("resync") {
            known.clear();
            in_snapshot = true;
        } else if event.is_control("sync") {
            in_snapshot = false;
        } else {
            let event = event.json();
            let key = event["key"].as_str().expect("a key").to_owned();
            is_last |= key == last;
            match event.get("value") {
                Some(value) => known.insert(key, value.clone()),
                None => known.remove(&key),
            };
        }
        if is_last && !in_snapshot {
            return known;
        }
    }
}

fn put(node: &Node, key: &str, value: u64) {
    node.put(&format!("/t/key/{key}"), json!({ "value": value }).to_string()).expect(200);
}

/// A stream that was cut before its first event knew no id to come back with: what happened in between was lost.
#[test]
fn a_stream_that_is_cut_before_its_first_event_misses_nothing() {
    let node = Node::start();
    let (events, first) = Events::open(&node, ALL);
    let id = first.id.expect("a stream says its position at once");
    assert_eq!(first.data, None);
    drop(events);
    put(&node, "a", 1);
    put(&node, "last", 1);
    let told = told_since(&node, &id, "last");
    assert_eq!(told, BTreeMap::from([("a".into(), json!(1)), ("last".into(), json!(1))]));
}

/// Ids of before there were four parts, and of a node that has agreed with nobody yet.
#[test]
fn an_id_of_two_parts_is_taken_by_the_node_that_gave_it() {
    let node = Node::start();
    let id = any_position(&node);
    let two = id.split('.').take(2).collect::<Vec<_>>().join(".");
    put(&node, "last", 1);
    assert_eq!(told_since(&node, &two, "last").len(), 1);
    let node = node.terminate().0.start();
    assert!(Events::resume(&node, ALL, &two).event().is_control("resync"), "it is of another epoch");
}

/// Instants are alike everywhere, and say nothing of what another cluster holds.
#[test]
fn an_id_of_another_cluster_means_a_snapshot() {
    let (node, other) = (Node::start(), Node::start());
    put(&node, "a", 1);
    put(&other, "b", 1);
    let id = position(&node);
    position(&other);
    assert!(Events::resume(&other, ALL, &id).event().is_control("resync"));
}

#[test]
fn a_stream_goes_on_over_a_restart() {
    let node = Node::start();
    for key in ["kept", "changed", "deleted"] {
        put(&node, key, 1);
    }
    let id = position(&node);
    put(&node, "changed", 2);
    let node = node.terminate().0.start();
    node.delete("/t/key/deleted").expect(200);
    put(&node, "new", 3);
    put(&node, "last", 1);
    for _ in 0..2 {
        let told = told_since(&node, &id, "last");
        let changed =
            [("changed", json!(2)), ("deleted", Value::Null), ("new", json!(3)), ("last", json!(1))];
        assert_eq!(told, changed.map(|(key, value)| (key.to_owned(), value)).into());
    }
    let mut key = Events::resume(&node, "/t/subscribe/deleted", &id);
    assert_eq!(key.event().json()["reason"], "delete");
    // What was seen and is lost in a crash is nobody's to tell.
    let id = position(&node);
    let node = node.kill().start();
    assert!(Events::resume(&node, ALL, &id).event().is_control("resync"));
}

#[test]
fn a_stream_goes_on_at_another_node() {
    let cluster = Cluster::start(3);
    for key in ["kept", "changed", "deleted"] {
        put(&cluster[0], key, 1);
    }
    cluster[0].put("/t/key/expired?ttl=20s", r#"{"value":1}"#).expect(200);
    cluster.wait_until_equal();
    // One node has had a subscriber all the time, and so has a ring; the other reads its rows.
    let _follows = Events::open(&cluster[1], ALL);
    let ring_from = position(&cluster[1]);
    let id = position(&cluster[0]);
    put(&cluster[2], "changed", 2);
    cluster[1].delete("/t/key/deleted").expect(200);
    put(&cluster[0], "new", 3);
    cluster.wait_until_equal();
    put(&cluster[2], "last", 1);
    let changed = [("changed", json!(2)), ("deleted", Value::Null), ("new", json!(3)), ("last", json!(1))];
    let changed: BTreeMap<String, Value> = changed.map(|(key, value)| (key.to_owned(), value)).into();
    for node in [&cluster[1], &cluster[2]] {
        assert_eq!(told_since(node, &id, "last"), changed, "{}", node.address());
    }
    wait_until("the value expires", Duration::from_secs(30), || {
        cluster[1].get("/t/key/expired").status == 404
    });
    put(&cluster[0], "end", 1);
    let told = told_since(&cluster[1], &id.clone(), "end");
    assert_eq!(told.get("expired"), Some(&Value::Null), "{told:?} after {id} with a ring from {ring_from}");
}

/// A node had a row of before the cursor's instant only after it: an import of an old version, of which no root up to there speaks.
#[test]
fn a_row_that_comes_late_is_told_at_another_node() {
    let cluster = Cluster::start(2);
    put(&cluster[0], "kept", 1);
    let old = cluster[0].get("/t/key/kept").expect(200).expect_header("dynarust-version").to_owned();
    cluster.wait_until_equal();
    let before = position(&cluster[0]);
    // From here on the other node has a ring.
    let _follows = Events::open(&cluster[1], ALL);
    let id = position(&cluster[0]);
    let line = json!({ "table": "t", "key": "late", "value": 1, "version": old });
    cluster[1].post("/_/import", line.to_string()).expect(200);
    put(&cluster[1], "last", 1);
    let known: BTreeMap<String, Value> = [("kept".to_owned(), json!(1))].into();
    let all = BTreeMap::from([("kept", 1), ("late", 1), ("last", 1)]);
    let all: BTreeMap<String, Value> =
        all.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    let told = told_since(&cluster[1], &id, "last");
    assert_eq!(told.get("late"), Some(&json!(1)), "{told:?}");
    for id in [before, id] {
        assert_eq!(known_since(&cluster[1], &id, "last", known.clone()), all);
    }
}

/// The cursor is of during a partition, of which the other side wrote.
#[test]
fn what_the_other_side_of_a_partition_wrote_is_told_whichever_node_is_asked() {
    let Some(network) = Network::new(3) else { return };
    let cluster = Cluster::start_in(&network, 3);
    put(&cluster[0], "kept", 1);
    cluster.wait_until_equal();
    network.cut_between(0, 2);
    network.cut_between(1, 2);
    put(&cluster[2], "late", 2);
    cluster[2].delete("/t/key/kept").expect(200);
    put(&cluster[0], "early", 1);
    let id = any_position(&cluster[0]);
    network.heal();
    cluster.wait_until_linked();
    cluster.wait_until_equal();
    put(&cluster[1], "last", 1);
    let known: BTreeMap<String, Value> =
        [("kept", 1), ("early", 1)].map(|(k, v)| (k.to_owned(), json!(v))).into();
    let all: BTreeMap<String, Value> =
        [("early", 1), ("late", 2), ("last", 1)].map(|(k, v)| (k.to_owned(), json!(v))).into();
    for node in cluster.running() {
        assert_eq!(known_since(node, &id, "last", known.clone()), all, "{}", node.address());
    }
}

/// All that expired at one instant was told faster than anybody reads: 685 events of 20,000 came, then an empty snapshot. Who cleaned up
/// by events did not.
#[test]
fn values_that_expire_at_one_instant_are_all_told() {
    const KEYS: usize = 20_000;
    let node = Setup::new().flag("--durability", "none").start();
    let expires_at = now_ms() + 10_000;
    let lines: Vec<String> = (0..KEYS)
        .map(|key| {
            json!({ "table": "t", "key": format!("k{key}"), "value": 1, "expires_at": expires_at })
                .to_string()
        })
        .collect();
    node.post("/_/import", lines.join("\n")).expect(200);
    // One that does not read at all, and makes nobody wait for long.
    let _stuck = Events::open(&node, ALL);
    let (mut events, _) = Events::open(&node, ALL);
    assert!(now_ms() < expires_at, "the machine is too slow for this test");
    let mut gone = std::collections::BTreeSet::new();
    while gone.len() < KEYS {
        let event = events.event();
        assert!(event.is_data(), "after {} ends: {event:?}", gone.len());
        let event = event.json();
        assert_eq!((&event["event"], &event["reason"]), (&json!("Deleted"), &json!("expired")));
        gone.insert(event["key"].as_str().expect("a key").to_owned());
    }
    wait_until("the node goes on", DEADLINE, || node.get("/t/count").expect(200).json()["count"] == 0);
}
