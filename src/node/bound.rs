//! The clock's bound: durable ahead of the timestamps it allows, so that none is handed out twice over a crash. Renewed in the
//! background while there are writes, and by a write that finds too little left; an idle node writes nothing.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::warn;

use super::Node;
use crate::{
    core::clock::Timestamp,
    error::{Error, Result},
    storage::commit::Life,
};

/// How far the clock's durable bound lies ahead of the wall clock. After a crash the node waits until the wall clock is within
/// `clock_drift_max_ms` of it, so this is also what a crash can cost a restart.
const BOUND_LEAD_MS: u64 = 1_500;
/// The bound is renewed in the background when less than this is left of it.
const BOUND_RENEWAL_MS: u64 = 1_000;
/// A write that finds less than this left waits for a renewal.
const BOUND_LEFT_MIN_MS: u64 = 300;
/// How often a write renews the bound before it gives up.
const RENEWALS_MAX: usize = 5;
/// How long after the last write the bound is kept up. A write after that waits for one more commit.
const BOUND_IDLE_MS: u64 = 10_000;
/// How often the background looks whether the bound must be renewed.
pub(super) const BOUND_CHECK: Duration = Duration::from_millis(100);

impl Node {
    pub(super) fn tick(&self) -> Result<Timestamp> {
        let now_ms = self.now_ms();
        self.last_write_ms.store(now_ms, Ordering::Relaxed);
        self.clock().tick(now_ms).map_err(|_| {
            Error::Overloaded("the disk is too slow to keep the clock's bound ahead; try again".into())
        })
    }

    /// Sees to it that there are timestamps for writes. Returns the life of the store that they are to be merged into.
    pub(super) async fn before_writing(&self) -> Result<Life> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Error::Draining);
        }
        let now_ms = self.now_ms();
        self.last_write_ms.store(now_ms, Ordering::Relaxed);
        // Where a sync takes longer than the lead, the bound it makes durable has passed by then.
        for _ in 0..RENEWALS_MAX {
            if self.clock().bound_wanted(self.now_ms(), BOUND_LEFT_MIN_MS).is_none() {
                break;
            }
            self.renew_bound(BOUND_LEFT_MIN_MS).await?;
        }
        Ok(self.store.life())
    }

    pub(super) async fn keep_bound_ahead(&self) {
        let now_ms = self.now_ms();
        let idle_ms = now_ms.saturating_sub(self.last_write_ms.load(Ordering::Relaxed));
        let wanted = idle_ms < BOUND_IDLE_MS && self.clock().bound_wanted(now_ms, BOUND_RENEWAL_MS).is_some();
        // A failure is the next write's to report: it renews the bound itself.
        if wanted && let Err(error) = self.renew_bound(BOUND_RENEWAL_MS).await {
            warn!(%error, "the clock's bound was not renewed");
        }
    }

    /// Makes a higher bound durable, unless another call has left at least `left_ms` of it.
    async fn renew_bound(&self, left_ms: u64) -> Result<()> {
        let _one_at_a_time = self.renewal.lock().await;
        let now_ms = self.now_ms();
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

    /// After a crash the clock starts at a bound that may lie ahead: timestamps from there would look skewed to others.
    pub(super) async fn wait_for_the_wall_clock(&self) {
        let allowed_ms = self.options.clock_drift_max_ms;
        let ahead_ms = (self.clock().last() >> 16).saturating_sub(self.now_ms());
        if ahead_ms > BOUND_LEAD_MS + allowed_ms {
            warn!(ahead_ms, "the wall clock is behind timestamps of before: it was set back. Set it by NTP");
        } else if ahead_ms > allowed_ms {
            tokio::time::sleep(Duration::from_millis(ahead_ms - allowed_ms)).await;
        }
    }
}
