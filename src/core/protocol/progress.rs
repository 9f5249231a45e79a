//! What a node knows of its own state and of its members: what it wrote, what each member has, and up to when all have
//! everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{agreement::Agreement, floor::Floor, journal::Journal, message::Flags};
use crate::core::clock::NodeId;

/// What all peers of a node share. Lock order: `progress`, then `journal`.
#[derive(Debug, Default)]
pub struct Shared {
    journal: Mutex<Journal>,
    progress: Mutex<Progress>,
}

/// A node that has heard of no complete member for this long may agree with syncing ones: all were started together.
const COMPLETE_SILENCE_MS: u64 = 3_000;

/// The state of the node among its members.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The instant up to which all members have everything.
    pub floor: Floor,
    /// Whether the node is complete: see `core::protocol::agreement`.
    pub complete: bool,
    /// Whether it has lost nothing since it was last complete: it was shut down cleanly and its rows are those recorded
    /// then, or it has since held everything of another node for which this is true.
    pub intact: bool,
    /// When rows were last lost that were not restored (Unix milliseconds); 0 if none are. Roots that were equal at an
    /// earlier instant say nothing about them.
    pub lost_ms: u64,
    /// Members whose rows this node has fully held at some instant since it started.
    pub covered: BTreeSet<NodeId>,
    /// When the last round of a complete member arrived (Unix milliseconds). At first, when the node started.
    pub complete_seen_ms: u64,
    /// Up to when this node held the same rows as others.
    pub agreement: Agreement,
    /// The part of the journal that each peer has.
    pub acked: BTreeMap<NodeId, Acked>,
    /// Up to where `agreement` is durable (Unix milliseconds). The node announces no more.
    saved_ms: u64,
    /// How often claims were withdrawn. What was being saved meanwhile says more than is true, and was lowered after.
    withdrawals: u64,
    /// What the node announced before its start is no later than this (Unix milliseconds).
    pub announced_before_ms: u64,
    /// The highest guarantee the node has announced, or the instant at which it became complete (Unix milliseconds). A
    /// member that sweeps further does not count on this node.
    pub guaranteed_ms: u64,
    /// Whether the node is handing over its rows to leave for good.
    pub leaving: bool,
    /// The member that the node syncs from, and when it was last seen to do so (Unix milliseconds).
    pub sync_source: Option<(NodeId, u64)>,
    /// While the node returns after it was forgotten: the members known to have gone on without it.
    returns_to: Option<BTreeSet<NodeId>>,
}

impl Progress {
    /// Makes the node sync: it may lack rows that others have, and is not complete until it has them.
    pub fn begin_syncing(&mut self, now_ms: u64) {
        self.complete = false;
        self.covered.clear();
        self.complete_seen_ms = now_ms;
    }

    /// Makes the node sync because the cluster had forgotten it. A member that was forgotten with it may not know so yet
    /// and still say that it is complete. So until the node is complete again, it believes this only of members that are
    /// known to have gone on without it, or once it has held what all its members hold. That outlasts a restart.
    pub fn begin_returning(&mut self, now_ms: u64) {
        self.returns_to = Some(BTreeSet::new());
        self.begin_syncing(now_ms);
    }

    /// Whether the node was forgotten and is not complete since.
    pub fn is_returning(&self) -> bool {
        self.returns_to.is_some()
    }

    /// Records that a member went on without this node.
    pub fn hear_went_on(&mut self, from: NodeId) {
        if let Some(members) = &mut self.returns_to {
            members.insert(from);
        }
    }

    /// Nobody has to be returned to any more: this side goes on by itself, or the node is in another cluster.
    pub fn stop_returning(&mut self) {
        self.returns_to = None;
    }

    /// Records when this node last lost rows with an unreadable page (Unix milliseconds). From then on it is like a node
    /// that started from a damaged disk.
    pub fn lose(&mut self, lost_ms: u64, now_ms: u64) {
        if lost_ms > self.lost_ms {
            self.lost_ms = lost_ms;
            self.intact = false;
            self.begin_syncing(now_ms);
        }
    }

