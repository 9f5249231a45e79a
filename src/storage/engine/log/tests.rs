//! Logs written by the engine, sound and damaged.

use std::{fs, os::unix::fs::FileExt, path::Path};

use super::{
    format::{HEADER_BYTES, SEGMENT_BYTES},
    snapshot,
    walk::{Damage, DamageKind, end_of_frames, walk},
    *,
};
use crate::{
    core::register::Register,
    storage::{
        Buffers, Options, Peers, Store, WallClock,
        engine::{mark, suspected_loss::MEANING},
        offline::salvage::{Salvaged, salvage},
        tests::{Fixture, NOW_MS, close, key, merge, put, table, timestamp},
    },
};

/// With a quarter of them in chunks, these rows take several segments.
const ROWS: u64 = 800;

/// Digits that no codec shortens by more than half.
fn noise(number: u64, bytes: usize) -> String {
    let mut noise = format!("\"{number}:");
    let mut hash = blake3::hash(&number.to_be_bytes());
    while noise.len() < bytes {
        noise.push_str(&hash.to_hex());
        hash = blake3::hash(hash.as_bytes());
    }
    noise + "\""
}

fn value(store: &Store, name: &str) -> Option<String> {
    store.get(&table(), &key(name)).expect("reads").map(|entry| entry.value.as_str().to_owned())
}

fn fill(store: &Store, round: u64) {
    for number in 0..ROWS {
        let bytes = if number % 4 == 0 { 20_000 } else { 500 };
        let counter = round * ROWS + number;
        merge(store, &format!("k{number}"), put(&noise(counter, bytes), None, counter));
    }
}

fn found(fixture: &Fixture) -> Vec<Damage> {
    let mark = mark::read(&fixture.data()).expect("reads").mark();
    walk(&fixture.data(), mark.map(|mark| mark.position)).expect("walks")
}

fn flip(fixture: &Fixture, offset: u64) {
    let file =
        fs::OpenOptions::new().read(true).write(true).open(fixture.data().join(LOG_FILE)).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("reads");
    file.write_all_at(&[byte[0] ^ 4], offset).expect("writes");
}

fn options(fixture: &Fixture, peers: Peers) -> Options {
    let now_ms: WallClock = std::sync::Arc::new(|| NOW_MS);
    Options {
        data: fixture.data(),
        durability: crate::storage::Durability::None,
        cache_bytes: 16 * 1024 * 1024,
        buffers: Buffers::default(),
        scrub_bytes_per_second: 0,
        tables_max: 10,
        subscriptions_max: 10,
        set_aside_damaged: false,
        peers,
        environment: crate::storage::Environment::new(now_ms),
    }
}

fn saved(fixture: &Fixture, into: &Path) -> Salvaged {
    let now_ms: WallClock = std::sync::Arc::new(|| NOW_MS);
    salvage(&fixture.data(), into, &now_ms, |_| {}).expect("salvages")
}

/// A store in another directory.
fn open_at(fixture: &Fixture, data: &Path) -> Store {
    Store::open(Options { data: data.to_owned(), ..options(fixture, Peers::default()) }).expect("opens")
}

#[test]
fn a_sound_log_is_never_damaged() {
    let fixture = Fixture::new();
    assert_eq!(found(&fixture), []);
    for round in 0..4 {
        let store = fixture.open();
        fill(&store, round);
        for number in 0..ROWS / 2 {
            let counter = (round * 2 + 1) * ROWS * 4 + number;
            merge(&store, &format!("k{number}"), Register::deleted(timestamp(counter)));
        }
        close(store);
        assert_eq!(found(&fixture), [], "round {round}");
    }
}

/// The engine takes a damaged byte for the end of the log; it opened with up to all rows missing or older.
#[test]
fn a_damaged_durable_byte_is_reported_before_the_engine_opens() {
    let fixture = Fixture::new();
    let store = fixture.open();
    fill(&store, 0);
    close(store);
    let at = SEGMENT_BYTES + SEGMENT_BYTES / 2;
    flip(&fixture, at);
    let damage = found(&fixture);
    let [Damage { offset, what: DamageKind::Frames(Some(bytes)), .. }] = damage[..] else {
        panic!("{damage:?}")
    };
    assert!(offset <= at && at < offset + bytes, "{damage:?}");
    let before = fs::read(fixture.data().join(LOG_FILE)).expect("reads");
    let refused = Store::open(options(&fixture, Peers::default())).err().expect("is refused").to_string();
    for part in [&offset.to_string(), MEANING, "DynaRust salvage", "--into", "--set-aside-damaged"] {
        assert!(refused.contains(part), "no {part} in {refused}");
    }
    assert!(fs::read(fixture.data().join(LOG_FILE)).expect("reads") == before, "the log was changed");
    flip(&fixture, at);
    close(fixture.open());
}

