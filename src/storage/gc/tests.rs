//! Garbage, from a delete or an expiry to the removal.

mod reopening;
mod waking;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    expiry::{ANNOUNCED_MAX, announce},
    *,
};
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        protocol::replica::Swept,
        register::Register,
    },
    storage::{
        Environment, META, WallClock,
        changes::{Effect, Gone, Start, Subscription, Topic},
        engine::Engine,
        table::trees::{EXPIRED, EXPIRY, TOMBSTONES},
        tests::{
            Fixture, NOW_MS, close, deleted, effect, key, keys_in, merge, next, put, table, timestamp,
            wait_for_changes, wait_until, within_the_deadline,
        },
    },
};

const GRACE_MS: u64 = 1000;

fn counts(store: &Store) -> (u64, u64) {
    store.count_rows().expect("counts");
    store.tables().first().map(|(_, counts)| (counts.live, counts.tombstones)).unwrap_or_default()
}

fn watch(store: &Store, name: &str) -> Subscription {
    within_the_deadline(store.watch(vec![Topic::Key(table(), key(name))], Start::Now)).expect("watches")
}

pub(super) fn stop_sweeping(store: &Store) {
    wait_until("the first sweep is over", || !store.is_sweeping());
    store.0.context.jobs.send(GcJob::Stop).expect("the thread runs");
    let has_stopped = || {
        let threads = store.0.threads.lock().expect("nobody panicked");
        threads.iter().any(|thread| thread.thread().name() == Some("sweep") && thread.is_finished())
    };
    wait_until("the thread has stopped", has_stopped);
}

pub(super) fn swept(tombstones_ms: u64, expired_ms: u64) -> Swept {
    Swept { tombstones_ms, expired_ms }
}

/// Before a node sweeps to the floors of others it must know what they will remove.
#[test]
fn garbage_below_given_floors_is_listed_before_its_removal() {
    let fixture = Fixture::new();
    let store = fixture.open();
    stop_sweeping(&store);
    merge(&store, "deleted", deleted(NOW_MS));
    merge(&store, "deleted later", deleted(NOW_MS + 1));
    for (name, at_ms) in [("announced", NOW_MS + 5), ("unannounced", NOW_MS + 6), ("alive", NOW_MS + 7)] {
        merge(&store, name, put("1", Some(at_ms), 1));
    }
    merge(&store, "for ever", put("1", None, 1));
    fixture.now_ms.store(NOW_MS + 5, Ordering::SeqCst);
    assert_eq!(announce(&store), Ok(Turn::At(NOW_MS + 6)));
    fixture.now_ms.store(NOW_MS + 6, Ordering::SeqCst);
    let garbage = |swept| -> Vec<String> {
        let garbage = store.garbage(swept).expect("reads").into_iter().flat_map(|(_, keys)| keys);
        garbage.map(|key| key.as_str().to_owned()).collect()
    };
    assert!(garbage(swept(0, 0)).is_empty());
    assert_eq!(garbage(swept(NOW_MS, 0)), ["deleted"]);
    assert_eq!(garbage(swept(NOW_MS + 1, NOW_MS + 5)), ["deleted", "deleted later", "announced"]);
    assert_eq!(garbage(swept(0, NOW_MS + 6)), ["announced", "unannounced"]);
    close(store);
}

/// One row whose name is no key made a node that joined fail to learn of all others, for ever.
#[test]
fn garbage_with_an_invalid_key_hides_no_other_garbage() {
    let fixture = Fixture::new();
    let store = fixture.open();
    stop_sweeping(&store);
    let tombstones = store.with_engine(|engine| engine.tree(TOMBSTONES)).expect("is there");
    tombstones
        .insert(&crate::storage::table::due_index::entry(NOW_MS, &table(), &[0, 0xff]), &[])
        .expect("inserts");
    merge(&store, "deleted", deleted(NOW_MS));
    assert_eq!(store.garbage(swept(NOW_MS, 0)), Ok(vec![(table(), vec![key("deleted")])]));
    close(store);
}

