//! The change feed: from a position to the next, in one answer, in one that waits, and in a stream.

use serde_json::Value;

use super::summary;
use crate::harness::{
    DEADLINE, Node, Setup,
    http::{Request, Response},
    sse::Events,
    table,
};

/// The lines of an answer, and the cursor and `more` of its last.
fn read(answer: Response) -> (Vec<Value>, String, bool) {
    let answer = answer.expect(200);
    assert_eq!(answer.expect_header("content-type"), "application/x-ndjson");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    // While it waits it may send heartbeats.
    let is_heartbeat = |line: &Value| line["event"] == "position" && line.get("more").is_none();
    let lines = answer.text().lines().filter(|line| !line.is_empty()).map(parse);
    let mut lines: Vec<Value> = lines.filter(|line| !is_heartbeat(line)).collect();
    let last = lines.pop().expect("an answer has a last line");
    assert_eq!(last["event"], "position", "{last}");
    let cursor = last["cursor"].as_str().expect("a cursor").to_owned();
    (lines, cursor, last["more"].as_bool().expect("it says whether there is more"))
}

/// What the lines say, short enough to compare: `a=1`, `a gone`, `sync`.
fn told(lines: &[Value]) -> Vec<String> {
    let of = |line: &Value| match line["event"].as_str() {
        Some("Updated" | "Deleted") => summary(line),
        other => other.expect("an event").to_owned(),
    };
    lines.iter().map(of).collect()
}

#[test]
fn a_feed_gives_what_changed_after_each_position() {
    let table = table();
    let put = |key: &str, value: u32| {
        table.put(&format!("key/{key}"), format!(r#"{{"value":{value}}}"#)).expect(200);
    };
    put("a", 1);
    put("b", 2);
    let (lines, cursor, more) = read(table.get("changes"));
    assert_eq!((told(&lines).join(" ").as_str(), more), ("a=1 b=2 sync", false));
    let (lines, same, _) = read(table.get(&format!("changes?since={cursor}")));
    assert!(lines.is_empty(), "{lines:?}");

    put("a", 3);
    table.delete("key/b").expect(200);
    put("c", 4);
    let (lines, end, more) = read(table.get(&format!("changes?since={same}")));
    assert_eq!((told(&lines), more), (vec!["a=3".into(), "b gone".into(), "c=4".into()], false));
    let place = |cursor: &str| cursor.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(place(lines[2]["cursor"].as_str().expect("a cursor")), place(&end));

    let (lines, middle, more) = read(table.get(&format!("changes?since={cursor}&limit=2")));
    assert_eq!((told(&lines), more), (vec!["a=3".to_owned(), "b gone".into()], true));
    let (lines, _, more) = read(table.get(&format!("changes?since={middle}&limit=2")));
    assert_eq!((told(&lines), more), (vec!["c=4".to_owned()], false));

    let (lines, ..) = read(table.get(&format!("changes?since={cursor}&prefix=a&prefix=c")));
    assert_eq!(told(&lines), ["a=3", "c=4"]);
    let (lines, ..) = read(table.get("changes?since=now"));
    assert!(lines.is_empty(), "{lines:?}");
    // The values of a snapshot have no cursor to go on from, so a limit does not cut it.
    let (lines, _, more) = read(table.get("changes?since=0&limit=1"));
    assert_eq!((told(&lines).join(" ").as_str(), more), ("a=3 c=4 sync", true));
    // Another node's, another cluster's, or nobody's: the client is told to start over, never given nothing.
    for unknown in ["00000001.5", "1763689000123", "99999999.1.1795851010756.00000001"] {
        let (lines, ..) = read(table.get(&format!("changes?since={unknown}")));
        assert_eq!(told(&lines), ["resync", "a=3", "c=4", "sync"], "{unknown}");
    }
}

#[test]
fn a_long_poll_waits_for_the_first_change_or_for_its_timeout() {
    let node = Node::start();
    let (_, cursor, _) = read(node.get("/t/changes"));
    let path = format!("/t/changes?feed=longpoll&since={cursor}");
    let (lines, ..) = read(node.get(&format!("{path}&timeout=10ms")));
    assert!(lines.is_empty(), "{lines:?}");
    let mut waiting = Events::request(node.address(), &Request::new("GET", &path));
    node.put("/other/key/x", r#"{"value":0}"#).expect(200);
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let lines: Vec<String> = std::iter::from_fn(|| waiting.line()).collect();
    let changes = lines.iter().filter(|line| line.contains(r#""event":"Updated""#));
    assert_eq!(changes.count(), 1, "{lines:?}");
    assert!(lines.last().is_some_and(|last| last.contains(r#""more":false"#)), "{lines:?}");
    // What is there already is answered at once.
    assert_eq!(told(&read(node.get(&path)).0), ["a=1"]);
}

/// A feed turned off the timeouts of its connection for good: after one long poll, a client that kept the connection open without a request
/// held a place for ever.
#[test]
fn a_connection_has_its_timeouts_again_after_a_feed() {
    let node = Setup::new().flag("--idle-timeout", "1s").start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let (_, cursor, _) = read(node.get("/t/changes?since=now"));
    let mut connections = [
        format!("/t/changes?feed=longpoll&timeout=10ms&since={cursor}"),
        "/t/changes?feed=continuous&limit=1".into(),
    ]
    .map(|path| {
        let mut connection = node.connect();
        connection.send(&Request::new("GET", &path)).expect(200);
        // It takes further requests.
        connection.send(&Request::new("GET", "/healthz")).expect(200);
        connection
    });
    for connection in &mut connections {
        connection.read_to_close(DEADLINE);
    }
}

#[test]
fn a_continuous_feed_goes_on_with_heartbeats_and_ends_with_the_node() {
    let node = Node::start();
    let (_, cursor, _) = read(node.get("/_/changes"));
    let path = format!("/_/changes?feed=continuous&since={cursor}&heartbeat=1s");
    let mut feed = Events::request(node.address(), &Request::new("GET", &path));
    assert!(feed.headers.contains(&("x-accel-buffering".into(), "no".into())), "{:?}", feed.headers);
    let line = feed.line().expect("a heartbeat");
    assert!(line.starts_with(r#"{"event":"position","cursor":""#), "{line}");
    node.put("/_/tables/strict", r#"{"mode":"strong"}"#).expect(201);
    for path in ["/changes/key/changes", "/strict/key/s"] {
        node.put(path, r#"{"value":1}"#).expect(200);
    }
    let mut tables = Vec::new();
    while tables.len() < 2 {
        let line: Value = serde_json::from_str(&feed.line().expect("a line")).unwrap_or_default();
        tables.extend(line["table"].as_str().map(str::to_owned));
    }
    // Those of different tables come in any order.
    tables.sort_unstable();
    assert_eq!(tables, ["changes", "strict"]);
    // A table and a key of the route's name are a table and a key.
    node.get("/changes/key/changes").expect_body(r#"{"value":1}"#);
    assert_eq!(told(&read(node.get("/changes/changes")).0), ["changes=1", "sync"]);
    assert_eq!(told(&read(node.get("/strict/changes")).0), ["s=1", "sync"]);
    node.terminate();
    let rest: Vec<String> = std::iter::from_fn(|| feed.line()).collect();
    assert_eq!(rest.last().map(String::as_str), Some(r#"{"event":"shutdown"}"#), "{rest:?}");
}
