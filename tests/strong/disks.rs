//! Disks of members that are full, lose what was not synced, or have damaged bytes: no answered write is lost, and nothing old is served.
//!
//! What happens to a disk happens under the leader; with `DYNARUST_LONG_DISKS=1` under a follower before.

use std::fs;

use serde_json::Value;

use super::{
    RECOVERY,
    client::doors,
    ledger::Ledger,
    make,
    roles::{TABLE, cluster_of, done, group, leader, wait_for_voters},
    wait_for, wait_until_same, wait_until_strong, wait_until_whole, wait_until_writable,
};
use crate::{
    crash::mount::Mount,
    harness::{
        Node,
        cluster::{Cluster, setup},
        wait_until,
    },
};

const SMALL_MIB: u64 = 24;
const IMAGE_MIB: u64 = 256;
/// The member whose disk it is about.
const HURT: usize = 2;
/// More than what is left of a page of a full disk.
const VALUE_BYTES: usize = 16 * 1024;
/// Writes between two disturbances.
const WRITES: u64 = 40;

/// A cluster of three voters, one of them on this file system.
fn cluster_on(mount: &Mount) -> Cluster {
    let hurt = setup().flag("--data", mount.path().join("storage.db"));
    let cluster = Cluster::start_from(vec![setup(), setup(), hurt]);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    let all: Vec<_> = (0..3).map(|member| cluster.address(member)).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    cluster.running().for_each(|node| wait_for_voters(node, &all));
    cluster
}

/// Who leads while it happens.
fn leaders() -> Vec<usize> {
    if std::env::var_os("DYNARUST_LONG_DISKS").is_some() { vec![0, HURT] } else { vec![HURT] }
}

/// Has a member lead.
fn lead(cluster: &Cluster, member: usize) {
    let address = cluster.address(member);
    wait_until(&format!("{address} leads"), RECOVERY, || {
        super::roles::strong(&cluster[0], &["transfer", &address]).code() == Some(0)
    });
}

fn value(number: u64) -> String {
    format!("{number}:{}", "x".repeat(VALUE_BYTES))
}

