//! Faults that clusters had, each as somebody ran into it. The doc of each test tells the story.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{directories::copy, wait_for_body};
use crate::harness::{
    DEADLINE, Outcome, Setup,
    cluster::{Cluster, SECRET, member, setup, wait_until_ready},
    http::Request,
    wait_until,
};

/// A backup of a node was put back, older than what the others had swept since. The node took over how far they had, took what it
/// lacked below that for deleted, and had it removed on all nodes. One that was behind knows nothing of what was deleted.
#[test]
fn a_backup_from_before_a_sweep_takes_nothing_from_the_others() {
    let mut cluster = Cluster::start_with(3, |setup| setup.flag("--tombstone-grace", "1s"));
    cluster[0].put("/t/key/old?w=all", r#"{"value":1}"#).expect(200);
    cluster[0].put("/t/key/deleted?w=all", r#"{"value":1}"#).expect(200);
    cluster.wait_until_agreed();
    cluster.terminate(2);
    let home = cluster.setup(2).home();
    copy(&home.join("storage.db"), &home.join("backup"));
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    for row in 0..15 {
        cluster[row % 3].put(&format!("/t/key/k{row}?w=all"), r#"{"value":1}"#).expect(200);
    }
    cluster[0].delete("/t/key/deleted?w=all").expect(200);
    for node in cluster.running() {
        wait_until("the mark is swept", 2 * DEADLINE, || {
            node.view()["swept"]["tombstones_age_ms"].as_u64().is_some()
        });
    }
    cluster.terminate(2);
    fs::remove_dir_all(home.join("storage.db")).expect("a directory can be removed");
    fs::rename(home.join("backup"), home.join("storage.db")).expect("a directory can be renamed");
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        node.get("/t/count").expect_body(r#"{"count":16}"#);
        node.get("/t/key/deleted").expect_problem(404, "not-found");
    }
}

/// Clients were served until after the node had left, and writes acknowledged after the handover were lost.
#[test]
fn a_node_that_leaves_under_load_loses_no_write_it_acknowledged() {
    let cluster = Cluster::start(2);
    let write = |writer: usize| {
        let mut connection = cluster[1].connect();
        let mut acknowledged = Vec::new();
        for row in 0.. {
            let key = format!("w{writer}-{row}");
            let request = Request::new("PUT", &format!("/t/key/{key}")).body(r#"{"value":1}"#);
            match connection.try_send(&request) {
                Ok(response) if response.status == 200 => acknowledged.push(key),
                Ok(_) | Err(_) => break,
            }
        }
        acknowledged
    };
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let write = &write;
        let writing: Vec<_> = (0..4).map(|writer| scope.spawn(move || write(writer))).collect();
        wait_until("they write", DEADLINE, || cluster[0].get("/t/key/w0-50").status == 200);
        let (_, left): (_, Outcome) =
            Setup::new().environment("CLUSTER_SECRET", SECRET).run(&["leave", &cluster.address(1)]);
        assert_eq!(left.code(), Some(0), "{left:?}");
        writing.into_iter().flat_map(|writer| writer.join().expect("a writer ends")).collect()
    });
    assert!(acknowledged.len() > 50, "{} writes", acknowledged.len());
    for key in &acknowledged {
        cluster[0].get(&format!("/t/key/{key}")).expect_body(r#"{"value":1}"#);
    }
}

/// A key that was written more than once a second showed another value to a node that had come in the midst of it, at every instant
/// that was compared: the node never became ready.
#[test]
fn a_key_that_is_written_without_end_keeps_nobody_from_joining() {
    let mut cluster = Cluster::start(1);
    let stop = AtomicBool::new(false);
    let mut connection = cluster[0].connect();
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            for count in 0.. {
                let request = Request::new("PUT", "/t/key/counter").body(format!(r#"{{"value":{count}}}"#));
                connection.send(&request).expect(200);
                thread::park_timeout(Duration::from_millis(300));
                if stop.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        wait_until("it is written", DEADLINE, || cluster[0].get("/t/key/counter").status == 200);
        let joining = setup().join(&cluster.address(0));
        let added = cluster.add(joining);
        wait_until_ready(&cluster[added]);
        stop.store(true, Ordering::Release);
    });
    let last = cluster[0].get("/t/key/counter").text().to_owned();
    wait_for_body(&cluster[1], "/t/key/counter", &last);
}

/// A node that ended within a second of somebody's joining knew nothing of it after a crash: it swept without waiting for the member, and
/// refused, as deleted long ago, what the member had taken meanwhile.
#[test]
fn a_member_to_which_anything_was_acknowledged_is_known_after_a_crash() {
    let mut cluster = Cluster::start(1);
    cluster.add(setup());
    wait_until("something is acknowledged to it", DEADLINE, || {
        cluster[1].put("/t/key/a?w=2&w_timeout=100ms", r#"{"value":1}"#).status == 200
    });
    cluster.kill(0);
    cluster.kill(1);
    cluster.restart(0);
    assert_eq!(member(&cluster[0], &cluster.address(1))["linked"], false, "{:#}", cluster[0].view());
}
