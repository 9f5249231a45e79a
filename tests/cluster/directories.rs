//! A directory is one node's: a copy of it beside the original is refused, and a backup that takes its place is not.

use std::{fs, path::Path};

use super::{wait_for_body, wait_until_logged};
use crate::harness::{
    DEADLINE,
    cluster::{Cluster, setup},
    wait_until,
};

/// What is said of two nodes with one id, in part.
const WHY: &str = "copies of one directory";

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("a file can be copied");
        }
    }
}

#[test]
fn a_copy_of_a_directory_beside_the_original_is_refused_with_the_remedy() {
    let mut cluster = Cluster::start(2);
    cluster[0].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    cluster.terminate(1);
    let twin = setup().join(&cluster.address(0));
    copy(&cluster.setup(1).home().join("storage.db"), &twin.home().join("storage.db"));
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    match twin.try_start() {
        Ok(twin) => {
            wait_until_logged(&twin, WHY);
            wait_until_logged(&cluster[0], WHY);
            // It keeps its hands off what the others hold, and does not come back all the time.
            let _ = twin.put("/t/key/twin", r#"{"value":1}"#);
            let rounds = cluster.sum("rounds");
            wait_until("rounds go on", DEADLINE, || cluster.sum("rounds") > rounds + 40);
            assert!(twin.log().matches(WHY).count() < 5, "{}", twin.log());
        }
        Err(outcome) => assert!(outcome.log.contains(WHY), "{outcome:?}"),
    }
    // The original is not disturbed.
    cluster.wait_until_ready_and_linked();
    cluster[1].put("/t/key/b?w=all", r#"{"value":1}"#).expect(200);
    cluster[0].get("/t/key/twin").expect_problem(404, "not-found");
    assert_eq!(cluster[0].view()["members"].as_array().map(Vec::len), Some(2), "{}", cluster[0].view());
}

/// Somebody restores yesterday's backup of a node. What was deleted since does not come back, and what it missed arrives.
#[test]
fn a_backup_put_back_in_place_brings_nothing_deleted_back() {
    let mut cluster = Cluster::start(2);
    for row in 0..50 {
        cluster[0].put(&format!("/t/key/k{row}?w=all"), r#"{"value":"old"}"#).expect(200);
    }
    cluster.terminate(1);
    let home = cluster.setup(1).home();
    copy(&home.join("storage.db"), &home.join("backup"));
    cluster.restart(1);
    for row in 0..20 {
        cluster[0].delete(&format!("/t/key/k{row}?w=all")).expect(200);
        cluster[1].put(&format!("/t/key/k{}?w=all", row + 20), r#"{"value":"new"}"#).expect(200);
    }
    cluster.kill(1);
    fs::remove_dir_all(home.join("storage.db")).expect("a directory can be removed");
    fs::rename(home.join("backup"), home.join("storage.db")).expect("a directory can be renamed");
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        node.get("/t/count").expect_body(r#"{"count":30}"#);
        wait_for_body(node, "/t/key/k39", r#"{"value":"new"}"#);
    }
}

/// Somebody deletes the directory of a node, and starts it again at the same address: it is a new node that gets everything.
#[test]
fn a_node_that_lost_its_directory_gets_everything_again() {
    let mut cluster = Cluster::start(3);
    for row in 0..50 {
        cluster[row % 3].put(&format!("/t/key/k{row}?w=all"), r#"{"value":1}"#).expect(200);
    }
    cluster.kill(1);
    fs::remove_dir_all(cluster.setup(1).home().join("storage.db")).expect("a directory can be removed");
    cluster.restart(1);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    cluster[1].get("/t/count").expect_body(r#"{"count":50}"#);
}
