//! A peer that is dead or hangs costs the others nothing, and gets what it missed when it is back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::wait_for_body;
use crate::harness::{
    DEADLINE,
    cluster::{CONVERGENCE, Cluster, member},
    http::Request,
    wait_until,
};

/// What no request may take, even on a machine with much else to do.
const SLOW: Duration = Duration::from_secs(1);

/// Writes and reads on a node without a pause; how many writes a second.
fn work(cluster: &Cluster, node: usize, prefix: &str, lasting: Duration) -> (u64, f64) {
    let mut connection = cluster[node].connect();
    let begun = Instant::now();
    let mut written = 0;
    while begun.elapsed() < lasting {
        let path = format!("/t/key/{prefix}{written}");
        let put = Request::new("PUT", &path).body(format!(r#"{{"value":{written}}}"#));
        for request in [put, Request::new("GET", &path), Request::new("GET", "/t/key/absent")] {
            let sent = Instant::now();
            let answer = connection.send(&request);
            assert!(matches!(answer.status, 200 | 404), "{answer}");
            assert!(sent.elapsed() < SLOW, "{prefix}{written} took {:?}", sent.elapsed());
        }
        written += 1;
    }
    (written, written as f64 / begun.elapsed().as_secs_f64())
}

/// The ancestor fell to 3 writes a second with a peer that hung, asked every node for each read, and lost some writes.
#[test]
fn a_peer_that_hangs_costs_the_others_nothing_and_catches_up() {
    let cluster = Cluster::start(3);
    let hung = cluster.address(2);
    let (first, before) = work(&cluster, 0, "before", Duration::from_secs(1));
    cluster[2].signal("STOP");
    // At once, while nobody knows it yet, and then for as long as it takes to know it.
    let (second, at_once) = work(&cluster, 0, "at-once", Duration::from_secs(2));

    let begun = Instant::now();
    let refused = cluster[0].put("/t/key/all?w=all&w_timeout=300ms", r#"{"value":"all"}"#).expect(504);
    assert!(begun.elapsed() < SLOW, "it took {:?}", begun.elapsed());
    let problem = refused.json();
    assert_eq!(
        (&problem["error"], &problem["held"], &problem["wanted"]),
        (&json!("not-enough-replicas"), &json!(2), &json!(3))
    );
    cluster[0].get("/t/key/all").expect_body(r#"{"value":"all"}"#);
    wait_for_body(&cluster[1], "/t/key/all", r#"{"value":"all"}"#);
    cluster[1].put("/t/key/majority?w=majority", r#"{"value":1}"#).expect(200);
    cluster[0].get("/t/key/majority").expect_body(r#"{"value":1}"#);

    for node in 0..2 {
        wait_until("it is noticed", CONVERGENCE, || {
            matches!(member(&cluster[node], &hung)["state"].as_str(), Some("suspect" | "down"))
        });
        wait_until("it is given up", CONVERGENCE, || member(&cluster[node], &hung)["state"] == "down");
        let members = cluster[node].get("/membership").expect(200).json();
        assert!(!members.as_array().expect("addresses").contains(&Value::from(hung.clone())), "{members}");
    }
    let (third, given_up) = work(&cluster, 1, "given-up", Duration::from_secs(1));
    eprintln!("writes a second: {before:.0}, {at_once:.0} when it hangs, {given_up:.0} when it is given up");
    assert!(at_once > before / 3.0 && given_up > before / 3.0, "{before} {at_once} {given_up}");

    cluster[2].signal("CONT");
    cluster.wait_until_ready_and_linked();
    let took = cluster.wait_until_equal();
    eprintln!("it had caught up after {took:?}");
    let count = first + second + third + 2;
    for node in cluster.running() {
        node.get("/t/count").expect_body(&format!(r#"{{"count":{count}}}"#));
    }
    cluster[0].put("/t/key/all?w=all", r#"{"value":"all"}"#).expect(200);
}

/// The ancestor fell to about 100 writes a second until it had noticed.
#[test]
fn a_peer_that_died_costs_the_others_nothing_and_gets_what_it_missed() {
    let mut cluster = Cluster::start(3);
    let (first, before) = work(&cluster, 0, "before", Duration::from_secs(1));
    cluster.kill(2);
    let (second, dead) = work(&cluster, 0, "dead", Duration::from_secs(1));
    eprintln!("writes a second: {before:.0}, {dead:.0} with a dead peer");
    assert!(dead > before / 3.0, "{before} {dead}");
    let dead = cluster.address(2);
    wait_until("it is noticed", CONVERGENCE, || member(&cluster[1], &dead)["state"] == "down");
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        node.get("/t/count").expect_body(&format!(r#"{{"count":{}}}"#, first + second));
    }
}

/// A node that is stopped in order is known to be away at once, and still counts as a replica.
#[test]
fn a_node_that_was_terminated_is_known_to_be_away_at_once_and_still_expected() {
    let mut cluster = Cluster::start(3);
    let away = cluster.address(2);
    cluster.terminate(2);
    for node in 0..2 {
        wait_until("it is seen to have left", DEADLINE, || member(&cluster[node], &away)["state"] == "left");
        let members = cluster[node].get("/membership").expect(200).json();
        assert_eq!(members.as_array().map(Vec::len), Some(2), "{members}");
    }
    cluster[0].put("/t/key/a?w=all&w_timeout=200ms", r#"{"value":1}"#).expect(504);
    cluster[0].put("/t/key/b?w=majority", r#"{"value":1}"#).expect(200);
    cluster.restart(2);
    wait_for_body(&cluster[2], "/t/key/a", r#"{"value":1}"#);
    cluster.wait_until_ready_and_linked();
    cluster[2].put("/t/key/c?w=all", r#"{"value":1}"#).expect(200);
}
