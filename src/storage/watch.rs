//! The change stream. One thread per table (the pump) drains the engine's feed and never waits: it numbers each change, keeps
//! it in a ring for those who come back, and puts it into the queues of those who watch. Writers call no subscriber, and no
//! subscriber can slow a writer, the pump or another.
//!
//! A change has a cursor `(epoch, sequence)`. The epoch is fresh whenever the store is opened, so that a cursor of another life
//! is known as one. A queue holds changes in order up to a bound, then only the newest of each key, and where that is still too
//! much it forgets all and says so: the subscriber then takes a snapshot. Nothing is lost without a word.
//!
//! Lock order: the hub's state, then a subscriber's queue.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::Waker,
};

use bytes::Bytes;
use tracing::error;

use super::{
    Counters, WallClock,
    engine::{Feed, Slice},
    record::Head,
    table::{Table, key_of},
};
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{Key, TableName},
        register::Payload,
    },
    error::{Error, Result},
};

/// How many changes, and about how many bytes of them, the ring keeps for those who resume.
const RING_CHANGES_MAX: usize = 65_536;
const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many changes, and about how many bytes of them, wait for one subscriber.
const QUEUE_CHANGES_MAX: usize = 256;
const QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// What a change costs in memory beside its key and value.
const CHANGE_OVERHEAD_BYTES: usize = 256;

/// A place in a node's change stream. As text `<epoch>.<sequence>`: eight hexadecimal digits, a dot, a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Fresh at every start of a node, and whenever its storage was opened again.
    pub epoch: u32,
    /// The number of the last change seen; changes are numbered from 1.
    pub sequence: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.epoch, self.sequence)
    }
}

impl Cursor {
    /// Parses what `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, sequence) = text.split_once('.')?;
        let cursor = Self { epoch: u32::from_str_radix(epoch, 16).ok()?, sequence: sequence.parse().ok()? };
        // Numbers have other spellings, with signs and zeros: none of them is ours.
        (cursor.to_string() == text).then_some(cursor)
    }
}

/// What a subscriber asks to be told about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One key.
    Key(TableName, Key),
    /// All keys of a table that begin so; empty for the whole table.
    Prefix(TableName, String),
}

/// Why a key's value is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Somebody deleted it.
    Deleted,
    /// Its time had come.
    Expired,
}

/// What a change made of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It has this value now.
    Updated {
        /// The value.
        value: Value,
        /// Unix milliseconds at which it expires, if it does.
        expires_at_ms: Option<u64>,
    },
    /// It has none now.
    Deleted(Gone),
}

/// The visible value of a key changed on this node.
#[derive(Debug)]
pub struct Change {
    /// Its place in the stream; `None` in a snapshot, which has none.
    pub cursor: Option<Cursor>,
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that did it; its `node` is who wrote.
    pub timestamp: Timestamp,
    /// What became of the key.
    pub effect: Effect,
    rendered: OnceLock<Bytes>,
}

impl Change {
    /// A change that nobody rendered yet.
    pub fn new(
        cursor: Option<Cursor>,
        table: TableName,
        key: Key,
        timestamp: Timestamp,
        effect: Effect,
    ) -> Self {
        Self { cursor, table, key, timestamp, effect, rendered: OnceLock::new() }
    }

    /// The change as `render` writes it: called once, whatever the number of subscribers. All callers pass one function.
    pub fn rendered(&self, render: fn(&Change) -> Bytes) -> &Bytes {
        self.rendered.get_or_init(|| render(self))
    }
}

/// A change as the ring keeps it: decoded when the first subscriber wants it.
struct Logged {
    sequence: u64,
    table: TableName,
    key: Key,
    timestamp: Timestamp,
    bytes: usize,
    source: Source,
    change: OnceLock<Option<Arc<Change>>>,
}

enum Source {
    /// The record that the feed gave, of this row.
    Record(Arc<Table>, Slice, Slice),
    Expired,
}

impl Logged {
    /// `None` where the value was long and a later write, whose change follows, has removed it; or where it is damaged.
    fn change(&self, epoch: u32) -> Option<Arc<Change>> {
        let decode = || {
            let effect = match &self.source {
                Source::Expired => Effect::Deleted(Gone::Expired),
                Source::Record(table, row, bytes) => match table.read_change(row, bytes) {
                    Ok(Some((_, Payload::Live { value, expires_at_ms }))) => {
                        Effect::Updated { value, expires_at_ms }
                    }
                    Ok(Some((_, Payload::Deleted))) => Effect::Deleted(Gone::Deleted),
                    Ok(None) => return None,
                    Err(error) => {
                        error!(%error, "a change was not published");
                        return None;
                    }
                },
            };
            let cursor = Some(Cursor { epoch, sequence: self.sequence });
            Some(Arc::new(Change::new(cursor, self.table.clone(), self.key.clone(), self.timestamp, effect)))
        };
        self.change.get_or_init(decode).clone()
    }
}

