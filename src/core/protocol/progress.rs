//! Where a node stands among its members: what it wrote, what each of them has, and up to where all are known to have
//! everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{agreement::Agreement, floor::Floor, journal::Journal, message::Flags};
use crate::core::clock::NodeId;

/// What all peers of a node share. Lock order: `standing`, then `journal`.
#[derive(Debug, Default)]
pub struct Shared {
    journal: Mutex<Journal>,
    progress: Mutex<Progress>,
}

/// A node that has heard of no whole member for so long agrees with those that are not whole either: all of them were started together.
const COMPLETE_SILENCE_MS: u64 = 3_000;

/// Where the node stands among its members.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What all are known to have.
    pub floor: Floor,
    /// Whether the node is whole: see `core::agreement`.
    pub complete: bool,
    /// Whether it holds what it held when it was whole last: it was closed in order and its rows are those it noted then, or it has since
    /// held what another held of which that is so.
    pub intact: bool,
    /// When the last rows were lost that were not given back (Unix milliseconds); 0 where none are. What was found equal at an instant
    /// of before says nothing of them.
    pub lost_ms: u64,
    /// Members of which this node, since it started, has held at one instant all that they held.
    pub covered: BTreeSet<NodeId>,
    /// When a round of a whole member came last (Unix milliseconds); at first, when the node started.
    pub complete_seen_ms: u64,
    /// Up to when it is known to have held the same rows as others.
    pub agreement: Agreement,
    /// What of the journal each peer has, over links.
    pub acked: BTreeMap<NodeId, Acked>,
    /// The latest that the node has announced as its guarantee, or at which it became whole (Unix milliseconds). Who sweeps further does
    /// not count on this node.
    pub guaranteed_ms: u64,
    /// Whether the node hands over what it has, to leave for good.
    pub leaving: bool,
    /// The member that the node syncs from, and when that was last seen to be so (Unix milliseconds).
    pub sync_source: Option<(NodeId, u64)>,
}

impl Progress {
    /// The node may lack what others have: it takes what a whole member has before it counts again.
    pub fn begin_syncing(&mut self, now_ms: u64) {
        self.complete = false;
        self.covered.clear();
        self.complete_seen_ms = now_ms;
    }

    /// Notes when this node lost rows that it held, with a page that cannot be read (Unix milliseconds): since then it is as one that
    /// started from a damaged disk.
    pub fn lose(&mut self, lost_ms: u64, now_ms: u64) {
        if lost_ms > self.lost_ms {
            self.lost_ms = lost_ms;
            self.intact = false;
            self.begin_syncing(now_ms);
        }
    }

    /// Notes that this node held at an instant (Unix milliseconds) all that a peer held, and what that peer was.
    pub fn cover(&mut self, peer: NodeId, flags: Flags, at_ms: u64) {
        if at_ms <= self.lost_ms {
            return;
        }
        self.covered.insert(peer);
        self.intact |= flags.intact;
        if flags.complete {
            self.become_complete(at_ms);
        }
    }

    /// Makes the node whole if it has held what all its members held: or a majority of them, where that is all it can reach, and neither
    /// it nor any of those has lost anything. Those it has `linked` are waited for. Members that are apart count for no majority, and are not
    /// waited for where there is one without them: they still have what was deleted while they were away.
    pub fn agree(&mut self, now_ms: u64, linked: impl IntoIterator<Item = NodeId>) -> bool {
        let waits_for: Vec<NodeId> = linked.into_iter().filter(|peer| !self.covered.contains(peer)).collect();
        let is_all =
            waits_for.is_empty() && self.floor.members().all(|member| self.covered.contains(&member));
        let is_agreed = is_all
            || self.has_agreed_majority() && waits_for.iter().all(|peer| self.agreement.is_detached(*peer));
        if !self.complete && self.hears_no_complete_member(now_ms) && is_agreed {
            self.become_complete(now_ms);
        }
        self.complete
    }

    /// Whether a node that is not whole compares with one that is not either: not with a member that is apart, as long as others may tell what
    /// that one missed.
    pub fn may_agree_with(&self, peer: NodeId) -> bool {
        let may_tell =
            |member: NodeId| !self.agreement.is_detached(member) && !self.covered.contains(&member);
        !self.agreement.is_detached(peer)
            || !self.has_agreed_majority() && !self.floor.members().any(may_tell)
    }

    fn has_agreed_majority(&self) -> bool {
        self.intact && self.covers_majority()
    }

    /// Notes that a member holds this node for apart, which may not know yet that it was forgotten. A whole node knows better.
    pub fn hear_detached(&mut self, from: NodeId) {
        if !self.complete {
            let agreed_ms = self.agreed_before_ms();
            self.agreement.detach(from, agreed_ms);
        }
    }

    /// Whether the node holds what a majority of the members holds, those that are apart not counted.
    pub fn covers_majority(&self) -> bool {
        let members = self.floor.members().count() + 1;
        let is_counted =
            |member: &NodeId| self.covered.contains(member) && !self.agreement.is_detached(*member);
        is_majority(self.floor.members().filter(is_counted).count() + 1, members)
    }

