//! Strong tables that an etcd keeps: what happens to it, and what it does not take. Each test starts an etcd of its own. They need
//! `--features etcd` and Debian's `etcd-server`; elsewhere they say that they are skipped.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{make, wait_for, wait_until_same, wait_until_strong, wait_until_whole, wait_until_writable};
use crate::harness::{
    DEADLINE, Node, Setup,
    cluster::{Cluster, SECRET, setup},
    etcd::Etcd,
    http::Request,
    wait_until,
};

const TABLE: &str = "stock";

/// An etcd. Says so where there is none.
fn etcd() -> Option<Arc<Etcd>> {
    let etcd = if cfg!(feature = "etcd") { Etcd::start() } else { None };
    if etcd.is_none() {
        eprintln!("skipped: it needs --features etcd, and etcd-server installed");
    }
    etcd.map(Arc::new)
}

/// A cluster with a strong table in an etcd of its own.
fn cluster_of(members: usize) -> Option<(Arc<Etcd>, Cluster)> {
    let etcd = etcd()?;
    let cluster = Cluster::start_with(members, |setup| setup.etcd(&etcd));
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    Some((etcd, cluster))
}

fn put(key: &str, value: u64) -> Request {
    Request::new("PUT", &format!("/{TABLE}/key/{key}")).body(json!({ "value": value }).to_string())
}

fn figure(node: &Node, name: &str) -> u64 {
    node.view()["strong_etcd"][name].as_u64().expect("a number")
}

