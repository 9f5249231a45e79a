//! The group of the strong tables as this node sees it, for the API, and what the node counts.

use std::collections::BTreeSet;

use super::{
    Strong,
    proposer::Proposed,
    row_repair::not_repaired,
    rpc::GroupId,
    types::{Metrics, Node},
};
use crate::{
    core::{clock::NodeId, digest::RootDigest, strong::request::Refusal},
    error::Result,
    storage::counters::Counter,
};

/// What became of a proposal: each request that a node decided as the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalResult {
    /// A majority has it, and it is applied.
    Committed,
    /// It was refused: a condition did not hold, a patch did not apply, a limit was exceeded. Nothing was written.
    Refused,
    /// The node led no more, so that nothing was done. It goes to the next leader.
    NotLeader,
    /// Whether it takes effect is unknown.
    Unknown,
}

impl ProposalResult {
    /// All results.
    pub const ALL: [Self; 4] = [Self::Committed, Self::Refused, Self::NotLeader, Self::Unknown];

    /// The name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::NotLeader => "not_leader",
            Self::Unknown => "unknown",
        }
    }

    fn of(proposed: &Proposed) -> Self {
        match proposed {
            Proposed::Decided(Ok(_)) => Self::Committed,
            Proposed::Decided(Err(Refusal::OutcomeUnknown(_))) => Self::Unknown,
            Proposed::Decided(Err(_)) => Self::Refused,
            Proposed::NotLeader => Self::NotLeader,
        }
    }
}

/// What a member counts, since the node's start.
#[derive(Debug, Default)]
pub struct Counters {
    proposals: [Counter; ProposalResult::ALL.len()],
    /// Read indexes that the leader gave this node. Reads that wait at the same time share one.
    pub read_indexes: Counter,
    /// Snapshots sent.
    pub snapshots: Counter,
    /// Rows sent for them.
    pub snapshot_rows: Counter,
}

impl Counters {
    /// Counts a proposal.
    pub fn count(&self, proposed: &Proposed) {
        self.proposals[ProposalResult::of(proposed) as usize].increment();
    }
}

/// The etcd that keeps the strong tables, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdView {
    /// Where its members listen for clients.
    pub endpoints: Vec<String>,
    /// What the names of the keys in it begin with; `None` before this node belongs to a cluster.
    pub prefix: Option<String>,
    /// Whether it answered the last request.
    pub answers: bool,
    /// The revision of the last commit that this node has applied.
    pub applied_revision: u64,
    /// The revision of the last commit that this node has heard of.
    pub known_revision: u64,
    /// Commits that this node made.
    pub commits: u64,
    /// Commits that it made anew, because another node's came first.
    pub conflicts: u64,
    /// How often it read all rows again, because it had missed changes.
    pub resyncs: u64,
}

/// A leader that no majority has answered for this long, in milliseconds, takes no more requests.
const QUORUM_SILENCE_MS: u64 = 1_500;

/// Whether no majority has answered a leader for so long that it takes no requests.
pub(super) fn is_cut_off(metrics: &Metrics) -> bool {
    metrics.millis_since_quorum_ack.is_some_and(|silent_ms| silent_ms > QUORUM_SILENCE_MS)
}

/// Where the group is, as this node sees it: what each answer of the etcd API tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The group's id.
    pub group: u64,
    /// The term.
    pub term: u64,
    /// The leader, if known; `None` too if it is this node, and no majority has answered it for so long that it takes no requests.
    pub leader: Option<NodeId>,
    /// The index of the last entry in this node's log.
    pub log_index: u64,
    /// The index of the last entry that this node has applied.
    pub applied_index: u64,
}

/// The group of the strong tables, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// The group's id.
    pub group: u64,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Whether this node is the leader.
    pub leads: bool,
    /// Whether it is, and no majority has answered it for so long that it takes no requests.
    pub is_cut_off: bool,
    /// The term.
    pub term: u64,
    /// The index of the last entry that this node has applied.
    pub applied_index: u64,
    /// The index of the last entry in this node's log.
    pub log_index: u64,
    /// The members, ordered by id.
    pub members: Vec<GroupMember>,
    /// Nodes of the cluster that belong to another group. Only the leader knows.
    pub foreign: Vec<NodeId>,
    /// Proposals, in the order of [`ProposalResult::ALL`].
    pub proposals: [u64; ProposalResult::ALL.len()],
    /// Read indexes that the leader gave this node.
    pub read_indexes: u64,
    /// Snapshots sent.
    pub snapshots: u64,
    /// Rows sent for them.
    pub snapshot_rows: u64,
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub node: NodeId,
    /// Whether it votes. Otherwise it is a learner: it receives the log, and no majority needs it.
    pub is_voter: bool,
    /// An operator made it a learner: it does not become a voter by itself.
    pub is_demoted: bool,
    /// Its log is the leader's up to this index. Only the leader knows.
    pub matched_index: Option<u64>,
    /// Its rows were other than the leader's at the same index. It should never be so. Only the leader knows.
    pub differs: Option<bool>,
}

impl Strong {
    /// Why this node serves no strong tables, although there are some.
    pub fn failure(&self) -> Option<String> {
        let is_absent = self.member().is_none() && !self.0.parts.store.strong_tables().is_empty();
        match self.0.parts.store.suspects_strong_loss() {
            _ if is_absent => Some(self.0.asleep().to_string()),
            true => Some(not_repaired().to_string()),
            false => None,
        }
    }

