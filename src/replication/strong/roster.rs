//! Who belongs to the group: the leader makes every member of the cluster a learner, up to five of them voters, and
//! removes those that the cluster forgot or that left. One change at a time, by joint consensus.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Weak,
    time::Duration,
};

use openraft::ChangeMembers;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    group::{Inner, REQUEST_MAX},
    member::Member,
    operate::{self, check_can_spare},
    rpc::{Call, CallAnswer},
    types::{Metrics, Node},
};
use crate::{
    core::{clock::NodeId, protocol::progress::is_majority},
    replication::Replication,
};

/// How often the leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a change may take before the leader looks again.
pub(super) const CHANGE_MAX: Duration = Duration::from_secs(10);
/// A node that belongs to another group is asked again after so long.
const FOREIGN_FOR: Duration = Duration::from_secs(10);
/// Most voters: every write waits for a majority of them.
pub(super) const VOTERS_MAX: usize = 5;
/// A learner becomes a voter once its log is at most this many entries behind. A voter that has nothing would count
/// for a majority that holds nothing.
pub(super) const LAG_MAX: u64 = 10;

/// A change of the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    AddLearner(NodeId),
    Promote(NodeId),
    /// A voter that the cluster no longer has.
    RemoveVoter(NodeId),
    RemoveLearner(NodeId),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner(node) => write!(f, "{node} is a learner"),
            Self::Promote(node) => write!(f, "{node} votes"),
            Self::RemoveVoter(node) | Self::RemoveLearner(node) => write!(f, "{node} is removed"),
        }
    }
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
    /// Learners that an operator made so.
    demoted: BTreeSet<NodeId>,
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
        let nodes = metrics.membership_config.membership().nodes();
        let learners: Vec<_> = nodes.filter(|(node, _)| !voters.contains(node)).collect();
        Self {
            cluster,
            linked: linked.chain([own]).collect(),
            voters,
            demoted: learners.iter().filter(|(_, known)| known.is_demoted).map(|(node, _)| **node).collect(),
            learners: learners.into_iter().map(|(node, _)| *node).collect(),
            caught_up: caught_up(metrics),
            own: Some(own),
        }
    }

    /// Has nodes that left the group to leave the cluster not taken in again. As long as one is in the group, it may be refused to leave, and nobody is
    /// to take its place.
    fn leave_out(&mut self, has_asked_to_leave: impl Fn(NodeId) -> bool) {
        let Self { cluster, voters, learners, .. } = self;
        let is_in_group = |node: &NodeId| voters.contains(node) || learners.contains(node);
        cluster.retain(|node| is_in_group(node) || !has_asked_to_leave(*node));
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
        let can_spare = |node: &&NodeId| check_can_spare(&self.voters, **node, &self.linked).is_ok();
        let gone = self.voters.iter().filter(is_gone).find(can_spare).map(|node| Change::RemoveVoter(*node));
        let kept = self.voters.iter().filter(|node| self.cluster.contains(node)).count();
        let wanted = voters_wanted(self.cluster.len());
        // What an operator made a learner votes again only where voters were lost and those that remain are few.
        let is_lack = self.voters.iter().any(|node| is_gone(&node)) && !is_majority(kept, wanted);
        let mut able = self.learners.iter().filter(can_vote);
        let promoted = able.clone().find(|node| !self.demoted.contains(node));
        let promoted =
            promoted.or_else(|| able.next().filter(|_| is_lack)).map(|node| Change::Promote(*node));
        // The one that takes a voter's place comes first, if there is one: a majority must not shrink before.
        if kept < wanted { promoted.or(gone) } else { gone }
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
pub async fn keep(group: Weak<Inner>, member: Weak<Member>) {
    let mut foreign = BTreeMap::new();
    let mut unfinished = None;
    loop {
        sleep(LOOK_EVERY).await;
        let (Some(group), Some(member)) = (group.upgrade(), member.upgrade()) else { return };
        let metrics = member.metrics().borrow().clone();
        if metrics.running_state.is_err() {
            return;
        }
        let is_settled = metrics.membership_config.membership().get_joint_config().len() == 1;
        if !member.is_leader() || !is_settled {
            // Whoever made the first step of a change may be about to make the second.
            let seen = metrics.membership_config.log_id().filter(|_| member.is_leader());
            if seen.is_some() && std::mem::replace(&mut unfinished, seen) == seen {
                finish(&member).await;
            }
            continue;
        }
        unfinished = None;
        let mut view = View::of(&metrics, &group.parts.replication, group.parts.store.node());
        foreign
            .retain(|node, since: &mut Instant| view.linked.contains(node) && since.elapsed() < FOREIGN_FOR);
        view.cluster.retain(|node| !foreign.contains_key(node));
        view.leave_out(|node| member.others.is_retired(node));
        let Some(change) = view.change() else { continue };
        if let Change::AddLearner(node) = change {
            let is_foreign = group.is_foreign(&member, node).await;
            member.others.note_foreign(node, is_foreign);
            if is_foreign {
                foreign.insert(node, Instant::now());
                continue;
            }
        }
        match timeout(CHANGE_MAX, make(&member, change.clone())).await {
            Ok(Ok(())) => info!("the group of the strong tables changed: {change}"),
            Ok(Err(why)) => warn!(why, "the group of the strong tables could not be changed: {change}"),
            Err(_) => warn!("the group of the strong tables takes long to change: {change}"),
        }
    }
}

/// Makes the second step of a change whose first step is committed. openraft leaves it to whoever began the change, who may be gone: then no
/// other change could be made.
async fn finish(member: &Member) {
    match timeout(CHANGE_MAX, operate::finish(member)).await {
        Ok(Ok(())) => info!("finished a change of the group of the strong tables that was begun before"),
        Ok(Err(why)) => debug!(why, "a change of the group of the strong tables cannot be finished yet"),
        Err(_) => {
            warn!("a change of the group of the strong tables that was begun before takes long to finish")
        }
    }
}

impl Inner {
    /// Whether a node takes part in another group. It has rows of its own in strong tables, which cannot be merged with those of this group.
    async fn is_foreign(&self, member: &Member, node: NodeId) -> bool {
        let group = self.call(node, Call::Group, REQUEST_MAX).await;
        matches!(group, Ok(CallAnswer::Group(Some((group, true)))) if group != member.group)
    }
}

async fn make(member: &Member, change: Change) -> std::result::Result<(), String> {
    let raft = &member.raft;
    let changed = match change {
        // Not blocking: openraft takes a learner for caught up that has nothing (0.9.25).
        Change::AddLearner(node) => raft.add_learner(node, Node::default(), false).await,
        Change::Promote(node) => return operate::promote(member, node).await,
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
    use std::sync::Arc;

    use openraft::CommittedLeaderId;

    use super::*;
    use crate::replication::strong::{group::tests::Pair, types::LogId};

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn view(cluster: &[u64], voters: &[u64], learners: &[u64], caught_up: &[u64]) -> View {
        View {
            cluster: nodes(cluster),
            linked: nodes(cluster),
            voters: nodes(voters),
            learners: nodes(learners),
            demoted: BTreeSet::new(),
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

    /// A voter whose leave was refused could be in the middle of being replaced.
    #[test]
    fn nobody_takes_the_place_of_a_voter_that_asked_to_leave_before_it_has_left() {
        let asked = |cluster: &[u64], voters: &[u64], learners: &[u64]| {
            let mut view = view(cluster, voters, learners, learners);
            view.leave_out(|node| node == NodeId(3));
            view.change()
        };
        assert_eq!(asked(&[1, 2, 3, 4], &[1, 2, 3], &[4]), None);
        assert_eq!(asked(&[1, 2, 3, 4], &[1, 2], &[4]), Some(Change::Promote(NodeId(4))), "it has left");
        assert_eq!(asked(&[1, 2, 3], &[1, 2], &[]), None, "it is not taken in again");
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
    fn what_an_operator_demoted_stays_a_learner_until_too_few_voters_remain() {
        let demoted = |cluster: &[u64], voters: &[u64], learners: &[u64], demoted: &[u64]| {
            View { demoted: nodes(demoted), ..view(cluster, voters, learners, learners) }.change()
        };
        assert_eq!(demoted(&[1, 2, 3], &[1, 2], &[3], &[3]), None);
        assert_eq!(demoted(&[1, 2, 3], &[1], &[2, 3], &[2, 3]), None, "as the operator asked");
        assert_eq!(demoted(&[1, 2, 3, 4], &[1, 2], &[3, 4], &[3]), Some(Change::Promote(NodeId(4))));
        let lack = demoted(&[1, 3, 4], &[1, 2], &[3, 4], &[3, 4]);
        assert_eq!(lack, Some(Change::Promote(NodeId(3))), "one of two voters is gone");
    }

    #[test]
    fn a_voter_that_is_gone_is_replaced_before_it_is_removed() {
        let replaced = view(&[1, 2, 4], &[1, 2, 3], &[4], &[4]);
        assert_eq!(replaced.change(), Some(Change::Promote(NodeId(4))));
        let removed = view(&[1, 2, 4], &[1, 2, 3, 4], &[], &[]);
        assert_eq!(removed.change(), Some(Change::RemoveVoter(NodeId(3))));
        assert_eq!(view(&[1, 2], &[1, 2, 3], &[], &[]).change(), Some(Change::RemoveVoter(NodeId(3))));
        assert_eq!(view(&[1, 2], &[1, 2], &[3], &[]).change(), Some(Change::RemoveLearner(NodeId(3))));
        // With the voter that is gone two of the two that are left are needed.
        let mut demoted = view(&[1, 2, 4], &[1, 2, 3], &[4], &[4]);
        demoted.demoted = nodes(&[4]);
        assert_eq!(demoted.change(), Some(Change::RemoveVoter(NodeId(3))));
        let mut few = view(&[1, 2], &[1, 2, 3], &[], &[]);
        few.linked.remove(&NodeId(2));
        assert_eq!(few.change(), None, "one of two could not confirm it");
        let mut unlinked = view(&[1, 2, 4], &[1, 2], &[], &[]);
        unlinked.linked.remove(&NodeId(4));
        assert_eq!(unlinked.change(), None, "nobody can reach it");
    }

    /// Voters are changed in two steps, and openraft leaves the second to whoever began. If that one gave up waiting, or its node was replaced as
    /// the leader, the group stayed between the two for ever: no member was taken in or replaced any more.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_of_voters_that_was_left_halfway_is_finished() {
        let pair = Pair::start().await;
        let (own, other) = (pair.node.parts.store.node(), pair.other.store.node());
        let mut metrics = pair.leader.metrics();
        let configs = |metrics: &Metrics| metrics.membership_config.membership().get_joint_config().clone();
        pair.voter.confirm(false);
        let removed = ChangeMembers::RemoveVoters([other].into());
        let mut change = Box::pin(pair.leader.raft.change_membership(removed, true));
        tokio::select! {
            changed = &mut change => panic!("{changed:?}"),
            begun = metrics.wait_for(|metrics| configs(metrics).len() == 2) => drop(begun.expect("openraft runs")),
        }
        drop(change);
        pair.voter.confirm(true);
        let keeping = tokio::spawn(keep(Arc::downgrade(&pair.node.strong.0), Arc::downgrade(&pair.leader)));
        let settled = metrics.wait_for(|metrics| configs(metrics) == [BTreeSet::from([own])]);
        timeout(CHANGE_MAX, settled).await.expect("it is finished").expect("openraft runs");
        keeping.abort();
        pair.stop().await;
    }
}
