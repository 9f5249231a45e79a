//! What a node does once a round for all its links together: it notes what a restart must know, raises the floor, has dead rows
//! swept, and looks now and then whether its trees are what its disk has.

use std::sync::Arc;

use super::{Inner, MEMBERS_NOTE, SETTLE_MS, belong::found};
use crate::{core::clock::last_reading, error::Result};

/// Rounds between two looks whether the trees are what the disk has, at a partition each.
const ROUNDS_PER_CHECK: u64 = 10;
/// Up to when this node holds everything is written down this often where nothing asks for it.
const HELD_STEP_MS: u64 = 30 * 60 * 1_000;

/// What is to be done once a round.
pub async fn keep_up(inner: &Arc<Inner>, rounds: u64) -> Result<()> {
    found(inner);
    let settled_ms = inner.store.now_ms().saturating_sub(SETTLE_MS);
    hold(inner, settled_ms).await?;
    let floor_ms = {
        let mut standing = inner.shared.standing();
        standing.whole.then(|| standing.raise_floor(settled_ms))
    };
    let (store, grace_ms) = (inner.store.clone(), inner.options.tombstone_grace_ms);
    let kept_up = inner.machine().run(move || {
        if let Some(floor_ms) = floor_ms {
            store.pass_floor(floor_ms, grace_ms)?;
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

/// Makes durable up to when this node holds all that the cluster does, where something is to be swept by that; else now and then.
async fn hold(inner: &Arc<Inner>, settled_ms: u64) -> Result<()> {
    let (store, grace_ms) = (inner.store.clone(), inner.options.tombstone_grace_ms);
    let due_ms = inner.machine().run(move || store.next_sweep_ms(grace_ms)).await?;
    let guarantee_ms = {
        let mut state = inner.state();
        let standing = inner.shared.standing();
        let held_ms = standing.held_ms;
        let guarantee_ms = standing.floor.guarantee_ms(settled_ms);
        let is_due = due_ms.is_some_and(|due_ms| held_ms < due_ms && due_ms <= guarantee_ms);
        if !standing.whole || !(is_due || guarantee_ms > held_ms + HELD_STEP_MS) {
            return Ok(());
        }
        state.birth.held_ms = state.birth.held_ms.max(guarantee_ms);
        guarantee_ms
    };
    inner.keep_notes().await?;
    let mut standing = inner.shared.standing();
    standing.held_ms = standing.held_ms.max(guarantee_ms);
    Ok(())
}

impl Inner {
    /// Makes durable what a restart must know.
    pub(super) async fn keep_notes(&self) -> Result<()> {
        let _one_at_a_time = self.noting.lock().await;
        let (birth, members) = {
            let mut state = self.state();
            let standing = self.shared.standing();
            let is_linked = state.registry.links().next().is_some();
            let birth = &mut state.birth;
            birth.whole = standing.whole;
            birth.settled |= standing.whole && is_linked;
            birth.held_ms = birth.held_ms.max(standing.held_ms);
            // It grows with every round. What matters is that it covers all that this node wrote.
            if birth.shared_hlc < last_reading(self.stamps.last_write_ms()) {
                birth.shared_hlc = standing.shared_hlc;
            }
            drop(standing);
            let birth = state.birth;
            ((state.noted != Some(birth)).then_some(birth), state.members.take_note())
        };
        if birth.is_none() && members.is_none() {
            return Ok(());
        }
        let life = self.store.life();
        let store = self.store.clone();
        let written = self.machine().run(move || {
            birth.iter().try_for_each(|birth| birth.write(&store))?;
            members.iter().try_for_each(|note| store.set_note(MEMBERS_NOTE, note))
        });
        let kept = match written.await {
            Ok(()) => self.store.durable(life).await,
            failed => failed,
        };
        let mut state = self.state();
        match &kept {
            Ok(()) if birth.is_some() => state.noted = birth,
            Ok(()) => {}
            Err(_) => state.members.note_again(),
        }
        kept
    }
}
