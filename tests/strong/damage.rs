//! Damaged storages of voters, whose logs are whole: they serve nothing that is old, do not lead, and get their rows from the leader.

use std::{fs, os::unix::fs::FileExt};

use super::{
    RECOVERY,
    roles::{TABLE, cluster_of, strong},
    wait_until_same, wait_until_writable,
};
use crate::harness::{
    Node,
    cluster::{Cluster, setup},
    http::Request,
    wait_until,
};

/// The member whose disk it is about.
const HURT: usize = 2;
const KEYS: u64 = 100;
/// Places of a storage that may be damaged, in the second quarter: what was written last may be needed for a start.
const PLACES: u64 = 30;
/// All of them take several segments of sled's log.
const VALUE_BYTES: usize = 20_000;

fn value(number: u64) -> String {
    crate::crash::ledger::text(number, VALUE_BYTES)
}

/// Writes each key, and then a new value of it. The first ten are deleted at last.
fn load(node: &Node) {
    let mut connection = node.connect();
    for number in 0..2 * KEYS {
        let body = format!(r#"{{"value":"{}"}}"#, value(number));
        let request = Request::new("PUT", &format!("/{TABLE}/key/k{}", number % KEYS));
        connection.send(&request.body(body)).expect(200);
    }
    for key in 0..10 {
        connection.send(&Request::new("DELETE", &format!("/{TABLE}/key/k{key}"))).expect(200);
    }
}

/// Reads every key. Whether each is what was written last; a node that cannot tell says so.
fn is_whole(node: &Node) -> bool {
    let mut connection = node.connect();
    (0..KEYS).all(|key| {
        let answer = connection.send(&Request::new("GET", &format!("/{TABLE}/key/k{key}")));
        match answer.status {
            200 => {
                assert!(key >= 10, "k{key} was deleted");
                assert!(answer.json()["value"] == value(KEYS + key), "k{key} is not what was written last");
                true
            }
            404 => {
                assert!(key < 10, "k{key} is missing");
                true
            }
            _ => false,
        }
    })
}

/// Kills members, flips a bit of the storage of each, and starts them again.
fn damage(cluster: &mut Cluster, members: impl Iterator<Item = usize> + Clone) {
    members.clone().for_each(|member| cluster.kill(member));
    members.clone().for_each(|member| flip(cluster, member));
    for member in members {
        cluster.restart(member);
        let said = cluster[member].log();
        assert!(said.contains("acknowledged writes may be missing"), "{said}");
    }
}

/// Flips a bit of a member's storage where something lies that is in use.
fn flip(cluster: &Cluster, member: usize) {
    let data = cluster.setup(member).home().join("storage.db");
    let file = fs::File::options().read(true).write(true).open(data.join("db"));
    let file = file.expect("the log can be opened");
    let length = file.metadata().expect("a log").len();
    let flip_at = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("the position is in the file");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("the file can be written");
    };
    let is_found = |at: &u64| {
        flip_at(*at);
        let is_found = setup().run(&["check", "--data", &data.to_string_lossy()]).1.code() == Some(1);
        if !is_found {
            flip_at(*at);
        }
        is_found
    };
    (1..PLACES).map(|place| length / 4 + length / 4 / PLACES * place).find(is_found).expect("some is in use");
}

fn is_doubtful(node: &Node) -> bool {
    let metrics = node.get("/metrics").expect(200).text().to_owned();
    metrics.lines().any(|line| line == "dynarust_storage_doubtful 1")
}

/// Rows that damage took, or brought back, stayed so for ever on that voter, and it could lead.
#[test]
fn a_voter_with_damaged_rows_serves_nothing_old_and_is_repaired() {
    let mut cluster = cluster_of(3, 3);
    load(&cluster[0]);
    wait_until_same(&cluster, TABLE);
    let address = cluster.address(HURT);
    wait_until("it leads", RECOVERY, || strong(&cluster[0], &["transfer", &address]).code() == Some(0));
    damage(&mut cluster, HURT..HURT + 1);
    wait_until("its rows are right", RECOVERY, || is_whole(&cluster[HURT]));
    wait_until_same(&cluster, TABLE);
    wait_until("it doubts no more", RECOVERY, || !is_doubtful(&cluster[HURT]));
    let said = cluster[HURT].log();
    assert!(said.contains("the rows of the strong tables are repaired"), "{said}");
    wait_until_writable(&cluster[HURT], TABLE);
}

/// Nobody knows then which rows are right: none leads, and an operator chooses.
#[test]
fn voters_that_are_all_damaged_do_not_lead_until_an_operator_starts_a_group() {
    let mut cluster = cluster_of(3, 3);
    load(&cluster[0]);
    wait_until_same(&cluster, TABLE);
    damage(&mut cluster, 0..3);
    cluster.wait_until_linked();
    let refused = cluster[0].put(&format!("/{TABLE}/key/k50"), r#"{"value":1}"#);
    assert_eq!(refused.status, 503, "{refused}");
    let failure = cluster[0].view()["strong_failure"].as_str().expect("it says why").to_owned();
    assert!(failure.contains("DynaRust strong init --force"), "{failure}");
    let begun = strong(&cluster[0], &["init", "--force"]);
    assert_eq!(begun.code(), Some(0), "{begun:?}");
    wait_until_writable(&cluster[1], TABLE);
}
