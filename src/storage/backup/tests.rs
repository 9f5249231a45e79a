//! Backups of a store that is written to, their files, and what is made of them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

mod altered;
mod encrypted;

use super::{
    compare::{self, Difference},
    content,
    read::{self, Backup},
    run::Run,
    write::{Options, Writer, Written},
};
use crate::{
    core::{clock::NodeId, name::TableName, register::Register},
    error::{Error, Result},
    storage::{
        Store,
        offline::{
            restore::{Identity, restore},
            tests::{expect_late_garbage, with_late_garbage},
        },
        table::merge::Existing,
        tests::{Fixture, close, deleted, key, long_value, merge, put, table, timestamp, write_rows},
    },
};

/// Reads pages until the cut is due; calls `meanwhile` after each.
fn read_pages(run: &mut Run, lines: &mut Vec<u8>, mut meanwhile: impl FnMut()) -> Result<()> {
    while let Some(page) = run.next_page()? {
        lines.extend_from_slice(&page);
        meanwhile();
    }
    Ok(())
}

/// Calls `meanwhile` between the pages of a backup.
fn lines(store: &Store, mut meanwhile: impl FnMut(usize)) -> Result<Vec<u8>> {
    let mut run = Run::begin(store, "00".into())?;
    let mut lines = Vec::new();
    let mut pages = 0;
    loop {
        read_pages(&mut run, &mut lines, || {
            meanwhile(pages);
            pages += 1;
        })?;
        if run.cut()? {
            break;
        }
    }
    lines.extend_from_slice(&run.end()?);
    Ok(lines)
}

fn write(lines: &[u8], path: &Path, options: &Options) -> Result<Written> {
    let base = options.open_base()?;
    let mut writer = Writer::create(path, options, &base)?;
    // Whatever their lengths are.
    for part in lines.chunks(7919) {
        writer.take(part)?;
    }
    writer.finish()
}

fn open(path: &Path) -> Backup {
    read::check(path).expect("sound").open(None).expect("opens")
}

