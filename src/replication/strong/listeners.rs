//! Who waits for changes of the table of the etcd API. A listener is one stream of a client with all of its watchers, and it is woken for what one of
//! them wants, and not for every write to the table: a thousand streams that each watch a key of their own cost a writer as much as one.
//!
//! A listener that was woken is left alone until it has looked at all there is and *rests* again. Where it has to look from then on is noted when
//! it is woken. What came before is nothing to it, and may be compacted without its having looked.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    ops::Deref,
    sync::Arc,
};

use tokio::sync::Notify;

use crate::core::etcd::{
    history::{Event, History},
    index::Index,
    request::Keys,
};

/// Most places in the index and watchers that are looked at for one revision, because nothing is applied meanwhile. Of one with more, as when a prefix
/// with very many keys is deleted, all listeners are woken.
const LOOKED_AT_MAX: usize = 10_000;

/// The history of the table, and who waits for what comes there.
#[derive(Debug)]
pub struct Watched {
    history: History,
    /// Those who wait.
    pub listeners: Listeners,
}

impl Watched {
    /// Nobody waits yet.
    pub fn new(history: History) -> Self {
        Self { history, listeners: Listeners::default() }
    }

    /// Changes the history, and wakes those that want what came.
    pub fn change(&mut self, change: impl FnOnce(&mut History)) {
        let before = self.history.head().revision;
        change(&mut self.history);
        self.listeners.wake(before, &self.history);
    }
}

impl Deref for Watched {
    type Target = History;

    fn deref(&self) -> &History {
        &self.history
    }
}

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// The listeners of a node.
#[derive(Debug, Default)]
pub struct Listeners {
    all: HashMap<Id, Listener>,
    /// What they listen to: a listener, and its watcher.
    index: Index<(Id, i64)>,
    next: u64,
    /// How many watchers they have together.
    watchers: usize,
}

#[derive(Debug)]
struct Listener {
    place: Place,
    wake: Arc<Notify>,
    /// What its watchers want.
    watchers: BTreeMap<i64, Keys>,
}

/// Where a listener is in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has seen all that it wants.
    Resting,
    /// It was woken for what came at this revision, and has not looked yet.
    Woken(i64),
    /// It looks through the history, and goes on until it has seen all.
    Looking,
    /// The history has begun anew, and went up to this revision before.
    Overtaken(i64),
}

/// From where on a listener has to look through the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From where it is.
    Here,
    /// Nothing that came before this revision is wanted.
    Revision(i64),
    /// From the end: the history has begun anew, and the revisions up to this one, which was its last, are others now.
    Anew(i64),
}

impl Listeners {
    /// Adds one that looks through the history, and what wakes it.
    pub fn open(&mut self) -> (Id, Arc<Notify>) {
        let (id, wake) = (Id(self.next), Arc::new(Notify::new()));
        self.next += 1;
        let listener = Listener { place: Place::Looking, wake: wake.clone(), watchers: BTreeMap::new() };
        self.all.insert(id, listener);
        (id, wake)
    }

    /// Removes one with all of its watchers.
    pub fn close(&mut self, id: Id) {
        let Some(listener) = self.all.remove(&id) else { return };
        self.watchers -= listener.watchers.len();
        for (watcher, keys) in listener.watchers {
            self.index.remove((id, watcher), &keys);
        }
    }

    /// A listener that is looking has a new watcher of keys, whose number is free.
    pub fn insert(&mut self, id: Id, watcher: i64, keys: Keys) {
        if let Some(listener) = self.all.get_mut(&id) {
            self.index.insert((id, watcher), &keys);
            listener.watchers.insert(watcher, keys);
            self.watchers += 1;
        }
    }

    /// A listener has one watcher less.
    pub fn remove(&mut self, id: Id, watcher: i64) {
        if let Some(keys) = self.all.get_mut(&id).and_then(|listener| listener.watchers.remove(&watcher)) {
            self.index.remove((id, watcher), &keys);
            self.watchers -= 1;
        }
    }

    /// How many watchers they have together.
    pub fn watchers(&self) -> usize {
        self.watchers
    }

    /// A listener looks through the history, which goes up to `newest`, until it says that it rests.
    pub fn look(&mut self, id: Id, newest: i64) -> From {
        let Some(listener) = self.all.get_mut(&id) else { return From::Here };
        match mem::replace(&mut listener.place, Place::Looking) {
            Place::Resting => From::Revision(newest + 1),
            Place::Woken(revision) => From::Revision(revision),
            Place::Looking => From::Here,
            Place::Overtaken(last) => From::Anew(last),
        }
    }

    /// A listener has seen all there is.
    pub fn rest(&mut self, id: Id) {
        if let Some(listener) = self.all.get_mut(&id) {
            listener.place = Place::Resting;
        }
    }

    /// Wakes those that want what came to the history, which went up to `before`.
    fn wake(&mut self, before: i64, history: &History) {
        let newest = history.head().revision;
        if newest < before {
            return self.overtake_all(before);
        }
        for revision in before + 1..=newest {
            let Ok(Some(events)) = history.events(revision) else { return self.wake_all(before + 1) };
            if !self.wake_for(revision, events) {
                self.wake_all(revision);
            }
        }
    }

    /// Wakes those that want events of a revision. Returns false if there is too much to look at.
    fn wake_for(&mut self, revision: i64, events: &[Event]) -> bool {
        let mut looked_at = 0;
        for event in events {
            looked_at += self.index.looks();
            if looked_at > LOOKED_AT_MAX {
                return false;
            }
            for (id, _) in self.index.of(&event.kv.key) {
                looked_at += 1;
                if looked_at > LOOKED_AT_MAX {
                    return false;
                }
                if let Some(listener) = self.all.get_mut(&id) {
                    listener.wake(revision);
                }
            }
        }
        true
    }

    fn overtake_all(&mut self, last: i64) {
        for listener in self.all.values_mut() {
            let last = if let Place::Overtaken(earlier) = listener.place { earlier.max(last) } else { last };
            if mem::replace(&mut listener.place, Place::Overtaken(last)) == Place::Resting {
                listener.wake.notify_one();
            }
        }
    }

    fn wake_all(&mut self, revision: i64) {
        self.all.values_mut().for_each(|listener| listener.wake(revision));
    }
}

impl Listener {
    fn wake(&mut self, revision: i64) {
        if self.place == Place::Resting {
            self.place = Place::Woken(revision);
            self.wake.notify_one();
        }
    }
}
