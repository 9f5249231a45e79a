//! Tracks the client writes in progress. Closed, it refuses new writes, and tells when the last one in progress is done.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
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
    /// How many have closed it.
    closed: AtomicUsize,
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
        if self.closed.load(Ordering::Acquire) > 0 { Err(Error::Draining) } else { Ok(permit) }
    }

    /// How many writes are in progress.
    pub fn in_progress(&self) -> usize {
        self.permit.load(Ordering::Acquire)
    }

    /// Refuses new writes.
    pub fn close(&self) {
        self.closed.fetch_add(1, Ordering::AcqRel);
    }

    /// Undoes one `close`. New writes are accepted once all who closed it have done that.
    pub fn reopen(&self) {
        self.closed.fetch_sub(1, Ordering::AcqRel);
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

    /// Of two commands to leave, the one that failed had writes accepted again while the other handed the data over: what was acknowledged then went
    /// with the node.
    #[test]
    fn it_is_open_once_all_who_closed_it_have_reopened_it() {
        let write_tracker = WriteTracker::default();
        write_tracker.close();
        write_tracker.close();
        write_tracker.reopen();
        assert!(write_tracker.begin().is_err());
        write_tracker.reopen();
        assert!(write_tracker.begin().is_ok());
    }
}
