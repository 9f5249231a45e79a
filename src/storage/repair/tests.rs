//! Stores with a flipped bit on their disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::AtomicBool,
    thread,
};

mod index;

use super::*;
use crate::{
    core::{
        digest::{DigestKey, Path},
        name::Key,
        protocol::replica::Swept,
        register::Register,
    },
    storage::{
        changes::change::Topic,
        engine::gaps::Gap,
        engine::segment::tests::{Wanted, damage_page, holds},
        table::scan::Range,
        tests::{Fixture, close, key, long_value, put, table, wait_until, within_the_deadline},
    },
};

const KEYS: u64 = 8000;

fn value(number: u64) -> Register {
    put(&format!("\"value {number}\""), None, number)
}

fn merge(store: &Store, number: u64, register: Register) {
    store.merge(&table(), &key(&number.to_string()), |_| Ok(register)).expect("merges");
}

/// A store with these keys, written and opened once more, so that sled knows its pages from a snapshot and does not search the log for
/// them.
fn settled(fixture: &Fixture) {
    let store = fixture.open();
    (0..KEYS).for_each(|number| merge(&store, number, value(number)));
    close(store);
}

/// Damages a page that meets one of the conditions, and returns which. Writes to another table until such a page is before the end of the
/// log, which a start reads again.
fn damage_where(fixture: &Fixture, candidates: &[Wanted<'_>]) -> usize {
    let (filler, long) = (TableName::parse("filler").expect("a name"), long_value(100_000));
    for turn in 0..20 {
        if let Some(chosen) = damage_page(&fixture.data(), candidates) {
            return chosen;
        }
        let store = fixture.open();
        for number in 0..50 {
            let register = put(&long, None, 100 * turn + number);
            store.merge(&filler, &key(&number.to_string()), |_| Ok(register)).expect("merges");
        }
        close(store);
        close(fixture.open());
    }
    panic!("sled writes the page again and again");
}

/// Flips a bit on the page of some key, and returns the key.
fn damage(fixture: &Fixture) -> u64 {
    let numbers: Vec<u64> = (0..KEYS).step_by(1000).collect();
    let is_on = |number: u64| -> Wanted<'_> {
        let fingerprint = value(number).marker().fingerprint.0;
        Box::new(move |body| holds(body, &fingerprint))
    };
    let candidates: Vec<_> = numbers.iter().map(|number| is_on(*number)).collect();
    numbers[damage_where(fixture, &candidates)]
}

/// Opens a store and waits until its table's damage is handled.
fn opened(fixture: &Fixture) -> Store {
    let store = fixture.open();
    store.count_rows().expect("counts");
    wait_until("the table is copied", || store.table(&table()).is_some_and(|table| table.lost.any()));
    store
}

/// The keys that cannot be read; all others have their old values.
fn unreadable(store: &Store) -> BTreeSet<u64> {
    let read = |number: &u64| match store.get(&table(), &key(&number.to_string())) {
        Ok(entry) => {
            let entry = entry.unwrap_or_else(|| panic!("key {number} is gone"));
            assert_eq!(entry.value.as_str(), format!("\"value {number}\""));
            false
        }
        Err(Error::Corrupt(why)) => {
            assert!(why.contains(&number.to_string()) && why.contains("cannot be read"), "{why}");
            true
        }
        Err(error) => panic!("key {number}: {error}"),
    };
    (0..KEYS).filter(read).collect()
}

fn listed(store: &Store, range: &Range) -> (BTreeSet<Key>, bool) {
    let (mut range, mut keys, mut incomplete) = (range.clone(), BTreeSet::new(), false);
    loop {
        let page = store.keys(&table(), &range, 100).expect("lists");
        incomplete |= page.incomplete;
        range.after = page.rows.last().cloned();
        keys.extend(page.rows);
        if !page.more {
            return (keys, incomplete);
        }
    }
}

