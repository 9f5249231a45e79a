//! Where a node's timestamps come from: its hybrid logical clock, and the durable bound that it stays below.
//!
//! The bound is made durable ahead of the timestamps it allows, so that none is handed out twice over a crash. It is renewed in
//! the background while there are writes, and by a write that finds too little left; an idle node writes nothing.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::warn;

use super::{Store, commit::Life};
use crate::{
    core::clock::{Clock, Drift, Timestamp},
    error::{Error, Result},
};

/// How far the clock's durable bound lies ahead of the wall clock. After a crash the node waits until the wall clock is within
/// the limit of drift of it, so this is also what a crash can cost a restart.
const BOUND_LEAD_MS: u64 = 1_500;
/// The bound is renewed in the background when less than this is left of it.
const BOUND_RENEWAL_MS: u64 = 1_000;
/// A write that finds less than this left waits for a renewal.
const BOUND_LEFT_MIN_MS: u64 = 300;
/// How often a write renews the bound before it gives up.
const RENEWALS_MAX: usize = 5;
/// How long after the last write the bound is kept up. A write after that waits for one more commit.
const BOUND_IDLE_MS: u64 = 10_000;
/// How often the background looks at the bound.
const BOUND_CHECK: Duration = Duration::from_millis(100);
/// How often where nothing is written: the first write after that finds or makes a bound that lasts until the next look.
const BOUND_CHECK_IDLE: Duration = Duration::from_millis(500);

/// The timestamps of one node.
pub struct Stamps {
    store: Store,
    drift_max_ms: u64,
    clock: Mutex<Clock>,
    /// One renewal of the bound at a time: the others find it done.
    renewal: tokio::sync::Mutex<()>,
    last_write_ms: AtomicU64,
}

impl Stamps {
    /// The timestamps of the node whose store this is. Foreign ones may be `drift_max_ms` ahead of its wall clock.
    pub fn new(store: Store, drift_max_ms: u64) -> Self {
        let clock = Clock::new(store.node(), store.clock_bound(), drift_max_ms);
        let last_write_ms = store.clock_bound() >> 16;
        Self {
            store,
            drift_max_ms,
            clock: Mutex::new(clock),
            renewal: tokio::sync::Mutex::default(),
            last_write_ms: AtomicU64::new(last_write_ms),
        }
    }

    /// The timestamp of a write that happens now. `before_writing` comes first.
    ///
    /// # Errors
    /// `Overloaded` where the bound was not renewed in time.
    pub fn tick(&self) -> Result<Timestamp> {
        let now_ms = self.store.now_ms();
        self.last_write_ms.store(now_ms, Ordering::Relaxed);
        self.clock().tick(now_ms).map_err(|_| {
            Error::Overloaded("the disk is too slow to keep the clock's bound ahead; try again".into())
        })
    }

    /// Takes note of a foreign timestamp. One too far ahead changes nothing.
    pub fn observe(&self, remote: Timestamp) -> std::result::Result<(), Drift> {
        self.clock().observe(self.store.now_ms(), remote)
    }

    /// Takes note of a timestamp that is stored here, whatever the wall clock says: a write over it must lie above it.
    pub fn follow(&self, stored: Timestamp) {
        self.clock().follow(stored);
    }

    /// Raises the clock above an instant, so that no write falls at or before it any more.
    pub fn pass(&self, at_ms: u64) {
        self.clock().pass(at_ms);
    }

    /// Sees to it that there are timestamps for writes. Returns the life of the store that they are to be merged into.
    ///
    /// # Errors
    /// As `Store::durable`.
    pub async fn before_writing(&self) -> Result<Life> {
        self.last_write_ms.store(self.store.now_ms(), Ordering::Relaxed);
        // Where a sync takes longer than the lead, the bound it makes durable has passed by then.
        for _ in 0..RENEWALS_MAX {
            if self.clock().bound_wanted(self.store.now_ms(), BOUND_LEFT_MIN_MS).is_none() {
                break;
            }
            self.renew_bound(BOUND_LEFT_MIN_MS).await?;
        }
        Ok(self.store.life())
    }

    /// When this node wrote last, in Unix milliseconds; at first, what it can have written before it started.
    pub fn last_write_ms(&self) -> u64 {
        self.last_write_ms.load(Ordering::Relaxed)
    }

    /// Renews the bound if there were writes lately, none are refused, and little is left of it. Returns after how long it is to be
    /// called again.
    pub async fn keep_bound_ahead(&self) -> Duration {
        let now_ms = self.store.now_ms();
        let idle_ms = now_ms.saturating_sub(self.last_write_ms.load(Ordering::Relaxed));
        if idle_ms >= BOUND_IDLE_MS || self.store.failure().is_some() {
            return BOUND_CHECK_IDLE;
        }
        let wanted = self.clock().bound_wanted(now_ms, BOUND_RENEWAL_MS).is_some();
        // A failure is the next write's to report: it renews the bound itself.
        if wanted && let Err(error) = self.renew_bound(BOUND_RENEWAL_MS).await {
            warn!(%error, "the clock's bound was not renewed");
        }
        BOUND_CHECK
    }

    /// After a crash the clock starts at a bound that may lie ahead: timestamps from there would look skewed to others.
    pub async fn wait_for_the_wall_clock(&self) {
        let allowed_ms = self.drift_max_ms;
        let ahead_ms = (self.clock().last() >> 16).saturating_sub(self.store.now_ms());
        if ahead_ms > BOUND_LEAD_MS + allowed_ms {
            warn!(ahead_ms, "the wall clock is behind timestamps of before: it was set back. Set it by NTP");
        } else if ahead_ms > allowed_ms {
            tokio::time::sleep(Duration::from_millis(ahead_ms - allowed_ms)).await;
        }
    }

    /// Lowers the bound to just above what was handed out, for a node that ends: the next start need not wait.
    ///
    /// # Errors
    /// As the storage's. Durable by the next commit.
    pub fn end(&self) -> Result<()> {
        let last = self.clock().last();
        self.store.set_clock_bound(last + 1)
    }

    /// Makes a higher bound durable, unless another call has left at least `left_ms` of it.
    async fn renew_bound(&self, left_ms: u64) -> Result<()> {
        let _one_at_a_time = self.renewal.lock().await;
        let now_ms = self.store.now_ms();
        let bound = {
            let clock = self.clock();
            match clock.bound_wanted(now_ms, left_ms) {
                Some(_) => clock.bound_wanted(now_ms, BOUND_LEAD_MS),
                None => None,
            }
        };
        let Some(bound) = bound else { return Ok(()) };
        let life = self.store.life();
        self.store.set_clock_bound(bound)?;
        self.store.durable(life).await?;
        self.clock().extend(bound);
        Ok(())
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        // The clock is one number: it is whole whatever panicked.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
