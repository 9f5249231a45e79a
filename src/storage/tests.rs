//! Regression tests of a whole store, and helpers for the tests of its modules.
mod hot;

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::StreamExt;

use super::{
    changes::{Effect, Gone, Notice, hub::Joined},
    table::merge::Existing,
    *,
};
use crate::core::{clock::Timestamp, json::Value, register::Register};

pub(super) const NOW_MS: u64 = 1_700_000_000_000;
/// Far longer than anything takes.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// A store in its own temporary directory, with a wall clock that the test sets.
pub(crate) struct Fixture {
    directory: tempfile::TempDir,
    pub(super) now_ms: Arc<AtomicU64>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory, now_ms: Arc::new(AtomicU64::new(NOW_MS)) }
    }

    pub(super) fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("storage.db")
    }

    pub(super) fn clock(&self) -> WallClock {
        let now_ms = self.now_ms.clone();
        Arc::new(move || now_ms.load(Ordering::SeqCst))
    }

    pub(crate) fn open(&self) -> Store {
        self.open_in(Environment::new(self.clock()))
    }

    pub(super) fn open_in(&self, environment: Environment) -> Store {
        Store::open(Options {
            data: self.data(),
            durability: Durability::None,
            cache_bytes: 16 * 1024 * 1024,
            buffers: Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 10,
            subscriptions_max: 10,
            set_aside_damaged: false,
            peers: Default::default(),
            environment,
        })
        .expect("the store opens")
    }
}

pub(crate) fn table() -> TableName {
    TableName::parse("t").expect("a table name")
}

pub(crate) fn key(text: &str) -> Key {
    Key::parse(text).expect("a key")
}

pub(crate) fn put(value: &str, expires_at_ms: Option<u64>, counter: u64) -> Register {
    Register::live(Value::trusted(value.to_owned()), expires_at_ms, timestamp(counter))
}

pub(super) fn timestamp(counter: u64) -> Timestamp {
    Timestamp { hlc: (NOW_MS << 16) + counter, node: NodeId(1) }
}

/// A tombstone written at an instant (Unix milliseconds).
pub(super) fn deleted(at_ms: u64) -> Register {
    Register::deleted(Timestamp { hlc: at_ms << 16, node: NodeId(1) })
}

/// Merges a register into the table of the tests.
pub(super) fn merge(store: &Store, name: &str, register: Register) {
    store.merge(&table(), &key(name), |_| Ok(register)).expect("merges");
}

/// Writes rows of which no two are alike, named by their numbers.
pub(super) fn write_rows(store: &Store, rows: u64) {
    for number in 0..rows {
        let value = format!("\"{}\"", blake3::hash(&number.to_be_bytes()).to_hex());
        merge(store, &number.to_string(), put(&value, None, number));
    }
}

/// Closes a store and releases its directory.
pub(crate) fn close(store: Store) {
    store.close().expect("closes");
}

/// JSON text that no codec shortens much.
pub(super) fn long_value(bytes: usize) -> String {
    let mut noise = String::from("\"");
    let mut hash = blake3::hash(b"noise");
    while noise.len() < bytes {
        noise.push_str(&hash.to_hex());
        hash = blake3::hash(hash.as_bytes());
    }
    noise + "\""
}

/// Waits until `is_so` returns true.
pub(super) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "not within the deadline: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Number of keys in a tree of a closed store.
pub(super) fn keys_in(data: &Path, tree: &str) -> usize {
    let engine = Engine::open(data, 1024 * 1024).expect("the engine opens");
    engine.tree(tree).expect("a tree").range(&[], None).count()
}

pub(super) fn within_the_deadline<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await }).expect("within the deadline")
}

pub(super) fn next(subscription: &mut Subscription) -> Notice {
    within_the_deadline(subscription.next()).expect("the subscription goes on")
}

pub(super) fn effect(notice: Notice) -> Effect {
    match notice {
        Notice::Change(change) => change.effect.clone(),
        notice => panic!("no change: {notice:?}"),
    }
}

