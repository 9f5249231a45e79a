//! Whether enough members are here to go on without the others.

use super::Members;
use crate::core::{clock::NodeId, protocol::progress::is_majority};

impl Members {
    /// How many members are here, this node included, and how many there are that were not forgotten.
    pub fn present(&self) -> (usize, usize) {
        let member_ids = || self.others().filter(|member| !member.state.is_forgotten());
        let here = member_ids().filter(|member| member.state.is_here()).count();
        (1 + here, 1 + member_ids().count())
    }

    /// Whether the members that are here, this node included, are more than half of all that were not forgotten.
    pub fn has_majority(&self) -> bool {
        let (here, all) = self.present();
        is_majority(here, all)
    }

    /// Whether the members that are here without a node, this one included, are more than half of all.
    pub fn has_majority_without(&self, node: NodeId) -> bool {
        let (here, all) = self.present();
        let is_here = self.other(node).is_some_and(|member| member.state.is_here());
        is_majority(here - usize::from(is_here), all)
    }
}
