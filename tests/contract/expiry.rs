//! Values that expire.

use std::time::Duration;

use crate::harness::{DEADLINE, Node, sse::Events, table, wait_until};

#[test]
fn a_value_with_a_ttl_expires() {
    let table = table();
    table.put("key/a?ttl=300ms", r#"{"value":1}"#).expect(200);
    table.put("key/b", r#"{"value":1,"ttl":"300ms"}"#).expect(200);
    table.put("key/c", r#"{"value":1}"#).expect(200);
    let read = table.get("key/a").expect_body(r#"{"value":1}"#);
    assert!(!read.expect_header("dynarust-expires").is_empty());
    wait_until("both have expired", DEADLINE, || {
        table.get("key/a").status == 404 && table.get("key/b").status == 404
    });
    table.get("keys").expect_body(r#"["c"]"#);
    table.get("store").expect_body(r#"{"c":1}"#);
    table.get("count").expect_body(r#"{"count":1}"#);
    table.post("keys", r#"["a","b","c"]"#).expect_body(r#"{"c":1}"#);
    table.delete("key/a").expect_problem(404, "not-found");
    assert_eq!(table.put("key/a", r#"{"value":2}"#).expect(200).header("dynarust-created"), Some("true"));
}

#[test]
fn a_ttl_is_a_duration_or_seconds() {
    let table = table();
    for (ttl, body_ttl) in [
        ("30s", r#""30s""#),
        ("30", "30"),
        ("5m", r#""5m""#),
        ("1h", r#""1h""#),
        ("1500ms", "1.5"),
        ("1d", r#""1d""#),
    ] {
        table.put(&format!("key/a?ttl={ttl}"), r#"{"value":1}"#).expect(200);
        let by_query = table.get("key/a?meta=true").expect(200);
        assert!(by_query.header("dynarust-expires").is_some(), "ttl={ttl}");
        table.put("key/b", format!(r#"{{"value":1,"ttl":{body_ttl}}}"#)).expect(200);
        let by_body = table.get("key/b?meta=true").expect(200);
        assert!(by_body.header("dynarust-expires").is_some(), "ttl {body_ttl}");
    }
}

#[test]
fn an_invalid_ttl_is_refused() {
    let table = table();
    for ttl in ["", "0", "0s", "-1s", "soon", "10x", "1e400s", "999999999999999999999s"] {
        let refused = table.put(&format!("key/a?ttl={ttl}"), r#"{"value":1}"#);
        refused.expect_refused(&format!("ttl={ttl}"));
    }
    for ttl in ["0", "-1", r#""soon""#, "[]", "{}", "true", r#""""#] {
        let refused = table.put("key/a", format!(r#"{{"value":1,"ttl":{ttl}}}"#));
        refused.expect_refused(&format!("ttl {ttl}"));
    }
    table.get("keys").expect_body("[]");
}

#[test]
fn a_later_put_without_a_ttl_stays() {
    let table = table();
    table.put("key/a?ttl=200ms", r#"{"value":1}"#).expect(200);
    table.put("key/a", r#"{"value":2}"#).expect(200);
    table.put("key/probe?ttl=400ms", r#"{"value":1}"#).expect(200);
    assert_eq!(table.get("key/a").expect(200).header("dynarust-expires"), None);
    wait_until("the later expiry has passed", DEADLINE, || table.get("key/probe").status == 404);
    table.get("key/a").expect_body(r#"{"value":2}"#);
}

#[test]
fn subscribers_get_one_deleted_event_with_the_reason_expired() {
    let table = table();
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe?prefix="));
    table.put("key/a?ttl=200ms", r#"{"value":1}"#).expect(200);
    assert_eq!(events.event().json()["event"], "Updated");

    let expired = events.event().json();
    assert_eq!(expired["event"], "Deleted");
    assert_eq!(expired["key"], "a");
    assert_eq!(expired["reason"], "expired");
    table.get("key/a").expect_problem(404, "not-found");

    // Exactly one event: the next one is the next change, which ignores the expired value.
    table.get("keys").expect_body("[]");
    table.put("key/marker", r#"{"value":1}"#).expect(200);
    assert_eq!(events.event().json()["key"], "marker");
}

#[test]
fn a_replaced_expiry_makes_no_event() {
    let table = table();
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe?prefix="));
    table.put("key/a?ttl=150ms", r#"{"value":1}"#).expect(200);
    table.put("key/a", r#"{"value":2}"#).expect(200);
    table.put("key/probe?ttl=400ms", r#"{"value":1}"#).expect(200);
    let seen = events.data_until(|event| event["event"] == "Deleted");
    let seen: Vec<_> = seen.iter().map(|event| (event["event"].as_str(), event["key"].as_str())).collect();
    assert_eq!(
        seen,
        [
            (Some("Updated"), Some("a")),
            (Some("Updated"), Some("a")),
            (Some("Updated"), Some("probe")),
            (Some("Deleted"), Some("probe"))
        ]
    );
}

#[test]
fn a_value_that_expired_while_the_node_was_down_is_gone_at_its_start() {
    let node = Node::start();
    node.put("/t/key/a?ttl=150ms", r#"{"value":1}"#).expect(200);
    node.put("/t/key/b?ttl=1h", r#"{"value":2}"#).expect(200);
    let expires = node.get("/t/key/b").expect(200).expect_header("dynarust-expires").to_owned();
    wait_until("it has expired", Duration::from_secs(5), || node.get("/t/key/a").status == 404);
    let node = node.kill().start();
    node.get("/t/key/a").expect_problem(404, "not-found");
    node.get("/t/keys").expect_body(r#"["b"]"#);
    assert_eq!(node.get("/t/key/b").expect(200).expect_header("dynarust-expires"), expires);
}