/// Writes until so many more were answered, by whichever node does. Returns the number of the last.
fn write(nodes: &[&Node], from: u64, count: u64) -> u64 {
    for number in from + 1..=from + count {
        wait_until(&format!("write {number} is answered"), RECOVERY, || {
            let put = format!(r#"{{"value":"{}"}}"#, value(number));
            nodes.iter().any(|node| node.put("/stock/key/n", put.clone()).status == 200)
        });
    }
    from + count
}

/// A leader whose disk was full opened its log again within a second, and openraft went on as the leader: no write was answered for as long as
/// the disk was full.
#[test]
fn a_full_disk_of_a_voter_costs_no_write_and_it_catches_up_when_there_is_room() {
    let Some(mount) = Mount::tmpfs(SMALL_MIB) else { return };
    let cluster = cluster_on(&mount);
    let others = [&cluster[0], &cluster[1]];
    let mut last = 0;
    for leads in leaders() {
        lead(&cluster, leads);
        last = write(&others, last, 3);
        wait_for(&cluster[HURT], "/stock/key/n", &format!(r#"{{"value":"{}"}}"#, value(last)));
        let filler = mount.path().join("filler");
        fs::write(&filler, vec![b'x'; (SMALL_MIB as usize) << 20]).expect_err("more than there is room for");
        last = write(&others, last, 20);
        // It answers, and nothing that is old.
        cluster[HURT].get("/healthz").expect(200);
        let read = cluster[HURT].get("/stock/key/n");
        let is_newest = read.status == 200 && read.json()["value"] == value(last);
        assert!(is_newest || read.status == 503, "leader {leads}: {}", read.status);
        cluster[HURT].get("/stock/key/n?read=stale").expect(200);
        assert_ne!(leader(&cluster, 0..3), HURT, "it cannot append to its log");

        fs::remove_file(filler).expect("the filler is there");
        wait_for(&cluster[HURT], "/stock/key/n", &format!(r#"{{"value":"{}"}}"#, value(last)));
        wait_until_writable(&cluster[HURT], TABLE);
    }
    wait_until_same(&cluster, TABLE);
    assert!(cluster.running().all(|node| !node.log().contains("panicked")));
}

/// What a voter had not synced is gone, whether it follows or leads; what it had promised is not.
#[test]
fn power_cuts_of_a_voter_lose_no_answered_write() {
    let Some(mut mount) = Mount::ext4(IMAGE_MIB) else { return };
    let mut cluster = cluster_on(&mount);
    let doors = doors(&cluster, 3, None);
    let mut ledger = Ledger::default();
    for leads in leaders() {
        lead(&cluster, leads);
        ledger.load(&doors, &mut cluster, TABLE, |cluster, progress| {
            progress.wait_for(WRITES);
            mount.cut_power();
            cluster.kill(HURT);
            progress.wait_for(WRITES);
            mount.restore_power();
            cluster.restart(HURT);
            progress.wait_for(WRITES);
        });
        wait_until_whole(&cluster, TABLE);
        ledger.verify(&wait_until_same(&cluster, TABLE));
        assert_eq!(cluster[HURT].view()["strong_failure"], Value::Null, "a cut is no damage");
    }
}

/// A flipped byte in the log of one of three: it takes no part, says why, and its place is taken by what comes in its stead.
#[test]
fn a_voter_with_a_damaged_log_takes_no_part_and_comes_back_as_a_new_member() {
    let mut cluster = cluster_of(3, 3);
    lead(&cluster, 0);
    for number in 0..10 {
        cluster[1].put(&format!("/stock/key/k{number}"), r#"{"value":1}"#).expect(200);
    }
    let address = cluster.address(HURT);
    cluster.kill(HURT);
    cluster[0].put("/stock/key/k0", r#"{"value":2}"#).expect(200);
    let data = cluster.setup(HURT).home().join("storage.db");
    let log = data.join("raft/00000000000000000000.log");
    let mut bytes = fs::read(&log).expect("a log can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).expect("a log can be written");
    cluster.restart(HURT);
    let failure = cluster[HURT].view()["strong_failure"].as_str().expect("it says why").to_owned();
    assert!(failure.contains("DynaRust forget") && failure.contains("0.log, byte"), "{failure}");
    let members = setup().run(&["members", &address]).1;
    assert!(members.stdout.contains("damaged"), "{members:?}");
    for path in ["/stock/key/k0", "/stock/store", "/stock/count"] {
        cluster[HURT].get(path).expect_problem(503, "not-ready");
    }
    cluster[HURT].put("/stock/key/k0", r#"{"value":3}"#).expect_problem(503, "not-ready");
    cluster[1].get("/stock/key/k0").expect_body(r#"{"value":2}"#);
    wait_until_writable(&cluster[1], TABLE);

    // The remedy that it names.
    cluster.kill(HURT);
    wait_until("it is known to be down, and forgotten", RECOVERY, || {
        setup().run(&["forget", &address, "--at", &cluster.address(1)]).1.code() == Some(0)
    });
    fs::remove_dir_all(&data).expect("its directory can be removed");
    let through = cluster.address(0);
    cluster.restart_with(HURT, |setup| setup.join(&through));
    wait_until_strong(&cluster[HURT], TABLE);
    wait_for(&cluster[HURT], "/stock/key/k0", r#"{"value":2}"#);
    // Its former self has the same address.
    let node = cluster[HURT].view()["node"].clone();
    wait_until("the new member votes", RECOVERY, || {
        let group = group(&cluster[0]);
        group["voters"].as_array().is_some_and(|voters| voters.iter().any(|voter| voter["node"] == node))
    });
    done(&cluster[0], &["transfer", &address]);
    assert_eq!(leader(&cluster, 0..3), HURT);
    wait_until_same(&cluster, TABLE);
}
