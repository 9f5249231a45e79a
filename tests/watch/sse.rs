//! The shape of an event stream, and one event for each change.

use serde_json::Value;

use super::summary;
use crate::harness::{
    Table,
    sse::{Block, Events},
    table,
};

fn watch(table: &Table, rest: &str) -> Events {
    Events::open(table.address(), &table.path(rest)).0
}

fn place(block: &Block) -> (String, u64) {
    let id = block.id.as_deref().unwrap_or_else(|| panic!("no id in {block:?}"));
    let mut parts = id.split('.');
    let (epoch, sequence) = parts.next().zip(parts.next()).expect("an id is <epoch>.<sequence>.<agreed>");
    (epoch.to_owned(), sequence.parse().expect("a sequence is a number"))
}

#[test]
fn a_stream_starts_with_a_comment_and_the_time_to_retry() {
    let table = table();
    let (events, first) = Events::open(table.address(), &table.path("subscribe/a"));
    let id = first.id.as_deref().expect("a stream says its position at once");
    assert_eq!(first.text, format!(": dynarust {}\nretry: 2000\nid: {id}\n", table.address()));
    let header = |name: &str| {
        let found = events.headers.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("no {name} in {:?}", events.headers)).1.as_str()
    };
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-cache, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    assert!(!header("x-request-id").is_empty());
}

