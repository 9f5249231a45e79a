//! The removal of many keys by one request, and of tables that have none left.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    DEADLINE, Node, Setup, Table, http::Request, sse::Events, table, wait_until, ws::Socket,
};

fn fill(table: &Table, prefix: &str, count: usize) {
    let lines: String =
        (0..count).map(|row| format!("{{\"op\":\"put\",\"key\":\"{prefix}{row}\",\"value\":1}}\n")).collect();
    table.post("batch", lines).expect(200);
}

fn path(table: &Table, query: &str) -> String {
    format!("/{}{query}", table.name())
}

#[test]
fn all_keys_go_or_those_that_begin_so() {
    let table = table();
    fill(&table, "a/", 2500);
    fill(&table, "b/", 10);
    let delete = |query: &str| table.send(&Request::new("DELETE", &path(&table, query)));
    delete("?prefix=a%2F1").expect_body(r#"{"deleted":1111}"#);
    table.get("count").expect_body(r#"{"count":1399}"#);
    delete("?prefix=a%2F").expect_body(r#"{"deleted":1389}"#);
    delete("?prefix=a%2F").expect_body(r#"{"deleted":0}"#);
    delete(&format!("?confirm={}", table.name())).expect_body(r#"{"deleted":10}"#);
    table.get("keys").expect_body("[]");
}

#[test]
fn what_is_to_go_is_said() {
    let table = table();
    fill(&table, "a", 3);
    for query in ["", "?prefix=", "?confirm=", "?confirm=other", "?confirm=true", "?prefix=a&confirm=x"] {
        let refused = table.send(&Request::new("DELETE", &path(&table, query)));
        let detail = refused.expect_problem(400, "bad-request");
        assert!(detail.contains("confirm"), "{detail}");
    }
    table.get("count").expect_body(r#"{"count":3}"#);
    for method in ["GET", "HEAD"] {
        assert_eq!(table.send(&Request::new(method, &path(&table, ""))).status, 404);
    }
    let refused = table.send(&Request::new("PUT", &path(&table, "")));
    assert_eq!(refused.expect_header("allow"), "DELETE, OPTIONS");
    refused.expect_problem(405, "method-not-allowed");
}

#[test]
fn watchers_are_told_of_each_key() {
    let table = table();
    fill(&table, "k", 5);
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe"));
    table.send(&Request::new("DELETE", &path(&table, "?prefix=k"))).expect_body(r#"{"deleted":5}"#);
    let told: Vec<_> = (0..5).map(|_| events.event().json()).collect();
    let mut gone: Vec<_> = told
        .iter()
        .map(|event| {
            assert_eq!((&event["event"], &event["reason"]), (&"Deleted".into(), &"delete".into()), "{event}");
            event["key"].as_str().expect("a key").to_owned()
        })
        .collect();
    gone.sort();
    assert_eq!(gone, ["k0", "k1", "k2", "k3", "k4"]);
}

#[test]
fn too_few_replicas_stop_it_and_it_says_how_far_it_came() {
    let table = table();
    fill(&table, "k", 1500);
    let stopped = table.send(&Request::new("DELETE", &path(&table, "?prefix=k&w=2")));
    assert_eq!(stopped.json()["deleted"], 1000);
    let detail = stopped.expect_problem(504, "not-enough-replicas");
    assert!(detail.contains("1000 keys") && detail.contains("again"), "{detail}");
    table.send(&Request::new("DELETE", &path(&table, "?prefix=k"))).expect_body(r#"{"deleted":500}"#);
}

#[test]
fn a_websocket_does_the_same() {
    let table = table();
    fill(&table, "k", 1200);
    let mut socket = Socket::open(table.address(), "/_/ws");
    socket.send(&json!({"op": "delete_all", "rid": 1, "table": table.name(), "prefix": "k1"}));
    socket.send(&json!({"op": "delete_all", "rid": 2, "table": table.name()}));
    let mut results = [socket.json(), socket.json()];
    results.sort_by_key(|result| result["rid"].as_u64());
    assert_eq!((&results[0]["status"], &results[0]["deleted"]), (&200.into(), &311.into()), "{results:?}");
    assert_eq!(results[1]["error"], "bad-request");
    socket.send(&json!({"op": "delete_all", "rid": 3, "table": table.name(), "confirm": table.name()}));
    assert_eq!(socket.json()["deleted"], 889);
    table.get("keys").expect_body("[]");
}

/// A table a day, each emptied by its expiry, filled `--max-tables` for ever.
#[test]
fn a_table_that_is_empty_makes_room_for_another() {
    let setup = Setup::new().flag("--max-tables", "2").flag("--tombstone-grace", "1s");
    let node = setup.start();
    let put = |node: &Node, day: u32| {
        node.put(&format!("/day{day}/key/a?ttl=300ms"), r#"{"value":1}"#).status == 200
    };
    for day in 0..4 {
        wait_until("a table of before is gone", DEADLINE, || put(&node, day));
    }
    node.put("/kept/key/a", r#"{"value":1}"#);
    wait_until("only what has rows is left", DEADLINE, || {
        let _ = node.put("/kept/key/a", r#"{"value":1}"#);
        node.get("/_/tables").text().matches("\"name\"").count() <= 1
    });
    let node = node.kill().start();
    wait_until("after a restart too", Duration::from_secs(30), || put(&node, 9));
}
