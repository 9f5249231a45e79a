//! How far a table's pump is behind its writers: so that one who starts to watch is told of later changes only.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// How long a new subscriber waits at the most for changes of before.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// How often a thread that waits for the same looks again.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(1);

/// Of one table, from one opening of the engine to the next.
#[derive(Debug)]
pub struct Progress {
    begun: AtomicU64,
    published: watch::Sender<u64>,
}

impl Progress {
    /// Nothing was set yet.
    pub fn new() -> Self {
        Self { begun: AtomicU64::new(0), published: watch::Sender::new(0) }
    }

    /// Says that so many rows are about to be set, each of which the engine's feed will tell of.
    pub fn begin(&self, count: usize) {
        self.begun.fetch_add(count as u64, Ordering::AcqRel);
    }

    /// Says that so many of those were not set.
    pub fn give_up(&self, count: usize) {
        self.begun.fetch_sub(count as u64, Ordering::AcqRel);
    }

    /// Says that another row that the feed told of is with the subscribers.
    pub fn publish(&self) {
        self.published.send_modify(|published| *published += 1);
    }

    /// Whether every row set before the call is with the subscribers.
    pub fn is_caught_up(&self) -> bool {
        self.is_past(self.begun())
    }

    /// How many rows were about to be set by now.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether so many rows that were set are with the subscribers.
    pub fn is_past(&self, begun: u64) -> bool {
        *self.published.borrow() >= begun
    }

    /// Returns when every row set before the call is with the subscribers.
    pub async fn caught_up(&self) {
        let begun = self.begun.load(Ordering::Acquire);
        let mut published = self.published.subscribe();
        let caught_up = published.wait_for(|published| *published >= begun);
        // Late only where a set failed; a change of before is harmless then.
        let _ = tokio::time::timeout(CATCH_UP_MAX, caught_up).await;
    }

    /// As `caught_up`, for a thread that may wait. False where they are not yet.
    pub fn wait_until_caught_up(&self) -> bool {
        let begun = self.begun.load(Ordering::Acquire);
        let deadline = Instant::now() + CATCH_UP_MAX;
        while !self.is_past(begun) && Instant::now() < deadline {
            thread::sleep(CATCH_UP_PAUSE);
        }
        self.is_past(begun)
    }
}
