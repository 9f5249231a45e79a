//! The change stream. One thread per table (the pump) drains the engine's feed and never waits: it numbers each change, keeps
//! it in a ring for those who come back, and puts it into the queues of those who watch. Writers call no subscriber, and no
//! subscriber can slow a writer, the pump or another.
//!
//! A change has a cursor `(epoch, sequence)`. The epoch is fresh whenever the store is opened, so that a cursor of another life
//! is known as one. A queue holds changes in order up to a bound, then only the newest of each key, and where that is still too
//! much it forgets all and says so: the subscriber then takes a snapshot. Nothing is lost without a word.
//!
//! The ring begins with the first subscriber of an epoch: before, nobody has a cursor to come back with.
//!
//! Lock order: the hub's state, then a subscriber's queue.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::error;

use super::{
    WallClock,
    change::{Cursor, Gone, Topic},
    counters::Counters,
    crowd::{CROWD_WOKEN_AT_ONCE, Crowds},
    engine::{Feed, Slice},
    logged::{Logged, Source},
    progress::Progress,
    queue::{Queue, Subscriber},
    record::Head,
    row::key_of,
    table::Table,
};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
};

/// How many changes, and about how many bytes of them, the ring keeps for those who resume.
const RING_CHANGES_MAX: usize = 65_536;
const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Changes that come within this time of each other come fast; then the pump rests so long when it has caught up.
const PUMP_BUSY_MAX: Duration = Duration::from_millis(1);
const PUMP_REST: Duration = Duration::from_micros(100);
/// As long where nobody watches the table. The feed has room for all that can be written meanwhile.
const PUMP_REST_UNWATCHED: Duration = Duration::from_millis(2);
/// A change that took longer than this to come found the pump asleep.
const PUMP_AWAKE_MAX: Duration = Duration::from_micros(20);
/// What a change costs in memory beside its key and value.
const CHANGE_OVERHEAD_BYTES: usize = 256;

/// How a subscription begins, as the hub found it.
pub enum Joined {
    /// With these changes, then with what comes.
    Replay(VecDeque<Arc<Logged>>),
    /// With a snapshot, as the cursor is not in the ring.
    Missed,
}

/// Subscribers, by id.
type Subscribers = BTreeMap<u64, Arc<Subscriber>>;
/// Prefixes of one table and who watches them, by subscriber's id and place among its topics.
type Prefixes = BTreeMap<(u64, usize), (String, Arc<Subscriber>)>;

/// Where changes come in and subscribers are found.
pub struct Hub {
    state: Mutex<State>,
    counters: Arc<Counters>,
    subscriptions_max: usize,
}

struct State {
    epoch: u32,
    sequence: u64,
    /// Whether anybody may have a cursor of this epoch.
    followed: bool,
    /// The changes of the last sequence numbers, without a gap.
    ring: VecDeque<Arc<Logged>>,
    ring_bytes: usize,
    keys: HashMap<TableName, HashMap<Key, Subscribers>>,
    prefixes: HashMap<TableName, Prefixes>,
    next_id: u64,
    subscribers: Subscribers,
    crowds: Crowds,
    ended: bool,
}

impl Hub {
    /// A hub without subscribers.
    pub fn new(epoch: u32, counters: Arc<Counters>, subscriptions_max: usize, crowds: Crowds) -> Self {
        let state = State {
            epoch,
            sequence: 0,
            followed: false,
            ring: VecDeque::new(),
            ring_bytes: 0,
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            next_id: 0,
            subscribers: Subscribers::new(),
            crowds,
            ended: false,
        };
        Self { state: Mutex::new(state), counters, subscriptions_max }
    }