    /// Makes the node whole: it holds all that there was at an instant (Unix milliseconds).
    pub fn become_complete(&mut self, at_ms: u64) {
        if !self.complete && !self.intact {
            // Nobody is left who could tell what was deleted from what was lost.
            self.agreement.clear_detached();
        }
        (self.complete, self.intact) = (true, true);
        self.guaranteed_ms = self.guaranteed_ms.max(at_ms);
    }

    /// Whether no whole member was heard of for a while.
    pub fn hears_no_complete_member(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.complete_seen_ms) >= COMPLETE_SILENCE_MS
    }

    /// Whether a peer has all of the journal up to an entry, of which this node wrote the last at an instant (Unix milliseconds). Where
    /// the journal did not reach back to what it had, it has all once a comparison found so after that instant.
    pub fn is_served(&self, peer: NodeId, entry: u64, written_ms: u64) -> bool {
        let acked = self.acked.get(&peer).copied().unwrap_or_default();
        let is_equal = || self.floor.equal_ms(peer).is_some_and(|equal_ms| equal_ms > written_ms);
        entry == 0 || acked.holds(entry) || acked.upto >= entry && is_equal()
    }

    /// What this node announces: up to there all members have what it has.
    pub fn guarantee_ms(&mut self, settled_ms: u64) -> u64 {
        if !self.complete {
            return 0;
        }
        let guarantee_ms = self.floor.guarantee_ms(settled_ms);
        self.guaranteed_ms = self.guaranteed_ms.max(guarantee_ms);
        guarantee_ms
    }

    /// Raises the floor as far as is known now, and returns it.
    pub fn raise_floor(&mut self, settled_ms: u64) -> u64 {
        let guarantee_ms = self.guarantee_ms(settled_ms);
        if guarantee_ms > 0 {
            self.agreement.reach(guarantee_ms, self.floor.members());
        }
        self.floor.raise(guarantee_ms)
    }

    /// Sets who the other members are, those that were forgotten left out. With one that is new nothing was agreed; with one that is
    /// forgotten, nothing later than what was.
    pub fn set_members(&mut self, members: &[NodeId]) {
        let agreed_ms = self.agreed_before_ms();
        for gone in self.floor.members().filter(|member| !members.contains(member)) {
            self.agreement.detach(gone, agreed_ms);
        }
        for new in members.iter().filter(|member| !self.floor.is_member(**member)) {
            self.agreement.detach(*new, 0);
        }
        self.floor.set_members(members.iter().copied());
    }

    /// What was agreed with a node that all was agreed with until now; nothing where that may have been lost since.
    fn agreed_before_ms(&self) -> u64 {
        if self.complete || self.intact { self.agreement.with_all_ms() } else { 0 }
    }

    /// Claims no longer that others have a tombstone that is about to come in, written at an instant (Unix milliseconds). What was agreed of
    /// live rows stays so.
    pub fn lower_floor(&mut self, written_ms: u64) {
        self.floor.lower(written_ms.saturating_sub(1));
    }

    /// Claims nothing more of a row that is about to come in, written at an instant (Unix milliseconds), which others may not have. Whether what was
    /// agreed changed by that, so that it is to be kept before the row is.
    pub fn lower_claims(&mut self, written_ms: u64) -> bool {
        let to_ms = written_ms.saturating_sub(1);
        self.floor.lower(to_ms);
        self.agreement.lower(to_ms)
    }
}

/// Whether so many are more than half of all.
pub fn is_majority(count: usize, all: usize) -> bool {
    2 * count > all
}

/// The part of the journal that is durable at a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Everything after this place,
    pub after: u64,
    /// up to this one.
    pub upto: u64,
}

impl Acked {
    /// Of all up to an entry nobody knows whether it is there.
    pub fn nothing_before(entry: u64) -> Self {
        Self { after: entry, upto: entry }
    }

    /// Whether the row of an entry is durable at the peer.
    pub fn holds(self, entry: u64) -> bool {
        entry > self.after && entry <= self.upto
    }
}

impl Shared {
    /// What peers share at first, with this journal.
    pub fn new(journal: Journal) -> Self {
        Self { journal: Mutex::new(journal), progress: Mutex::default() }
    }

    /// The journal.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The standing.
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

