//! What the log keeps over restarts, crashes, damage and full disks.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use openraft::{
    CommittedLeaderId, EntryPayload, RaftLogReader,
    storage::{RaftLogStorage, RaftLogStorageExt},
};
use tempfile::TempDir;

use super::{
    Frame, RaftLog, frame,
    record::{self, MARK_FILE, Mark, STATE_FILE, State, VOTE_FILE},
    segment::{self, SEGMENT_BYTES},
    view::CACHE_BYTES_MAX,
};
use crate::{
    core::{
        clock::NodeId,
        name::{Key, TableName},
        protocol::message::Row,
        register::Register,
        strong::entry::{Effect, Entry},
    },
    error::Error,
    replication::strong::types::{LogEntry, LogId, Vote},
    storage::{Environment, Threads},
};

const DEADLINE: Duration = Duration::from_secs(60);

pub fn environment(threads: Threads) -> Environment {
    match threads {
        Threads::Many => Environment::new(Arc::new(|| 0)),
        Threads::One => Environment::simulated(
            Arc::new(|| 0),
            Arc::new(|bytes| {
                bytes.fill(7);
                Ok(())
            }),
        ),
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, NodeId(1)), index)
}

fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry { log_id: id(term, index), payload: EntryPayload::Blank }
}

/// An entry of about this many bytes.
fn sized(term: u64, index: u64, bytes: usize) -> LogEntry {
    writing(term, index, 1, bytes)
}

fn writing(term: u64, index: u64, operations: usize, bytes: usize) -> LogEntry {
    let table = TableName::parse("stock").expect("a name");
    let key = |n: usize| Key::parse(&format!("key-{n}")).expect("a key");
    let text = format!("\"{}\"", "x".repeat(bytes));
    let register = || {
        let value = serde_json::from_str(&text).expect("a value");
        Register::live(value, None, crate::core::clock::Timestamp { hlc: index + 1, node: NodeId(1) })
    };
    let effects =
        (0..operations).map(|n| Effect::Merge(table.clone(), Row::new(key(n), register()))).collect();
    LogEntry { log_id: id(term, index), payload: EntryPayload::Normal(Entry { term, effects }) }
}

struct Fixture {
    directory: TempDir,
    threads: Threads,
}

impl Fixture {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), threads: Threads::Many }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("raft")
    }

    fn open(&self) -> RaftLog {
        self.try_open().expect("the log opens")
    }

    fn try_open(&self) -> Result<RaftLog, Error> {
        RaftLog::open(&self.path(), &environment(self.threads))
    }

    /// The text of the damage that opening finds, which has to name this file and a remedy.
    fn damage(&self, file: &Path) -> String {
        match self.try_open().err() {
            Some(Error::StorageDamaged(why)) => {
                assert!(why.contains(&file.display().to_string()), "{file:?} in {why}");
                assert!(why.contains("comes back as a new replica"), "{why}");
                why
            }
            other => panic!("damage was not found: {other:?}"),
        }
    }

    fn segment(&self, first: u64) -> PathBuf {
        segment::path(&self.path(), first)
    }

    /// The directory as it is now, elsewhere: what a crash at this moment leaves.
    fn copy(&self) -> Self {
        let copy = Self::new();
        fs::create_dir(copy.path()).expect("a directory");
        for entry in fs::read_dir(self.path()).expect("the files") {
            let path = entry.expect("a file").path();
            fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        copy
    }

    fn state(&self) -> State {
        record::read_state(&self.path()).expect("readable").expect("there")
    }

    /// Puts the mark back, as after a power cut: it is not synced.
    fn lower_mark(&self, synced_next: u64) {
        let mark = record::MarkFile::open(&self.path()).expect("the mark");
        mark.write(&Mark { synced_next, committed: None }).expect("written");
    }
}

async fn append(log: &mut RaftLog, entries: impl IntoIterator<Item = LogEntry>) {
    log.blocking_append(entries.into_iter().collect::<Vec<_>>()).await.expect("appended");
}

