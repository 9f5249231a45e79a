//! Closed stores and their garbage.

use std::sync::Arc;

use super::{check, compact};
use crate::{
    core::protocol::replica::Swept,
    storage::{
        META, WallClock,
        engine::Engine,
        open,
        table::trees::{EXPIRED, EXPIRY, STRONG_EXPIRY, STRONG_TOMBSTONES, TOMBSTONES},
        tests::{Fixture, NOW_MS, close, deleted, key, keys_in, merge, put, table, wait_until},
    },
};

const SWEPT: Swept = Swept { tombstones_ms: NOW_MS - 10, expired_ms: NOW_MS - 20 };

#[test]
fn a_compaction_keeps_the_garbage_index_and_floors() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "deleted", deleted(NOW_MS + 5));
    merge(&store, "expired", put("1", Some(NOW_MS - 1), 1));
    merge(&store, "expires", put("1", Some(NOW_MS + 1), 1));
    store.sweep_to(SWEPT);
    store.set_note("members", b"three").expect("is kept");
    wait_until("the sweep is over", || !store.is_sweeping());
    close(store);
    let clock: WallClock = Arc::new(|| NOW_MS);
    compact::compact(&fixture.data(), &clock, false, |_| {}).expect("compacts");
    let entries = [TOMBSTONES, EXPIRED, EXPIRY].map(|tree| keys_in(&fixture.data(), tree));
    assert_eq!(entries, [1, 1, 1]);
    let store = fixture.open();
    assert_eq!(store.swept(), SWEPT);
    assert_eq!(store.note("members"), Ok(Some(b"three".to_vec())));
    close(store);
}

#[test]
fn a_check_finds_invalid_index_entries() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "k", deleted(NOW_MS));
    close(store);
    let clock: WallClock = Arc::new(|| NOW_MS);
    assert!(check::check(&fixture.data(), &clock, |_| {}).expect("checks").is_sound());
    let engine = Engine::open(&fixture.data(), 1024 * 1024).expect("the engine opens");
    for tree in [EXPIRY, EXPIRED, TOMBSTONES, STRONG_EXPIRY, STRONG_TOMBSTONES] {
        engine.tree(tree).expect("a tree").insert(b"no entry", &[]).expect("inserts");
    }
    let meta = engine.tree(META).expect("a tree");
    meta.insert(b"note/members", b"unsealed").expect("inserts");
    drop((meta, engine));
    let report = check::check(&fixture.data(), &clock, |_| {}).expect("checks");
    assert_eq!((report.is_sound(), report.damaged.len()), (false, 6), "{report:?}");
}

/// A compaction that was interrupted after its last rename leaves the old store beside the new one, and after that every compaction failed.
#[test]
fn leftovers_of_a_compaction_do_not_stop_the_next() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "k", put("1", None, 1));
    close(store);
    let left = open::before_compaction(&fixture.data());
    std::fs::create_dir(&left).expect("a directory");
    std::fs::write(left.join("db"), "old").expect("a file");
    let compacted = compact::compact(&fixture.data(), &fixture.clock(), false, |_| {}).expect("compacts");
    assert_eq!(compacted.rows, 1);
    assert!(!left.exists());
    let store = fixture.open();
    assert!(store.get(&table(), &key("k")).expect("reads").is_some());
    close(store);
}
