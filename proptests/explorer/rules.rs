//! The rules that are explored: those of today, those of before, and those of today without one of them.

use super::state::{Cluster, id};

/// Which rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// As `core::protocol::agreement` has them.
    Today,
    /// As they were: absence below what was swept is taken for deletion, anybody forgets, and who was whole starts whole.
    Former,
    /// Those of today, but for one.
    Without(Rule),
}

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A late row lowers what is claimed.
    LateRowsLower,
    /// A late tombstone lowers what others are known to have.
    LateDeletionsLower,
    /// A proof needs what the claimant agreed.
    ClaimantAgrees,
    /// Only a whole node proves.
    ProverIsWhole,
    /// Only a majority forgets, and who was forgotten gives way.
    MajorityForgets,
    /// Damage is noticed: the node is not intact.
    DamageShows,
    /// What was agreed is kept beside the log, and outlasts damage to it.
    AgreementOutlasts,
    /// A node that starts is not whole.
    StartsSyncing,
    /// With a node that is apart, what was agreed with all counts for nothing.
    ApartIsApart,
    /// A node announces what it has agreed durably.
    AnnouncesSaved,
    /// What ends a row and comes late is swept by a floor above its arrival only.
    LateGarbageStays,
    /// Members that are apart count for no majority, and are not compared with while others may tell what they missed.
    ApartWaits,
}

impl Rules {
    pub fn has(self, rule: Rule) -> bool {
        match self {
            Self::Today => true,
            Self::Former => false,
            Self::Without(missing) => missing != rule,
        }
    }
}

impl Cluster {
    /// Up to when a node holds to have held the same as another.
    pub fn agreed_ms(&self, node: usize, with: usize) -> u64 {
        let agreement = &self.nodes[node].progress.agreement;
        match self.rules.has(Rule::ApartIsApart) {
            true => agreement.with_ms(id(with)),
            false => agreement.with_all_ms(),
        }
    }

    /// Whether a node that is told it was forgotten by one without a majority forgets that in turn.
    pub fn parts_in_turn(&self, node: usize, by: usize) -> bool {
        let (here, all) = self.present_without(node, Some(by));
        self.nodes[by].is_forced && dynarust::core::protocol::progress::is_majority(here, all)
    }
}
