//! A member whose disk is full stays one: seen, linked, and named for what it is. It takes in what it missed by itself.

use std::fs;

use serde_json::Value;

use crate::{
    crash::{ledger::text, mount::Mount},
    harness::{
        Node,
        cluster::{CONVERGENCE, Cluster, member, setup},
        http::Request,
        wait_until,
    },
};

const SMALL_MIB: u64 = 24;
/// Taken by something else, so that there is less to fill.
const TAKEN_MIB: usize = 16;
const LARGE_MIB: u64 = 128;
/// As digits it takes half of that on the disk.
const FILL_BYTES: usize = (1 << 20) - 16;
/// Rounds that the links must stand, at ten a second: three seconds.
const ROUNDS: u64 = 30;
/// Lines that a node may log meanwhile.
const LINES_MAX: usize = 12;

/// A node with a full disk ended its links as soon as they stood, with a line in the log of each node every time, for ever; the
/// others showed it as `down`, and forgot it in the end.
#[test]
fn a_member_with_a_full_disk_is_seen_takes_nothing_and_takes_in_everything_when_there_is_room() {
    let Some(mount) = Mount::tmpfs(SMALL_MIB) else { return };
    let small = setup().flag("--data", mount.path().join("storage.db"));
    let mut cluster = Cluster::start_from(vec![setup(), small]);
    let full = cluster.address(1);
    cluster[0].put("/t/key/changed?w=all", r#"{"value":1}"#).expect(200);
    cluster[0].put("/t/key/deleted?w=all", r#"{"value":1}"#).expect(200);

    fs::write(mount.path().join("filler"), vec![0; TAKEN_MIB << 20]).expect("there is room for it");
    let filled = fill(&cluster);
    assert!(refusal(&cluster[1], &full).contains("No space left"), "{}", cluster[1].view());
    wait_until("the others know why", CONVERGENCE, || refusal(&cluster[0], &full).contains("No space left"));
    let logs: Vec<_> = cluster.running().map(|node| node.log().lines().count()).collect();
    let seen = member(&cluster[0], &full);
    cluster[0].put("/t/key/changed", r#"{"value":2}"#).expect(200);
    cluster[0].delete("/t/key/deleted").expect(200);
    cluster[0].put("/t/key/waited-for?w=2&w_timeout=100ms", r#"{"value":3}"#).expect(504);
    cluster[1].put("/t/key/refused", r#"{"value":4}"#).expect_problem(507, "storage-full");
    wait_until("its rounds go on", CONVERGENCE, || {
        let now = member(&cluster[0], &full);
        assert_eq!((&now["state"], &now["linked"]), (&"alive".into(), &true.into()), "{now}");
        now["rounds"].as_u64() >= seen["rounds"].as_u64().map(|rounds| rounds + ROUNDS)
    });
    for (node, before) in cluster.running().zip(logs) {
        let log = node.log();
        let new_lines: Vec<_> = log.lines().skip(before).collect();
        assert!(new_lines.len() <= LINES_MAX, "{} lines: {new_lines:#?}", new_lines.len());
        assert!(!new_lines.iter().any(|line| line.contains("link ended")), "{new_lines:#?}");
    }
    cluster[1].get("/t/key/deleted").expect_body(r#"{"value":1}"#);
    let joined = cluster.add(setup());
    cluster.wait_until_linked();
    wait_until("the new one knows too", CONVERGENCE, || !refusal(&cluster[joined], &full).is_empty());

    mount.resize(LARGE_MIB);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    assert_eq!(refusal(&cluster[0], &full) + &refusal(&cluster[1], &full), "");
    cluster[2].put("/t/key/last?w=all", r#"{"value":5}"#).expect(200);
    // What it acknowledged it has.
    cluster.kill(1);
    cluster.restart(1);
    for (key, value) in [("changed", 2), ("waited-for", 3), ("last", 5)] {
        cluster[1].get(&format!("/t/key/{key}")).expect_body(&format!(r#"{{"value":{value}}}"#));
    }
    cluster[1].get("/t/key/deleted").expect(404);
    cluster[1].get("/filled/count").expect_body(&format!(r#"{{"count":{filled}}}"#));
}

/// Writes values of half a MiB through the first until the second takes no more; how many.
fn fill(cluster: &Cluster) -> u64 {
    let mut connection = cluster[0].connect();
    let mut written = 0;
    wait_until("the disk is full", CONVERGENCE, || {
        let body = format!(r#"{{"value":"{}"}}"#, text(written, FILL_BYTES));
        connection.send(&Request::new("PUT", &format!("/filled/key/{written:03}")).body(body)).expect(200);
        written += 1;
        cluster[1].get("/readyz").status == 503
    });
    written
}

/// Why a member takes no rows, as a node sees it; nothing where it takes them.
fn refusal(node: &Node, address: &str) -> String {
    match &member(node, address)["storage_full"] {
        Value::Null => String::new(),
        why => why.as_str().expect("a text").to_owned(),
    }
}
