//! A node's timestamps: its hybrid logical clock, and the durable bound that it stays below.
//!
//! The bound is made durable before any timestamp below it is handed out, so that no timestamp is issued twice over a crash. A background
//! task renews it while there are writes, and a write renews it if too little is left; an idle node writes nothing. A bound that a wrong
//! wall clock raised is lowered when the wall clock is right again.
//!
//! A node whose last timestamp is too far ahead of its wall clock refuses writes: its peers would reject them, and they would win over
//! everything the peers write. Either its clock was ahead, or it is behind now; `Timestamps::ahead` tells how far, and `DynaRust clock
//! repair` repairs it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{info, warn};

use super::Incarnation;
use crate::{
    core::clock::{Clock, Drift, Timestamp, unix_ms},
    error::{Error, Result},
    storage::Store,
};

/// How far the durable bound is ahead of the wall clock. After a crash the node waits until the wall clock is within the drift limit of the
/// bound, so this is also the most that a crash can delay a restart.
pub const BOUND_LEAD_MS: u64 = 1_500;
/// The background task renews the bound when less than this is left.
const BOUND_RENEWAL_MS: u64 = 1_000;
/// A write that finds less than this left waits for a renewal.
const BOUND_LEFT_MIN_MS: u64 = 300;
/// How many times a write renews the bound before it gives up.
const RENEWALS_MAX: usize = 5;
/// How long after the last write the bound is kept ahead. A later write waits for one more commit.
const BOUND_IDLE_MS: u64 = 10_000;
/// How often the background task checks the bound.
const BOUND_CHECK: Duration = Duration::from_millis(100);
/// The same for an idle node: the first write after a check finds, or makes, a bound that lasts until the next check.
const BOUND_CHECK_IDLE: Duration = Duration::from_millis(500);

/// Issues the timestamps of one node.
pub struct Timestamps {
    store: Store,
    drift_max_ms: u64,
    clock: Mutex<Clock>,
    /// One renewal at a time: the others find it done.
    renewal: tokio::sync::Mutex<()>,
    last_write_ms: AtomicU64,
}

impl Timestamps {
    /// The timestamps of the node that owns this store. Foreign timestamps may be `drift_max_ms` ahead of its wall clock.
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

    /// Issues the timestamp of a write that happens now. Call `before_writing` first.
    ///
    /// # Errors
    /// `Overloaded` if the bound was not renewed in time.
    pub fn tick(&self) -> Result<Timestamp> {
        self.tick_at(self.store.now_ms())
    }

    /// As `tick`, for a write that was decided to happen at this instant, which was just now when `before_writing` returned: however long deciding
    /// takes, the bound is not passed.
    ///
    /// # Errors
    /// As `tick`.
    pub fn tick_at(&self, now_ms: u64) -> Result<Timestamp> {
        self.last_write_ms.store(now_ms, Ordering::Relaxed);
        self.clock().tick(now_ms).map_err(|_| {
            Error::Overloaded("the disk is too slow to renew the clock's bound; try again".into())
        })
    }

    /// Observes a foreign timestamp. One too far ahead changes nothing.
    pub fn observe(&self, remote: Timestamp) -> std::result::Result<(), Drift> {
        self.clock().observe(self.store.now_ms(), remote)
    }

    /// Observes a timestamp that is stored here, whatever the wall clock says: a write over it must be later.
    pub fn observe_stored(&self, stored: Timestamp) {
        self.clock().follow(stored);
    }

    /// Observes the timestamp of a row that a client is about to overwrite.
    ///
    /// # Errors
    /// `TimestampsAhead` if it is so far ahead that all later writes would be too; then the clock is unchanged.
    pub fn observe_overwritten(&self, stored: Timestamp) -> Result<()> {
        self.check_ahead(stored.unix_ms().saturating_sub(self.store.now_ms()))?;
        self.observe_stored(stored);
        Ok(())
    }

    /// Raises the clock above an instant, so that no later write is at or before it.
    pub fn advance_past(&self, at_ms: u64) {
        let is_alone = self.store.environment().is_alone();
        match is_alone {
            true => self.clock().pass_tentatively(self.store.now_ms(), at_ms),
            false => self.clock().pass(at_ms),
        }
    }