/// As a minority does: nothing is written, nothing fresh is read, and everything else goes on.
#[test]
fn without_etcd_strong_tables_are_refused_and_go_on_when_it_is_back() {
    let Some((etcd, mut cluster)) = cluster_of(2) else { return };
    cluster[0].send(&put("a", 1)).expect(200);
    wait_for(&cluster[1], "/stock/key/a", r#"{"value":1}"#);
    etcd.kill();
    std::thread::scope(|scope| {
        let write = scope.spawn(|| cluster[0].send(&put("a", 2)));
        let why = cluster[1].get("/stock/key/a").expect_problem(503, "no-quorum");
        assert!(why.contains("etcd") && why.contains("read=stale"), "{why}");
        // It may have been sent before the end was noticed.
        let write = write.join().expect("an answer");
        assert!(matches!(write.status, 503 | 504), "{write}");
    });
    cluster[1].get("/stock/key/a?read=stale").expect_body(r#"{"value":1}"#);
    cluster[0].put("/free/key/a", r#"{"value":1}"#).expect(200);
    let failed = || cluster[0].view()["strong_failure"].as_str().is_some_and(|why| why.contains("etcd"));
    wait_until("the node says that etcd does not answer", DEADLINE, failed);
    // A node that starts meanwhile serves what it has.
    cluster.kill(1);
    cluster.restart(1);
    cluster[1].get("/stock/key/a?read=stale").expect_body(r#"{"value":1}"#);
    assert!(cluster[1].put("/stock/key/a?w=1", r#"{"value":1}"#).status == 400, "it is known to be strong");
    etcd.restart();
    wait_until_whole(&cluster, TABLE);
    assert_eq!(cluster[0].view()["strong_failure"], Value::Null);
    for (value, node) in (3..).zip(cluster.running()) {
        node.send(&put("a", value)).expect(200);
    }
    wait_until_same(&cluster, TABLE);
    cluster[0].get("/stock/key/a").expect_body(r#"{"value":4}"#);
}

/// etcd takes a write and hangs: the node finds out what became of it, and the client learns it; or, if that takes too long, that nobody
/// knows. Either way all nodes agree.
#[test]
fn a_write_that_etcd_does_not_answer_is_found_out_or_unknown() {
    let Some((etcd, cluster)) = cluster_of(2) else { return };
    let mut connection = cluster[0].connect();
    for (value, answered) in [(1, true), (2, false)] {
        // Where etcd has just answered, the node does not ask first whether it does.
        wait_until_writable(&cluster[0], TABLE);
        etcd.signal("STOP");
        connection.write(&put("a", value).to_bytes()).expect("a request can be sent");
        let finding = || cluster[0].log().matches("finding out").count() == value as usize;
        wait_until("the node finds out", DEADLINE, finding);
        if !answered {
            let unknown = connection.receive("PUT").expect("an answer");
            unknown.expect_problem(504, "outcome-unknown");
        }
        etcd.signal("CONT");
        if answered {
            connection.receive("PUT").expect("an answer").expect(200);
            cluster[1].get("/stock/key/a").expect_body(r#"{"value":1}"#);
        }
    }
    wait_until_whole(&cluster, TABLE);
    let rows = wait_until_same(&cluster, TABLE);
    assert!(rows["a"] == 1 || rows["a"] == 2, "{rows}");
}

/// The watch cannot go on where it was, so the node reads all rows. What was deleted meanwhile goes.
#[test]
fn a_node_that_missed_what_etcd_has_compacted_reads_all_rows() {
    let Some((etcd, mut cluster)) = cluster_of(2) else { return };
    let rows: Vec<_> =
        (0..100).map(|row| json!({ "op": "put", "key": format!("k{row:03}"), "value": row })).collect();
    cluster[0].post("/stock/batch", json!(rows).to_string()).expect(200);
    wait_for(&cluster[1], "/stock/count", r#"{"count":100}"#);
    assert_eq!(cluster.terminate(1).code(), Some(0));
    cluster[0].delete("/stock/key/k000").expect(200);
    cluster[0].delete("/stock/key/k099").expect(200);
    cluster[0].send(&put("new", 1)).expect(200);
    make(&cluster[0], "other");
    etcd.compact();
    cluster.restart(1);
    wait_until_whole(&cluster, TABLE);
    let rows = wait_until_same(&cluster, TABLE);
    assert_eq!((rows.as_object().map(serde_json::Map::len), &rows["k000"]), (Some(100), &Value::Null));
    assert!(figure(&cluster[1], "resyncs") > 0);
    wait_until_strong(&cluster[1], "other");
    // What it deletes and makes anew comes after all that.
    cluster[1].send(&put("k000", 7)).expect(200);
    cluster[0].get("/stock/key/k000").expect_body(r#"{"value":7}"#);
    // A node without anything, and one whose directory was lost, read them too.
    let joined = cluster.add(setup().etcd(&etcd));
    wait_until_strong(&cluster[joined], TABLE);
    wait_for(&cluster[joined], "/stock/count?prefix=k", r#"{"count":99}"#);
    assert_documented(cluster[joined].get("/metrics").expect(200).text());
}

/// docs/etcd.md names all metrics of an etcd, and no others.
fn assert_documented(metrics: &str) {
    let page = include_str!("../../docs/etcd.md");
    let name = |word: &str| word.starts_with("dynarust_strong_etcd_").then(|| word.to_owned());
    let of_node: BTreeSet<_> = metrics.lines().filter_map(|line| name(line.split(' ').next()?)).collect();
    let words = page.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    assert_eq!(words.filter_map(name).collect::<BTreeSet<_>>(), of_node);
    assert!(metrics.contains("dynarust_strong_etcd_resyncs_total 1"), "{metrics}");
}

/// An etcd that was restored from an old backup must not take rows from the nodes, nor mix with theirs.
#[test]
fn an_etcd_that_lost_commits_is_refused_and_nothing_is_changed() {
    let Some((etcd, cluster)) = cluster_of(1) else { return };
    cluster[0].send(&put("a", 1)).expect(200);
    etcd.kill();
    etcd.wipe();
    etcd.restart();
    let failed =
        || cluster[0].view()["strong_failure"].as_str().is_some_and(|why| why.contains("older state"));
    wait_until("the node says that etcd has lost commits", DEADLINE, failed);
    cluster[0].send(&put("a", 2)).expect_problem(503, "not-ready");
    cluster[0].get("/stock/key/a").expect_problem(503, "not-ready");
    cluster[0].get("/stock/key/a?read=stale").expect_body(r#"{"value":1}"#);
}

/// It was noticed only while etcd had fewer revisions than the node. Once others had written more, the node read all rows, and deleted those
/// that etcd had lost, without a word.
#[test]
fn an_etcd_that_lost_commits_and_went_on_is_refused_too() {
    let Some((etcd, mut cluster)) = cluster_of(2) else { return };
    cluster[0].send(&put("a", 1)).expect(200);
    wait_for(&cluster[1], "/stock/key/a", r#"{"value":1}"#);
    cluster.kill(1);
    etcd.kill();
    etcd.copy("data", "backup");
    etcd.restart();
    wait_until_writable(&cluster[0], TABLE);
    cluster[0].send(&put("lost", 1)).expect(200);
    assert_eq!(cluster.terminate(0).code(), Some(0));
    etcd.kill();
    etcd.wipe();
    etcd.copy("backup", "data");
    etcd.restart();
    cluster.restart(1);
    wait_until_writable(&cluster[1], TABLE);
    (0..5).for_each(|value| drop(cluster[1].send(&put("after", value)).expect(200)));
    cluster.restart(0);
    let failed =
        || cluster[0].view()["strong_failure"].as_str().is_some_and(|why| why.contains("older state"));
    wait_until("the node says that etcd has lost commits", DEADLINE, failed);
    cluster[0].get("/stock/key/lost?read=stale").expect_body(r#"{"value":1}"#);
    cluster[1].get("/stock/key/after").expect_body(r#"{"value":4}"#);
}

#[test]
fn what_etcd_does_not_take_is_refused_with_the_limit_and_the_rest_goes_on() {
    let Some(etcd) = etcd() else { return };
    let node = Setup::new().etcd(&etcd).flag("--max-value", "4MiB").start();
    make(&node, TABLE);
    let rows = |count: usize| -> Vec<_> {
        (0..count).map(|row| json!({ "op": "put", "key": format!("k{row:03}"), "value": row })).collect()
    };
    let why = node.post("/stock/batch", json!(rows(128)).to_string()).expect_problem(400, "bad-request");
    assert!(why.contains("128 writes") && why.contains("127") && why.contains("--max-txn-ops"), "{why}");
    for bytes in [1_600_000, 3_000_000] {
        let long = json!({ "value": "x".repeat(bytes) }).to_string();
        let why = node.put("/stock/key/long", long).expect_problem(413, "too-large");
        assert!(why.contains("etcd") && why.contains("1572864"), "{why}");
    }
    node.get("/stock/count").expect_body(r#"{"count":0}"#);
    // Together they are more than one commit, and long ones more than one page.
    let value = "x".repeat(200_000);
    let lines: Vec<_> = (0..300)
        .map(|row| json!({ "table": TABLE, "key": format!("k{row:03}"), "value": if row < 30 { &*value } else { "" } }))
        .map(|row| row.to_string())
        .collect();
    node.post("/_/import", lines.join("\n")).expect(200);
    node.get("/stock/count").expect_body(r#"{"count":300}"#);
    node.delete("/stock?prefix=k0").expect(200);
    node.get("/stock/count").expect_body(r#"{"count":200}"#);
}

/// Neither sees the other's tables.
#[test]
fn two_clusters_share_an_etcd() {
    let Some((etcd, cluster)) = cluster_of(1) else { return };
    let other = Setup::new().etcd(&etcd).environment("CLUSTER_SECRET", SECRET).start();
    cluster[0].send(&put("a", 1)).expect(200);
    other.put("/stock/key/a", r#"{"value":"eventual"}"#).expect(200);
    other.put("/_/tables/locks", r#"{"mode":"strong"}"#).expect(201);
    other.put("/locks/key/a", r#"{"value":2}"#).expect(200);
    cluster[0].get("/stock/key/a").expect_body(r#"{"value":1}"#);
    cluster[0].put("/locks/key/a", r#"{"value":"eventual"}"#).expect(200);
    let prefix = |node: &Node| node.view()["strong_etcd"]["prefix"].as_str().expect("a prefix").to_owned();
    assert_ne!(prefix(&cluster[0]), prefix(&other));
}

/// Half of a cluster in etcd and half in a log of its own would be two orders of writes.
#[test]
fn a_cluster_has_one_backend_and_keeps_it() {
    let Some((etcd, mut cluster)) = cluster_of(1) else { return };
    let other = cluster.add(setup());
    wait_until("they are linked", DEADLINE, || cluster[other].get("/readyz").status == 200);
    for node in cluster.running() {
        let why = node.put("/_/tables/locks", r#"{"mode":"strong"}"#).expect_problem(503, "not-ready");
        assert!(why.contains("--strong-backend"), "{why}");
    }
    // Started without it, a node would take the tables for its own.
    assert_eq!(cluster.terminate(0).code(), Some(0));
    let (node, _) = Setup::new().etcd(&etcd).start().terminate();
    let node = node.start();
    make(&node, TABLE);
    let (setup, _) = node.terminate();
    let refused = setup.without_environment("DYNARUST_STRONG_BACKEND").try_start().map(drop);
    let refused = refused.expect_err("etcd has its tables");
    assert!(refused.log.contains("start it with the --strong-backend that it had"), "{refused:?}");
    let raft = Setup::new().start();
    make(&raft, TABLE);
    let refused = raft.terminate().0.etcd(&etcd).try_start().map(drop).expect_err("it has a log");
    assert!(refused.log.contains("cannot move to an etcd"), "{refused:?}");
}
