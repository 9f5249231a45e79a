//! What waits for one subscriber: changes in order up to a bound, then only the newest of each key, and where that is still too
//! much nothing but a mark that it lagged. Bounded whatever its reader does.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use super::{change::Cursor, entry::LoggedChange};

/// How many changes, and about how many bytes of them, wait for one subscriber.
const QUEUE_CHANGES_MAX: usize = 256;
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// For how long a subscriber that reads nothing is waited for.
const STUCK_TIMEOUT: Duration = Duration::from_millis(500);

/// What waits for one subscriber.
#[derive(Default)]
pub struct Queue {
    pending: VecDeque<Arc<LoggedChange>>,
    bytes: usize,
    /// The change pushed last: two topics of one subscriber may both want it.
    last: Option<Cursor>,
    /// Everything pending was dropped, and everything new is, until the subscriber has taken note.
    pub(in crate::storage) lagged: bool,
    pub(in crate::storage) ended: bool,
    pub(in crate::storage) waker: Option<Waker>,
    wakeup_pending: bool,
    /// Since when nothing was taken from it though it was half full, as far as somebody looked.
    full_since: Option<Instant>,
}

/// What a subscriber finds in its queue.
pub enum Waiting {
    /// The next change.
    Change(Arc<LoggedChange>),
    /// It must resynchronise.
    Lagged,
    /// The node is stopping.
    Ended,
    /// Nothing; the waker is kept.
    Nothing,
}

impl Queue {
    /// Takes what comes next; where there is nothing, `waker` is called as soon as there is.
    pub fn take(&mut self, waker: &Waker) -> Waiting {
        if self.ended {
            return Waiting::Ended;
        }
        if self.lagged {
            return Waiting::Lagged;
        }
        if let Some(logged) = self.pending.pop_front() {
            self.bytes -= logged.bytes;
            self.full_since = None;
            return Waiting::Change(logged);
        }
        // An idle queue keeps no buffer: there may be very many of them.
        self.pending = VecDeque::new();
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        Waiting::Nothing
    }

    /// Whether somebody waits who is in no crowd to be woken yet; who is then.
    pub(in crate::storage) fn request_wakeup(&mut self) -> bool {
        let joins = self.waker.is_some() && !self.wakeup_pending;
        self.wakeup_pending |= joins;
        joins
    }

    /// Whether its reader was here since the last change and waits for the next.
    pub(in crate::storage) fn reader_is_waiting(&self) -> bool {
        self.pending.is_empty() || self.waker.is_some()
    }

    /// Whether nothing waits in it, so that its reader has all that was published.
    pub(in crate::storage) fn is_empty(&self) -> bool {
        self.pending.is_empty() && !self.lagged && !self.ended
    }

    /// Whether it has room for changes that may as well come later. One that is not read at all makes nobody wait for long.
    pub(in crate::storage) fn has_room(&mut self) -> bool {
        if self.lagged || !self.over(QUEUE_CHANGES_MAX / 2, QUEUE_BYTES_MAX / 2) {
            return true;
        }
        self.full_since.get_or_insert_with(Instant::now).elapsed() >= STUCK_TIMEOUT
    }

    /// Whether the node is stopping; if not, `waker` is called when it does.
    pub fn ended(&mut self, waker: &Waker) -> bool {
        self.waker = Some(waker.clone());
        self.ended
    }

    /// Empties it, and lets a subscriber that lagged begin again.
    pub(in crate::storage) fn restart(&mut self) {
        self.pending = VecDeque::new();
        self.bytes = 0;
        self.lagged = false;
    }

    /// Puts a change in. Whether this made it lag.
    pub(in crate::storage) fn push(&mut self, logged: &Arc<LoggedChange>) -> bool {
        if self.lagged || self.last == logged.cursor {
            return false;
        }
        self.last = logged.cursor;
        self.pending.push_back(logged.clone());
        self.bytes += logged.bytes;
        if self.over(QUEUE_CHANGES_MAX, QUEUE_BYTES_MAX) {
            self.keep_newest();
            // Half full at the most, so that the next coalescing is far.
            if self.over(QUEUE_CHANGES_MAX / 2, QUEUE_BYTES_MAX) {
                self.pending = VecDeque::new();
                self.bytes = 0;
                self.lagged = true;
            }
        }
        self.lagged
    }

    /// One change alone is never too much, however long its value.
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
    /// Whether it came with the cursor of another node: it may know values that this node never showed, and is told of their ends.
    pub(in crate::storage) foreign_cursor: bool,
}

impl Subscriber {
    /// With an empty queue.
    pub fn new(foreign_cursor: bool) -> Self {
        Self { foreign_cursor, ..Self::default() }
    }

    /// Its queue.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        // Queues are whole before anything can panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has its task look at the queue, if that waits.
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
