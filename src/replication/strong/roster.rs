//! Who belongs to the group: the leader makes every member of the cluster a learner, up to five of them voters, and
//! removes those that the cluster forgot or that left. One change at a time, by joint consensus.

use std::{collections::BTreeSet, sync::Weak, time::Duration};

use openraft::{ChangeMembers, ServerState};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    member::Member,
    types::{Metrics, Node},
};
use crate::{core::clock::NodeId, replication::Replication};

/// How often the leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a change may take before the leader looks again.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// Most voters: every write waits for a majority of them.
const VOTERS_MAX: usize = 5;
/// A learner becomes a voter once its log is at most this many entries behind. A voter that has nothing would count
/// for a majority that holds nothing.
const LAG_MAX: u64 = 10;

/// A change of the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    AddLearner(NodeId),
    Promote(NodeId),
    /// A voter that the cluster no longer has.
    RemoveVoter(NodeId),
    RemoveLearner(NodeId),
}

/// How many of `members` members vote: an odd number, because one more makes no majority larger; but two of two, so that
/// each write is on both.
pub fn voters_wanted(members: usize) -> usize {
    match members {
        0..=2 => members,
        _ => (members - (members + 1) % 2).min(VOTERS_MAX),
    }
}

/// What the leader sees.
#[derive(Clone, Debug, Default)]
struct View {
    /// The members of the cluster, this node included; and those it has a link with.
    cluster: BTreeSet<NodeId>,
    linked: BTreeSet<NodeId>,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    /// Learners whose log is about as long as the leader's.
    caught_up: BTreeSet<NodeId>,
    own: Option<NodeId>,
}

impl View {
    fn of(metrics: &Metrics, replication: &Replication, own: NodeId) -> Self {
        let membership = replication.membership();
        let present = membership.peers.iter().filter(|peer| !peer.member.state.is_forgotten());
        let cluster = present.map(|peer| peer.member.node).chain([own]).collect();
        let linked = membership.peers.iter().filter(|peer| peer.linked).map(|peer| peer.member.node);
        let voters: BTreeSet<_> = metrics.membership_config.membership().voter_ids().collect();
        let nodes = metrics.membership_config.membership().nodes().map(|(node, _)| *node);
        let learners = nodes.filter(|node| !voters.contains(node)).collect();
        Self {
            cluster,
            linked: linked.chain([own]).collect(),
            voters,
            learners,
            caught_up: caught_up(metrics),
            own: Some(own),
        }
    }

    /// The next change, if one is due.
    fn change(&self) -> Option<Change> {
        let is_gone = |node: &&NodeId| !self.cluster.contains(node) && self.own != Some(**node);
        if let Some(gone) = self.learners.iter().find(is_gone) {
            return Some(Change::RemoveLearner(*gone));
        }
        let is_new = |node: &&NodeId| !self.voters.contains(node) && !self.learners.contains(node);
        if let Some(new) = self.cluster.iter().filter(|node| self.linked.contains(node)).find(is_new) {
            return Some(Change::AddLearner(*new));
        }
        let can_vote = |node: &&NodeId| self.caught_up.contains(node) && self.linked.contains(node);
        let promoted = self.learners.iter().find(can_vote).map(|node| Change::Promote(*node));
        let gone = self.voters.iter().find(is_gone).map(|node| Change::RemoveVoter(*node));
        let kept = self.voters.iter().filter(|node| self.cluster.contains(node)).count();
        // The one that takes a voter's place comes first, if there is one: a majority must not shrink before.
        if kept < voters_wanted(self.cluster.len()) { promoted.or(gone) } else { gone }
    }
}

/// The members whose log is about as long as the leader's. Only the leader knows.
fn caught_up(metrics: &Metrics) -> BTreeSet<NodeId> {
    let last = metrics.last_log_index.unwrap_or_default();
    let replication = metrics.replication.iter().flatten();
    let caught_up =
        replication.filter(|(_, matched)| matched.is_some_and(|matched| matched.index + LAG_MAX >= last));
    caught_up.map(|(node, _)| *node).collect()
}

