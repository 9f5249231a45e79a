//! WebSocket: many subscriptions and requests on one connection, and the seed path's events as frames.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::summary;
use crate::harness::{
    Setup, Table, table,
    ws::{Incoming, Socket},
};

fn open(table: &Table) -> Socket {
    Socket::open(table.address(), "/_/ws")
}

fn subscribe(socket: &mut Socket, subscription: Value) {
    let id = subscription["id"].clone();
    socket.send(&subscription);
    let answer = socket.json();
    assert_eq!(answer["event"], "subscribed", "{answer}");
    assert_eq!(answer["sub"], id, "{answer}");
}

#[test]
fn an_event_is_the_object_of_the_stream_with_its_subscription_and_cursor() {
    let table = table();
    let mut socket = open(&table);
    subscribe(&mut socket, json!({"op": "sub", "id": "a", "table": table.name(), "key": "k"}));
    let (mut events, _) = crate::harness::sse::Events::open(table.address(), &table.path("subscribe/k"));
    table.put("key/k", r#"{"value":{"n":12345678901234567890}}"#).expect(200);
    let block = events.event();
    let mut expected = block.json();
    expected["sub"] = json!("a");
    expected["cursor"] = json!(block.id);
    assert_eq!(socket.json(), expected);
    table.delete("key/k").expect(200);
    let deleted = socket.json();
    assert_eq!((&deleted["event"], &deleted["reason"]), (&json!("Deleted"), &json!("delete")), "{deleted}");
}

#[test]
fn one_connection_has_many_subscriptions() {
    let table = table();
    let mut socket = open(&table);
    subscribe(&mut socket, json!({"op": "sub", "id": "key", "table": table.name(), "key": "k"}));
    subscribe(&mut socket, json!({"op": "sub", "id": "prefix", "table": table.name(), "prefix": "p"}));
    subscribe(&mut socket, json!({"op": "sub", "id": "table", "table": table.name()}));
    for key in ["k", "p1", "x"] {
        table.put(&format!("key/{key}"), r#"{"value":1}"#).expect(200);
    }
    let mut seen: Vec<String> = (0..5)
        .map(|_| socket.json())
        .map(|event| format!("{} {}", event["sub"].as_str().expect("a subscription"), summary(&event)))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, ["key k=1", "prefix p1=1", "table k=1", "table p1=1", "table x=1"]);
}

#[test]
fn a_subscription_that_was_ended_gets_nothing_more() {
    let table = table();
    let mut socket = open(&table);
    subscribe(&mut socket, json!({"op": "sub", "id": "a", "table": table.name(), "key": "k"}));
    subscribe(&mut socket, json!({"op": "sub", "id": "b", "table": table.name(), "key": "marker"}));
    socket.send(&json!({"op": "unsub", "id": "a"}));
    // Answers come in the order of requests.
    assert_eq!(socket.request(&json!({"op": "ping", "rid": 1}))["status"], 200);
    table.put("key/k", r#"{"value":1}"#).expect(200);
    table.put("key/marker", r#"{"value":2}"#).expect(200);
    assert_eq!(summary(&socket.json()), "marker=2");
    // Its name is free again.
    subscribe(&mut socket, json!({"op": "sub", "id": "a", "table": table.name(), "key": "k"}));
    table.put("key/k", r#"{"value":3}"#).expect(200);
    assert_eq!(summary(&socket.json()), "k=3");
}

#[test]
fn a_subscription_may_start_with_what_is_there() {
    let table = table();
    table.put("key/a", r#"{"value":1}"#).expect(200);
    table.put("key/b", r#"{"value":2}"#).expect(200);
    let mut socket = open(&table);
    subscribe(&mut socket, json!({"op": "sub", "id": "s", "table": table.name(), "snapshot": true}));
    let mut snapshot: Vec<String> = (0..2).map(|_| summary(&socket.json())).collect();
    snapshot.sort_unstable();
    assert_eq!(snapshot, ["a=1", "b=2"]);
    let sync = socket.json();
    assert_eq!((&sync["event"], &sync["sub"]), (&json!("sync"), &json!("s")), "{sync}");
    assert!(sync["cursor"].is_string(), "{sync}");
}

#[test]
fn a_subscription_resumes_from_a_cursor_of_either_kind_of_connection() {
    let table = table();
    let (mut events, _) = crate::harness::sse::Events::open(table.address(), &table.path("subscribe/a"));
    table.put("key/a", r#"{"value":1}"#).expect(200);
    let cursor = events.event().id.expect("an id");
    table.put("key/a", r#"{"value":2}"#).expect(200);
    table.put("key/a", r#"{"value":3}"#).expect(200);
    let mut socket = open(&table);
    subscribe(
        &mut socket,
        json!({"op": "sub", "id": "s", "table": table.name(), "key": "a", "since": cursor}),
    );
    assert_eq!(summary(&socket.json()), "a=2");
    let last = socket.json();
    assert_eq!(summary(&last), "a=3");

    table.put("key/a", r#"{"value":4}"#).expect(200);
    let id = last["cursor"].as_str().expect("a cursor");
    let mut events = crate::harness::sse::Events::resume(table.address(), &table.path("subscribe/a"), id);
    assert_eq!(summary(&events.event().json()), "a=4");

    let mut socket = open(&table);
    subscribe(
        &mut socket,
        json!({"op": "sub", "id": "s", "table": table.name(), "key": "a", "since": "garbage"}),
    );
    assert_eq!(socket.json()["event"], "resync");
    assert_eq!(summary(&socket.json()), "a=4");
    assert_eq!(socket.json()["event"], "sync");
}

#[test]
fn requests_are_answered_by_their_number() {
    let table = table();
    let mut socket = open(&table);
    let request = |rid: u64, op: &str, more: Value| {
        let mut message = json!({"op": op, "rid": rid, "table": table.name(), "key": "a/b\n"});
        message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        message
    };
    let mut ask = |message: Value| {
        let answer = socket.request(&message);
        assert_eq!(answer["event"], "result", "{answer}");
        answer
    };
    assert_eq!(ask(request(1, "get", json!({})))["status"], 404);
    let written = ask(request(2, "put", json!({"value": {"n": 1}})));
    assert_eq!(written["status"], 200);
    let read = ask(request(3, "get", json!({})));
    assert_eq!(
        (&read["status"], &read["value"], &read["version"]),
        (&json!(200), &json!({"n": 1}), &written["version"])
    );
    assert_eq!(ask(request(4, "patch", json!({"patch": {"m": 2}})))["status"], 200);
    assert_eq!(ask(request(5, "get", json!({})))["value"], json!({"n": 1, "m": 2}));
    assert_eq!(ask(request(6, "delete", json!({})))["status"], 200);
    assert_eq!(ask(request(7, "delete", json!({})))["status"], 404);
    assert_eq!(ask(json!({"op": "ping", "rid": 8}))["status"], 200);
    table.get("keys").expect_body("[]");
}

#[test]
fn a_value_put_over_a_socket_keeps_its_digits() {
    let table = table();
    let mut socket = open(&table);
    socket.send_text(&format!(
        r#"{{"op":"put","rid":1,"table":"{}","key":"a","value":[12345678901234567890, 1.10]}}"#,
        table.name()
    ));
    assert_eq!(socket.json()["status"], 200);
    table.get("key/a").expect_body(r#"{"value":[12345678901234567890,1.10]}"#);
}

#[test]
fn a_malformed_frame_gets_an_error_and_the_connection_lives() {
    let table = table();
    let mut socket = open(&table);
    let name = table.name();
    for text in [
        String::new(),
        "nonsense".to_owned(),
        "7".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"op":1}"#.to_owned(),
        r#"{"op":"burn","rid":1}"#.to_owned(),
        r#"{"op":"sub"}"#.to_owned(),
        r#"{"op":"sub","id":"a"}"#.to_owned(),
        r#"{"op":"sub","id":"a","table":"../x"}"#.to_owned(),
        format!(r#"{{"op":"sub","id":"a","table":"{name}","key":""}}"#),
        format!(r#"{{"op":"sub","id":"a","table":"{name}","key":7}}"#),
        r#"{"op":"unsub","id":"never-was"}"#.to_owned(),
        "[".repeat(10_000),
    ] {
        socket.send_text(&text);
        let answer = socket.json();
        assert_eq!(answer["event"], "error", "{text:.60}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{text:.60}: {answer}");
    }
    socket.send_message(Message::binary(vec![0, 159, 146, 150]));
    assert_eq!(socket.json()["event"], "error");

    for body in [
        r#""op":"put","value":1"#,
        r#""op":"put","table":"t","key":"a""#,
        r#""op":"get","table":"..","key":"a""#,
    ] {
        socket.send_text(&format!(r#"{{"rid":9,{body}}}"#));
        let answer = socket.json();
        assert_eq!(answer["rid"], 9, "{answer}");
        assert!(answer["status"].as_u64().is_none_or(|status| status >= 400), "{answer}");
    }
    assert_eq!(socket.request(&json!({"op": "ping", "rid": 10}))["status"], 200);
}

#[test]
fn a_message_too_big_closes_with_1009_and_harms_nobody_else() {
    let table = table();
    let (mut socket, mut other) = (open(&table), open(&table));
    // The node may close before it has read all of it, so that sending fails.
    socket.try_send_text(&"x".repeat(8 << 20));
    let closed = socket.next();
    assert!(matches!(closed, Incoming::Close(1009) | Incoming::End), "{closed:?}");
    assert_eq!(other.request(&json!({"op": "ping", "rid": 1}))["status"], 200);
}

#[test]
fn the_seed_path_sends_its_events_as_frames() {
    let table = table();
    let mut socket = Socket::open(table.address(), &table.path("subscribe/a?snapshot=true"));
    let sync = socket.json();
    assert_eq!(sync["event"], "sync", "{sync}");
    let (mut events, _) = crate::harness::sse::Events::open(table.address(), &table.path("subscribe/a"));
    table.put("key/b", r#"{"value":0}"#).expect(200);
    table.put("key/a", r#"{"value":1.10}"#).expect(200);
    let (frame, block) = (socket.json(), events.event());
    for (name, value) in block.json().as_object().expect("an object") {
        assert_eq!(frame[name], *value, "{frame}");
    }
    assert_eq!(frame["cursor"], json!(block.id), "{frame}");
    table.delete("key/a").expect(200);
    assert_eq!(summary(&socket.json()), "a gone");
}

#[test]
fn a_plain_get_of_the_socket_path_says_what_it_needs() {
    let table = table();
    let refused = crate::harness::Node::get(&table, "/_/ws");
    assert!((400..500).contains(&refused.status), "{refused}");
    assert_eq!(refused.expect_header("content-type"), "application/problem+json");
}

/// Over `HEAD`, and before a body, there was a session all the same; what came of the body was then read as frames.
#[test]
fn only_a_get_without_a_body_becomes_a_socket() {
    let table = table();
    for (method, more) in
        [("HEAD", ""), ("GET", "Content-Length: 5\r\n"), ("GET", "Transfer-Encoding: chunked\r\n")]
    {
        let mut connection = table.connect();
        let head = format!(
            "{method} /_/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        connection.write(head.as_bytes()).expect("a head can be sent");
        let response = connection.receive(method).expect("an answer");
        assert_eq!(response.status, 400, "{method} {more}: {response}");
    }
}

/// Pongs counted as a message that never ends, and took memory from the bodies of all others.
#[test]
fn pongs_take_no_memory() {
    let node = Setup::new().start();
    let mut socket = Socket::open(node.address(), "/_/ws");
    for _ in 0..2000 {
        socket.send_message(Message::Pong(Default::default()));
    }
    // A request would end the message that the pongs were taken for.
    socket.ping();
    let metrics = node.get("/metrics");
    assert!(metrics.text().contains("\ndynarust_body_memory_used_bytes 0\n"), "{}", metrics.text());
}

/// A connection that was cut before its first event knew no cursor to come back with.
#[test]
fn a_subscription_says_its_position_at_once() {
    let table = table();
    let mut socket = open(&table);
    socket.send(&json!({"op": "sub", "id": "a", "table": table.name(), "key": "k"}));
    let subscribed = socket.json();
    let cursor = subscribed["cursor"].as_str().expect("a cursor").to_owned();
    drop(socket);
    let mut events = Socket::open(table.address(), &table.path("subscribe/k"));
    let position = events.json();
    assert_eq!(position["event"], "position", "{position}");
    assert!(position["cursor"].is_string(), "{position}");
    table.put("key/k", r#"{"value":1}"#).expect(200);
    assert_eq!(summary(&events.json()), "k=1");
    let mut socket = open(&table);
    socket.send(&json!({"op": "sub", "id": "a", "table": table.name(), "key": "k", "since": cursor}));
    assert_eq!(socket.json()["event"], "subscribed");
    assert_eq!(summary(&socket.json()), "k=1");
    // And again where that ended, though nothing came since.
    let position = socket.json();
    assert_eq!((&position["event"], &position["sub"]), (&json!("position"), &json!("a")), "{position}");
    socket.send(
        &json!({"op": "sub", "id": "b", "table": table.name(), "key": "k", "since": position["cursor"]}),
    );
    assert!(socket.json()["cursor"].is_string(), "nothing is missing");
}