pub(super) fn wait_for_changes(store: &Store, count: u64) {
    while store.counters().changes.value() < count {
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// The checksum of a row does not cover chunks, and nothing else did: a flipped byte in a chunk came back as a value.
#[test]
fn a_flipped_byte_of_a_long_value_is_an_error() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.merge(&table(), &key("k"), |_| Ok(put(&long_value(40_000), None, 1))).expect("merges");
    close(store);
    let engine = Engine::open(&fixture.data(), 1024 * 1024).expect("the engine opens");
    let chunks = engine.tree("chunks/t").expect("a tree");
    let (name, chunk) = chunks.range(&[], None).next().expect("a chunk").expect("reads");
    let mut flipped = chunk.to_vec();
    // Both are hexadecimal letters, so that the text stays text.
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    chunks.insert(&name, &flipped).expect("inserts");
    drop((chunks, engine));
    let store = fixture.open();
    assert!(matches!(store.get(&table(), &key("k")), Err(Error::Corrupt(_))));
    let page = store.rows(&table(), &Range::default(), 10).expect("lists");
    assert!(page.rows.is_empty() && page.incomplete);
    close(store);
}

/// The chunks of the writes before the failing one stayed for ever, and nobody could see them.
#[test]
fn a_batch_that_fails_leaves_no_chunks() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let long = put(&long_value(40_000), None, 1);
    store.merge(&table(), &key("kept"), |_| Ok(long)).expect("merges");
    close(store);
    let chunks = keys_in(&fixture.data(), "chunks/t");
    let store = fixture.open();
    let replacement = put(&long_value(40_000), None, 2);
    let writes: Vec<_> = [Ok(replacement.clone()), Ok(replacement), Err(Error::MissingValue)]
        .into_iter()
        .zip(["kept", "new", "wrong"])
        .map(|(register, name)| (key(name), move |_: Option<&Existing<'_>>| register))
        .collect();
    assert_eq!(store.merge_all(&table(), writes), Err(Error::MissingValue));
    let value = store.get(&table(), &key("kept")).expect("reads").expect("is there").value;
    assert_eq!(value.as_str(), long_value(40_000));
    close(store);
    assert_eq!(keys_in(&fixture.data(), "chunks/t"), chunks);
}

/// A tombstone over a value that had expired but was not removed yet was taken for one that replaces nothing: subscribers that had seen the
/// value were never told of its end.
#[test]
fn the_delete_of_an_expired_value_is_announced() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let mut subscription =
        within_the_deadline(store.watch(vec![Topic::Key(table(), key("k"))], Start::Now)).expect("watches");
    store.merge(&table(), &key("k"), |_| Ok(put("1", Some(NOW_MS + 1000), 1))).expect("merges");
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    let delete = |_: Option<&Existing<'_>>| {
        // Under the row's lock, so that the worker cannot come first.
        fixture.now_ms.store(NOW_MS + 1000, Ordering::SeqCst);
        Ok(Register::deleted(timestamp(2)))
    };
    store.merge(&table(), &key("k"), delete).expect("merges");
    assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Deleted));
    close(store);
}

/// The second tombstone replaced only the first, which nobody was told of either.
#[test]
fn a_value_deleted_twice_in_a_batch_is_announced() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let mut subscription =
        within_the_deadline(store.watch(vec![Topic::Key(table(), key("k"))], Start::Now)).expect("watches");
    store.merge(&table(), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    let deletes = [2, 3]
        .map(|counter| (key("k"), move |_: Option<&Existing<'_>>| Ok(Register::deleted(timestamp(counter)))));
    store.merge_all(&table(), deletes.into()).expect("merges");
    assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Deleted));
    close(store);
}

/// The pump found a value visible, but the worker announced its expiry first: subscribers kept the value. Now the worker waits for the
/// pump.
#[test]
fn the_expiry_of_a_value_is_published_after_the_value() {
    let fixture = Fixture::new();
    let (armed, opened) = (Arc::new(AtomicBool::new(true)), Arc::new(OnceLock::<Store>::new()));
    let clock: WallClock = {
        let (now_ms, armed, opened) = (fixture.now_ms.clone(), armed.clone(), opened.clone());
        Arc::new(move || {
            let before = now_ms.load(Ordering::SeqCst);
            let is_pump = thread::current().name() == Some("pump");
            if is_pump
                && let Some(store) = opened.get()
                && armed.swap(false, Ordering::SeqCst)
            {
                now_ms.store(NOW_MS + 10, Ordering::SeqCst);
                let end = Instant::now() + Duration::from_millis(300);
                while store.counters().expired.value() == 0 && Instant::now() < end {
                    thread::park_timeout(Duration::from_millis(2));
                }
            }
            before
        })
    };
    let store = fixture.open_in(Environment::new(clock));
    assert!(opened.set(store.clone()).is_ok());
    let mut subscription =
        within_the_deadline(store.watch(vec![Topic::Key(table(), key("k"))], Start::Now)).expect("watches");
    store.merge(&table(), &key("k"), |_| Ok(put("1", Some(NOW_MS + 10), 1))).expect("merges");
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Expired));
    store.merge(&table(), &key("k"), |_| Ok(put("2", None, 2))).expect("merges");
    assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
    close(store);
}

/// A key that two topics of a subscription name came twice in its snapshot.
#[test]
fn a_snapshot_delivers_a_key_of_two_topics_once() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for name in ["a", "b"] {
        store.merge(&table(), &key(name), |_| Ok(put("1", None, 1))).expect("merges");
    }
    let topics = vec![
        Topic::Key(table(), key("b")),
        Topic::Prefix(table(), String::new()),
        Topic::Prefix(table(), "a".to_owned()),
    ];
    let mut subscription = within_the_deadline(store.watch(topics, Start::Snapshot)).expect("watches");
    let mut given = Vec::new();
    while let Notice::Change(change) = next(&mut subscription) {
        given.push(change.key.to_string());
    }
    assert_eq!(given, ["b", "a"]);
    close(store);
}