    /// Records that this node has held everything a peer held at an instant (Unix milliseconds), and the peer's flags.
    pub fn cover(&mut self, peer: NodeId, flags: Flags, at_ms: u64) {
        if at_ms <= self.lost_ms {
            return;
        }
        self.covered.insert(peer);
        let is_complete = flags.complete && (self.believes(peer) || self.covers_all());
        // One that was away since may lack what was agreed without it.
        self.intact |= flags.intact && (is_complete || !self.agreement.is_detached(peer));
        if is_complete {
            self.become_complete(at_ms);
        }
    }

    /// Whether a peer is complete if it says so.
    fn believes(&self, peer: NodeId) -> bool {
        self.returns_to.as_ref().is_none_or(|went_on| went_on.contains(&peer))
    }

    /// Whether the node has held everything that all its members hold, and those to which it returns.
    fn covers_all(&self) -> bool {
        let returns_to = self.returns_to.iter().flatten().copied();
        self.floor.members().chain(returns_to).all(|member| self.covered.contains(&member))
    }

    /// Makes the node complete if it has held everything that all its members held. A majority is enough if it can
    /// reach no more and neither it nor any of them has lost anything. It waits for the peers in `linked`. Detached
    /// members count for no majority, because they still have what was deleted while they were away; if there is a
    /// majority without them, the node does not wait for them.
    pub fn agree(&mut self, now_ms: u64, linked: impl IntoIterator<Item = NodeId>) -> bool {
        let waits_for: Vec<NodeId> = linked.into_iter().filter(|peer| !self.covered.contains(peer)).collect();
        let is_agreed = waits_for.is_empty() && self.covers_all()
            || self.has_agreed_majority() && waits_for.iter().all(|peer| self.agreement.is_detached(*peer));
        if !self.complete && self.hears_no_complete_member(now_ms) && is_agreed {
            self.become_complete(now_ms);
        }
        self.complete
    }

    /// Whether a syncing node compares with a syncing peer. Not with a detached member while others may know what that
    /// one missed.
    pub fn may_agree_with(&self, peer: NodeId) -> bool {
        let may_tell =
            |member: NodeId| !self.agreement.is_detached(member) && !self.covered.contains(&member);
        !self.agreement.is_detached(peer)
            || !self.has_agreed_majority() && !self.floor.members().any(may_tell)
    }

    /// A node that returns knows that a majority went on without it, so it waits for all.
    fn has_agreed_majority(&self) -> bool {
        self.intact && !self.is_returning() && self.covers_majority()
    }

    /// Records that a member considers this node detached, in case it does not know yet that it was forgotten. A
    /// complete node knows better.
    pub fn hear_detached(&mut self, from: NodeId) {
        if !self.complete {
            let agreed_ms = self.agreement.with_all_ms();
            self.agreement.detach(from, agreed_ms);
        }
    }

    /// Whether the node has held everything that a majority of the members holds. Detached members do not count.
    pub fn covers_majority(&self) -> bool {
        let members = self.floor.members().count() + 1;
        let is_counted =
            |member: &NodeId| self.covered.contains(member) && !self.agreement.is_detached(*member);
        is_majority(self.floor.members().filter(is_counted).count() + 1, members)
    }

    /// Makes the node complete, if it is not: it holds everything there was at an instant (Unix milliseconds).
    pub fn become_complete(&mut self, at_ms: u64) {
        if !self.complete {
            if !self.intact {
                // Nobody is left who could tell deleted rows from lost ones.
                self.agreement.clear_detached();
            }
            // Not again while it is complete: from then on it guarantees what it announces.
            self.guaranteed_ms = self.guaranteed_ms.max(at_ms);
        }
        (self.complete, self.intact, self.returns_to) = (true, true, None);
    }

