//! The floor: the instant up to which every member is known to have everything that anyone wrote. A tombstone below it
//! has done its work and may be removed.
//!
//! Two members whose roots are equal at an instant T hold the same rows up to T. Each keeps the last such T per other
//! member and announces the lowest as its *guarantee*: everything it has up to there, all have. The floor is the lowest
//! guarantee of all members. No write at or below it can appear later, because a member raises its clock above an
//! instant before it takes its root there.
//!
//! One member's guarantee is not enough: it may have received a write of Q after it compared with P. P's own guarantee
//! says that P compared with Q.
//!
//! A member that is down keeps the floor where it is until it is forgotten. What was removed below the floor stays
//! removed. But the floor itself falls back for new members: one that was forgotten and returns may have old writes
//! that nobody else has. Nothing more may be removed until all have them, or some would accept them and others refuse
//! them.

use std::collections::BTreeMap;

use crate::core::clock::NodeId;

/// What one member knows of the others.
#[derive(Clone, Debug, Default)]
pub struct Floor {
    members: BTreeMap<NodeId, MemberProgress>,
    floor_ms: u64,
    /// The latest instant at which roots were compared.
    compared_ms: u64,
    lowered: u64,
}

/// A comparison of roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparing {
    /// The instant of the roots, in Unix milliseconds.
    pub at_ms: u64,
    /// How often late rows had lowered the floor by then.
    lowered: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct MemberProgress {
    /// The last instant at which its root was equal to ours.
    equal_ms: u64,
    /// The guarantee it announced.
    guarantee_ms: u64,
}

impl Floor {
    /// Sets the other members, without forgotten ones. Nothing is known of new ones.
    ///
    /// A member that is forgotten may have passed on old writes just before, after others were equal. So what is known
    /// of the others is capped at what was known of it, until they are equal again.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        let mut before = std::mem::take(&mut self.members);
        self.members =
            members.into_iter().map(|member| (member, before.remove(&member).unwrap_or_default())).collect();
        if let Some(forgotten_ms) = before.values().map(|progress| progress.equal_ms).min() {
            for progress in self.members.values_mut() {
                progress.equal_ms = progress.equal_ms.min(forgotten_ms);
            }
        }
    }

    /// Records that a member's root was equal to ours, and that both are durable. Ignored if a row older than the
    /// roots' instant arrived since they were compared: they do not show it.
    pub fn equal(&mut self, member: NodeId, compared: Comparing) {
        if let Some(progress) = self.members.get_mut(&member).filter(|_| compared.lowered == self.lowered) {
            progress.equal_ms = progress.equal_ms.max(compared.at_ms);
        }
    }

    /// Records the guarantee that a member announced.
    pub fn announced(&mut self, member: NodeId, guarantee_ms: u64) {
        if let Some(progress) = self.members.get_mut(&member) {
            progress.guarantee_ms = progress.guarantee_ms.max(guarantee_ms);
        }
    }

    /// Withdraws what is known of instants after this one: an older row is about to arrive that members may lack.
    pub fn lower(&mut self, to_ms: u64) {
        for progress in self.members.values_mut().filter(|progress| progress.equal_ms > to_ms) {
            progress.equal_ms = to_ms;
        }
        self.lowered += u64::from(to_ms < self.compared_ms);
    }

    /// Announces that roots of an instant are about to be compared. Pass the result to `equal`.
    pub fn compare(&mut self, at_ms: u64) -> Comparing {
        self.compared_ms = self.compared_ms.max(at_ms);
        Comparing { at_ms, lowered: self.lowered }
    }

    /// The other members.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.members.keys().copied()
    }

    /// Whether a node is one of the other members.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// The guarantee of this node. Alone, it is everything up to `settled_ms`.
    pub fn guarantee_ms(&self, settled_ms: u64) -> u64 {
        self.members.values().map(|progress| progress.equal_ms).min().unwrap_or(settled_ms)
    }

    /// Raises the floor with this node announcing `guarantee_ms`, and returns it.
    pub fn raise(&mut self, guarantee_ms: u64) -> u64 {
        let announced = self.members.values().map(|progress| progress.guarantee_ms).min();
        self.floor_ms = announced.unwrap_or(guarantee_ms).min(guarantee_ms);
        self.floor_ms
    }

    /// The floor, as last raised.
    pub fn floor_ms(&self) -> u64 {
        self.floor_ms
    }

    /// The guarantee that a member last announced.
    pub fn announced_ms(&self, member: NodeId) -> Option<u64> {
        self.members.get(&member).map(|progress| progress.guarantee_ms)
    }

    /// The last instant at which a member was known to hold the same rows.
    pub fn equal_ms(&self, member: NodeId) -> Option<u64> {
        self.members.get(&member).map(|progress| progress.equal_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn equal(floor: &mut Floor, member: NodeId, at_ms: u64) {
        let compared = floor.compare(at_ms);
        floor.equal(member, compared);
    }

    fn raise(floor: &mut Floor, settled_ms: u64) -> u64 {
        floor.raise(floor.guarantee_ms(settled_ms))
    }

    #[test]
    fn alone_the_floor_follows_the_clock() {
        let mut floor = Floor::default();
        assert_eq!(raise(&mut floor, 100), 100);
    }

    #[test]
    fn it_waits_for_every_member_and_for_what_each_announced() {
        let mut floor = Floor::default();
        floor.set_members([A, B]);
        equal(&mut floor, A, 50);
        assert_eq!(raise(&mut floor, 100), 0, "nothing is known of B");
        equal(&mut floor, B, 40);
        assert_eq!(floor.guarantee_ms(100), 40);
        assert_eq!(raise(&mut floor, 100), 0, "neither has announced what it knows of the other");
        floor.announced(A, 30);
        floor.announced(B, 35);
        assert_eq!(raise(&mut floor, 100), 30);
        floor.announced(A, 10);
        assert_eq!(raise(&mut floor, 100), 30, "an announcement stays true");
    }

    #[test]
    fn a_forgotten_member_holds_the_floor_back_no_longer_and_a_new_one_does() {
        let mut floor = Floor::default();
        floor.set_members([A, B]);
        equal(&mut floor, A, 50);
        floor.announced(A, 45);
        floor.set_members([A]);
        assert_eq!(raise(&mut floor, 100), 0, "B may have passed on something old just before");
        equal(&mut floor, A, 50);
        assert_eq!(raise(&mut floor, 100), 45);
        floor.set_members([A, B]);
        equal(&mut floor, A, 80);
        floor.announced(A, 80);
        assert_eq!(raise(&mut floor, 100), 0);
        equal(&mut floor, B, 70);
        floor.announced(B, 60);
        assert_eq!(raise(&mut floor, 100), 60);
    }

    #[test]
    fn a_late_row_withdraws_the_roots_that_did_not_show_it() {
        let mut floor = Floor::default();
        floor.set_members([A]);
        equal(&mut floor, A, 50);
        let compared = floor.compare(60);
        floor.lower(55);
        floor.equal(A, compared);
        assert_eq!(floor.guarantee_ms(100), 50, "the roots of 60 did not show it");
        floor.lower(40);
        assert_eq!(floor.guarantee_ms(100), 40);
        equal(&mut floor, A, 60);
        let compared = floor.compare(70);
        floor.lower(80);
        floor.equal(A, compared);
        assert_eq!(floor.guarantee_ms(100), 70, "later rows withdraw nothing");
    }
}
