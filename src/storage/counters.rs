//! Figures of a store, kept by all its threads together.

use std::sync::atomic::{AtomicU64, Ordering};

/// A figure that threads keep together.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less, of a gauge.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The figure.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Figures since the store was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Merges that changed a row.
    pub writes: Counter,
    /// Merges that lost against what was there.
    pub writes_superseded: Counter,
    /// Writes refused because the storage was failing.
    pub writes_refused: Counter,
    /// Rounds of flush and sync.
    pub commits: Counter,
    /// Changes published.
    pub changes: Counter,
    /// Subscriptions open now.
    pub subscriptions: Counter,
    /// Subscribers told to resynchronise because they read too slowly.
    pub resyncs: Counter,
    /// Values that expired.
    pub expired: Counter,
    /// Records found damaged.
    pub corrupt_records: Counter,
}
