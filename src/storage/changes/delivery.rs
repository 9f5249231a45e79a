//! Delivery without the reader: threads hand changes to the sinks of readers that wait, which saves a turn of the reader's task for each
//! change. A sink takes a change at once or not at all; a reader whose sink takes no more is woken, and goes on as if there were no sink.
//!
//! A change goes to a reader either way, never both: the queue gives it to one of them. While the sink has one, the reader takes nothing, and
//! while the reader has something to do, the sink gets nothing; so all changes arrive in order.
//!
//! A change with very many readers is delivered in small turns, between which come those with few.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread, vec,
};

use super::{change::Change, queue::Subscriber};

/// Readers of one change up to which they come before all that are parts of a crowd.
const FEW_MAX: usize = 96;
/// Readers that a thread serves before it looks for others: about a tenth of a millisecond.
const TURN_MAX: usize = 16;
/// Most threads. Each can keep a processor busy while there are large crowds.
const THREADS_MAX: usize = 8;

/// Takes changes in place of a reader that waits for them.
pub trait Sink: Send + Sync {
    /// Offers the next change.
    fn offer(&self, change: &Change) -> Offered;
}

/// What became of a change that was offered to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The sink has taken it, and may be offered more.
    Taken,
    /// The sink has taken it, and the reader must do something about it.
    TakenForReader,
    /// The reader must take it.
    Refused,
}

impl Subscriber {
    /// Hands to the sink what waits, and wakes the reader for what is left.
    fn deliver(&self) {
        let Some(sink) = self.queue().begin_delivery() else { return };
        loop {
            let mut queue = self.queue();
            let Some(logged) = queue.next_delivery() else {
                let is_empty = queue.is_empty();
                drop(queue);
                if !is_empty {
                    self.wake();
                }
                return;
            };
            drop(queue);
            let Some(change) = logged.change() else { continue };
            let refused = match sink.offer(&change) {
                Offered::Taken => continue,
                Offered::TakenForReader => None,
                Offered::Refused => Some(logged),
            };
            self.queue().leave_to_reader(refused);
            return self.wake();
        }
    }
}

/// Readers that have changes for their sinks.
#[derive(Default)]
pub struct Deliveries {
    state: Mutex<State>,
    added: Condvar,
}

#[derive(Default)]
struct State {
    few: VecDeque<Arc<Subscriber>>,
    /// For each change with very many readers, those that do not have it yet.
    crowds: VecDeque<vec::IntoIter<Arc<Subscriber>>>,
    /// Threads that wait.
    idle: usize,
    is_ended: bool,
}

impl Deliveries {
    /// How many threads deliver.
    pub fn threads() -> usize {
        thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX))
    }

    /// Delivers soon to the readers of a change. Each is requested once at a time (`Queue::request_wakeup`), so no more can wait here than
    /// there are subscribers.
    pub fn add(&self, readers: Vec<Arc<Subscriber>>) {
        let mut state = self.lock();
        if readers.is_empty() || state.is_ended {
            return;
        }
        let (idle, turns) = (state.idle, readers.len().div_ceil(TURN_MAX));
        if readers.len() <= FEW_MAX {
            state.few.extend(readers);
        } else {
            state.crowds.push_back(readers.into_iter());
        }
        drop(state);
        (0..turns.min(idle)).for_each(|_| self.added.notify_one());
    }

    /// Delivers until the end.
    pub fn run(&self) {
        let mut turn = Vec::with_capacity(TURN_MAX);
        while self.next_turn(&mut turn) {
            turn.drain(..).for_each(|reader| reader.deliver());
        }
    }

    /// Ends the threads. What was not delivered is left in the queues.
    pub fn end(&self) {
        let mut state = self.lock();
        *state = State { is_ended: true, ..State::default() };
        drop(state);
        self.added.notify_all();
    }

    /// Waits for the next readers; `false` at the end.
    fn next_turn(&self, turn: &mut Vec<Arc<Subscriber>>) -> bool {
        let mut state = self.lock();
        loop {
            if state.is_ended {
                return false;
            }
            if state.take_turn(turn) {
                return true;
            }
            state.idle += 1;
            state = self.added.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = state.idle.saturating_sub(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the next readers, and whether there are any: those of changes with few, then some of each crowd in turn.
    fn take_turn(&mut self, turn: &mut Vec<Arc<Subscriber>>) -> bool {
        let few = self.few.len().min(TURN_MAX);
        turn.extend(self.few.drain(..few));
        if turn.is_empty()
            && let Some(mut crowd) = self.crowds.pop_front()
        {
            turn.extend(crowd.by_ref().take(TURN_MAX));
            if crowd.len() > 0 {
                self.crowds.push_back(crowd);
            }
        }
        if self.few.is_empty() {
            // It may have been long.
            self.few.shrink_to(FEW_MAX);
        }
        !turn.is_empty()
    }
}
