//! How far the log is durable, for those who wait for that.
//!
//! No `watch` channel: it wakes those who wait in an order that it throws dice for. Several wait at a time here, and a simulation has to follow
//! from its seed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::stopped;
use crate::error::{Error, Result};

/// How far the log is durable, and whether it goes on.
#[derive(Debug)]
pub struct Synced {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// The index after the last entry that is durable.
    next: u64,
    /// Why no more will be, until the log is opened again.
    failed: Option<Error>,
    /// Whether the writer has ended.
    is_closed: bool,
}

impl Synced {
    /// The entries below `next` are durable.
    pub fn new(next: u64) -> Self {
        Self { state: Mutex::new(State { next, failed: None, is_closed: false }), changed: Notify::new() }
    }

    /// Shows how far the log is durable, or why it will be no further.
    pub fn show(&self, next: u64, failed: Option<&Error>) {
        let mut state = self.lock();
        state.next = next;
        state.failed = failed.cloned();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Tells that the writer has ended.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_waiters();
    }

    /// Returns when an entry is durable.
    ///
    /// # Errors
    /// Why it will not be: those of the disk, or `Io` if the log is closed.
    pub async fn until(&self, index: u64) -> Result<()> {
        self.until_some(|state| match &state.failed {
            _ if state.next > index => Some(Ok(())),
            Some(why) => Some(Err(why.clone())),
            None => state.is_closed.then(|| Err(stopped())),
        })
        .await
    }

    /// Returns when no more entries will be durable until the log is opened again: why. Never returns if it is closed before.
    pub async fn until_failed(&self) -> Error {
        self.until_some(|state| state.failed.clone()).await
    }

    async fn until_some<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            // What changes between the look and the wait is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let seen = look(&self.lock());
            if let Some(seen) = seen {
                return seen;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
