//! The queue of one subscriber: changes in order up to a limit, then only the newest of each key, and if that is still too much, only a
//! mark that the subscriber lagged. Its size is limited whatever the reader does.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use super::{change::Cursor, delivery::Sink, entry::LoggedChange};

/// Most changes, and about how many bytes of them, in one queue.
const QUEUE_CHANGES_MAX: usize = 256;
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// How much waits for one subscriber while memory is scarce.
const SCARCE_BYTES_MAX: usize = 64 * 1024;

/// How long others wait for a subscriber that reads nothing.
const STUCK_TIMEOUT: Duration = Duration::from_millis(500);

/// The queue of one subscriber.
#[derive(Default)]
pub struct Queue {
    pending: VecDeque<Arc<LoggedChange>>,
    bytes: usize,
    /// The last change pushed: two topics of one subscriber may both match it.
    last: Option<Cursor>,
    /// All pending changes were dropped, and new ones are too, until the subscriber restarts.
    pub(in crate::storage) lagged: bool,
    pub(in crate::storage) ended: bool,
    pub(in crate::storage) waker: Option<Waker>,
    wakeup_pending: bool,
    /// Takes changes in place of the reader.
    sink: Option<Arc<dyn Sink>>,
    /// Whether the sink may take changes now: the reader waits, and has nothing else in mind.
    is_open_to_sink: bool,
    /// Whether a change is on its way into the sink. Until it is there, the reader takes nothing.
    is_delivering: bool,
    /// When the queue was first seen half full without being read since.
    full_since: Option<Instant>,
}

/// What a subscriber finds in its queue.
pub enum Waiting {
    /// The next change.
    Change(Arc<LoggedChange>),
    /// It must resynchronize.
    Lagged,
    /// The node is stopping.
    Ended,
    /// Nothing; the waker is registered.
    Nothing,
}

impl Queue {
    /// Takes the next item. If there is none, registers `waker`, and leaves the next changes to the sink if `to_sink`.
    pub fn take(&mut self, waker: &Waker, to_sink: bool) -> Waiting {
        if !self.is_delivering {
            // What the reader takes now comes first.
            self.is_open_to_sink = false;
            if self.ended {
                return Waiting::Ended;
            }
            if self.lagged {
                return Waiting::Lagged;
            }
            if let Some(logged) = self.pop() {
                return Waiting::Change(logged);
            }
        }
        self.is_open_to_sink = to_sink && self.sink.is_some();
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        Waiting::Nothing
    }

    fn pop(&mut self) -> Option<Arc<LoggedChange>> {
        let logged = self.pending.pop_front();
        match &logged {
            Some(logged) => {
                self.bytes -= logged.bytes;
                self.full_since = None;
            }
            // An idle queue keeps no buffer: there may be very many of them.
            None => self.pending = VecDeque::new(),
        }
        logged
    }

    /// Sets what takes changes in place of the reader.
    pub(super) fn set_sink(&mut self, sink: Arc<dyn Sink>) {
        self.sink = Some(sink);
    }

    /// Whether the next changes are for the sink.
    pub(super) fn is_open_to_sink(&self) -> bool {
        self.is_open_to_sink
    }

    /// The sink, if it is to take what waits. Then `next_delivery` follows.
    pub(super) fn begin_delivery(&mut self) -> Option<Arc<dyn Sink>> {
        self.wakeup_pending = false;
        if self.is_delivering || !self.is_open_to_sink {
            return None;
        }
        self.is_delivering = self.sink.is_some();
        self.sink.clone()
    }

