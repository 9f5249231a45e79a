//! Coming back: nothing lost, nothing twice, and where that cannot be, a resync that says so.

use std::collections::BTreeMap;

use serde_json::Value;

use super::summary;
use crate::harness::{
    Node, Table,
    http::Request,
    sse::{Block, Events},
    table,
};

fn put(table: &Table, value: u32) {
    table.put("key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
}

fn values(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["value"].as_u64().expect("a number")).collect()
}

/// Reads a resync and the snapshot that follows it, up to `sync`: the values, and the sync.
fn read_resync(events: &mut Events) -> (Vec<String>, Block) {
    let first = events.event();
    assert!(first.is_control("resync"), "{first:?}");
    let mut snapshot = Vec::new();
    loop {
        let event = events.event();
        if event.is_control("sync") {
            snapshot.sort_unstable();
            return (snapshot, event);
        }
        snapshot.push(summary(&event.json()));
    }
}

#[test]
fn a_reader_that_comes_back_gets_what_it_missed() {
    let table = table();
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe/a"));
    for value in 0..10 {
        put(&table, value);
    }
    let id = (0..5).map(|_| events.event()).last().expect("five events").id.expect("an id");
    drop(events);
    for value in 10..20 {
        put(&table, value);
        table.put("key/other", r#"{"value":0}"#).expect(200);
    }
    let by_query = table.path(&format!("subscribe/a?since={id}"));
    for mut events in [
        Events::resume(table.address(), &table.path("subscribe/a"), &id),
        Events::request(table.address(), &Request::new("GET", &by_query)),
    ] {
        put(&table, 20);
        let seen = values(&events.data_until(|event| event["value"] == 20));
        assert!(seen.iter().copied().take(16).eq(5..=20), "{seen:?}");
    }
}

#[test]
fn replayed_events_are_the_same_bytes() {
    let table = table();
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe?prefix="));
    put(&table, 0);
    let first = events.event();
    put(&table, 1);
    table.delete("key/a").expect(200);
    table.put("key/b?ttl=1h", r#"{"value":1}"#).expect(200);
    let live: Vec<String> = (0..3).map(|_| events.event().text).collect();
    let mut again =
        Events::resume(table.address(), &table.path("subscribe?prefix="), &first.id.expect("an id"));
    let replayed: Vec<String> = (0..3).map(|_| again.event().text).collect();
    assert_eq!(live, replayed);
}

#[test]
fn a_reader_that_missed_nothing_gets_nothing_but_what_comes() {
    let table = table();
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe/a"));
    put(&table, 1);
    let id = events.event().id.expect("an id");
    let (mut events, _) = Events::open(table.address(), &table.path(&format!("subscribe/a?since={id}")));
    put(&table, 2);
    assert_eq!(summary(&events.event().json()), "a=2");
}

#[test]
fn the_sync_of_a_snapshot_can_be_resumed_from() {
    let table = table();
    put(&table, 1);
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe/a?snapshot=true"));
    assert_eq!(summary(&events.event().json()), "a=1");
    let id = events.event().id.expect("sync has an id");
    drop(events);
    put(&table, 2);
    let mut events = Events::resume(table.address(), &table.path("subscribe/a"), &id);
    assert_eq!(summary(&events.event().json()), "a=2");
}

/// A reader that keeps losing its connection while three write sees each change once.
#[test]
fn a_reader_that_keeps_coming_back_misses_nothing_and_sees_nothing_twice() {
    let table = table();
    const WRITES: u64 = 150;
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe?prefix=w"));
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let table = &table;
            scope.spawn(move || {
                let mut connection = table.connect();
                for value in 0..WRITES {
                    let put = table.request("PUT", &format!("key/w{writer}"));
                    connection.send(&put.body(format!(r#"{{"value":{value}}}"#))).expect(200);
                }
            });
        }
        let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for count in 1..=3 * WRITES {
            let event = events.event();
            assert!(event.is_data(), "{event:?}");
            let (data, id) = (event.json(), event.id.expect("an id"));
            let key = data["key"].as_str().expect("a key").to_owned();
            seen.entry(key).or_default().push(data["value"].as_u64().expect("a number"));
            if count % 20 == 0 {
                events = Events::resume(table.address(), &table.path("subscribe?prefix=w"), &id);
            }
        }
        for (key, values) in &seen {
            assert!(values.iter().copied().eq(0..WRITES), "{key}: {values:?}");
        }
        assert_eq!(seen.len(), 3);
    });
}

#[test]
fn an_id_that_is_none_of_ours_means_resync_and_a_snapshot() {
    let table = table();
    put(&table, 1);
    table.put("key/b", r#"{"value":2}"#).expect(200);
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe/a"));
    put(&table, 3);
    let id = events.event().id.expect("an id");
    let epoch = id.split_once('.').expect("an id is <epoch>.<sequence>.<agreed>").0.to_owned();
    for id in [
        "00000000.1",
        "garbage",
        "1",
        ".",
        "ffffffff.0",
        "-1.-1",
        "%",
        &format!("{epoch}.18446744073709551615"),
        &format!("{epoch}.-1"),
        &format!("{epoch}."),
        &format!("{epoch}.18446744073709551615.1"),
        "00000000.1.1",
        "00000000.1.18446744073709551615",
    ] {
        let mut events = Events::resume(table.address(), &table.path("subscribe/a"), id);
        let (snapshot, sync) = read_resync(&mut events);
        assert_eq!(snapshot, ["a=3"], "{id:?}");
        // From there on it is a stream like any other.
        let mut events =
            Events::resume(table.address(), &table.path("subscribe/a"), &sync.id.expect("sync has an id"));
        put(&table, 3);
        assert_eq!(summary(&events.event().json()), "a=3", "{id:?}");
    }
}

#[test]
fn an_id_from_before_a_restart_means_resync_and_a_snapshot() {
    let node = Node::start();
    let (mut events, _) = Events::open(node.address(), "/t/subscribe?prefix=");
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    node.put("/t/key/gone", r#"{"value":1}"#).expect(200);
    let id = events.event().id.expect("an id");
    node.delete("/t/key/gone").expect(200);
    let node = node.kill().start();
    let mut events = Events::resume(node.address(), "/t/subscribe?prefix=", &id);
    assert_eq!(read_resync(&mut events).0, ["a=1"]);
    node.put("/t/key/a", r#"{"value":2}"#).expect(200);
    let event = events.event();
    assert_eq!(summary(&event.json()), "a=2");
    assert_ne!(event.id.expect("an id").split('.').next(), id.split('.').next(), "a fresh epoch");
}

#[test]
fn what_the_ring_no_longer_has_means_resync_and_a_snapshot() {
    let node = crate::harness::Setup::new().flag("--durability", "none").start();
    let (mut events, _) = Events::open(node.address(), "/t/subscribe/a");
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let id = events.event().id.expect("an id");
    // By its other parts it could be resumed all the same.
    let id = id.split('.').take(2).collect::<Vec<_>>().join(".");
    // The ring holds 65,536 changes.
    for batch in 0..7 {
        let lines: Vec<String> =
            (0..10_000).map(|row| format!(r#"{{"op":"put","key":"k{batch}-{row}","value":0}}"#)).collect();
        node.post("/t/batch", lines.join("\n")).expect(200);
    }
    node.put("/t/key/a", r#"{"value":2}"#).expect(200);
    let mut events = Events::resume(node.address(), "/t/subscribe/a", &id);
    assert_eq!(read_resync(&mut events).0, ["a=2"]);
}
