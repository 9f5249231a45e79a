//! Where a node's timestamps come from: its hybrid logical clock, and the durable bound that it stays below.
//!
//! The bound is made durable ahead of the timestamps it allows, so that none is handed out twice over a crash. It is renewed in
//! the background while there are writes, and by a write that finds too little left; an idle node writes nothing. One that a wrong
//! wall clock raised is lowered again when that is right.
//!
//! A node whose last timestamp lies too far ahead of its wall clock writes nothing more: its peers would refuse it, and what it wrote would
//! win over all that they write. Its clock was ahead, or is behind now; `Stamps::ahead` tells, and `DynaRust clock repair` mends it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{info, warn};

use super::Life;
use crate::{
    core::clock::{Clock, Drift, Timestamp, unix_ms},
    error::{Error, Result},
    storage::Store,
};

/// How far the clock's durable bound lies ahead of the wall clock. After a crash the node waits until the wall clock is within
/// the limit of drift of it, so this is also what a crash can cost a restart.
pub const BOUND_LEAD_MS: u64 = 1_500;
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

    /// Takes note of the timestamp of a row that a client is about to write over.
    ///
    /// # Errors
    /// `StampsAhead` where it lies so far ahead that all writes after it would, too; then nothing is noted.
    pub fn write_over(&self, stored: Timestamp) -> Result<()> {
        self.refuse_ahead(stored.unix_ms().saturating_sub(self.store.now_ms()))?;
        self.follow(stored);
        Ok(())
    }

    /// Raises the clock above an instant, so that no write falls at or before it any more.
    pub fn pass(&self, at_ms: u64) {
        let is_alone = self.store.machine().is_alone();
        match is_alone {
            true => self.clock().pass_tentatively(self.store.now_ms(), at_ms),
            false => self.clock().pass(at_ms),
        }
    }

    /// How far, in milliseconds, timestamps of this node lie ahead of its wall clock, or how far it has swept, where that is more than its
    /// peers take: twice the allowed drift, as one node may hand on what it took from another.
    pub fn ahead(&self) -> Option<u64> {
        let now_ms = self.store.now_ms();
        let swept_ms = self.store.swept().latest_ms().saturating_sub(now_ms);
        let ahead_ms = self.clock().ahead_ms(now_ms).max(swept_ms);
        self.refuse_ahead(ahead_ms).is_err().then_some(ahead_ms)
    }

    /// Sees to it that there are timestamps for writes. Returns the life of the store that they are to be merged into.
    ///
    /// # Errors
    /// `StampsAhead`; else as `Store::durable`.
    pub async fn before_writing(&self) -> Result<Life> {
        if let Some(ahead_ms) = self.ahead() {
            self.refuse_ahead(ahead_ms)?;
        }
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
        if let Err(error) = self.lower_bound(now_ms) {
            warn!(%error, "the clock's bound was not lowered");
        }
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
            let error = Error::TimestampsAhead { ahead_ms, allowed_ms };
            warn!(%error, "writes are refused");
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

    /// Lowers the bound where a wall clock that was wrong has raised it. It need not be durable soon: the one before only lasts longer.
    fn lower_bound(&self, now_ms: u64) -> Result<()> {
        let lower = self.clock().lower_bound(now_ms, BOUND_LEAD_MS);
        let Some(bound) = lower else { return Ok(()) };
        info!(
            to_ms = unix_ms(bound),
            "the clock was ahead, and no write was stamped by it: its bound is lowered"
        );
        self.store.set_clock_bound(bound)
    }

    fn refuse_ahead(&self, ahead_ms: u64) -> Result<()> {
        match ahead_ms > 2 * self.drift_max_ms {
            true => Err(Error::TimestampsAhead { ahead_ms, allowed_ms: self.drift_max_ms }),
            false => Ok(()),
        }
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        // The clock is one number: it is whole whatever panicked.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use super::*;
    use crate::{
        core::{clock::NodeId, protocol::replica::Swept},
        storage::tests::{NOW_MS, Scene, close},
    };

    const HOUR_MS: u64 = 3_600_000;
    const DRIFT_MS: u64 = 500;

    fn set_clock(scene: &Scene, now_ms: u64) {
        scene.now_ms.store(now_ms, Ordering::SeqCst);
    }

    /// The bound followed the wall clock an hour ahead, and the next start began there.
    #[tokio::test]
    async fn a_node_that_was_ahead_and_stamped_nothing_writes_true_and_its_bound_comes_back() {
        let scene = Scene::new();
        let store = scene.open();
        let stamps = Stamps::new(store.clone(), DRIFT_MS);
        stamps.before_writing().await.expect("there is a bound");
        let before = stamps.tick().expect("there is time");
        set_clock(&scene, NOW_MS + HOUR_MS);
        stamps.before_writing().await.expect("there is a bound");
        set_clock(&scene, NOW_MS + 10);
        stamps.keep_bound_ahead().await;
        stamps.before_writing().await.expect("there is a bound");
        let after = stamps.tick().expect("there is time");
        assert!(before < after && after.unix_ms() == NOW_MS + 10, "{before} {after}");
        assert_eq!(stamps.ahead(), None);
        drop(stamps);
        close(store);
        let store = scene.open();
        assert!(unix_ms(store.clock_bound()) <= NOW_MS + 10 + BOUND_LEAD_MS, "the durable one too");
        close(store);
    }

    #[tokio::test]
    async fn a_node_whose_timestamps_are_ahead_refuses_writes_until_time_has_caught_up() {
        let scene = Scene::new();
        let store = scene.open();
        let stamps = Arc::new(Stamps::new(store.clone(), DRIFT_MS));
        set_clock(&scene, NOW_MS + HOUR_MS);
        stamps.before_writing().await.expect("there is a bound");
        stamps.tick().expect("there is time");
        set_clock(&scene, NOW_MS);
        assert_eq!(stamps.ahead(), Some(HOUR_MS));
        let refused = stamps.before_writing().await.expect_err("refused");
        assert_eq!(refused, Error::TimestampsAhead { ahead_ms: HOUR_MS, allowed_ms: DRIFT_MS });
        assert!(refused.to_string().contains("DynaRust clock repair"), "{refused}");
        set_clock(&scene, NOW_MS + HOUR_MS - 2 * DRIFT_MS);
        assert_eq!(stamps.ahead(), None);
        stamps.before_writing().await.expect("it is near enough");
        // The same for what it has swept: members would remove new rows as old ones.
        set_clock(&scene, NOW_MS + HOUR_MS);
        store.sweep_to(Swept { tombstones_ms: 0, expired_ms: NOW_MS + 2 * HOUR_MS });
        assert_eq!(stamps.ahead(), Some(HOUR_MS));
        close(store);
    }

    /// One row of a time to come was enough to put all that was written after it there, too.
    #[tokio::test]
    async fn a_row_of_a_time_to_come_is_not_written_over() {
        let scene = Scene::new();
        let store = scene.open();
        let stamps = Stamps::new(store.clone(), DRIFT_MS);
        let at = |ahead_ms: u64| Timestamp { hlc: (NOW_MS + ahead_ms) << 16, node: NodeId(9) };
        assert!(matches!(stamps.write_over(at(HOUR_MS)), Err(Error::TimestampsAhead { .. })));
        assert_eq!(stamps.ahead(), None);
        assert_eq!(stamps.write_over(at(2 * DRIFT_MS)), Ok(()));
        close(store);
    }
}
