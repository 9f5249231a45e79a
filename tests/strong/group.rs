//! The group's life: sizes, members that come late, lose their disk, or miss more than the log keeps.

use std::time::Duration;

use serde_json::json;

use super::{
    backend,
    client::{Client, Fate, doors},
    make, wait_for, wait_until_same, wait_until_strong, wait_until_whole, wait_until_writable,
};
use crate::harness::{
    Node,
    cluster::{Cluster, free_address},
    http::Request,
    wait_until,
};

const TABLE: &str = "stock";

/// Writes rows in batches of one request each: one entry of the log or more.
fn fill(node: &Node, rows: std::ops::Range<usize>) {
    let rows: Vec<_> = rows.collect();
    // What an etcd takes in one step.
    for rows in rows.chunks(if backend::is_etcd() { 127 } else { 500 }) {
        let puts: Vec<_> = rows
            .iter()
            .map(|row| json!({ "op": "put", "key": format!("k{row:06}"), "value": row }))
            .collect();
        node.post(&format!("/{TABLE}/batch"), json!(puts).to_string()).expect(200);
    }
}

/// Commits this many entries, most of them by connections at once.
fn commit(node: &Node, entries: usize) {
    const CLIENTS: usize = 4;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut connection = node.connect();
                for entry in 0..entries / CLIENTS {
                    let path = format!("/{TABLE}/key/busy{client}");
                    let put = Request::new("PUT", &path).body(format!(r#"{{"value":{entry}}}"#));
                    connection.send(&put).expect(200);
                }
            });
        }
    });
}

