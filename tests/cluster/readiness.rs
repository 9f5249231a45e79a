//! Readiness is earned: a node that was started beside others is ready once it holds what they hold, or when there is nobody to tell.

use std::{fs, time::Duration};

use super::directories::copy;
use crate::harness::{
    Node,
    cluster::{CONVERGENCE, Cluster, member, setup, wait_until_ready},
    http::Request,
    wait_until,
};

const KEYS: usize = 20_000;

fn readiness(node: &Node) -> serde_json::Value {
    node.get("/readyz").json()
}

fn write(node: &Node, keys: usize) {
    let operations: Vec<_> =
        (0..keys).map(|key| format!(r#"{{"op":"put","key":"k{key}","value":{key}}}"#)).collect();
    for operations in operations.chunks(5_000) {
        let body = format!("[{}]", operations.join(","));
        node.send(&Request::new("POST", "/t/batch").body(body)).expect(200);
    }
}

/// It was ready a thirtieth of a second after its start, and had all two seconds later.
#[test]
fn a_member_that_was_down_is_ready_once_it_has_what_it_missed() {
    let mut cluster = Cluster::start(2);
    cluster.terminate(1);
    write(&cluster[0], KEYS);
    cluster.restart(1);
    wait_until("it is ready", CONVERGENCE, || {
        let is_ready = cluster[1].get("/readyz").status == 200;
        let count = cluster[1].get("/t/count").expect(200).json()["count"].clone();
        assert!(!is_ready || count == KEYS, "ready with {count} of {KEYS}");
        is_ready
    });
}

/// A node that was started on a copy of another's directory was ready and took writes, which the remedy throws away.
#[test]
fn a_node_that_every_other_refuses_is_not_ready_and_says_why() {
    let mut cluster = Cluster::start(2);
    cluster[0].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    cluster.terminate(1);
    let twin = setup().join(&cluster.address(0));
    copy(&cluster.setup(1).home().join("storage.db"), &twin.home().join("storage.db"));
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    let Ok(twin) = twin.try_start() else { return };
    wait_until("it is refused", CONVERGENCE, || {
        let readiness = readiness(&twin);
        assert_ne!(readiness["phase"], "ready", "{readiness}");
        readiness["phase"] == "refused"
            && readiness["detail"]
                .as_str()
                .is_some_and(|why| why.contains("empty directory") || why.contains("empty --data"))
    });
}

#[test]
fn a_member_that_nobody_answers_serves_after_a_while_and_says_so() {
    let mut cluster = Cluster::start(2);
    cluster[0].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    cluster.wait_until_agreed();
    cluster.kill(0);
    cluster.kill(1);
    cluster.restart(1);
    let joining = readiness(&cluster[1]);
    assert_eq!(joining["phase"], "joining", "{joining}");
    assert!(
        joining["detail"].as_str().is_some_and(|why| why.contains("no other member answers")),
        "{joining}"
    );
    wait_until_ready(&cluster[1]);
    let alone = readiness(&cluster[1]);
    assert!(alone["detail"].as_str().is_some_and(|why| why.contains("no other member answers")), "{alone}");
    cluster[1].get("/t/key/a").expect_body(r#"{"value":1}"#);
    cluster.restart(0);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    wait_until("both are whole", CONVERGENCE, || cluster.running().all(|node| node.view()["whole"] == true));
}

#[test]
fn members_that_are_all_started_together_agree_and_are_whole() {
    for terminated in [true, false] {
        let mut cluster = Cluster::start(3);
        for key in 0..30 {
            cluster[key % 3].put(&format!("/t/key/k{key}"), r#"{"value":1}"#).expect(200);
        }
        for node in 0..3 {
            if terminated {
                cluster.terminate(node);
            } else {
                cluster.kill(node);
            }
        }
        (0..2).for_each(|node| cluster.restart(node));
        wait_until("a majority agrees", CONVERGENCE, || {
            (0..2).all(|node| cluster[node].get("/readyz").status == 200)
        });
        cluster.restart(2);
        cluster.wait_until_ready_and_linked();
        cluster.wait_until_equal();
        wait_until("all are whole", CONVERGENCE, || {
            cluster.running().all(|node| node.view()["whole"] == true)
        });
    }
}

/// It dialed itself once a second for three days, and `w=all` was not to be had until somebody forgot its former self by hand.
#[test]
fn a_node_that_lost_its_directory_replaces_its_former_self() {
    let mut cluster = Cluster::start(3);
    cluster[0].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    let former = cluster[1].view()["node"].clone();
    cluster.kill(1);
    fs::remove_dir_all(cluster.setup(1).home().join("storage.db")).expect("a directory can be removed");
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    let is_replaced = |node: &Node| {
        let view = node.view();
        let members = view["members"].as_array().expect("members").clone();
        members.iter().all(|member| member["node"] != former || member["state"] == "forgotten")
    };
    wait_until("its former self is forgotten", 2 * Duration::from_secs(60), || {
        cluster.running().all(is_replaced)
    });
    cluster[1].put("/t/key/b?w=all", r#"{"value":2}"#).expect(200);
    let log = cluster[1].log();
    assert!(log.matches("WARN").count() < 8, "{log}");
    assert_eq!(member(&cluster[0], &cluster.address(1))["state"], "alive");
}