    /// Registers a subscriber of `topics`, and finds what it missed after `after`. Returns its id and the present cursor too.
    ///
    /// # Errors
    /// `TooMany` at the limit, `Draining` at the end.
    pub fn join(
        &self,
        topics: &[Topic],
        after: Option<Cursor>,
    ) -> Result<(u64, Arc<Subscriber>, Cursor, Joined)> {
        let mut state = self.lock();
        if state.ended {
            return Err(Error::Draining);
        }
        if state.subscribers.len() >= self.subscriptions_max {
            return Err(Error::TooMany(format!(
                "this node has its {} subscriptions",
                self.subscriptions_max
            )));
        }
        let joined = match after {
            None => Joined::Replay(VecDeque::new()),
            Some(cursor) => state.missed_after(cursor, topics).map_or(Joined::Missed, Joined::Replay),
        };
        let subscriber = Arc::new(Subscriber::default());
        let id = state.next_id;
        state.next_id += 1;
        state.followed = true;
        state.subscribers.insert(id, subscriber.clone());
        self.counters.subscriptions.increment();
        for (index, topic) in topics.iter().enumerate() {
            match topic {
                Topic::Key(table, key) => {
                    let keys = state.keys.entry(table.clone()).or_default();
                    keys.entry(key.clone()).or_default().insert(id, subscriber.clone());
                }
                Topic::Prefix(table, prefix) => {
                    let prefixes = state.prefixes.entry(table.clone()).or_default();
                    prefixes.insert((id, index), (prefix.clone(), subscriber.clone()));
                }
            }
        }
        Ok((id, subscriber, state.cursor(), joined))
    }

    /// Forgets a subscriber.
    pub fn leave(&self, id: u64, topics: &[Topic]) {
        let mut state = self.lock();
        state.subscribers.remove(&id);
        self.counters.subscriptions.decrement();
        for (index, topic) in topics.iter().enumerate() {
            match topic {
                Topic::Key(table, key) => state.leave_key(id, table, key),
                Topic::Prefix(table, _) => {
                    if let Entry::Occupied(mut prefixes) = state.prefixes.entry(table.clone()) {
                        prefixes.get_mut().remove(&(id, index));
                        if prefixes.get().is_empty() {
                            prefixes.remove();
                        }
                    }
                }
            }
        }
    }

    /// Starts a subscriber that lagged afresh: everything after the cursor returned will be in its queue.
    pub fn restart(&self, subscriber: &Subscriber) -> Cursor {
        let state = self.lock();
        subscriber.queue().restart();
        state.cursor()
    }

    /// Tells all that a value is gone without a tombstone, and why.
    pub fn publish_gone(&self, table: &TableName, key: Key, head: &Head, gone: Gone) {
        let bytes = CHANGE_OVERHEAD_BYTES + 2 * key.as_str().len();
        let (of, timestamp) = ((table.clone(), key), head.marker.timestamp);
        self.lock()
            .publish(&self.counters, |cursor| Logged::new(cursor, of, timestamp, bytes, Source::Gone(gone)));
    }

    /// Begins a new epoch: cursors from before are of another life, and all subscribers resynchronise.
    pub fn renew(&self, epoch: u32) {
        let mut state = self.lock();
        state.epoch = epoch;
        state.sequence = 0;
        state.followed = !state.subscribers.is_empty();
        state.ring = VecDeque::new();
        state.ring_bytes = 0;
        state.for_all(|queue| queue.lagged = true);
    }