/// A snapshot began while what it delivered was still on its way to the stream. Its cursor was before that, and a client that resumed from
/// it got the same changes again.
#[test]
fn the_cursor_of_a_snapshot_is_after_all_earlier_writes() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for count in 1..=200 {
        store.merge(&table(), &key("k"), |_| Ok(put("1", None, count))).expect("merges");
        let topics = vec![Topic::Key(table(), key("k"))];
        let start = if count % 2 == 0 { Start::Snapshot } else { Start::Resync };
        let mut subscription = within_the_deadline(store.watch(topics, start)).expect("watches");
        let cursor = loop {
            if let Notice::Sync(cursor) = next(&mut subscription) {
                break cursor;
            }
        };
        assert_eq!(cursor.sequence, count - 1, "nobody had subscribed before the first write");
    }
    close(store);
}

/// A snapshot delivered a value that was written after an older one had expired. The end of the older one was passed on, but the new value
/// was not, as it had been delivered: the subscriber held nothing from then on.
#[test]
fn the_end_of_an_older_value_does_not_hide_the_value_of_a_snapshot() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let topics = vec![Topic::Key(table(), key("k"))];
    let mut subscription = within_the_deadline(store.watch(topics, Start::Snapshot)).expect("watches");
    store.merge(&table(), &key("k"), |_| Ok(put("1", Some(NOW_MS + 10), 1))).expect("merges");
    wait_for_changes(&store, 1);
    fixture.now_ms.store(NOW_MS + 10, Ordering::SeqCst);
    wait_for_changes(&store, 2);
    store.merge(&table(), &key("k"), |_| Ok(put("2", None, 2))).expect("merges");
    store.merge(&table(), &key("k"), |_| Ok(put("3", None, 3))).expect("merges");
    wait_for_changes(&store, 4);
    let Effect::Updated { value, .. } = effect(next(&mut subscription)) else { panic!("no value") };
    assert_eq!(value.as_str(), "3");
    assert!(matches!(next(&mut subscription), Notice::Sync(_)));
    store.merge(&table(), &key("k"), |_| Ok(put("4", None, 4))).expect("merges");
    let Effect::Updated { value, .. } = effect(next(&mut subscription)) else { panic!("an end") };
    assert_eq!(value.as_str(), "4");
    close(store);
}

/// The feed was read by two calls of sled, one that blocks and one that does not. The second put aside a change that was still being
/// written, the first skipped it, and subscribers got it after a later change of its key, or never.
#[test]
fn every_change_is_published_and_in_order_per_key() {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 2_000;
    let fixture = Fixture::new();
    let store = fixture.open();
    store.start_pumps().expect("starts");
    let Ok((_, _, begin, _)) = store.0.hub.join(&[], None, 0) else { panic!("no place for a subscriber") };
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                let key = key(&writer.to_string());
                for counter in 1..=WRITES {
                    store.merge(&table(), &key, |_| Ok(put("1", None, counter))).expect("merges");
                }
            });
        }
    });
    let end = Instant::now() + DEADLINE;
    while store.counters().changes.value() < WRITERS * WRITES {
        assert!(Instant::now() < end, "{} of {}", store.counters().changes.value(), WRITERS * WRITES);
        thread::park_timeout(Duration::from_millis(2));
    }
    for writer in 0..WRITERS {
        let topics = [Topic::Key(table(), key(&writer.to_string()))];
        let Ok((_, _, _, Joined::Replay(changes))) = store.0.hub.join(&topics, Some(begin), 0) else {
            panic!("no replay")
        };
        assert_eq!(changes.len() as u64, WRITES);
        assert!(changes.iter().is_sorted_by_key(|change| change.timestamp));
    }
    close(store);
}

/// A node that took in 100,000 rows held the last 30,000 of them in its ring, although nobody had ever subscribed.
#[test]
fn changes_are_kept_from_the_first_subscriber_on() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let write = |counter: u64| {
        store.merge(&table(), &key("k"), |_| Ok(put("1", None, counter))).expect("merges");
        wait_for_changes(&store, counter);
    };
    let topics = [Topic::Key(table(), key("k"))];
    let join = |after| store.0.hub.join(&topics, after, 0).expect("a place for a subscriber");
    write(1);
    store.start_pumps().expect("starts");
    let (id, _, first, _) = join(None);
    assert_eq!(first.sequence, 0, "nobody was told of what came before");
    store.0.hub.leave(id, &topics);
    write(2);
    let (_, _, _, joined) = join(Some(first));
    let is_kept = matches!(joined, Joined::Replay(changes) if changes.len() == 1);
    assert!(is_kept, "what came after a cursor is kept");
    close(store);
}
