//! What a node does once a round for all its links together: it notes what a restart must know, raises the floor, has dead rows
//! swept, and looks now and then whether its trees are what its disk has.

use std::sync::Arc;

use tracing::{info, warn};

use super::{
    Inner, MEMBERS_NOTE, SETTLE_MS,
    link::clocks::watch_clocks,
    membership::{cluster_identity::found, cluster_record::write_agreement},
};
use crate::{core::protocol::agreement::Agreement, error::Result};

/// Rounds between two looks whether the trees are what the disk has, at a partition each.
const ROUNDS_PER_CHECK: u64 = 10;

/// What is to be done once a round.
pub async fn keep_up(inner: &Arc<Inner>, rounds: u64) -> Result<()> {
    found(inner);
    watch_clocks(inner);
    let settled_ms = inner.store.now_ms().saturating_sub(SETTLE_MS);
    dispel_doubt(inner).await?;
    let (floor_ms, agreed_ms) = {
        let mut standing = inner.shared.standing();
        let agreed_ms = standing.whole.then(|| standing.floor.guarantee_ms(settled_ms));
        (standing.whole.then(|| standing.raise_floor(settled_ms)), agreed_ms)
    };
    let (store, grace_ms) = (inner.store.clone(), inner.options.tombstone_grace_ms);
    let kept_up = inner.machine().run(move || {
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
    kept_up.await?;
    inner.keep_notes().await
}

/// Ends the doubt about the storage once the node is whole beside others: it has held what they hold. One that is raised while the node is
/// whole makes it sync again. The doubt of a node that is alone stays: nobody can tell.
async fn dispel_doubt(inner: &Arc<Inner>) -> Result<()> {
    let Some(doubt) = inner.store.doubt() else { return Ok(()) };
    {
        let mut state = inner.state();
        let is_alone = state.members.unforgotten().is_empty();
        let mut standing = inner.shared.standing();
        if standing.whole && !is_alone && state.doubted.as_ref() != Some(&doubt) {
            warn!(doubt, "rows may be missing here: the node takes again what the others hold");
            standing.begin_syncing(inner.store.now_ms());
            standing.intact = false;
            standing.agreement = Agreement::default();
        }
        state.doubted = Some(doubt);
        if !standing.whole || is_alone {
            return Ok(());
        }
    }
    let store = inner.store.clone();
    inner.machine().run(move || store.clear_doubt()).await?;
    info!("the storage is no longer in doubt: it has held what the others hold");
    inner.state().doubted = None;
    Ok(())
}

impl Inner {
    /// Makes durable what a restart must know.
    pub(super) async fn keep_notes(&self) -> Result<()> {
        let _one_at_a_time = self.noting.lock().await;
        let (birth, agreement, members) = {
            let mut state = self.state();
            let standing = self.shared.standing();
            let is_linked = state.registry.links().next().is_some();
            state.birth.settled |= standing.whole && is_linked;
            let now_ms = self.store.now_ms();
            let agreement = state.noted_agreement.due(
                &standing.agreement,
                self.store.counters().changed_rows.value(),
                now_ms,
            );
            drop(standing);
            let birth = state.birth;
            ((state.noted != Some(birth)).then_some(birth), agreement, state.members.take_note())
        };
        if birth.is_none() && agreement.is_none() && members.is_none() {
            return Ok(());
        }
        let life = self.store.life();
        let store = self.store.clone();
        let noted = agreement.clone();
        let written = self.machine().run(move || {
            birth.iter().try_for_each(|birth| birth.write(&store))?;
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
                state.noted = birth.or(state.noted);
                if let Some(agreement) = noted {
                    state.noted_agreement.agreement = agreement;
                }
            }
            Err(_) => state.members.note_again(),
        }
        kept
    }
}

/// What is written down of the agreement, and how far that goes.
#[derive(Default)]
pub(super) struct Noted {
    agreement: Agreement,
    /// How many changes of rows were counted when somebody looked last, and when (Unix milliseconds) there was a new one.
    rows_changed: u64,
    changed_ms: u64,
}

impl Noted {
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
            self.changed_ms < was_ms && was_ms <= is_ms && self.agreement.is_but_later(agreement);
        (self.agreement != *agreement && !covers_nothing).then(|| agreement.clone())
    }
}