    /// Whether no complete member was heard of for a while.
    pub fn hears_no_complete_member(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.complete_seen_ms) >= COMPLETE_SILENCE_MS
    }

    /// Whether a peer has everything of the journal up to an entry. `written_ms` is when this node last wrote (Unix
    /// milliseconds). A peer that the journal did not reach back to has everything once a later comparison found both
    /// equal.
    pub fn is_served(&self, peer: NodeId, entry: u64, written_ms: u64) -> bool {
        let acked = self.acked.get(&peer).copied().unwrap_or_default();
        let is_equal = || self.floor.equal_ms(peer).is_some_and(|equal_ms| equal_ms > written_ms);
        entry == 0 || acked.holds(entry) || acked.upto >= entry && is_equal()
    }

    /// The guarantee this node announces: all members have what it has up to there, and this is durable.
    pub fn guarantee_ms(&mut self, settled_ms: u64) -> u64 {
        if !self.complete {
            return 0;
        }
        let guarantee_ms =
            self.floor.guarantee_ms(settled_ms).min(self.saved_ms).min(self.agreement.with_all_ms());
        self.guaranteed_ms = self.guaranteed_ms.max(guarantee_ms);
        guarantee_ms
    }

    /// Raises the agreement as far as possible now. Returns up to where all members have the same rows; `None` while the node
    /// syncs.
    pub fn raise_agreement(&mut self, settled_ms: u64) -> Option<u64> {
        let agreed_ms = self.complete.then(|| self.floor.guarantee_ms(settled_ms))?;
        if agreed_ms > 0 {
            self.agreement.reach(agreed_ms, self.floor.members());
        }
        Some(agreed_ms)
    }

    /// Raises the floor as far as possible now, and returns it.
    pub fn raise_floor(&mut self, settled_ms: u64) -> u64 {
        let guarantee_ms = self.guarantee_ms(settled_ms);
        self.floor.raise(guarantee_ms)
    }

    /// The latest instant that any member is known to have announced (Unix milliseconds), this node included: others may sweep
    /// up to there at any time. A later floor takes account of everything this node has now.
    pub fn announced_ms(&self) -> u64 {
        let announced = self.floor.members().filter_map(|member| self.floor.announced_ms(member));
        announced.fold(self.agreement.reached_ms().max(self.announced_before_ms), u64::max)
    }

    /// How often claims were withdrawn: pass it to `agreement_saved` with the agreement of this moment.
    pub fn withdrawals(&self) -> u64 {
        self.withdrawals
    }

    /// Records that an agreement was saved which is agreed with all up to an instant (Unix milliseconds), as it was after so many withdrawals.
    pub fn agreement_saved(&mut self, agreed_ms: u64, withdrawals: u64) {
        // Otherwise what is saved was lowered meanwhile, and the agreement may have been raised again since.
        if withdrawals == self.withdrawals {
            self.saved_ms = agreed_ms;
        }
    }

    /// Sets the other members, without forgotten ones. Nothing was agreed with a new member; with one that is now
    /// forgotten, nothing later than before.
    pub fn set_members(&mut self, members: &[NodeId]) {
        let agreed_ms = self.agreement.with_all_ms();
        for gone in self.floor.members().filter(|member| !members.contains(member)) {
            self.agreement.detach(gone, agreed_ms);
        }
        for new in members.iter().filter(|member| !self.floor.is_member(**member)) {
            self.agreement.detach(*new, 0);
        }
        self.floor.set_members(members.iter().copied());
    }

    /// Withdraws the claim that others have a tombstone that is about to arrive, written at an instant (Unix
    /// milliseconds). What was agreed about live rows stays.
    pub fn lower_floor(&mut self, written_ms: u64) {
        self.floor.lower(written_ms.saturating_sub(1));
    }

    /// Withdraws all claims about a row that is about to arrive, written at an instant (Unix milliseconds), because
    /// others may lack it. The saved agreement must be lowered too before the row is stored.
    pub fn lower_claims(&mut self, written_ms: u64) {
        let to_ms = written_ms.saturating_sub(1);
        self.floor.lower(to_ms);
        self.agreement.lower(to_ms);
        self.saved_ms = self.saved_ms.min(to_ms);
        self.withdrawals += 1;
    }
}

/// Whether `count` is more than half of `all`.
pub fn is_majority(count: usize, all: usize) -> bool {
    2 * count > all
}

/// The part of the journal that is durable at a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// From after this entry
    pub after: u64,
    /// up to this one.
    pub upto: u64,
}

impl Acked {
    /// Nothing is known about the entries up to this one.
    pub fn nothing_before(entry: u64) -> Self {
        Self { after: entry, upto: entry }
    }

