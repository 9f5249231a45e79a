//! Background tasks that run as long as the node, and the cleanup after a failed start.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};
use tracing::warn;

use crate::storage::{Store, Threads, commit::timestamps::Timestamps};

/// How often the storage's own work runs in an environment without threads: like a disk whose sync takes this long.
const WORK_INTERVAL: Duration = Duration::from_millis(1);

/// Closes the storage if the start fails or is dropped.
pub struct CloseOnDrop(Option<Store>);

impl CloseOnDrop {
    /// Guards a store that was just opened.
    pub fn new(store: &Store) -> Self {
        Self(Some(store.clone()))
    }

    /// The node is up: it closes the storage itself from now on.
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

/// Starts the tasks that run until the storage is closed.
pub fn run(store: &Store, timestamps: &Arc<Timestamps>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let weak = Arc::downgrade(timestamps);
    tasks.spawn(async move {
        loop {
            let Some(timestamps) = weak.upgrade() else { return };
            let nap = timestamps.maintain_bound().await;
            // Do not keep the clock alive while asleep.
            drop(timestamps);
            sleep(nap).await;
        }
    });
    if store.environment().threads() == Threads::One {
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
