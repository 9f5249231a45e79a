//! What runs beside requests as long as a node does, and what a start that fails leaves behind: nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};
use tracing::warn;

use crate::storage::{Store, Threads, commit::timestamps::Stamps};

/// How often the storage's own work is done on a machine that has no threads for it: as a disk that syncs in so long.
const WORK_INTERVAL: Duration = Duration::from_millis(1);

/// A storage that is closed again where the start fails, or is given up.
pub struct CloseOnDrop(Option<Store>);

impl CloseOnDrop {
    /// Of a store that was just opened.
    pub fn new(store: &Store) -> Self {
        Self(Some(store.clone()))
    }

    /// The node is up: the storage is its own from now on.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|store| store.close()) {
            warn!(%error, "the storage was not synced when it was closed");
        }
    }
}

/// What runs beside requests until the storage is closed.
pub fn run(store: &Store, stamps: &Arc<Stamps>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let weak = Arc::downgrade(stamps);
    tasks.spawn(async move {
        loop {
            let Some(stamps) = weak.upgrade() else { return };
            let nap = stamps.keep_bound_ahead().await;
            // Who sleeps keeps nobody's clock alive.
            drop(stamps);
            sleep(nap).await;
        }
    });
    if store.machine().threads() == Threads::One {
        let store = store.clone();
        tasks.spawn(async move {
            let mut ticks = interval(WORK_INTERVAL);
            loop {
                ticks.tick().await;
                store.work();
            }
        });
    }
    tasks
}
