//! The gate that all writes of clients pass: shut, it lets no more in, and tells when the last one that is on its way is done.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::interval;

use crate::error::{Error, Result};

/// How often it is looked whether writes are still on their way.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The gate. Open at first.
#[derive(Default)]
pub struct WriteTracker {
    permit: AtomicUsize,
    is_closed: AtomicBool,
}

/// A write on its way; done when this is dropped.
pub struct WritePermit<'a>(&'a WriteTracker);

impl WriteTracker {
    /// Lets a write in.
    ///
    /// # Errors
    /// `Draining` where it is shut.
    pub fn begin(&self) -> Result<WritePermit<'_>> {
        // Counted before the look: whoever shuts the gate waits for all that were counted.
        self.permit.fetch_add(1, Ordering::AcqRel);
        let permit = WritePermit(self);
        if self.is_closed.load(Ordering::Acquire) { Err(Error::Draining) } else { Ok(permit) }
    }

    /// Lets no more in.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Lets writes in again.
    pub fn reopen(&self) {
        self.is_closed.store(false, Ordering::Release);
    }

    /// Returns when no write is on its way.
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
    async fn a_shut_gate_lets_nobody_in_and_is_cleared_when_the_last_has_passed() {
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