/// Work beyond the first thousand rows waited for a sleep of one second per thousand.
#[test]
fn a_sweep_with_more_to_do_continues_at_once() {
    let fixture = Fixture::new();
    let store = fixture.open();
    stop_sweeping(&store);
    let at_ms = store.now_ms() + 1000;
    for number in 0..=SWEEP_ROWS_MAX {
        merge(&store, &number.to_string(), put("1", Some(at_ms), 1));
    }
    assert_eq!(announce(&store), Ok(Turn::At(at_ms)));
    fixture.now_ms.store(at_ms, Ordering::SeqCst);
    assert_eq!(announce(&store), Ok(Turn::Now));
    assert_eq!(store.counters().expired.value(), ANNOUNCED_MAX as u64);
    while announce(&store) == Ok(Turn::Now) {}
    assert_eq!(announce(&store), Ok(Turn::Later));
    assert_eq!(store.counters().expired.value(), SWEEP_ROWS_MAX as u64 + 1);
    assert_eq!(removal::remove(&store, true), Ok(Turn::Later));
    store.set_tombstone_grace(GRACE_MS);
    store.advance_floors(at_ms).expect("passes");
    assert_eq!(removal::remove(&store, true), Ok(Turn::Now));
    assert!(store.is_sweeping());
    assert_eq!(removal::remove(&store, true), Ok(Turn::Later));
    assert!(!store.is_sweeping());
    assert_eq!(counts(&store), (0, 0));
    close(store);
}

#[test]
fn a_tombstone_is_removed_once_the_floor_has_passed_it() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "old", deleted(NOW_MS + 5));
    merge(&store, "young", deleted(NOW_MS + 10_001));
    store.set_tombstone_grace(GRACE_MS);
    store.advance_floors(NOW_MS + 9_999 + GRACE_MS).expect("passes");
    assert_eq!(store.swept(), Swept::default(), "tombstones go in steps of ten seconds");
    store.set_tombstone_grace(GRACE_MS);
    store.advance_floors(NOW_MS + 10_000 + GRACE_MS).expect("passes");
    assert_eq!(store.swept(), swept(NOW_MS + 10_000, 0));
    wait_until("the sweep is over", || !store.is_sweeping());
    assert_eq!(counts(&store), (0, 1));
    assert_eq!(store.counters().tombstones_swept.value(), 1);
    close(store);
    assert_eq!(keys_in(&fixture.data(), TOMBSTONES), 1);
    let store = fixture.open();
    assert_eq!(store.swept(), swept(NOW_MS + 10_000, 0));
    assert_eq!(counts(&store), (0, 1));
    close(store);
}

#[test]
fn no_floor_is_raised_if_nothing_is_due() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "live", put("1", Some(NOW_MS + 100_000), 1));
    wait_until("the first sweep is over", || !store.is_sweeping());
    store.set_tombstone_grace(GRACE_MS);
    store.advance_floors(NOW_MS + 50_000).expect("passes");
    assert_eq!((store.swept(), store.is_sweeping()), (Swept::default(), false));
    close(store);
    let engine = Engine::open(&fixture.data(), 1024 * 1024).expect("the engine opens");
    let meta = engine.tree(META).expect("a tree");
    assert_eq!(read_swept(&meta), Ok(Swept::default()));
    assert_eq!(meta.get(b"swept"), Ok(None));
}

#[test]
fn floors_never_fall() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.sweep_to(swept(NOW_MS, 1));
    store.sweep_to(swept(1, NOW_MS));
    assert_eq!(store.swept(), swept(NOW_MS, NOW_MS));
    close(store);
}

#[test]
fn a_sweep_interrupted_by_a_crash_continues() {
    let fixture = Fixture::new();
    let store = fixture.open();
    stop_sweeping(&store);
    merge(&store, "a", deleted(NOW_MS));
    merge(&store, "b", deleted(NOW_MS));
    store.sweep_to(swept(NOW_MS, 0));
    store.durable_floors().expect("is kept");
    assert!(store.is_sweeping());
    close(store);
    let store = fixture.open();
    wait_until("the sweep is over", || !store.is_sweeping());
    assert_eq!((counts(&store), store.swept()), ((0, 0), swept(NOW_MS, 0)));
    close(store);
}

