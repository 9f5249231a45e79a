//! Whether a majority of the members is present.

use super::Members;
use crate::core::{clock::NodeId, protocol::progress::is_majority};

impl Members {
    /// How many members are present, and how many there are. Both include this node; forgotten nodes do not count.
    pub fn present(&self) -> (usize, usize) {
        let member_ids = || self.others().filter(|member| !member.state.is_forgotten());
        let here = member_ids().filter(|member| member.state.is_here()).count();
        (1 + here, 1 + member_ids().count())
    }

    /// Whether the members present are more than half of all, including this node.
    pub fn has_majority(&self) -> bool {
        let (here, all) = self.present();
        is_majority(here, all)
    }

    /// The same without a given node.
    pub fn has_majority_without(&self, node: NodeId) -> bool {
        let (here, all) = self.present();
        let is_here = self.other(node).is_some_and(|member| member.state.is_here());
        is_majority(here - usize::from(is_here), all)
    }
}
