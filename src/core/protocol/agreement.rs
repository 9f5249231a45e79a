//! What a node may conclude from a row that it does not have: nothing, unless it can prove that the row was deleted.
//!
//! A row can be absent because it was deleted and its tombstone removed, and just as well because it was lost with a damaged disk, has not
//! arrived yet, or was written on the other side of a partition. So absence alone removes nothing. **A live row leaves a replica in two ways
//! only: a later register of its key takes its place, or a node that is not whole removes it because a whole member proves that it was
//! deleted.**
//!
//! # What a node is
//! ```text
//!             start, with members        equal root with a whole member, all members, or a majority
//!   (start) ------------------------> syncing ----------------------------------------------------> whole
//!      |                                 ^                                                            |
//!      | start, alone                    |  it was forgotten; it was behind a sweep; it lost rows     |
//!      +---------------------------------|----------------------------------------------------------> |
//!                                        +------------------------------------------------------------+
//! ```
//! - **Syncing**: it may lack rows, have older ones, or rows that were deleted since. It serves what it has and takes every row it is sent.
//!   It draws no conclusion and removes nothing by itself. Every start of a node that has members begins here: a crash, a damaged disk or
//!   a restored backup need not be recognized to be harmless. So does a running node that loses rows with a page that cannot be read.
//! - **Whole**: since it started it has held, at one instant, all that a whole member held; or all that all members held; or, where no whole
//!   member is heard and nothing was lost, all that a majority held, in which nobody counts who is apart; or it is alone. It takes every row
//!   that another whole node sends. It sweeps what is dead below the floor.
//!
//! # What a member is to another
//! *Present*, *away* (down, or said goodbye) or *forgotten*. A member that is away holds the floor back, so nothing is swept that it may
//! have missed. Only a majority of the members forgets one that is away (`replication::members`), and then sweeps on. A forgotten node
//! that returns is syncing. It is *apart* until all members have held the same once more, and knows it from those it meets: as long as others
//! may tell what it missed, nobody that is not whole takes from it what they may have deleted.
//!
//! # The numbers
//! All in Unix milliseconds, each about rows with timestamps up to it. Both are kept over restarts.
//! - *agreed with all*: at some moment this node and every member held the same rows up to here, durably. It follows the floor.
//! - *agreed with* one node: the same for a node that is forgotten, or returned and not whole yet: *agreed with all* as it was when the node was
//!   forgotten. 0 for a node that is new.
//!
//! Taking in a live row at or below one of them lowers it to just below the row, before the row is stored: else it would claim of that row
//! that every member had it.
//!
//! # The proof
//! Syncing node C sends whole member W a live row, written at T, and W has no row of that key. W answers that the row was deleted, and C
//! removes it, if T is at or below what C agreed with W **and** what W agreed with C. By the first, every member of that time held this
//! row or a later one of its key. By the second, W, or those that W became whole from, did so too, and have held it durably since, or else W
//! would not be whole. What they do not hold now they deleted.
//!
//! In every other case the row stays, and W takes it. A deleted key can so return where its deletion cannot be proved, which is
//! logged; an acknowledged row never goes without proof.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::clock::NodeId;

/// Up to when this node is known to have held the same rows as others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    with_all_ms: u64,
    /// Those with whom the agreement is another: forgotten, returned and not whole yet, or new.
    detached: BTreeMap<NodeId, u64>,
}

impl Agreement {
    /// Up to when this node and every member that is not apart held the same rows.
    pub fn with_all_ms(&self) -> u64 {
        self.with_all_ms
    }

    /// Up to when this node and another held the same rows.
    pub fn with_ms(&self, node: NodeId) -> u64 {
        self.detached.get(&node).copied().unwrap_or(self.with_all_ms)
    }

    /// Whether the agreement with a node is one of its own.
    pub fn is_detached(&self, node: NodeId) -> bool {
        self.detached.contains_key(&node)
    }

    /// Notes that this node and all `members` held the same rows up to an instant: they are apart no longer.
    pub fn reach(&mut self, at_ms: u64, members: impl IntoIterator<Item = NodeId>) {
        let mut rejoined = false;
        for member in members {
            rejoined |= self.detached.remove(&member).is_some();
        }
        // Of who was apart nothing later than this is known, even where the clock was set back.
        self.with_all_ms = if rejoined { at_ms } else { self.with_all_ms.max(at_ms) };
    }

    /// Parts from a node with which all was shared up to an instant, unless it is apart already.
    pub fn detach(&mut self, node: NodeId, agreed_ms: u64) {
        self.detached.entry(node).or_insert(agreed_ms);
    }

    /// Drops the nodes that nothing is known of any more.
    pub fn retain(&mut self, mut is_known: impl FnMut(NodeId) -> bool) {
        self.detached.retain(|node, _| is_known(*node));
    }

    /// Whether another differs by its agreement with all alone.
    pub fn differs_only_in_time(&self, other: &Self) -> bool {
        self.detached == other.detached
    }

    /// Claims no more of rows written after an instant: one is about to come in that others may not have. Whether that changes anything.
    pub fn lower(&mut self, to_ms: u64) -> bool {
        let before = self.latest_ms();
        self.with_all_ms = self.with_all_ms.min(to_ms);
        self.detached.values_mut().for_each(|agreed_ms| *agreed_ms = to_ms.min(*agreed_ms));
        before > to_ms
    }

    /// Gives up what could be proved against nodes that are apart: this node may have lost rows that they still have.
    pub fn clear_detached(&mut self) {
        self.detached.values_mut().for_each(|agreed_ms| *agreed_ms = 0);
    }

    fn latest_ms(&self) -> u64 {
        self.detached.values().copied().fold(self.with_all_ms, u64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn what_was_agreed_with_a_forgotten_node_stays_while_the_others_go_on() {
        let mut agreement = Agreement::default();
        agreement.reach(100, [A, B]);
        agreement.detach(A, 100);
        agreement.reach(200, [B]);
        agreement.detach(A, 200);
        assert_eq!((agreement.with_ms(A), agreement.with_ms(B)), (100, 200));
        agreement.reach(300, [A, B]);
        assert_eq!((agreement.with_ms(A), agreement.is_detached(A)), (300, false));
    }

    #[test]
    fn a_late_row_takes_back_every_claim_about_it() {
        let mut agreement = Agreement::default();
        agreement.reach(100, [A, B]);
        agreement.detach(A, 100);
        agreement.reach(200, [B]);
        assert!(!agreement.lower(200));
        assert!(agreement.lower(150));
        assert_eq!((agreement.with_ms(A), agreement.with_ms(B)), (100, 150));
        assert!(agreement.lower(50));
        assert_eq!((agreement.with_ms(A), agreement.with_ms(B)), (50, 50));
    }

    #[test]
    fn who_cannot_vouch_proves_nothing_to_those_that_are_apart() {
        let mut agreement = Agreement::default();
        agreement.reach(100, [A, B]);
        agreement.detach(A, 100);
        agreement.clear_detached();
        assert_eq!((agreement.with_ms(A), agreement.with_ms(B)), (0, 100));
    }
}