async fn all(log: &mut RaftLog) -> Vec<LogEntry> {
    log.try_get_log_entries(..).await.expect("readable")
}

async fn indexes(log: &mut RaftLog) -> Vec<u64> {
    all(log).await.iter().map(|entry| entry.log_id.index).collect()
}

/// A closed log of entries 0..count of term 1, each in a group of its own.
async fn of_blanks(count: u64) -> Fixture {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    log.save_vote(&Vote::new(1, NodeId(1))).await.expect("saved");
    for index in 0..count {
        append(&mut log, [blank(1, index)]).await;
    }
    fixture
}

/// A closed log of three or more segments, each of few large entries. The second number is the first index of each segment.
async fn of_segments() -> (Fixture, Vec<u64>) {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    log.save_vote(&Vote::new(1, NodeId(1))).await.expect("saved");
    for index in 0..10 {
        append(&mut log, [sized(1, index, 5 * 1024 * 1024)]).await;
    }
    drop(log);
    let firsts = segment::list(&fixture.path()).expect("listed");
    assert!(firsts.len() >= 3 && firsts[0] == 0, "{firsts:?}");
    (fixture, firsts)
}

#[tokio::test]
async fn a_log_that_is_opened_again_is_the_same() {
    for threads in [Threads::Many, Threads::One] {
        let fixture = Fixture { threads, ..Fixture::new() };
        let mut log = fixture.open();
        let vote = Vote::new_committed(3, NodeId(2));
        log.save_vote(&vote).await.expect("saved");
        append(&mut log, (0..5).map(|index| writing(1, index, 3, 10))).await;
        append(&mut log, (5..9).map(|index| blank(2, index))).await;
        log.save_committed(Some(id(2, 7))).await.expect("saved");
        log.purge(id(1, 1)).await.expect("purged");
        let before = (log.get_log_state().await.expect("known"), all(&mut log).await);
        drop(log);

        let mut log = fixture.open();
        assert_eq!(before, (log.get_log_state().await.expect("known"), all(&mut log).await));
        assert_eq!(before.1.len(), 7);
        assert_eq!(log.read_vote().await.expect("known"), Some(vote));
        assert_eq!(log.read_committed().await.expect("known"), Some(id(2, 7)));
    }
}

#[tokio::test]
async fn appends_that_wait_share_a_sync() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    let reader = log.reader.clone();
    let (gate, closed) = mpsc::channel();
    reader.0.disk.faults.lock().expect("whole").sync_waits = Some(closed);
    let (told, flushed) = mpsc::channel();
    const APPENDS: u64 = 200;
    for index in 0..APPENDS {
        let told = told.clone();
        let done =
            Box::new(move |result: std::io::Result<()>| told.send((index, result.is_ok())).expect("heard"));
        log.submit(vec![blank(1, index)], done).await.expect("handed over");
        assert_eq!(
            log.get_log_state().await.expect("known").last_log_id,
            Some(id(1, index)),
            "readable at once"
        );
    }
    assert!(flushed.try_recv().is_err(), "nothing is durable before the first sync");
    drop(gate);
    let told: Vec<(u64, bool)> =
        (0..APPENDS).map(|_| flushed.recv_timeout(DEADLINE).expect("an answer")).collect();
    assert_eq!(told, (0..APPENDS).map(|index| (index, true)).collect::<Vec<_>>(), "in order, all durable");
    // One for what was there first, and one for all that came during that.
    assert!((1..=2).contains(&reader.0.disk.syncs()), "{} syncs", reader.0.disk.syncs());
}

#[tokio::test]
async fn an_append_is_answered_after_its_sync() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    append(&mut log, [blank(1, 0)]).await;
    log.reader.0.disk.faults.lock().expect("whole").syncs_fail = true;
    assert!(log.blocking_append([blank(1, 1)]).await.is_err());
    assert_eq!(indexes(&mut log).await, [0], "what is not durable is not in the log");

    // Nobody knows what the disk has, so even a disk that works again changes nothing.
    log.reader.0.disk.faults.lock().expect("whole").syncs_fail = false;
    assert!(log.blocking_append([blank(1, 1)]).await.is_err());
    assert!(log.save_vote(&Vote::new(5, NodeId(1))).await.is_err());
    assert_eq!(indexes(&mut log).await, [0]);
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [0]);
}

