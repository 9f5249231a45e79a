//! Watching a strong table: on every node, every change once, in the order of the log.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{RECOVERY, strong, wait_until_writable};
use crate::harness::{cluster::Cluster, sse::Events, wait_until, ws::Socket};

#[test]
fn watchers_on_every_node_see_the_same_changes_in_the_same_order() {
    const WRITES: usize = 30;
    let table = strong();
    let watch =
        |node: &crate::harness::Node| Events::open(node.address(), &table.path("subscribe?prefix=")).0;
    let mut watchers: Vec<_> = table.nodes().map(watch).collect();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let table = &table;
            scope.spawn(move || {
                let mut connection = table[writer].connect();
                for value in 0..WRITES / 3 {
                    let path = table.path(&format!("key/k{writer}-{value}"));
                    let body = format!(r#"{{"value":{value}}}"#);
                    connection.send(&crate::harness::http::Request::new("PUT", &path).body(body)).expect(200);
                }
            });
        }
    });
    table[1].delete(&table.path("key/k0-0")).expect(200);
    table[2].put(&table.path("key/end"), r#"{"value":0}"#).expect(200);
    let mut seen = watchers.iter_mut().map(|watcher| watcher.data_until(|event| event["key"] == "end"));
    let summary = |events: Vec<Value>| -> Vec<String> {
        let line = |event: &Value| format!("{} {} {}", event["event"], event["key"], event["version"]);
        events.iter().map(line).collect()
    };
    let first = summary(seen.next().expect("three watch"));
    assert_eq!(first.len(), WRITES + 2, "{first:#?}");
    for other in seen {
        assert_eq!(summary(other), first);
    }
}

