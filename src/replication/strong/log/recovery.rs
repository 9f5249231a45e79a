//! Opening the log: every frame is read and checked, and what a crash left undone is finished.
//!
//! A power cut can spoil what was written since the last sync: frames at the end of the newest segment, of one group. Nobody was told that
//! they are durable, so they are cut off. Anything else that is wrong is damage. A log that is shorter than it was would let the group lose
//! writes that it answered, so damage is an error and never repaired here.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use tracing::warn;

use super::{
    damaged,
    frame::{self, Head},
    record::{self, MARK_FILE, Mark, STATE_FILE, State, VOTE_FILE},
    segment::{self, Segment},
    view::{CACHE_BYTES_MAX, Cache, View, next},
};
use crate::{
    error::{Error, Result},
    replication::strong::types::LogId,
    storage::{Environment, engine},
};

/// A log that was read.
pub struct Recovered {
    /// Its state, without anything left undone.
    pub state: State,
    /// Its entries.
    pub view: View,
    /// The newest segment.
    pub file: File,
}

/// Reads the log in a directory, or creates one.
///
/// # Errors
/// `StorageDamaged`, `StorageUnusable`, `StorageFull`, `Io`.
pub fn recover(directory: &Path, environment: &Environment) -> Result<Recovered> {
    create_directory(directory)?;
    let state = match record::read_state(directory)? {
        Some(state) => state,
        None => create(directory, environment)?,
    };
    let Some(vote) = record::read_vote(directory)? else {
        return Err(damaged(&directory.join(VOTE_FILE), 0, "the file is missing"));
    };
    let mark = record::read_mark(directory)?;
    let mut view = View { purged: state.purged, vote, committed: mark.committed, ..View::default() };
    let scan = Scan { directory, state: &state, mark: &mark };
    let file;
    (view.segments, view.last, file) = scan.run()?;
    view.synced = view.last;
    view.cache = fill_cache(directory, &state, &view)?;
    let state = State { cut: None, ..state };
    if scan.state.cut.is_some() {
        record::write_state(directory, &state)?;
    }
    Ok(Recovered { state, view, file })
}

fn create_directory(directory: &Path) -> Result<()> {
    let created = fs::create_dir_all(directory);
    created.map_err(|e| Error::io(format_args!("creating {}", directory.display()), &e))?;
    engine::sync_directory(&engine::parent(directory))
}

/// Writes the files of an empty log, the state last. Finishes what an earlier call began; anything more is an older log.
fn create(directory: &Path, environment: &Environment) -> Result<State> {
    let is_new = record::read_vote(directory)?.flatten().is_none()
        && !directory.join(MARK_FILE).exists()
        && segment::list(directory)?.iter().all(|first| {
            let length = fs::metadata(segment::path(directory, *first)).map(|metadata| metadata.len());
            *first == 0 && length.is_ok_and(|length| length <= segment::HEAD_BYTES as u64)
        });
    if !is_new {
        return Err(damaged(&directory.join(STATE_FILE), 0, "the file is missing"));
    }
    let state = State { salt: environment.random()?, purged: None, newest: 0, cut: None };
    record::write_vote(directory, None)?;
    let path = segment::path(directory, 0);
    segment::create(directory, state.salt, 0).map_err(|e| super::writer::writing(&path, &e))?;
    record::write_state(directory, &state)?;
    Ok(state)
}

/// Reads all segments.
struct Scan<'a> {
    directory: &'a Path,
    state: &'a State,
    mark: &'a Mark,
}

