//! Waking a crowd. The subscribers of one key may be thousands; woken all at once, their tasks would stand before everybody
//! else's in the runtime's queue, writers that wait for nothing but their acknowledgement among them. So beyond the first few
//! they are woken by a thread that keeps a step ahead of them and no more: the next few when half of the last have been here.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use super::queue::Subscriber;

/// How many are woken at a time: a millisecond or so of the work of one core.
pub const WAKE_BATCH_MAX: usize = 96;
/// How often the thread looks whether they have been here, and how often at the most. A subscriber that reads nothing waits for
/// nothing, and is in no crowd; this is for one that went away meanwhile.
const LOOK_PAUSE: Duration = Duration::from_micros(50);
const LOOKS_MAX: usize = 200;

/// Where crowds are handed to the thread.
pub struct Wakeups(Option<Sender<Vec<Arc<Subscriber>>>>);

impl Wakeups {
    /// The two ends.
    pub fn new() -> (Self, Receiver<Vec<Arc<Subscriber>>>) {
        let (sender, receiver) = mpsc::channel();
        (Self(Some(sender)), receiver)
    }

    /// Has these woken soon. Each is in one crowd at a time (`Queue::request_wakeup`), so no more can wait here than there are.
    pub fn wake(&self, wakeups: Vec<Arc<Subscriber>>) {
        let Some(sender) = self.0.as_ref().filter(|_| !wakeups.is_empty()) else { return };
        if let Err(unsent) = sender.send(wakeups) {
            unsent.0.iter().for_each(|subscriber| subscriber.wake());
        }
    }

    /// Ends the thread.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

/// Wakes crowds until `Wakeups::end`.
pub fn run(wakeups: &Receiver<Vec<Arc<Subscriber>>>) {
    for wakeups in wakeups {
        for few in wakeups.chunks(WAKE_BATCH_MAX) {
            few.iter().for_each(|subscriber| subscriber.wake());
            let half = &few[few.len() / 2];
            for _ in 0..LOOKS_MAX {
                if half.queue().reader_is_waiting() {
                    break;
                }
                thread::sleep(LOOK_PAUSE);
            }
        }
    }
}
