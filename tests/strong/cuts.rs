//! Cut networks: the minority refuses and says so, the majority goes on, and after the heal all are equal. For root.

use std::time::{Duration, Instant};

use super::{
    backend, client::doors, leader, ledger::Ledger, make, wait_for, wait_until_same, wait_until_strong,
    wait_until_whole,
};
use crate::harness::{DEADLINE, cluster::Cluster, http::Response, network::Network, wait_until};

const TABLE: &str = "stock";
/// Longer than an answer may take.
const CUT: Duration = Duration::from_millis(5_500);

/// A network for this many nodes. None for an etcd, which is outside of it.
fn network_of(members: usize) -> Option<Network> {
    if backend::skips_raft() { None } else { Network::new(members) }
}

/// Three nodes of a network, with a strong table.
fn three() -> Option<(Network, Cluster)> {
    let network = network_of(3)?;
    let cluster = Cluster::start_in(&network, 3);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    wait_until_whole(&cluster, TABLE);
    Some((network, cluster))
}

fn cut_off(network: &Network, member: usize) {
    network.cut_between(member, (member + 1) % 3);
    network.cut_between(member, (member + 2) % 3);
}

/// The node says that it cannot reach a majority, and when to try again.
#[track_caller]
fn expect_no_quorum(answer: Response) {
    let after: u64 = answer.expect_header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&after), "{after}");
    let why = answer.expect_problem(503, "no-quorum");
    assert!(why.contains("majority"), "{why}");
}

