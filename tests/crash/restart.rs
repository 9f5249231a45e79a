//! What a restart keeps, however the node ended: values and versions, deletes, expiries.

use std::time::Duration;

use super::ledger::{Ledger, Sizes};
use crate::harness::{DEADLINE, Node, Setup, wait_until};

const SIZES: Sizes = &[(20..200, 60), (200..8_000, 20), (8_000..60_000, 20)];

#[test]
fn terminated_under_load_it_keeps_every_acknowledged_write() {
    for durability in ["always", "interval:100ms", "none"] {
        let mut ledger = Ledger::new(4, SIZES, 12);
        let mut node = Setup::new().flag("--durability", durability).start();
        for _ in 0..3 {
            ledger.load(node.address(), 100, || node.signal("TERM"));
            let (setup, outcome) = node.wait();
            assert_eq!(outcome.code(), Some(0), "{outcome:?}");
            node = setup.start();
            ledger.verify(&node);
        }
    }
}

#[test]
fn versions_after_a_crash_are_above_all_before_it() {
    let mut node = Node::start();
    let mut last = String::new();
    for round in 0..5 {
        for write in 0..20 {
            let path = format!("/t/key/{round}-{write}");
            let version = node.put(&path, r#"{"value":1}"#).expect(200).json()["version"].to_string();
            assert!(version > last, "{version} after {last}, in round {round}");
            last = version;
        }
        node = node.kill().start();
    }
}

#[test]
fn the_node_and_its_versions_stay_what_they_were() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let seen = |node: &Node| {
        let answer = node.get("/t/key/a").expect(200);
        ["etag", "last-modified", "dynarust-version", "dynarust-node"]
            .map(|name| answer.expect_header(name).to_owned())
    };
    let before = seen(&node);
    let node = node.kill().start();
    assert_eq!(seen(&node), before);
    let node = node.terminate().0.start();
    assert_eq!(seen(&node), before);
}

#[test]
fn what_was_deleted_stays_deleted() {
    let node = Node::start();
    let long = format!(r#"{{"value":"{}"}}"#, "v".repeat(100_000));
    node.put("/t/key/short", r#"{"value":1}"#).expect(200);
    node.put("/t/key/long", long).expect(200);
    node.put("/t/key/kept", r#"{"value":2}"#).expect(200);
    node.delete("/t/key/short").expect(200);
    node.delete("/t/key/long").expect(200);
    let node = node.kill().start();
    node.get("/t/keys").expect_body(r#"["kept"]"#);
    let node = node.terminate().0.start();
    node.get("/t/key/short").expect_problem(404, "not-found");
    node.get("/t/key/long").expect_problem(404, "not-found");
    assert_eq!(node.get("/stats").json()["tables"][0]["tombstones"], 2);
}

#[test]
fn a_value_expires_at_its_instant_over_restarts() {
    let node = Node::start();
    node.put("/t/key/soon?ttl=1s", r#"{"value":1}"#).expect(200);
    node.put("/t/key/later?ttl=1h", r#"{"value":2}"#).expect(200);
    let instant = node.get("/t/key/later").expect(200).expect_header("dynarust-expires").to_owned();
    let node = node.kill().start();
    wait_until("the value expires", DEADLINE, || node.get("/t/key/soon").status == 404);
    let later = node.get("/t/key/later").expect_body(r#"{"value":2}"#);
    assert_eq!(later.expect_header("dynarust-expires"), instant);
    // Swept as well, not only hidden.
    wait_until("its row is removed", DEADLINE, || node.get("/stats").json()["keys"] == 1);
    let node = node.kill().start();
    node.get("/t/keys").expect_body(r#"["later"]"#);
}

#[test]
fn a_value_that_expired_while_the_node_was_down_is_gone() {
    let node = Node::start();
    node.put("/t/key/a?ttl=300ms", r#"{"value":1}"#).expect(200);
    let written = std::time::Instant::now();
    let setup = node.kill();
    wait_until("its time has come", DEADLINE, || written.elapsed() > Duration::from_millis(300));
    let node = setup.start();
    node.get("/t/key/a").expect_problem(404, "not-found");
    node.get("/t/keys").expect_body("[]");
}
