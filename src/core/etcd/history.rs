//! What the last revisions changed: for watchers, and for reads of the past. Each node keeps it in memory, filled in the order in which
//! entries of the log are applied. What is older, or was before the node's start, is compacted here.
//!
//! The rows of a revision come before the head that ends it. An entry that is applied again, after the storage lost it or over rows that are
//! newer already, tells nothing new; where what was before can no longer be known, the history begins anew.
//!
//! Its memory is bounded, also for one revision that deletes very much: such a one keeps which keys it changed, for watchers, and not what they
//! were before. What was before it cannot be read then.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
};

use super::{
    evaluate::Past,
    request::{KeyValue, Keys, Problem},
    row::Head,
};

/// Most events that are kept.
const EVENTS_MAX: usize = 100_000;
/// Most bytes of keys and values that are kept, about.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes of old values that one revision keeps, about: as many as a request that asks for them may return.
const OLD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The head where it is missing or damaged: nothing is known of the revisions up to the next one that is written.
pub const UNKNOWN: Head = Head { revision: 0, compacted: -1 };
/// The revision of the first write to an empty table.
const FIRST_WRITE: i64 = 2;

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key as it was written; of a deleted one only the key and the revision.
    pub kv: KeyValue,
    /// Whether it was deleted.
    pub is_delete: bool,
    /// What was there before; `None` too if the revision had more of that than is kept.
    pub before: Option<KeyValue>,
}

impl Event {
    fn bytes(&self) -> usize {
        mem::size_of::<Self>() + held(&self.kv) + self.before.as_ref().map_or(0, held)
    }
}

/// Bytes that a key and its value take beside themselves.
fn held(kv: &KeyValue) -> usize {
    kv.key.len() + kv.value.len()
}

/// What a row was replaced by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The key.
    pub key: Vec<u8>,
    /// What it is now; `None` if it was deleted.
    pub now: Option<KeyValue>,
    /// What it was before; `Err` if that is not known.
    pub before: Result<Option<KeyValue>, Newer>,
}

/// A row was there that is as new or newer, or one that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newer;

/// The history.
#[derive(Debug)]
pub struct History {
    /// All that came after this revision is here.
    floor: i64,
    head: Head,
    /// What each revision after the floor changed, in the order in which it did.
    revisions: VecDeque<Arc<[Event]>>,
    /// What the revision that is being applied has changed so far.
    pending: Pending,
    /// The oldest revision of which is known what keys were then: later than the floor if a revision did not keep what was before it.
    readable: i64,
    events: usize,
    bytes: usize,
    limits: Limits,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Limits {
    events: usize,
    bytes: usize,
    old_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: EVENTS_MAX, bytes: BYTES_MAX, old_bytes: OLD_BYTES_MAX }
    }
}

/// What a revision that is not there as a whole yet changes.
#[derive(Debug, Default)]
struct Pending {
    replaced: Vec<Replaced>,
    old_bytes: usize,
    /// Whether it had more old values than are kept.
    is_without_old: bool,
    /// Whether it changes more than is known.
    is_unknown: bool,
}

impl Pending {
    fn add(&mut self, mut replaced: Replaced, old_bytes_max: usize) {
        if self.is_unknown {
            return;
        }
        self.old_bytes += old(&replaced).map_or(0, held);
        if self.old_bytes > old_bytes_max && !mem::replace(&mut self.is_without_old, true) {
            self.replaced.iter_mut().for_each(forget_old);
        }
        if self.is_without_old {
            forget_old(&mut replaced);
        }
        self.replaced.push(replaced);
    }
}

fn old(replaced: &Replaced) -> Option<&KeyValue> {
    replaced.before.as_ref().ok().and_then(Option::as_ref)
}

fn forget_old(replaced: &mut Replaced) {
    if replaced.before.is_ok() {
        replaced.before = Ok(None);
    }
}

impl History {
    /// Begins after a state with this head.
    pub fn new(head: Head) -> Self {
        // Nothing happened in the first revision, so that is known.
        let is_empty = head.revision == Head::default().revision;
        let revisions: VecDeque<_> = is_empty.then(|| Arc::from(Vec::new())).into_iter().collect();
        Self {
            floor: head.revision - revisions.len() as i64,
            head,
            revisions,
            pending: Pending::default(),
            readable: head.revision - i64::from(is_empty),
            events: 0,
            bytes: 0,
            limits: Limits::default(),
        }
    }