#[tokio::test]
async fn a_full_disk_refuses_an_append_and_keeps_nothing_of_it() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    log.save_vote(&Vote::new(1, NodeId(1))).await.expect("saved");
    append(&mut log, [blank(1, 0)]).await;
    let length = fs::metadata(fixture.segment(0)).expect("there").len();
    for room in [0, 1, 50, 150] {
        log.reader.0.disk.faults.lock().expect("whole").room = Some(room);
        let (told, flushed) = mpsc::channel();
        let tell = move |result: std::io::Result<()>| told.send(result).expect("heard");
        log.submit(vec![sized(1, 1, 500), sized(1, 2, 500)], Box::new(tell)).await.expect("handed over");
        let refused = flushed.recv_timeout(DEADLINE).expect("an answer").expect_err("the disk is full");
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
        assert_eq!(fs::metadata(fixture.segment(0)).expect("there").len(), length);
        assert_eq!(indexes(&mut log).await, [0]);
        assert_eq!(indexes(&mut fixture.copy().open()).await, [0], "after a crash too");
    }
    log.reader.0.disk.faults.lock().expect("whole").room = None;
    append(&mut log, [sized(1, 1, 500), sized(1, 2, 500)]).await;
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1, 2], "and goes on when there is room");
}

#[tokio::test]
async fn an_append_behind_a_failed_one_fails_too() {
    let fixture = Fixture { threads: Threads::One, ..Fixture::new() };
    let mut log = fixture.open();
    append(&mut log, [blank(1, 0)]).await;
    let job = |index| {
        let (told, flushed) = mpsc::channel();
        let frames = vec![Frame::new(&blank(1, index)).expect("short")];
        let tell = Box::new(move |result: std::io::Result<()>| told.send(result.is_ok()).expect("heard"));
        (super::Job::Append(super::Append { frames, begins: false, flushed: tell, room: None }), flushed)
    };
    let Some(super::Worker::Caller(writer)) = &log.worker else { panic!("there is no thread") };
    let ((gap, refused), (next, written)) = (job(2), job(1));
    writer.lock().expect("whole").work(vec![gap, next]);
    assert!(!refused.recv().expect("told"));
    assert!(written.recv().expect("told"));
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1]);
}

#[tokio::test]
async fn entries_that_do_not_follow_are_refused() {
    let fixture = of_blanks(3).await;
    let mut log = fixture.open();
    for wrong in [vec![blank(1, 4)], vec![blank(1, 2)], vec![blank(0, 3)], vec![blank(1, 3), blank(1, 5)]] {
        assert!(log.blocking_append(wrong.clone()).await.is_err(), "{wrong:?}");
    }
    assert_eq!(indexes(&mut log).await, [0, 1, 2]);
    append(&mut log, [blank(1, 3)]).await;
}

/// Cuts the file at every byte of its last frame, and spoils every byte of it.
#[tokio::test]
async fn an_end_that_the_power_tore_is_cut_off() {
    let fixture = of_blanks(4).await;
    let bytes = fs::read(fixture.segment(0)).expect("there");
    let frame_bytes = Frame::new(&blank(1, 3)).expect("short").bytes();
    let start = bytes.len() - frame_bytes;
    let torn = fixture.copy();
    for at in start..bytes.len() {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 0x40;
        let zeros = [&bytes[..at], &vec![0; bytes.len() - at]].concat();
        for content in [&bytes[..at], &spoilt, &zeros] {
            fs::write(torn.segment(0), content).expect("written");
            torn.lower_mark(3);
            if content == bytes {
                continue;
            }
            let mut log = torn.open();
            assert_eq!(indexes(&mut log).await, [0, 1, 2], "byte {at}");
            // The place is used again, and nothing comes back.
            append(&mut log, [blank(2, 3)]).await;
            drop(log);
            assert_eq!(all(&mut torn.open()).await[3].log_id, id(2, 3), "byte {at}");
        }
    }
}

