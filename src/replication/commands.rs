//! Commands from outside the replication loops: forget a member, compare now, and prepare for old rows.

use super::{Replication, link::registry::Control};
use crate::{core::clock::NodeId, error::Result};

impl Replication {
    /// Forgets a member that is gone. `force`: even without a majority.
    ///
    /// # Errors
    /// As `Members::forget`.
    pub async fn forget(&self, node: NodeId, force: bool) -> Result<()> {
        let actions = {
            let mut state = self.0.state();
            let is_forced = force && !state.members.has_majority();
            let actions = state.members.forget(node, force, self.0.store.now_ms())?;
            state.cluster_record.forced |= is_forced;
            actions
        };
        self.0.perform(actions);
        self.0.save_state().await
    }

    /// Withdraws all claims about rows as old as one that is about to be written (Unix milliseconds): other members may
    /// lack it.
    ///
    /// # Errors
    /// As the storage's. The row must not be written then.
    pub fn lower_claims(&self, written_ms: u64) -> Result<()> {
        self.0.shared.progress().lower_claims(written_ms);
        self.0.store.lower_agreement(written_ms.saturating_sub(1))
    }

    /// Tells every link to open a comparison. Returns how many will.
    pub fn sync_now(&self) -> usize {
        let state = self.0.state();
        state.registry.links().filter(|link| link.send_control(Control::Compare)).count()
    }
}
