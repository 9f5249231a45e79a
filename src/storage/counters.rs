//! Counters and gauges of a store, updated by all its threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that several threads update.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts one from a gauge.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Numbers since the store was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Merges that changed a row.
    pub writes: Counter,
    /// Rows set or removed, counted when it happens: a sync that begins later makes them durable.
    pub changed_rows: Counter,
    /// Merges that lost against the stored row.
    pub writes_superseded: Counter,
    /// Writes refused because the storage was failing.
    pub writes_refused: Counter,
    /// Rounds of flush and sync.
    pub commits: Counter,
    /// Changes published.
    pub changes: Counter,
    /// Open subscriptions.
    pub subscriptions: Counter,
    /// Subscribers that had to resynchronize because they read too slowly.
    pub resyncs: Counter,
    /// Values that expired.
    pub expired: Counter,
    /// Rows of peers that changed something here.
    pub rows_accepted: Counter,
    /// Rows of peers refused because they were deleted everywhere.
    pub rows_refused: Counter,
    /// Tombstones removed because every replica had them.
    pub tombstones_swept: Counter,
    /// Expired values removed because every replica had them.
    pub expired_swept: Counter,
    /// Starts at which the rows were not those of the last close.
    pub start_mismatches: Counter,
    /// Records found damaged.
    pub corrupt_records: Counter,
    /// Partitions whose digests did not match the rows on disk and were rebuilt.
    pub digest_repairs: Counter,
    /// Bytes of the log read by the scrub.
    pub scrubbed_bytes: Counter,
    /// Damaged places found in the log.
    pub damaged_frames: Counter,
}
