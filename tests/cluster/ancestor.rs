//! What the system that people ran before this one got wrong, on more than one node. Each test is named for the fact it proves;
//! what needs cuts, stopped peers or odd keys is beside the rest of those.

use super::{
    model::{Model, next_instant},
    wait_for_absence, wait_for_body,
};
use crate::harness::{
    Node,
    cluster::{Cluster, bare_setup},
    sse::Events,
    wait_until,
};

/// The ancestor's node said that it could not join, and ran on alone.
#[test]
fn the_documented_lines_make_a_cluster() {
    let first = bare_setup().start();
    let second = bare_setup().join(&first.address().to_string()).environment("RUST_LOG", "debug").start();
    first.put("/default/key/mykey", r#"{"value":"mydata"}"#).expect(200);
    wait_for_body(&second, "/default/key/mykey", r#"{"value":"mydata"}"#);
    let mut addresses = [first.address().to_string(), second.address().to_string()];
    addresses.sort();
    for node in [&first, &second] {
        wait_until("both are members", super::DEADLINE, || {
            node.get("/membership").expect(200).json() == serde_json::json!(addresses)
        });
    }
}

/// The ancestor printed the whole database to the terminal of whoever joined.
#[test]
fn a_join_prints_no_data() {
    let first = bare_setup().environment("RUST_LOG", "debug").start();
    for row in 0..50 {
        first.put(&format!("/t/key/private-key-{row}"), r#"{"value":"private-value"}"#).expect(200);
    }
    let second = bare_setup().join(&first.address().to_string()).environment("RUST_LOG", "debug").start();
    wait_for_body(&second, "/t/count", r#"{"count":50}"#);
    let said = |node: Node| {
        let (_, outcome) = node.terminate();
        outcome.stdout + &outcome.log
    };
    let (joined, writer) = (said(second), said(first));
    assert!(!joined.contains("private-value") && !joined.contains("private-key-7"), "{joined}");
    // Its log has the paths that were asked for, at that level.
    assert!(!writer.contains("private-value"), "{writer}");
}

/// The ancestor's node, restarted as documented, never got what it had missed.
#[test]
fn a_node_that_was_away_gets_what_it_missed() {
    let mut cluster = Cluster::start(2);
    let mut model = Model::new("t");
    for row in 0..30 {
        model.put(&cluster[row % 2], &format!("k{row}"), row);
    }
    cluster.wait_until_equal();
    cluster.terminate(1);
    for row in 0..10 {
        model.delete(&cluster[0], &format!("k{row}"));
        model.put(&cluster[0], &format!("k{}", row + 10), "changed");
        model.put(&cluster[0], &format!("new-{row}"), row);
    }
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    model.expect_on(&cluster);
}

/// Both of the ancestor's nodes answered the old value for ever.
#[test]
fn a_key_deleted_and_made_anew_while_a_node_is_away_has_its_new_value_there() {
    let mut cluster = Cluster::start(2);
    cluster[0].put("/t/key/a?w=all", r#"{"value":"old"}"#).expect(200);
    cluster[0].put("/t/key/b?w=all", r#"{"value":"old"}"#).expect(200);
    cluster.kill(1);
    cluster[0].delete("/t/key/a").expect(200);
    cluster[0].delete("/t/key/b").expect(200);
    next_instant();
    cluster[0].put("/t/key/a", r#"{"value":"new"}"#).expect(200);
    cluster.restart(1);
    wait_for_body(&cluster[1], "/t/key/a", r#"{"value":"new"}"#);
    wait_for_absence(&cluster[1], "/t/key/b");
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    cluster[0].get("/t/key/a").expect_body(r#"{"value":"new"}"#);
    cluster[0].get("/t/key/b").expect_problem(404, "not-found");
}

/// Every write arrived twice on the ancestor's writing node.
#[test]
fn the_writing_node_sees_its_own_writes_once() {
    let cluster = Cluster::start(2);
    let (mut events, _) = Events::open(cluster[0].address(), "/t/subscribe/a");
    for number in 0..50 {
        cluster[0].put("/t/key/a?w=all", format!(r#"{{"value":{number}}}"#)).expect(200);
    }
    let seen = events.data_until(|event| event["value"] == 49);
    let values: Vec<_> = seen.iter().map(|event| event["value"].as_u64().expect("a number")).collect();
    assert_eq!(values, (0..50).collect::<Vec<_>>());
}
