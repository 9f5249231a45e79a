//! The keep-alives of idle streams: a timer for each, on a grid that they share.
//!
//! Streams are dealt out over the slots of a period, so that 15,000 of them never write at one instant, which would delay the events
//! of all the others. The grid makes the runtime wake up once a slot and not once a stream: with 60 slots, 15,000 idle streams cost 40 ms of
//! CPU in 30 s, and 500 ms without the grid.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Between two keep-alives of a stream: below the 30 s and more after which proxies close a silent connection.
pub const PERIOD: Duration = Duration::from_secs(15);
/// Slots of a period: at 15,000 streams each has 63.
const SLOTS: u64 = 240;
/// A stream has none so soon after its start: nobody needs it, and a client may be in the middle of its first requests.
const QUIET: Duration = Duration::from_secs(1);

/// When to send the keep-alives of one stream. One that is late is not made up for.
pub fn timer() -> Interval {
    static GRID_START: OnceLock<Instant> = OnceLock::new();
    static NEXT_SLOT: AtomicU64 = AtomicU64::new(0);
    let now = Instant::now();
    let since_start = now.saturating_duration_since(*GRID_START.get_or_init(|| now));
    let slot = NEXT_SLOT.fetch_add(1, Ordering::Relaxed) % SLOTS;
    let wait = until(slot, since_start);
    let first = if wait < QUIET { wait + PERIOD } else { wait };
    let mut timer = interval_at(now + first, PERIOD);
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    timer
}

/// From so long after the start of the grid until the next time of this slot.
fn until(slot: u64, since_start: Duration) -> Duration {
    let period_ns = PERIOD.as_nanos() as u64;
    let passed_ns = since_start.as_nanos() as u64 % period_ns;
    Duration::from_nanos((slot * period_ns / SLOTS + period_ns - passed_ns) % period_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_spread_over_the_period_and_keep_their_times() {
        let step = PERIOD / SLOTS as u32;
        for slot in 0..SLOTS {
            assert_eq!(until(slot, Duration::ZERO), step * slot as u32);
            for since_start in [Duration::from_nanos(1), PERIOD / 7, PERIOD, 3 * PERIOD + step] {
                let wait = until(slot, since_start);
                assert!(wait < PERIOD, "{slot} {since_start:?} {wait:?}");
                let time = (since_start + wait).as_nanos() % PERIOD.as_nanos();
                assert_eq!(time, (step * slot as u32).as_nanos(), "{slot} {since_start:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_stream_has_one_keep_alive_a_period_and_few_have_it_at_once() {
        let mut timers: Vec<_> = (0..2 * SLOTS).map(|_| timer()).collect();
        let (mut firsts, start) = (Vec::new(), Instant::now());
        for timer in &mut timers {
            firsts.push(timer.tick().await);
            assert!((QUIET..PERIOD + QUIET).contains(&(firsts[firsts.len() - 1] - start)));
        }
        for (timer, first) in timers.iter_mut().zip(&firsts) {
            assert_eq!(timer.tick().await - *first, PERIOD);
        }
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len() as u64, SLOTS);
    }

    /// A reader that stalls gets one keep-alive when it reads again, and not all that it missed.
    #[tokio::test(start_paused = true)]
    async fn a_late_keep_alive_is_not_made_up_for() {
        let mut timer = timer();
        let first = timer.tick().await;
        tokio::time::advance(5 * PERIOD + PERIOD / 2).await;
        timer.tick().await;
        assert_eq!(timer.tick().await - first, 6 * PERIOD);
    }
}