/// What waits for one subscriber.
#[derive(Default)]
pub struct Queue {
    pending: VecDeque<(Arc<Change>, usize)>,
    bytes: usize,
    /// The change pushed last: two topics of one subscriber may both want it.
    last: Option<Cursor>,
    /// Everything pending was dropped, and everything new is, until the subscriber has taken note.
    lagged: bool,
    ended: bool,
    waker: Option<Waker>,
}

/// What a subscriber finds in its queue.
pub enum Waiting {
    /// The next change.
    Change(Arc<Change>),
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
        if let Some((change, bytes)) = self.pending.pop_front() {
            self.bytes -= bytes;
            return Waiting::Change(change);
        }
        // An idle queue keeps no buffer: there may be very many of them.
        self.pending = VecDeque::new();
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        Waiting::Nothing
    }

    /// Whether the node is stopping; if not, `waker` is called when it does.
    pub fn ended(&mut self, waker: &Waker) -> bool {
        self.waker = Some(waker.clone());
        self.ended
    }

    /// Whether this push made it lag.
    fn push(&mut self, change: &Arc<Change>, bytes: usize) -> bool {
        if self.lagged || self.last == change.cursor {
            return false;
        }
        self.last = change.cursor;
        self.pending.push_back((change.clone(), bytes));
        self.bytes += bytes;
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
        for (change, bytes) in mem::take(&mut self.pending).into_iter().rev() {
            if seen.insert((change.table.clone(), change.key.clone())) {
                kept.push_front((change, bytes));
            } else {
                self.bytes -= bytes;
            }
        }
        self.pending = kept;
    }
}

/// A subscriber as the hub knows it.
pub struct Subscriber {
    queue: Mutex<Queue>,
}

