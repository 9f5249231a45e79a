//! The hub of the change stream. From the first subscriber on, one thread per table (`pump`) drains the engine's feed and never waits: it
//! numbers each change, keeps it in a ring for returning subscribers, and puts it into the queues of current ones. Writers call no
//! subscriber, and no subscriber can slow down a writer, the pump or another subscriber.
//!
//! Every change has a cursor. Its epoch is new whenever the store is opened, so that a cursor of an earlier run or of another node is
//! recognized; `table::agreed` says what such a cursor is good for. A queue holds changes in order up to a limit, then only the newest of
//! each key. If that is still too much it drops everything and says so, and the subscriber takes a snapshot. Nothing is lost silently.
//!
//! The ring is filled from the first subscriber of an epoch on: before that nobody can hold a cursor of it. Lock order: the hub's state,
//! then a subscriber's queue.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    change::{Cursor, Gone, Topic, Wanted},
    entry::{LoggedChange, NewChange},
    prefixes::Prefixes,
    queue::{Queue, Subscriber},
    wakeups::{Round, Wakeups},
};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    storage::{
        Buffers, Options,
        counters::Counters,
        table::{agreed::AgreedInstants, context::TableContext, digests::SharedKey, record::Head},
    },
};

pub use super::entry::Joined;

/// Most changes that the ring keeps for resuming subscribers.
const RING_CHANGES_MAX: usize = 65_536;
/// Most changes that a foreign cursor, or one from before a restart, is answered with. Beyond that a snapshot is no worse.
pub const REPLAY_MAX: usize = 16_384;

/// Subscribers, by id.
type Subscribers = BTreeMap<u64, Arc<Subscriber>>;

/// Takes changes in and finds their subscribers.
pub struct Hub {
    state: Mutex<State>,
    counters: Arc<Counters>,
    agreed: Arc<AgreedInstants>,
    digest_key: Arc<SharedKey>,
    subscriptions_max: usize,
}

pub(super) struct State {
    epoch: u32,
    sequence: u64,
    /// Whether anybody may have a cursor of this epoch.
    ring_is_active: bool,
    /// The latest changes, without a gap in their numbers.
    ring: VecDeque<Arc<LoggedChange>>,
    ring_bytes: usize,
    buffers: Buffers,
    /// The highest label of all changes, and of those that are not in the ring.
    label_ms: u64,
    begun_ms: u64,
    /// The instant up to which everything was published; see `table::agreed`.
    agreed_ms: u64,
    /// The cluster in which it was agreed.
    cluster: u32,
    /// Whether anybody came with a foreign cursor in this epoch.
    foreign_cursor: bool,
    pub(super) keys: HashMap<TableName, HashMap<Key, Subscribers>>,
    pub(super) prefixes: HashMap<TableName, Prefixes<Subscribers>>,
    /// Those of all tables.
    pub(super) all: Subscribers,
    next_id: u64,
    subscribers: Subscribers,
    wakeups: Wakeups,
    ended: bool,
}

impl Hub {
    /// Makes a hub without subscribers.
    pub fn new(epoch: u32, context: &TableContext, options: &Options, wakeups: Wakeups) -> Self {
        let state = State {
            epoch,
            sequence: 0,
            ring_is_active: false,
            ring: VecDeque::new(),
            ring_bytes: 0,
            buffers: options.buffers.clone(),
            label_ms: 0,
            begun_ms: 0,
            agreed_ms: 0,
            cluster: 0,
            foreign_cursor: false,
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            all: Subscribers::new(),
            next_id: 0,
            subscribers: Subscribers::new(),
            wakeups,
            ended: false,
        };
        let (counters, agreed) = (context.counters.clone(), context.agreed.clone());
        let digest_key = context.digest_key.clone();
        let subscriptions_max = options.subscriptions_max;
        Self { state: Mutex::new(state), counters, agreed, digest_key, subscriptions_max }
    }

    /// Registers a subscriber of `topics` and finds what it missed after `after`. Also returns its id and the current cursor.
    ///
    /// # Errors
    /// `TooMany` at the limit, `Draining` while the node stops.
    pub fn join(
        &self,
        topics: &[Topic],
        after: Option<Cursor>,
        now_ms: u64,
    ) -> Result<(u64, Arc<Subscriber>, Cursor, Joined)> {
        let mut state = self.lock();
        if state.ended {
            return Err(Error::Draining);
        }
        if state.subscribers.len() >= self.subscriptions_max {
            return Err(Error::TooMany(format!(
                "this node is at its limit of {} subscriptions",
                self.subscriptions_max
            )));
        }
        // No pump published what was written before, nor the end of a value that had expired by now.
        state.follow(self.agreed.label_max_ms().max(now_ms));
        let (joined, is_foreign) = match after {
            None => (Joined::Replay(VecDeque::new()), false),
            Some(cursor) => match state.missed_after(cursor, topics) {
                Some(missed) => (Joined::Replay(missed), state.foreign_cursor),
                None if !self.accepts_cursor(cursor, now_ms) => (Joined::Missed, false),
                None => (state.labelled_from(cursor.agreed_ms, topics), true),
            },
        };
        state.foreign_cursor |= is_foreign;
        let subscriber = Arc::new(Subscriber::new(is_foreign));
        let id = state.next_id;
        state.next_id += 1;
        state.subscribers.insert(id, subscriber.clone());
        self.counters.subscriptions.increment();
        for topic in topics {
            match topic {
                Topic::Key(table, key) => {
                    let keys = state.keys.entry(table.clone()).or_default();
                    keys.entry(key.clone()).or_default().insert(id, subscriber.clone());
                }
                Topic::Prefix(table, prefix) => {
                    let prefixes = state.prefixes.entry(table.clone()).or_default();
                    prefixes.entry(prefix).insert(id, subscriber.clone());
                }
                Topic::All => {
                    state.all.insert(id, subscriber.clone());
                }
            }
        }
        Ok((id, subscriber, state.cursor(), joined))
    }

