//! Wakeups of the subscribers of a change. Those with a sink get it by `delivery`. Of the others, one key may have thousands; if all were woken
//! at once, their tasks would fill the runtime's queue ahead of everybody else, including writers that only wait for their acknowledgement.
//! So beyond the first few, a thread wakes them in batches: the next batch when half of the last one has run.

use std::{
    sync::{
        Arc, MutexGuard,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use super::{
    delivery::Deliveries,
    queue::{Queue, Subscriber},
};

/// Subscribers woken at a time: about a millisecond of work for one core.
const WAKE_BATCH_MAX: usize = 96;
/// How often, and how many times at most, the thread checks whether they have run. A subscriber that reads nothing is not waiting and is in
/// no batch; the limit is for one that went away meanwhile.
const CHECK_INTERVAL: Duration = Duration::from_micros(50);
const CHECKS_MAX: usize = 200;

/// Sends subscribers to the threads that wake them or deliver to them.
pub struct Wakeups {
    batches: Option<Sender<Vec<Arc<Subscriber>>>>,
    deliveries: Arc<Deliveries>,
}

/// The subscribers of one change who have to learn of it.
#[derive(Default)]
pub struct Round {
    woken: usize,
    for_batches: Vec<Arc<Subscriber>>,
    pub(super) for_sinks: Vec<Arc<Subscriber>>,
}

impl Round {
    /// Adds a subscriber whose queue has the change, or wakes it at once.
    pub fn add(&mut self, subscriber: &Arc<Subscriber>, mut queue: MutexGuard<'_, Queue>) {
        if queue.is_open_to_sink() {
            if queue.request_wakeup() {
                self.for_sinks.push(Arc::clone(subscriber));
            }
        } else if self.woken < WAKE_BATCH_MAX {
            let waker = queue.waker.take();
            drop(queue);
            if let Some(waker) = waker {
                self.woken += 1;
                waker.wake();
            }
        } else if queue.request_wakeup() {
            self.for_batches.push(Arc::clone(subscriber));
        }
    }
}

impl Wakeups {
    /// Makes both ends of the batches.
    pub fn new(deliveries: Arc<Deliveries>) -> (Self, Receiver<Vec<Arc<Subscriber>>>) {
        let (sender, receiver) = mpsc::channel();
        (Self { batches: Some(sender), deliveries }, receiver)
    }

    /// Asks the threads to wake the subscribers of a round soon. Each is requested once at a time (`Queue::request_wakeup`), so no more can
    /// wait here than there are subscribers.
    pub fn wake(&self, round: Round) {
        self.deliveries.add(round.for_sinks);
        let Some(sender) = self.batches.as_ref().filter(|_| !round.for_batches.is_empty()) else { return };
        if let Err(unsent) = sender.send(round.for_batches) {
            unsent.0.iter().for_each(|subscriber| subscriber.wake());
        }
    }

    /// Ends the threads.
    pub fn end(&mut self) {
        self.batches = None;
        self.deliveries.end();
    }
}

/// Wakes subscribers until `Wakeups::end`.
pub fn run(requests: &Receiver<Vec<Arc<Subscriber>>>) {
    for waiting in requests {
        for few in waiting.chunks(WAKE_BATCH_MAX) {
            few.iter().for_each(|subscriber| subscriber.wake());
            let half = &few[few.len() / 2];
            for _ in 0..CHECKS_MAX {
                if half.queue().reader_is_waiting() {
                    break;
                }
                thread::sleep(CHECK_INTERVAL);
            }
        }
    }
}
