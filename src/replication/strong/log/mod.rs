//! The Raft log and the vote, as files of their own in one directory.
//!
//! openraft is told that entries are durable after they are: one writer appends what waits, syncs once for all of it, and then says so.
//! Entries are readable as soon as they are handed over, and the newest stay in memory.
//!
//! With one exception, so that the leader's sync and those of its followers go on at once (Ongaro's thesis, 10.2.1). openraft (0.9) sends the entries
//! that a leader writes only when it takes them for durable, so of those it is told at once. It may then count the leader for a majority too
//! early, and what it takes for committed counts for nothing until the leader has synced it: nothing of it is applied, told to a follower or marked
//! before `Synced::until` returns. An entry that changes the members, or begins a term, is told of after its sync: what openraft
//! decides by it does not wait.
//!
//! - `frame`: the bytes of an entry. `segment`: the files that hold them. `record`: the small files for state, vote and mark.
//! - `writer`: the one thread that writes, and `trim`: how entries are removed. `disk`: writing and syncing, counted.
//! - `synced`: how far it is durable. `view`: what readers see, and `reader`: how they read it. `recovery`: opening.
//!
//! The directory always has the state, the vote and at least one segment. So whatever is missing is noticed, and a log that was damaged is
//! never taken for a shorter one. A crash at any point leaves the log as it was before a change, or after it.
//!
//! Lock order: `files`, then `view`.

mod disk;
mod frame;
mod reader;
mod record;
mod recovery;
mod segment;
#[cfg(test)]
mod suite;
mod synced;
#[cfg(test)]
mod tests;
mod trim;
mod view;
mod writer;

use std::{
    fmt::Debug,
    fs, io,
    ops::RangeBounds,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, atomic::AtomicBool},
    thread::{self, JoinHandle},
    time::Duration,
};