    /// The head of the state up to which it goes.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Begins anew after a state with this head, which nobody knows how it came to be.
    pub fn reset(&mut self, head: Head) {
        *self = Self { limits: self.limits, ..Self::new(head) };
    }

    /// A row of a key was replaced.
    pub fn replaced(&mut self, replaced: Replaced) {
        // Where no head is, only the first revision is one that is known; other rows are being cleared away.
        let is_first = |kv: &KeyValue| kv.mod_revision == FIRST_WRITE;
        if self.head != UNKNOWN || replaced.now.as_ref().is_some_and(is_first) {
            self.pending.add(replaced, self.limits.old_bytes);
        }
    }

    /// A row was written that is none of the table: what its revision changes cannot be known, and watchers begin anew behind it.
    pub fn damaged(&mut self) {
        let head = self.head;
        self.reset(head);
        self.pending.is_unknown = true;
    }

    /// The head was deleted: nothing is known until there is one again.
    pub fn head_deleted(&mut self) {
        self.reset(UNKNOWN);
    }

    /// A head was written: it ends what belongs together.
    pub fn completed(&mut self, head: Head) {
        let pending = mem::take(&mut self.pending);
        if head.revision < self.head.revision {
            return;
        }
        // The first one there is: before it the table had none, because it was somebody else's, and is empty now.
        if self.head == UNKNOWN && head.revision == FIRST_WRITE {
            self.reset(Head::default());
        }
        if head.revision > self.head.revision {
            let is_next = head.revision == self.head.revision + 1;
            let events: Option<Arc<[Event]>> =
                pending.replaced.into_iter().map(|replaced| event(replaced, head.revision)).collect();
            let is_known = is_next && !pending.is_unknown;
            let Some(events) = events.filter(|_| is_known) else { return self.reset(head) };
            if pending.is_without_old {
                self.readable = head.revision;
            }
            self.events += events.len();
            self.bytes += events.iter().map(Event::bytes).sum::<usize>();
            self.revisions.push_back(events);
        }
        self.head = head;
        self.forget();
    }

    fn forget(&mut self) {
        // The events of the compacted revision itself can be had, as in etcd.
        while self.floor + 1 < self.head.compacted
            || self.events > self.limits.events
            || self.bytes > self.limits.bytes
        {
            let Some(events) = self.revisions.pop_front() else { return };
            self.floor += 1;
            self.events -= events.len();
            self.bytes -= events.iter().map(Event::bytes).sum::<usize>();
        }
        self.readable = self.readable.max(self.floor);
    }

    /// The oldest revision that a watcher may start at.
    pub fn first(&self) -> i64 {
        self.head.compacted.max(self.floor + 1)
    }

    /// What a revision changed; `None` if it has not come yet.
    ///
    /// # Errors
    /// `Compacted`.
    pub fn events(&self, revision: i64) -> Result<Option<&Arc<[Event]>>, Problem> {
        match usize::try_from(revision - self.floor - 1) {
            Ok(index) if revision >= self.head.compacted => Ok(self.revisions.get(index)),
            Ok(_) | Err(_) => Err(Problem::Compacted(self.first())),
        }
    }

    /// What keys were after a revision, if they are other now.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`.
    pub fn past(&self, keys: &Keys, revision: i64) -> Result<Past, Problem> {
        if revision > self.head.revision {
            return Err(Problem::FutureRevision);
        }
        let readable = self.readable.max(self.head.compacted);
        if revision < readable {
            return Err(Problem::Compacted(readable));
        }
        let mut past = BTreeMap::new();
        let after = usize::try_from(revision - self.floor).unwrap_or(usize::MAX);
        for event in self.revisions.iter().skip(after).flat_map(|events| events.iter()) {
            if keys.contains(&event.kv.key) {
                past.entry(event.kv.key.clone()).or_insert_with(|| event.before.clone());
            }
        }
        Ok(past)
    }
}

