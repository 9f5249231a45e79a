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
pub struct Pulse {
    slots: Arc<[Arc<Notify>]>,
    next_slot: AtomicUsize,
    // Dropping the set ends the task in it.
    _ticker: JoinSet<()>,
}

impl Pulse {
    /// Starts to beat. Needs a runtime around it.
    pub fn start(period: Duration) -> Arc<Self> {
        let slots: Arc<[Arc<Notify>]> = (0..SLOTS).map(|_| Arc::default()).collect();
        let mut ticker = JoinSet::new();
        ticker.spawn(tick(Arc::clone(&slots), period / SLOTS as u32));
        Arc::new(Self { slots, next_slot: AtomicUsize::new(0), _ticker: ticker })
    }

    /// The beats of one stream.
    pub fn beats(&self) -> Beats {
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed) % SLOTS;
        let slot = Arc::clone(&self.slots[slot]);
        Beats { beat: Box::pin(Arc::clone(&slot).notified_owned()), slot }
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
pub struct Beats {
    slot: Arc<Notify>,
    beat: Pin<Box<OwnedNotified>>,
}

impl Stream for Beats {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<()>> {
        ready!(self.beat.as_mut().poll(context));
        let next = Arc::clone(&self.slot).notified_owned();
        self.beat.set(next);
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
        let pulse = Pulse::start(Duration::from_millis(60));
        let streams: Vec<Beats> = (0..2 * SLOTS).map(|_| pulse.beats()).collect();
        for mut beats in streams {
            for _ in 0..2 {
                assert_eq!(beats.next().await, Some(()));
            }
        }
    }

    #[tokio::test]
    async fn a_stream_has_one_beat_a_period() {
        let period = Duration::from_millis(120);
        let pulse = Pulse::start(period);
        let mut beats = pulse.beats();
        beats.next().await;
        let first = Instant::now();
        for _ in 0..3 {
            beats.next().await;
        }
        assert!(first.elapsed() >= 2 * period, "{:?}", first.elapsed());
    }

    #[tokio::test]
    async fn dropping_the_pulse_stops_the_ticker() {
        let pulse = Pulse::start(PERIOD);
        let slots = Arc::downgrade(&pulse.slots);
        drop(pulse);
        // The task is dropped by the runtime, at the latest when this one yields to it.
        while slots.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