/// Keeps the roster as long as the member is there.
pub async fn keep(member: Weak<Member>, replication: Replication, own: NodeId) {
    loop {
        sleep(LOOK_EVERY).await;
        let Some(member) = member.upgrade() else { return };
        let metrics = member.metrics().borrow().clone();
        if metrics.running_state.is_err() {
            return;
        }
        // No other change may be on its way.
        let is_settled = metrics.membership_config.membership().get_joint_config().len() == 1;
        if metrics.state != ServerState::Leader || !is_settled {
            continue;
        }
        let mut view = View::of(&metrics, &replication, own);
        view.cluster.retain(|node| !member.is_retired(*node));
        let Some(change) = view.change() else { continue };
        match timeout(CHANGE_MAX, make(&member, change.clone())).await {
            Ok(Ok(())) => info!(?change, "the group of the strong tables changed"),
            Ok(Err(why)) => warn!(?change, why, "the group of the strong tables could not be changed"),
            Err(_) => warn!(?change, "the group of the strong tables takes long to change"),
        }
    }
}

async fn make(member: &Member, change: Change) -> std::result::Result<(), String> {
    let raft = &member.raft;
    let changed = match change {
        // Not blocking: openraft takes a learner for caught up that has nothing (0.9.25).
        Change::AddLearner(node) => raft.add_learner(node, Node::default(), false).await,
        Change::Promote(node) => {
            raft.change_membership(ChangeMembers::AddVoterIds([node].into()), true).await
        }
        Change::RemoveVoter(node) => {
            raft.change_membership(ChangeMembers::RemoveVoters([node].into()), false).await
        }
        Change::RemoveLearner(node) => {
            raft.change_membership(ChangeMembers::RemoveNodes([node].into()), false).await
        }
    };
    changed.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::replication::strong::types::LogId;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn view(cluster: &[u64], voters: &[u64], learners: &[u64], caught_up: &[u64]) -> View {
        View {
            cluster: nodes(cluster),
            linked: nodes(cluster),
            voters: nodes(voters),
            learners: nodes(learners),
            caught_up: nodes(caught_up),
            own: Some(NodeId(1)),
        }
    }

    #[test]
    fn an_odd_number_votes_but_two_of_two() {
        let wanted: Vec<_> = (1..=8).map(voters_wanted).collect();
        assert_eq!(wanted, [1, 2, 3, 3, 5, 5, 5, 5]);
    }

    #[test]
    fn members_become_learners_and_then_voters_once_they_have_the_log() {
        assert_eq!(view(&[1, 2], &[1], &[], &[]).change(), Some(Change::AddLearner(NodeId(2))));
        assert_eq!(view(&[1, 2], &[1], &[2], &[]).change(), None, "it has nothing yet");
        assert_eq!(view(&[1, 2], &[1], &[2], &[2]).change(), Some(Change::Promote(NodeId(2))));
        assert_eq!(view(&[1, 2, 3, 4], &[1, 2, 3], &[4], &[4]).change(), None, "three of four vote");
    }

    /// A voter that has nothing counts for a majority that holds nothing, and openraft (0.9.25) takes a learner that has nothing for one that
    /// has caught up.
    #[test]
    fn a_learner_has_caught_up_once_its_log_is_about_as_long_as_the_leaders() {
        let at = |index| Some(LogId::new(CommittedLeaderId::new(1, NodeId(1)), index));
        let mut metrics = Metrics::new_initial(NodeId(1));
        metrics.last_log_index = Some(100);
        let matched =
            [(1, at(100)), (2, None), (3, at(0)), (4, at(100 - LAG_MAX - 1)), (5, at(100 - LAG_MAX))];
        metrics.replication = Some(matched.into_iter().map(|(node, at)| (NodeId(node), at)).collect());
        assert_eq!(caught_up(&metrics), nodes(&[1, 5]));
        metrics.last_log_index = Some(1);
        metrics.replication = Some([(NodeId(2), None)].into());
        assert_eq!(caught_up(&metrics), nodes(&[]), "it has nothing, even of a short log");
    }

    #[test]
    fn a_voter_that_is_gone_is_replaced_before_it_is_removed() {
        let replaced = view(&[1, 2, 4], &[1, 2, 3], &[4], &[4]);
        assert_eq!(replaced.change(), Some(Change::Promote(NodeId(4))));
        let removed = view(&[1, 2, 4], &[1, 2, 3, 4], &[], &[]);
        assert_eq!(removed.change(), Some(Change::RemoveVoter(NodeId(3))));
        assert_eq!(view(&[1, 2], &[1, 2, 3], &[], &[]).change(), Some(Change::RemoveVoter(NodeId(3))));
        assert_eq!(view(&[1, 2], &[1, 2], &[3], &[]).change(), Some(Change::RemoveLearner(NodeId(3))));
        let mut unlinked = view(&[1, 2, 4], &[1, 2], &[], &[]);
        unlinked.linked.remove(&NodeId(4));
        assert_eq!(unlinked.change(), None, "nobody can reach it");
    }
}
