//! What the last revisions changed: for watchers, and for reads of the past. Each node keeps it in memory, filled in the order in which
//! entries of the log are applied. What is older, or was before the node's start, is compacted here.
//!
//! The rows of a revision come before the head that ends it. An entry that is applied again, after the storage lost it or over rows that are
//! newer already, tells nothing new; where what was before can no longer be known, the history begins anew.

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

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key as it was written; of a deleted one only the key and the revision.
    pub kv: KeyValue,
    /// Whether it was deleted.
    pub is_delete: bool,
    /// What was there before.
    pub before: Option<KeyValue>,
}

impl Event {
    fn bytes(&self) -> usize {
        let bytes = |kv: &KeyValue| mem::size_of::<KeyValue>() + kv.key.len() + kv.value.len();
        bytes(&self.kv) + self.before.as_ref().map_or(0, bytes)
    }
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
    pending: Vec<Replaced>,
    events: usize,
    bytes: usize,
    events_max: usize,
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
            pending: Vec::new(),
            events: 0,
            bytes: 0,
            events_max: EVENTS_MAX,
        }
    }

    /// The head of the state up to which it goes.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Begins anew after a state with this head, which nobody knows how it came to be.
    pub fn reset(&mut self, head: Head) {
        *self = Self { events_max: self.events_max, ..Self::new(head) };
    }

    /// A row of a key was replaced.
    pub fn replaced(&mut self, replaced: Replaced) {
        self.pending.push(replaced);
    }

    /// A head was written: it ends what belongs together.
    pub fn completed(&mut self, head: Head) {
        let pending = mem::take(&mut self.pending);
        if head.revision < self.head.revision {
            return;
        }
        if head.revision > self.head.revision {
            let is_next = head.revision == self.head.revision + 1;
            let events: Option<Arc<[Event]>> =
                pending.into_iter().map(|replaced| event(replaced, head.revision)).collect();
            let Some(events) = events.filter(|_| is_next) else { return self.reset(head) };
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
            || self.events > self.events_max
            || self.bytes > BYTES_MAX && self.revisions.len() > 1
        {
            let Some(events) = self.revisions.pop_front() else { return };
            self.floor += 1;
            self.events -= events.len();
            self.bytes -= events.iter().map(Event::bytes).sum::<usize>();
        }
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
        if revision < self.floor.max(self.head.compacted) {
            return Err(Problem::Compacted(self.first()));
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
        history.events_max = 4;
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
