//! The figures of the strong tables' group, which has none while it is asleep, or of the etcd in its place.

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{Encoded, encode_one};
use crate::node::{EtcdView, GroupView, ProposalResult};

/// Exports the figures.
pub fn encode(encoder: &mut DescriptorEncoder, group: Option<&GroupView>) -> Encoded {
    let Some(group) = group else { return Ok(()) };
    let lag = |matched: Option<u64>| matched.map(|matched| group.log_index.saturating_sub(matched));
    let gauges = [
        ("strong_leader", "1 while this node leads the strong tables", u64::from(group.leads)),
        ("strong_term", "The term of the strong tables' log", group.term),
        ("strong_applied_index", "The last entry of the log that this node has applied", group.applied_index),
        ("strong_log_index", "The last entry of the log that this node has", group.log_index),
    ];
    for (name, help, value) in gauges {
        encode_one(encoder, name, help, &ConstGauge::new(value))?;
    }
    if group.leads {
        let differing = group.members.iter().filter(|member| member.differs == Some(true)).count();
        let help = "Members that have other rows than this leader at the same index";
        encode_one(encoder, "strong_differing_members", help, &ConstGauge::new(differing as u64))?;
    }
    let counters = [
        ("strong_read_index", "Read indexes that the leader gave this node", group.read_indexes),
        ("strong_snapshots_sent", "Snapshots that this node sent to another", group.snapshots),
        ("strong_snapshot_rows_sent", "Rows sent for these snapshots", group.snapshot_rows),
    ];
    for (name, help, value) in counters {
        encode_one(encoder, name, help, &ConstCounter::new(value))?;
    }
    let help = "Requests that this node decided as the leader";
    let mut family = encoder.encode_descriptor("strong_proposals", help, None, MetricType::Counter)?;
    for (result, count) in ProposalResult::ALL.into_iter().zip(group.proposals) {
        ConstCounter::new(count).encode(family.encode_family(&[("result", result.name())])?)?;
    }
    // Only the leader knows.
    let help = "Entries that the log of a member is behind the leader's";
    let mut family = encoder.encode_descriptor("strong_member_lag_entries", help, None, MetricType::Gauge)?;
    for member in &group.members {
        let Some(lag) = lag(member.matched_index) else { continue };
        let labels = [("node", member.node.to_string()), ("role", role(member.is_voter).to_owned())];
        ConstGauge::new(lag).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Exports the figures of the etcd that keeps the strong tables, if one does.
pub fn encode_etcd(encoder: &mut DescriptorEncoder, etcd: Option<&EtcdView>) -> Encoded {
    let Some(etcd) = etcd else { return Ok(()) };
    let gauges = [
        ("strong_etcd_up", "1 while the etcd of the strong tables answers", u64::from(etcd.answers)),
        (
            "strong_etcd_applied_revision",
            "The last commit in etcd that this node has applied",
            etcd.applied_revision,
        ),
        (
            "strong_etcd_known_revision",
            "The last commit in etcd that this node has heard of",
            etcd.known_revision,
        ),
    ];
    for (name, help, value) in gauges {
        encode_one(encoder, name, help, &ConstGauge::new(value))?;
    }
    let counters = [
        ("strong_etcd_commits", "Commits that this node made in etcd", etcd.commits),
        (
            "strong_etcd_conflicts",
            "Commits that were evaluated anew, because another node's came first",
            etcd.conflicts,
        ),
        (
            "strong_etcd_resyncs",
            "Times that this node read all rows from etcd, because it had missed commits",
            etcd.resyncs,
        ),
    ];
    for (name, help, value) in counters {
        encode_one(encoder, name, help, &ConstCounter::new(value))?;
    }
    Ok(())
}

fn role(is_voter: bool) -> &'static str {
    if is_voter { "voter" } else { "learner" }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{collector::Collector, encoding::text, registry::Registry};

    use super::*;
    use crate::{core::clock::NodeId, node::GroupMember};

    #[derive(Debug)]
    struct Figures(Option<GroupView>, Option<EtcdView>);

    impl Collector for Figures {
        fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
            encode(&mut encoder, self.0.as_ref())?;
            encode_etcd(&mut encoder, self.1.as_ref())
        }
    }

    fn page(group: Option<GroupView>, etcd: Option<EtcdView>) -> String {
        let mut registry = Registry::with_prefix("dynarust");
        registry.register_collector(Box::new(Figures(group, etcd)));
        let mut page = String::new();
        text::encode(&mut page, &registry).expect("written to a string");
        page
    }

    #[test]
    fn a_leader_shows_how_far_each_member_is_behind_and_a_sleeping_group_nothing() {
        let member = |node, is_voter, matched_index| GroupMember {
            node: NodeId(node),
            is_voter,
            is_demoted: false,
            matched_index,
            differs: Some(node == 2),
        };
        let group = GroupView {
            leads: true,
            term: 4,
            applied_index: 11,
            log_index: 12,
            members: vec![member(1, true, Some(12)), member(2, false, Some(9)), member(3, true, None)],
            proposals: [7, 2, 0, 1],
            read_indexes: 5,
            snapshots: 1,
            snapshot_rows: 30,
            ..GroupView::default()
        };
        let page = page(Some(group), None);
        for line in [
            "dynarust_strong_leader 1",
            "dynarust_strong_term 4",
            "dynarust_strong_applied_index 11",
            "dynarust_strong_log_index 12",
            "dynarust_strong_proposals_total{result=\"committed\"} 7",
            "dynarust_strong_proposals_total{result=\"refused\"} 2",
            "dynarust_strong_proposals_total{result=\"unknown\"} 1",
            "dynarust_strong_differing_members 1",
            "dynarust_strong_read_index_total 5",
            "dynarust_strong_snapshots_sent_total 1",
            "dynarust_strong_snapshot_rows_sent_total 30",
            "dynarust_strong_member_lag_entries{node=\"0000000000000002\",role=\"learner\"} 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("0000000000000003"), "{page}");
        assert!(!self::page(None, None).contains("strong"));
    }
    #[test]
    fn an_etcd_shows_whether_it_answers_and_how_far_the_node_is() {
        let etcd = EtcdView {
            answers: true,
            applied_revision: 7,
            known_revision: 9,
            commits: 4,
            conflicts: 2,
            resyncs: 1,
            ..EtcdView::default()
        };
        let page = page(None, Some(etcd));
        for line in [
            "dynarust_strong_etcd_up 1",
            "dynarust_strong_etcd_applied_revision 7",
            "dynarust_strong_etcd_known_revision 9",
            "dynarust_strong_etcd_commits_total 4",
            "dynarust_strong_etcd_conflicts_total 2",
            "dynarust_strong_etcd_resyncs_total 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }
}