/// A power cut can keep the end of what it spoils: pages are written in any order.
#[tokio::test]
async fn a_torn_group_is_cut_off_where_it_is_torn() {
    let fixture = of_blanks(2).await;
    let start = fs::metadata(fixture.segment(0)).expect("there").len() as usize;
    append(&mut fixture.open(), (2..6).map(|index| blank(1, index))).await;
    fixture.lower_mark(2);
    let mut bytes = fs::read(fixture.segment(0)).expect("there");
    let frame_bytes = (bytes.len() - start) / 4;
    bytes[start + frame_bytes + 20] ^= 1;
    fs::write(fixture.segment(0), bytes).expect("written");
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1, 2]);
}

#[tokio::test]
async fn an_end_that_was_durable_is_missed() {
    let fixture = of_blanks(4).await;
    let bytes = fs::read(fixture.segment(0)).expect("there");
    let frame_bytes = Frame::new(&blank(1, 3)).expect("short").bytes();
    for length in [bytes.len() - 1, bytes.len() - frame_bytes, bytes.len() - frame_bytes - 1] {
        fs::write(fixture.segment(0), &bytes[..length]).expect("written");
        fixture.damage(&fixture.segment(0));
    }
}

#[tokio::test]
async fn a_flipped_byte_in_the_middle_is_damage() {
    let fixture = of_blanks(5).await;
    let bytes = fs::read(fixture.segment(0)).expect("there");
    let last = bytes.len() - Frame::new(&blank(1, 4)).expect("short").bytes();
    fixture.lower_mark(0);
    for at in 0..last {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 0x10;
        fs::write(fixture.segment(0), &spoilt).expect("written");
        fixture.damage(&fixture.segment(0));
        assert_eq!(fs::read(fixture.segment(0)).expect("there"), spoilt, "nothing is repaired");
    }
    fs::write(fixture.segment(0), &bytes).expect("written");
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1, 2, 3, 4]);
}

/// A frame in a value is no frame: its checksum lacks the salt. Otherwise a client could make an end that the power tore look like damage.
#[tokio::test]
async fn a_frame_of_another_log_is_none() {
    let mut bytes = Vec::new();
    Frame::new(&blank(1, 9)).expect("short").write(1, 9, &mut bytes);
    assert!(frame::read(1, &bytes).is_some());
    assert!(frame::read(2, &bytes).is_none());
    assert!(frame::find(2, &bytes, 0).is_none());
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let (fixture, firsts) = of_segments().await;
    for file in [STATE_FILE, VOTE_FILE] {
        let without = fixture.copy();
        fs::remove_file(without.path().join(file)).expect("removed");
        without.damage(&without.path().join(file));
    }
    for missing in &firsts {
        let without = fixture.copy();
        fs::remove_file(without.segment(*missing)).expect("removed");
        assert!(matches!(without.try_open().err(), Some(Error::StorageDamaged(_))), "segment {missing}");
    }
    let without = fixture.copy();
    fs::remove_file(without.path().join(MARK_FILE)).expect("removed");
    assert_eq!(indexes(&mut without.open()).await.len(), 10, "the mark is a check and no more");
}

#[tokio::test]
async fn a_vote_that_was_lost_is_missed_even_without_entries() {
    let fixture = Fixture::new();
    fixture.open().save_vote(&Vote::new(7, NodeId(3))).await.expect("saved");
    assert_eq!(fixture.open().read_vote().await.expect("known"), Some(Vote::new(7, NodeId(3))));
    fs::remove_file(fixture.path().join(VOTE_FILE)).expect("removed");
    fixture.damage(&fixture.path().join(VOTE_FILE));
}