/// `None` if nobody knows what was there before.
fn event(replaced: Replaced, revision: i64) -> Option<Event> {
    let Replaced { key, now, before } = replaced;
    let is_delete = now.is_none();
    let deleted = || KeyValue { key, mod_revision: revision, ..KeyValue::default() };
    Some(Event { kv: now.unwrap_or_else(deleted), is_delete, before: before.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, revision: i64) -> KeyValue {
        KeyValue { key: key.into(), mod_revision: revision, ..KeyValue::default() }
    }

    fn write(history: &mut History, revision: i64, keys: &[&str]) {
        for key in keys {
            let now = Some(kv(key, revision));
            history.replaced(Replaced { key: (*key).into(), now, before: Ok(Some(kv(key, revision - 1))) });
        }
        history.completed(Head { revision, ..history.head() });
    }

    fn keys_at(history: &History, revision: i64) -> Result<Option<Vec<String>>, Problem> {
        let text = |event: &Event| String::from_utf8_lossy(&event.kv.key).into_owned();
        Ok(history.events(revision)?.map(|events| events.iter().map(text).collect()))
    }

    #[test]
    fn a_revision_is_there_as_a_whole_once_its_head_is() {
        let mut history = History::new(Head { revision: 4, compacted: -1 });
        history.replaced(Replaced { key: b"a".into(), now: None, before: Ok(Some(kv("a", 3))) });
        assert_eq!(keys_at(&history, 5), Ok(None));
        write(&mut history, 5, &["b"]);
        assert_eq!(keys_at(&history, 5), Ok(Some(vec!["a".into(), "b".into()])));
        let events = history.events(5).expect("is there").expect("has come");
        assert!(events[0].is_delete && events[0].kv == kv("a", 5));
        assert_eq!(keys_at(&history, 4), Err(Problem::Compacted(5)));
        assert_eq!(keys_at(&history, 6), Ok(None));
    }

    #[test]
    fn the_history_of_a_table_that_was_somebody_elses_begins_with_its_first_revision() {
        let mut history = History::new(UNKNOWN);
        write(&mut history, 2, &["a"]);
        assert_eq!(keys_at(&history, 1), Ok(Some(Vec::new())));
        assert_eq!(keys_at(&history, 2), Ok(Some(vec!["a".into()])));
        let mut damaged = History::new(UNKNOWN);
        write(&mut damaged, 3, &["a"]);
        assert_eq!(keys_at(&damaged, 3), Err(Problem::Compacted(4)));
    }

    /// While the head was missing, the deletion of what was left counted as a part of the first revision, on the nodes that had seen it.
    #[test]
    fn what_is_cleared_away_without_a_head_is_no_part_of_the_first_revision() {
        let deleted = |key: &str| Replaced { key: key.into(), now: None, before: Ok(Some(kv(key, 7))) };
        let mut restarted = History::new(UNKNOWN);
        let mut running = History::new(Head { revision: 9, compacted: -1 });
        running.replaced(deleted("a"));
        running.head_deleted();
        assert_eq!(running.head(), UNKNOWN);
        for history in [&mut restarted, &mut running] {
            history.replaced(deleted("b"));
            assert!(history.pending.replaced.is_empty(), "nothing is kept");
            write(history, 2, &["c"]);
            assert_eq!(keys_at(history, 1), Ok(Some(Vec::new())));
            assert_eq!(keys_at(history, 2), Ok(Some(vec!["c".into()])));
        }
    }

    /// The rows of a revision behind a damaged one were taken for all of it.
    #[test]
    fn a_revision_with_a_damaged_row_is_not_told_in_part() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        write(&mut history, 2, &["a"]);
        history.replaced(Replaced { key: b"b".into(), now: None, before: Ok(None) });
        history.damaged();
        write(&mut history, 3, &["c"]);
        assert_eq!((keys_at(&history, 3), history.first()), (Err(Problem::Compacted(4)), 4));
        write(&mut history, 4, &["d"]);
        assert_eq!(keys_at(&history, 4), Ok(Some(vec!["d".into()])));
    }

    #[test]
    fn what_is_applied_again_tells_nothing_new() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        write(&mut history, 2, &["a"]);
        write(&mut history, 3, &["b"]);
        for revision in [2, 3] {
            history.replaced(Replaced { key: b"x".into(), now: None, before: Err(Newer) });
            history.completed(Head { revision, compacted: -1 });
        }
        assert_eq!(keys_at(&history, 3), Ok(Some(vec!["b".into()])));
        // A crash left a part of revision 4 in the store: what was before it is lost.
        history.replaced(Replaced { key: b"x".into(), now: None, before: Err(Newer) });
        history.completed(Head { revision: 4, compacted: -1 });
        assert_eq!(keys_at(&history, 4), Err(Problem::Compacted(5)));
        write(&mut history, 5, &["c"]);
        assert_eq!(keys_at(&history, 5), Ok(Some(vec!["c".into()])));
        // So does a gap.
        write(&mut history, 8, &["d"]);
        assert_eq!((keys_at(&history, 8), history.first()), (Err(Problem::Compacted(9)), 9));
    }

    #[test]
    fn compaction_and_limits_forget_the_oldest() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        history.limits.events = 4;
        for revision in 2..=5 {
            write(&mut history, revision, &["a"]);
        }
        assert_eq!(history.first(), 1);
        write(&mut history, 6, &["a", "b"]);
        assert_eq!((history.first(), keys_at(&history, 3)), (4, Err(Problem::Compacted(4))));
        history.completed(Head { revision: 6, compacted: 5 });
        assert_eq!((history.first(), keys_at(&history, 4)), (5, Err(Problem::Compacted(5))));
        assert_eq!(keys_at(&history, 5), Ok(Some(vec!["a".into()])));
        let all = Keys::Range(vec![0], None);
        assert_eq!(history.past(&all, 4), Err(Problem::Compacted(5)));
        assert_eq!(history.past(&all, 5).map(|past| past.len()), Ok(2));
        assert_eq!(history.past(&all, 6).map(|past| past.len()), Ok(0));
        assert_eq!(history.past(&all, 7), Err(Problem::FutureRevision));
    }

    fn large(key: &str, revision: i64, bytes: usize) -> KeyValue {
        KeyValue { value: vec![b'x'; bytes], ..kv(key, revision) }
    }

    #[test]
    fn no_more_bytes_are_kept_than_the_limit_says() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        history.limits.bytes = 10_000;
        for revision in 2..=20 {
            let (now, before) =
                (Some(large("a", revision, 1_000)), Ok(Some(large("a", revision - 1, 1_000))));
            history.replaced(Replaced { key: b"a".into(), now, before });
            history.completed(Head { revision, compacted: -1 });
            let kept = history.revisions.iter().flat_map(|events| events.iter());
            let kept: usize = kept.map(|event| held(&event.kv) + event.before.as_ref().map_or(0, held)).sum();
            assert!(kept <= 10_000 && kept <= history.bytes, "{kept} {}", history.bytes);
        }
        assert_eq!(history.first(), 17, "four revisions of some more than 2,000 bytes");
        assert_eq!(history.past(&Keys::One(b"a".into()), 15), Err(Problem::Compacted(16)));
        assert!(history.past(&Keys::One(b"a".into()), 16).is_ok());
    }

    /// The deletion of 64 MiB in one request had each node hold all of these values, for as long as nothing else was written.
    #[test]
    fn a_revision_with_too_many_old_values_keeps_its_events_without_them() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        history.limits.old_bytes = 5_000;
        write(&mut history, 2, &["a"]);
        for number in 0..10 {
            let key = format!("k{number}");
            let before = Ok(Some(large(&key, 2, 1_000)));
            history.replaced(Replaced { key: key.into(), now: None, before });
            let held: usize = history.pending.replaced.iter().filter_map(old).map(held).sum();
            assert!(held <= 5_000, "{held}");
        }
        history.completed(Head { revision: 3, compacted: -1 });
        write(&mut history, 4, &["a"]);
        let events = history.events(3).expect("is there").expect("has come");
        assert!(events.len() == 10 && events.iter().all(|event| event.is_delete && event.before.is_none()));
        assert_eq!(history.first(), 1, "watchers miss nothing");
        let all = Keys::Range(vec![0], None);
        assert_eq!(history.past(&all, 2), Err(Problem::Compacted(3)), "what was deleted is not known");
        assert_eq!(history.past(&all, 3).map(|past| past.len()), Ok(1));
    }

    #[test]
    fn the_past_is_what_was_before_the_first_change_since() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        for revision in 2..=5 {
            write(&mut history, revision, &["a"]);
        }
        let past = history.past(&Keys::One(b"a".into()), 3).expect("is there");
        assert_eq!(past[b"a".as_slice()], Some(kv("a", 3)));
        assert!(history.past(&Keys::One(b"b".into()), 3).expect("is there").is_empty());
    }
}
