//! Removing entries: those that conflict with the leader's, from the end, and those that a snapshot replaces, from the beginning.
//!
//! Replacing the state is the step that counts, before it nothing has changed and after it everything has. What the files still hold of
//! removed entries is cleared away after it, by the next start if a crash comes between.
//!
//! - Truncation: the mark is lowered, then the state says where the log ends, then the file is cut, then the state forgets the cut,
//!   then later segments go.
//! - Purging: the state says what is purged, then segments go that have nothing else, oldest first.

use std::{fs, io};

use super::{
    record::{Mark, State},
    segment::{self, Segment},
    view::next,
    writer::{Writer, writing},
};
use crate::{
    error::{Error, Result},
    replication::strong::types::LogId,
    storage::engine,
};

impl Writer {
    /// Removes the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) -> Result<()> {
        let shared = self.shared.clone();
        let (first, end) = {
            let view = shared.view();
            (view.first(), view.synced_next())
        };
        if index >= end {
            return Ok(());
        }
        if index < first {
            return Err(Error::Io(format!(
                "entry {index} of the Raft log is purged and cannot be truncated"
            )));
        }
        let last = self.log_id_before(index)?;
        // Readers that read a file finish first, and those that come later see what is there then.
        let _files = shared.write_files();
        let mut kept = shared.view().segments.clone();
        let later = kept.split_off(kept.partition_point(|segment| segment.first <= index).max(1));
        let newest = kept.last_mut().expect("the log begins at or before the index");
        newest.truncate(index);
        let lowered = Mark { synced_next: index, committed: shared.view().committed.min(last) };
        self.cut(&lowered, newest)?;
        let mut view = shared.view();
        view.segments = kept;
        view.cache.truncate(index);
        (view.last, view.synced) = (last, last);
        drop(view);
        self.remove_segments(&later)
    }

    /// Removes the entries up to and with `upto`. More than there are may be purged: a snapshot can be newer than the log.
    pub(super) fn purge(&mut self, upto: LogId) -> Result<()> {
        let shared = self.shared.clone();
        let (purged, last, first) = {
            let view = shared.view();
            (view.purged, view.last, view.first())
        };
        if purged >= Some(upto) {
            return Ok(());
        }
        // Entries of an older term behind the snapshot are not part of what was agreed.
        if last.is_some_and(|last| last < upto && last.index > upto.index) {
            self.truncate(next(Some(upto)).max(first))?;
        }
        let _files = shared.write_files();
        let (mut segments, synced_next) = {
            let view = shared.view();
            (view.segments.clone(), view.synced_next())
        };
        let next = next(Some(upto));
        if synced_next <= next && self.state.newest != next {
            self.begin_segment(next, Some(upto))?;
            segments.push(Segment::empty(next));
        } else {
            self.write_state(State { purged: Some(upto), ..self.state })?;
        }
        let kept = segments.split_off(segments.partition_point(|segment| segment.first <= next).max(1) - 1);
        let mut view = shared.view();
        view.purged = Some(upto);
        view.synced = view.synced.max(Some(upto));
        view.last = view.last.max(Some(upto));
        view.segments = kept;
        view.cache.purge(next);
        drop(view);
        self.remove_segments(&segments)
    }

    /// Removes the files of segments that the state no longer needs, oldest first.
    pub(super) fn remove_segments(&self, segments: &[Segment]) -> Result<()> {
        if segments.is_empty() {
            return Ok(());
        }
        for segment in segments.iter().filter(|segment| segment.first != self.state.newest) {
            let path = segment::path(&self.shared.directory, segment.first);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(format_args!("removing {}", path.display()), &e));
                }
                Ok(()) | Err(_) => {}
            }
        }
        engine::sync_directory(&self.shared.directory)
    }

    /// Ends the log as a mark has it, in this segment.
    fn cut(&mut self, lowered: &Mark, newest: &Segment) -> Result<()> {
        let path = segment::path(&self.shared.directory, newest.first);
        self.mark.write(lowered).and_then(|()| self.mark.sync()).map_err(|e| writing(&path, &e))?;
        let file = segment::open(&self.shared.directory, newest.first)?;
        self.write_state(State { newest: newest.first, cut: Some(lowered.synced_next), ..self.state })?;
        file.set_len(newest.bytes).and_then(|()| file.sync_all()).map_err(|e| writing(&path, &e))?;
        self.write_state(State { cut: None, ..self.state })?;
        self.file = file;
        Ok(())
    }

    fn log_id_before(&self, index: u64) -> Result<Option<LogId>> {
        let view = self.shared.view();
        if index <= view.first() {
            return Ok(view.purged);
        }
        let place = view.segments.partition_point(|segment| segment.first < index) - 1;
        let span = view.segments[place].span(index - 1, index, 0);
        drop(view);
        let entries = segment::read(&self.shared.directory, self.state.salt, &span)?;
        Ok(entries.first().map(|(entry, _)| entry.log_id))
    }
}