    /// How far, in milliseconds, this node's timestamps or its removal floors are ahead of its wall clock. `None` up to what peers accept:
    /// twice the allowed drift, as a node may pass on what it took from another.
    pub fn ahead(&self) -> Option<u64> {
        let now_ms = self.store.now_ms();
        let swept_ms = self.store.swept().latest_ms().saturating_sub(now_ms);
        let ahead_ms = self.clock().ahead_ms(now_ms).max(swept_ms);
        self.check_ahead(ahead_ms).is_err().then_some(ahead_ms)
    }

    /// Makes sure that there are timestamps for writes. Returns the store's incarnation that the writes must be merged into.
    ///
    /// # Errors
    /// `TimestampsAhead`, and those of `Store::durable`.
    pub async fn before_writing(&self) -> Result<Incarnation> {
        if let Some(ahead_ms) = self.ahead() {
            self.check_ahead(ahead_ms)?;
        }
        self.last_write_ms.store(self.store.now_ms(), Ordering::Relaxed);
        // If a sync takes longer than the lead, the bound has already passed when it is durable.
        for _ in 0..RENEWALS_MAX {
            if self.clock().bound_wanted(self.store.now_ms(), BOUND_LEFT_MIN_MS).is_none() {
                break;
            }
            self.renew_bound(BOUND_LEFT_MIN_MS).await?;
        }
        Ok(self.store.incarnation())
    }

    /// When this node last wrote, in Unix milliseconds; at first, the latest it can have written before it started.
    pub fn last_write_ms(&self) -> u64 {
        self.last_write_ms.load(Ordering::Relaxed)
    }

    /// Renews the bound if there were writes lately, they are not refused, and little is left. Returns the time until the next call.
    pub async fn maintain_bound(&self) -> Duration {
        let now_ms = self.store.now_ms();
        if let Err(error) = self.lower_bound(now_ms) {
            warn!(%error, "the clock's bound could not be lowered");
        }
        let idle_ms = now_ms.saturating_sub(self.last_write_ms.load(Ordering::Relaxed));
        if idle_ms >= BOUND_IDLE_MS || self.store.failure().is_some() {
            return BOUND_CHECK_IDLE;
        }
        let wanted = self.clock().bound_wanted(now_ms, BOUND_RENEWAL_MS).is_some();
        // The next write reports a failure: it renews the bound itself.
        if wanted && let Err(error) = self.renew_bound(BOUND_RENEWAL_MS).await {
            warn!(%error, "the clock's bound could not be renewed");
        }
        BOUND_CHECK
    }

    /// Waits until the wall clock has caught up with the bound from before a crash: timestamps from there would look ahead to others.
    pub async fn wait_for_wall_clock(&self) {
        let allowed_ms = self.drift_max_ms;
        let ahead_ms = (self.clock().last() >> 16).saturating_sub(self.store.now_ms());
        if ahead_ms > BOUND_LEAD_MS + allowed_ms {
            let error = Error::TimestampsAhead { ahead_ms, allowed_ms };
            warn!(%error, "writes are refused");
        } else if ahead_ms > allowed_ms {
            tokio::time::sleep(Duration::from_millis(ahead_ms - allowed_ms)).await;
        }
    }

    /// Lowers the bound to just above the last timestamp when the node stops, so that the next start need not wait.
    ///
    /// # Errors
    /// Those of the storage. Durable by the next commit.
    pub fn end(&self) -> Result<()> {
        let last = self.clock().last();
        self.store.set_clock_bound(last + 1)
    }

