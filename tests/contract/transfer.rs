//! Export and import: all tables as lines, and back.

use serde_json::{Value, json};

use crate::harness::{Node, http::Request};

fn export(node: &Node) -> Vec<Value> {
    let exported = node.get("/_/export").expect(200);
    assert_eq!(exported.expect_header("content-type"), "application/x-ndjson");
    let mut lines = exported.text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON"));
    assert_eq!(lines.next(), Some(json!({ "export": 1 })));
    let mut rows: Vec<Value> = lines.collect();
    let end = rows.pop().expect("an end");
    assert_eq!((&end["end"], &end["rows"]), (&json!(true), &json!(rows.len())), "{end}");
    rows
}

fn filled() -> Node {
    let node = Node::start();
    node.put("/users/key/alice", r#"{"value":{"age":12345678901234567890}}"#).expect(200);
    node.put("/users/key/b%2Fob%0A", r#"{"value":null}"#).expect(200);
    node.put("/orders/key/1?ttl=1h", r#"{"value":1.10}"#).expect(200);
    node.put("/orders/key/2", r#"{"value":"gone"}"#).expect(200);
    node.delete("/orders/key/2").expect(200);
    node
}

#[test]
fn an_export_has_every_live_row_of_every_table() {
    let node = filled();
    let rows = export(&node);
    let names: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["table"].as_str().expect("a table"), row["key"].as_str().expect("a key")))
        .collect();
    assert_eq!(names, [("orders", "1"), ("users", "alice"), ("users", "b/ob\n")]);
    for row in &rows {
        assert!(row["version"].is_string() && row["timestamp"].is_u64(), "{row}");
    }
    assert!(rows[0]["expires_at"].is_u64(), "{}", rows[0]);
    let read = node.get("/users/key/alice").expect(200);
    assert_eq!(rows[1]["version"], read.expect_header("dynarust-version"));
    let text = node.get("/_/export").expect(200).text().to_owned();
    assert!(text.contains(r#""value":{"age":12345678901234567890}"#), "{text}");
}

#[test]
fn importing_an_export_copies_a_node_and_can_be_repeated() {
    let source = filled();
    let exported = source.get("/_/export").expect(200).body;
    let target = Node::start();
    for _ in 0..2 {
        target.post("/_/import", exported.clone()).expect(200);
        assert_eq!(target.get("/_/export").expect(200).body, exported);
    }
    for path in ["/users/key/alice", "/users/key/b%2Fob%0A", "/orders/key/1"] {
        let (here, there) = (source.get(path).expect(200), target.get(path).expect(200));
        assert_eq!(here.body, there.body);
        assert_eq!(here.expect_header("etag"), there.expect_header("etag"));
        assert_eq!(here.header("dynarust-expires"), there.header("dynarust-expires"));
    }
    // The import is durable.
    let target = target.kill().start();
    assert_eq!(target.get("/_/export").expect(200).body, exported);
}

#[test]
fn an_import_never_overwrites_a_later_write() {
    let node = filled();
    let exported = node.get("/_/export").expect(200).body;
    node.put("/users/key/alice", r#"{"value":"later"}"#).expect(200);
    node.delete("/users/key/b%2Fob%0A").expect(200);
    node.post("/_/import", exported).expect(200);
    node.get("/users/key/alice").expect_body(r#"{"value":"later"}"#);
    node.get("/users/key/b%2Fob%0A").expect_problem(404, "not-found");
}

/// An import accepted any `w` and answered as if there were none.
#[test]
fn an_import_waits_for_replicas_like_a_write() {
    let node = Node::start();
    let lines = r#"{"table":"t","key":"a","value":1,"version":"018bcfe568000000-000000000000abcd"}"#;
    for wrong in ["0", "some"] {
        node.post(&format!("/_/import?w={wrong}"), lines).expect_refused(wrong);
    }
    node.get("/t/key/a").expect_problem(404, "not-found");

    for (written, skipped) in [(1, 0), (0, 1)] {
        let missed = node.post("/_/import?w=2", lines).expect(504);
        let problem = missed.json();
        assert_eq!((&problem["held"], &problem["wanted"]), (&json!(1), &json!(2)), "{missed}");
        assert_eq!(
            (&problem["written"], &problem["skipped"]),
            (&json!(written), &json!(skipped)),
            "{missed}"
        );
        missed.expect_problem(504, "not-enough-replicas");
    }
    node.get("/t/key/a").expect_body(r#"{"value":1}"#);
    for met in ["w=1", "w=majority", "w=all"] {
        node.post(&format!("/_/import?{met}"), lines).expect(200);
    }
    node.post("/_/import?w=2", "").expect(200);
}

#[test]
fn rows_without_a_version_are_new_writes() {
    let node = Node::start();
    let lines = "{\"table\":\"t\",\"key\":\"a\",\"value\":1}\n{\"table\":\"t\",\"key\":\"b\",\"value\":2}\n";
    node.post("/_/import", lines).expect(200);
    node.get("/t/store").expect_body(r#"{"a":1,"b":2}"#);
    node.put("/t/key/a", r#"{"value":0}"#).expect(200);
    node.send(&Request::new("POST", "/_/import").header("Content-Type", "application/x-ndjson").body(lines))
        .expect(200);
    node.get("/t/store").expect_body(r#"{"a":1,"b":2}"#);
}

#[test]
fn a_timestamp_far_ahead_of_the_clock_is_refused() {
    let node = Node::start();
    node.put("/t/key/probe", r#"{"value":0}"#).expect(200);
    let version = node.get("/t/key/probe").expect(200).expect_header("dynarust-version").to_owned();
    let (hlc, writer) = version.split_once('-').expect("a version is <time>-<node>");
    let ahead = u64::from_str_radix(hlc, 16).expect("hexadecimal digits") + (3_600_000 << 16);
    let line = format!(r#"{{"table":"t","key":"a","value":1,"version":"{ahead:016x}-{writer}"}}"#);
    let refused = node.post("/_/import", line);
    assert!((400..500).contains(&refused.status), "{refused}");
    node.get("/t/key/a").expect_problem(404, "not-found");
    node.put("/t/key/b", r#"{"value":1}"#).expect(200);
}

#[test]
fn an_invalid_line_is_refused_with_its_number() {
    let node = Node::start();
    for wrong in [
        "nonsense",
        r#"{"table":"t","key":"a"}"#,
        r#"{"key":"a","value":1}"#,
        r#"{"table":"t","value":1}"#,
        r#"{"table":"t","key":"a","value":1,"version":"nonsense"}"#,
        r#"{"table":"..","key":"a","value":1}"#,
        r#"{"table":"t","key":"","value":1}"#,
        "7",
    ] {
        let body = format!("{{\"table\":\"t\",\"key\":\"ok\",\"value\":1}}\n{wrong}\n");
        let refused = node.post("/_/import", body);
        assert!(matches!(refused.status, 400 | 422), "{wrong}: {refused}");
        assert!(
            refused.json()["detail"].as_str().is_some_and(|detail| detail.contains("line 2")),
            "{refused}"
        );
    }
    node.get("/t/key/a").expect_problem(404, "not-found");
}

#[test]
fn an_empty_node_exports_no_rows() {
    let node = Node::start();
    assert!(export(&node).is_empty());
    let exported = node.get("/_/export").expect(200);
    assert_eq!(exported.expect_header("dynarust-total-keys"), "0");
    node.post("/_/import", exported.body).expect(200);
    node.post("/_/import", "").expect(200);
}

/// A proxy that spoke HTTP/1.0 died midway: 44,199 of 60,000 rows looked like a complete export, and were imported as one.
#[test]
fn a_part_of_an_export_is_refused_without_partial() {
    let source = filled();
    let exported = source.get("/_/export").expect(200).text().to_owned();
    for cut in (13..exported.len() - 1).step_by(7) {
        let Some(part) = exported.get(..cut) else { continue };
        let target = Node::post(&source, "/_/import", part);
        let problem = target.expect(400).json();
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains("incomplete") && detail.contains("?partial=true"), "{detail}");
        assert_eq!((&problem["written"], &problem["skipped"]), (&json!(0), &json!(0)), "{problem}");
    }
    let target = Node::start();
    let half: String = exported.lines().take(2).map(|line| format!("{line}\n")).collect();
    target.post("/_/import", half.clone()).expect(400);
    target.get("/orders/key/1").expect_problem(404, "not-found");
    let taken = target.post("/_/import?partial=true", half).expect(200).json();
    assert_eq!(taken["written"], 1);
    target.get("/orders/key/1").expect(200);
    let changed = exported.replace("12345678901234567890", "12345678901234567891");
    assert!(target.post("/_/import", changed).expect(400).text().contains("blake3"));
    let longer = format!("{exported}{{\"table\":\"t\",\"key\":\"a\",\"value\":1}}\n");
    assert!(target.post("/_/import", longer).expect(400).text().contains("follows the end"));
    target.post("/_/import", format!("{exported}{exported}")).expect(200);
}

/// What was committed before the missing end was noticed stays, and the response says how much that is.
#[test]
fn a_failed_import_reports_what_it_wrote() {
    let rows = (0..2500).map(|row| format!("{{\"table\":\"t\",\"key\":\"k{row:04}\",\"value\":{row}}}\n"));
    let body: String = std::iter::once("{\"export\":1}\n".to_owned()).chain(rows).collect();
    let node = Node::start();
    let problem = node.post("/_/import", body.clone()).expect(400).json();
    assert_eq!(problem["written"], 2000, "{problem}");
    node.get("/t/count").expect_body(r#"{"count":2000}"#);
    node.post("/_/import?partial=true", body).expect(200);
    node.get("/t/count").expect_body(r#"{"count":2500}"#);
}

#[test]
fn a_streamed_response_reports_its_number_of_keys() {
    let node = filled();
    for (path, keys) in
        [("/_/export", "3"), ("/_/export?table=users", "2"), ("/users/keys", "2"), ("/orders/store", "1")]
    {
        assert_eq!(node.get(path).expect(200).expect_header("dynarust-total-keys"), keys, "{path}");
    }
    for path in ["/users/keys?prefix=a", "/users/keys?limit=1", "/users/store?start=b"] {
        assert_eq!(node.get(path).expect(200).header("dynarust-total-keys"), None, "{path}");
    }
}

#[test]
fn a_long_import_in_chunks_can_be_exported_again() {
    let node = Node::start();
    let lines: Vec<String> =
        (0..5000).map(|row| format!("{{\"table\":\"t\",\"key\":\"k{row:04}\",\"value\":{row}}}\n")).collect();
    let body = lines.concat();
    node.send(&Request::new("POST", "/_/import").chunks(body.as_bytes().chunks(7919))).expect(200);
    node.get("/t/count").expect_body(r#"{"count":5000}"#);
    let rows = export(&node);
    assert_eq!(rows.len(), 5000);
    assert!(rows.iter().enumerate().all(|(row, exported)| exported["value"] == row));
}
