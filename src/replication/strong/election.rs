//! Stands for election early where the leader is gone for certain.
//!
//! openraft stands for election when it has heard nothing of the leader for twice the election timeout, as packets may be late. If the leader's
//! process dies, its links end at once. A voter that has had no link with the leader for as long as the leader's lease lasts need wait no longer:
//! no other voter that has lost it refuses its vote from then on. One that still hears of the leader does refuse it.

use std::{sync::Weak, time::Duration};

use tokio::time::sleep;
use tracing::debug;

use super::{
    group::Inner,
    member::{ELECTION_MS, Member},
    types::Metrics,
};
use crate::core::clock::NodeId;

/// After a lease, voters stand one after the other within this time, in milliseconds: the first is to be elected before the second stands.
const SPREAD_MS: u64 = 150;

/// A leader in its term.
type Leadership = (NodeId, u64);

/// Stands for election each time the leader is lost, until the node stops.
pub async fn stand_early(group: Weak<Inner>, member: Weak<Member>) {
    let receivers = group.upgrade().zip(member.upgrade());
    let Some((mut links, mut metrics)) =
        receivers.map(|(group, member)| (group.parts.replication.link_changes(), member.metrics()))
    else {
        return;
    };
    // Whom this node has stood against already: openraft goes on from there.
    let mut stood = None;
    loop {
        links.mark_unchanged();
        metrics.mark_unchanged();
        let Some(lost) = look(&group, &member) else { return };
        if lost.is_some() && lost != stood {
            let Some(pause) = group.upgrade().and_then(|group| pause(&group)) else { return };
            sleep(pause).await;
            let (Some(again), Some(member)) = (look(&group, &member), member.upgrade()) else { return };
            if again == lost && !member.machine.needs_repair() {
                stood = lost;
                debug!("stands for election: there is no link with the leader");
                // It fails only when openraft has stopped.
                if member.raft.trigger().elect().await.is_err() {
                    return;
                }
            }
            // What changed meanwhile is looked at.
            continue;
        }
        let changed = tokio::select! {
            changed = links.changed() => changed,
            changed = metrics.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// How long the leader must have been lost: the longest lease, and then at random.
fn pause(group: &Inner) -> Option<Duration> {
    let spread_ms = group.parts.store.environment().random().ok()? % SPREAD_MS;
    Some(Duration::from_millis(ELECTION_MS.end + spread_ms))
}

/// The leader that is lost, if it is. `None` if the node stops.
fn look(group: &Weak<Inner>, member: &Weak<Member>) -> Option<Option<Leadership>> {
    let (group, member) = (group.upgrade()?, member.upgrade()?);
    if group.is_stopping() {
        return None;
    }
    let metrics = member.metrics().borrow().clone();
    let own = group.parts.store.node();
    Some(lost_leader(&metrics, own, |node| {
        group.parts.replication.links().iter().any(|link| link.node == node)
    }))
}

fn lost_leader(metrics: &Metrics, own: NodeId, is_linked: impl Fn(NodeId) -> bool) -> Option<Leadership> {
    let leader = metrics.current_leader.filter(|leader| *leader != own && !is_linked(*leader))?;
    let is_voter = metrics.membership_config.membership().voter_ids().any(|voter| voter == own);
    is_voter.then_some((leader, metrics.current_term))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use openraft::{Membership, StoredMembership};

    use super::*;
    use crate::replication::strong::types::Node;

    #[test]
    fn a_leader_is_lost_to_a_voter_without_a_link_to_it() {
        let (own, leader, learner) = (NodeId(1), NodeId(2), NodeId(3));
        let nodes: BTreeMap<_, _> = [own, leader, learner].map(|node| (node, Node::default())).into();
        let membership = Membership::new(vec![[own, leader].into()], nodes);
        let mut metrics = Metrics::new_initial(own);
        metrics.membership_config = Arc::new(StoredMembership::new(None, membership));
        metrics.current_term = 4;
        assert_eq!(lost_leader(&metrics, own, |_| false), None, "none is known");
        metrics.current_leader = Some(leader);
        assert_eq!(lost_leader(&metrics, own, |_| false), Some((leader, 4)));
        assert_eq!(lost_leader(&metrics, own, |node| node == leader), None);
        assert_eq!(lost_leader(&metrics, learner, |_| false), None, "a learner cannot be elected");
        metrics.current_leader = Some(own);
        assert_eq!(lost_leader(&metrics, own, |_| false), None);
    }
}