    /// Makes a higher bound durable, unless another call left at least `left_ms` of it.
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
        let incarnation = self.store.incarnation();
        self.store.set_clock_bound(bound)?;
        self.store.durable(incarnation).await?;
        self.clock().extend(bound);
        Ok(())
    }

    /// Lowers the bound if a wrong wall clock raised it. It need not be durable soon: the old bound only lasts longer.
    fn lower_bound(&self, now_ms: u64) -> Result<()> {
        let lower = self.clock().lower_bound(now_ms, BOUND_LEAD_MS);
        let Some(bound) = lower else { return Ok(()) };
        info!(
            to_ms = unix_ms(bound),
            "the wall clock was ahead, but no write used it; the clock's bound is lowered"
        );
        self.store.set_clock_bound(bound)
    }

    fn check_ahead(&self, ahead_ms: u64) -> Result<()> {
        match ahead_ms > 2 * self.drift_max_ms {
            true => Err(Error::TimestampsAhead { ahead_ms, allowed_ms: self.drift_max_ms }),
            false => Ok(()),
        }
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        // The clock is one number: valid even if a holder panicked.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use super::*;
    use crate::{
        core::{clock::NodeId, protocol::replica::Swept},
        storage::tests::{Fixture, NOW_MS, close},
    };

    const HOUR_MS: u64 = 3_600_000;
    const DRIFT_MS: u64 = 500;

    fn set_clock(fixture: &Fixture, now_ms: u64) {
        fixture.now_ms.store(now_ms, Ordering::SeqCst);
    }

    /// The bound followed the wall clock an hour ahead, and the next start began there.
    #[tokio::test]
    async fn a_clock_that_was_ahead_and_not_used_leaves_no_trace_and_its_bound_is_lowered() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let timestamps = Timestamps::new(store.clone(), DRIFT_MS);
        timestamps.before_writing().await.expect("there is a bound");
        let before = timestamps.tick().expect("there is time");
        set_clock(&fixture, NOW_MS + HOUR_MS);
        timestamps.before_writing().await.expect("there is a bound");
        set_clock(&fixture, NOW_MS + 10);
        timestamps.maintain_bound().await;
        timestamps.before_writing().await.expect("there is a bound");
        let after = timestamps.tick().expect("there is time");
        assert!(before < after && after.unix_ms() == NOW_MS + 10, "{before} {after}");
        assert_eq!(timestamps.ahead(), None);
        drop(timestamps);
        close(store);
        let store = fixture.open();
        assert!(unix_ms(store.clock_bound()) <= NOW_MS + 10 + BOUND_LEAD_MS, "the durable one too");
        close(store);
    }

    #[tokio::test]
    async fn a_node_whose_timestamps_are_ahead_refuses_writes_until_time_has_caught_up() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let timestamps = Arc::new(Timestamps::new(store.clone(), DRIFT_MS));
        set_clock(&fixture, NOW_MS + HOUR_MS);
        timestamps.before_writing().await.expect("there is a bound");
        timestamps.tick().expect("there is time");
        set_clock(&fixture, NOW_MS);
        assert_eq!(timestamps.ahead(), Some(HOUR_MS));
        let refused = timestamps.before_writing().await.expect_err("refused");
        assert_eq!(refused, Error::TimestampsAhead { ahead_ms: HOUR_MS, allowed_ms: DRIFT_MS });
        assert!(refused.to_string().contains("DynaRust clock repair"), "{refused}");
        set_clock(&fixture, NOW_MS + HOUR_MS - 2 * DRIFT_MS);
        assert_eq!(timestamps.ahead(), None);
        timestamps.before_writing().await.expect("it is near enough");
        // The same for the removal floors: members would remove new rows as old ones.
        set_clock(&fixture, NOW_MS + HOUR_MS);
        store.sweep_to(Swept { tombstones_ms: 0, expired_ms: NOW_MS + 2 * HOUR_MS });
        assert_eq!(timestamps.ahead(), Some(HOUR_MS));
        close(store);
    }

    /// One row from the future was enough to put every later write there, too.
    #[tokio::test]
    async fn a_row_from_the_future_is_not_overwritten() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let timestamps = Timestamps::new(store.clone(), DRIFT_MS);
        let at = |ahead_ms: u64| Timestamp { hlc: (NOW_MS + ahead_ms) << 16, node: NodeId(9) };
        assert!(matches!(timestamps.observe_overwritten(at(HOUR_MS)), Err(Error::TimestampsAhead { .. })));
        assert_eq!(timestamps.ahead(), None);
        assert_eq!(timestamps.observe_overwritten(at(2 * DRIFT_MS)), Ok(()));
        close(store);
    }
}