use openraft::{
    AnyError, CommittedLeaderId, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use self::{
    disk::Disk,
    frame::Frame,
    record::MarkFile,
    recovery::Recovered,
    synced::Synced,
    view::{View, next},
    writer::{Append, Flushed, Job, Writer},
};
pub use self::{
    frame::ENTRY_BYTES_MAX,
    reader::{Figures, LogReader},
    segment::SEGMENT_BYTES,
};
use super::{
    rpc::GroupId,
    types::{Group, LogEntry, LogId, StorageError, Vote},
};
use crate::{
    core::clock::NodeId,
    error::{Error, Result},
    storage::{Environment, Threads, engine, environment::run_aside},
};

/// Jobs that wait for the writer. openraft waits for each; this leaves room for those that do not.
const QUEUE_JOBS_MAX: usize = 256;
/// Bytes of entries that wait for the writer, unless one append alone is longer. Eight groups.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long entries that are to be purged wait until what they did is durable: a slow sync. Nothing else goes on meanwhile, so then the log fails, and
/// is opened again once the disk takes writes.
const COVERED_MAX: Duration = Duration::from_secs(10);

/// The file that names the group.
const GROUP_FILE: &str = "group";
/// The file that shows whether the disk takes anything.
const PROBE_FILE: &str = "probe";
/// Its length: an entry of many requests, and some more.
const PROBE_BYTES: usize = 2 * 1024 * 1024;

/// What the log and its readers share.
#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    salt: u64,
    environment: Environment,
    disk: Disk,
    view: Mutex<View>,
    synced: Synced,
    /// Held shared while files are read, and alone while entries are removed from them.
    files: RwLock<()>,
    mark_failed: AtomicBool,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_files(&self) -> RwLockWriteGuard<'_, ()> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open log. Dropping it finishes what was asked for and closes it; in an environment without threads it may be lost.
pub struct RaftLog {
    reader: LogReader,
    /// The last entry that is durable elsewhere; `None` if it is to be taken for granted.
    covered: Option<watch::Receiver<Option<LogId>>>,
    /// Whose log it is; `None` if it never leads.
    node: Option<NodeId>,
    /// Room in the queue, in bytes.
    room: Arc<Semaphore>,
    /// The queue of the writer; `None` once the log is closed.
    jobs: Option<mpsc::Sender<Job>>,
    /// The writer's thread; `None` in an environment without threads, where it is a task.
    thread: Option<JoinHandle<()>>,
}

impl RaftLog {
    /// Opens the log in a directory, and creates it if it is missing. Whoever calls keeps other processes out.
    ///
    /// # Errors
    /// `StorageDamaged`, with the remedy; `StorageUnusable` for a newer format; `StorageFull`, `Io`.
    pub fn open(directory: &Path, environment: &Environment) -> Result<Self> {
        let Recovered { state, view, file } = recovery::recover(directory, environment)?;
        let mark = MarkFile::open(directory)?;
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            salt: state.salt,
            environment: environment.clone(),
            disk: Disk::new(environment.disk()),
            synced: Synced::new(view.synced_next()),
            view: Mutex::new(view),
            files: RwLock::default(),
            mark_failed: AtomicBool::default(),
        });
        let writer = Writer::new(shared.clone(), state, file, mark);
        let (jobs, waiting) = mpsc::channel(QUEUE_JOBS_MAX);
        let work = writer.run(waiting);
        let thread = match environment.threads() {
            Threads::One => {
                tokio::spawn(work);
                None
            }
            Threads::Many => Some(start_thread(work)?),
        };
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        Ok(Self { reader: LogReader(shared), covered: None, node: None, room, jobs: Some(jobs), thread })
    }

    /// Names the node whose log it is.
    ///
    /// One that led when it stopped comes back as one that stood for election. openraft (0.9) would lead on in the same term, and take the
    /// entries that it has applied for all there are. The log may have more, which may have been answered: only an entry of a new term, behind
    /// them, shows that they are applied.
    #[must_use]
    pub fn of_node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        if let Some(vote) = &mut self.reader.0.view().vote
            && vote.leader_id().voted_for() == Some(node)
        {
            vote.committed = false;
        }
        self
    }

    /// Checks that the log is of this group. It is from now on if it has no entries yet, or was written before logs named their group.
    ///
    /// # Errors
    /// `StorageDamaged` if it is of another; `Io`, `StorageFull`.
    pub fn of_group(self, group: GroupId) -> Result<Self> {
        let shared = &self.reader.0;
        let (path, named) = (shared.directory.join(GROUP_FILE), format!("{:016x}\n", group.0));
        let found = match fs::read(&path) {
            Ok(found) => Some(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(format_args!("reading {}", path.display()), &e)),
        };
        match found {
            Some(found) if found == named.as_bytes() => {}
            Some(_) if !shared.view().begins() => {
                let why = "it is of another group than the storage, of which an older state seems to be back";
                return Err(damaged(&path, 0, why));
            }
            Some(_) | None => engine::replace_file(&shared.directory, GROUP_FILE, named.as_bytes())?,
        }
        Ok(self)
    }

    /// Has no entry purged before it is covered: before what it did is durable elsewhere, with a record that says so.
    ///
    /// # Errors
    /// `StorageDamaged` if entries are purged already that are not.
    pub fn purged_by(mut self, covered: watch::Receiver<Option<LogId>>) -> Result<Self> {
        let (purged, last) = (next(self.reader.purged()), next(*covered.borrow()));
        if purged > last {
            return Err(Error::StorageDamaged(format!(
                "the storage has what the Raft log of strong tables did before entry {last}, and the log begins with entry {purged}: what is \
                 between is lost here, so the node may not take part. {REMEDY}"
            )));
        }
        self.covered = Some(covered);
        Ok(self)
    }

    /// Returns when an entry is covered.
    async fn until_covered(&mut self, log_id: LogId) -> Result<()> {
        let Some(covered) = &mut self.covered else { return Ok(()) };
        let is_covered = |covered: &Option<LogId>| next(*covered) > log_id.index;
        match timeout(COVERED_MAX, covered.wait_for(is_covered)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::Io(format!(
                "the storage has not made durable what the Raft log did up to entry {log_id} within {} s: it stays in the log",
                COVERED_MAX.as_secs()
            ))),
        }
    }

    /// Whether openraft need not wait until these entries are durable: this node writes them as the leader, and they change nothing that openraft
    /// decides by.
    fn may_sync_later(&self, entries: &[LogEntry]) -> bool {
        let (Some(node), Some(vote)) = (self.node, self.reader.0.view().vote) else { return false };
        let leader = CommittedLeaderId::new(vote.leader_id().term, node);
        vote == Vote::new_committed(leader.term, node)
            && entries.iter().all(|entry| {
                entry.log_id.leader_id == leader && matches!(entry.payload, EntryPayload::Normal(_))
            })
    }

    /// Hands entries over: they are readable on return, and durable when `flushed` is told so. Without it, all that follows fails if they cannot be
    /// written.
    ///
    /// # Errors
    /// `TooLarge`; `Io` if they do not follow the last entry, or the writer has stopped. `flushed` is not told then.
    async fn submit(&mut self, mut entries: Vec<LogEntry>, flushed: Option<Flushed>) -> Result<()> {
        // A durable snapshot has what is purged.
        let purged_next = next(self.reader.0.view().purged);
        entries.retain(|entry| entry.log_id.index >= purged_next);
        let frames = entries.iter().map(Frame::new).collect::<Result<Vec<_>>>()?;
        let Some(first) = entries.first().map(|entry| entry.log_id) else {
            if let Some(flushed) = flushed {
                flushed(Ok(()));
            }
            return Ok(());
        };
        let bytes = frames.iter().map(Frame::bytes).sum::<usize>().min(QUEUE_BYTES_MAX);
        let room = self.room.clone().acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
        let slot = self.slot().await?;
        let begins = {
            let mut view = self.reader.0.view();
            let begins = view.begins();
            check_sequence(&entries, if begins { first.index } else { next(view.last) }, view.last)?;
            for (entry, frame) in entries.into_iter().zip(&frames) {
                view.push(Arc::new(entry), frame.bytes());
            }
            begins
        };
        slot.send(Job::Append(Append { frames, begins, flushed, room: room.ok() }));
        Ok(())
    }

    /// Asks the writer for something, and waits until it is done.
    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Result<()>>) -> Job) -> Result<()> {
        let (reply, done) = oneshot::channel();
        self.slot().await?.send(job(reply));
        done.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Waits for a place in the writer's queue.
    async fn slot(&self) -> Result<mpsc::Permit<'_, Job>> {
        match &self.jobs {
            Some(jobs) => jobs.reserve().await.map_err(|_| stopped()),
            None => Err(stopped()),
        }
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = run_aside(|| thread.join());
        }
    }
}