/// A browser's EventSource says what it accepts; curl accepts anything.
#[test]
fn an_event_source_is_served_as_curl_is() {
    let table = table();
    let request = table.request("GET", "subscribe/a").header("Accept", "text/event-stream");
    let mut events = Events::request(table.address(), &request.header("Cache-Control", "no-cache"));
    assert!(!events.block().expect("a first block").comments.is_empty());
    table.put("key/a", r#"{"value":1}"#).expect(200);
    assert_eq!(summary(&events.event().json()), "a=1");
}

#[test]
fn a_comment_keeps_an_idle_stream_open() {
    let table = table();
    let (mut events, first) = Events::open(table.address(), &table.path("subscribe/a"));
    table.put("key/other", r#"{"value":1}"#).expect(200);
    // Each says where the stream is by then, though it had nothing to tell.
    loop {
        let block = events.block().expect("a comment, long before proxies close what is idle");
        assert!(!block.comments.is_empty() && block.data.is_none() && block.event.is_none(), "{block:?}");
        if place(&block) > place(&first) {
            break;
        }
    }
}

#[test]
fn an_update_is_one_unnamed_event_of_exactly_this_form() {
    let table = table();
    let mut events = watch(&table, "subscribe/mykey");
    let written = table.put("key/mykey", r#"{"value":"mydata"}"#).expect(200).json();
    let node = table.get("key/mykey").expect(200).expect_header("dynarust-node").to_owned();
    let event = events.event();
    let id = event.id.as_deref().expect("an id");
    let expected = format!(
        "id: {id}\ndata: {{\"event\":\"Updated\",\"table\":\"{}\",\"key\":\"mykey\",\"value\":\"mydata\",\"version\":{},\
         \"timestamp\":{},\"node\":\"{node}\"}}\n",
        table.name(),
        written["version"],
        written["timestamp"]
    );
    assert_eq!(event.text, expected);
}

#[test]
fn a_delete_is_one_unnamed_event_of_exactly_this_form() {
    let table = table();
    table.put("key/mykey", r#"{"value":1}"#).expect(200);
    let mut events = watch(&table, "subscribe/mykey");
    table.delete("key/mykey").expect(200);
    let event = events.event();
    let (id, data) = (event.id.as_deref().expect("an id"), event.json());
    let expected = format!(
        "id: {id}\ndata: {{\"event\":\"Deleted\",\"table\":\"{}\",\"key\":\"mykey\",\"version\":{},\"timestamp\":{},\
         \"node\":{},\"reason\":\"delete\"}}\n",
        table.name(),
        data["version"],
        data["timestamp"],
        data["node"]
    );
    assert_eq!(event.text, expected);
}

/// The ancestor sent every PUT twice on the node that wrote it.
#[test]
fn every_put_arrives_once() {
    let table = table();
    let mut events = watch(&table, "subscribe/a");
    for value in 0..100 {
        table.put("key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
    }
    let seen = events.data_until(|event| event["value"] == 99);
    let values: Vec<u64> = seen.iter().map(|event| event["value"].as_u64().expect("a number")).collect();
    assert!(values.iter().copied().eq(0..100), "{values:?}");
    let versions: Vec<&Value> = seen.iter().map(|event| &event["version"]).collect();
    assert!(versions.is_sorted_by_key(|version| version.as_str()), "{versions:?}");
}

#[test]
fn ids_are_an_epoch_of_the_node_and_a_sequence_that_grows() {
    let table = table();
    let mut events = watch(&table, "subscribe?prefix=");
    for key in ["a", "b", "c"] {
        table.put(&format!("key/{key}"), r#"{"value":1}"#).expect(200);
    }
    let places: Vec<_> = (0..3).map(|_| place(&events.event())).collect();
    assert!(places.iter().all(|(epoch, _)| *epoch == places[0].0 && epoch.len() == 8), "{places:?}");
    assert!(places.is_sorted_by(|earlier, later| earlier.1 < later.1), "{places:?}");
}

#[test]
fn a_patch_and_a_batch_and_an_import_are_seen_like_any_write() {
    let table = table();
    let mut events = watch(&table, "subscribe?prefix=");
    table.put("key/a", r#"{"value":{"x":1}}"#).expect(200);
    table.send(&table.request("PATCH", "key/a").body(r#"{"y":2}"#)).expect(200);
    table.post("batch", r#"[{"op":"put","key":"b","value":1},{"op":"delete","key":"a"}]"#).expect(200);
    let line = format!(r#"{{"table":"{}","key":"c","value":1}}"#, table.name());
    crate::harness::Node::post(&table, "/_/import", line).expect(200);
    let seen = events.data_until(|event| event["key"] == "c");
    let mut seen: Vec<_> = seen.iter().map(summary).collect();
    assert_eq!(seen.len(), 5, "{seen:?}");
    // Within a batch keys have no order among them; each is later than what came before the batch.
    seen[2..4].sort_unstable();
    assert_eq!(seen, [r#"a={"x":1}"#, r#"a={"x":1,"y":2}"#, "a gone", "b=1", "c=1"]);
}

#[test]
fn what_changes_nothing_that_can_be_seen_is_no_event() {
    let table = table();
    table.put("key/a", r#"{"value":1}"#).expect(200);
    let mut events = watch(&table, "subscribe?prefix=");
    table.put("key/a", "{").expect(400);
    table.delete("key/absent").expect(404);
    table.delete("key/absent?force=true").expect(200);
    table
        .send(&table.request("PUT", "key/a").header("If-None-Match", "*").body(r#"{"value":2}"#))
        .expect(412);
    table
        .post("batch?atomic=true", r#"[{"op":"put","key":"a","value":3},{"op":"delete","key":"absent"}]"#)
        .expect(404);
    table.get("key/a").expect(200);
    table.put("key/marker", r#"{"value":1}"#).expect(200);
    assert_eq!(summary(&events.event().json()), "marker=1");
}

#[test]
fn values_and_keys_are_one_line_each_and_keep_their_digits() {
    let table = table();
    let mut events = watch(&table, "subscribe?prefix=");
    for (key, value) in [
        ("n", "12345678901234567890"),
        ("f", "1.10"),
        ("nothing", "null"),
        ("text", r#""a\nb\r\nc\u2028""#),
        ("a%0Ab%0D", r#"{"b":1,"a":[2]}"#),
        ("%F0%9F%A6%80%00", "1"),
    ] {
        table.put(&format!("key/{key}"), format!(r#"{{"value":{value}}}"#)).expect(200);
        let event = events.event();
        assert_eq!(event.text.lines().count(), 2, "{event:?}");
        let data = event.data.expect("data");
        assert!(data.contains(&format!(r#""value":{value},"version""#)), "{data}");
    }
}

#[test]
fn a_key_with_slashes_can_be_followed_by_either_spelling() {
    let table = table();
    let mut events = watch(&table, "subscribe/a/b");
    let mut same = watch(&table, "subscribe/a%2Fb");
    table.put("key/a", r#"{"value":0}"#).expect(200);
    table.put("key/a/b", r#"{"value":1}"#).expect(200);
    assert_eq!(summary(&events.event().json()), "a/b=1");
    assert_eq!(summary(&same.event().json()), "a/b=1");
}

#[test]
fn the_head_of_a_stream_has_no_body_and_ends() {
    let table = table();
    let head = table.send(&table.request("HEAD", "subscribe/a")).expect(200);
    assert!(head.body.is_empty());
    assert_eq!(head.expect_header("content-type"), "text/event-stream");
}

#[test]
fn many_who_follow_one_key_each_get_every_event() {
    let table = table();
    let mut streams: Vec<Events> = (0..50).map(|_| watch(&table, "subscribe/a")).collect();
    for value in 0..20 {
        table.put("key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
    }
    let mut texts: Vec<String> =
        streams.iter_mut().map(|events| (0..20).map(|_| events.event().text).collect()).collect();
    texts.dedup();
    assert_eq!(texts.len(), 1, "all see the same bytes");
    assert_eq!(texts[0].matches("data: ").count(), 20);
}

/// The ancestor's count of streams stayed wrong after a client left.
#[test]
fn the_count_of_streams_goes_down_when_a_client_leaves() {
    let node = crate::harness::Node::start();
    let open = || node.get("/stats").expect(200).json()["subscriptions"].as_u64().expect("a number");
    let streams: Vec<Events> = (0..5).map(|_| Events::open(node.address(), "/t/subscribe/a").0).collect();
    let socket = crate::harness::ws::Socket::open(node.address(), "/t/subscribe/a");
    crate::harness::wait_until("all are counted", crate::harness::DEADLINE, || open() == 6);
    drop(streams);
    // At once, not when the next keep-alive finds them gone.
    let promptly = std::time::Duration::from_secs(5);
    crate::harness::wait_until("those who left are not", promptly, || open() == 1);
    drop(socket);
    crate::harness::wait_until("nobody is left", promptly, || open() == 0);
    let metrics = node.get("/metrics").expect(200);
    let gauge = metrics.text().lines().find(|line| line.contains("subscriptions") && !line.starts_with('#'));
    assert!(gauge.is_some_and(|line| line.ends_with(" 0")), "{gauge:?}");
}
