//! Progress of a table's pump: how many rows were set, and how many of them are published. A new subscriber waits for it, so that it is not
//! sent earlier changes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// Longest time a new subscriber waits for earlier changes.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// How often a waiting thread checks again.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(1);

/// Counts of one table, from one opening of the engine to the next.
#[derive(Debug)]
pub struct Progress {
    begun: AtomicU64,
    published: watch::Sender<u64>,
}

impl Progress {
    /// Starts with nothing set.
    pub fn new() -> Self {
        Self { begun: AtomicU64::new(0), published: watch::Sender::new(0) }
    }

    /// Records that `count` rows are about to be set; the engine's feed will deliver each of them.
    pub fn begin(&self, count: usize) {
        self.begun.fetch_add(count as u64, Ordering::AcqRel);
    }

    /// Records that `count` of those rows were not set after all.
    pub fn give_up(&self, count: usize) {
        self.begun.fetch_sub(count as u64, Ordering::AcqRel);
    }

    /// Records that one more row of the feed was published.
    pub fn publish(&self) {
        self.published.send_modify(|published| *published += 1);
    }

    /// Whether every row set before the call is published.
    pub fn is_caught_up(&self) -> bool {
        self.is_past(self.begun())
    }

    /// Number of rows set, or about to be.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether that many rows are published.
    pub fn is_past(&self, begun: u64) -> bool {
        *self.published.borrow() >= begun
    }

    /// Waits until every row set before the call is published.
    pub async fn caught_up(&self) {
        let begun = self.begun.load(Ordering::Acquire);
        let mut published = self.published.subscribe();
        let caught_up = published.wait_for(|published| *published >= begun);
        // A timeout means that a set failed; an early change does no harm then.
        let _ = tokio::time::timeout(CATCH_UP_MAX, caught_up).await;
    }

    /// Like `caught_up`, for a thread that may block. Returns false on timeout.
    pub fn wait_until_caught_up(&self) -> bool {
        let begun = self.begun.load(Ordering::Acquire);
        let deadline = Instant::now() + CATCH_UP_MAX;
        while !self.is_past(begun) && Instant::now() < deadline {
            thread::sleep(CATCH_UP_PAUSE);
        }
        self.is_past(begun)
    }
}
