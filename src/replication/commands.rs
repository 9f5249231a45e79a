//! What a node is told from outside: to forget a member, to compare now, and that old rows are about to come in.

use super::{Replication, link::registry::Control, membership::cluster_record::write_agreement};
use crate::{core::clock::NodeId, error::Result};

impl Replication {
    /// Goes on without a member that is gone. `force`: also without a majority.
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

    /// Takes back what is claimed of rows as old as one that is about to come in, written at an instant (Unix milliseconds): other members
    /// may not have it.
    ///
    /// # Errors
    /// As the storage's: it is not to come in then.
    pub fn lower_claims(&self, written_ms: u64) -> Result<()> {
        let agreement = {
            let mut progress = self.0.shared.progress();
            progress.lower_claims(written_ms).then(|| progress.agreement.clone())
        };
        agreement.map_or(Ok(()), |agreement| write_agreement(&self.0.store, &agreement))
    }

    /// Tells all links to open a comparison. How many will.
    pub fn sync_now(&self) -> usize {
        let state = self.0.state();
        state.registry.links().filter(|link| link.send_control(Control::Compare)).count()
    }
}
