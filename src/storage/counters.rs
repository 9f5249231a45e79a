//! Figures of a store, kept by all its threads together.

use std::sync::atomic::{AtomicU64, Ordering};

/// A figure that threads keep together.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// One less, of a gauge.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The figure.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Figures since the store was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Merges that changed a row.
    pub writes: Counter,
    /// Rows that were set or removed, counted when they are: a sync that begins later makes them durable.
    pub changed_rows: Counter,
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
    /// Rows of peers that changed what was here.
    pub rows_accepted: Counter,
    /// Rows of peers that were refused, as they were deleted everywhere.
    pub rows_refused: Counter,
    /// Tombstones removed as every replica had them.
    pub tombstones_swept: Counter,
    /// Expired values removed as every replica had them.
    pub expired_swept: Counter,
    /// Starts at which the rows were not those of the last close.
    pub start_mismatches: Counter,
    /// Records found damaged.
    pub corrupt_records: Counter,
    /// Partitions whose digests were not those of the rows on disk, and were built again.
    pub digest_repairs: Counter,
    /// Bytes of the log that were read to look for damage.
    pub scrubbed_bytes: Counter,
    /// Places of the log where damage was found.
    pub damaged_frames: Counter,
}
