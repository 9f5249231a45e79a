//! Watchers at their place in the history of this node: those of one stream of a client, or the one of a call that waits. Nothing is queued for them,
//! and the node does nothing for them until something comes that one of them wants.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    core::etcd::{
        request::Keys,
        watchers::{Due, Watcher, Watchers},
    },
    replication::strong::{listeners, revisions::Revisions},
};

/// Watchers at their place in the history.
pub struct WatchStream {
    revisions: Arc<Revisions>,
    listener: listeners::Id,
    wake: Arc<Notify>,
    watchers: Watchers,
}

impl WatchStream {
    /// Without watchers, at the end of the history; `None` if this node keeps none.
    pub fn open(revisions: Arc<Revisions>) -> Option<Self> {
        let (listener, wake, revision) = {
            let mut watched = revisions.history()?;
            let (listener, wake) = watched.listeners.open();
            (listener, wake, watched.head().revision)
        };
        Some(Self { revisions, listener, wake, watchers: Watchers::new(revision) })
    }

    /// How many watchers there are.
    pub fn count(&self) -> usize {
        self.watchers.count()
    }

    /// One of them.
    pub fn get_mut(&mut self, id: i64) -> Option<&mut Watcher> {
        self.watchers.get_mut(id)
    }

    /// An id that is free: this one, or any if it is 0. `None` if it is not.
    pub fn free_id(&mut self, wanted: i64) -> Option<i64> {
        self.watchers.free_id(wanted)
    }

    /// The newest revision in the history.
    pub fn revision(&self) -> i64 {
        self.revisions.history().map_or(0, |watched| watched.head().revision)
    }

    /// Adds a watcher, with an id that is free. Call [`Self::take`] before [`Self::woken`] then.
    pub fn insert(&mut self, id: i64, watcher: Watcher) {
        self.look();
        self.listen(id, watcher.keys.clone());
        self.watchers.insert(id, watcher);
    }

    /// Removes a watcher. Returns whether it was there.
    pub fn remove(&mut self, id: i64) -> bool {
        let is_there = self.watchers.remove(id);
        if is_there {
            self.unlisten(id);
        }
        is_there
    }

    /// Those that want to be told of their progress and were sent nothing since the last time, and have seen all up to a revision. Call [`Self::take`]
    /// before [`Self::woken`] then.
    pub fn quiet(&mut self, revision: i64) -> Vec<i64> {
        self.look();
        self.watchers.quiet(revision)
    }

    /// What is to be told next, and the newest revision in the history. There may be more although nothing is told; if it is `None`, there is nothing
    /// more before [`Self::woken`].
    pub fn take(&mut self) -> (Option<Vec<Due>>, i64) {
        let (due, revision) = {
            let Some(mut watched) = self.revisions.history() else { return (None, 0) };
            let revision = watched.head().revision;
            if let Some(from) = watched.listeners.look(self.listener, revision) {
                self.watchers.skip_to(from);
            }
            let due = self.watchers.take(&watched);
            if due.is_none() {
                watched.listeners.rest(self.listener);
            }
            (due, revision)
        };
        for due in due.iter().flatten() {
            if let Due::Compacted(id, _) = due {
                self.unlisten(*id);
            }
        }
        (due, revision)
    }

