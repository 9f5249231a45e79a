//! Keep-alive of idle streams: one ticker for all of them instead of a timer each.
//!
//! Streams are spread over the slots of a wheel, and each tick wakes one slot. So every stream gets a tick once per period, and 15,000
//! streams never write at the same instant, which would delay the events of all others.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// Time between two ticks of a stream: below the 30 s or more after which proxies close a silent connection.
pub const PERIOD: Duration = Duration::from_secs(15);
/// Slots of the wheel: with 15,000 streams a tick wakes 250.
const SLOTS: usize = 60;

/// The shared ticker. Dropping it stops it.
pub struct KeepAlive {
    slots: Arc<[Arc<Notify>]>,
    next_slot: AtomicUsize,
    // Dropping the set ends its task.
    _ticker: JoinSet<()>,
}

impl KeepAlive {
    /// Starts the ticker. Needs a tokio runtime.
    pub fn start(period: Duration) -> Arc<Self> {
        let slots: Arc<[Arc<Notify>]> = (0..SLOTS).map(|_| Arc::default()).collect();
        let mut ticker = JoinSet::new();
        ticker.spawn(tick(Arc::clone(&slots), period / SLOTS as u32));
        Arc::new(Self { slots, next_slot: AtomicUsize::new(0), _ticker: ticker })
    }

    /// The ticks of one stream.
    pub fn ticks(&self) -> KeepAliveTicks {
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed) % SLOTS;
        let slot = Arc::clone(&self.slots[slot]);
        KeepAliveTicks { tick: Box::pin(Arc::clone(&slot).notified_owned()), slot }
    }
}

async fn tick(slots: Arc<[Arc<Notify>]>, period: Duration) {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for slot in slots.iter().cycle() {
        interval.tick().await;
        slot.notify_waiters();
    }
}

/// An endless stream of ticks. A tick that is not polled in time is skipped.
pub struct KeepAliveTicks {
    slot: Arc<Notify>,
    tick: Pin<Box<OwnedNotified>>,
}

impl Stream for KeepAliveTicks {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<()>> {
        ready!(self.tick.as_mut().poll(context));
        let next = Arc::clone(&self.slot).notified_owned();
        self.tick.set(next);
        Poll::Ready(Some(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn every_stream_gets_ticks_whatever_its_slot() {
        let keep_alive = KeepAlive::start(Duration::from_millis(60));
        let streams: Vec<KeepAliveTicks> = (0..2 * SLOTS).map(|_| keep_alive.ticks()).collect();
        for mut ticks in streams {
            for _ in 0..2 {
                assert_eq!(ticks.next().await, Some(()));
            }
        }
    }

    #[tokio::test]
    async fn a_stream_gets_one_tick_per_period() {
        let period = Duration::from_millis(120);
        let keep_alive = KeepAlive::start(period);
        let mut ticks = keep_alive.ticks();
        ticks.next().await;
        let first = Instant::now();
        for _ in 0..3 {
            ticks.next().await;
        }
        assert!(first.elapsed() >= 2 * period, "{:?}", first.elapsed());
    }

    #[tokio::test]
    async fn dropping_the_keep_alive_stops_the_ticker() {
        let keep_alive = KeepAlive::start(PERIOD);
        let slots = Arc::downgrade(&keep_alive.slots);
        drop(keep_alive);
        // The runtime drops the task when this test yields to it, at the latest.
        while slots.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
