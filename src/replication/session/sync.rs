//! Makes merged rows durable before anyone is told that they are. If they are durable already nothing is synced, so an
//! idle cluster writes nothing to its disks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    error::Result,
    storage::{Store, commit::Incarnation},
};

/// The disk syncs of all links of a node.
pub struct Syncs {
    store: Store,
    /// The count of changed rows when the last successful sync began, and the life of the storage.
    durable: Mutex<Option<(u64, Incarnation)>>,
}

impl Syncs {
    /// Syncs of this store.
    pub fn new(store: Store) -> Self {
        Self { store, durable: Mutex::default() }
    }

    /// Returns when everything merged before the call survives a power cut. `life` is the life of the storage before
    /// the merges.
    ///
    /// # Errors
    /// As `Store::durable`.
    pub async fn sync(&self, incarnation: Incarnation) -> Result<()> {
        // A row is counted when it is written, so the sync covers every row counted by now.
        let now = (self.store.counters().changed_rows.value(), self.store.incarnation());
        if *self.durable() == Some(now) && now.1 == incarnation {
            return Ok(());
        }
        self.store.durable(incarnation).await?;
        *self.durable() = Some(now);
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, Option<(u64, Incarnation)>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
