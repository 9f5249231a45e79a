//! The one writer of the log's files. Appends that wait while it syncs go into the next group: written in one step, synced once, then
//! acknowledged.
//!
//! A group that cannot be written is cut off again and its appends fail; the next may succeed, as when there is room again. After a failed
//! sync, or a failed change of the files, nobody knows what is on the disk: everything fails until the log is opened again. So it does
//! after a failed append that openraft takes for durable already. It may not notice by itself: `watch` has the log opened again.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::error;

use super::{
    Shared,
    frame::{self, Frame},
    record::{self, Mark, MarkFile, State},
    segment::{self, SEGMENT_BYTES, Segment},
};
use crate::{
    error::{Error, Result},
    replication::strong::types::{LogId, Vote},
    storage::engine,
};

/// What is written before a sync, at most, unless one entry alone is longer. Bounds the writer's memory, and how long the first append of a
/// group waits for the others.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Told once whether the entries are durable.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Entries to append.
pub struct Append {
    /// The entries, in order, not empty.
    pub frames: Vec<Frame>,
    /// Whether the log is empty and may begin with any index.
    pub begins: bool,
    /// Told once whether they are durable; `None` if openraft takes them for it already.
    pub flushed: Option<Flushed>,
    /// What they take of the queue.
    pub room: Option<OwnedSemaphorePermit>,
}

/// Something to do, in the order in which it was asked for.
pub enum Job {
    /// Append entries.
    Append(Append),
    /// Save the vote.
    Vote(Vote, oneshot::Sender<Result<()>>),
    /// Remove the entries from this index on.
    Truncate(u64, oneshot::Sender<Result<()>>),
    /// Remove the entries up to and with this one.
    Purge(LogId, oneshot::Sender<Result<()>>),
    /// Write the mark, because the committed entry is another.
    Committed,
}

/// The files, open for writing.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    /// The newest segment.
    pub(super) file: File,
    pub(super) mark: MarkFile,
    /// Why nothing can be written until the log is opened again.
    failed: Option<Error>,
    group: Group,
}

/// Frames that are written next.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    /// The id and the length of each frame.
    frames: Vec<(LogId, usize)>,
    /// Who waits for the last of them.
    waiting: Vec<(Option<Flushed>, Option<OwnedSemaphorePermit>)>,
}

impl Writer {
    /// A writer that continues the newest segment.
    pub fn new(shared: Arc<Shared>, state: State, file: File, mark: MarkFile) -> Self {
        Self { shared, state, file, mark, failed: None, group: Group::default() }
    }