/// The tree of tombstones was damaged and rebuilt while the first start was still indexing them. Those indexed before were only in the
/// damaged tree, but the store counted as indexed, and they were never removed.
#[test]
fn an_index_that_is_made_anew_while_it_is_filled_is_filled_from_the_beginning() {
    const ROWS: usize = 500;
    let fixture = Fixture::new();
    let store = fixture.open();
    stop_sweeping(&store);
    (0..ROWS).for_each(|number| merge(&store, &number.to_string(), deleted(NOW_MS)));
    let tree = || store.with_engine(|engine| engine.tree(TOMBSTONES)).expect("is there");
    let meta = store.meta().expect("is there");
    meta.remove(reindex::INDEXED_KEY).expect("removes");
    let mut indexing = reindex::Indexing::default();
    (0..130).for_each(|_| assert_eq!(indexing.step(&store), Ok(Turn::Now)));
    tree().insert(b"no entry", &[]).expect("inserts");
    store.repair(crate::storage::table::jobs::RepairJob::Inspect(None), &mut Default::default());
    assert_eq!(tree().range(&[], None).count(), 0, "it was not made anew");
    while indexing.step(&store) != Ok(Turn::Later) {}
    assert!(indexing.is_done());
    assert_eq!(tree().range(&[], None).count(), ROWS);
    assert!(meta.get(reindex::INDEXED_KEY).expect("reads").is_some());
    close(store);
}

#[test]
fn a_rewritten_row_is_not_removed() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for name in ["put", "deleted"] {
        merge(&store, name, deleted(NOW_MS - 2));
    }
    merge(&store, "put", put("1", None, 1));
    merge(&store, "deleted", deleted(NOW_MS));
    store.sweep_to(swept(NOW_MS - 1, 0));
    wait_until("the sweep is over", || !store.is_sweeping());
    assert_eq!(counts(&store), (1, 1));
    close(store);
    assert_eq!(keys_in(&fixture.data(), TOMBSTONES), 1);
}

#[test]
fn a_late_tombstone_deletes_its_value_and_is_removed_by_the_next_sweep() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let old = Timestamp { hlc: (NOW_MS - 10) << 16, node: NodeId(1) };
    merge(&store, "k", Register::live(crate::core::json::Value::trusted("1".into()), None, old));
    store.sweep_to(swept(NOW_MS, 0));
    wait_until("the sweep is over", || !store.is_sweeping());
    merge(&store, "k", deleted(NOW_MS - 5));
    assert_eq!(removal::remove(&store, true), Ok(Turn::Later));
    assert_eq!(counts(&store), (0, 1));
    store.sweep_to(swept(NOW_MS + 1, 0));
    wait_until("the tombstone is gone", || counts(&store) == (0, 0));
    wait_until("the sweep is over", || !store.is_sweeping());
    close(store);
}

/// Subscribers are told once, at the instant; the row is removed when no replica needs it.
#[test]
fn an_expired_value_is_announced_once_and_removed_later() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let mut subscription = watch(&store, "k");
    merge(&store, "k", put("1", Some(NOW_MS + 10), 1));
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    fixture.now_ms.store(NOW_MS + 10, Ordering::SeqCst);
    assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Expired));
    drop(subscription);
    assert_eq!(counts(&store), (1, 0));
    store.set_tombstone_grace(GRACE_MS);
    store.advance_floors(NOW_MS + 9).expect("passes");
    assert_eq!(store.swept(), Swept::default());
    close(store);
    assert_eq!((keys_in(&fixture.data(), EXPIRY), keys_in(&fixture.data(), EXPIRED)), (0, 1));
    let store = fixture.open();
    stop_sweeping(&store);
    assert_eq!(announce(&store), Ok(Turn::Later));
    assert_eq!((store.counters().expired.value(), counts(&store).0), (0, 1));
    store.set_tombstone_grace(GRACE_MS);
    store.advance_floors(NOW_MS + 11).expect("passes");
    assert_eq!(store.swept(), swept(0, NOW_MS + 11));
    assert_eq!(removal::remove(&store, true), Ok(Turn::Later));
    assert_eq!(counts(&store), (0, 0));
    close(store);
    assert_eq!(keys_in(&fixture.data(), EXPIRED), 0);
}

