//! Wakeups of many subscribers. One key may have thousands; if all were woken at once, their tasks would fill the runtime's queue ahead of
//! everybody else, including writers that only wait for their acknowledgement. So beyond the first few, a thread wakes them in batches: the
//! next batch when half of the last one has run.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use super::queue::Subscriber;

/// Subscribers woken at a time: about a millisecond of work for one core.
pub const WAKE_BATCH_MAX: usize = 96;
/// How often, and how many times at most, the thread checks whether they have run. A subscriber that reads nothing is not waiting and is in
/// no batch; the limit is for one that went away meanwhile.
const CHECK_INTERVAL: Duration = Duration::from_micros(50);
const CHECKS_MAX: usize = 200;

/// Sends subscribers to the thread that wakes them.
pub struct Wakeups(Option<Sender<Vec<Arc<Subscriber>>>>);

impl Wakeups {
    /// Makes both ends.
    pub fn new() -> (Self, Receiver<Vec<Arc<Subscriber>>>) {
        let (sender, receiver) = mpsc::channel();
        (Self(Some(sender)), receiver)
    }

    /// Asks the thread to wake these subscribers soon. Each is requested once at a time (`Queue::request_wakeup`), so no more can wait here
    /// than there are subscribers.
    pub fn wake(&self, waiting: Vec<Arc<Subscriber>>) {
        let Some(sender) = self.0.as_ref().filter(|_| !waiting.is_empty()) else { return };
        if let Err(unsent) = sender.send(waiting) {
            unsent.0.iter().for_each(|subscriber| subscriber.wake());
        }
    }

    /// Ends the thread.
    pub fn end(&mut self) {
        self.0 = None;
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
