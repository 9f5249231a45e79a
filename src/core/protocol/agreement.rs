//! What a node may conclude from a row that it does not have: nothing, unless it can prove that the row was deleted.
//!
//! A row may be missing because it was deleted and its tombstone was removed. It may just as well have been lost with a
//! damaged disk, not have arrived yet, or have been written on the other side of a network partition. So absence alone
//! removes nothing. **A live row leaves a replica in only two ways: a later register of its key replaces it, or a
//! syncing node removes it because a complete member proves that it was deleted.**
//!
//! # The states of a node
//! ```text
//!         start, with members         equal root with a complete member, all members, or a majority
//!   (start) -------------------> syncing ---------------------------------------------------> complete
//!      |                            ^                                                             |
//!      | start, alone               |  it was forgotten; it fell behind a sweep; it lost rows     |
//!      +----------------------------|-----------------------------------------------------------> |
//!                                   +-------------------------------------------------------------+
//! ```
//! - **Syncing**: it may lack rows, or hold old versions or rows that were deleted since. It serves what it has and
//!   accepts every row it is sent. It draws no conclusions and removes nothing on its own. Every start of a node that
//!   has members begins here, so a crash, a damaged disk or a restored backup is harmless even if nobody notices it.
//!   So does a running node that loses rows with an unreadable page.
//! - **Complete**: since its start it has held, at one instant, everything that a complete member held; or everything
//!   that all members held; or, if it hears no complete member and has lost nothing, everything that a majority held
//!   (detached members do not count); or it is alone. It accepts every row that another complete node sends. It sweeps
//!   tombstones and expired values below the floor.
//!
//! # The states of a member
//! A member is *present*, *away* (down or left) or *forgotten*. A member that is away holds the floor back, so nothing
//! is swept that it may have missed. Only a majority of the members can forget a member that is away
//! (`replication::membership`), and then sweep on. A forgotten node that returns is syncing. It is *detached* until all
//! members have held the same rows once more, and it learns that from the members it meets. While other members may
//! know what it missed, no syncing node takes from it what they may have deleted.
//!
//! Nodes that were forgotten together do not learn it together: one that was not told yet still says that it is complete. So
//! a node that was told becomes complete by a complete member only if that one is known to have gone on without it: it
//! says that this node was forgotten, or is detached. Or once it has held everything that all its members hold. The node
//! remembers that it returns across a restart.
//!
//! # The instants
//! All are Unix milliseconds, say something about the rows with timestamps up to them, and survive a restart.
//! - *Agreed with all*: at some moment this node and every member durably held the same rows up to here. It follows the
//!   floor.
//! - *Agreed with* one detached node (forgotten, or returned and still syncing): *agreed with all* at the time the node
//!   was forgotten. 0 for a new node.
//!
//! Before a live row at or below one of these instants is stored, the instant is lowered to just below the row.
//! Otherwise it would claim that every member had that row. The exception is a row that a syncing node gets from a
//! complete member, if both say that they agreed at or after its timestamp: then it is a row that the syncing node
//! held and lost. A node that lowered an instant says so before it sends more rows.
//!
//! The agreement is kept in a file of its own, not in the log with the rows, and damage to the log does not affect it.
//! This is sound because it speaks of the past. Take a row at or below such an instant that is found here later, however
//! old the log is. Either it was here when the instant was agreed, or it had been deleted or replaced by then; or it came
//! in late, and then the instant was lowered durably before. In each case a complete member that agreed as much and
//! lacks the row has deleted it. As a prover, the damaged node counts only after it is complete again: until then it
//! holds less than it agreed. If the file is lost, damaged or another node's, nothing was agreed.
//!
//! # The proof
//! Syncing node C sends complete member W a row, written at T, and W has no row of that key. W answers that the row was
//! removed, and C removes it, if T is at or below both what C agreed with W **and** what W agreed with C. The
//! first means that every member of that time held this row or a later one of its key. The second means that W, or the
//! nodes it became complete from, held it too, and has held it durably since: otherwise W would not be complete.
//! Whatever they do not hold now, they deleted.
//!
//! In every other case the row stays, and W accepts it. So a deleted key can return if its deletion cannot be proved,
//! and this is logged. An acknowledged row never goes without proof.
//!
//! # What a node announces
//! A member announces only instants of *agreed with all* that are durable, and sweeps its own garbage by those. Others sweep
//! up to what it announced, also after it crashed. If its disk then has an older version of a row whose tombstone they
//! swept, it must still know that the row was agreed, or nothing would prove that it was deleted.
//!
//! # Late garbage
//! C may also bring tombstones and expired values that it wrote while it was away, older than what the members have
//! swept, or older than what they announced and may sweep at any time. Members may still hold what these ended. So W keeps
//! them, and comparisons spread them. They hold the floor back until all members have them. They are removed only by a
//! floor above everything that was announced or swept when they came; that limit is durable with them. A lower floor may be
//! one that others take from those announcements, and they may lack them. Every floor that takes account of them is higher:
//! it comes from roots that were equal later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::clock::NodeId;