    /// Whether the row of an entry is durable at the peer.
    pub fn holds(self, entry: u64) -> bool {
        entry > self.after && entry <= self.upto
    }
}

impl Shared {
    /// The initial state, with this journal.
    pub fn new(journal: Journal) -> Self {
        Self { journal: Mutex::new(journal), progress: Mutex::default() }
    }

    /// The journal.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state among the members.
    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn equal(progress: &mut Progress, at_ms: u64) {
        let compared = progress.floor.compare(at_ms);
        progress.floor.equal(PEER, compared);
    }

    fn acked(after: u64, upto: u64) -> Acked {
        Acked { after, upto }
    }

    /// Two members that had lost the same rows were equal, and each took the other for complete. Both concluded that the rows
    /// were deleted, and made the third, which was just starting, remove its own.
    #[test]
    fn a_node_that_lost_rows_is_complete_again_once_it_has_held_what_a_complete_member_holds() {
        let complete = Flags { complete: true, intact: true, ..Flags::default() };
        let mut progress = Progress::default();
        progress.floor.set_members([PEER, OTHER]);
        progress.become_complete(50);
        progress.lose(0, 60);
        assert!(progress.complete, "nothing was lost");
        progress.cover(PEER, complete, 90);
        progress.lose(100, 110);
        assert_eq!((progress.complete, progress.intact, progress.guarantee_ms(110)), (false, false, 0));
        assert!(!progress.covers_majority(), "what it held before does not count");
        progress.cover(PEER, complete, 100);
        assert!(!progress.complete, "that was before the rows were lost");
        // A syncing member may have lost the same rows.
        progress.cover(PEER, Flags::default(), 120);
        assert!(!progress.agree(110 + COMPLETE_SILENCE_MS, [PEER]), "the third may have them");
        progress.cover(PEER, complete, 120);
        assert!(progress.complete);
        progress.lose(100, 130);
        assert!(progress.complete, "that is known already");
        progress.lose(101, 130);
        progress.cover(PEER, Flags::default(), 120);
        progress.cover(OTHER, Flags::default(), 120);
        assert!(progress.agree(130 + COMPLETE_SILENCE_MS, [PEER, OTHER]), "nobody has them");
    }

    /// What was agreed outlasts damage, so a node that lost rows must not vouch for it by the word of one that never had them.
    #[test]
    fn who_lost_rows_is_not_intact_by_one_that_was_away_since() {
        let mut progress = Progress::default();
        progress.floor.set_members([PEER, OTHER]);
        progress.agreement.detach(PEER, 100);
        let (intact, whole) = (
            Flags { intact: true, ..Flags::default() },
            Flags { complete: true, intact: true, ..Flags::default() },
        );
        progress.cover(PEER, intact, 200);
        assert!(!progress.intact);
        let mut by_another = progress.clone();
        by_another.cover(OTHER, intact, 200);
        assert!(by_another.intact);
        progress.cover(PEER, whole, 200);
        assert!(progress.intact && progress.complete);
    }

    /// A node that stopped waited out its full timeout for any peer that its journal had not reached back to, though
    /// both had long been equal.
    #[test]
    fn a_peer_is_served_by_the_journal_or_by_a_later_comparison() {
        let mut progress = Progress::default();
        progress.floor.set_members([PEER]);
        assert!(progress.is_served(PEER, 0, 0), "nothing was written");
        assert!(!progress.is_served(PEER, 7, 100), "nothing is known");
        progress.acked.insert(PEER, acked(3, 6));
        assert!(!progress.is_served(PEER, 7, 100), "the last entry is in flight");
        progress.acked.insert(PEER, acked(3, 7));
        assert!(progress.is_served(PEER, 7, 100));
        progress.acked.insert(PEER, acked(7, 7));
        assert!(!progress.is_served(PEER, 7, 100), "it was never sent");
        equal(&mut progress, 100);
        assert!(!progress.is_served(PEER, 7, 100), "they may have been equal before it was written");
        equal(&mut progress, 101);
        assert!(progress.is_served(PEER, 7, 100));
        progress.acked.insert(PEER, acked(3, 6));
        assert!(!progress.is_served(PEER, 7, 100), "what was written since is in flight");
    }