#[tokio::test]
async fn a_small_file_with_a_flipped_bit_is_damage() {
    let fixture = of_blanks(2).await;
    for name in [STATE_FILE, VOTE_FILE] {
        let file = fixture.path().join(name);
        let bytes = fs::read(&file).expect("there");
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 2;
            fs::write(&file, &spoilt).expect("written");
            fixture.damage(&file);
        }
        fs::write(&file, &bytes).expect("written");
    }
}

#[tokio::test]
async fn a_creation_that_a_crash_interrupted_is_begun_again() {
    let fixture = of_blanks(0).await;
    fs::remove_file(fixture.path().join(MARK_FILE)).expect("removed");
    fs::remove_file(fixture.path().join(STATE_FILE)).expect("removed");
    record::write_vote(&fixture.path(), None).expect("written");
    append(&mut fixture.copy().open(), [blank(1, 0)]).await;
    fs::write(fixture.segment(0), [1, 2, 3]).expect("written");
    append(&mut fixture.copy().open(), [blank(1, 0)]).await;
    fs::remove_file(fixture.segment(0)).expect("removed");
    append(&mut fixture.copy().open(), [blank(1, 0)]).await;
}

#[tokio::test]
async fn old_entries_are_read_from_the_files() {
    let (fixture, firsts) = of_segments().await;
    let mut log = fixture.open();
    for round in ["opened", "appended to"] {
        let (bytes, first) = {
            let view = log.reader.0.view();
            (view.cache.bytes(), view.cache.first())
        };
        assert!(bytes <= CACHE_BYTES_MAX && first >= firsts[1], "{round}");
        let (entries, last) = (all(&mut log).await, if round == "opened" { 9 } else { 12 });
        assert_eq!(
            entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(),
            (0..=last).collect::<Vec<_>>()
        );
        assert_eq!(entries[2], sized(1, 2, 5 * 1024 * 1024));
        let across = log.try_get_log_entries(2..=8).await.expect("readable");
        assert_eq!(across, entries[2..9], "{round}");
        for start in [0, 9] {
            let limited = log.limited_get_log_entries(start, 10).await.expect("readable");
            assert_eq!(
                limited,
                entries[start as usize..][..1],
                "one is given though it is longer than the limit"
            );
        }
        if round == "opened" {
            append(&mut log, (10..13).map(|index| sized(1, index, 5 * 1024 * 1024))).await;
        }
    }
    let limited = Fixture::new();
    let mut log = limited.open();
    append(&mut log, (0..40).map(|index| sized(1, index, 1024 * 1024))).await;
    for start in [0, 30] {
        let read = log.limited_get_log_entries(start, 40).await.expect("readable");
        assert_eq!(
            read.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(),
            [start, start + 1, start + 2]
        );
    }
}

#[tokio::test]
async fn reading_a_file_that_was_damaged_since_is_an_error() {
    let (fixture, _) = of_segments().await;
    let mut log = fixture.open();
    let mut bytes = fs::read(fixture.segment(0)).expect("there");
    bytes[1000] ^= 1;
    fs::write(fixture.segment(0), bytes).expect("written");
    let refused = log.try_get_log_entries(0..1).await.expect_err("damaged").to_string();
    assert!(refused.contains("entry 0 cannot be read"), "{refused}");
}

#[tokio::test]
async fn truncated_entries_do_not_come_back() {
    let (fixture, firsts) = of_segments().await;
    // In the newest segment, at the beginning of one, in the middle of an older one, and all.
    for index in [9, firsts[2], firsts[1], firsts[1] + 1, 0] {
        let copy = fixture.copy();
        let mut log = copy.open();
        log.truncate(id(1, index)).await.expect("truncated");
        let kept: Vec<u64> = (0..index).collect();
        assert_eq!(indexes(&mut log).await, kept);
        assert_eq!(indexes(&mut copy.copy().open()).await, kept, "after a crash");
        let last = index.checked_sub(1).map(|last| id(1, last));
        assert_eq!(log.get_log_state().await.expect("known").last_log_id, last);
        append(&mut log, [sized(2, index, 10), sized(2, index + 1, 10)]).await;
        drop(log);
        let mut log = copy.open();
        assert_eq!(indexes(&mut log).await, [kept, vec![index, index + 1]].concat());
        assert_eq!(all(&mut log).await[index as usize], sized(2, index, 10));
    }
}

