//! The beat that keeps idle streams open: one ticker for all of them, not a timer each.
//!
//! Streams are dealt out over the slots of a wheel, and a tick wakes one slot. So each stream has its beat once a period,
//! and 15,000 streams never write at one instant, which would delay the events of all the others.

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

/// Between two beats of a stream: below the 30 s and more after which proxies close a silent connection.
pub const PERIOD: Duration = Duration::from_secs(15);
/// Slots of the wheel: at 15,000 streams a tick wakes 250.
const SLOTS: usize = 60;

/// A running ticker; dropping it stops it.
pub struct KeepAlive {
    slots: Arc<[Arc<Notify>]>,
    next_slot: AtomicUsize,
    // Dropping the set ends the task in it.
    _ticker: JoinSet<()>,
}

impl KeepAlive {
    /// Starts to beat. Needs a runtime around it.
    pub fn start(period: Duration) -> Arc<Self> {
        let slots: Arc<[Arc<Notify>]> = (0..SLOTS).map(|_| Arc::default()).collect();
        let mut ticker = JoinSet::new();
        ticker.spawn(tick(Arc::clone(&slots), period / SLOTS as u32));
        Arc::new(Self { slots, next_slot: AtomicUsize::new(0), _ticker: ticker })
    }

    /// The beats of one stream.
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

/// An endless stream of beats. One that is not polled in time is not made up for.
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
    async fn every_stream_has_its_beat_whichever_slot_it_fell_into() {
        let keep_alive = KeepAlive::start(Duration::from_millis(60));
        let streams: Vec<KeepAliveTicks> = (0..2 * SLOTS).map(|_| keep_alive.ticks()).collect();
        for mut ticks in streams {
            for _ in 0..2 {
                assert_eq!(ticks.next().await, Some(()));
            }
        }
    }

    #[tokio::test]
    async fn a_stream_has_one_beat_a_period() {
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
    async fn dropping_the_pulse_stops_the_ticker() {
        let keep_alive = KeepAlive::start(PERIOD);
        let slots = Arc::downgrade(&keep_alive.slots);
        drop(keep_alive);
        // The task is dropped by the runtime, at the latest when this one yields to it.
        while slots.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