#[test]
fn a_node_with_peers_opens_with_a_suspected_loss_until_it_is_cleared() {
    let fixture = Fixture::new();
    let store = fixture.open();
    fill(&store, 0);
    store.set_note("peers", b"some").expect("is kept");
    close(store);
    // The note is written again after the damage, so that it can be read.
    flip(&fixture, SEGMENT_BYTES + SEGMENT_BYTES / 2);
    let named = Peers { joins: false, note: "peers", are_in: |note| note == b"some" };
    for strangers in [Peers { note: "other", ..named }, Peers { are_in: |_| false, ..named }] {
        assert!(Store::open(options(&fixture, strangers)).is_err());
    }
    let store = Store::open(options(&fixture, named)).expect("opens");
    let why = store.suspected_loss().expect("is doubtful");
    assert!(why.contains(MEANING), "{why}");
    merge(&store, "new", put("1", None, 9 * ROWS));
    close(store);
    // The engine finds nothing wrong any more.
    let store = fixture.open();
    assert_eq!((store.suspected_loss(), value(&store, "new")), (Some(why), Some("1".into())));
    store.clear_suspected_loss(store.incarnation()).expect("clears");
    close(store);
    let store = fixture.open();
    assert_eq!(store.suspected_loss(), None);
    close(store);
}

#[test]
fn damage_behind_the_mark_is_the_end_of_the_log() {
    let fixture = Fixture::new();
    let store = fixture.open();
    fill(&store, 0);
    close(store);
    let log = Log::open(&fixture.data()).expect("opens").expect("is there");
    let (mut buffer, mut ends) = (Vec::new(), Vec::new());
    for slot in 0..log.segments() {
        log.read_segment(slot, &mut buffer);
        let header = format::Header::parse(&buffer).expect("a header");
        let mut frames = Vec::new();
        end_of_frames(&buffer, header.number(), |at, _| frames.push(at));
        ends.push((header.position, slot, frames));
    }
    ends.sort();
    let (position, slot, frames) = ends.last().expect("has segments");
    let last = *frames.last().expect("has frames");
    flip(&fixture, slot * SEGMENT_BYTES + last as u64 + 6);
    let end = position + last as i64;
    assert_eq!(walk(&fixture.data(), Some(end - 1)), Ok(Vec::new()), "it was never durable");
    let damage = walk(&fixture.data(), Some(end)).expect("walks");
    assert!(matches!(damage[..], [Damage { what: DamageKind::Frames(_), .. }]), "{damage:?}");
}

#[test]
fn damaged_headers_snapshots_and_ends_are_reported() {
    let fixture = Fixture::new();
    let store = fixture.open();
    fill(&store, 0);
    close(store);
    flip(&fixture, SEGMENT_BYTES + HEADER_BYTES as u64 / 2);
    let damage = found(&fixture);
    assert!(
        matches!(damage[..], [Damage { offset: SEGMENT_BYTES, what: DamageKind::Header, .. }]),
        "{damage:?}"
    );
    flip(&fixture, SEGMENT_BYTES + HEADER_BYTES as u64 / 2);

    let path = fixture.data().join(LOG_FILE);
    let whole = fs::read(&path).expect("reads");
    for length in [0, 1, SEGMENT_BYTES as usize, whole.len() / 2] {
        fs::write(&path, &whole[..length]).expect("writes");
        assert!(!found(&fixture).is_empty(), "cut to {length} of {}", whole.len());
    }
    fs::remove_file(&path).expect("removes");
    assert!(matches!(found(&fixture)[..], [Damage { what: DamageKind::Short, .. }]));
    fs::write(&path, &whole).expect("writes");
    assert_eq!(found(&fixture), []);

    close(fixture.open());
    let snapshot = snapshot::find(&fixture.data()).expect("reads").expect("a reopened store has a snapshot");
    let bytes = fs::read(&snapshot).expect("reads");
    for at in [0, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&snapshot, &damaged).expect("writes");
        let damage = found(&fixture);
        assert!(matches!(damage[0].what, DamageKind::Snapshot), "{damage:?}");
    }
    fs::write(&snapshot, &bytes).expect("writes");
    assert_eq!(found(&fixture), []);
    // Now most rows are known from the snapshot, in segments that are not replayed.
    fs::write(&path, &whole[..whole.len() / 2]).expect("writes");
    assert!(!found(&fixture).is_empty());
}

/// A start that was killed while it wrote its snapshot left a file that sled takes for the newest snapshot; it failed to open from then on.
#[test]
fn an_unfinished_snapshot_is_ignored() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "k", put("1", None, 1));
    close(store);
    close(fixture.open());
    let unfinished = fixture.data().join("snap.7FFFFFFFFFFFFFFF.generating");
    fs::write(&unfinished, b"half").expect("writes");
    let store = fixture.open();
    assert_eq!(value(&store, "k"), Some("1".into()));
    assert!(!unfinished.exists());
    close(store);
}

