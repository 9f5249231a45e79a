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
            store.count_rows_if_needed()?;
            store.drop_history();
            store.check_next()?;
        }
        Ok(())
    });
    done.await?;
    saved
}

/// Clears the suspicion that rows were lost, once the node is complete beside other members: then it has held what they
/// hold. Those of strong tables come back in another way, and it is not cleared before. If the suspicion arises while the node is complete, the
/// node syncs again. A node without other members keeps it: nobody can tell.
async fn clear_doubt_once_complete(inner: &Arc<Inner>) -> Result<()> {
    let incarnation = inner.store.incarnation();
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
    if store.suspects_strong_loss() {
        return Ok(());
    }
    if inner.environment().run(move || store.clear_suspected_loss(incarnation)).await? {
        info!("no rows are missing any more: the node has held everything that the other members hold");
        inner.state().handled_doubt = None;
    }
    Ok(())
}

impl Inner {
    /// Makes durable what a restart needs.
    pub(super) async fn save_state(&self) -> Result<()> {
        let _one_at_a_time = self.saving.lock().await;
        // A storage that is being reopened keeps nothing anyway.
        let garbage_due_ms = self.store.next_sweep_ms().ok().flatten();
        let (cluster_record, agreement, members) = {
            let mut state = self.state();
            let mut progress = self.shared.progress();
            // Also where the links have ended, because it stops within its first round.
            let has_members = !state.members.member_ids().is_empty();
            state.cluster_record.joined |= progress.complete && has_members;
            state.cluster_record.returning = progress.is_returning();
            let (now_ms, rows_changed) = (self.store.now_ms(), self.store.counters().changed_rows.value());
            let agreement =
                state.saved_agreement.is_due(&progress.agreement, rows_changed, garbage_due_ms, now_ms);
            if !agreement {
                // What is saved covers the same rows, and no garbage goes by more.
                let (agreed_ms, withdrawals) = (progress.agreement.with_all_ms(), progress.withdrawals());
                progress.agreement_saved(agreed_ms, withdrawals);
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
            let mut withdrawals = 0;
            let written = store.keep_agreement(|| {
                let progress = shared.progress();
                withdrawals = progress.withdrawals();
                Agreed { agreement: progress.agreement.clone(), members: progress.floor.members().collect() }
            })?;
            Ok((written.agreement, withdrawals))
        });
        let (saved, withdrawals) = written.await?;
        self.shared.progress().agreement_saved(saved.with_all_ms(), withdrawals);
        self.state().saved_agreement.agreement = saved;
        Ok(())
    }
}

/// The agreement as it was last saved. It is saved again when it covers more rows, or has garbage go: before the node announces that, so that
/// nothing goes anywhere before. An idle node does not write to its disk each round.
#[derive(Default)]
pub(super) struct SavedAgreement {
    agreement: Agreement,
    /// The count of changed rows at the last look; `None` before the first.
    rows_changed: Option<u64>,
    /// When the count last changed (Unix milliseconds).
    changed_ms: u64,
}

impl SavedAgreement {
    /// As read at the start.
    pub(super) fn new(agreement: Agreement) -> Self {
        Self { agreement, ..Self::default() }
    }

    /// Whether the agreement is to be saved. `garbage_due_ms`: the lowest instant at which some garbage may go.
    fn is_due(
        &mut self,
        agreement: &Agreement,
        rows_changed: u64,
        garbage_due_ms: Option<u64>,
        now_ms: u64,
    ) -> bool {
        if self.rows_changed != Some(rows_changed) {
            // At the first look too: the rows that are here at the start may have come after it was saved.
            (self.rows_changed, self.changed_ms) = (Some(rows_changed), now_ms);
        }
        let (was_ms, is_ms) = (self.agreement.with_all_ms(), agreement.with_all_ms());
        let has_garbage_go = garbage_due_ms.is_some_and(|due_ms| was_ms < due_ms && due_ms <= is_ms);
        let covers_nothing =
            self.changed_ms < was_ms && was_ms <= is_ms && self.agreement.differs_only_in_time(agreement);
        self.agreement != *agreement && (has_garbage_go || !covers_nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(at_ms: u64) -> Agreement {
        let mut agreement = Agreement::default();
        agreement.reach(at_ms, []);
        agreement
    }

    #[test]
    fn an_agreement_is_saved_until_it_covers_the_last_change_and_then_no_more() {
        let mut saved = SavedAgreement::new(agreed(90));
        assert!(saved.is_due(&agreed(95), 0, None, 100), "rows of before the start may be later than 90");
        saved.agreement = agreed(101);
        assert!(!saved.is_due(&agreed(150), 0, None, 200));
        assert!(saved.is_due(&agreed(150), 1, None, 200));
        saved.agreement = agreed(150);
        assert!(saved.is_due(&agreed(180), 1, None, 210), "the change is later");
        saved.agreement = agreed(201);
        assert!(!saved.is_due(&agreed(300), 1, None, 310));
        assert!(saved.is_due(&agreed(200), 1, None, 310), "it was lowered");
        let mut detached = agreed(300);
        detached.detach(crate::core::clock::NodeId(2), 100);
        assert!(saved.is_due(&detached, 1, None, 310));
    }

    /// A tombstone may be later than this node's clock was when it came. An agreement that was saved between the two does not cover it, and no
    /// row changed after that.
    #[test]
    fn an_agreement_is_saved_before_garbage_goes_by_it() {
        let mut saved = SavedAgreement::new(agreed(201));
        assert!(!saved.is_due(&agreed(201), 0, Some(250), 100), "it is saved");
        assert!(!saved.is_due(&agreed(249), 0, Some(250), 310), "nothing goes yet");
        assert!(saved.is_due(&agreed(250), 0, Some(250), 310));
        saved.agreement = agreed(250);
        assert!(!saved.is_due(&agreed(300), 0, Some(250), 310), "it goes by what is saved");
    }
}
