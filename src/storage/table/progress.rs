//! Progress of a table's pump: how many rows were set, and how many of them are published. A new subscriber waits for it, so that it is not
//! sent earlier changes. A table that nobody has followed yet has no pump: its rows need not be published and are not counted.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
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
    has_pump: AtomicBool,
    begun: AtomicU64,
    published: watch::Sender<u64>,
}

impl Progress {
    /// Starts with nothing set, and without a pump.
    pub fn new() -> Self {
        Self { has_pump: AtomicBool::new(false), begun: AtomicU64::new(0), published: watch::Sender::new(0) }
    }

    /// Records that there is a pump from now on. Returns false if there was one. Call it under the locks of all partitions, so that each row
    /// is either counted and delivered by the feed, or neither.
    pub fn add_pump(&self) -> bool {
        !self.has_pump.swap(true, Ordering::AcqRel)
    }

    /// Records that there is no pump after all. Call it under the locks of all partitions.
    pub fn remove_pump(&self) {
        self.has_pump.store(false, Ordering::Release);
        self.begun.store(*self.published.borrow(), Ordering::Release);
    }

    /// Records that a row is about to be set. Returns whether the engine's feed will deliver it. Call it under the lock of its partition.
    pub fn begin(&self) -> bool {
        let has_pump = self.has_pump.load(Ordering::Acquire);
        if has_pump {
            self.begun.fetch_add(1, Ordering::AcqRel);
        }
        has_pump
    }

    /// Records that the row was not set after all. Call it under the same lock.
    pub fn give_up(&self) {
        if self.has_pump.load(Ordering::Acquire) {
            self.begun.fetch_sub(1, Ordering::AcqRel);
        }
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
