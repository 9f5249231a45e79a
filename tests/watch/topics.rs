//! What one stream can follow: a key, a list of keys, a prefix, a table, several tables; and its first values.

use serde_json::{Value, json};

use super::summary;
use crate::harness::{Node, Table, sse::Events, table, ws::Socket};

fn fill(table: &Table) {
    for (key, value) in [("a", 1), ("a/b", 2), ("ab", 3), ("b", 4), ("c", 5)] {
        table.put(&format!("key/{key}"), format!(r#"{{"value":{value}}}"#)).expect(200);
    }
}

/// What a stream of these parameters sees of five writes and a marker.
fn seen(rest: &str) -> Vec<String> {
    let table = table();
    let (mut events, _) = Events::open(table.address(), &table.path(rest));
    fill(&table);
    // A marker for each kind of topic; whichever is followed ends the list.
    table.put("key/a-end", r#"{"value":0}"#).expect(200);
    table.put("key/a", r#"{"value":0}"#).expect(200);
    table.put("key/c", r#"{"value":0}"#).expect(200);
    let mut seen: Vec<_> = events.data_until(|event| event["value"] == 0).iter().map(summary).collect();
    seen.pop();
    seen
}

#[test]
fn a_stream_sees_what_it_follows_and_nothing_else() {
    assert_eq!(seen("subscribe/a"), ["a=1"]);
    assert_eq!(seen("subscribe/c"), ["c=5"]);
    assert_eq!(seen("subscribe?prefix=a"), ["a=1", "a/b=2", "ab=3"]);
    assert_eq!(seen("subscribe?keys=a,c"), ["a=1", "c=5"]);
    assert_eq!(seen("subscribe?keys=c"), ["c=5"]);
    assert_eq!(seen("subscribe?prefix="), ["a=1", "a/b=2", "ab=3", "b=4", "c=5"]);
    assert_eq!(seen("subscribe"), ["a=1", "a/b=2", "ab=3", "b=4", "c=5"]);
}

#[test]
fn one_stream_follows_keys_and_prefixes_of_several_tables() {
    let node = Node::start();
    let (mut events, _) =
        Events::open(node.address(), "/_/subscribe?topic=users/alice&topic=orders/*&topic=logs/2024/*");
    for path in [
        "users/key/bob",
        "users/key/alice",
        "orders/key/1",
        "logs/key/2023/1",
        "logs/key/2024/1",
        "other/key/x",
        "orders/key/end",
    ] {
        node.put(&format!("/{path}"), r#"{"value":1}"#).expect(200);
    }
    let seen = events.data_until(|event| event["key"] == "end");
    let seen: Vec<_> = seen
        .iter()
        .map(|event| format!("{}/{}", event["table"].as_str().expect("a table"), summary(event)))
        .collect();
    assert_eq!(seen, ["users/alice=1", "orders/1=1", "logs/2024/1=1", "orders/end=1"]);
}

/// What an event says, with its table.
fn of_table(event: &Value) -> String {
    format!("{}/{}", event["table"].as_str().expect("a table"), summary(event))
}

#[test]
fn one_topic_follows_all_tables_and_those_made_later() {
    let node = Node::start();
    let put = |path: &str| node.put(path, r#"{"value":1}"#).expect(200);
    put("/first/key/a");
    put("/second/key/b");
    let path = "/_/subscribe?topic=*";
    let (mut events, _) = Events::open(node.address(), &format!("{path}&topic=second/*&snapshot=true"));
    let mut snapshot: Vec<_> = std::iter::from_fn(|| Some(events.event()))
        .take_while(|event| !event.is_control("sync"))
        .filter(|event| event.is_data())
        .map(|event| of_table(&event.json()))
        .collect();
    snapshot.sort_unstable();
    assert_eq!(snapshot, ["first/a=1", "second/b=1"]);
    put("/third/key/c");
    node.put("/_/tables/strict", r#"{"mode":"strong"}"#).expect(201);
    put("/strict/key/d");
    node.delete("/first/key/a").expect(200);
    let seen: Vec<_> = (0..3).map(|_| events.event()).collect();
    let told: Vec<_> = seen.iter().map(|event| of_table(&event.json())).collect();
    // Those of different tables come in any order, which is the same for who resumes.
    let mut sorted = told.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["first/a gone", "strict/d=1", "third/c=1"]);

    let id = seen[0].id.clone().expect("a change has an id");
    let mut resumed = Events::resume(node.address(), path, &id);
    assert_eq!(of_table(&resumed.event().json()), told[1]);
    assert_eq!(of_table(&resumed.event().json()), told[2]);

    let mut socket = Socket::open(node.address(), "/_/ws");
    socket.send(&json!({"op": "sub", "id": "all", "table": "*", "since": id}));
    assert_eq!(socket.json()["event"], "subscribed");
    assert_eq!(of_table(&socket.json()), told[1]);
    let last = socket.json();
    assert_eq!((of_table(&last), &last["sub"]), (told[2].clone(), &json!("all")));
}

#[test]
fn a_key_that_two_topics_name_is_sent_once() {
    let table = table();
    let name = table.name();
    let (mut events, _) =
        Events::open(table.address(), &format!("/_/subscribe?topic={name}/a&topic={name}/*&topic={name}/a"));
    table.put("key/a", r#"{"value":1}"#).expect(200);
    table.put("key/b", r#"{"value":2}"#).expect(200);
    let seen: Vec<_> = events.data_until(|event| event["key"] == "b").iter().map(summary).collect();
    assert_eq!(seen, ["a=1", "b=2"]);
}

#[test]
fn a_snapshot_sends_what_is_there_then_sync_then_changes() {
    let table = table();
    fill(&table);
    for (rest, expected) in [
        ("subscribe/a?snapshot=true", &["a=1"][..]),
        ("subscribe/absent?snapshot=true", &[]),
        ("subscribe?prefix=a&snapshot=true", &["a=1", "a/b=2", "ab=3"]),
        ("subscribe?keys=a,absent,c&snapshot=true", &["a=1", "c=5"]),
        ("subscribe?snapshot=true", &["a=1", "a/b=2", "ab=3", "b=4", "c=5"]),
    ] {
        let (mut events, _) = Events::open(table.address(), &table.path(rest));
        let mut snapshot = Vec::new();
        let sync = loop {
            let event = events.event();
            if !event.is_data() {
                break event;
            }
            snapshot.push(summary(&event.json()));
        };
        snapshot.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(snapshot, expected, "{rest}");
        assert!(sync.is_control("sync"), "{rest}: {sync:?}");
        // An EventSource passes on only what has data, and resumes from the last id it saw.
        assert!(sync.data.as_deref().is_some_and(|data| !data.is_empty()) && sync.id.is_some(), "{sync:?}");
    }
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe/c?snapshot=true"));
    table.put("key/c", r#"{"value":6}"#).expect(200);
    // The write may come before the snapshot is read, or after.
    let mut seen = Vec::new();
    while !["c=6", "sync"].iter().all(|one| seen.iter().any(|event| event == one)) {
        let event = events.event();
        seen.push(if event.is_data() { summary(&event.json()) } else { event.event.unwrap_or_default() });
    }
    assert!(["c=5,sync,c=6", "c=6,sync"].contains(&seen.join(",").as_str()), "{seen:?}");
}

#[test]
fn a_snapshot_is_off_unless_asked_for() {
    let table = table();
    table.put("key/a", r#"{"value":1}"#).expect(200);
    for rest in ["subscribe/a", "subscribe/a?snapshot=false"] {
        let (mut events, _) = Events::open(table.address(), &table.path(rest));
        table.put("key/a", r#"{"value":2}"#).expect(200);
        assert_eq!(summary(&events.event().json()), "a=2");
    }
}

/// Snapshot and changes join without a gap, whatever is written in that moment.
#[test]
fn a_snapshot_under_writes_ends_with_what_is_there() {
    let table = table();
    table.put("key/a", r#"{"value":0}"#).expect(200);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut connection = table.connect();
            for value in 1..=400 {
                connection
                    .send(&table.request("PUT", "key/a").body(format!(r#"{{"value":{value}}}"#)))
                    .expect(200);
            }
        });
        let mut streams = Vec::new();
        while !writer.is_finished() && streams.len() < 40 {
            streams.push(Events::open(table.address(), &table.path("subscribe/a?snapshot=true")).0);
        }
        writer.join().expect("the writer does not panic");
        for mut events in streams {
            let mut values = Vec::new();
            while values.last() != Some(&400) {
                let event = events.event();
                if event.is_data() {
                    values.push(event.json()["value"].as_u64().expect("a number"));
                }
            }
            // From the first value on, each once and none left out.
            assert!(values.windows(2).all(|pair| pair[1] == pair[0] + 1), "{values:?}");
        }
    });
}

#[test]
fn topics_that_are_none_are_refused() {
    let table = table();
    for path in [
        "/_/subscribe".to_owned(),
        "/_/subscribe?topic=".to_owned(),
        "/_/subscribe?topic=noslash".to_owned(),
        "/_/subscribe?topic=*/a".to_owned(),
        "/_/subscribe?topic=*/*".to_owned(),
        "/_/subscribe?topic=..%2Fx/a".to_owned(),
        "/_/subscribe?topic=users/".to_owned(),
        format!("/_/subscribe?topic=users/{}", "k".repeat(1025)),
        table.path("subscribe/%ff"),
        table.path("subscribe/"),
        table.path("subscribe?keys="),
        table.path("subscribe?snapshot=maybe"),
    ] {
        crate::harness::Node::get(&table, &path).expect_refused(&path);
    }
}