/// One damaged page of nine rows made `/keys`, `/store` and `/export` break off in the middle and `/count` fail; every write of those nine
/// keys failed for ever, and the table could not be compared with other nodes.
#[test]
fn a_damaged_page_loses_only_its_own_rows() {
    let fixture = Fixture::new();
    settled(&fixture);
    let damaged = damage(&fixture);
    let store = opened(&fixture);
    let lost = unreadable(&store);
    assert!(lost.contains(&damaged) && lost.len() <= 32, "{lost:?}");
    let left = KEYS - lost.len() as u64;
    for reverse in [false, true] {
        let (keys, incomplete) = listed(&store, &Range { reverse, ..Range::default() });
        assert_eq!((keys.len() as u64, incomplete), (left, true));
    }
    let of_a_key =
        |number: &u64| listed(&store, &Range { prefix: format!("{number}"), ..Range::default() }).1;
    let incomplete: Vec<u64> = (0..KEYS).step_by(100).filter(of_a_key).collect();
    // A page may hold rows of two partitions, with keys of many prefixes.
    assert!(incomplete.len() < 70, "incomplete listings: only those with lost keys: {incomplete:?}");
    assert!(lost.iter().all(of_a_key), "{lost:?}");
    let counted = store.count(&table(), &Range::default()).expect("counts");
    assert_eq!((counted.keys, counted.incomplete), (left, true));
    assert!(store.root(store.now_ms() + 1).expect("does not fail").is_some(), "the rest can be compared");
    assert!(store.unreadable_ranges() > 0);

    // Nobody can say whether a lost key is absent; a write of it makes that known.
    let absent = store.merge(&table(), &key(&damaged.to_string()), |existing| {
        assert!(existing.is_none());
        Err(Error::NotFound(String::new()))
    });
    assert!(matches!(absent, Err(Error::Corrupt(_))), "{absent:?}");
    merge(&store, damaged, value(damaged));
    assert!(unreadable(&store).iter().eq(lost.iter().filter(|number| **number != damaged)));
    close(store);

    // Lost rows stay lost over a restart, until the table was found equal to a complete member's.
    let store = fixture.open();
    assert_eq!(unreadable(&store).len(), lost.len() - 1);
    store.restored(fixture.now_ms.load(Ordering::SeqCst)).expect("notes");
    assert_eq!(unreadable(&store).len(), lost.len() - 1, "that was before it was lost");
    store.restored(store.now_ms() + 1).expect("notes");
    assert_eq!(store.unreadable_ranges(), 0);
    let other = lost.iter().find(|number| **number != damaged).expect("a page has several rows");
    assert_eq!(store.get(&table(), &key(&other.to_string())), Ok(None));
    assert!(!store.count(&table(), &Range::default()).expect("counts").incomplete);
    close(store);
    close(fixture.open());
}

/// The comparison with other members says nothing of strong tables. When it had found all else equal, lost rows of a strong table were taken for
/// absent.
#[test]
fn lost_rows_of_a_strong_table_stay_lost_until_the_leader_has_repaired_them() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.make_strong(&table()).expect("makes");
    close(store);
    settled(&fixture);
    damage(&fixture);
    let store = opened(&fixture);
    let lost = unreadable(&store);
    assert!(!lost.is_empty() && store.has_unreadable_strong());
    assert_eq!(store.lost_ms(), 0, "no eventual row is lost");
    store.restored(store.now_ms() + 1).expect("notes");
    assert_eq!(unreadable(&store), lost);
    store.restored_strong(store.now_ms() + 1).expect("notes");
    assert!(!store.has_unreadable_strong());
    close(store);
}

/// When other nodes sent the lost rows, they were refused as deleted everywhere long ago, and those nodes then removed theirs.
#[test]
fn lost_rows_are_accepted_from_others_however_old() {
    let (fixture, other_fixture) = (Fixture::new(), Fixture::new());
    settled(&fixture);
    settled(&other_fixture);
    damage(&fixture);
    let (store, other) = (opened(&fixture), other_fixture.open());
    for store in [&store, &other] {
        store.rekey(DigestKey([7; 32])).expect("takes the key");
    }
    let lost = unreadable(&store);
    store.sweep_to(Swept { tombstones_ms: store.now_ms() + 1000, expired_ms: 0 });
    for partition in 0..=u8::MAX {
        let rows = other.scan_partition(&table(), partition, None, usize::MAX).expect("reads").rows;
        let accepted = store.accept(&table(), rows, store.now_ms() + 1000, 0).expect("accepts");
        assert_eq!(accepted.deleted, []);
    }
    assert_eq!(unreadable(&store), BTreeSet::new());
    assert_eq!(store.counters().rows_accepted.value(), lost.len() as u64);
    let root = |store: &Store| store.sums(&table(), Path::ROOT, 0, u64::MAX).expect("does not fail");
    assert_eq!(root(&store), root(&other));
    store.restored(store.now_ms() + 1).expect("notes");
    assert_eq!(store.unreadable_ranges(), 0);
    close(store);
    close(other);
    let store = fixture.open();
    assert_eq!(unreadable(&store), BTreeSet::new());
    close(store);
}

