//! What a node does once a round for all its links together: it notes what a restart must know, raises the floor, has dead rows
//! swept, and looks now and then whether its trees are what its disk has.

use std::sync::Arc;

use tracing::{info, warn};

use super::{
    Inner, MEMBERS_NOTE, SETTLE_MS,
    link::clocks::watch_clocks,
    membership::{cluster_identity::bootstrap, cluster_record::write_agreement},
};
use crate::{core::protocol::agreement::Agreement, error::Result};

/// Rounds between two looks whether the trees are what the disk has, at a partition each.
const ROUNDS_PER_CHECK: u64 = 10;

/// What is to be done once a round.
pub async fn run_housekeeping(inner: &Arc<Inner>, rounds: u64) -> Result<()> {
    bootstrap(inner);
    watch_clocks(inner);
    let settled_ms = inner.store.now_ms().saturating_sub(SETTLE_MS);
    clear_doubt_once_complete(inner).await?;
    let (floor_ms, agreed_ms) = {
        let mut progress = inner.shared.progress();
        let agreed_ms = progress.complete.then(|| progress.floor.guarantee_ms(settled_ms));
        (progress.complete.then(|| progress.raise_floor(settled_ms)), agreed_ms)
    };
    let (store, grace_ms) = (inner.store.clone(), inner.options.tombstone_grace_ms);
    let done = inner.machine().run(move || {
        if let Some(floor_ms) = floor_ms {
            // Not past the present: a clock that was ahead for a while may have raised it.
            store.pass_floor(floor_ms.min(settled_ms), grace_ms)?;
        }
        match agreed_ms {
            Some(agreed_ms) => store.agree(agreed_ms)?,
            None => store.lapse(),
        }
        if rounds.is_multiple_of(ROUNDS_PER_CHECK) {
            // After the storage was opened again there are no trees.
            if !store.is_counted() {
                store.count_rows()?;
            }
            store.forget_past();
            store.check_next()?;
        }
        Ok(())
    });
    done.await?;
    inner.save_state().await
}

/// Ends the doubt about the storage once the node is whole beside others: it has held what they hold. One that is raised while the node is
/// whole makes it sync again. The doubt of a node that is alone stays: nobody can tell.
async fn clear_doubt_once_complete(inner: &Arc<Inner>) -> Result<()> {
    let Some(doubt) = inner.store.doubt() else { return Ok(()) };
    {
        let mut state = inner.state();
        let is_alone = state.members.member_ids().is_empty();
        let mut progress = inner.shared.progress();
        if progress.complete && !is_alone && state.handled_doubt.as_ref() != Some(&doubt) {
            warn!(doubt, "rows may be missing here: the node takes again what the others hold");
            progress.begin_syncing(inner.store.now_ms());
            progress.intact = false;
            progress.agreement = Agreement::default();
        }
        state.handled_doubt = Some(doubt);
        if !progress.complete || is_alone {
            return Ok(());
        }
    }
    let store = inner.store.clone();
    inner.machine().run(move || store.clear_doubt()).await?;
    info!("the storage is no longer in doubt: it has held what the others hold");
    inner.state().handled_doubt = None;
    Ok(())
}

impl Inner {
    /// Makes durable what a restart must know.
    pub(super) async fn save_state(&self) -> Result<()> {
        let _one_at_a_time = self.saving.lock().await;
        let (cluster_record, agreement, members) = {
            let mut state = self.state();
            let progress = self.shared.progress();
            let is_linked = state.registry.links().next().is_some();
            state.cluster_record.joined |= progress.complete && is_linked;
            let now_ms = self.store.now_ms();
            let agreement = state.saved_agreement.due(
                &progress.agreement,
                self.store.counters().changed_rows.value(),
                now_ms,
            );
            drop(progress);
            let cluster_record = state.cluster_record;
            (
                (state.saved != Some(cluster_record)).then_some(cluster_record),
                agreement,
                state.members.take_unsaved(),
            )
        };
        if cluster_record.is_none() && agreement.is_none() && members.is_none() {
            return Ok(());
        }
        let life = self.store.life();
        let store = self.store.clone();
        let saved = agreement.clone();
        let written = self.machine().run(move || {
            cluster_record.iter().try_for_each(|cluster_record| cluster_record.write(&store))?;
            agreement.iter().try_for_each(|agreement| write_agreement(&store, agreement))?;
            members.iter().try_for_each(|note| store.set_note(MEMBERS_NOTE, note))
        });
        let kept = match written.await {
            Ok(()) => self.store.durable(life).await,
            failed => failed,
        };
        let mut state = self.state();
        match &kept {
            Ok(()) => {
                state.saved = cluster_record.or(state.saved);
                if let Some(agreement) = saved {
                    state.saved_agreement.agreement = agreement;
                }
            }
            Err(_) => state.members.mark_unsaved(),
        }
        kept
    }
}

/// What is written down of the agreement, and how far that goes.
#[derive(Default)]
pub(super) struct SavedAgreement {
    agreement: Agreement,
    /// How many changes of rows were counted when somebody looked last, and when (Unix milliseconds) there was a new one.
    rows_changed: u64,
    changed_ms: u64,
}

impl SavedAgreement {
    /// What a start read.
    pub(super) fn new(agreement: Agreement) -> Self {
        Self { agreement, ..Self::default() }
    }

    /// What is to be written down of the agreement: all but instants that cover no row which those that are written do not.
    fn due(&mut self, agreement: &Agreement, rows_changed: u64, now_ms: u64) -> Option<Agreement> {
        if self.rows_changed != rows_changed {
            (self.rows_changed, self.changed_ms) = (rows_changed, now_ms);
        }
        let (was_ms, is_ms) = (self.agreement.with_all_ms(), agreement.with_all_ms());
        let covers_nothing =
            self.changed_ms < was_ms && was_ms <= is_ms && self.agreement.differs_only_in_time(agreement);
        (self.agreement != *agreement && !covers_nothing).then(|| agreement.clone())
    }
}
