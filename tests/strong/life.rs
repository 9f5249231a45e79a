//! Members of the group that die for good, leave, and come with a group of their own.

use super::{
    RECOVERY, make,
    roles::{FAILED, TABLE, cluster_of, done, group, leader, strong, those, wait_for_voters},
    wait_for, wait_until_same, wait_until_strong, wait_until_writable,
};
use crate::harness::{
    cluster::{Cluster, setup},
    wait_until,
};

/// Five of seven vote. One of them dies, its place is free once it is forgotten, and a learner takes it.
#[test]
fn of_seven_members_five_vote_and_a_learner_takes_the_place_of_one_that_died() {
    let mut cluster = cluster_of(7, 5);
    let voters = those(&group(&cluster[0]), "voters");
    let leads = leader(&cluster, 0..7);
    let dead = (0..7).find(|member| *member != leads && voters.contains(&cluster.address(*member)));
    let dead = dead.expect("four voters do not lead");
    let address = cluster.address(dead);
    cluster[dead].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    cluster.kill(dead);
    cluster[leads].put("/stock/key/b", r#"{"value":2}"#).expect(200);
    assert!(those(&group(&cluster[leads]), "voters").contains(&address), "it may come back");
    wait_until("it is known to be down, and forgotten", RECOVERY, || {
        let forgotten = setup().run(&["forget", &address, "--at", &cluster.address(leads)]).1;
        forgotten.code() == Some(0)
    });
    for node in cluster.running() {
        wait_until("five vote, and one learns", RECOVERY, || {
            let group = group(node);
            let (voters, learners) = (those(&group, "voters"), those(&group, "learners"));
            (voters.len(), learners.len()) == (5, 1) && !voters.contains(&address)
        });
        node.put("/stock/key/c", r#"{"value":3}"#).expect(200);
    }
    let rows = wait_until_same(&cluster, TABLE);
    assert_eq!(rows, serde_json::json!({ "a": 1, "b": 2, "c": 3 }));
}

/// The last voter takes the strong tables with it, so it may not leave before another votes.
#[test]
fn the_last_voter_may_not_leave_before_another_votes() {
    let mut cluster = cluster_of(2, 2);
    cluster[0].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    let (last, other) = (cluster.address(0), cluster.address(1));
    done(&cluster[0], &["demote", &other]);
    wait_for_voters(&cluster[0], &[&last]);
    // If the other led, a write that it took last may have an unknown outcome.
    wait_until("the last voter leads", RECOVERY, || group(&cluster[0])["leads"] == true);
    let refused = setup().run(&["leave", &last]).1;
    assert_eq!(refused.code(), FAILED, "{refused:?}");
    assert!(refused.log.contains("only voter") && refused.log.contains("promote"), "{refused:?}");
    // It stays, whole.
    cluster[0].put("/stock/key/b", r#"{"value":2}"#).expect(200);
    cluster[1].get("/stock/store").expect_body(r#"{"a":1,"b":2}"#);
    wait_until("the other is promoted", RECOVERY, || {
        strong(&cluster[0], &["promote", &other]).code() == Some(0)
    });
    let left = setup().run(&["leave", &last]).1;
    assert_eq!(left.code(), Some(0), "{left:?}");
    assert_eq!(cluster.wait(0).code(), Some(0));
    wait_until_writable(&cluster[1], TABLE);
    assert_eq!(those(&group(&cluster[1]), "voters"), [other]);
    cluster[1].delete("/stock/key/writable").expect(200);
    cluster[1].get("/stock/store").expect_body(r#"{"a":1,"b":2}"#);
}

/// Two logs have no order between them, so a node with a group of its own is not taken into another, and neither loses anything.
#[test]
fn a_node_that_joins_with_a_group_of_its_own_is_not_taken_in_and_nothing_is_lost() {
    let mut cluster = Cluster::start(1);
    make(&cluster[0], TABLE);
    cluster[0].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    let foreign = setup().start();
    make(&foreign, "other");
    foreign.put("/other/key/b", r#"{"value":2}"#).expect(200);
    let joining = foreign.terminate().0;
    let joined = cluster.add(joining);
    let address = cluster.address(joined);
    wait_until("the leader finds that it belongs to another group", RECOVERY, || {
        those(&group(&cluster[0]), "foreign") == [address.clone()]
    });
    let members = setup().run(&["members", &cluster.address(0)]).1;
    assert!(members.stdout.contains("not taken in") && members.stdout.contains(&address), "{members:?}");
    assert!(cluster[0].log().contains("empty data directory"), "{}", cluster[0].log());
    // Both go on with what they have.
    cluster[0].put("/stock/key/c", r#"{"value":3}"#).expect(200);
    cluster[joined].put("/other/key/d", r#"{"value":4}"#).expect(200);
    cluster[0].get("/stock/store").expect_body(r#"{"a":1,"c":3}"#);
    cluster[joined].get("/other/store").expect_body(r#"{"b":2,"d":4}"#);

    // The remedy.
    let rows = cluster[joined].get("/_/export?read=stale").expect(200).text().to_owned();
    let rows: Vec<_> = rows.lines().filter(|line| line.contains(r#""key":"#)).map(without_version).collect();
    cluster.kill(joined);
    std::fs::remove_dir_all(cluster.setup(joined).home().join("storage.db")).expect("it can be removed");
    cluster.restart(joined);
    make(&cluster[0], "other");
    wait_until_strong(&cluster[joined], "other");
    // It may just be taken into the group.
    wait_until("its rows are imported", RECOVERY, || {
        cluster[joined].post("/_/import", rows.join("\n")).status == 200
    });
    wait_for(&cluster[0], "/other/store", r#"{"b":2,"d":4}"#);
    wait_for(&cluster[joined], "/stock/store", r#"{"a":1,"c":3}"#);
}

/// A line of an export as a strong table takes it.
fn without_version(line: &str) -> String {
    let mut row: serde_json::Value = serde_json::from_str(line).expect("a row");
    let row = row.as_object_mut().expect("an object");
    row.retain(|name, _| matches!(name.as_str(), "table" | "key" | "value"));
    serde_json::to_string(row).expect("a row can be written")
}