    /// Removes a subscriber.
    pub fn leave(&self, id: u64, topics: &[Topic]) {
        let mut state = self.lock();
        state.subscribers.remove(&id);
        self.counters.subscriptions.decrement();
        for topic in topics {
            match topic {
                Topic::Key(table, key) => state.leave_key(id, table, key),
                Topic::Prefix(table, prefix) => state.leave_prefix(id, table, prefix),
                Topic::All => {
                    state.all.remove(&id);
                }
            }
        }
    }

    /// Restarts a subscriber that lagged: its queue gets everything after the returned cursor.
    pub fn restart(&self, subscriber: &Subscriber) -> Cursor {
        let state = self.lock();
        subscriber.queue().restart();
        state.cursor()
    }

    /// Records the instant up to which everything was published.
    pub fn agree(&self, agreed_ms: u64) {
        let cluster = self.digest_key.cluster();
        let mut state = self.lock();
        let before_ms = if state.cluster == cluster { state.agreed_ms } else { 0 };
        (state.agreed_ms, state.cluster) = (agreed_ms.max(before_ms), cluster);
    }

    /// Whether a cursor of another epoch can be resumed here.
    fn accepts_cursor(&self, cursor: Cursor, now_ms: u64) -> bool {
        cursor.cluster == self.digest_key.cluster() && self.agreed.accepts_cursor(cursor.agreed_ms, now_ms)
    }

    /// Returns the position of a subscriber whose queue is empty; `None` if changes wait in it. The next change waits until the subscriber
    /// takes it.
    pub fn position(&self, subscriber: &Subscriber) -> Option<Cursor> {
        let state = self.lock();
        subscriber.queue().pause_at_end().then(|| state.cursor())
    }

    /// Returns the changes of `topics` after a position of this epoch, if the ring holds all of them.
    pub fn missed_after(&self, cursor: Cursor, topics: &[Topic]) -> Option<VecDeque<Arc<LoggedChange>>> {
        self.lock().missed_after(cursor, topics)
    }

    /// The current position.
    pub fn cursor(&self) -> Cursor {
        self.lock().cursor()
    }

    /// Whether the subscribers of a key have room for a change that can be delayed.
    pub fn has_room(&self, table: &TableName, key: &Key) -> bool {
        let state = self.lock();
        // Ask all of them: each has its own time limit.
        state.followers(table, key).filter(|subscriber| !subscriber.queue().has_room()).count() == 0
    }

    /// Publishes that a value is gone without a tombstone, and why.
    pub fn publish_gone(&self, table: &TableName, key: Key, head: &Head, gone: Gone) {
        self.publish(|| NewChange::of_end(table, key, head, gone, false));
    }

    /// Numbers a change, keeps it, and puts it into the queues of its subscribers. `new_change` is called under the lock, so no other
    /// change can overtake what it reads.
    pub fn publish(&self, new_change: impl FnOnce() -> NewChange) {
        let mut state = self.lock();
        let new_change = new_change();
        if !new_change.quiet {
            self.counters.changes.increment();
        }
        state.publish(&self.counters, self.agreed.rooted_ms(), new_change);
    }

    /// Starts a new epoch: older cursors become invalid, and all subscribers resynchronize.
    pub fn renew(&self, epoch: u32) {
        let mut state = self.lock();
        state.epoch = epoch;
        state.sequence = 0;
        state.agreed_ms = 0;
        state.foreign_cursor = false;
        state.ring_is_active = false;
        if !state.subscribers.is_empty() {
            state.follow(self.agreed.label_max_ms());
        }
        (state.ring, state.ring_bytes) = (VecDeque::new(), 0);
        state.for_all(|queue| queue.lagged = true);
    }

