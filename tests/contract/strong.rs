//! Strong tables on one node: what a node says of their group, and transactions over WebSocket. `tests/strong` has the rest.

use serde_json::{Value, json};

use crate::harness::{Node, ws::Socket};

/// A node with two strong tables.
fn strong_node() -> Node {
    let node = Node::start();
    for table in ["stock", "orders"] {
        node.put(&format!("/_/tables/{table}"), r#"{"mode":"strong"}"#).expect(201);
    }
    node
}

#[test]
fn a_table_says_its_mode_and_a_strong_one_is_listed_without_rows() {
    let node = strong_node();
    node.put("/users/key/a", r#"{"value":1}"#).expect(200);
    let tables = node.get("/_/tables").expect(200).json();
    let modes: Vec<_> = tables
        .as_array()
        .expect("tables")
        .iter()
        .map(|table| (table["name"].as_str().expect("a name"), table["mode"].as_str().expect("a mode")))
        .collect();
    assert_eq!(modes, [("orders", "strong"), ("stock", "strong"), ("users", "eventual")]);
    assert_eq!(node.get("/stats").expect(200).json()["tables"], tables);
}

#[test]
fn the_group_is_shown_from_when_it_is_made() {
    let node = Node::start();
    assert_eq!(node.view()["strong"], Value::Null);
    assert!(!node.get("/metrics").expect(200).text().contains("dynarust_strong_"));
    node.put("/_/tables/stock", r#"{"mode":"strong"}"#).expect(201);
    node.put("/stock/key/a", r#"{"value":1}"#).expect(200);
    node.get("/stock/key/a").expect(200);
    let view = node.view();
    let group = &view["strong"];
    let own = json!({ "node": view["node"], "address": view["address"] });
    assert_eq!((&group["leader"], &group["leads"]), (&own, &json!(true)), "{group}");
    assert_eq!(group["learners"], json!([]));
    assert_eq!(group["voters"].as_array().map(Vec::len), Some(1), "{group}");
    assert_eq!(group["voters"][0]["node"], view["node"]);
    assert_eq!(group["applied_index"], group["log_index"], "{group}");
    assert!(group["group"].as_str().is_some_and(|id| id.len() == 16), "{group}");
    let metrics = node.get("/metrics").expect(200);
    let metrics = metrics.text();
    for line in [
        format!("dynarust_strong_term {}", group["term"]),
        format!("dynarust_strong_applied_index {}", group["applied_index"]),
        "dynarust_strong_leader 1".into(),
        // The table and the key.
        "dynarust_strong_proposals_total{result=\"committed\"} 2".into(),
        "dynarust_strong_read_index_total 1".into(),
        "dynarust_strong_snapshots_sent_total 0".into(),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}

#[test]
fn a_transaction_over_a_websocket_answers_as_over_http() {
    let node = strong_node();
    let mut socket = Socket::open(node.address(), "/_/ws");
    let body = json!({
        "compare": [{ "table": "stock", "key": "a", "absent": true }],
        "success": [
            { "op": "put", "table": "stock", "key": "a", "value": 1 },
            { "op": "put", "table": "orders", "key": "o", "value": "a" },
        ],
        "failure": [{ "op": "get", "table": "stock", "key": "a" }],
    });
    let request = |rid: u64| {
        let mut request = body.clone();
        (request["op"], request["rid"]) = (json!("txn"), json!(rid));
        request
    };
    let first = socket.request(&request(1));
    assert_eq!((&first["status"], &first["succeeded"]), (&json!(200), &json!(true)), "{first}");
    assert_eq!(first["results"].as_array().map(Vec::len), Some(2), "{first}");
    let second = socket.request(&request(2));
    assert_eq!(
        (&second["succeeded"], &second["results"][0]["value"]),
        (&json!(false), &json!(1)),
        "{second}"
    );
    let over_http = node.post("/_/txn", body.to_string()).expect(200).json();
    assert_eq!(over_http["results"], second["results"]);
    assert_eq!(node.get("/orders/key/o").expect(200).json()["value"], "a");
}

#[test]
fn a_get_over_a_websocket_is_linearizable_unless_it_asks_for_less() {
    let node = strong_node();
    let mut socket = Socket::open(node.address(), "/_/ws");
    let put = json!({ "op": "put", "rid": 1, "table": "stock", "key": "a", "value": 1 });
    assert_eq!(socket.request(&put)["status"], 200);
    let mut get = json!({ "op": "get", "rid": 2, "table": "stock", "key": "a" });
    let fresh = socket.request(&get);
    assert_eq!((&fresh["value"], &fresh["stale"]), (&json!(1), &Value::Null), "{fresh}");
    get["read"] = json!("stale");
    let stale = socket.request(&get);
    assert_eq!((&stale["value"], &stale["stale"]), (&json!(1), &json!(true)), "{stale}");
    get["read"] = json!("fresh");
    assert_eq!(socket.request(&get)["error"], "bad-request");
}

#[test]
fn a_transaction_over_a_websocket_is_refused_as_over_http() {
    let node = strong_node();
    let mut socket = Socket::open(node.address(), "/_/ws");
    for (success, error) in [
        (json!([{ "op": "put", "table": "users", "key": "a", "value": 1 }]), "wrong-mode"),
        (json!([{ "op": "put", "table": "stock", "key": "a" }]), "missing-value"),
        (json!([{ "op": "put", "tabel": "stock", "key": "a", "value": 1 }]), "bad-request"),
        (json!(vec![json!({ "op": "get", "table": "stock", "key": "a" }); 129]), "bad-request"),
    ] {
        let answer = socket.request(&json!({ "op": "txn", "rid": "r", "success": success }));
        assert_eq!((&answer["event"], &answer["rid"]), (&json!("result"), &json!("r")), "{answer}");
        assert_eq!(answer["error"], error, "{answer}");
    }
}
