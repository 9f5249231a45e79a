//! The work done once a round for all links: save what a restart needs, raise the floor, sweep, and check that the
//! digest trees match the disk.

use std::sync::Arc;

use tracing::{info, warn};

use super::{
    Inner, MEMBERS_NOTE, SETTLE_MS,
    link::clocks::watch_clocks,
    membership::{cluster_identity::bootstrap, cluster_record::ClusterRecord},
};
use crate::{core::protocol::agreement::Agreement, error::Result, storage::engine::agreement_file::Agreed};

/// Rounds between two checks of the trees against the disk. Each checks one partition.
const ROUNDS_PER_CHECK: u64 = 10;

/// Runs the work of one round.
pub async fn run_housekeeping(inner: &Arc<Inner>, rounds: u64) -> Result<()> {
    bootstrap(inner);
    watch_clocks(inner);
    let settled_ms = inner.store.now_ms().saturating_sub(SETTLE_MS);
    clear_doubt_once_complete(inner).await?;
    let agreed_ms = inner.shared.progress().raise_agreement(settled_ms);
    // The floor follows what is saved. Where nothing can be saved, it stays.
    let saved = inner.save_state().await;
    let floor_ms = {
        let mut progress = inner.shared.progress();
        progress.complete.then(|| progress.raise_floor(settled_ms))
    };
    let store = inner.store.clone();
    let done = inner.environment().run(move || {
        if let Some(floor_ms) = floor_ms {
            // Never beyond the present: a clock that was ahead for a while may have raised the floor.
            store.advance_floors(floor_ms.min(settled_ms))?;
        }
        match agreed_ms {
            Some(agreed_ms) => store.agree(agreed_ms)?,
            None => store.invalidate_agreed(),
        }
        if rounds.is_multiple_of(ROUNDS_PER_CHECK) {
            // A storage that was reopened has no trees.
            if !store.is_counted() {
                store.count_rows()?;
            }
            store.drop_history();
            store.check_next()?;
        }
        Ok(())
    });
    done.await?;
    saved
}

/// Clears the suspicion that rows were lost, once the node is complete beside other members: then it has held what they
/// hold. If the suspicion arises while the node is complete, the node syncs again. A node without other members keeps
/// it: nobody can tell.
async fn clear_doubt_once_complete(inner: &Arc<Inner>) -> Result<()> {
    let Some(suspected_loss) = inner.store.suspected_loss() else { return Ok(()) };
    {
        let mut state = inner.state();
        let is_alone = state.members.member_ids().is_empty();
        let mut progress = inner.shared.progress();
        if progress.complete && !is_alone && state.handled_doubt.as_ref() != Some(&suspected_loss) {
            warn!(suspected_loss, "rows may be missing here: syncing with the other members again");
            progress.begin_syncing(inner.store.now_ms());
            progress.intact = false;
        }
        state.handled_doubt = Some(suspected_loss);
        if !progress.complete || is_alone {
            return Ok(());
        }
    }
    let store = inner.store.clone();
    inner.environment().run(move || store.clear_suspected_loss()).await?;
    info!("no rows are missing any more: the node has held everything that the other members hold");
    inner.state().handled_doubt = None;
    Ok(())
}

impl Inner {
    /// Makes durable what a restart needs.
    pub(super) async fn save_state(&self) -> Result<()> {
        let _one_at_a_time = self.saving.lock().await;
        let (cluster_record, agreement, members) = {
            let mut state = self.state();
            let mut progress = self.shared.progress();
            // Also where the links have ended, because it stops within its first round.
            let has_members = !state.members.member_ids().is_empty();
            state.cluster_record.joined |= progress.complete && has_members;
            let now_ms = self.store.now_ms();
            let agreement = state.saved_agreement.is_due(
                &progress.agreement,
                self.store.counters().changed_rows.value(),
                now_ms,
            );
            if !agreement {
                // What is saved covers the same rows.
                let agreed_ms = progress.agreement.with_all_ms();
                progress.agreement_saved(agreed_ms);
            }
            drop(progress);
            let cluster_record = state.cluster_record;
            (
                (state.saved != Some(cluster_record)).then_some(cluster_record),
                agreement,
                state.members.take_unsaved(),
            )
        };
        if cluster_record.is_none() && !agreement && members.is_none() {
            return Ok(());
        }
        // First: of a member that the notes say was forgotten nothing later is to be claimed.
        let agreed = if agreement { self.write_agreement().await } else { Ok(()) };
        let is_noted = cluster_record.is_none() && members.is_none();
        let kept = match agreed {
            Ok(()) if is_noted => Ok(()),
            Ok(()) => self.write_notes(cluster_record, members).await,
            failed => failed,
        };
        let mut state = self.state();
        match &kept {
            Ok(()) => state.saved = cluster_record.or(state.saved),
            Err(_) => state.members.mark_unsaved(),
        }
        kept
    }

    async fn write_notes(
        &self,
        cluster_record: Option<ClusterRecord>,
        members: Option<Vec<u8>>,
    ) -> Result<()> {
        let incarnation = self.store.incarnation();
        let store = self.store.clone();
        let written = self.environment().run(move || {
            cluster_record.iter().try_for_each(|cluster_record| cluster_record.write(&store))?;
            members.iter().try_for_each(|note| store.set_note(MEMBERS_NOTE, note))
        });
        written.await?;
        self.store.durable(incarnation).await
    }

    async fn write_agreement(&self) -> Result<()> {
        let (store, shared) = (self.store.clone(), self.shared.clone());
        let written = self.environment().run(move || {
            store.keep_agreement(|| {
                let progress = shared.progress();
                Agreed { agreement: progress.agreement.clone(), members: progress.floor.members().collect() }
            })
        });
        let saved = written.await?.agreement;
        self.shared.progress().agreement_saved(saved.with_all_ms());
        self.state().saved_agreement.agreement = saved;
        Ok(())
    }
}

/// The agreement as it was last saved.
#[derive(Default)]
pub(super) struct SavedAgreement {
    agreement: Agreement,
    /// The count of changed rows at the last look, and when it last changed (Unix milliseconds).
    rows_changed: u64,
    changed_ms: u64,
}

impl SavedAgreement {
    /// As read at the start.
    pub(super) fn new(agreement: Agreement) -> Self {
        Self { agreement, ..Self::default() }
    }

    /// Whether the agreement is to be written down: not for instants that cover no row which those that are written do not.
    fn is_due(&mut self, agreement: &Agreement, rows_changed: u64, now_ms: u64) -> bool {
        if self.rows_changed != rows_changed {
            (self.rows_changed, self.changed_ms) = (rows_changed, now_ms);
        }
        let (was_ms, is_ms) = (self.agreement.with_all_ms(), agreement.with_all_ms());
        let covers_nothing =
            self.changed_ms < was_ms && was_ms <= is_ms && self.agreement.differs_only_in_time(agreement);
        self.agreement != *agreement && !covers_nothing
    }
}