#[tokio::test]
async fn a_crash_during_a_truncation_leaves_all_or_nothing() {
    let (fixture, firsts) = of_segments().await;
    let index = firsts[1] + 1;
    // Before the state says so, only the mark is lower.
    let before = fixture.copy();
    before.lower_mark(index);
    assert_eq!(indexes(&mut before.copy().open()).await, (0..10).collect::<Vec<_>>());
    // After that, whatever of the files is still there.
    record::write_state(&before.path(), &State { newest: firsts[1], cut: Some(index), ..before.state() })
        .expect("written");
    let whole = before.copy();
    let cut = before.copy();
    let offset =
        segment::HEAD_BYTES as u64 + Frame::new(&sized(1, 0, 5 * 1024 * 1024)).expect("short").bytes() as u64;
    let file = fs::OpenOptions::new().write(true).open(cut.segment(firsts[1])).expect("there");
    file.set_len(offset).expect("cut");
    let forgotten = cut.copy();
    record::write_state(&forgotten.path(), &State { cut: None, ..forgotten.state() }).expect("written");
    let cleared = forgotten.copy();
    fs::remove_file(cleared.segment(firsts[2])).expect("removed");
    for (step, crashed) in [whole, cut, forgotten, cleared].iter().enumerate() {
        let mut log = crashed.open();
        assert_eq!(indexes(&mut log).await, (0..index).collect::<Vec<_>>(), "step {step}");
        append(&mut log, [blank(2, index)]).await;
        drop(log);
        assert_eq!(crashed.state().cut, None);
        assert_eq!(indexes(&mut crashed.open()).await, (0..=index).collect::<Vec<_>>(), "step {step}");
        assert_eq!(segment::list(&crashed.path()).expect("listed"), firsts[..2]);
    }
}

#[tokio::test]
async fn purging_removes_whole_segments() {
    let (fixture, firsts) = of_segments().await;
    let mut log = fixture.open();
    log.purge(id(1, firsts[1])).await.expect("purged");
    assert_eq!(segment::list(&fixture.path()).expect("listed"), firsts[1..]);
    assert_eq!(indexes(&mut log).await, (firsts[1] + 1..10).collect::<Vec<_>>());
    assert_eq!(indexes(&mut fixture.copy().open()).await, (firsts[1] + 1..10).collect::<Vec<_>>());
    assert!(log.truncate(id(1, 0)).await.is_err(), "what is purged is not truncated");
    drop(log);

    let mut log = fixture.open();
    log.purge(id(1, 9)).await.expect("purged");
    assert_eq!(segment::list(&fixture.path()).expect("listed"), [10], "one is always there");
    append(&mut log, [blank(2, 10)]).await;
    log.purge(id(1, 3)).await.expect("nothing to do");
    drop(log);
    let mut log = fixture.open();
    assert_eq!(indexes(&mut log).await, [10]);
    assert_eq!(log.get_log_state().await.expect("known").last_purged_log_id, Some(id(1, 9)));
}

#[tokio::test]
async fn a_snapshot_can_be_newer_than_the_log() {
    let fixture = of_blanks(5).await;
    let mut log = fixture.open();
    log.purge(id(3, 20)).await.expect("purged");
    for _ in 0..2 {
        let state = log.get_log_state().await.expect("known");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(3, 20)), Some(id(3, 20))));
        assert!(indexes(&mut log).await.is_empty());
        drop(log);
        log = fixture.open();
    }
    append(&mut log, [blank(3, 20)]).await;
    assert!(indexes(&mut log).await.is_empty(), "the snapshot has it");
    append(&mut log, [blank(3, 21)]).await;
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [21]);
}

