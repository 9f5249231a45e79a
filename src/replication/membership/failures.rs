//! Failure detection: who is suspect and who is down, by what links report and by time.

use foca::State;

use super::{MemberState, Members};
use crate::core::clock::NodeId;

/// Time between two checks of links and suspects.
pub(in crate::replication::membership) const CHECK_MS: u64 = 250;

/// A member counts as heard if it was heard this recently: longer than a round, shorter than a suspicion.
pub(in crate::replication::membership) const HEARD_LATELY_MS: u64 = 1_500;

/// Time between two announcements to a member that is linked but declared down.
pub(in crate::replication::membership) const REANNOUNCE_MS: u64 = 500;

impl Members {
    /// Checks what no packet reports: silent links, suspects whose time is up, linked members that are declared down,
    /// and members that have been away for too long.
    pub(in crate::replication::membership) fn check(&mut self) {
        let steady_ms = self.clock.steady_ms();
        // The protocol activates a new identity only when it looks at its members.
        let looked = self.foca.apply_many(std::iter::empty(), true, &mut self.effects);
        self.count(looked);
        for node in self.records.keys().copied().collect::<Vec<_>>() {
            let Some(record) = self.records.get_mut(&node) else { continue };
            if record.linked && steady_ms.saturating_sub(record.heard_ms) >= self.options.silence_max_ms {
                self.suspect(node);
            } else if record.needs_announce(steady_ms) {
                record.last_announce_ms = steady_ms;
                let identity = record.identity();
                self.announce(identity);
            }
            self.declare_down(node);
        }
        self.forget_long_gone();
    }

    /// Suspects a member that the protocol considers alive.
    pub(in crate::replication::membership) fn suspect(&mut self, node: NodeId) {
        let Some(record) = self.records.get(&node) else { return };
        if let Some((refutations, State::Alive)) = record.protocol_state {
            let identity = record.identity();
            self.learn(&identity, refutations, State::Suspect);
        }
    }

    /// Declares a suspect down if its time to refute is up and it is not heard.
    fn declare_down(&mut self, node: NodeId) {
        let (steady_ms, now_ms) = (self.clock.steady_ms(), self.clock.wall_ms());
        let Some(record) = self.records.get_mut(&node) else { return };
        let Some(suspected_ms) = record.suspected_ms else { return };
        if steady_ms.saturating_sub(suspected_ms) < self.options.suspicion_ms || record.is_heard(steady_ms) {
            return;
        }
        record.suspected_ms = None;
        match record.protocol_state {
            Some((refutations, _)) => {
                let identity = record.identity();
                self.learn(&identity, refutations, State::Down);
            }
            // Restored from the saved state and not seen since the start. Others may know better, so they are not told.
            None => {
                record.member.state = MemberState::Down { since_ms: now_ms };
                self.changed(node);
            }
        }
    }
}
