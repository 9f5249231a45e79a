//! Cached row counts and digest sums of a table, valid until a row changes.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::core::digest::{DigestKey, Sum};

/// Row count and digest sum of a table, cached.
#[derive(Default)]
pub struct CachedDigests {
    /// Raised under the lock of a partition, before the partition changes.
    version: AtomicU64,
    rows: Mutex<Option<(u64, u64)>>,
    settled: Mutex<Option<CachedSum>>,
}

/// A table's sum, valid for all instants after its last write.
pub struct CachedSum {
    /// The table's version before its partitions were read.
    pub version: u64,
    /// The key under which the rows are hashed.
    pub key: Arc<DigestKey>,
    /// The sum of all rows.
    pub sum: Sum,
    /// The first instant it is valid for.
    pub since_ms: u64,
    /// When the partitions should be visited anyway, so that they free what they no longer need.
    pub until_ms: u64,
}

impl CachedDigests {
    /// Invalidates the cached values.
    pub fn invalidate(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// A number that differs after every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The row count at `version`: cached, or counted now.
    pub fn rows(&self, version: u64, count: impl FnOnce() -> u64) -> u64 {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        match *rows {
            Some((counted_at, count)) if counted_at == version => count,
            Some(_) | None => {
                let count = count();
                *rows = Some((version, count));
                count
            }
        }
    }

    /// The cached sum at an instant, if there is one.
    pub fn sum_at(&self, key: &Arc<DigestKey>, at_ms: u64, now_ms: u64) -> Option<Sum> {
        let version = self.version();
        let settled = self.settled();
        let settled = settled.as_ref()?;
        let is_so = settled.version == version && Arc::ptr_eq(&settled.key, key);
        (is_so && settled.since_ms <= at_ms && now_ms <= settled.until_ms).then_some(settled.sum)
    }

    /// Caches a sum.
    pub fn cache_sum(&self, settled: CachedSum) {
        *self.settled() = Some(settled);
    }

    fn settled(&self) -> MutexGuard<'_, Option<CachedSum>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