fn rows(backup: &Backup) -> Vec<(String, Register)> {
    let mut rows = Vec::new();
    backup
        .read_all(|table, key, register| {
            rows.push((format!("{table}/{}", key.as_str()), register));
            Ok(())
        })
        .expect("its counts and roots are right");
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

/// All rows of a store, as a backup has them.
fn rows_of(store: &Store) -> Vec<(String, Register)> {
    let mut rows = Vec::new();
    for (name, _) in store.tables() {
        for partition in 0..=u8::MAX {
            let scanned = store.scan_partition(&name, partition, None, usize::MAX).expect("reads").rows;
            rows.extend(scanned.into_iter().map(|row| {
                let (key, register) = row.into_register().expect("sound");
                (format!("{name}/{}", key.as_str()), register)
            }));
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

/// Gives what is in a backup's directory the id that it has now, as whoever alters it can.
fn renew_id(path: &Path) {
    fs::write(path.join(content::ID), content::id(path).expect("reads")).expect("writes");
}

struct Scene {
    fixture: Fixture,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { fixture: Fixture::new(), directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// The rows of a backup are those of its cut: what was written, replaced and deleted while it was read is in it, and what was removed is not.
#[test]
fn a_backup_has_the_rows_of_its_cut() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 3000);
    merge(&store, "long", put(&long_value(100_000), Some(u64::MAX), 1));
    merge(&store, "deleted", deleted(1_700_000_000_001));
    let other = TableName::parse("other").expect("a name");
    store.merge(&other, &key("k"), |_| Ok(put("null", None, 7))).expect("merges");
    let lines = lines(&store, |page| {
        let page = page as u64;
        merge(&store, "0", put(&page.to_string(), None, 10_000 + page));
        merge(&store, &format!("new-{page}"), put("1", None, page));
        merge(&store, "2999", Register::deleted(timestamp(20_000 + page)));
    });
    let written = write(&lines.expect("reads"), &scene.path("a"), &Options::default()).expect("writes");
    let backup = open(&scene.path("a"));
    assert_eq!(backup.id, written.id);
    assert_eq!(rows(&backup), rows_of(&store));
    assert_eq!((written.live + written.tombstones) as usize, rows_of(&store).len());
    assert!(matches!(
        write(b"", &scene.path("a"), &Options::default()),
        Err(Error::StorageUnusable(why)) if why.contains("exists")
    ));
    close(store);
}

/// A cut is repeated if an entry of a strong table was applied meanwhile. What the first had read was dropped if too many rows had changed
/// by the second; and what the first had left to be read again, if the second found few. The backup was reported as made.
#[test]
fn a_cut_that_is_repeated_loses_nothing() {
    for is_first_made in [true, false] {
        let scene = Scene::new();
        let store = scene.fixture.open();
        write_rows(&store, 10);
        let mut run = Run::begin(&store, "00".into()).expect("begins");
        let mut lines = Vec::new();
        read_pages(&mut run, &mut lines, || ()).expect("reads");
        merge(&store, "early", put("1", None, 100));
        let write_many = || (0..1001).for_each(|n| merge(&store, &format!("n{n}"), put("1", None, 200 + n)));
        if !is_first_made {
            write_many();
        }
        assert_eq!(run.cut(), Ok(is_first_made));
        if is_first_made {
            write_many();
        }
        assert_eq!(run.cut(), Ok(false));
        loop {
            read_pages(&mut run, &mut lines, || ()).expect("reads");
            if run.cut().expect("reads") {
                break;
            }
        }
        lines.extend_from_slice(&run.end().expect("ends"));
        write(&lines, &scene.path("a"), &Options::default()).expect("writes");
        assert_eq!(rows(&open(&scene.path("a"))), rows_of(&store));
        close(store);
    }
}

/// While writers go on, an atomic batch is in a backup whole or not at all, and the roots at the cut are those of the rows.
#[test]
fn a_batch_is_in_a_backup_whole_or_not_at_all() {
    type Decide = Box<dyn FnOnce(Option<&Existing<'_>>) -> Result<Register> + Send>;
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 2000);
    let over = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (store, over) = (store.clone(), over.clone());
        move || {
            let mut round = 0;
            while !over.load(Ordering::SeqCst) {
                round += 1;
                let decide = |number: u64| -> Decide {
                    Box::new(move |_| Ok(put(&round.to_string(), None, 10_000 + round * 100 + number)))
                };
                let writes =
                    (0..50).map(|number| (key(&format!("batch-{number}")), decide(number))).collect();
                store.merge_all(&table(), writes).expect("merges");
            }
            round
        }
    });
    for number in 0..5 {
        let path = scene.path(&number.to_string());
        write(&lines(&store, |_| {}).expect("reads"), &path, &Options::default()).expect("writes");
        let rows = rows(&open(&path));
        let batch: Vec<_> = rows.iter().filter(|(name, _)| name.starts_with("t/batch-")).collect();
        assert!(batch.is_empty() || batch.len() == 50);
        assert!(batch.iter().all(|(_, row)| row.payload() == batch[0].1.payload()), "{batch:?}");
    }
    over.store(true, Ordering::SeqCst);
    assert!(writer.join().expect("no panic") > 5);
    close(store);
}

#[test]
fn there_is_one_backup_at_a_time_and_a_dropped_one_makes_room() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    merge(&store, "k", put("1", None, 1));
    let mut first = Run::begin(&store, "00".into()).expect("begins");
    assert!(first.next_page().expect("reads").is_some());
    assert!(matches!(Run::begin(&store, "00".into()), Err(Error::Conflict(_))));
    drop(first);
    assert!(Run::begin(&store, "00".into()).is_ok());
    close(store);
}

/// A second backup has the first one's files, and its own for what differs: changed, new, deleted and removed rows.
#[test]
fn a_backup_with_a_base_writes_what_differs() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 5000);
    let first = write(&lines(&store, |_| {}).expect("reads"), &scene.path("1"), &Options::default());
    let first = first.expect("writes");
    for number in 0..50_u64 {
        merge(&store, &(number * 97).to_string(), put("0", None, 100_000 + number));
    }
    merge(&store, "new", put("1", None, 1));
    // As when its deletion was proved by a peer: nothing is left of it.
    let gone = store.read_row(&table(), &key("1")).expect("reads").expect("is there");
    assert_eq!(store.remove(vec![(table(), key("1"), gone.marker)]), Ok(1));
    let options = Options { base: Some(scene.path("1")), secret: None, ..Options::default() };
    let second = write(&lines(&store, |_| {}).expect("reads"), &scene.path("2"), &options).expect("writes");
    assert_eq!(rows(&open(&scene.path("2"))), rows_of(&store));
    assert!(
        second.bytes_written < first.bytes_written / 10,
        "{} of {}",
        second.bytes_written,
        first.bytes_written
    );
    assert_eq!(open(&scene.path("2")).manifest.layers.len(), 2);
    let mut differing = Vec::new();
    let (a, b) = (open(&scene.path("1")), open(&scene.path("2")));
    assert!(!compare::are_equal(&a, &b) && compare::are_equal(&a, &a));
    let report = |difference: Difference| {
        differing.push(difference.key);
        Ok(())
    };
    assert_eq!(compare::differences(&a, &b, report), Ok(52));
    assert!(differing.contains(&"new".to_owned()) && differing.contains(&"1".to_owned()));
    // The third has the second one's files, without the first.
    fs::remove_dir_all(scene.path("1")).expect("removes");
    let options = Options { base: Some(scene.path("2")), secret: None, ..Options::default() };
    write(&lines(&store, |_| {}).expect("reads"), &scene.path("3"), &options).expect("writes");
    assert_eq!(rows(&open(&scene.path("3"))), rows_of(&store));
    // Once what differs is a quarter of the whole, the next one is a full one.
    for number in 0..3000_u64 {
        let value = format!("\"{}\"", blake3::hash(&(number + 9_000_000).to_be_bytes()).to_hex());
        merge(&store, &number.to_string(), put(&value, None, 200_000 + number));
    }
    for (base, name, layers) in [("3", "4", 3), ("4", "5", 1)] {
        let options = Options { base: Some(scene.path(base)), secret: None, ..Options::default() };
        write(&lines(&store, |_| {}).expect("reads"), &scene.path(name), &options).expect("writes");
        let backup = open(&scene.path(name));
        assert_eq!(rows(&backup), rows_of(&store));
        assert_eq!(backup.manifest.layers.len(), layers, "{name}");
    }
    close(store);
}

