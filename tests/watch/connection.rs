//! The connection under a stream: what the client sends on it, how it ends, and many of them at once.

use serde_json::json;

use crate::harness::{DEADLINE, Node, Setup, http::Connection, sse::Events, wait_until};

const REQUEST: &str = "GET /t/subscribe/a HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn subscriptions(node: &Node) -> u64 {
    node.get("/stats").expect(200).json()["subscriptions"].as_u64().expect("a number")
}

/// A connection with a stream on it.
fn subscribed(node: &Node, request: &str) -> Connection {
    let before = subscriptions(node);
    let mut connection = node.connect();
    connection.write(request.as_bytes()).expect("a request can be sent");
    wait_until("it is subscribed", DEADLINE, || subscriptions(node) == before + 1);
    connection
}

#[test]
fn a_client_that_closes_its_side_has_left_its_stream() {
    let node = Node::start();
    let idle = subscribed(&node, REQUEST);
    let quick = subscribed(&node, &REQUEST.replace("/a ", "/b "));
    node.put("/t/key/b", r#"{"value":1}"#).expect(200);
    idle.finish();
    quick.finish();
    wait_until("both streams are over", DEADLINE, || subscriptions(&node) == 0);
}

/// How a body ends depends on the version, and on nothing else.
#[test]
fn a_stream_ends_as_the_body_of_its_response_does() {
    let node = Setup::new().start();
    let chunked = subscribed(&node, REQUEST);
    let last = subscribed(&node, &REQUEST.replace("Host", "Connection: close\r\nHost"));
    let plain = subscribed(&node, &REQUEST.replace("1.1", "1.0"));
    node.signal("TERM");
    let shutdown = "event: shutdown\ndata: {\"event\":\"shutdown\"}\n\n";
    for (mut connection, ending) in [(chunked, true), (last, true), (plain, false)] {
        let text = String::from_utf8(connection.read_to_close(DEADLINE)).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert_eq!(head.contains("transfer-encoding: chunked"), ending, "{head}");
        if ending {
            let chunk = format!("\r\n{:X}\r\n{shutdown}\r\n0\r\n\r\n", shutdown.len());
            assert!(body.ends_with(&chunk), "{body:?}");
        } else {
            assert!(body.starts_with(": dynarust") && body.ends_with(&format!("\n\n{shutdown}")), "{body:?}");
        }
    }
    node.wait();
}

/// Longer than what a new socket takes at once: the rest goes out when the client reads. Both of a round fit the queue of a subscriber.
#[test]
fn long_events_and_those_behind_them_arrive_whole_and_in_order() {
    let node = Setup::new().flag("--durability", "none").start();
    let (mut events, _) = Events::open(node.address(), "/t/subscribe?prefix=");
    for round in 0..8 {
        let long = json!([round, "v".repeat(400_000)]);
        node.put("/t/key/long", json!({ "value": long }).to_string()).expect(200);
        node.put("/t/key/short", json!({ "value": round }).to_string()).expect(200);
        for (key, value) in [("long", &long), ("short", &json!(round))] {
            let event = events.event().json();
            let (whole, start) = (event["value"] == *value, event.to_string());
            assert!(whole, "round {round}, {key}: {}", &start[..start.len().min(200)]);
        }
    }
}

#[test]
fn a_crowd_gets_every_change_in_order_and_so_do_others() {
    const CROWD: usize = 250;
    const CHANGES: u64 = 40;
    let node = Setup::new().flag("--durability", "none").start();
    let open = |key: &str| Events::open(node.address(), &format!("/t/subscribe/{key}")).0;
    let mut streams: Vec<Events> = (0..CROWD).map(|_| open("a")).collect();
    streams.push(open("b"));
    for value in 0..CHANGES {
        for key in ["a", "b"] {
            node.put(&format!("/t/key/{key}"), format!(r#"{{"value":{value}}}"#)).expect(200);
        }
    }
    for events in &mut streams {
        let seen = events.data_until(|event| event["value"] == CHANGES - 1);
        assert!(seen.iter().map(|event| event["value"].as_u64()).eq((0..CHANGES).map(Some)), "{seen:?}");
    }
}
