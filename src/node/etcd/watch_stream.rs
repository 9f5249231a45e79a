//! Watchers at their place in the history of this node: those of one stream of a client, or the one of a call that waits. Nothing is queued for them,
//! and the node does nothing for them until something comes that one of them wants.

use std::{mem, sync::Arc};

use tokio::sync::Notify;

use crate::{
    core::etcd::watchers::{Due, Watcher, Watchers},
    replication::strong::{
        listeners::{From, Id, Watched},
        revisions::Revisions,
    },
};

/// Watchers at their place in the history.
pub struct WatchStream {
    revisions: Arc<Revisions>,
    listener: Id,
    wake: Arc<Notify>,
    watchers: Watchers,
    /// Watchers that are canceled, and were not told yet.
    canceled: Vec<Due>,
}

impl WatchStream {
    /// Without watchers, at the end of the history; `None` if this node keeps none.
    pub fn open(revisions: Arc<Revisions>) -> Option<Self> {
        let (listener, wake, revision) = {
            let mut watched = revisions.history()?;
            let (listener, wake) = watched.listeners.open();
            (listener, wake, watched.head().revision)
        };
        Some(Self { revisions, listener, wake, watchers: Watchers::new(revision), canceled: Vec::new() })
    }

    /// How many watchers there are.
    pub fn count(&self) -> usize {
        self.watchers.count()
    }

    /// How many there are on this node, of all streams.
    pub fn count_of_node(&self) -> usize {
        self.revisions.history().map_or(0, |watched| watched.listeners.watchers())
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

    /// Whether a watcher is canceled, and was not told yet.
    pub fn is_canceled(&self, id: i64) -> bool {
        self.canceled.iter().any(|due| due.id() == id)
    }

    /// Adds a watcher, with an id that is free. Call [`Self::take`] before [`Self::woken`] then.
    pub fn insert(&mut self, id: i64, watcher: Watcher) {
        // If the history has begun anew since the caller looked, its next revision may be one of those before.
        if let Some((last, newest)) = self.look()
            && (newest + 2..=last + 1).contains(&watcher.next)
        {
            self.canceled.push(Due::Compacted(id, newest + 1));
            return;
        }
        if let Some(mut watched) = self.revisions.history() {
            watched.listeners.insert(self.listener, id, watcher.keys.clone());
        }
        self.watchers.insert(id, watcher);
    }

    /// Removes a watcher. Returns whether it was there, or was canceled and not told yet.
    pub fn remove(&mut self, id: i64) -> bool {
        if self.is_canceled(id) {
            self.canceled.retain(|due| due.id() != id);
            return true;
        }
        let is_there = self.watchers.remove(id);
        if let Some(mut watched) = self.revisions.history().filter(|_| is_there) {
            watched.listeners.remove(self.listener, id);
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
        // In one step: nothing may come between the look and the rest.
        let Some(mut watched) = self.revisions.history() else { return (None, 0) };
        let revision = watched.head().revision;
        look(&mut watched, self.listener, &mut self.watchers, &mut self.canceled);
        if !self.canceled.is_empty() {
            return (Some(mem::take(&mut self.canceled)), revision);
        }
        let due = self.watchers.take(&watched);
        if due.is_none() {
            watched.listeners.rest(self.listener);
        }
        unlisten(&mut watched, self.listener, due.iter().flatten());
        (due, revision)
    }

    /// Returns once there may be something to take, after there was nothing more.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn look(&mut self) -> Option<(i64, i64)> {
        let mut watched = self.revisions.history()?;
        look(&mut watched, self.listener, &mut self.watchers, &mut self.canceled)
    }
}

/// Brings watchers to where there may be something for them. Returns up to where the history went and where it goes to now, if it has begun anew.
fn look(
    watched: &mut Watched,
    listener: Id,
    watchers: &mut Watchers,
    canceled: &mut Vec<Due>,
) -> Option<(i64, i64)> {
    let newest = watched.head().revision;
    match watched.listeners.look(listener, newest) {
        From::Here => {}
        From::Revision(from) => watchers.skip_to(from),
        From::Anew(last) => {
            let overtaken = watchers.begin_anew(last, newest);
            unlisten(watched, listener, &overtaken);
            canceled.extend(overtaken);
            return Some((last, newest));
        }
    }
    None
}

fn unlisten<'a>(watched: &mut Watched, listener: Id, due: impl IntoIterator<Item = &'a Due>) {
    for due in due {
        if let Due::Compacted(id, _) = due {
            watched.listeners.remove(listener, *id);
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
        request::{KeyValue, Keys},
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
        let keys = Keys::new(low.into(), end.into());
        let watcher = Watcher { wants_progress: true, ..Watcher::new(keys, next) };
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
        let all: Vec<_> = streams.iter_mut().map(told).collect();
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

    /// What was told then were the revisions of the new history, as if they followed those of the old one.
    #[test]
    fn a_history_that_begins_anew_and_goes_on_before_a_stream_looks_cancels_its_watchers() {
        for is_resting in [true, false] {
            let revisions = revisions();
            let mut stream = open(&revisions);
            watch(&mut stream, "a", "", 2);
            assert!(told(&mut stream).is_empty());
            write(&revisions, &["a"]);
            write(&revisions, &["b"]);
            if is_resting {
                assert_eq!(told(&mut stream), [(0, "a2".into())]);
            }
            write(&revisions, &["b"]);
            write(&revisions, &["b"]);
            let to_come = watch(&mut stream, "a", "", 9);
            change(&revisions, History::head_deleted);
            for revision in 2..=4 {
                change(&revisions, |history| {
                    let kv = KeyValue { key: b"a".to_vec(), mod_revision: revision, ..KeyValue::default() };
                    history.replaced(Replaced { key: b"a".to_vec(), now: Some(kv), before: Ok(None) });
                    history.completed(Head { revision, compacted: -1 });
                });
            }
            // One whose revision was found before, and that comes after.
            let late = watch(&mut stream, "a", "", 6);
            let new = watch(&mut stream, "a", "", 5);
            assert!(stream.is_canceled(late) && stream.remove(late) && !stream.remove(late));
            assert_eq!(told(&mut stream), [(0, "compacted 5".into())], "{is_resting}");
            write(&revisions, &["a"]);
            assert!(is_woken(&stream));
            assert_eq!(told(&mut stream), [(new, "a5".into())], "{is_resting}");
            assert!(stream.remove(to_come), "it waits for a revision that will come");
        }
    }

    /// With ranges that are no prefixes each is looked at, and streams do that in turn, where nothing waits for them.
    #[test]
    fn a_change_wakes_all_where_more_ranges_are_watched_than_can_be_looked_at() {
        let revisions = revisions();
        let mut streams: Vec<_> = (0..2).map(|_| open(&revisions)).collect();
        for (stream, count) in streams.iter_mut().zip([6_000, 3_000]) {
            (0..count).for_each(|_| _ = watch(stream, "a", "c", 2));
            assert!(told(stream).is_empty());
        }
        write(&revisions, &["x"]);
        assert!(!streams.iter().any(is_woken));
        (0..2_000).for_each(|_| _ = watch(&mut streams[1], "a", "c", 3));
        assert!(told(&mut streams[1]).is_empty());
        write(&revisions, &["x"]);
        assert!(streams.iter().all(is_woken));
    }

    #[test]
    fn a_revision_of_very_many_keys_wakes_all() {
        let revisions = revisions();
        let keys: Vec<_> = (0..4_000).map(|number| format!("k{number}")).collect();
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