    /// Ends every subscription and accepts no new one.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.wakeups.end();
        state.for_all(|queue| queue.ended = true);
    }

    /// Whether anybody follows a key of a table.
    pub fn is_watched(&self, table: &TableName) -> bool {
        let state = self.lock();
        !state.all.is_empty() || state.keys.contains_key(table) || state.prefixes.contains_key(table)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A change is numbered and kept before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cursor(&self) -> Cursor {
        let Self { epoch, sequence, agreed_ms, cluster, .. } = *self;
        Cursor { epoch, sequence, agreed_ms, cluster }
    }

    /// Starts the ring, if it has not started. No earlier change has a label above `label_max_ms`.
    fn follow(&mut self, label_max_ms: u64) {
        if !self.ring_is_active {
            self.ring_is_active = true;
            self.label_ms = self.label_ms.max(label_max_ms);
            self.begun_ms = self.label_ms;
        }
    }

    /// Returns the changes of `topics` that the bearer of a foreign cursor lacks, if the ring holds all of them.
    fn labelled_from(&self, agreed_ms: u64, topics: &[Topic]) -> Joined {
        if agreed_ms <= self.begun_ms {
            return Joined::Stored;
        }
        let first = self.ring.partition_point(|logged| logged.label_ms < agreed_ms);
        let missed = self.from(first, topics, true);
        if missed.len() > REPLAY_MAX { Joined::Missed } else { Joined::Replay(missed) }
    }

    /// Returns the changes of `topics` after a cursor, if the ring holds all of them.
    fn missed_after(&self, cursor: Cursor, topics: &[Topic]) -> Option<VecDeque<Arc<LoggedChange>>> {
        if cursor.epoch != self.epoch || cursor.sequence > self.sequence {
            return None;
        }
        let missed = usize::try_from(self.sequence - cursor.sequence).ok()?;
        let first = self.ring.len().checked_sub(missed)?;
        Some(self.from(first, topics, self.foreign_cursor))
    }

    /// Returns the changes of `topics` from an index of the ring on; quiet ones only if `all`.
    fn from(&self, first: usize, topics: &[Topic], all: bool) -> VecDeque<Arc<LoggedChange>> {
        let wanted = Wanted::of(topics);
        let missed = self
            .ring
            .range(first..)
            .filter(|logged| (all || !logged.quiet) && wanted.has(&logged.table, &logged.key));
        missed.cloned().collect()
    }

    /// The subscribers of a key. One may appear twice.
    fn followers<'a>(&'a self, table: &TableName, key: &'a Key) -> impl Iterator<Item = &'a Arc<Subscriber>> {
        let of_key = self.keys.get(table).and_then(|keys| keys.get(key));
        let of_prefix =
            self.prefixes.get(table).into_iter().flat_map(|prefixes| prefixes.of_key(key.as_str()));
        of_key.into_iter().chain(of_prefix).flat_map(BTreeMap::values).chain(self.all.values())
    }

    fn publish(&mut self, counters: &Counters, rooted_ms: u64, mut new_change: NewChange) {
        // Keeps the ring ordered by label.
        self.label_ms = self.label_ms.max(rooted_ms).max(new_change.label_ms);
        new_change.label_ms = self.label_ms;
        if !self.ring_is_active {
            self.sequence += u64::from(!new_change.quiet);
            return;
        }
        self.sequence += 1;
        let logged = Arc::new(LoggedChange::new(Some(self.cursor()), new_change));
        let scarce = self.buffers.are_scarce();
        let mut round = Round::default();
        for subscriber in self.followers(&logged.table, &logged.key) {
            if logged.quiet && !subscriber.foreign_cursor {
                continue;
            }
            let mut queue = subscriber.queue();
            if queue.push(&logged) || (scarce && queue.shed()) {
                counters.resyncs.increment();
            }
            round.add(subscriber, queue);
        }
        self.wakeups.wake(round);
        self.ring_bytes += logged.bytes;
        self.ring.push_back(logged);
        let ring_bytes_max = self.buffers.changes_bytes_now();
        while self.ring.len() > RING_CHANGES_MAX || (self.ring_bytes > ring_bytes_max && self.ring.len() > 1)
        {
            let oldest = self.ring.pop_front().expect("the ring is over its limit, so not empty");
            self.ring_bytes -= oldest.bytes;
            self.begun_ms = oldest.label_ms;
        }
    }

    fn leave_key(&mut self, id: u64, table: &TableName, key: &Key) {
        let Some(keys) = self.keys.get_mut(table) else { return };
        if let Some(subscribers) = keys.get_mut(key) {
            subscribers.remove(&id);
            if subscribers.is_empty() {
                keys.remove(key);
            }
        }
        if keys.is_empty() {
            self.keys.remove(table);
        }
    }

    fn leave_prefix(&mut self, id: u64, table: &TableName, prefix: &str) {
        let Some(prefixes) = self.prefixes.get_mut(table) else { return };
        if let Some(subscribers) = prefixes.get_mut(prefix) {
            subscribers.remove(&id);
            if subscribers.is_empty() {
                prefixes.remove(prefix);
            }
        }
        if prefixes.is_empty() {
            self.prefixes.remove(table);
        }
    }

    fn for_all(&self, set: impl Fn(&mut Queue)) {
        for subscriber in self.subscribers.values() {
            set(&mut subscriber.queue());
            subscriber.wake();
        }
    }
}
