//! Closed stores and their garbage.

use std::{fs, path::Path, sync::Arc};

use super::{check, compact, salvage};
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        json::Value,
        protocol::{agreement::Agreement, replica::Swept},
        register::Register,
    },
    storage::{
        META, Store, WallClock,
        engine::{Engine, agreement_file::Agreed},
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

/// How far the floors have risen, or may have.
const PASSED: Swept = Swept { tombstones_ms: NOW_MS, expired_ms: NOW_MS };

/// A store with a tombstone and an expired value that came late: after the floors had passed them, or after all members had announced that these
/// may.
pub(in crate::storage) fn with_late_garbage(fixture: &Fixture, is_announced: bool) -> Store {
    let store = fixture.open();
    if is_announced {
        let agreement = Agreement::default().with_reached_ms(NOW_MS);
        store.keep_agreement(|| Agreed { agreement, ..Agreed::default() }).expect("is kept");
        store.0.context.floors.announced(NOW_MS);
    } else {
        store.sweep_to(PASSED);
    }
    wait_until("the sweep is over", || !store.is_sweeping());
    merge(&store, "deleted", deleted(NOW_MS - 5));
    let written = Timestamp { hlc: (NOW_MS - 9) << 16, node: NodeId(1) };
    merge(&store, "expired", Register::live(Value::trusted("1".into()), Some(NOW_MS - 5), written));
    store
}

/// Checks that late garbage goes only by a floor that no member can have passed when it came.
pub(in crate::storage) fn expect_late_garbage(store: &Store) {
    let rows = || {
        store.count_rows().expect("counts");
        store.rows_total()
    };
    store.sweep_to(PASSED);
    wait_until("the sweep is over", || !store.is_sweeping());
    assert_eq!(rows(), 2);
    store.sweep_to(Swept { tombstones_ms: NOW_MS + 1, expired_ms: NOW_MS + 1 });
    wait_until("all is removed", || rows() == 0);
}

/// Late garbage became due at once in a store that was made anew: the tombstone of a key went while other members still had its value, and the
/// key was back.
#[test]
fn garbage_that_came_late_stays_so_in_a_store_that_is_made_anew() {
    let compact = |data: &Path, clock: &WallClock| {
        compact::compact(data, clock, false, |_| {}).expect("compacts");
    };
    let salvage = |data: &Path, clock: &WallClock| {
        let salvaged = data.with_extension("salvaged");
        salvage::salvage(data, &salvaged, clock, |_| {}).expect("salvages");
        fs::remove_dir_all(data).expect("removes");
        fs::rename(salvaged, data).expect("renames");
    };
    let ways: [fn(&Path, &WallClock); 2] = [compact, salvage];
    for (way, is_announced) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let fixture = Fixture::new();
        close(with_late_garbage(&fixture, is_announced));
        way(&fixture.data(), &fixture.clock());
        let store = fixture.open();
        expect_late_garbage(&store);
        close(store);
    }
}

/// Otherwise it would be here an hour longer than on the others, which would take it for one that they lack.
#[test]
fn a_tombstone_that_came_in_time_is_removed_in_time_from_a_compacted_store() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "k", deleted(NOW_MS - 5));
    let agreement = Agreement::default().with_reached_ms(NOW_MS);
    store.keep_agreement(|| Agreed { agreement, ..Agreed::default() }).expect("is kept");
    close(store);
    compact::compact(&fixture.data(), &fixture.clock(), false, |_| {}).expect("compacts");
    let store = fixture.open();
    store.count_rows().expect("counts");
    assert_eq!(store.rows_total(), 1);
    store.sweep_to(PASSED);
    wait_until("it is removed", || store.rows_total() == 0);
    close(store);
}