    const OTHER: NodeId = NodeId(3);

    /// A syncing node with two members, after all three agreed up to an instant and one of them went away and came
    /// back.
    fn restarted_beside_one_that_returned() -> Progress {
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER, OTHER]);
        progress.agreement.reach(100, [PEER, OTHER]);
        progress.agreement.detach(OTHER, 100);
        progress
    }

    /// The cluster had forgotten a node, and deleted and swept a key. Another node restarted, and met the returned node
    /// before a third one that knew of the deletion. The two formed a majority, both became complete, and the deleted
    /// key was back everywhere.
    #[test]
    fn a_detached_member_counts_for_no_majority() {
        let now_ms = COMPLETE_SILENCE_MS;
        let mut progress = restarted_beside_one_that_returned();
        assert!(!progress.may_agree_with(OTHER), "the other may know what it missed");
        progress.cover(OTHER, Flags { intact: true, ..Flags::default() }, now_ms);
        assert!(!progress.agree(now_ms, [OTHER]));
        let mut progress = restarted_beside_one_that_returned();
        progress.cover(PEER, Flags { intact: true, ..Flags::default() }, now_ms);
        assert!(!progress.may_agree_with(OTHER), "it must become complete first");
        assert!(progress.agree(now_ms, [PEER, OTHER]), "a detached member is not waited for");
    }

    /// Two nodes had been forgotten together. The one that was told so was complete again within a round, by the other, which was not told yet.
    /// What the cluster had deleted meanwhile came back with it.
    #[test]
    fn a_node_that_returns_is_complete_by_one_that_went_on_without_it_and_by_no_fellow() {
        let complete = Flags { complete: true, intact: true, ..Flags::default() };
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER, OTHER]);
        progress.cover(OTHER, complete, 50);
        assert!(progress.complete, "it was not forgotten");
        progress.begin_returning(100);
        progress.cover(OTHER, complete, 110);
        assert!(!progress.complete);
        progress.begin_syncing(120);
        progress.cover(OTHER, complete, 130);
        assert!(!progress.complete, "it returns still");
        progress.hear_went_on(PEER);
        progress.cover(OTHER, complete, 140);
        assert!(!progress.complete);
        progress.cover(PEER, complete, 150);
        assert!(progress.complete && !progress.is_returning());
        progress.begin_syncing(160);
        progress.cover(OTHER, complete, 170);
        assert!(progress.complete, "all know of it by now");
    }

    /// Else it would wait for ever where nobody who went on without it is left, or knows that any more.
    #[test]
    fn a_node_that_returns_is_complete_once_it_has_held_what_all_hold() {
        let complete = Flags { complete: true, intact: true, ..Flags::default() };
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER]);
        progress.begin_returning(100);
        progress.hear_went_on(OTHER);
        progress.cover(PEER, complete, 110);
        assert!(!progress.complete, "one to which it returns is not a member here");
        progress.floor.set_members([PEER, OTHER]);
        progress.begin_returning(120);
        progress.cover(OTHER, complete, 130);
        assert!(!progress.complete);
        progress.cover(PEER, complete, 140);
        assert!(progress.complete);
    }

    #[test]
    fn a_node_that_returns_to_members_that_were_all_restarted_agrees_with_them() {
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER, OTHER]);
        progress.begin_returning(0);
        progress.cover(OTHER, Flags::default(), 10);
        assert!(!progress.agree(COMPLETE_SILENCE_MS, [OTHER]));
        progress.cover(PEER, Flags::default(), 20);
        assert!(progress.agree(COMPLETE_SILENCE_MS, [PEER, OTHER]) && !progress.is_returning());
    }

    /// Each round in which two nodes held the same raised what both were held to guarantee, though neither had announced it. So neither noticed that
    /// others had swept further, and did not count on them.
    #[test]
    fn a_complete_node_guarantees_what_it_announces_and_what_it_held_when_it_became_complete() {
        let complete = Flags { complete: true, intact: true, ..Flags::default() };
        let mut progress = Progress::default();
        progress.floor.set_members([PEER, OTHER]);
        progress.cover(PEER, complete, 50);
        progress.cover(PEER, complete, 90);
        assert_eq!(progress.guaranteed_ms, 50);
        progress.begin_syncing(100);
        progress.cover(PEER, complete, 110);
        assert_eq!(progress.guaranteed_ms, 110);
    }

    #[test]
    fn a_node_with_no_other_member_left_agrees_with_a_detached_one() {
        let mut progress = restarted_beside_one_that_returned();
        progress.set_members(&[OTHER]);
        assert!(progress.may_agree_with(OTHER));
        progress.cover(OTHER, Flags::default(), COMPLETE_SILENCE_MS);
        assert!(progress.agree(COMPLETE_SILENCE_MS, [OTHER]));
    }

    #[test]
    fn every_linked_node_is_waited_for_even_before_it_is_a_member() {
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER]);
        progress.cover(PEER, Flags { intact: true, ..Flags::default() }, COMPLETE_SILENCE_MS);
        assert!(!progress.agree(COMPLETE_SILENCE_MS, [PEER, OTHER]));
        assert!(progress.agree(COMPLETE_SILENCE_MS, [PEER]));
    }

    #[test]
    fn a_node_that_does_not_know_it_was_forgotten_is_told_that_it_is_detached() {
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER, OTHER]);
        progress.agreement.reach(100, [PEER, OTHER]);
        progress.hear_detached(PEER);
        progress.cover(PEER, Flags { intact: true, ..Flags::default() }, COMPLETE_SILENCE_MS);
        assert!(!progress.agree(COMPLETE_SILENCE_MS, [PEER]), "it must learn what it missed");
        assert_eq!(progress.agreement.with_ms(PEER), 100);
        progress.become_complete(200);
        progress.hear_detached(OTHER);
        assert!(!progress.agreement.is_detached(OTHER), "a complete node has learned it");
    }

    /// While the agreement was being written down, a late row came and lowered it, in the file too; then the agreement rose again. The node took
    /// for saved what the file no longer said, and announced it.
    #[test]
    fn what_is_lowered_while_it_is_saved_is_announced_once_it_is_saved_again() {
        let mut progress = Progress::default();
        progress.floor.set_members([PEER]);
        progress.become_complete(10);
        equal(&mut progress, 100);
        assert_eq!(progress.raise_agreement(200), Some(100));
        let (saving_ms, withdrawals) = (progress.agreement.with_all_ms(), progress.withdrawals());
        progress.agreement_saved(saving_ms, withdrawals);
        progress.lower_claims(50);
        equal(&mut progress, 110);
        assert_eq!(progress.raise_agreement(200), Some(110));
        progress.agreement_saved(saving_ms, withdrawals);
        assert_eq!(progress.guarantee_ms(200), 49);
        progress.agreement_saved(110, progress.withdrawals());
        assert_eq!(progress.guarantee_ms(200), 110);
    }

    /// The agreement is not saved again where it covers no more rows, so the file may say less than what the node announced before its restart. A
    /// deletion between the two was then taken for one in time, and went by that announcement before the others had it.
    #[test]
    fn what_was_announced_before_the_start_counts_whatever_was_saved() {
        let mut progress = Progress::default();
        progress.agreement.reach(100, []);
        assert_eq!(progress.announced_ms(), 100);
        progress.announced_before_ms = 200;
        assert_eq!(progress.announced_ms(), 200);
        progress.agreement.reach(300, []);
        assert_eq!(progress.announced_ms(), 300);
    }

    /// Two members swept a key. The second had received the delete after it was equal with the third, which had just
    /// returned and was unknown to the first. The key came back from the third.
    #[test]
    fn a_late_tombstone_withdraws_only_the_claim_that_others_have_it() {
        let mut progress = Progress::default();
        progress.floor.set_members([PEER]);
        equal(&mut progress, 100);
        progress.agreement.reach(100, [PEER]);
        progress.lower_floor(90);
        assert_eq!((progress.floor.guarantee_ms(200), progress.agreement.with_ms(PEER)), (89, 100));
    }
}
