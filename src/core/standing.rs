//! Where a node stands among its members: what it wrote, what each of them has, and up to where all are known to have
//! everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{clock::NodeId, floor::Floor, journal::Journal};

/// What all peers of a node share. Lock order: `standing`, then `journal`.
#[derive(Debug, Default)]
pub struct Shared {
    journal: Mutex<Journal>,
    standing: Mutex<Standing>,
}

/// Where the node stands among its members.
#[derive(Debug, Default)]
pub struct Standing {
    /// What all are known to have.
    pub floor: Floor,
    /// Whether the node has finished its first sync.
    pub whole: bool,
    /// What of the journal each peer has, over links.
    pub acked: BTreeMap<NodeId, Acked>,
    /// Up to this reading of its clock some other member had what this node wrote.
    pub shared_hlc: u64,
    /// Up to here (Unix milliseconds) the node may have written in a life of before, of which the journal knows nothing.
    pub begun_ms: u64,
    /// `shared_hlc` does not grow before the floor has passed this instant.
    pub anew_ms: u64,
    /// Up to here (Unix milliseconds) this node had all that the cluster had, and will know so after a crash: it is durable.
    /// What was swept up to here and is not here was deleted; of what was swept later this node knows nothing.
    pub held_ms: u64,
    /// Whether the node hands over what it has, to leave for good.
    pub leaving: bool,
    /// All members that were ever heard of.
    pub known: BTreeSet<NodeId>,
    /// The member that the first sync comes from, and when that was last seen to be so (Unix milliseconds).
    pub source: Option<(NodeId, u64)>,
}

impl Standing {
    /// The node was away for longer than the others waited. What it had alone may be taken in by one member and refused by another
    /// that had swept a little further: until all have the same it counts as not shared, so that it is written anew rather than
    /// removed.
    pub fn begin_anew(&mut self, now_ms: u64) {
        self.whole = false;
        self.anew_ms = now_ms;
    }

    /// Whether a peer has all of the journal up to an entry, of which this node wrote the last at an instant (Unix milliseconds). Where
    /// the journal did not reach back to what it had, it has all once a comparison found so after that instant.
    pub fn is_served(&self, peer: NodeId, entry: u64, written_ms: u64) -> bool {
        let acked = self.acked.get(&peer).copied().unwrap_or_default();
        let is_equal = || self.floor.equal_ms(peer).is_some_and(|equal_ms| equal_ms > written_ms);
        entry == 0 || acked.holds(entry) || acked.upto >= entry && is_equal()
    }

    /// Notes that some other member has what this node wrote up to a reading of its clock.
    pub fn share(&mut self, upto_hlc: u64) {
        if self.floor.floor_ms() >= self.anew_ms {
            self.shared_hlc = self.shared_hlc.max(upto_hlc);
        }
    }

    /// What this node announces: up to there all members have what it has, and it will still know that after a crash.
    pub fn guarantee_ms(&self, settled_ms: u64) -> u64 {
        if self.whole { self.floor.guarantee_ms(settled_ms).min(self.held_ms) } else { 0 }
    }

    /// Raises the floor as far as is known now, and returns it.
    pub fn raise_floor(&mut self, settled_ms: u64) -> u64 {
        let guarantee_ms = self.guarantee_ms(settled_ms);
        self.floor.raise(guarantee_ms)
    }
}

/// The part of the journal that is durable at a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Everything after this place,
    pub after: u64,
    /// up to this one.
    pub upto: u64,
    /// Of what was written up to here (Unix milliseconds) the journal does not tell the peer: it may be missing there, until roots are
    /// equal at a later instant.
    pub untold_ms: u64,
}

impl Acked {
    /// Of all up to an entry, written by an instant, nobody knows whether it is there.
    pub fn nothing_before(entry: u64, untold_ms: u64) -> Self {
        Self { after: entry, upto: entry, untold_ms }
    }

    /// Whether the row of an entry is durable at the peer.
    pub fn holds(self, entry: u64) -> bool {
        entry > self.after && entry <= self.upto
    }
}

impl Shared {
    /// What peers share at first, with this journal.
    pub fn new(journal: Journal) -> Self {
        Self { journal: Mutex::new(journal), standing: Mutex::default() }
    }

    /// The journal.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The standing.
    pub fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn acked(after: u64, upto: u64) -> Acked {
        Acked { after, upto, untold_ms: 0 }
    }

    /// A node that stopped waited its full patience for whomever its journal had not reached back to, though both had long been equal.
    #[test]
    fn a_peer_is_served_by_the_journal_or_by_a_comparison_after_the_last_write() {
        let mut standing = Standing::default();
        standing.floor.set_members([PEER]);
        assert!(standing.is_served(PEER, 0, 0), "nothing was written");
        assert!(!standing.is_served(PEER, 7, 100), "nothing is known");
        standing.acked.insert(PEER, acked(3, 6));
        assert!(!standing.is_served(PEER, 7, 100), "the last is on its way");
        standing.acked.insert(PEER, acked(3, 7));
        assert!(standing.is_served(PEER, 7, 100));
        standing.acked.insert(PEER, acked(7, 7));
        assert!(!standing.is_served(PEER, 7, 100), "it was never sent");
        standing.floor.equal(PEER, 100);
        assert!(!standing.is_served(PEER, 7, 100), "they may have been equal before it was written");
        standing.floor.equal(PEER, 101);
        assert!(standing.is_served(PEER, 7, 100));
        standing.acked.insert(PEER, acked(3, 6));
        assert!(!standing.is_served(PEER, 7, 100), "what is written meanwhile is on its way");
    }
}