/// Whoever reads after an event sees at least what the event said, on that node or another.
#[test]
fn a_read_after_an_event_shows_the_change_on_every_node() {
    let table = strong();
    let (mut watcher, _) = Events::open(table[2].address(), &table.path("subscribe/a"));
    for value in 0..6 {
        table[0].put(&table.path("key/a"), format!(r#"{{"value":{value}}}"#)).expect(200);
        assert_eq!(watcher.event().json()["value"], json!(value));
        for node in table.nodes() {
            node.get(&table.path("key/a")).expect_body(&format!(r#"{{"value":{value}}}"#));
        }
    }
}

#[test]
fn a_websocket_watches_and_writes_a_strong_table_on_every_node() {
    let table = strong();
    let open = |node: &crate::harness::Node| Socket::open(node.address(), "/_/ws");
    let mut sockets: Vec<_> = table.nodes().map(open).collect();
    for socket in &mut sockets {
        socket.send(&json!({ "op": "sub", "id": "s", "table": table.name, "key": "a" }));
        until(socket, |message| message["event"] == "subscribed");
    }
    sockets[1].send(&json!({ "op": "put", "rid": 1, "table": table.name, "key": "a", "value": 7 }));
    for socket in &mut sockets {
        let event = until(socket, |message| message["event"] == "Updated");
        assert_eq!((&event["key"], &event["value"]), (&json!("a"), &json!(7)), "{event}");
    }
    for node in table.nodes() {
        node.get(&table.path("key/a")).expect_body(r#"{"value":7}"#);
    }
    sockets[2].send(&json!({ "op": "get", "rid": 2, "table": table.name, "key": "a" }));
    let result = until(&mut sockets[2], |message| message["rid"] == 2);
    assert_eq!((&result["status"], &result["value"]), (&json!(200), &json!(7)), "{result}");
}

/// Reads of a strong table are linearizable over a WebSocket too: without it, a node that is a moment behind gives an old value.
#[test]
fn a_get_over_a_websocket_shows_what_another_node_answered_before() {
    let table = strong();
    let mut sockets: Vec<_> = table.nodes().map(|node| Socket::open(node.address(), "/_/ws")).collect();
    for value in 0..30 {
        table[value % 3].put(&table.path("key/a"), format!(r#"{{"value":{value}}}"#)).expect(200);
        for socket in &mut sockets {
            socket.send(&json!({ "op": "get", "rid": value, "table": table.name, "key": "a" }));
            let result = until(socket, |message| message["rid"] == value);
            assert_eq!(result["value"], json!(value), "{result}");
        }
    }
}

/// The instant in a position up to which all nodes held the same, if it has one.
fn agreed_ms(id: &str) -> Option<u64> {
    id.split('.').nth(2)?.parse().ok()
}

/// The next message that `found` picks.
fn until(socket: &mut Socket, mut found: impl FnMut(&Value) -> bool) -> Value {
    loop {
        let message = socket.json();
        if found(&message) {
            return message;
        }
    }
}

/// A watcher whose node dies goes on at another with the last position that it got, and misses nothing: neither what it had not seen yet nor
/// what was written meanwhile.
#[test]
fn a_watcher_whose_node_dies_goes_on_at_any_other_without_a_gap() {
    let mut cluster = super::roles::cluster_of(3, 3);
    let path = "/stock/subscribe?prefix=k";
    let (mut watcher, _) = Events::open(cluster[0].address(), path);
    let mut socket = Socket::open(cluster[0].address(), "/_/ws");
    socket.send(&json!({ "op": "sub", "id": "s", "table": "stock", "prefix": "k" }));
    until(&mut socket, |message| message["event"] == "subscribed");
    let put = |cluster: &Cluster, member: usize, number: u64| {
        let path = format!("/stock/key/k{number}");
        cluster[member].put(&path, format!(r#"{{"value":{number}}}"#)).expect(200);
    };
    // The instants from which on the others take positions of another node. Those from before the table was made tell nothing of it.
    let made_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_millis() as u64;
    let mut first = 0;
    wait_until("the others have agreed", RECOVERY, || {
        let positions = (1..3).map(|member| Events::open(cluster[member].address(), path).1.id);
        let agreed: Option<Vec<_>> = positions.map(|id| agreed_ms(&id?)).collect();
        first = agreed.as_ref().and_then(|agreed| agreed.iter().copied().max()).unwrap_or_default();
        agreed.is_some_and(|agreed| agreed.iter().all(|at_ms| *at_ms > made_ms))
    });
    let (mut number, mut id) = (0, String::new());
    wait_until("a position is valid on every node", RECOVERY, || {
        number += 1;
        put(&cluster, 1, number);
        id = watcher.event().id.expect("an event has an id");
        agreed_ms(&id).is_some_and(|at_ms| at_ms >= first)
    });
    let last = format!("k{number}");
    let cursor = until(&mut socket, |message| message["key"] == last.as_str())["cursor"].clone();
    let cursor = cursor.as_str().expect("a position").to_owned();
    // What they do not see before their node dies.
    let seen = number;
    put(&cluster, 2, number + 1);
    cluster.kill(0);
    wait_until_writable(&cluster[1], "stock");
    cluster[1].delete("/stock/key/k1").expect(200);
    put(&cluster, 2, number + 2);
    put(&cluster, 1, number + 3);
    let expected: Vec<_> = (seen + 1..=seen + 3).map(|number| json!(format!("k{number}"))).collect();
    let verify = |events: Vec<Value>, which: &str| {
        assert!(!events.iter().any(|event| event["event"] == "resync"), "{which}: {events:#?}");
        let keys: Vec<_> = events.iter().map(|event| event["key"].clone()).collect();
        let missed = keys.iter().filter(|key| expected.contains(key)).cloned().collect::<Vec<_>>();
        assert_eq!(missed, expected, "{which}: each once and in order, in {events:#?}");
        assert!(
            events.iter().any(|event| event["event"] == "Deleted" && event["key"] == "k1"),
            "{which}: {events:#?}"
        );
        let versions: Vec<_> = events.iter().map(|event| event["version"].to_string()).collect();
        assert!(versions.is_sorted(), "{which}: {versions:?}");
    };
    let end = format!("k{}", number + 3);
    for member in 1..3 {
        let mut resumed = Events::resume(cluster[member].address(), path, &id);
        verify(resumed.data_until(|event| event["key"] == end.as_str()), "events");
        let mut socket = Socket::open(cluster[member].address(), "/_/ws");
        let since = json!({ "op": "sub", "id": "s", "table": "stock", "prefix": "k", "since": cursor });
        socket.send(&since);
        let mut events = Vec::new();
        until(&mut socket, |message| {
            events.extend((message["sub"] == "s" && message["key"].is_string()).then(|| message.clone()));
            assert_ne!(message["event"], "resync");
            message["key"] == end.as_str()
        });
        verify(events, "socket");
    }
}

#[test]
fn a_subscription_resumed_on_the_same_node_misses_nothing() {
    let table = strong();
    let (mut watcher, _) = Events::open(table[1].address(), &table.path("subscribe?prefix="));
    table[0].put(&table.path("key/a"), r#"{"value":1}"#).expect(200);
    let seen = watcher.event();
    drop(watcher);
    table[2].put(&table.path("key/b"), r#"{"value":2}"#).expect(200);
    table[2].delete(&table.path("key/a")).expect(200);
    let id = seen.id.expect("an event has an id");
    let mut resumed = Events::resume(table[1].address(), &table.path("subscribe?prefix="), &id);
    let events = resumed.data_until(|event| event["event"] == "Deleted");
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0]["key"], json!("b"));
}