    /// The next changes for the sink, at most so many and about so many bytes; none end the delivery.
    pub(super) fn next_delivery(&mut self, changes_max: usize, bytes_max: usize) -> Vec<Arc<LoggedChange>> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while self.is_open_to_sink
            && !self.lagged
            && !self.ended
            && taken.len() < changes_max
            && bytes < bytes_max
            && let Some(logged) = self.pop()
        {
            bytes += logged.bytes;
            taken.push(logged);
        }
        self.is_delivering = !taken.is_empty();
        taken
    }

    /// Ends the delivery, and leaves everything to the reader: first of all the changes that the sink did not take.
    pub(super) fn leave_to_reader(&mut self, refused: Vec<Arc<LoggedChange>>) {
        self.is_delivering = false;
        self.is_open_to_sink = false;
        if self.lagged {
            return;
        }
        for logged in refused.into_iter().rev() {
            self.bytes += logged.bytes;
            self.pending.push_front(logged);
        }
    }

    /// Whether it is empty, so that its reader, or the sink, has all that was published. From here on the reader has the next changes.
    pub(in crate::storage) fn pause_at_end(&mut self) -> bool {
        self.is_open_to_sink = false;
        self.is_empty() && !self.is_delivering
    }

    /// Whether something waits that nobody has in hand.
    pub(super) fn is_left(&self) -> bool {
        !self.is_empty() && !self.is_delivering
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty() && !self.lagged && !self.ended
    }

    /// Whether the reader is waiting and no wakeup was requested yet; requests one then.
    pub(in crate::storage) fn request_wakeup(&mut self) -> bool {
        let joins = self.waker.is_some() && !self.wakeup_pending;
        self.wakeup_pending |= joins;
        joins
    }

    /// Whether the reader has taken everything and waits for the next change.
    pub(in crate::storage) fn reader_is_waiting(&self) -> bool {
        self.pending.is_empty() || self.waker.is_some()
    }

    /// Whether it has room for changes that can be delayed. A queue that is not read at all delays nobody for long.
    pub(in crate::storage) fn has_room(&mut self) -> bool {
        if self.lagged || !self.over(QUEUE_CHANGES_MAX / 2, QUEUE_BYTES_MAX / 2) {
            return true;
        }
        self.full_since.get_or_insert_with(Instant::now).elapsed() >= STUCK_TIMEOUT
    }

    /// Whether the node is stopping. If not, registers `waker` for that. What waits is for later.
    pub fn ended(&mut self, waker: &Waker) -> bool {
        self.is_open_to_sink = false;
        self.waker = Some(waker.clone());
        self.ended
    }

    /// Empties the queue and lets a subscriber that lagged start again.
    pub(in crate::storage) fn restart(&mut self) {
        self.pending = VecDeque::new();
        self.bytes = 0;
        self.lagged = false;
    }

    /// Adds a change. Returns whether the queue lags because of it.
    pub(in crate::storage) fn push(&mut self, logged: &Arc<LoggedChange>) -> bool {
        if self.lagged || self.last == logged.cursor {
            return false;
        }
        self.last = logged.cursor;
        self.pending.push_back(logged.clone());
        self.bytes += logged.bytes;
        if self.over(QUEUE_CHANGES_MAX, QUEUE_BYTES_MAX) {
            self.keep_newest();
            // At most half full, so that the next compaction of the queue is far off.
            if self.over(QUEUE_CHANGES_MAX / 2, QUEUE_BYTES_MAX) {
                self.pending = VecDeque::new();
                self.bytes = 0;
                self.lagged = true;
            }
        }
        self.lagged
    }

    /// Gives up what waits where it is much, as memory is scarce. Whether it did.
    pub(in crate::storage) fn shed(&mut self) -> bool {
        if self.lagged || !self.over(QUEUE_CHANGES_MAX, SCARCE_BYTES_MAX) {
            return false;
        }
        self.restart();
        self.lagged = true;
        true
    }

    /// One change alone is never too much, however long its value is.
    fn over(&self, changes_max: usize, bytes_max: usize) -> bool {
        self.pending.len() > changes_max || (self.bytes > bytes_max && self.pending.len() > 1)
    }

    fn keep_newest(&mut self) {
        let mut seen = HashSet::new();
        let mut kept = VecDeque::new();
        for logged in mem::take(&mut self.pending).into_iter().rev() {
            if seen.insert((logged.table.clone(), logged.key.clone())) {
                kept.push_front(logged);
            } else {
                self.bytes -= logged.bytes;
            }
        }
        self.pending = kept;
    }
}

/// A subscriber as the hub knows it.
#[derive(Default)]
pub struct Subscriber {
    queue: Mutex<Queue>,
    /// Whether it came with a foreign cursor: it may know values that this node never published, and must be told of their end.
    pub(in crate::storage) foreign_cursor: bool,
}

impl Subscriber {
    /// Makes a subscriber with an empty queue.
    pub fn new(foreign_cursor: bool) -> Self {
        Self { foreign_cursor, ..Self::default() }
    }

    /// Its queue.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        // Queues are consistent before anything can panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes its task, if that waits.
    pub(in crate::storage) fn wake(&self) {
        let mut queue = self.queue();
        queue.wakeup_pending = false;
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(sequence: u64, bytes: usize) -> Arc<LoggedChange> {
        Arc::new(LoggedChange::of_test(sequence, bytes))
    }

    #[test]
    fn where_memory_is_scarce_a_slow_subscriber_gives_up_what_waits_and_a_quick_one_does_not() {
        let mut queue = Queue::default();
        queue.push(&logged(1, SCARCE_BYTES_MAX + 1));
        assert!(!queue.shed(), "one change alone is never too much");
        queue.push(&logged(2, 1));
        assert!(queue.shed() && queue.lagged && queue.pending.is_empty() && queue.bytes == 0);
        assert!(!queue.shed(), "it is told once");
        queue.restart();
        (3..100).for_each(|sequence| {
            queue.push(&logged(sequence, SCARCE_BYTES_MAX / 100));
        });
        assert!(!queue.shed() && queue.pending.len() == 97);
    }
}
