//! Damaged indexes of garbage.

use std::sync::atomic::Ordering;

use super::{KEYS, damage_where, merge, value};
use crate::{
    core::{name::TableName, protocol::replica::Swept, register::Register},
    storage::{
        META, Store,
        engine::segment::tests::holds,
        gc::INDEXED_KEY,
        table::trees::{EXPIRY, STRONG_EXPIRY, STRONG_TOMBSTONES, TOMBSTONES},
        tests::{self, Fixture, NOW_MS, close, deleted, key, put, table, wait_until},
    },
};

/// A store with many tombstones, and a damaged page of their index.
fn damaged(fixture: &Fixture, is_strong: bool) -> Store {
    let store = fixture.open();
    if is_strong {
        store.make_strong(&table()).expect("makes");
    }
    for number in 0..KEYS {
        merge(&store, number, Register::deleted(value(number).timestamp()));
    }
    close(store);
    // A page with names of rows, but without rows.
    let fingerprint = Register::deleted(value(0).timestamp()).marker().fingerprint.0;
    damage_where(fixture, &[Box::new(|body| holds(body, b"1500") && !holds(body, &fingerprint))]);
    fixture.open()
}

fn entries(store: &Store, tree: &str) -> usize {
    store.with_engine(|engine| Ok(engine.tree(tree)?.range(&[], None).flatten().count())).expect("is open")
}

/// Puts something into indexes that is no entry, and waits until they are rebuilt.
fn rebuild(store: &Store, trees: &[&str]) {
    for tree in trees {
        store.with_engine(|engine| engine.tree(tree)?.insert(b"no entry", &[])).expect("inserts");
    }
    store.report_damage();
    let is_sound =
        |tree: &&str| store.with_engine(|engine| Ok(engine.tree(tree)?.get(b"no entry")?.is_none()));
    wait_until("they are new", || trees.iter().all(|tree| is_sound(tree) == Ok(true)));
    let is_indexed = || store.with_engine(|engine| Ok(engine.tree(META)?.get(INDEXED_KEY)?.is_some()));
    wait_until("all is indexed", || {
        !store.0.context.reindex.load(Ordering::Acquire) && is_indexed() == Ok(true)
    });
}

/// An unreadable page in the tree of tombstones stopped all garbage collection, and every write that had to insert an entry there.
#[test]
fn a_damaged_index_is_rebuilt() {
    let fixture = Fixture::new();
    let store = damaged(&fixture, false);
    store.report_damage();
    wait_until("all are indexed again", || entries(&store, TOMBSTONES) == KEYS as usize);
    store.sweep_to(Swept { tombstones_ms: store.now_ms() + 1, expired_ms: 0 });
    wait_until("the tombstones are removed", || store.rows_total() <= 50 && !store.is_sweeping());
    assert_eq!(store.stopped_thread(), None);
    close(store);
}

/// A sweep skipped what it could not read and told nobody: those tombstones had no entries until something else met the damage.
#[test]
fn a_sweep_that_meets_a_damaged_index_has_it_rebuilt() {
    let fixture = Fixture::new();
    let store = damaged(&fixture, false);
    let left = || {
        store.count_rows().expect("counts");
        store.table(&table()).map_or(0, |table| table.rows() as usize)
    };
    store.sweep_to(Swept { tombstones_ms: store.now_ms() + 1, expired_ms: 0 });
    wait_until("what can be read is removed", || left() < KEYS as usize && !store.is_sweeping());
    // Below the floor already, so they are kept for a while, as those that come late.
    wait_until("the rest is indexed again", || entries(&store, TOMBSTONES) == left());
    close(store);
}

/// An unreadable page in the tree of tombstones of strong tables was never repaired, and the first sweep that met it ended the member's part in
/// the group, at each start again.
#[test]
fn a_damaged_index_of_strong_tables_is_swept_as_far_as_it_can_be_read_and_rebuilt() {
    let fixture = Fixture::new();
    let store = damaged(&fixture, true);
    let at_ms = store.now_ms() + 1;
    assert_eq!(store.has_strong_tombstones(at_ms), Ok(true));
    store.sweep_strong(at_ms).expect("what can be read is removed");
    let left = || {
        store.count_rows().expect("counts");
        store.table(&table()).map_or(0, |table| table.rows() as usize)
    };
    assert!((1..KEYS as usize).contains(&left()), "those whose entries cannot be read stay");
    wait_until("those are indexed again", || entries(&store, STRONG_TOMBSTONES) == left());
    store.sweep_strong(at_ms).expect("removes the rest");
    assert_eq!((left(), store.has_strong_tombstones(at_ms)), (0, Ok(false)));
    close(store);
}

/// A damaged page in the tree of values of strong tables that will expire was never found.
#[test]
fn every_index_of_strong_tables_is_rebuilt_from_their_rows() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.make_strong(&table()).expect("makes");
    let eventual = TableName::parse("eventual").expect("a name");
    for table in [table(), eventual] {
        store.merge(&table, &key("ends"), |_| Ok(put("1", Some(NOW_MS + 1000), 1))).expect("merges");
        store.merge(&table, &key("gone"), |_| Ok(deleted(NOW_MS))).expect("merges");
    }
    rebuild(&store, &[STRONG_EXPIRY, STRONG_TOMBSTONES]);
    assert_eq!(store.strong_expired(NOW_MS + 1000), Ok(vec![(table(), key("ends"))]));
    let trees = [STRONG_EXPIRY, STRONG_TOMBSTONES, EXPIRY, TOMBSTONES];
    assert_eq!(trees.map(|tree| entries(&store, tree)), [1; 4]);
    close(store);
}

/// When the index of eventual tables was damaged, strong tables got its successor too: values that were written to them then never ended, and
/// their tombstones were removed by the floors of eventual tables.
#[test]
fn strong_tables_keep_their_index_when_that_of_eventual_tables_is_rebuilt() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.make_strong(&table()).expect("makes");
    tests::merge(&store, "k", put("1", None, 1));
    rebuild(&store, &[EXPIRY, TOMBSTONES]);
    tests::merge(&store, "ends", put("1", Some(NOW_MS + 1000), 1));
    tests::merge(&store, "gone", deleted(NOW_MS));
    assert_eq!(store.strong_expired(NOW_MS + 1000), Ok(vec![(table(), key("ends"))]));
    assert_eq!(store.has_strong_tombstones(NOW_MS), Ok(true));
    let trees = [STRONG_EXPIRY, STRONG_TOMBSTONES, EXPIRY, TOMBSTONES];
    assert_eq!(trees.map(|tree| entries(&store, tree)), [1, 1, 0, 0]);
    close(store);
}
