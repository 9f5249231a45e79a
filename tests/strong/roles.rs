//! Who votes and leads, as nodes say, and `DynaRust strong`, which changes it.

use serde_json::Value;

use super::{RECOVERY, make, wait_until_strong};
use crate::harness::{
    Node, Outcome,
    cluster::{Cluster, setup},
    wait_until,
};

/// The table of tests with clusters of their own.
pub const TABLE: &str = "stock";
/// The exit code of a command that was refused.
pub const FAILED: Option<i32> = Some(1);

/// Runs `DynaRust strong`, and tells the node.
pub fn strong(node: &Node, arguments: &[&str]) -> Outcome {
    let address = node.address().to_string();
    setup().run(&[&["strong"], arguments, &["--at", &address]].concat()).1
}

/// As `strong`, successfully. Returns the JSON.
#[track_caller]
pub fn done(node: &Node, arguments: &[&str]) -> Value {
    let outcome = strong(node, &[arguments, &["--json"]].concat());
    assert_eq!(outcome.code(), Some(0), "{arguments:?}: {outcome:?}");
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// As `strong`, where it must be refused. Returns why.
#[track_caller]
pub fn refused(node: &Node, arguments: &[&str]) -> String {
    let outcome = strong(node, arguments);
    assert_eq!(outcome.code(), FAILED, "{arguments:?}: {outcome:?}");
    outcome.log
}

pub fn group(node: &Node) -> Value {
    node.view()["strong"].clone()
}

/// The addresses of the voters or learners, sorted.
pub fn those(group: &Value, role: &str) -> Vec<String> {
    let those = group[role].as_array().into_iter().flatten();
    let mut those: Vec<_> = those.filter_map(|it| it["address"].as_str().map(str::to_owned)).collect();
    those.sort();
    those
}

pub fn wait_for_voters(node: &Node, voters: &[&str]) {
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    wait_until(&format!("{} sees that {voters:?} vote", node.address()), RECOVERY, || {
        those(&group(node), "voters") == voters
    });
}

/// The member that leads, as it says itself.
pub fn leader(cluster: &Cluster, members: impl IntoIterator<Item = usize>) -> usize {
    let members: Vec<_> = members.into_iter().collect();
    let mut leader = None;
    wait_until("one leads", RECOVERY, || {
        leader = members.iter().copied().find(|member| group(&cluster[*member])["leads"] == true);
        leader.is_some()
    });
    leader.expect("waited for")
}

/// A cluster with a strong table whose members all vote, as far as they are to.
pub fn cluster_of(members: usize, voters: usize) -> Cluster {
    let cluster = Cluster::start(members);
    make(&cluster[0], TABLE);
    cluster.running().for_each(|node| wait_until_strong(node, TABLE));
    wait_until("all take part", RECOVERY, || {
        cluster.running().all(|node| {
            let group = group(node);
            let count = |role| those(&group, role).len();
            count("voters") == voters && count("voters") + count("learners") == members
        })
    });
    cluster
}
