//! The watchers of a stream, and what each is sent next. A watcher is a place in the history of this node, and most are at the same one: what comes
//! there is looked up by its key, so that a watcher costs nothing while its keys do not change. One that begins in the past catches up by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use super::{
    history::{Event, History},
    index::Index,
    request::{Keys, Problem},
};

/// Most events that watchers are given at a time, unless one revision has more: they are sent together.
const EVENTS_MAX: usize = 1_000;
/// Most bytes of keys and values that they are given at a time, unless one revision has more.
pub const BYTES_MAX: usize = 1024 * 1024;
/// Most events that are looked at in one go: nothing is applied meanwhile.
const LOOKED_AT_MAX: usize = 10_000;
/// Most pairs of a watcher and an event that one revision may have for all watchers together, which take some MiB. Twice as many as the history keeps
/// events, so that two watchers of everything are no case of their own. Of one with more each watcher is given its own, one after the other.
const PAIRS_MAX: usize = 200_000;

/// A watcher.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// What it watches.
    pub keys: Keys,
    /// The next revision that it has not seen, if it is not where most are.
    pub next: i64,
    /// Whether it is told what was before.
    pub with_before: bool,
    /// Whether it is told of puts.
    pub puts: bool,
    /// Whether it is told of deletions.
    pub deletes: bool,
    /// Whether large answers may come in parts.
    pub fragments: bool,
    /// Whether it is told now and then that nothing happened.
    pub wants_progress: bool,
    /// Whether it was sent nothing since it was told of its progress last.
    pub is_quiet: bool,
}

impl Watcher {
    /// One that is told of all changes of keys from a revision on, in one piece each, and of nothing else.
    pub fn new(keys: Keys, next: i64) -> Self {
        Self {
            keys,
            next,
            with_before: false,
            puts: true,
            deletes: true,
            fragments: false,
            wants_progress: false,
            is_quiet: true,
        }
    }

    fn wants(&self, event: &Event) -> bool {
        if event.is_delete { self.deletes } else { self.puts }
    }
}

/// An event: a revision, and its place in it. Values are copied when they are sent.
pub type Place = (Arc<[Event]>, usize);

/// What a watcher is told.
#[derive(Debug)]
pub enum Due {
    /// These events.
    Events(i64, Vec<Place>),
    /// That what it has not seen is compacted up to this revision. It is no watcher any more.
    Compacted(i64, i64),
}

impl Due {
    /// The watcher.
    pub fn id(&self) -> i64 {
        let (Self::Events(id, _) | Self::Compacted(id, _)) = self;
        *id
    }
}

/// The watchers of a stream.
#[derive(Debug)]
pub struct Watchers {
    all: BTreeMap<i64, Watcher>,
    index: Index<i64>,
    /// What came before this revision was given to all that are not behind.
    position: i64,
    /// Those that have not been given all before that.
    behind: BTreeSet<i64>,
    /// The one of them that was given something last: the next one is one after it.
    last: i64,
    next_id: i64,
}

