//! Two links between one pair of nodes, as when both dialed at once: which of them stays.

use crate::core::clock::NodeId;

/// Two links that came up within this time may be two dials that crossed. A link older than that is one whose other end is gone:
/// otherwise nobody would have dialed.
const CROSSED_MS: u64 = 3_000;

/// A link, by who dialed it, and when it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiated {
    /// The node that dialed.
    pub by: NodeId,
    /// When the link stood.
    pub at_ms: u64,
}

/// Which of two links between one pair of nodes stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivor {
    /// The one that stands; the fresh one is closed.
    Existing,
    /// The fresh one; the other is closed.
    New,
}

/// Which link stays where one stands and a fresh one comes up. Of two dials that crossed it is the one that the lower id dialed, on
/// both sides; else the fresh one, as the dialer has lost the other.
pub fn survivor(existing: Initiated, new: Initiated) -> Survivor {
    let crossed = new.at_ms.saturating_sub(existing.at_ms) < CROSSED_MS;
    if crossed && existing.by < new.by { Survivor::Existing } else { Survivor::New }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_dials_that_crossed_both_sides_keep_the_one_of_the_lower_id() {
        let link = |by, at_ms| Initiated { by: NodeId(by), at_ms };
        assert_eq!(survivor(link(1, 100), link(2, 150)), Survivor::Existing);
        assert_eq!(survivor(link(2, 900), link(1, 950)), Survivor::New);
    }

    #[test]
    fn a_fresh_link_replaces_one_that_the_dialer_lost() {
        let link = |by, at_ms| Initiated { by: NodeId(by), at_ms };
        assert_eq!(survivor(link(1, 100), link(2, 100 + CROSSED_MS)), Survivor::New);
        assert_eq!(survivor(link(1, 100), link(1, 150)), Survivor::New);
    }
}
