//! What a cluster says of the group of its strong tables.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    cluster::{Cluster, setup},
    wait_until,
};

const GROUP_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn every_node_and_the_members_command_show_who_leads_and_who_votes() {
    let cluster = Cluster::start(3);
    cluster.wait_until_ready_and_linked();
    cluster[1].put("/_/tables/stock", r#"{"mode":"strong"}"#).expect(201);
    let group = |member: usize| cluster[member].view()["strong"].clone();
    wait_until("all three know the three voters and the leader", GROUP_TIMEOUT, || {
        (0..3).all(|member| {
            let group = group(member);
            group["leader"].is_object() && group["voters"].as_array().map(Vec::len) == Some(3)
        })
    });
    let leaders: Vec<Value> = (0..3).map(|member| group(member)["leader"]["address"].clone()).collect();
    assert!(leaders.iter().all(|leader| *leader == leaders[0]), "{leaders:?}");
    let leads: Vec<usize> = (0..3).filter(|member| group(*member)["leads"] == true).collect();
    let [leader] = leads[..] else { panic!("{leads:?}") };
    assert_eq!(leaders[0], cluster.address(leader));
    let follower = (leader + 1) % 3;
    assert_eq!(group(follower)["voters"][0]["matched_index"], Value::Null, "only the leader knows");
    assert!(
        group(leader)["voters"]
            .as_array()
            .is_some_and(|voters| voters.iter().all(|it| it["matched_index"].is_u64()))
    );
    for asked in [leader, follower] {
        let (_, outcome) = setup().run(&["members", &cluster.address(asked)]);
        assert_eq!(outcome.code(), Some(0), "{outcome:?}");
        let line = |name: &str| {
            let line = outcome.stdout.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("no {name}: {}", outcome.stdout))
        };
        assert!(line("STRONG TABLES").contains("group "), "{}", outcome.stdout);
        assert!(line("leader").contains(&cluster.address(leader)), "{}", outcome.stdout);
        for member in 0..3 {
            assert!(line("voters").contains(&cluster.address(member)), "{}", outcome.stdout);
        }
    }
}