/// Runs the writer on a thread of its own: it blocks while the disk works.
fn start_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<JoinHandle<()>> {
    let failed = |e: io::Error| Error::io("starting the writer of the Raft log", &e);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
    let thread = thread::Builder::new().name("raft-log".into()).spawn(move || runtime.block_on(work));
    thread.map_err(failed)
}

impl RaftLogReader<Group> for RaftLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> std::result::Result<Vec<LogEntry>, StorageError> {
        self.reader.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> std::result::Result<Vec<LogEntry>, StorageError> {
        self.reader.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<Group> for RaftLog {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> std::result::Result<LogState<Group>, StorageError> {
        let view = self.reader.0.view();
        Ok(LogState { last_purged_log_id: view.purged, last_log_id: view.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> std::result::Result<(), StorageError> {
        let saved = self.ask(|reply| Job::Vote(*vote, reply)).await;
        saved.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)).into())
    }

    async fn read_vote(&mut self) -> std::result::Result<Option<Vote>, StorageError> {
        Ok(self.reader.0.view().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> std::result::Result<(), StorageError> {
        self.reader.0.view().committed = committed;
        let slot = self.slot().await.map_err(|e| writing(&e))?;
        slot.send(Job::Committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> std::result::Result<Option<LogId>, StorageError> {
        Ok(self.reader.0.view().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Group>,
    ) -> std::result::Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        for entry in &entries {
            if let EntryPayload::Normal(entry) = &entry.payload {
                entry.proposal.note_appended();
            }
        }
        if self.may_sync_later(&entries) {
            self.submit(entries, None).await.map_err(|e| writing(&e))?;
            callback.log_io_completed(Ok(()));
            return Ok(());
        }
        let flushed = Box::new(|result: io::Result<()>| callback.log_io_completed(result));
        self.submit(entries, Some(flushed)).await.map_err(|e| writing(&e))
    }

    async fn truncate(&mut self, log_id: LogId) -> std::result::Result<(), StorageError> {
        self.ask(|reply| Job::Truncate(log_id.index, reply)).await.map_err(|e| writing(&e))
    }

    async fn purge(&mut self, log_id: LogId) -> std::result::Result<(), StorageError> {
        // openraft asks for it while the snapshot is being installed, which another task does.
        self.until_covered(log_id).await.map_err(|e| writing(&e))?;
        self.ask(|reply| Job::Purge(log_id, reply)).await.map_err(|e| writing(&e))
    }
}

/// Opens the log of a stopped node as a start does, if there is one. Returns what is damaged in it.
///
/// # Errors
/// Those of `RaftLog::open` that are no damage.
pub fn check(directory: &Path) -> Result<Option<String>> {
    if !directory.is_dir() {
        return Ok(None);
    }
    match RaftLog::open(directory, &Environment::of_system(0)) {
        Ok(_) => Ok(None),
        Err(Error::StorageDamaged(why)) => Ok(Some(why)),
        Err(error) => Err(error),
    }
}

/// Checks that the disk takes as much as the next entries may need.
///
/// # Errors
/// `StorageFull`, `Io`.
pub fn probe(directory: &Path) -> Result<()> {
    let path = directory.join(PROBE_FILE);
    let written = fs::write(&path, vec![0x55; PROBE_BYTES]).and_then(|()| fs::File::open(&path)?.sync_all());
    // What is left of it is written over by the next.
    let _ = fs::remove_file(&path);
    written.map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
}

/// Whether entries follow each other and the last one, and their terms do not fall.
fn check_sequence(entries: &[LogEntry], expected: u64, last: Option<LogId>) -> Result<()> {
    let mut before = last;
    for (entry, expected) in entries.iter().zip(expected..) {
        if entry.log_id.index != expected || Some(entry.log_id) <= before {
            let before = before.map_or("no entry".into(), |before| format!("entry {before}"));
            return Err(Error::Io(format!("entry {} of the Raft log cannot follow {before}", entry.log_id)));
        }
        before = Some(entry.log_id);
    }
    Ok(())
}

fn stopped() -> Error {
    Error::Io(
        "the writer of the Raft log has stopped: start the node again, and report what its log says".into(),
    )
}

fn writing(error: &Error) -> StorageError {
    StorageIOError::write_logs(AnyError::new(error)).into()
}

/// What to do about a log that is damaged or gone.
pub const REMEDY: &str = "If other members have a majority of the voters, run DynaRust forget for this node on one of them, delete its data \
                          directory, and start it again as a new member. If none has, run DynaRust strong init --force on the node that has \
                          most: answered writes that only this log has are lost then. Do not delete the log alone: the node could vote \
                          twice, and answered writes could be lost";

/// Damage in a file of the log at a byte, with the remedy.
fn damaged(file: &Path, offset: u64, why: &str) -> Error {
    Error::StorageDamaged(format!(
        "the Raft log of strong tables is damaged: {file}, byte {offset}: {why}. Writes that were answered may be missing here, so the node \
         may not take part with this log. {REMEDY}",
        file = file.display(),
    ))
}