#[test]
fn the_delete_of_a_value_whose_expiry_was_announced_is_not_announced() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let mut subscription = watch(&store, "k");
    merge(&store, "k", put("1", Some(NOW_MS + 10), 1));
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    fixture.now_ms.store(NOW_MS + 10, Ordering::SeqCst);
    assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Expired));
    merge(&store, "k", Register::deleted(timestamp(2)));
    merge(&store, "k", put("2", None, 3));
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    close(store);
    assert_eq!(keys_in(&fixture.data(), EXPIRED), 0);
}

/// Peers send expired values: to subscribers they end what they saw, and nothing else.
#[test]
fn a_value_that_arrives_expired_is_announced_only_if_it_replaces_another() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let mut subscription = watch(&store, "seen");
    merge(&store, "unseen", put("1", Some(NOW_MS - 10), 1));
    merge(&store, "seen", put("1", None, 1));
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    merge(&store, "seen", put("2", Some(NOW_MS - 10), 2));
    assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Expired));
    wait_for_changes(&store, 2);
    assert_eq!((store.counters().expired.value(), store.counters().changes.value()), (1, 2));
    store.set_tombstone_grace(GRACE_MS);
    store.advance_floors(NOW_MS).expect("passes");
    wait_until("both are gone", || counts(&store) == (0, 0));
    close(store);
}

/// When a row arrived that had already expired (a late one of a peer, an import), the worker announced its expiry at once, before the pump
/// had published the value that the row ended. The last thing subscribers heard was the value, and they kept it for ever.
#[test]
fn the_expiry_of_a_late_row_is_published_after_the_value_before_it() {
    let fixture = Fixture::new();
    let opened = Arc::new(OnceLock::<Store>::new());
    let (armed, came) = (AtomicBool::new(true), Arc::new(AtomicBool::new(false)));
    let clock: WallClock = {
        let (now_ms, opened, came) = (fixture.now_ms.clone(), opened.clone(), came.clone());
        Arc::new(move || {
            let is_pump = thread::current().name() == Some("pump");
            if is_pump
                && let Some(store) = opened.get()
                && armed.swap(false, Ordering::SeqCst)
            {
                // The pump is slow: the row is there before the value is published, and the worker has plenty of time to announce the
                // expiry.
                wait_until("the row comes", || came.load(Ordering::SeqCst));
                let end = Instant::now() + Duration::from_millis(300);
                while store.counters().expired.value() == 0 && Instant::now() < end {
                    thread::yield_now();
                }
            }
            now_ms.load(Ordering::SeqCst)
        })
    };
    let store = fixture.open_in(Environment::new(clock));
    let mut subscription = watch(&store, "k");
    assert!(opened.set(store.clone()).is_ok());
    merge(&store, "k", put("1", None, 1));
    merge(&store, "k", put("2", Some(NOW_MS - 10), 2));
    came.store(true, Ordering::SeqCst);
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Expired));
    close(store);
}

#[test]
fn the_tombstones_of_an_earlier_version_are_indexed_once() {
    const ROWS: u64 = 700;
    let fixture = Fixture::new();
    let store = fixture.open();
    for number in 0..ROWS {
        merge(&store, &number.to_string(), deleted(NOW_MS + number));
    }
    close(store);
    let engine = Engine::open(&fixture.data(), 1024 * 1024).expect("the engine opens");
    let index = engine.tree(TOMBSTONES).expect("a tree");
    for item in index.range(&[], None) {
        index.remove(&item.expect("reads").0).expect("removes");
    }
    engine.tree(META).expect("a tree").remove(b"tombstones-indexed").expect("removes");
    drop((index, engine));
    let store = fixture.open();
    // What is indexed after that counts as late.
    for written_ms in [NOW_MS + 98, NOW_MS + 99] {
        store.sweep_to(swept(written_ms, 0));
        wait_until("the sweep is over", || !store.is_sweeping());
    }
    assert_eq!(counts(&store).1, ROWS - 100);
    close(store);
    assert_eq!(keys_in(&fixture.data(), TOMBSTONES) as u64, ROWS - 100);
    let mut indexing = Indexing::default();
    let store = fixture.open();
    assert_eq!((indexing.step(&store), indexing.is_done()), (Ok(Turn::Now), true));
    close(store);
}