#[test]
fn a_sound_store_is_salvaged_unchanged() {
    let fixture = Fixture::new();
    let store = fixture.open();
    fill(&store, 0);
    fill(&store, 1);
    merge(&store, "gone", Register::deleted(timestamp(5 * ROWS)));
    merge(&store, "brief", put("1", Some(NOW_MS + 60_000), 5 * ROWS + 1));
    store.set_note("n", &[7; 40_000]).expect("is kept");
    store.set_clock_bound(77).expect("is kept");
    let (node, digest_key) = (store.node(), store.digest_key());
    store.count_rows().expect("counts");
    let root = store.root(u64::MAX).expect("has a root");
    close(store);
    let into = fixture.data().with_extension("saved");
    let salvaged = saved(&fixture, &into);
    assert!(salvaged.is_complete(), "{salvaged:?}");
    assert_eq!(salvaged.rows(), ROWS + 2);
    let store = open_at(&fixture, &into);
    store.count_rows().expect("counts");
    assert_eq!(store.root(u64::MAX).expect("has a root"), root);
    assert_eq!((store.node(), store.digest_key(), store.suspected_loss()), (node, digest_key, None));
    assert_eq!(store.note("n"), Ok(Some(vec![7; 40_000])));
    assert!(store.clock_bound() > timestamp(5 * ROWS + 1).hlc, "above all timestamps");
    let entry = store.get(&table(), &key("brief")).expect("reads").expect("is there");
    assert_eq!(entry.expires_at_ms, Some(NOW_MS + 60_000));
    close(store);
}

/// What was deleted and removed from the tree stays removed if only other pages are damaged, however many old frames hold it.
#[test]
fn a_salvage_brings_back_nothing_that_sound_pages_deleted() {
    let fixture = Fixture::new();
    let store = fixture.open();
    fill(&store, 0);
    close(store);
    let store = fixture.open();
    // Removed without a tombstone, as by garbage collection.
    for number in 0..ROWS {
        let row = crate::storage::table::row::row_of(&key(&format!("k{number}")));
        let here = store.table(&table()).expect("is there");
        if number % 2 == 0 {
            here.with_trees(|trees| trees.rows.remove(&row)).expect("removes");
        }
    }
    close(store);
    // The old rows are all over the first segments.
    let (mut lost, mut back) = (0, 0);
    for at in [SEGMENT_BYTES / 3, SEGMENT_BYTES + 9_999, 2 * SEGMENT_BYTES + 77_777] {
        flip(&fixture, at);
        let into = fixture.data().with_extension(format!("saved-{at}"));
        saved(&fixture, &into);
        let store = open_at(&fixture, &into);
        for number in 0..ROWS {
            match (number % 2 == 0, value(&store, &format!("k{number}"))) {
                (true, Some(_)) => back += 1,
                (false, None) => lost += 1,
                (false, Some(value)) => {
                    let bytes = if number % 4 == 0 { 20_000 } else { 500 };
                    assert_eq!(value, noise(number, bytes));
                }
                (true, None) => {}
            }
        }
        close(store);
        flip(&fixture, at);
    }
    assert!(lost <= 3 * 16, "{lost} rows lost to three bytes");
    assert!(back <= 3 * 16, "{back} rows back");
}

#[test]
fn a_salvage_overwrites_nothing_and_makes_no_empty_store() {
    let fixture = Fixture::new();
    close(fixture.open());
    let now_ms: WallClock = std::sync::Arc::new(|| NOW_MS);
    let salvage =
        |data: &Path, into: &Path| salvage(data, into, &now_ms, |_| {}).expect_err("is refused").to_string();
    let nothing = fixture.data().with_extension("nothing");
    assert!(salvage(&fixture.data(), &fixture.data()).contains("exists already"));
    assert!(salvage(&nothing, &nothing.with_extension("new")).contains("there is no storage directory"));
    fs::create_dir(&nothing).expect("a directory");
    assert!(salvage(&nothing, &nothing.with_extension("new")).contains("has no log"));
    fs::write(nothing.join(LOG_FILE), [7; 9_999]).expect("writes");
    assert!(salvage(&nothing, &nothing.with_extension("new")).contains("no row can be saved"));
    let store = fixture.open();
    let refused = salvage(&fixture.data(), &nothing.with_extension("new"));
    assert!(refused.contains("in use"), "{refused}");
    close(store);
    let left: Vec<_> = fs::read_dir(fixture.data().parent().expect("a parent")).expect("reads").collect();
    assert_eq!(left.len(), 2, "nothing is left of what was refused: {left:?}");
}
