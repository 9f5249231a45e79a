//! Makes what was merged durable, before anybody is told that it is. What is durable already is not synced again: a cluster
//! that is idle writes nothing to its disks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    error::Result,
    storage::{Store, commit::Life},
};

/// Syncs for all links of a node.
pub struct Syncs {
    store: Store,
    /// How many rows had been changed when the last sync began that came to its end, and in which life of the store.
    durable: Mutex<Option<(u64, Life)>>,
}

impl Syncs {
    /// Of this store.
    pub fn new(store: Store) -> Self {
        Self { store, durable: Mutex::default() }
    }

    /// Returns when everything merged before the call survives a power cut. `life` is that of before the merges.
    ///
    /// # Errors
    /// As `Store::durable`.
    pub async fn sync(&self, life: Life) -> Result<()> {
        // A row is counted when it is set: whatever is counted by now, the sync makes durable.
        let now = (self.store.counters().changed_rows.value(), self.store.life());
        if *self.durable() == Some(now) && now.1 == life {
            return Ok(());
        }
        self.store.durable(life).await?;
        *self.durable() = Some(now);
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, Option<(u64, Life)>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
