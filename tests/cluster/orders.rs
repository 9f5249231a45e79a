//! What a cluster can be told to do, by the commands that people type.

use std::thread;

use serde_json::{Value, json};

use super::wait_for_body;
use crate::harness::{
    DEADLINE, Outcome, Setup,
    cluster::{CONVERGENCE, Cluster, SECRET, member},
    wait_until,
};

const NOT_FOUND: Option<i32> = Some(3);
const NOT_ALLOWED: Option<i32> = Some(6);

fn run(secret: &str, arguments: &[&str]) -> Outcome {
    Setup::new().environment("CLUSTER_SECRET", secret).run(arguments).1
}

#[track_caller]
fn obeyed(arguments: &[&str]) -> Outcome {
    let outcome = run(SECRET, arguments);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    outcome
}

#[test]
fn members_and_status_show_the_whole_cluster() {
    let cluster = Cluster::start(3);
    let members = obeyed(&["members", &cluster.address(0)]);
    for other in 0..3 {
        let state = if other == 0 { "self" } else { "alive" };
        let line = members.stdout.lines().find(|line| line.contains(&cluster.address(other)));
        assert!(line.is_some_and(|line| line.contains(state)), "{members:?}");
    }
    let status = obeyed(&["status", &cluster.address(1)]);
    let line = status.stdout.lines().find(|line| line.starts_with("members"));
    assert!(line.is_some_and(|line| line.contains(" 3 ")), "{status:?}");
}

#[test]
fn sync_compares_with_every_peer_and_only_for_who_has_the_secret() {
    let cluster = Cluster::start(3);
    cluster.wait_until_equal();
    let synced = obeyed(&["sync", &cluster.address(0), "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&synced.stdout).expect("JSON"), json!({ "peers": 2 }));
    for secret in ["", "another secret altogether"] {
        for order in [&["sync"][..], &["leave"], &["forget", &cluster.address(1), "--at"]] {
            let refused = run(secret, &[order, &[&cluster.address(0)]].concat());
            assert_eq!(refused.code(), NOT_ALLOWED, "{order:?}: {refused:?}");
        }
    }
    cluster.wait_until_ready_and_linked();
}

#[test]
fn a_node_that_leaves_hands_over_what_only_it_has_and_is_waited_for_no_longer() {
    let mut cluster = Cluster::start(3);
    // Two are away while it writes, and one of them is back when it leaves.
    cluster.terminate(0);
    cluster.terminate(1);
    cluster[2].put("/t/key/last", r#"{"value":1}"#).expect(200);
    cluster.restart(0);
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    let leaving = cluster.address(2);
    obeyed(&["leave", &leaving]);
    for node in 0..2 {
        wait_for_body(&cluster[node], "/t/key/last", r#"{"value":1}"#);
        wait_until("it has left", DEADLINE, || member(&cluster[node], &leaving)["state"] == "forgotten");
        let members = cluster[node].get("/membership").expect(200).json();
        assert_eq!(members.as_array().map(Vec::len), Some(2), "{members}");
        cluster[node].put(&format!("/t/key/{node}?w=all"), r#"{"value":1}"#).expect(200);
    }
    // It ended by itself, and well; started again it is a member again.
    let outcome = cluster.wait(2);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    wait_for_body(&cluster[2], "/t/key/1", r#"{"value":1}"#);
}

/// Each counted on the other to keep what there is, and both said that their directories could go.
#[test]
fn of_two_members_that_are_told_to_leave_at_once_one_stays_at_least() {
    let mut cluster = Cluster::start(2);
    cluster[0].put("/t/key/first?w=all", r#"{"value":1}"#).expect(200);
    let addresses = [0, 1].map(|node| cluster.address(node));
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let leaving =
            addresses.each_ref().map(|address| scope.spawn(move || run(SECRET, &["leave", address])));
        leaving.into_iter().map(|leaving| leaving.join().expect("it ends")).collect()
    });
    let left: Vec<bool> = outcomes.iter().map(|outcome| outcome.code() == Some(0)).collect();
    let stays = left.iter().position(|left| !left).unwrap_or_else(|| panic!("both left: {outcomes:?}"));
    assert!(outcomes[stays].log.contains("is leaving too"), "{outcomes:?}");
    for node in (0..2).filter(|node| left[*node]) {
        cluster.wait(node);
    }
    wait_for_body(&cluster[stays], "/t/key/first", r#"{"value":1}"#);
    cluster[stays].put("/t/key/second", r#"{"value":2}"#).expect(200);
}

#[test]
fn a_member_that_is_down_can_be_forgotten_by_its_address_or_its_id() {
    let mut cluster = Cluster::start(3);
    let (second, third) = (cluster.address(1), cluster[2].view()["node"].as_str().expect("an id").to_owned());
    cluster.kill(1);
    cluster.kill(2);
    cluster[0].put("/t/key/a?w=all&w_timeout=200ms", r#"{"value":1}"#).expect(504);
    for down in [&second, &cluster.address(2)] {
        wait_until("it is given up", CONVERGENCE, || member(&cluster[0], down)["state"] == "down");
    }
    let refused = run(SECRET, &["forget", &second, "--at", &cluster.address(0)]);
    assert!(refused.code() != Some(0) && refused.log.contains("1 of 3 members"), "{refused:?}");
    obeyed(&["forget", &second, "--force", "--at", &cluster.address(0)]);
    obeyed(&["forget", &third, "--force", "--at", &cluster.address(0)]);
    let unknown = run(SECRET, &["forget", "127.0.0.1:1", "--at", &cluster.address(0)]);
    assert_eq!(unknown.code(), NOT_FOUND, "{unknown:?}");
    for address in [second, cluster.address(2)] {
        wait_until("it is forgotten", DEADLINE, || {
            matches!(member(&cluster[0], &address)["state"].as_str(), Some("forgotten") | None)
        });
    }
    cluster[0].put("/t/key/a?w=all", r#"{"value":2}"#).expect(200);
    cluster.restart(1);
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    wait_for_body(&cluster[1], "/t/key/a", r#"{"value":2}"#);
}