    /// Two members that had lost the same rows were equal, and each took the other for one that holds everything: both held the rows for
    /// deleted then, and had the third, which was just starting, remove its own.
    #[test]
    fn who_lost_rows_is_whole_no_longer_until_it_has_held_what_a_whole_member_holds_since() {
        let complete = Flags { complete: true, intact: true, ..Flags::default() };
        let mut progress = Progress::default();
        progress.floor.set_members([PEER, OTHER]);
        progress.become_complete(50);
        progress.lose(0, 60);
        assert!(progress.complete, "nothing was lost");
        progress.cover(PEER, complete, 90);
        progress.lose(100, 110);
        assert_eq!((progress.complete, progress.intact, progress.guarantee_ms(110)), (false, false, 0));
        assert!(!progress.covers_majority(), "what was held before says nothing");
        progress.cover(PEER, complete, 100);
        assert!(!progress.complete, "that was before the rows were lost");
        // A member that is not whole may have lost the same.
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

    /// A node that stopped waited its full patience for whomever its journal had not reached back to, though both had long been equal.
    #[test]
    fn a_peer_is_served_by_the_journal_or_by_a_comparison_after_the_last_write() {
        let mut progress = Progress::default();
        progress.floor.set_members([PEER]);
        assert!(progress.is_served(PEER, 0, 0), "nothing was written");
        assert!(!progress.is_served(PEER, 7, 100), "nothing is known");
        progress.acked.insert(PEER, acked(3, 6));
        assert!(!progress.is_served(PEER, 7, 100), "the last is on its way");
        progress.acked.insert(PEER, acked(3, 7));
        assert!(progress.is_served(PEER, 7, 100));
        progress.acked.insert(PEER, acked(7, 7));
        assert!(!progress.is_served(PEER, 7, 100), "it was never sent");
        equal(&mut progress, 100);
        assert!(!progress.is_served(PEER, 7, 100), "they may have been equal before it was written");
        equal(&mut progress, 101);
        assert!(progress.is_served(PEER, 7, 100));
        progress.acked.insert(PEER, acked(3, 6));
        assert!(!progress.is_served(PEER, 7, 100), "what is written meanwhile is on its way");
    }

    const OTHER: NodeId = NodeId(3);

    /// A node that is not whole, with two members, after all three agreed up to an instant and one went and came back.
    fn restarted_beside_one_that_returned() -> Progress {
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER, OTHER]);
        progress.agreement.reach(100, [PEER, OTHER]);
        progress.agreement.detach(OTHER, 100);
        progress
    }

    /// Three nodes had forgotten one, and deleted and swept a key. One of them restarted, and met the one that returned before it met the other
    /// that knew: the two were a majority, both whole with that, and the deleted key was back on all.
    #[test]
    fn a_member_that_is_apart_counts_for_no_majority() {
        let now_ms = COMPLETE_SILENCE_MS;
        let mut progress = restarted_beside_one_that_returned();
        assert!(!progress.may_agree_with(OTHER), "the other may tell what it missed");
        progress.cover(OTHER, Flags { intact: true, ..Flags::default() }, now_ms);
        assert!(!progress.agree(now_ms, [OTHER]));
        let mut progress = restarted_beside_one_that_returned();
        progress.cover(PEER, Flags { intact: true, ..Flags::default() }, now_ms);
        assert!(!progress.may_agree_with(OTHER), "it is to be whole first");
        assert!(progress.agree(now_ms, [PEER, OTHER]), "who is apart is not waited for");
    }

    #[test]
    fn who_has_nobody_else_left_agrees_with_one_that_is_apart() {
        let mut progress = restarted_beside_one_that_returned();
        progress.set_members(&[OTHER]);
        assert!(progress.may_agree_with(OTHER));
        progress.cover(OTHER, Flags::default(), COMPLETE_SILENCE_MS);
        assert!(progress.agree(COMPLETE_SILENCE_MS, [OTHER]));
    }

    #[test]
    fn whoever_is_linked_is_waited_for_be_it_a_member_already_or_not() {
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER]);
        progress.cover(PEER, Flags { intact: true, ..Flags::default() }, COMPLETE_SILENCE_MS);
        assert!(!progress.agree(COMPLETE_SILENCE_MS, [PEER, OTHER]));
        assert!(progress.agree(COMPLETE_SILENCE_MS, [PEER]));
    }

    #[test]
    fn who_does_not_know_that_it_was_forgotten_hears_that_it_is_apart() {
        let mut progress = Progress { intact: true, ..Progress::default() };
        progress.floor.set_members([PEER, OTHER]);
        progress.agreement.reach(100, [PEER, OTHER]);
        progress.hear_detached(PEER);
        progress.cover(PEER, Flags { intact: true, ..Flags::default() }, COMPLETE_SILENCE_MS);
        assert!(!progress.agree(COMPLETE_SILENCE_MS, [PEER]), "it is to learn what it missed");
        assert_eq!(progress.agreement.with_ms(PEER), 100);
        progress.become_complete(200);
        progress.hear_detached(OTHER);
        assert!(!progress.agreement.is_detached(OTHER), "a whole node has learned it");
    }

    /// Two members swept a key that the second had seen deleted after it held the same as the third, which had returned just before and of
    /// which the first did not know yet: from there the key came back.
    #[test]
    fn a_late_deletion_takes_back_that_others_have_it_and_nothing_else() {
        let mut progress = Progress::default();
        progress.floor.set_members([PEER]);
        equal(&mut progress, 100);
        progress.agreement.reach(100, [PEER]);
        progress.lower_floor(90);
        assert_eq!((progress.floor.guarantee_ms(200), progress.agreement.with_ms(PEER)), (89, 100));
    }
}