/// Half a stream, and one that was changed on its way, are no backup, and leave nothing.
#[test]
fn an_incomplete_stream_is_no_backup() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 20);
    let lines = lines(&store, |_| {}).expect("reads");
    close(store);
    let text: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
    for missing in 0..text.len() {
        let mut part = text.clone();
        part.remove(missing);
        assert!(
            write(&part.concat(), &scene.path("a"), &Options::default()).is_err(),
            "without line {missing}"
        );
        assert!(write(&text[..missing].concat(), &scene.path("a"), &Options::default()).is_err());
    }
    assert_eq!(fs::read_dir(scene.directory.path()).expect("reads").count(), 0);
    // What a crash left does not stop the next.
    fs::create_dir_all(scene.path("a.partial/content")).expect("makes");
    fs::write(scene.path("a.partial/content/000001.ndjson.zst"), b"left").expect("writes");
    assert!(read::check(&scene.path("a.partial")).is_err());
    assert!(write(&lines, &scene.path("a"), &Options::default()).is_ok());
    assert!(read::check(&scene.path("a")).is_ok() && !scene.path("a.partial").exists());
}

/// A restored store has all rows, tombstones included, under the id of the node that was backed up, and says that it may lack rows. As the first
/// node of a new cluster it has another id, and nothing to doubt.
#[test]
fn a_restored_store_is_the_one_that_was_backed_up() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 1500);
    merge(&store, "long", put(&long_value(100_000), None, 1));
    merge(&store, "deleted", deleted(1_700_000_000_001));
    store.set_note("members", b"three").expect("is kept");
    let strong = TableName::parse("strong").expect("a name");
    store.make_strong(&strong).expect("is made");
    store.merge(&strong, &key("k"), |_| Ok(put("1", None, 3))).expect("merges");
    write(&lines(&store, |_| {}).expect("reads"), &scene.path("a"), &Options::default()).expect("writes");
    let (all, node, digest_key) = (rows_of(&store), store.node(), store.digest_key());
    close(store);
    for identity in [Identity::Same, Identity::NewCluster] {
        let restored = Fixture::new();
        let done = restore(&open(&scene.path("a")), &restored.data(), identity, &restored.clock(), |_| {});
        let done = done.expect("restores");
        assert_eq!((done.live + done.tombstones) as usize, all.len());
        assert!(done.has_strong);
        let again = restore(&open(&scene.path("a")), &restored.data(), identity, &restored.clock(), |_| {});
        assert!(matches!(again, Err(Error::StorageUnusable(_))));
        let store = restored.open();
        assert_eq!(rows_of(&store), all);
        assert!(store.is_strong(&strong) && !store.is_strong(&table()));
        let is_same = identity == Identity::Same;
        assert_eq!((store.node() == node, store.digest_key() == digest_key), (is_same, is_same));
        assert_ne!(store.node(), NodeId(0));
        assert_eq!(store.suspected_loss().is_some(), is_same);
        assert_eq!(store.note("members").expect("reads").is_some(), is_same);
        assert!(store.clock_bound() > store.now_ms() << 16, "it issues no timestamp twice");
        close(store);
    }
}

/// The tombstone of a key that came late was removed as soon as the restored node had started, while other members still had the key's value.
#[test]
fn garbage_that_came_late_stays_so_in_a_restored_store() {
    for is_announced in [false, true] {
        let scene = Scene::new();
        let store = with_late_garbage(&scene.fixture, is_announced);
        write(&lines(&store, |_| {}).expect("reads"), &scene.path("a"), &Options::default()).expect("writes");
        close(store);
        let restored = Fixture::new();
        restore(&open(&scene.path("a")), &restored.data(), Identity::Same, &restored.clock(), |_| {})
            .expect("restores");
        let store = restored.open();
        expect_late_garbage(&store);
        close(store);
    }
}