/// Tells a thread to stop, also if the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn writes_during_a_table_copy_are_in_the_copy() {
    let fixture = Fixture::new();
    settled(&fixture);
    damage(&fixture);
    let store = fixture.open();
    let done = AtomicBool::new(false);
    let ending = Ending(&done);
    let written = thread::scope(|scope| {
        let ending = ending;
        let writer = scope.spawn(|| {
            let mut written = BTreeMap::new();
            for turn in 1.. {
                let number = turn * 7919 % KEYS;
                let register = put(&format!("\"new {turn}\""), None, KEYS + turn);
                let merged = store.merge(&table(), &key(&number.to_string()), |_| Ok(register));
                match merged {
                    Ok(_) => drop(written.insert(number, format!("\"new {turn}\""))),
                    Err(Error::Corrupt(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                if done.load(Ordering::SeqCst) && turn > 2 * KEYS {
                    break;
                }
            }
            written
        });
        store.count_rows().expect("counts");
        wait_until("the table is copied", || store.table(&table()).is_some_and(|table| table.lost.any()));
        drop(ending);
        writer.join().expect("writes")
    });
    let check = |store: &Store| {
        for (number, value) in &written {
            let entry = store.get(&table(), &key(&number.to_string())).expect("reads").expect("is there");
            assert_eq!(entry.value.as_str(), value);
        }
        for number in 0..=u8::MAX {
            assert_eq!(store.check_partition(&table(), number), Ok(true), "partition {number}");
        }
    };
    check(&store);
    close(store);
    let store = fixture.open();
    store.count_rows().expect("counts");
    check(&store);
    close(store);
}

/// After a disk had failed for a moment, listings stayed incomplete and the node not ready until the next start.
#[test]
fn what_could_not_be_read_for_a_while_is_no_damage() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, 1, value(1));
    let here = store.table(&table()).expect("is there");
    here.with_trees(|trees| {
        trees.rows.gaps().add(Gap { from: vec![0], to: Some(vec![9]) });
        Ok(())
    })
    .expect("is open");
    assert_eq!((store.unreadable_ranges(), listed(&store, &Range::default()).1), (1, false));
    here.report_unreadable();
    wait_until("all can be read", || store.unreadable_ranges() == 0);
    close(store);
}

/// A subscriber that resumed with a foreign cursor got all changes except those of rows lost here, as if these had not changed. The leader of the
/// strong tables took a lost row for an absent one: a lock that was held could be taken, and a snapshot removed the good copy elsewhere.
#[test]
fn what_is_lost_is_not_absent_for_who_comes_from_elsewhere_or_decides_by_it() {
    let fixture = Fixture::new();
    settled(&fixture);
    let damaged = damage(&fixture);
    let store = opened(&fixture);
    let lost = unreadable(&store);
    let sound = (0..KEYS).find(|number| !lost.contains(number)).expect("some are left");
    // What decides by its absence asks so.
    let known = store.read_known_row(&table(), &key(&damaged.to_string()));
    assert!(matches!(known, Err(Error::Corrupt(_))), "{known:?}");
    assert!(matches!(store.read_known_row(&table(), &key(&sound.to_string())), Ok(Some(_))));
    assert_eq!(store.read_known_row(&table(), &key("absent")), Ok(None));
    let since = |topic: Topic| {
        let until = store.0.hub.cursor();
        within_the_deadline(store.backlog(&[topic], 0, until)).expect("reads").map(|rows| rows.len())
    };
    let key = |number: u64| Topic::Key(table(), key(&number.to_string()));
    assert_eq!(since(key(sound)), Some(1));
    assert_eq!(since(key(damaged)), None);
    let prefix = |number: u64| Topic::Prefix(table(), number.to_string());
    assert_eq!(since(prefix(damaged)), None);
    close(store);
}

fn spare_trees(store: &Store) -> Vec<String> {
    let mut names = store.with_engine(|engine| Ok(engine.names())).expect("is open");
    names.retain(|name| name.contains('#'));
    names
}

/// Each failed attempt at a copy left its copy on the disk, as large as the table, every 30 seconds.
#[test]
fn a_copy_that_fails_or_that_a_crash_cuts_short_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let store = fixture.open();
    (0..100).for_each(|number| merge(&store, number, value(number)));
    let here = store.table(&table()).expect("is there");
    let half = |row: &[u8]| row[0] < 128;
    let rows = here.with_trees(|trees| Ok(trees.rows.range(&[], None).flatten().collect::<Vec<_>>()));
    here.close();
    store.copy_table(&here).expect_err("the table is not open");
    assert_eq!(spare_trees(&store), Vec::<String>::new());
    // As after a crash.
    store
        .with_engine(|engine| {
            let copy = engine.successor("rows/t")?;
            let rows = rows.expect("reads");
            rows.iter().filter(|(row, _)| half(row)).try_for_each(|(row, bytes)| copy.tree.insert(row, bytes))
        })
        .expect("copies");
    assert_eq!(spare_trees(&store), ["rows/t#1"]);
    close(store);
    let store = fixture.open();
    wait_until("it is removed", || spare_trees(&store).is_empty());
    assert_eq!(store.count(&table(), &Range::default()).expect("counts").keys, 100);
    close(store);
}

#[test]
fn a_thread_that_panics_is_reported() {
    let fixture = Fixture::new();
    let store = fixture.open();
    assert_eq!(store.stopped_thread(), None);
    store.spawn("test", || panic!("as the test wants it")).expect("starts");
    wait_until("it is reported", || {
        store.stopped_thread().is_some_and(|why| why.contains("the test thread"))
    });
    close(store);
}