fn the_minority_refuses(cut: impl Fn(&Cluster) -> usize) {
    let Some((network, cluster)) = three() else { return };
    cluster[0].put("/stock/key/before", r#"{"value":1}"#).expect(200);
    cluster.running().for_each(|node| wait_for(node, "/stock/key/before", r#"{"value":1}"#));
    let minority = cut(&cluster);
    let majority = [(minority + 1) % 3, (minority + 2) % 3];
    cut_off(&network, minority);
    // The first write may have been on its way when the link broke.
    let first = cluster[minority].put("/stock/key/cut", r#"{"value":"minority"}"#);
    let unknown = first.status == 504;
    if unknown {
        first.expect_problem(504, "outcome-unknown");
    } else {
        expect_no_quorum(first);
    }
    expect_no_quorum(cluster[minority].put("/stock/key/cut2", r#"{"value":"minority"}"#));
    expect_no_quorum(cluster[minority].get("/stock/key/before"));
    expect_no_quorum(cluster[minority].get("/stock/keys"));
    expect_no_quorum(
        cluster[minority].post("/_/txn", r#"{"success":[{"op":"get","table":"stock","key":"a"}]}"#),
    );
    expect_no_quorum(cluster[minority].put("/_/tables/other", r#"{"mode":"strong"}"#));
    let stale = cluster[minority].get("/stock/key/before?read=stale");
    assert_eq!(stale.expect_header("dynarust-stale"), "true");
    stale.expect_body(r#"{"value":1}"#);
    // What is eventual goes on.
    cluster[minority].put("/free/key/a", r#"{"value":1}"#).expect(200);
    for node in majority {
        super::wait_until_writable(&cluster[node], TABLE);
        cluster[node].put(&format!("/stock/key/majority{node}"), r#"{"value":1}"#).expect(200);
        cluster[node].get("/stock/key/before").expect_body(r#"{"value":1}"#);
    }
    assert!(network.lost() > 0, "nothing was cut");
    network.heal();
    wait_until_whole(&cluster, TABLE);
    let rows = wait_until_same(&cluster, TABLE);
    assert!(rows["majority0"] == 1 || rows["majority1"] == 1, "{rows}");
    assert!(rows.get("cut2").is_none(), "what was refused took effect: {rows}");
    if !unknown {
        assert!(rows.get("cut").is_none(), "what was refused took effect: {rows}");
    }
    wait_until("the eventual write arrives everywhere", DEADLINE, || {
        cluster.running().all(|node| node.get("/free/key/a").status == 200)
    });
}

#[test]
fn a_follower_that_is_cut_off_refuses_writes_and_fresh_reads_and_the_others_go_on() {
    the_minority_refuses(|cluster| {
        let leads = leader(cluster, 0..3).expect("one leads");
        (leads + 1) % 3
    });
}

#[test]
fn a_leader_that_is_cut_off_refuses_writes_and_fresh_reads_and_the_others_go_on() {
    the_minority_refuses(|cluster| leader(cluster, 0..3).expect("one leads"));
}

/// Cuts a cluster that is written to. No answered write is lost.
fn survives(cut: impl Fn(&Network, usize), members: usize) {
    let Some(network) = network_of(members) else { return };
    let mut cluster = Cluster::start_in(&network, members);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    wait_until_whole(&cluster, TABLE);
    let doors = doors(&cluster, members, Some(&network));
    let mut ledger = Ledger::default();
    ledger.load(&doors, &mut cluster, TABLE, |cluster, progress| {
        progress.wait_for(40);
        let before = progress.answered();
        cut(&network, leader(cluster, 0..members).expect("one leads"));
        progress.wait(CUT);
        eprintln!("{} writes answered during the cut", progress.answered() - before);
        assert!(network.lost() > 0, "nothing was cut");
        network.heal();
        progress.wait_for(40);
    });
    wait_until_whole(&cluster, TABLE);
    ledger.verify(&wait_until_same(&cluster, TABLE));
    eprintln!("longest silence {:?}", ledger.silence);
}

#[test]
fn a_cut_of_the_leader_loses_no_answered_write() {
    survives(cut_off, 3);
}

#[test]
fn a_cut_of_all_links_loses_no_answered_write() {
    survives(|network, _| network.cut_all(), 3);
}

/// The leader hears nobody, and everybody hears the leader: its heartbeats must not keep the others from electing one for ever.
#[test]
fn a_leader_that_hears_nobody_loses_no_answered_write() {
    survives(
        |network, leader| {
            network.cut((leader + 1) % 3, leader);
            network.cut((leader + 2) % 3, leader);
        },
        3,
    );
}

/// Two that cannot reach each other, and a third that both reach.
#[test]
fn a_cut_between_the_leader_and_one_follower_loses_no_answered_write() {
    survives(|network, leader| network.cut_between(leader, (leader + 1) % 3), 3);
}

#[test]
fn five_nodes_cut_in_two_and_three_lose_no_answered_write() {
    survives(
        |network, leader| {
            for one in [leader, (leader + 1) % 5] {
                (2..5).for_each(|step| network.cut_between(one, (leader + step) % 5));
            }
        },
        5,
    );
}

/// The group is started by a majority, so the two sides of a cut cannot start two.
#[test]
fn the_first_strong_table_is_made_on_the_majority_side_of_a_cut_only() {
    let Some(network) = network_of(3) else { return };
    let cluster = Cluster::start_in(&network, 3);
    cut_off(&network, 2);
    wait_until("the cut is noticed", super::RECOVERY, || {
        let view = cluster[2].view();
        let members = view["members"].as_array().expect("members").clone();
        members.iter().all(|member| member["linked"] != true)
    });
    expect_no_quorum_to_start(cluster[2].put("/_/tables/stock", r#"{"mode":"strong"}"#));
    make(&cluster[0], TABLE);
    super::wait_until_writable(&cluster[1], TABLE);
    cluster[1].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    expect_no_quorum_to_start(cluster[2].put("/_/tables/other", r#"{"mode":"strong"}"#));
    network.heal();
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    wait_until_whole(&cluster, TABLE);
    cluster.running().for_each(|node| wait_for(node, "/stock/key/a", r#"{"value":1}"#));
    make(&cluster[2], "other");
}

#[track_caller]
fn expect_no_quorum_to_start(answer: Response) {
    let why = answer.expect_problem(503, "no-quorum");
    assert!(why.contains("nothing was made") || why.contains("majority"), "{why}");
}

/// A node that is cut off takes writes of a table that the majority makes strong meanwhile. They were answered, so they must not be lost:
/// they are in another table after the heal.
#[test]
fn eventual_rows_written_on_the_other_side_of_a_cut_move_to_another_table() {
    let Some((network, cluster)) = three() else { return };
    let outside = (leader(&cluster, 0..3).expect("one leads") + 1) % 3;
    let inside = (outside + 1) % 3;
    cut_off(&network, outside);
    for row in 0..5 {
        cluster[outside].put(&format!("/late/key/k{row}"), r#"{"value":"eventual"}"#).expect(200);
    }
    make(&cluster[inside], "late");
    cluster[inside].put("/late/key/k0", r#"{"value":"strong"}"#).expect(200);
    network.heal();
    cluster.running().for_each(|node| wait_until_strong(node, "late"));
    wait_until_whole(&cluster, TABLE);
    for node in cluster.running() {
        wait_for(node, "/late/key/k0", r#"{"value":"strong"}"#);
        wait_for(node, "/late/count", r#"{"count":1}"#);
        wait_for(node, "/late.eventual/count", r#"{"count":5}"#);
    }
    cluster.running().for_each(|node| super::wait_until_writable(node, "late"));
    wait_until_same(&cluster, "late");
}

/// A majority is answered fast while one node is unreachable: nothing waits for it.
#[test]
fn a_follower_that_is_cut_off_does_not_slow_the_others() {
    let Some((network, cluster)) = three() else { return };
    let leads = leader(&cluster, 0..3).expect("one leads");
    cut_off(&network, (leads + 1) % 3);
    for row in 0..20 {
        let begun = Instant::now();
        cluster[leads].put(&format!("/stock/key/k{row}"), r#"{"value":1}"#).expect(200);
        cluster[leads].get(&format!("/stock/key/k{row}")).expect_body(r#"{"value":1}"#);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}
