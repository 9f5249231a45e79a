//! Which of two links between the same nodes stays, such as when both dialed at once.

use crate::core::clock::NodeId;

/// Two links that came up within this time may be two dials that crossed. If the existing link is older, its other end
/// is gone: otherwise nobody would have dialed.
const CROSSED_MS: u64 = 3_000;

/// Who dialed a link, and when it came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiated {
    /// The node that dialed.
    pub by: NodeId,
    /// When the link came up.
    pub at_ms: u64,
}

/// Which of two links between the same nodes stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivor {
    /// The existing one. The new one is closed.
    Existing,
    /// The new one. The existing one is closed.
    New,
}

/// Decides which link stays. Of two dials that crossed, both sides keep the one that the lower id dialed. Otherwise the
/// new one stays, because the node that dialed has lost the other.
pub fn survivor(existing: Initiated, new: Initiated) -> Survivor {
    let crossed = new.at_ms.saturating_sub(existing.at_ms) < CROSSED_MS;
    if crossed && existing.by < new.by { Survivor::Existing } else { Survivor::New }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_crossed_dials_both_sides_keep_the_one_of_the_lower_id() {
        let link = |by, at_ms| Initiated { by: NodeId(by), at_ms };
        assert_eq!(survivor(link(1, 100), link(2, 150)), Survivor::Existing);
        assert_eq!(survivor(link(2, 900), link(1, 950)), Survivor::New);
    }

    #[test]
    fn a_new_link_replaces_one_that_the_dialer_lost() {
        let link = |by, at_ms| Initiated { by: NodeId(by), at_ms };
        assert_eq!(survivor(link(1, 100), link(2, 100 + CROSSED_MS)), Survivor::New);
        assert_eq!(survivor(link(1, 100), link(1, 150)), Survivor::New);
    }
}