#[test]
fn clusters_of_one_two_and_five_have_strong_tables() {
    for members in [1, 2, 5] {
        let cluster = backend::start(members);
        cluster[members - 1].put(&format!("/_/tables/{TABLE}"), r#"{"mode":"strong"}"#).expect(201);
        cluster.running().for_each(|node| wait_until_strong(node, TABLE));
        for (at, node) in cluster.running().enumerate() {
            wait_until_writable(node, TABLE);
            let create = Request::new("PUT", "/stock/key/lock").header("If-None-Match", "*");
            let created = node.send(&create.body(format!(r#"{{"value":{at}}}"#)));
            assert_eq!(created.status, if at == 0 { 200 } else { 412 }, "{members} members: {created}");
        }
        for node in cluster.running() {
            node.get("/stock/key/lock").expect_body(r#"{"value":0}"#);
        }
    }
}

/// A cluster that is asked for its first strong table on all nodes at once starts one group.
#[test]
fn racing_makers_of_the_first_strong_table_start_one_group() {
    let cluster = backend::start(3);
    std::thread::scope(|scope| {
        for node in cluster.running() {
            scope.spawn(move || make(node, TABLE));
        }
    });
    for (at, node) in cluster.running().enumerate() {
        node.put(&format!("/stock/key/k{at}"), r#"{"value":1}"#).expect(200);
    }
    for node in cluster.running() {
        node.get("/stock/count").expect_body(r#"{"count":3}"#);
    }
}

/// A node that asks for a group claims it durably before it knows whether a majority does. Where none did, and the others started another
/// meanwhile, that node was locked out of it for ever.
#[test]
fn a_node_that_asked_for_a_group_in_vain_takes_part_in_the_one_that_the_others_start() {
    if backend::skips_raft() {
        return;
    }
    let mut cluster = backend::start(3);
    let doors = doors(&cluster, 3, None);
    let mut client = Client::new(&doors, Duration::from_secs(60));
    // They are linked still, and answer nothing.
    (1..3).for_each(|member| cluster[member].signal("STOP"));
    let path = format!("/_/tables/{TABLE}");
    let refused = client.send(0, &Request::new("PUT", &path).body(r#"{"mode":"strong"}"#));
    assert!(matches!(refused, Fate::Refused), "{refused:?}");
    cluster.kill(0);
    (1..3).for_each(|member| cluster[member].signal("CONT"));
    make(&cluster[1], TABLE);
    cluster[2].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    cluster.restart(0);
    wait_until_strong(&cluster[0], TABLE);
    wait_until_whole(&cluster, TABLE);
    cluster[0].get("/stock/key/a").expect_body(r#"{"value":1}"#);
}

#[test]
fn a_node_that_joins_later_gets_the_rows_and_takes_requests() {
    let mut cluster = backend::start(1);
    make(&cluster[0], TABLE);
    fill(&cluster[0], 0..1000);
    let joined = cluster.add(backend::member());
    wait_until_strong(&cluster[joined], TABLE);
    wait_until_whole(&cluster, TABLE);
    cluster[joined].put("/stock/key/from", r#"{"value":"joined"}"#).expect(200);
    cluster[0].get("/stock/key/from").expect_body(r#"{"value":"joined"}"#);
    cluster[joined].get("/stock/key/k000999").expect_body(r#"{"value":999}"#);
    wait_until_same(&cluster, TABLE);
}

/// A member whose data directory is gone comes back as another node: nothing that it had voted for counts, and it gets all rows.
#[test]
fn a_follower_whose_directory_was_removed_comes_back_with_all_rows() {
    let mut cluster = backend::start(3);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    fill(&cluster[1], 0..1000);
    let wiped = (super::leader(&cluster, 0..3).expect("one leads") + 1) % 3;
    let through = cluster.address((wiped + 1) % 3);
    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.setup(wiped).home().join("storage.db"))
        .expect("its directory can be removed");
    cluster[(wiped + 1) % 3].put("/stock/key/away", r#"{"value":1}"#).expect(200);
    cluster.restart_with(wiped, |setup| setup.join(&through));
    wait_until_strong(&cluster[wiped], TABLE);
    for node in cluster.running() {
        wait_for(node, "/stock/count", r#"{"count":1001}"#);
        wait_for(node, "/stock/key/away", r#"{"value":1}"#);
    }
    wait_until_writable(&cluster[wiped], TABLE);
    wait_until_same(&cluster, TABLE);
}

/// It missed more entries than the log keeps, so it is sent a snapshot: the rows that differ, and not the others. Each entry is synced on
/// three nodes, so this takes a minute: `DYNARUST_LONG_SNAPSHOTS=1 cargo test --test tests strong::group`.
#[test]
fn a_follower_that_missed_more_than_the_log_keeps_is_sent_the_difference() {
    if std::env::var_os("DYNARUST_LONG_SNAPSHOTS").is_none() || backend::skips_raft() {
        return;
    }
    const ROWS: usize = 5_000;
    const ENTRIES: u64 = 6_500;
    let mut cluster = backend::start(3);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    fill(&cluster[0], 0..ROWS);
    wait_until_same(&cluster, TABLE);
    let leads = super::leader(&cluster, 0..3).expect("one leads");
    let away = (leads + 1) % 3;
    cluster.kill(away);
    for row in 0..50 {
        cluster[leads].delete(&format!("/stock/key/k{row:06}")).expect(200);
        cluster[leads].put(&format!("/stock/key/k{:06}", 100 + row), r#"{"value":"changed"}"#).expect(200);
    }
    // Requests that come together are one entry.
    let applied = || cluster[leads].view()["strong"]["applied_index"].as_u64().expect("an index");
    let enough = applied() + ENTRIES;
    while applied() < enough {
        commit(&cluster[leads], 500);
    }
    cluster.restart(away);
    wait_until_whole(&cluster, TABLE);
    wait_for(&cluster[away], "/stock/key/k000100", r#"{"value":"changed"}"#);
    let rows = wait_until_same(&cluster, TABLE);
    assert!(rows.get("k000000").is_none() && rows["k004999"] == 4999, "{:?}", rows.get("k000000"));
    let sent = sent_by_snapshot(&cluster).expect("more was missed than the log keeps");
    eprintln!("{sent} rows sent");
    assert!((50..1_000).contains(&sent), "{sent} rows were sent where some 110 differ");
}

/// The rows that snapshots have sent, as the nodes logged.
fn sent_by_snapshot(cluster: &Cluster) -> Option<u64> {
    let log: String = cluster.running().map(Node::log).collect();
    let lines = log.lines().filter(|line| line.contains("sent a snapshot of the strong tables"));
    let rows = lines.filter_map(|line| line.split("rows=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    rows.reduce(|one, other| one + other)
}

#[test]
fn all_members_restarted_in_order_have_all_rows_and_the_table_stays_strong() {
    let mut cluster = backend::start(3);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    fill(&cluster[2], 0..500);
    cluster[1].delete("/stock/key/k000000").expect(200);
    for member in 0..3 {
        assert_eq!(cluster.terminate(member).code(), Some(0));
    }
    for member in 0..3 {
        cluster.restart(member);
    }
    wait_until_whole(&cluster, TABLE);
    for node in cluster.running() {
        node.put("/stock/key/a?w=1", r#"{"value":1}"#).expect_problem(400, "bad-request");
        wait_for(node, "/stock/count?prefix=k", r#"{"count":499}"#);
    }
}

/// A node that had just joined, or was down while the table was made, did not know that it is strong. It took writes into an
/// eventual table of that name, whose rows moved to another table once it knew. Now it asks the nodes that it is linked with,
/// and a first write waits for the answer.
#[test]
fn what_a_node_answers_that_has_just_come_is_in_the_strong_table() {
    let mut cluster = backend::start(3);
    make(&cluster[0], TABLE);
    wait_until_whole(&cluster, TABLE);
    cluster.kill(2);
    make(&cluster[0], "later");
    cluster.restart(2);
    let joined = cluster.add(backend::member());
    for (member, table) in [(2, "later"), (joined, "later"), (joined, TABLE)] {
        let node = &cluster[member];
        let mut tried = 0;
        wait_until("it takes writes", super::RECOVERY, || {
            tried += 1;
            let put = node.put(&format!("/{table}/key/from{member}-{tried}"), r#"{"value":1}"#);
            // Nothing else is answered while the node is about to learn; 504 if the leader was the one that was killed, and another is elected.
            assert!(matches!(put.status, 200 | 503 | 504), "{put}");
            put.status == 200
        });
        wait_for(&cluster[0], &format!("/{table}/key/from{member}-{tried}"), r#"{"value":1}"#);
        // A read waits in the same way, so it finds what was answered before.
        wait_for(node, &format!("/{table}/key/from{member}-{tried}"), r#"{"value":1}"#);
    }
    for node in cluster.running() {
        let tables = node.get("/_/tables").expect(200).json().to_string();
        assert!(!tables.contains(".eventual"), "{tables}");
    }
}

/// A node that is told to join, and finds nobody there, knows of no strong table. It takes writes all the same.
#[test]
fn a_node_whose_cluster_is_down_takes_writes_to_new_tables() {
    let node = backend::member().join(&free_address()).start();
    node.put("/users/key/a", r#"{"value":1}"#).expect(200);
    node.post("/orders/batch", r#"[{"op":"put","key":"a","value":1}]"#).expect(200);
    node.get("/absent/key/a").expect(404);
}