    /// Ends every subscription, and lets none begin.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.crowds.end();
        state.for_all(|queue| queue.ended = true);
    }

    /// How long the pump of a table may rest.
    fn rest(&self, table: &TableName) -> Duration {
        let state = self.lock();
        let is_watched = state.keys.contains_key(table) || state.prefixes.contains_key(table);
        if is_watched { PUMP_REST } else { PUMP_REST_UNWATCHED }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A change is numbered and kept before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, sequence: self.sequence }
    }

    /// The changes of `topics` after a cursor, if the ring has all that came after it.
    fn missed_after(&self, cursor: Cursor, topics: &[Topic]) -> Option<VecDeque<Arc<Logged>>> {
        if cursor.epoch != self.epoch || cursor.sequence > self.sequence {
            return None;
        }
        let missed = usize::try_from(self.sequence - cursor.sequence).ok()?;
        let first = self.ring.len().checked_sub(missed)?;
        let keys: HashSet<(&TableName, &Key)> = topics.iter().filter_map(Topic::as_key).collect();
        let prefixes: Vec<(&TableName, &str)> = topics.iter().filter_map(Topic::as_prefix).collect();
        let wanted = |logged: &Logged| {
            let of_prefix = |(table, prefix): &(&TableName, &str)| {
                **table == logged.table && logged.key.as_str().starts_with(prefix)
            };
            keys.contains(&(&logged.table, &logged.key)) || prefixes.iter().any(of_prefix)
        };
        let missed = self.ring.range(first..).filter(|logged| wanted(logged));
        Some(missed.cloned().collect())
    }

    fn publish(&mut self, counters: &Counters, log: impl FnOnce(Cursor) -> Logged) {
        self.sequence += 1;
        counters.changes.increment();
        if !self.followed {
            return;
        }
        let logged = Arc::new(log(self.cursor()));
        let of_key = self.keys.get(&logged.table).and_then(|keys| keys.get(&logged.key));
        let of_prefix = self.prefixes.get(&logged.table).into_iter().flat_map(BTreeMap::values);
        let of_prefix = of_prefix
            .filter(|(prefix, _)| logged.key.as_str().starts_with(prefix.as_str()))
            .map(|(_, subscriber)| subscriber);
        let (mut woken, mut crowd) = (0, Vec::new());
        for subscriber in of_key.into_iter().flat_map(BTreeMap::values).chain(of_prefix) {
            let mut queue = subscriber.queue();
            if queue.push(&logged) {
                counters.resyncs.increment();
            }
            if woken < CROWD_WOKEN_AT_ONCE {
                let waker = queue.waker.take();
                drop(queue);
                if let Some(waker) = waker {
                    woken += 1;
                    waker.wake();
                }
            } else if queue.join_crowd() {
                crowd.push(subscriber.clone());
            }
        }
        self.crowds.wake(crowd);
        self.ring_bytes += logged.bytes;
        self.ring.push_back(logged);
        while self.ring.len() > RING_CHANGES_MAX || (self.ring_bytes > RING_BYTES_MAX && self.ring.len() > 1)
        {
            let oldest = self.ring.pop_front().expect("the ring is over its limit, so not empty");
            self.ring_bytes -= oldest.bytes;
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

    fn for_all(&self, set: impl Fn(&mut Queue)) {
        for subscriber in self.subscribers.values() {
            set(&mut subscriber.queue());
            subscriber.wake();
        }
    }
}

/// Drains a table's feed into the hub, until the engine is closed.
pub fn pump(mut feed: Feed, table: &Arc<Table>, progress: &Progress, hub: &Hub, now_ms: &WallClock) {
    let mut last = None;
    loop {
        let begun = Instant::now();
        let Some(insert) = feed.next() else { return };
        if let Some((key, head, bytes, (row, record))) = visible_change(table, insert, now_ms()) {
            let mut state = hub.lock();
            // Looked at again under the lock, under which the sweep tells of the end: nothing may follow that.
            if !head.live || head.visible_at(now_ms()) {
                let (of, source) = ((table.name().clone(), key), Source::Record(table.clone(), row, record));
                let timestamp = head.marker.timestamp;
                state.publish(&hub.counters, |cursor| Logged::new(cursor, of, timestamp, bytes, source));
            }
        }
        progress.publish();
        // Each insert that finds this thread asleep wakes it twice. When they come fast, a moment's rest gathers the next few.
        let now = Instant::now();
        let slept = now - begun > PUMP_AWAKE_MAX;
        if slept && last.is_some_and(|last| now - last < PUMP_BUSY_MAX) {
            thread::sleep(hub.rest(table.name()));
        }
        last = Some(now);
    }
}

type Visible = (Key, Head, usize, (Slice, Slice));

/// What a subscriber would see of an insert. A value that has expired already is none: the sweep tells of its end.
fn visible_change(table: &Table, (row, bytes): (Slice, Slice), now_ms: u64) -> Option<Visible> {
    let seen =
        table.decode(&row, &bytes).and_then(|record| Ok((key_of(&row)?, record.head, record.plain_bytes())));
    match seen {
        Ok((_, head, _)) if head.quiet || (head.live && !head.visible_at(now_ms)) => None,
        Ok((key, head, plain_bytes)) => {
            // The value is held as stored, decoded and rendered.
            let cost = CHANGE_OVERHEAD_BYTES + 2 * row.len() + bytes.len() + 2 * plain_bytes;
            Some((key, head, cost, (row, bytes)))
        }
        Err(error) => {
            error!(%error, "a change was not published");
            None
        }
    }
}