impl Scan<'_> {
    /// All segments, the last entry, and the file of the newest segment.
    fn run(&self) -> Result<(Vec<Segment>, Option<LogId>, File)> {
        let firsts = self.clear_leftovers()?;
        let mut segments: Vec<Segment> = Vec::new();
        let mut last = None;
        for first in firsts {
            if let Some(before) = segments.last()
                && before.next() != first
            {
                let why = format!("entry {} is missing: the segment ends before it", before.next());
                return Err(damaged(&self.path(before.first), before.bytes, &why));
            }
            segments.push(self.read(first, &mut last)?);
        }
        let file = self.end(segments.last())?;
        // A log that was purged up to its end has no entry, or only purged ones.
        Ok((segments, last.max(self.state.purged), file))
    }

    /// Removes segments that are not part of the log; gives the first indexes of the others.
    fn clear_leftovers(&self) -> Result<Vec<u64>> {
        let mut firsts = segment::list(self.directory)?;
        let later = firsts.split_off(firsts.partition_point(|first| *first <= self.state.newest));
        let purged_next = next(self.state.purged);
        let purged = firsts.partition_point(|first| *first <= purged_next).saturating_sub(1);
        let kept = firsts.split_off(purged);
        for first in later.iter().chain(&firsts) {
            let path = self.path(*first);
            fs::remove_file(&path).map_err(|e| Error::io(format_args!("removing {}", path.display()), &e))?;
        }
        if kept.last() != Some(&self.state.newest) {
            return Err(damaged(&self.path(self.state.newest), 0, "the file is missing"));
        }
        if kept[0] > purged_next {
            let why = format!("entry {purged_next} is missing, and the segment that has it");
            return Err(damaged(&self.path(kept[0]), 0, &why));
        }
        Ok(kept)
    }

    /// Reads a segment; `last` is the entry before it, and then its last one.
    fn read(&self, first: u64, last: &mut Option<LogId>) -> Result<Segment> {
        let bytes = segment::load(self.directory, self.state.salt, first)?;
        let mut segment = Segment::empty(first);
        while let Some(rest) = bytes.get(segment.bytes as usize..).filter(|rest| !rest.is_empty()) {
            let index = segment.next();
            if first == self.state.newest && self.state.cut == Some(index) {
                break;
            }
            match frame::read(self.state.salt, rest) {
                Some(head) if head.log_id.index == index && Some(head.log_id) > *last => {
                    segment.push(head.frame_bytes());
                    *last = Some(head.log_id);
                }
                Some(head) => {
                    let why = format!("there is entry {} where {index} should be", head.log_id);
                    return Err(damaged(&self.path(first), segment.bytes, &why));
                }
                None => {
                    self.check_torn(&segment, &bytes)?;
                    break;
                }
            }
        }
        Ok(segment)
    }

    /// Whether the bad frame at the end of what was read can be one that a power cut spoiled.
    fn check_torn(&self, segment: &Segment, bytes: &[u8]) -> Result<()> {
        let index = segment.next();
        let bad = |why: &str| Err(damaged(&self.path(segment.first), segment.bytes, why));
        if segment.first != self.state.newest {
            return bad(&format!("entry {index} cannot be read, and the log goes on in the next segment"));
        }
        let mut at = segment.bytes as usize + 1;
        while let Some((place, Head { log_id, group, .. })) = frame::find(self.state.salt, bytes, at) {
            if group > index {
                return bad(&format!(
                    "entry {index} cannot be read, and entry {log_id} was written after it"
                ));
            }
            at = place + 1;
        }
        self.check_end(segment)?;
        warn!(
            file = %self.path(segment.first).display(), offset = segment.bytes, entry = index,
            bytes = bytes.len() as u64 - segment.bytes,
            "the end of the Raft log was not written when the power went, and is cut off; nobody was told that it was"
        );
        Ok(())
    }

    /// Whether all that is known to have been durable is there.
    fn check_end(&self, newest: &Segment) -> Result<()> {
        let durable =
            self.mark.synced_next.min(self.state.cut.unwrap_or(u64::MAX)).max(next(self.state.purged));
        if newest.next() < durable {
            let why = format!(
                "the log ends before entry {}, and had all up to entry {}",
                newest.next(),
                durable - 1
            );
            return Err(damaged(&self.path(newest.first), newest.bytes, &why));
        }
        Ok(())
    }

    /// Makes the log end where it was read to, durably: what was read may not have been synced before the process died.
    fn end(&self, newest: Option<&Segment>) -> Result<File> {
        let newest = newest.expect("the newest segment is there");
        self.check_end(newest)?;
        let file = segment::open(self.directory, newest.first)?;
        let ended = file.set_len(newest.bytes).and_then(|()| file.sync_all());
        ended.map_err(|e: io::Error| {
            Error::io(format_args!("syncing {}", self.path(newest.first).display()), &e)
        })?;
        engine::sync_directory(self.directory)?;
        Ok(file)
    }

    fn path(&self, first: u64) -> PathBuf {
        segment::path(self.directory, first)
    }
}

/// The newest entries, as many as the cache holds.
fn fill_cache(directory: &Path, state: &State, view: &View) -> Result<Cache> {
    let mut cache = Cache::default();
    let mut start = cache_start(view);
    for segment in &view.segments {
        while start < segment.next() {
            let span = segment.span(start, u64::MAX, CACHE_BYTES_MAX);
            for (entry, bytes) in segment::read(directory, state.salt, &span)? {
                cache.push(entry.into(), bytes);
            }
            start = span.end;
        }
    }
    Ok(cache)
}

fn cache_start(view: &View) -> u64 {
    let mut left = CACHE_BYTES_MAX as u64;
    let mut start = next(view.last);
    for segment in view.segments.iter().rev() {
        let from = segment.bytes.saturating_sub(left);
        let skipped = segment.offsets.partition_point(|offset| u64::from(*offset) < from);
        start = segment.first + skipped as u64;
        if skipped > 0 {
            break;
        }
        left = left.saturating_sub(segment.bytes);
    }
    start.max(view.first())
}