    /// The last entry of the log that this node has applied, and the digest of all strong tables as of there: no two replicas have another at
    /// one index. `None` while this node takes no part, and while the digests are being built. After a crash rows may be newer than the index,
    /// until what was applied before is applied again.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn digest(&self) -> Result<Option<(u64, RootDigest)>> {
        match self.member() {
            Some(member) => member.machine.digest().await,
            None => Ok(None),
        }
    }

    /// Where the group is; `None` while it is asleep, and while this node takes no part in it.
    pub fn position(&self) -> Option<Position> {
        let member = self.member()?;
        let leads = member.is_leader();
        let metrics = member.metrics();
        Some(Position::of(member.group, leads, &metrics.borrow()))
    }

    /// The group; `None` while it is asleep, and while this node takes no part in it.
    pub fn view(&self) -> Option<GroupView> {
        let member = self.member()?;
        let metrics = member.metrics().borrow().clone();
        let leads = member.is_leader();
        let differing = leads.then(|| member.others.differing());
        let view = GroupView::of(member.group, differing.as_ref(), &metrics, &self.0.parts.counters);
        let foreign = if leads { member.others.foreign().into_iter().collect() } else { Vec::new() };
        Some(GroupView { foreign, ..view })
    }
}

impl Position {
    fn of(group: GroupId, leads: bool, metrics: &Metrics) -> Self {
        Self {
            group: group.0,
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| !(leads && is_cut_off(metrics))),
            log_index: metrics.last_log_index.unwrap_or_default(),
            applied_index: metrics.last_applied.map_or(0, |applied| applied.index),
        }
    }
}

impl GroupView {
    /// `differing`: the members that differ from this one, if it leads.
    fn of(
        group: GroupId,
        differing: Option<&BTreeSet<NodeId>>,
        metrics: &Metrics,
        counters: &Counters,
    ) -> Self {
        let voters: BTreeSet<_> = metrics.membership_config.membership().voter_ids().collect();
        let member = |(node, known): (&NodeId, &Node)| {
            let matched = metrics.replication.as_ref().and_then(|matched| matched.get(node));
            GroupMember {
                node: *node,
                is_voter: voters.contains(node),
                is_demoted: known.is_demoted && !voters.contains(node),
                matched_index: matched.map(|matched| matched.map_or(0, |matched| matched.index)),
                differs: differing.map(|differing| differing.contains(node)),
            }
        };
        let mut members: Vec<_> = metrics.membership_config.membership().nodes().map(member).collect();
        members.sort_by_key(|member| member.node);
        Self {
            group: group.0,
            leader: metrics.current_leader,
            leads: differing.is_some(),
            is_cut_off: differing.is_some() && is_cut_off(metrics),
            term: metrics.current_term,
            applied_index: metrics.last_applied.map_or(0, |applied| applied.index),
            log_index: metrics.last_log_index.unwrap_or_default(),
            members,
            foreign: Vec::new(),
            proposals: std::array::from_fn(|result| counters.proposals[result].value()),
            read_indexes: counters.read_indexes.value(),
            snapshots: counters.snapshots.value(),
            snapshot_rows: counters.snapshot_rows.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::{CommittedLeaderId, Membership, StoredMembership};

    use super::*;
    use crate::replication::strong::types::LogId;

    #[test]
    fn a_leader_shows_who_votes_and_how_far_each_has_the_log() {
        let at = |index| LogId::new(CommittedLeaderId::new(3, NodeId(1)), index);
        let nodes: BTreeMap<_, _> = [3, 1, 2].map(|node| (NodeId(node), Node::default())).into();
        let membership = Membership::new(vec![[NodeId(1), NodeId(2)].into()], nodes);
        let mut metrics = Metrics::new_initial(NodeId(1));
        metrics.membership_config = std::sync::Arc::new(StoredMembership::new(Some(at(1)), membership));
        metrics.replication = Some([(NodeId(1), Some(at(9))), (NodeId(2), Some(at(7)))].into());
        (metrics.current_term, metrics.current_leader) = (3, Some(NodeId(1)));
        (metrics.last_applied, metrics.last_log_index) = (Some(at(8)), Some(9));
        let counters = Counters::default();
        counters.count(&Proposed::NotLeader);
        counters.count(&Proposed::Decided(Err(Refusal::NoQuorum(String::new()))));
        counters.count(&Proposed::Decided(Err(Refusal::OutcomeUnknown(String::new()))));
        let view = GroupView::of(GroupId(5), Some(&[NodeId(2)].into()), &metrics, &counters);
        let members: Vec<_> =
            view.members.iter().map(|it| (it.node.0, it.is_voter, it.matched_index)).collect();
        assert_eq!(members, [(1, true, Some(9)), (2, true, Some(7)), (3, false, None)]);
        assert_eq!((view.leader, view.leads, view.term), (Some(NodeId(1)), true, 3));
        assert_eq!((view.applied_index, view.log_index), (8, 9));
        for (silent_ms, is_cut_off) in [(None, false), (Some(1_500), false), (Some(1_501), true)] {
            metrics.millis_since_quorum_ack = silent_ms;
            let view = GroupView::of(GroupId(5), Some(&BTreeSet::new()), &metrics, &counters);
            assert_eq!(view.is_cut_off, is_cut_off);
            let leader = (!is_cut_off).then_some(NodeId(1));
            let position = Position { group: 5, term: 3, leader, log_index: 9, applied_index: 8 };
            assert_eq!(Position::of(GroupId(5), true, &metrics), position);
            assert_eq!(Position::of(GroupId(5), false, &metrics).leader, Some(NodeId(1)));
            assert!(!GroupView::of(GroupId(5), None, &metrics, &counters).is_cut_off);
        }
        let differs: Vec<_> = view.members.iter().map(|it| it.differs).collect();
        assert_eq!(differs, [Some(false), Some(true), Some(false)]);
        assert_eq!(view.proposals, [0, 1, 1, 1]);
    }
}