    /// Works until nobody can ask for anything any more.
    pub async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            let mut waiting = vec![job];
            while let Ok(job) = jobs.try_recv() {
                waiting.push(job);
            }
            self.work(waiting).await;
        }
    }

    /// Does these jobs, in order.
    async fn work(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            match job {
                Job::Append(append) => self.append(append).await,
                Job::Vote(vote, reply) => {
                    self.flush().await;
                    let saved = self.check().and_then(|()| self.save_vote(&vote));
                    answer(reply, saved);
                }
                Job::Truncate(index, reply) => {
                    self.flush().await;
                    let truncated = self.check().and_then(|()| self.truncate(index));
                    let truncated = self.fail_if_err(truncated);
                    self.show_synced();
                    answer(reply, truncated);
                }
                Job::Purge(upto, reply) => {
                    self.flush().await;
                    let purged = self.check().and_then(|()| self.purge(upto));
                    let purged = self.fail_if_err(purged);
                    self.show_synced();
                    answer(reply, purged);
                }
                Job::Committed => {
                    self.flush().await;
                    self.write_mark();
                }
            }
        }
        self.flush().await;
    }

    /// Begins a new segment that is the newest.
    pub(super) fn begin_segment(&mut self, first: u64, purged: Option<LogId>) -> Result<()> {
        let path = segment::path(&self.shared.directory, first);
        self.file = segment::create(&self.shared.directory, self.state.salt, first)
            .map_err(|e| writing(&path, &e))?;
        engine::sync_directory(&self.shared.directory)?;
        self.write_state(State { purged, newest: first, cut: None, ..self.state })
    }

    pub(super) fn write_state(&mut self, state: State) -> Result<()> {
        record::write_state(&self.shared.directory, &state)?;
        self.state = state;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn fail_if_err(&mut self, done: Result<()>) -> Result<()> {
        if let Err(why) = &done {
            self.fail(why);
        }
        done
    }

    fn fail(&mut self, why: &Error) {
        if self.failed.is_none() {
            error!(%why, "the Raft log cannot be written until it is opened again");
            self.failed = Some(why.clone());
        }
    }

    fn save_vote(&self, vote: &Vote) -> Result<()> {
        record::write_vote(&self.shared.directory, Some(vote))?;
        self.shared.view().vote = Some(*vote);
        Ok(())
    }

    async fn append(&mut self, append: Append) {
        match self.add_all(append.begins, &append.frames).await {
            Ok(()) => self.group.waiting.push((append.flushed, append.room)),
            Err(why) => {
                self.flush().await;
                if append.flushed.is_none() {
                    self.fail(&why);
                }
                if self.failed.is_some() {
                    self.shared.view().forget_unsynced();
                }
                self.show_synced();
                tell(append.flushed, Err(&why));
            }
        }
    }

    async fn add_all(&mut self, begins: bool, frames: &[Frame]) -> Result<()> {
        if begins {
            self.begin_log(frames[0].log_id.index).await?;
        }
        for frame in frames {
            self.add(frame).await?;
        }
        Ok(())
    }

    /// Lets an empty log begin with another index than it would.
    async fn begin_log(&mut self, first: u64) -> Result<()> {
        self.flush().await;
        self.check()?;
        if first == self.state.newest {
            return Ok(());
        }
        let begun = self.begin_segment(first, self.state.purged).and_then(|()| {
            let before = std::mem::replace(&mut self.shared.view().segments, vec![Segment::empty(first)]);
            self.remove_segments(&before)
        });
        self.fail_if_err(begun)
    }

    /// Adds a frame to the group, if it is the next of the log. It is not if one before it failed.
    async fn add(&mut self, frame: &Frame) -> Result<()> {
        if self.group.bytes.len() + frame.bytes() > GROUP_BYTES_MAX {
            self.flush().await;
        }
        self.check()?;
        let expected = self.shared.view().synced_next() + self.group.frames.len() as u64;
        let index = frame.log_id.index;
        if index != expected {
            return Err(Error::Io(format!(
                "entry {index} of the Raft log was not written because entry {expected} before it was not"
            )));
        }
        let group = self.group.frames.first().map_or(index, |(first, _)| first.index);
        frame.write(self.state.salt, group, &mut self.group.bytes);
        self.group.frames.push((frame.log_id, frame.bytes()));
        Ok(())
    }

    async fn flush(&mut self) {
        let group = std::mem::take(&mut self.group);
        let flushed = match group.frames.is_empty() {
            true => Ok(()),
            false => self.write_group(&group.bytes, &group.frames).await,
        };
        if let Err(why) = &flushed
            && group.waiting.iter().any(|(waiting, _)| waiting.is_none())
        {
            self.fail(why);
        }
        self.show_synced();
        for (waiting, room) in group.waiting {
            tell(waiting, flushed.as_ref().copied());
            drop(room);
        }
        // The allocation is kept for the next group, unless one long entry made it large.
        self.group.bytes = group.bytes;
        self.group.bytes.clear();
        self.group.bytes.shrink_to(GROUP_BYTES_MAX);
    }

    fn show_synced(&self) {
        let next = self.shared.view().synced_next();
        self.shared.synced.show(next, self.failed.as_ref());
    }

    async fn write_group(&mut self, bytes: &[u8], frames: &[(LogId, usize)]) -> Result<()> {
        let written = match self.check().and_then(|()| self.roll_if_full()) {
            Ok(()) => self.write_and_sync(bytes).await,
            refused => refused,
        };
        let mut view = self.shared.view();
        if let Err(why) = written {
            view.forget_unsynced();
            return Err(why);
        }
        let newest = view.segments.last_mut().expect("there is always a segment");
        for (_, bytes) in frames {
            newest.push(*bytes);
        }
        view.synced = frames.last().map(|(log_id, _)| *log_id);
        view.evict();
        drop(view);
        self.write_mark();
        Ok(())
    }

    fn roll_if_full(&mut self) -> Result<()> {
        let (bytes, next) = {
            let view = self.shared.view();
            (self.newest_bytes(&view.segments), view.synced_next())
        };
        if bytes < SEGMENT_BYTES || next == self.state.newest {
            return Ok(());
        }
        let begun = self.begin_segment(next, self.state.purged);
        self.fail_if_err(begun)?;
        self.shared.view().segments.push(Segment::empty(next));
        Ok(())
    }

    async fn write_and_sync(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.newest_bytes(&self.shared.view().segments);
        let path = segment::path(&self.shared.directory, self.state.newest);
        if let Err(e) = self.shared.disk.write(&self.file, bytes, end) {
            let why = writing(&path, &e);
            if let Err(e) = self.file.set_len(end) {
                self.fail(&writing(&path, &e));
            }
            return Err(why);
        }
        if let Err(e) = self.shared.disk.sync(&self.file).await {
            // Cutting it off keeps the next start from reading what only the system's memory holds.
            let cut = self.file.set_len(end).and_then(|()| self.file.sync_all());
            let cut = cut.err().map_or(String::new(), |e| format!(", nor cut off again: {e}"));
            let why = Error::Io(format!("{} could not be synced: {e}{cut}", path.display()));
            self.fail(&why);
            return Err(why);
        }
        Ok(())
    }

    fn newest_bytes(&self, segments: &[Segment]) -> u64 {
        segments.last().expect("there is always a segment").bytes
    }

    /// Writes the mark. A failure costs no more than a check at the next start.
    fn write_mark(&self) {
        let view = self.shared.view();
        let mark = Mark { synced_next: view.synced_next(), committed: view.committed.min(view.synced) };
        drop(view);
        if let Err(e) = self.mark.write(&mark)
            && !self.shared.mark_failed.swap(true, Ordering::Relaxed)
        {
            error!(why = %e, "the mark of the Raft log cannot be written");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.synced.close();
    }
}

/// An error of the system that arose while writing a file.
pub fn writing(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::StorageFull(format!("writing {}: {error}", path.display()))
        }
        _ => Error::io(format_args!("writing {}", path.display()), error),
    }
}

/// Tells who waits, if anybody does, whether the entries are durable.
fn tell(waiting: Option<Flushed>, flushed: std::result::Result<(), &Error>) {
    if let Some(waiting) = waiting {
        waiting(flushed.map_err(to_io));
    }
}

fn to_io(error: &Error) -> io::Error {
    let kind = if matches!(error, Error::StorageFull(_)) {
        io::ErrorKind::StorageFull
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, error.to_string())
}

fn answer(reply: oneshot::Sender<Result<()>>, done: Result<()>) {
    // Whoever asked may have gone.
    let _ = reply.send(done);
}

const _: () =
    assert!(GROUP_BYTES_MAX as u64 + frame::ENTRY_BYTES_MAX as u64 + SEGMENT_BYTES < u32::MAX as u64);