    /// Returns once there may be something to take, after there was nothing more.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn look(&mut self) {
        let Some(mut watched) = self.revisions.history() else { return };
        let revision = watched.head().revision;
        if let Some(from) = watched.listeners.look(self.listener, revision) {
            self.watchers.skip_to(from);
        }
    }

    fn listen(&self, id: i64, keys: Keys) {
        if let Some(mut watched) = self.revisions.history() {
            watched.listeners.insert(self.listener, id, keys);
        }
    }

    fn unlisten(&self, id: i64) {
        if let Some(mut watched) = self.revisions.history() {
            watched.listeners.remove(self.listener, id);
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        if let Some(mut watched) = self.revisions.history() {
            watched.listeners.close(self.listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::core::etcd::{
        history::{History, Replaced},
        request::KeyValue,
        row::Head,
    };

    fn revisions() -> Arc<Revisions> {
        Arc::new(Revisions::new(true))
    }

    fn change(revisions: &Arc<Revisions>, change: impl FnOnce(&mut History)) {
        revisions.history().expect("it keeps one").change(change);
    }

    fn write(revisions: &Arc<Revisions>, keys: &[&str]) {
        change(revisions, |history| {
            let revision = history.head().revision + 1;
            for key in keys {
                let kv = KeyValue { key: (*key).into(), mod_revision: revision, ..KeyValue::default() };
                history.replaced(Replaced { key: (*key).into(), now: Some(kv), before: Ok(None) });
            }
            history.completed(Head { revision, ..history.head() });
        });
    }

    fn compact(revisions: &Arc<Revisions>) {
        change(revisions, |history| {
            let revision = history.head().revision;
            history.completed(Head { revision, compacted: revision });
        });
    }

    fn open(revisions: &Arc<Revisions>) -> WatchStream {
        WatchStream::open(revisions.clone()).expect("it keeps a history")
    }

    fn watch(stream: &mut WatchStream, low: &str, end: &str, next: i64) -> i64 {
        let id = stream.free_id(0).expect("is free");
        let watcher = Watcher {
            keys: Keys::new(low.into(), end.into()),
            next,
            with_before: false,
            puts: true,
            deletes: true,
            fragments: false,
            wants_progress: true,
            is_quiet: true,
        };
        stream.insert(id, watcher);
        id
    }

    /// What it is told until there is nothing more: the watcher, and the key and revision of each event, or that it is compacted.
    fn told(stream: &mut WatchStream) -> Vec<(i64, String)> {
        let mut told = Vec::new();
        while let (Some(due), _) = stream.take() {
            for due in due {
                match due {
                    Due::Events(id, places) => told.extend(places.iter().map(|(events, place)| {
                        let kv = &events[*place].kv;
                        (id, format!("{}{}", String::from_utf8_lossy(&kv.key), kv.mod_revision))
                    })),
                    Due::Compacted(id, first) => told.push((id, format!("compacted {first}"))),
                }
            }
        }
        told
    }

    fn is_woken(stream: &WatchStream) -> bool {
        stream.woken().now_or_never().is_some()
    }

    /// Each write woke every stream, whatever it watched.
    #[test]
    fn a_stream_is_woken_for_what_it_watches_and_for_nothing_else() {
        let revisions = revisions();
        let mut streams: Vec<_> = (0..3).map(|_| open(&revisions)).collect();
        for (stream, (low, end)) in streams.iter_mut().zip([("a", ""), ("b", ""), ("a", "c")]) {
            watch(stream, low, end, 2);
            assert!(told(stream).is_empty());
        }
        write(&revisions, &["b"]);
        write(&revisions, &["a"]);
        write(&revisions, &["z"]);
        assert_eq!(streams.iter().map(is_woken).collect::<Vec<_>>(), [true, true, true]);
        let all: Vec<_> = streams.iter_mut().map(|stream| told(stream)).collect();
        let expected: [&[&str]; 3] = [&["a3"], &["b2"], &["b2", "a3"]];
        for (told, expected) in all.iter().zip(expected) {
            assert_eq!(told.iter().map(|(_, event)| event.as_str()).collect::<Vec<_>>(), expected);
        }
        write(&revisions, &["a"]);
        assert_eq!(streams.iter().map(is_woken).collect::<Vec<_>>(), [true, false, true]);
        write(&revisions, &["a"]);
        assert!(!is_woken(&streams[0]), "it was woken before, and has not looked yet");
        assert_eq!(told(&mut streams[0]), [(0, "a5".into()), (0, "a6".into())]);
    }

    #[test]
    fn what_nobody_wanted_may_be_compacted_before_a_stream_has_looked() {
        let revisions = revisions();
        let mut stream = open(&revisions);
        watch(&mut stream, "a", "", 2);
        assert!(told(&mut stream).is_empty());
        for _ in 0..3 {
            write(&revisions, &["b"]);
            compact(&revisions);
        }
        assert!(!is_woken(&stream));
        let next = stream.revision() + 1;
        let later = watch(&mut stream, "b", "", next);
        assert!(told(&mut stream).is_empty(), "none is canceled");
        assert_eq!(stream.quiet(4), [0, later]);
        write(&revisions, &["b"]);
        write(&revisions, &["a"]);
        assert_eq!(told(&mut stream), [(0, "a6".into()), (later, "b5".into())]);
        // What it was woken for is compacted, and what came after.
        write(&revisions, &["a"]);
        write(&revisions, &["a"]);
        compact(&revisions);
        assert_eq!(told(&mut stream), [(0, "compacted 8".into()), (later, "compacted 8".into())]);
    }

    #[test]
    fn all_are_woken_where_the_history_begins_anew() {
        let anew: [fn(&mut History); 3] = [
            |history| history.reset(Head { revision: 9, compacted: -1 }),
            |history| history.head_deleted(),
            |history| {
                history.damaged();
                history.completed(Head { revision: 3, compacted: -1 });
            },
        ];
        for anew in anew {
            let revisions = revisions();
            let mut stream = open(&revisions);
            watch(&mut stream, "a", "", 2);
            assert!(told(&mut stream).is_empty());
            write(&revisions, &["b"]);
            assert!(!is_woken(&stream));
            change(&revisions, anew);
            assert!(is_woken(&stream));
            let first = revisions.history().expect("it keeps one").first();
            assert_eq!(told(&mut stream), [(0, format!("compacted {first}"))]);
            assert_eq!(stream.count(), 0);
        }
    }

    #[test]
    fn a_revision_of_very_many_keys_wakes_all() {
        let revisions = revisions();
        let keys: Vec<_> = (0..10_000).map(|number| format!("k{number}")).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        let mut stream = open(&revisions);
        watch(&mut stream, "a", "", 2);
        assert!(told(&mut stream).is_empty());
        write(&revisions, &keys);
        assert!(!is_woken(&stream), "all of them were looked at");
        let of_all: Vec<_> = (0..2)
            .map(|_| {
                let mut stream = open(&revisions);
                watch(&mut stream, "k", "l", 3);
                assert!(told(&mut stream).is_empty());
                stream
            })
            .collect();
        write(&revisions, &keys);
        assert!(of_all.iter().chain([&stream]).all(is_woken));
        assert!(told(&mut stream).is_empty());
        drop(of_all);
        write(&revisions, &keys);
        assert!(!is_woken(&stream), "streams that ended want nothing");
    }

    /// What streams are told that look only when they are woken: the stream, the watcher, and the event.
    #[derive(Default)]
    struct Told(Vec<(usize, (i64, String))>);

    impl Told {
        fn look(&mut self, place: usize, stream: &mut WatchStream) {
            self.0.extend(told(stream).into_iter().map(|told| (place, told)));
        }

        fn look_if_woken(&mut self, streams: &mut [WatchStream]) {
            for (place, stream) in streams.iter_mut().enumerate().filter(|(_, stream)| is_woken(stream)) {
                self.look(place, stream);
            }
        }
    }

    proptest! {
        /// With random writes, compactions and watchers, each watcher is told all that it wants, and once.
        #[test]
        fn streams_that_look_when_they_are_woken_miss_nothing(
            steps in vec((0..8_u8, 0..3_usize, 0..5_usize), 0..60)
        ) {
            const KEYS: [&str; 5] = ["a", "ab", "b", "c", "d"];
            const RANGES: [(&str, &str); 5] = [("a", ""), ("a", "b"), ("ab", "c"), ("b", ""), ("\0", "\0")];
            let revisions = revisions();
            let mut streams: Vec<_> = (0..3).map(|_| open(&revisions)).collect();
            let (mut given, mut wanted) = (Told::default(), Vec::new());
            let mut watched: Vec<(usize, i64, Keys)> = Vec::new();
            streams.iter_mut().enumerate().for_each(|(place, stream)| given.look(place, stream));
            for (step, place, choice) in steps {
                match step {
                    0 | 1 => {
                        let (low, end) = RANGES[choice];
                        let next = streams[place].revision() + 1;
                        let id = watch(&mut streams[place], low, end, next);
                        watched.push((place, id, Keys::new(low.into(), end.into())));
                        given.look(place, &mut streams[place]);
                    }
                    2 if !watched.is_empty() => {
                        let (place, id, _) = watched.swap_remove(choice % watched.len());
                        given.look(place, &mut streams[place]);
                        prop_assert!(streams[place].remove(id));
                    }
                    3 => {
                        given.look_if_woken(&mut streams);
                        compact(&revisions);
                    }
                    4 => given.look_if_woken(&mut streams[..=place]),
                    _ => {
                        let key = KEYS[choice];
                        write(&revisions, &[key]);
                        let revision = streams[0].revision();
                        let those = watched.iter().filter(|(.., keys)| keys.contains(key.as_bytes()));
                        wanted.extend(those.map(|(place, id, _)| (*place, (*id, format!("{key}{revision}")))));
                    }
                }
            }
            given.look_if_woken(&mut streams);
            given.0.sort();
            wanted.sort();
            prop_assert_eq!(given.0, wanted);
        }
    }
}
