//! What bad use of strong tables gets: a clear answer, and nothing is changed or lost.

use serde_json::{Value, json};

use super::{fresh_name, shared, strong};
use crate::harness::{Node, http::Request};

#[test]
fn a_mode_that_does_not_exist_is_refused_and_names_those_that_do() {
    let cluster = shared();
    let path = format!("/_/tables/{}", fresh_name());
    let why = cluster[0].put(&path, r#"{"mode":"stronk"}"#).expect_problem(400, "bad-request");
    assert!(why.contains("strong"), "{why}");
    for body in ["{}", r#"{"mode":1}"#, r#"{"mode":"strong","replicas":3}"#, "strong", ""] {
        cluster[1].put(&path, body).expect_refused(body);
    }
    cluster[1].put("/_/tables/bad%2Fname", r#"{"mode":"strong"}"#).expect_refused("a bad name");
    cluster[1].put(&format!("{path}?w=2"), r#"{"mode":"strong"}"#).expect_problem(400, "bad-request");
    for method in ["GET", "DELETE", "PATCH", "POST"] {
        let other = cluster[2].send(&Request::new(method, &path));
        assert!(matches!(other.status, 404 | 405), "{method}: {other}");
    }
}

#[test]
fn a_mode_never_changes() {
    let table = strong();
    table[0].put(&table.path("key/a"), r#"{"value":1}"#).expect(200);
    for node in table.nodes() {
        let path = format!("/_/tables/{}", table.name);
        let why = node.put(&path, r#"{"mode":"eventual"}"#).expect_problem(409, "wrong-mode");
        assert!(why.contains(&table.name) && why.contains("never changes"), "{why}");
    }
    table[1].get(&table.path("key/a")).expect_body(r#"{"value":1}"#);
}

#[test]
fn a_table_with_eventual_rows_on_any_node_is_not_made_strong_and_keeps_them() {
    let cluster = shared();
    for writer in 0..3 {
        let name = fresh_name();
        cluster[writer].put(&format!("/{name}/key/a?w=all"), r#"{"value":1}"#).expect(200);
        for node in cluster.running() {
            let made = node.put(&format!("/_/tables/{name}"), r#"{"mode":"strong"}"#);
            let why = made.expect_problem(409, "wrong-mode");
            assert!(why.contains(&name), "{why}");
            node.put(&format!("/_/tables/{name}"), r#"{"mode":"eventual"}"#).expect(200);
            node.get(&format!("/{name}/key/a")).expect_body(r#"{"value":1}"#);
        }
        // It works on as it did.
        cluster[writer].put(&format!("/{name}/key/a?w=all"), r#"{"value":2}"#).expect(200);
    }
}

#[test]
fn a_write_concern_on_a_strong_table_is_refused_because_a_majority_is_what_it_is() {
    let table = strong();
    table[0].put(&table.path("key/a"), r#"{"value":1}"#).expect(200);
    for concern in ["1", "2", "majority", "all"] {
        for node in table.nodes() {
            let send = |method: &str, path: &str, body: &str| {
                let separator = if path.contains('?') { '&' } else { '?' };
                let request = Request::new(method, &format!("{path}{separator}w={concern}"));
                let request = if body.is_empty() { request } else { request.body(body) };
                let why = node.send(&request).expect_problem(400, "bad-request");
                assert!(why.contains("majority"), "{method} {path}: {why}");
            };
            send("PUT", &table.path("key/a"), r#"{"value":2}"#);
            send("PATCH", &table.path("key/a"), r#"{"n":2}"#);
            send("DELETE", &table.path("key/a"), "");
            send("POST", &table.path("batch"), r#"[{"op":"delete","key":"a"}]"#);
            send("DELETE", &format!("/{}?prefix=a", table.name), "");
        }
    }
    table[2].get(&table.path("key/a")).expect_body(r#"{"value":1}"#);
}

#[test]
fn rows_with_versions_are_not_imported_into_a_strong_table() {
    let table = strong();
    let kept = table[0].put(&table.path("key/a"), r#"{"value":"kept"}"#).expect(200).json();
    let row = |key: &str, value: Value| {
        let version = &kept["version"];
        json!({ "table": table.name, "key": key, "value": value, "version": version }).to_string()
    };
    for node in table.nodes() {
        let lines = [row("a", json!("old")), row("b", json!("new"))].join("\n");
        let why = node.post("/_/import", lines).expect_problem(400, "bad-request");
        assert!(why.contains(&table.name) && why.contains("version"), "{why}");
    }
    assert_eq!(table[1].get(&table.path("store")).expect(200).json(), json!({ "a": "kept" }));
}

#[test]
fn a_freshness_that_does_not_exist_is_refused_and_names_those_that_do() {
    let table = strong();
    for path in ["key/a", "keys", "store", "count"] {
        let why = table[1].get(&table.path(&format!("{path}?read=stael"))).expect_problem(400, "bad-request");
        assert!(why.contains("stale"), "{path}: {why}");
    }
    // Writes have no freshness.
    table[1].put(&table.path("key/a?read=stale"), r#"{"value":1}"#).expect_problem(400, "bad-request");
}

/// The leader patches, so it must hold to the limit of values too.
#[test]
fn a_value_that_a_patch_makes_too_large_is_refused() {
    let table = strong();
    let half = "x".repeat(600 * 1024);
    table[1].put(&table.path("key/a"), json!({ "value": { "one": half } }).to_string()).expect(200);
    for node in table.nodes() {
        let patch = Request::new("PATCH", &table.path("key/a")).body(json!({ "other": half }).to_string());
        node.send(&patch).expect_problem(413, "too-large");
    }
    let too_large = json!({ "value": "x".repeat(1024 * 1024) }).to_string();
    table[2].put(&table.path("key/a"), too_large).expect_problem(413, "too-large");
    let whole = table[0].get(&table.path("key/a")).expect(200).json();
    assert_eq!(whole["value"]["one"].as_str().map(str::len), Some(half.len()));
}

/// A node of its own, without a cluster and without strong tables.
#[test]
fn a_transaction_on_a_node_without_strong_tables_says_how_to_make_one() {
    let node = Node::start();
    let transaction = json!({ "success": [{ "op": "get", "table": "stock", "key": "a" }] });
    node.post("/_/txn", transaction.to_string()).expect_problem(409, "wrong-mode");
    node.get("/stock/key/a?read=stale").expect_problem(404, "not-found");
}
