//! What the log keeps over restarts, crashes, damage and full disks.

mod appending;
mod leading;
mod opening;
mod removing;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use openraft::{
    CommittedLeaderId, EntryPayload, RaftLogReader,
    storage::{RaftLogStorage, RaftLogStorageExt},
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{
    Append, Frame, Job, RaftLog, frame,
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
        wall_clock::Reading,
    },
    error::Error,
    replication::strong::{
        rpc::GroupId,
        types::{LogEntry, LogId, Vote},
    },
    storage::{Environment, Threads},
};

const DEADLINE: Duration = Duration::from_secs(60);

pub fn environment(threads: Threads) -> Environment {
    match threads {
        Threads::Many => Environment::new(Arc::new(|| 0)),
        Threads::One => Environment::simulated(
            Box::new(|| Reading { wall_ms: 0, monotonic_ms: 0 }),
            0,
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
    LogEntry { log_id: id(term, index), payload: EntryPayload::Normal(Entry::new(term, effects)) }
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
                assert!(why.contains("as a new member"), "{why}");
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
