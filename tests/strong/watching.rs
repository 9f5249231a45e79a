//! Watching a strong table: on every node, every change once, in the order of the log.

use serde_json::{Value, json};

use super::strong;
use crate::harness::{sse::Events, ws::Socket};

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

/// The next message that `found` picks.
fn until(socket: &mut Socket, found: impl Fn(&Value) -> bool) -> Value {
    loop {
        let message = socket.json();
        if found(&message) {
            return message;
        }
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