impl Subscriber {
    /// Its queue.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        // Queues are whole before anything can panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a subscription begins, as the hub found it.
pub enum Joined {
    /// With these changes, then with what comes.
    Replay(VecDeque<Arc<Change>>),
    /// With a snapshot, as the cursor is not in the ring.
    Missed,
}

type Subscribers = BTreeMap<u64, Arc<Subscriber>>;

/// Where changes come in and subscribers are found.
pub struct Hub {
    state: Mutex<State>,
    counters: Arc<Counters>,
    subscriptions_max: usize,
}

struct State {
    epoch: u32,
    sequence: u64,
    ring: VecDeque<Arc<Logged>>,
    ring_bytes: usize,
    keys: HashMap<TableName, HashMap<Key, Subscribers>>,
    prefixes: HashMap<TableName, BTreeMap<(u64, usize), (String, Arc<Subscriber>)>>,
    next_id: u64,
    count: usize,
    ended: bool,
}

impl Hub {
    /// A hub without subscribers.
    pub fn new(epoch: u32, counters: Arc<Counters>, subscriptions_max: usize) -> Self {
        let state = State {
            epoch,
            sequence: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            next_id: 0,
            count: 0,
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
        if state.count >= self.subscriptions_max {
            return Err(Error::TooMany(format!(
                "this node has its {} subscriptions",
                self.subscriptions_max
            )));
        }
        let joined = match after {
            None => Joined::Replay(VecDeque::new()),
            Some(cursor) => state.missed_after(cursor, topics).map_or(Joined::Missed, Joined::Replay),
        };
        let subscriber = Arc::new(Subscriber { queue: Mutex::default() });
        let id = state.next_id;
        state.next_id += 1;
        state.count += 1;
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
        state.count -= 1;
        self.counters.subscriptions.decrement();
        for (index, topic) in topics.iter().enumerate() {
            match topic {
                Topic::Key(table, key) => state.leave_key(id, table, key),
                Topic::Prefix(table, _) => {
                    if let Some(prefixes) = state.prefixes.get_mut(table) {
                        prefixes.remove(&(id, index));
                    }
                }
            }
        }
    }

    /// Starts a subscriber that lagged afresh: everything after the cursor returned will be in its queue.
    pub fn restart(&self, subscriber: &Subscriber) -> Cursor {
        let state = self.lock();
        let mut queue = subscriber.queue();
        queue.lagged = false;
        queue.pending.clear();
        queue.bytes = 0;
        state.cursor()
    }

    /// Tells all that a value's time had come.
    pub fn publish_expired(&self, table: &TableName, key: Key, head: &Head) {
        let bytes = CHANGE_OVERHEAD_BYTES + 2 * key.as_str().len();
        self.lock().publish(&self.counters, |sequence| Logged {
            sequence,
            table: table.clone(),
            key,
            timestamp: head.marker.timestamp,
            bytes,
            source: Source::Expired,
            change: OnceLock::new(),
        });
    }

    /// Begins a new epoch: cursors from before are of another life, and all subscribers resynchronise.
    pub fn renew(&self, epoch: u32) {
        let mut state = self.lock();
        state.epoch = epoch;
        state.sequence = 0;
        state.ring = VecDeque::new();
        state.ring_bytes = 0;
        state.for_all(|queue| queue.lagged = true);
    }

    /// Ends every subscription, and lets none begin.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.for_all(|queue| queue.ended = true);
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
    fn missed_after(&self, cursor: Cursor, topics: &[Topic]) -> Option<VecDeque<Arc<Change>>> {
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
        Some(missed.filter_map(|logged| logged.change(self.epoch)).collect())
    }

    fn publish(&mut self, counters: &Counters, log: impl FnOnce(u64) -> Logged) {
        self.sequence += 1;
        let logged = log(self.sequence);
        counters.changes.increment();
        let of_key = self.keys.get(&logged.table).and_then(|keys| keys.get(&logged.key));
        let of_prefix = self.prefixes.get(&logged.table).into_iter().flat_map(BTreeMap::values);
        let of_prefix = of_prefix
            .filter(|(prefix, _)| logged.key.as_str().starts_with(prefix.as_str()))
            .map(|(_, subscriber)| subscriber);
        for subscriber in of_key.into_iter().flat_map(BTreeMap::values).chain(of_prefix) {
            let Some(change) = logged.change(self.epoch) else { break };
            let mut queue = subscriber.queue();
            if queue.push(&change, logged.bytes) {
                counters.resyncs.increment();
            }
            let waker = queue.waker.take();
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.ring_bytes += logged.bytes;
        self.ring.push_back(Arc::new(logged));
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
        let of_keys = self.keys.values().flat_map(HashMap::values).flat_map(BTreeMap::values);
        let of_prefixes = self.prefixes.values().flat_map(BTreeMap::values).map(|(_, subscriber)| subscriber);
        for subscriber in of_keys.chain(of_prefixes) {
            let mut queue = subscriber.queue();
            set(&mut queue);
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Topic {
    fn as_key(&self) -> Option<(&TableName, &Key)> {
        match self {
            Self::Key(table, key) => Some((table, key)),
            Self::Prefix(..) => None,
        }
    }

    fn as_prefix(&self) -> Option<(&TableName, &str)> {
        match self {
            Self::Prefix(table, prefix) => Some((table, prefix)),
            Self::Key(..) => None,
        }
    }
}

/// Drains a table's feed into the hub, until the engine is closed.
pub fn pump(mut feed: Feed, table: &Arc<Table>, hub: &Hub, now_ms: &WallClock) {
    while let Some(insert) = feed.next_insert() {
        let Some((key, head, bytes, (row, record))) = visible_change(table, insert, now_ms()) else {
            continue;
        };
        let mut state = hub.lock();
        // Looked at again under the lock, under which the sweep tells of the end: nothing may follow that.
        if head.live && !head.visible_at(now_ms()) {
            continue;
        }
        state.publish(&hub.counters, |sequence| Logged {
            sequence,
            table: table.name().clone(),
            key,
            timestamp: head.marker.timestamp,
            bytes,
            source: Source::Record(table.clone(), row, record),
            change: OnceLock::new(),
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_what_display_writes_and_nothing_else() {
        for text in ["3f2a91c0.184467", "00000000.0", "ffffffff.18446744073709551615"] {
            assert_eq!(Cursor::parse(text).map(|cursor| cursor.to_string()).as_deref(), Some(text));
        }
        let wrong = [
            "",
            ".",
            "1.1",
            "+0000001.1",
            "00000001.+1",
            "0000000A.1",
            "00000001.01",
            "00000001.1 ",
            "00000001.1.1",
        ];
        for text in wrong {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
