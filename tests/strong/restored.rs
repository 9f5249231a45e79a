//! Members that were restored from a backup, while their cluster went on.

use std::fs;

use serde_json::Value;

use super::{
    RECOVERY, make,
    roles::{TABLE, cluster_of, group, strong, those, wait_for_voters},
    wait_for, wait_until_same, wait_until_strong, wait_until_writable,
};
use crate::harness::{
    cluster::{Cluster, SECRET, setup},
    wait_until,
};

/// The member that is restored.
const LOST: usize = 2;

#[track_caller]
fn done(arguments: &[&str]) {
    let outcome = setup().environment("CLUSTER_SECRET", SECRET).run(arguments).1;
    assert_eq!(outcome.code(), Some(0), "{arguments:?}: {outcome:?}");
}

/// Loses a member's disk, and restores it from a backup.
fn lose_and_restore(cluster: &mut Cluster, backup: &str) {
    cluster.kill(LOST);
    let data = cluster.setup(LOST).home().join("storage.db");
    fs::remove_dir_all(&data).expect("the disk is lost");
    done(&["restore", backup, "--data", data.to_str().expect("text")]);
}

fn wait_until_all_vote(cluster: &Cluster) {
    let all: Vec<_> = (0..3).map(|member| cluster.address(member)).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    cluster.running().for_each(|node| wait_for_voters(node, &all));
}

/// A restored member has forgotten what it promised as a voter, so it counts for no majority until the others have taken it in anew. Then it has
/// what was written since its backup, nothing that was deleted since, its own eventual rows, and votes again. It used to serve no strong tables.
#[test]
fn a_restored_member_counts_for_no_majority_until_it_is_taken_in_anew() {
    let mut cluster = cluster_of(3, 3);
    let shelf = tempfile::tempdir().expect("a directory");
    let backup = shelf.path().join("backup");
    let backup = backup.to_str().expect("text");
    for number in 0..20 {
        cluster[0].put(&format!("/stock/key/k{number}"), r#"{"value":1}"#).expect(200);
    }
    cluster[0].put("/users/key/alice?w=all", r#"{"value":"Alice"}"#).expect(200);
    wait_until_same(&cluster, TABLE);
    done(&["backup", backup, "--at", &cluster.address(LOST)]);
    cluster[0].delete("/stock/key/k0").expect(200);
    cluster[0].put("/stock/key/k1", r#"{"value":2}"#).expect(200);
    let address = cluster.address(0);
    wait_until("the first leads", RECOVERY, || {
        strong(&cluster[0], &["transfer", &address]).code() == Some(0)
    });
    lose_and_restore(&mut cluster, backup);

    // With its vote the first would have a majority, and it must not have.
    cluster.kill(1);
    cluster.restart(LOST);
    wait_until("it has a link", RECOVERY, || {
        group(&cluster[0])["voters"].as_array().is_some_and(|voters| voters.len() == 3)
            && cluster[LOST].get("/users/key/alice").status == 200
            && cluster[LOST].get("/membership").text().contains(&address)
    });
    let answer = cluster[0].put("/stock/key/k2", r#"{"value":3}"#);
    assert!(matches!(answer.status, 503 | 504), "no majority confirms it: {answer}");
    let failure = cluster[LOST].view()["strong_failure"].as_str().expect("it says why").to_owned();
    assert!(failure.contains("restored from a backup"), "{failure}");
    cluster[LOST].get("/stock/key/k1").expect_problem(503, "not-ready");

    cluster.restart(1);
    wait_until_all_vote(&cluster);
    wait_for(&cluster[LOST], "/stock/key/k1", r#"{"value":2}"#);
    cluster[LOST].get("/stock/key/k0").expect(404);
    assert_eq!(cluster[LOST].view()["strong_failure"], Value::Null);
    wait_until_writable(&cluster[LOST], TABLE);
    wait_until_same(&cluster, TABLE);

    // It is one of two.
    cluster.kill(0);
    wait_until_writable(&cluster[LOST], TABLE);
    cluster[LOST].get("/users/key/alice").expect_body(r#"{"value":"Alice"}"#);
}

/// The backup may be older than the group: then the node does not know that it was a voter, and would have begun an empty log as if it never was.
#[test]
fn a_member_whose_backup_is_older_than_the_group_is_taken_in_anew_too() {
    let mut cluster = Cluster::start(3);
    let shelf = tempfile::tempdir().expect("a directory");
    let backup = shelf.path().join("backup");
    let backup = backup.to_str().expect("text");
    done(&["backup", backup, "--at", &cluster.address(LOST)]);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    wait_until_all_vote(&cluster);
    cluster[0].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    lose_and_restore(&mut cluster, backup);
    cluster.restart(LOST);
    wait_for(&cluster[LOST], "/stock/key/a", r#"{"value":1}"#);
    assert!(cluster[LOST].log().contains("has taken it in anew"), "{}", cluster[LOST].log());
    wait_until_all_vote(&cluster);
    assert_eq!(those(&group(&cluster[LOST]), "foreign"), Vec::<String>::new());
}
