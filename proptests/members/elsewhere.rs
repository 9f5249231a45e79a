//! A node that goes over to another cluster, and those it leaves behind.

use super::{WHOLE_MS, network::Network, whole};

/// What the protocol knows spreads by itself: one member of another cluster, brought along, would be held for one by all.
#[test]
fn who_goes_over_to_another_cluster_brings_nobody_and_whoever_follows_is_taken_in() {
    let mut network = whole(3);
    network.split(&[1, 2]);
    network.run(100);
    network.switch_cluster(0);
    for (index, through) in [(3, 0), (4, 3)] {
        network.start(index, Some(through), None);
    }
    // Those that stay behind are cut off from the new ones as well.
    network.split(&[1, 2]);
    network.run(60_000);
    for at in [0, 3, 4] {
        assert!([1, 2].iter().all(|of| network.state(at, *of).is_none()), "{at}");
        assert_eq!(network.members(at).member_ids().len(), 2);
        assert_eq!(network.members(at).faults(), 0);
    }
    // One of them follows, by the address it remembers.
    network.kill(2);
    let note = network.kill(1);
    network.start(1, Some(0), Some(note));
    network.switch_cluster(1);
    network.heal();
    network.until(WHOLE_MS, "whole", Network::is_whole);
    network.run(60_000);
    assert!(network.running().iter().all(|at| network.state(*at, 2).is_none()));
}