/// Up to when this node is known to have held the same rows as others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    with_all_ms: u64,
    /// The detached nodes, which have an agreement of their own: forgotten, returned and still syncing, or new.
    detached: BTreeMap<NodeId, u64>,
    /// The latest instant that `with_all_ms` ever was. Former formats do not have it.
    #[serde(skip)]
    reached_ms: u64,
}

impl Agreement {
    /// Up to when this node and every member that is not detached held the same rows.
    pub fn with_all_ms(&self) -> u64 {
        self.with_all_ms
    }

    /// The latest instant that was ever agreed with all. It is never lowered: the node may have announced it, and others
    /// may sweep up to it at any later time.
    pub fn reached_ms(&self) -> u64 {
        self.reached_ms.max(self.with_all_ms)
    }

    /// This agreement, as read from a file that has the latest instant separately.
    #[must_use]
    pub fn with_reached_ms(mut self, reached_ms: u64) -> Self {
        self.reached_ms = reached_ms;
        self
    }

    /// Up to when this node and another held the same rows.
    pub fn with_ms(&self, node: NodeId) -> u64 {
        self.detached.get(&node).copied().unwrap_or(self.with_all_ms)
    }

    /// Whether the node has an agreement of its own.
    pub fn is_detached(&self, node: NodeId) -> bool {
        self.detached.contains_key(&node)
    }

    /// Records that this node and all `members` held the same rows up to an instant. They are no longer detached.
    pub fn reach(&mut self, at_ms: u64, members: impl IntoIterator<Item = NodeId>) {
        let mut rejoined = false;
        for member in members {
            rejoined |= self.detached.remove(&member).is_some();
        }
        // Nothing later is known about a node that was detached, even if the clock was set back.
        self.with_all_ms = if rejoined { at_ms } else { self.with_all_ms.max(at_ms) };
        self.reached_ms = self.reached_ms.max(self.with_all_ms);
    }

    /// Detaches a node with which everything was agreed up to an instant. Does nothing if it is detached already.
    pub fn detach(&mut self, node: NodeId, agreed_ms: u64) {
        self.detached.entry(node).or_insert(agreed_ms);
    }

    /// Drops detached nodes that are no longer known.
    pub fn retain(&mut self, mut is_known: impl FnMut(NodeId) -> bool) {
        self.detached.retain(|node, _| is_known(*node));
    }

    /// Whether another agreement has the same detached nodes: it differs only in the instant agreed with all.
    pub fn differs_only_in_time(&self, other: &Self) -> bool {
        self.detached == other.detached
    }

    /// Withdraws all claims about rows written after an instant, because such a row is about to arrive and others may
    /// lack it. Returns whether that changed anything.
    pub fn lower(&mut self, to_ms: u64) -> bool {
        let before = self.latest_ms();
        self.with_all_ms = self.with_all_ms.min(to_ms);
        self.detached.values_mut().for_each(|agreed_ms| *agreed_ms = to_ms.min(*agreed_ms));
        before > to_ms
    }

    /// Withdraws all claims about detached nodes: this node may have lost rows that they still have.
    pub fn clear_detached(&mut self) {
        self.detached.values_mut().for_each(|agreed_ms| *agreed_ms = 0);
    }

    /// The latest instant that any of it claims.
    pub fn latest_ms(&self) -> u64 {
        self.detached.values().copied().fold(self.with_all_ms, u64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn agreement_with_a_forgotten_node_stays_while_the_others_go_on() {
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
    fn a_late_row_withdraws_every_claim_about_it() {
        let mut agreement = Agreement::default();
        agreement.reach(100, [A, B]);
        agreement.detach(A, 100);
        agreement.reach(200, [B]);
        assert!(!agreement.lower(200));
        assert!(agreement.lower(150));
        assert_eq!((agreement.with_ms(A), agreement.with_ms(B)), (100, 150));
        assert!(agreement.lower(50));
        assert_eq!((agreement.with_ms(A), agreement.with_ms(B)), (50, 50));
        assert_eq!(agreement.reached_ms(), 200, "others may have been told so");
    }

    #[test]
    fn a_node_that_may_have_lost_rows_proves_nothing_to_detached_nodes() {
        let mut agreement = Agreement::default();
        agreement.reach(100, [A, B]);
        agreement.detach(A, 100);
        agreement.clear_detached();
        assert_eq!((agreement.with_ms(A), agreement.with_ms(B)), (0, 100));
    }
}