impl Watchers {
    /// None, where the history goes up to a revision.
    pub fn new(revision: i64) -> Self {
        Self {
            all: BTreeMap::new(),
            index: Index::default(),
            position: revision + 1,
            behind: BTreeSet::new(),
            last: 0,
            next_id: 0,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// One of them.
    pub fn get_mut(&mut self, id: i64) -> Option<&mut Watcher> {
        self.all.get_mut(&id)
    }

    /// An id that is free: this one, or any if it is 0. `None` if it is not.
    pub fn free_id(&mut self, wanted: i64) -> Option<i64> {
        if wanted != 0 {
            return (!self.all.contains_key(&wanted)).then_some(wanted);
        }
        while self.all.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }

    /// Adds one, with an id that is free.
    pub fn insert(&mut self, id: i64, watcher: Watcher) {
        self.index.insert(id, &watcher.keys);
        if watcher.next < self.position {
            self.behind.insert(id);
        }
        self.all.insert(id, watcher);
    }

    /// Removes one. Returns whether it was there.
    pub fn remove(&mut self, id: i64) -> bool {
        let Some(watcher) = self.all.remove(&id) else { return false };
        self.index.remove(id, &watcher.keys);
        self.behind.remove(&id);
        true
    }

    /// The history, which went up to `last`, has begun anew, as when an operator empties the table, and goes up to `newest`. All watchers are canceled
    /// but those of revisions to come.
    pub fn begin_anew(&mut self, last: i64, newest: i64) -> Vec<Due> {
        self.position = newest + 1;
        self.cancel(self.position, |watcher| watcher.next <= newest.max(last + 1))
    }

    /// Those that are not behind want nothing that came before a revision.
    pub fn skip_to(&mut self, revision: i64) {
        self.position = self.position.max(revision);
    }

    /// What is to be told next; `None` if there is nothing more in the history. There may be more although nothing is told.
    pub fn take(&mut self, history: &History) -> Option<Vec<Due>> {
        let after = self.behind.range((Bound::Excluded(self.last), Bound::Unbounded)).next();
        match after.or(self.behind.first()).copied() {
            Some(id) => {
                self.last = id;
                Some(self.catch_up(id, history).into_iter().collect())
            }
            None if self.position > history.head().revision => None,
            None => Some(self.go_on(history)),
        }
    }

    /// The next events of one that is behind.
    fn catch_up(&mut self, id: i64, history: &History) -> Option<Due> {
        let watcher = self.all.get_mut(&id)?;
        let (mut wanted, mut amount) = (Vec::new(), Amount::default());
        while watcher.next < self.position && !amount.is_enough() {
            match history.events(watcher.next) {
                Ok(Some(events)) => {
                    for (place, event) in events.iter().enumerate() {
                        amount.looked_at += 1;
                        if watcher.keys.contains(&event.kv.key) && watcher.wants(event) {
                            amount.add(event, watcher.with_before);
                            wanted.push((events.clone(), place));
                        }
                    }
                    // One without events takes a look too.
                    amount.looked_at += 1;
                    watcher.next += 1;
                }
                Err(Problem::Compacted(first)) if wanted.is_empty() => {
                    self.remove(id);
                    return Some(Due::Compacted(id, first));
                }
                // The history begins anew: it is compacted for this one, which is seen when it comes again.
                Ok(None) | Err(_) => break,
            }
        }
        if watcher.next >= self.position {
            self.behind.remove(&id);
        }
        (!wanted.is_empty()).then_some(Due::Events(id, wanted))
    }

    /// The next events of all that are not behind.
    fn go_on(&mut self, history: &History) -> Vec<Due> {
        let (mut wanted, mut amount) = (BTreeMap::<i64, Vec<Place>>::new(), Amount::default());
        while !amount.is_enough() {
            match history.events(self.position) {
                Ok(Some(events)) => {
                    match self.wanted_of(events, &mut amount) {
                        Some(found) => {
                            for (id, place) in found {
                                wanted.entry(id).or_default().push((events.clone(), place));
                            }
                        }
                        None => self.fall_behind(),
                    }
                    amount.looked_at += 1;
                    self.position += 1;
                    if !self.behind.is_empty() {
                        break;
                    }
                }
                Err(Problem::Compacted(first)) if wanted.is_empty() => return self.cancel_before(first),
                Ok(None) | Err(_) => break,
            }
        }
        wanted.into_iter().map(|(id, events)| Due::Events(id, events)).collect()
    }

    /// Which watchers want which events of the revision that they are at. `None` if that is too much to be found in one go.
    fn wanted_of(&self, events: &[Event], amount: &mut Amount) -> Option<Vec<(i64, usize)>> {
        let (mut found, mut pairs) = (Vec::new(), 0);
        for (place, event) in events.iter().enumerate() {
            amount.looked_at += 1;
            for id in self.index.of(&event.kv.key) {
                pairs += 1;
                if pairs > PAIRS_MAX {
                    return None;
                }
                let is_there = |watcher: &&Watcher| watcher.next <= self.position && watcher.wants(event);
                if let Some(watcher) = self.all.get(&id).filter(is_there) {
                    amount.add(event, watcher.with_before);
                    found.push((id, place));
                }
            }
        }
        Some(found)
    }

    /// Each watcher that is not behind is, from the revision on that all are at: they catch up one after the other.
    fn fall_behind(&mut self) {
        for (id, watcher) in self.all.iter_mut().filter(|(_, watcher)| watcher.next <= self.position) {
            watcher.next = self.position;
            self.behind.insert(*id);
        }
    }

    fn cancel_before(&mut self, first: i64) -> Vec<Due> {
        self.position = first;
        self.cancel(first, |watcher| watcher.next < first)
    }

    /// Cancels watchers, because there is nothing before `first`.
    fn cancel(&mut self, first: i64, is_canceled: impl Fn(&Watcher) -> bool) -> Vec<Due> {
        let canceled = self.all.iter().filter(|(_, watcher)| is_canceled(watcher)).map(|(id, _)| *id);
        let canceled: Vec<_> = canceled.collect();
        canceled
            .into_iter()
            .map(|id| {
                self.remove(id);
                Due::Compacted(id, first)
            })
            .collect()
    }

    /// Those that want to be told of their progress and were sent nothing since the last time, and have seen all up to a revision.
    pub fn quiet(&mut self, revision: i64) -> Vec<i64> {
        let has_seen_all = self.position > revision;
        let mut quiet = Vec::new();
        for (id, watcher) in &mut self.all {
            let was_quiet = std::mem::replace(&mut watcher.is_quiet, true);
            if was_quiet && watcher.wants_progress && has_seen_all && !self.behind.contains(id) {
                quiet.push(*id);
            }
        }
        quiet
    }
}

/// Bytes of keys and values that a watcher is sent for an event.
pub fn event_bytes(event: &Event, with_before: bool) -> usize {
    let before = event.before.as_ref().filter(|_| with_before);
    event.kv.key.len()
        + event.kv.value.len()
        + before.map_or(0, |before| before.key.len() + before.value.len())
}

/// How much was looked at, and found.
#[derive(Default)]
struct Amount {
    looked_at: usize,
    events: usize,
    bytes: usize,
}

impl Amount {
    fn add(&mut self, event: &Event, with_before: bool) {
        self.events += 1;
        self.bytes += event_bytes(event, with_before);
    }

    fn is_enough(&self) -> bool {
        self.events >= EVENTS_MAX || self.bytes >= BYTES_MAX || self.looked_at >= LOOKED_AT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::etcd::{history::Replaced, request::KeyValue, row::Head};

    fn write(history: &mut History, keys: &[&str]) {
        let revision = history.head().revision + 1;
        for key in keys {
            let kv = KeyValue { key: (*key).into(), mod_revision: revision, ..KeyValue::default() };
            history.replaced(Replaced { key: (*key).into(), now: Some(kv), before: Ok(None) });
        }
        history.completed(Head { revision, ..history.head() });
    }

    fn watcher(low: &str, end: &str, next: i64) -> Watcher {
        Watcher { wants_progress: true, ..Watcher::new(Keys::new(low.into(), end.into()), next) }
    }

    /// All that is due: the watcher, and the key and revision of each event or from where on it is compacted.
    fn all_due(watchers: &mut Watchers, history: &History) -> Vec<(i64, String)> {
        let mut told = Vec::new();
        while let Some(due) = watchers.take(history) {
            told.extend(due.into_iter().map(|due| match due {
                Due::Events(id, events) => {
                    let shown = events.iter().map(|(events, place)| {
                        let kv = &events[*place].kv;
                        format!("{}{} ", String::from_utf8_lossy(&kv.key), kv.mod_revision)
                    });
                    (id, shown.collect())
                }
                Due::Compacted(id, first) => (id, format!("compacted {first}")),
            }));
        }
        told.sort();
        told
    }

    fn told(due: &[(i64, &str)]) -> Vec<(i64, String)> {
        due.iter().map(|(id, text)| (*id, (*text).to_owned())).collect()
    }

    /// They waited for the revision that had been next, and were told nothing of those before it; one that was behind was looked at without an end.
    #[test]
    fn where_the_history_begins_anew_watchers_are_canceled_but_those_of_revisions_to_come() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        (0..5).for_each(|_| write(&mut history, &["a"]));
        let mut watchers = Watchers::new(6);
        for next in [3, 7, 9] {
            let id = watchers.free_id(0).expect("is free");
            watchers.insert(id, watcher("a", "", next));
        }
        history.head_deleted();
        let canceled = watchers.begin_anew(6, history.head().revision);
        assert!(matches!(canceled[..], [Due::Compacted(0, 1), Due::Compacted(1, 1)]), "{canceled:?}");
        assert!(all_due(&mut watchers, &history).is_empty());
        assert_eq!(watchers.count(), 1);
        let passed = watchers.begin_anew(0, 9);
        assert!(matches!(passed[..], [Due::Compacted(2, 10)]), "what it waited for has been: {passed:?}");
    }

    #[test]
    fn each_watcher_is_given_what_it_wants_once_wherever_it_begins() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        write(&mut history, &["a"]);
        write(&mut history, &["b"]);
        let mut watchers = Watchers::new(3);
        let ids = [("a", "", 4), ("a", "c", 2), ("a", "b", 6), ("c", "", 3)].map(|(low, end, next)| {
            let id = watchers.free_id(0).expect("is free");
            watchers.insert(id, watcher(low, end, next));
            id
        });
        assert_eq!(ids, [0, 1, 2, 3]);
        write(&mut history, &["a", "b"]);
        assert_eq!(all_due(&mut watchers, &history), told(&[(0, "a4 "), (1, "a2 b3 "), (1, "a4 b4 ")]));
        write(&mut history, &["a"]);
        write(&mut history, &["a", "c"]);
        assert_eq!(
            all_due(&mut watchers, &history),
            told(&[(0, "a5 a6 "), (1, "a5 a6 "), (2, "a6 "), (3, "c6 ")])
        );
        assert!(all_due(&mut watchers, &history).is_empty());
        assert_eq!(watchers.quiet(6), [0, 1, 2, 3]);
        assert!(watchers.remove(1) && !watchers.remove(1));
        write(&mut history, &["b"]);
        assert!(watchers.quiet(7).is_empty(), "it was not looked at yet");
        assert!(all_due(&mut watchers, &history).is_empty());
        assert_eq!(watchers.quiet(7), [0, 2, 3]);
    }

    #[test]
    fn a_watcher_that_has_not_seen_what_is_compacted_is_canceled_and_no_other() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        write(&mut history, &["a"]);
        let mut watchers = Watchers::new(2);
        for (id, next) in [(1, 1), (2, 3), (3, 12), (4, 2)] {
            watchers.insert(id, watcher("a", "b", next));
        }
        // As after a snapshot of the log.
        history.reset(Head { revision: 10, compacted: -1 });
        assert_eq!(
            all_due(&mut watchers, &history),
            told(&[(1, "compacted 11"), (2, "compacted 11"), (4, "compacted 11")])
        );
        write(&mut history, &["a"]);
        assert!(all_due(&mut watchers, &history).is_empty(), "it begins with the next one");
        write(&mut history, &["a"]);
        assert_eq!(all_due(&mut watchers, &history), told(&[(3, "a12 ")]));
        assert_eq!(watchers.count(), 1);
    }

