//! Networks that fail: whatever is cut and for how long, the nodes are of one mind soon after it is whole again, and what they
//! agree on is of each key the latest write.

use std::time::{Duration, Instant};

use super::{
    model::{Model, next_instant},
    wait_for_body,
};
use crate::harness::{
    DEADLINE,
    cluster::{CONVERGENCE, Cluster, member},
    network::Network,
    wait_until,
};

/// Keys of each kind of conflict.
const FEW: usize = 40;
/// Some 5,000 writes and deletes.
const MANY: usize = 300;
/// Some 17,000.
const MORE: usize = 1_000;
/// Longer than it takes to notice that a peer does not answer.
const CUT: Duration = Duration::from_secs(5);

/// Three nodes of a network that hold the same.
fn three(each: usize) -> Option<(Network, Cluster, Model)> {
    let network = Network::new(3)?;
    let cluster = Cluster::start_in(&network, 3);
    let mut model = Model::new("t");
    let kinds = ["conflict", "deleted", "recreated", "deleted-late", "updated-late", "deleted-all", "kept"];
    for kind in kinds {
        let rows = (0..each).map(|row| (format!("{kind}-{row}"), Some("before".into())));
        model.write(&cluster[0], rows.collect());
    }
    cluster.wait_until_equal();
    Some((network, cluster, model))
}

/// Every conflict there is between writes that do not know of each other.
fn write_conflicts(cluster: &Cluster, model: &mut Model, each: usize) {
    for row in 0..each {
        let key = |kind: &str| format!("{kind}-{row}");
        let (one, two, three) = (&cluster[row % 3], &cluster[(row + 1) % 3], &cluster[(row + 2) % 3]);
        for (side, node) in [one, two, three].into_iter().enumerate() {
            model.put(node, &key("conflict"), format!("side {side}"));
            model.delete(node, &key("deleted-all"));
            model.put(node, &format!("new-{side}-{row}"), side);
            next_instant();
        }
        model.delete(one, &key("deleted"));
        model.delete(two, &key("recreated"));
        model.put(two, &key("recreated"), "again");
        model.put(three, &key("deleted-late"), "in between");
        model.delete(one, &key("updated-late"));
        next_instant();
        model.delete(one, &key("deleted-late"));
        model.put(two, &key("updated-late"), "late");
    }
}

/// Cuts, writes, waits until so much time has passed, heals, and looks.
fn survives(cut: impl FnOnce(&Network), lasting: Duration, each: usize) {
    let Some((network, cluster, mut model)) = three(each) else { return };
    let begun = Instant::now();
    cut(&network);
    write_conflicts(&cluster, &mut model, each);
    wait_until("the cut lasts", lasting + DEADLINE, || begun.elapsed() > lasting);
    assert!(network.lost() > 0, "nothing was cut");
    let cut_for = begun.elapsed();
    network.heal();
    let took = cluster.wait_until_equal();
    eprintln!("of one mind {took:?} after a cut of {cut_for:?}");
    model.expect_on(&cluster);
    // And so it stays: nothing that was deleted comes back with the next comparison.
    let rounds = cluster.sum("rounds");
    wait_until("rounds go on", DEADLINE, || cluster.sum("rounds") > rounds + 60);
    cluster.wait_until_equal();
    model.expect_on(&cluster);
}

#[test]
fn after_a_cut_of_all_links_the_latest_write_wins_and_nothing_deleted_returns() {
    survives(Network::cut_all, CUT, FEW);
}

#[test]
fn after_a_cut_one_way_the_latest_write_wins_and_nothing_deleted_returns() {
    survives(|network| network.cut(0, 1), CUT, FEW);
}

#[test]
fn after_one_node_was_cut_off_the_latest_write_wins_and_nothing_deleted_returns() {
    let cut_off = |network: &Network| {
        network.cut_between(0, 2);
        network.cut_between(1, 2);
    };
    survives(cut_off, CUT, FEW);
}

/// `DYNARUST_LONG_CUTS=1` makes it a minute, as long as people wait before they look, with as much to agree on as a busy minute leaves.
#[test]
fn after_a_cut_with_many_conflicts_the_latest_write_wins_and_nothing_deleted_returns() {
    let is_long = std::env::var_os("DYNARUST_LONG_CUTS").is_some();
    let (lasting, each) = if is_long { (Duration::from_secs(60), MORE) } else { (CUT, MANY) };
    survives(Network::cut_all, lasting, each);
}

/// Two that cannot reach each other hear of each other's writes through the third.
#[test]
fn what_two_that_are_cut_from_each_other_write_arrives_by_way_of_the_third() {
    let Some((network, cluster, mut model)) = three(FEW) else { return };
    network.cut_between(0, 1);
    write_conflicts(&cluster, &mut model, FEW);
    cluster.wait_until_equal();
    model.expect_on(&cluster);
    network.heal();
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    model.expect_on(&cluster);
}

#[test]
fn a_network_that_loses_a_third_of_all_packets_still_brings_everything_over() {
    let Some((network, cluster, mut model)) = three(FEW) else { return };
    network.lose(30);
    write_conflicts(&cluster, &mut model, FEW);
    let took = cluster.wait_until_equal();
    eprintln!("of one mind {took:?} after the last write, {} packets lost", network.lost());
    assert!(network.lost() > 20, "nothing was lost");
    model.expect_on(&cluster);
    network.heal();
    cluster.wait_until_ready_and_linked();
}

/// The journal brings over what was missed, and nothing is compared for it. Both nodes dial after a cut, so that more than one link can
/// come up before one stays: each sends what is not acknowledged yet.
#[test]
fn after_a_short_cut_only_what_was_missed_is_sent_and_nothing_is_compared() {
    const ROWS: u64 = 2000;
    const MISSED: u64 = 150;
    let Some(network) = Network::new(2) else { return };
    let cluster = Cluster::start_in(&network, 2);
    let mut model = Model::new("t");
    model.write(&cluster[0], (0..ROWS).map(|row| (format!("k{row}"), Some(row.into()))).collect());
    cluster.wait_until_equal();
    let figure = |name: &str| member(&cluster[0], &cluster.address(1))[name].as_u64().expect("a figure");
    let (sent, sessions) = (figure("rows_sent"), cluster.sum("sessions"));
    network.cut_all();
    wait_until("the link is noticed to be cut", CONVERGENCE, || {
        member(&cluster[0], &cluster.address(1))["linked"] == false
    });
    model.write(&cluster[0], (0..MISSED).map(|row| (format!("k{row}"), Some("missed".into()))).collect());
    network.heal();
    wait_for_body(&cluster[1], "/t/key/k149", r#"{"value":"missed"}"#);
    cluster.wait_until_equal();
    let rounds = cluster.sum("rounds");
    wait_until("rounds go on", DEADLINE, || cluster.sum("rounds") > rounds + 60);
    model.expect_on(&cluster);
    let sent = figure("rows_sent") - sent;
    assert!((MISSED..ROWS).contains(&sent), "{sent} rows sent");
    assert_eq!(cluster.sum("sessions"), sessions, "comparisons");
}
