//! Tracks the client writes in progress. Closed, it refuses new writes, and tells when the last one in progress is done.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::interval;

use crate::error::{Error, Result};

/// How often `wait` checks for writes in progress.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The tracker. Open at first.
#[derive(Default)]
pub struct WriteTracker {
    permit: AtomicUsize,
    is_closed: AtomicBool,
}

/// A write in progress; done when dropped.
pub struct WritePermit<'a>(&'a WriteTracker);

impl WriteTracker {
    /// Starts a write.
    ///
    /// # Errors
    /// `Draining` if the tracker is closed.
    pub fn begin(&self) -> Result<WritePermit<'_>> {
        // Count first, then check: whoever closes the tracker waits for all writes that were counted.
        self.permit.fetch_add(1, Ordering::AcqRel);
        let permit = WritePermit(self);
        if self.is_closed.load(Ordering::Acquire) { Err(Error::Draining) } else { Ok(permit) }
    }

    /// How many writes are in progress.
    pub fn in_progress(&self) -> usize {
        self.permit.load(Ordering::Acquire)
    }

    /// Refuses new writes.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Accepts writes again.
    pub fn reopen(&self) {
        self.is_closed.store(false, Ordering::Release);
    }

    /// Returns when no write is in progress.
    pub async fn wait(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        while self.permit.load(Ordering::Acquire) > 0 {
            ticks.tick().await;
        }
    }
}

impl Drop for WritePermit<'_> {
    fn drop(&mut self) {
        self.0.permit.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_tracker_refuses_writes_and_waits_for_the_last_one() {
        let write_tracker = WriteTracker::default();
        let permit = write_tracker.begin().expect("it is open");
        write_tracker.close();
        assert!(write_tracker.begin().is_err());
        assert!(tokio::time::timeout(2 * POLL_INTERVAL, write_tracker.wait()).await.is_err());
        drop(permit);
        write_tracker.wait().await;
        write_tracker.reopen();
        assert!(write_tracker.begin().is_ok());
    }
}