/// A snapshot of a newer term that ends within the log: what is behind it here was never agreed.
#[tokio::test]
async fn entries_behind_a_snapshot_of_a_newer_term_go() {
    let fixture = of_blanks(5).await;
    let mut log = fixture.open();
    log.purge(id(3, 2)).await.expect("purged");
    assert_eq!(log.get_log_state().await.expect("known").last_log_id, Some(id(3, 2)));
    append(&mut log, [blank(3, 3)]).await;
    drop(log);
    let mut log = fixture.open();
    assert_eq!(all(&mut log).await, [blank(3, 3)]);
}

#[tokio::test]
async fn a_crash_during_a_purge_leaves_all_or_nothing() {
    let (fixture, firsts) = of_segments().await;
    let upto = firsts[2];
    let named = fixture.copy();
    record::write_state(&named.path(), &State { purged: Some(id(1, upto)), ..named.state() })
        .expect("written");
    let one_gone = named.copy();
    fs::remove_file(one_gone.segment(firsts[0])).expect("removed");
    // Directories may keep removals in another order.
    let other_gone = named.copy();
    fs::remove_file(other_gone.segment(firsts[1])).expect("removed");
    for (step, crashed) in [named, one_gone, other_gone].iter().enumerate() {
        assert_eq!(indexes(&mut crashed.open()).await, (upto + 1..10).collect::<Vec<_>>(), "step {step}");
        assert_eq!(segment::list(&crashed.path()).expect("listed"), firsts[2..], "step {step}");
    }
    // A new segment that the state does not name yet is not there.
    let unnamed = fixture.copy();
    segment::create(&unnamed.path(), unnamed.state().salt, 10).expect("created");
    fs::write(unnamed.segment(15), "torn").expect("written");
    let mut log = unnamed.open();
    assert_eq!(indexes(&mut log).await, (0..10).collect::<Vec<_>>());
    assert_eq!(segment::list(&unnamed.path()).expect("listed"), firsts);
}

#[tokio::test]
async fn a_group_longer_than_a_segment_is_written_in_pieces() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    append(&mut log, (0..50).map(|index| sized(1, index, 1024 * 1024))).await;
    let firsts = segment::list(&fixture.path()).expect("listed");
    assert!(firsts.len() >= 3, "{firsts:?}");
    for first in &firsts {
        let bytes = fs::metadata(fixture.segment(*first)).expect("there").len();
        assert!(bytes < 2 * SEGMENT_BYTES, "segment {first}: {bytes}");
    }
    let figures = log.reader.figures();
    assert_eq!(figures.entries, 50);
    assert!(figures.disk_bytes > 50 * 1024 * 1024 && figures.syncs >= 6, "{figures:?}");
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, (0..50).collect::<Vec<_>>());
}

/// Prints how many durable appends a second the disk takes, of 32 operations each. On demand: `cargo test --release appends_a_second --
/// --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn appends_a_second() {
    const ENTRIES: u64 = 2000;
    for waiting in [1, 8, 64] {
        let fixture = Fixture::new();
        let mut log = fixture.open();
        let begin = Instant::now();
        let (told, flushed) = mpsc::channel();
        for index in 0..ENTRIES {
            let told = told.clone();
            let tell = Box::new(move |result: std::io::Result<()>| told.send(result).expect("heard"));
            log.submit(vec![writing(1, index, 32, 100)], tell).await.expect("handed over");
            if index + 1 >= waiting {
                flushed.recv_timeout(DEADLINE).expect("an answer").expect("durable");
            }
        }
        for _ in 1..waiting {
            flushed.recv_timeout(DEADLINE).expect("an answer").expect("durable");
        }
        let a_second = ENTRIES as f64 / begin.elapsed().as_secs_f64();
        let figures = log.reader.figures();
        println!(
            "{waiting} waiting: {a_second:.0} entries/s, {:.0} operations/s, {figures:?}",
            a_second * 32.0
        );
        drop(log);
        let begin = Instant::now();
        assert_eq!(fixture.open().reader.figures().entries, ENTRIES);
        println!("opened in {:?}", begin.elapsed());
    }
}