    /// Within a revision there was no limit: of the deletion of 90,000 keys ten thousand watchers of all of them had 21 GB in memory.
    #[test]
    fn of_a_revision_with_too_many_pairs_each_watcher_is_given_its_own() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        let mut watchers = Watchers::new(1);
        for id in 1..=300 {
            watchers.insert(id, watcher("k", "l", 2));
        }
        watchers.insert(301, watcher("other", "", 2));
        watchers.insert(302, watcher("k", "l", 4));
        let keys: Vec<_> = (0..1_000).map(|number| format!("k{number:04}")).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        write(&mut history, &["k"]);
        write(&mut history, &keys);
        write(&mut history, &["k", "other"]);
        let mut given = BTreeMap::<i64, Vec<i64>>::new();
        while let Some(due) = watchers.take(&history) {
            let counts = due.iter().map(|due| match due {
                Due::Events(_, events) => events.len(),
                Due::Compacted(..) => panic!("{due:?}"),
            });
            assert!(counts.sum::<usize>() <= 2_000, "one after the other");
            for due in due {
                let Due::Events(id, events) = due else { panic!("{due:?}") };
                let revisions = events.iter().map(|(events, place)| events[*place].kv.mod_revision);
                given.entry(id).or_default().extend(revisions);
            }
        }
        let all: Vec<_> = [2].into_iter().chain([3; 1_000]).chain([4]).collect();
        assert!((1..=300).all(|id| given[&id] == all));
        assert_eq!((given[&301].as_slice(), given[&302].as_slice()), ([4].as_slice(), [4].as_slice()));
    }

    /// What was before counted for nothing: a watcher that asks for it was sent 60 MiB at a time.
    #[test]
    fn what_was_before_counts_for_who_is_told_of_it() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        let large = |revision| KeyValue {
            key: b"a".to_vec(),
            mod_revision: revision,
            value: vec![b'x'; BYTES_MAX],
            ..KeyValue::default()
        };
        for revision in 2..=4 {
            history.replaced(Replaced {
                key: b"a".to_vec(),
                now: None,
                before: Ok(Some(large(revision - 1))),
            });
            history.completed(Head { revision, compacted: -1 });
        }
        for (with_before, counts) in [(false, vec![3]), (true, vec![1, 1, 1])] {
            for position in [1, 4] {
                let mut watchers = Watchers::new(position);
                watchers.insert(1, Watcher { with_before, ..watcher("a", "", 2) });
                let taken = std::iter::from_fn(|| watchers.take(&history)).flatten();
                let given: Vec<_> = taken
                    .map(|due| match due {
                        Due::Events(_, events) => events.len(),
                        Due::Compacted(..) => panic!("{due:?}"),
                    })
                    .collect();
                assert_eq!(given, counts, "{with_before} {position}");
            }
        }
    }

    #[test]
    fn what_is_looked_at_and_given_at_a_time_has_a_limit() {
        let mut history = History::new(Head { revision: 1, compacted: -1 });
        let mut watchers = Watchers::new(1);
        watchers.insert(1, watcher("a", "", 2));
        for _ in 0..LOOKED_AT_MAX {
            write(&mut history, &["a"]);
        }
        for _ in 0..2 {
            let due = watchers.take(&history).expect("there is more");
            let [Due::Events(1, events)] = due.as_slice() else { panic!("{due:?}") };
            assert_eq!(events.len(), EVENTS_MAX);
        }
        while watchers.take(&history).is_some() {}
        watchers.insert(2, watcher("b", "", 2));
        let due = watchers.take(&history).expect("it looks");
        assert!(due.is_empty() && watchers.behind.contains(&2), "it has not looked at all: {due:?}");
        while watchers.take(&history).is_some_and(|due| due.is_empty()) {}
        assert!(watchers.behind.is_empty());
    }
}
