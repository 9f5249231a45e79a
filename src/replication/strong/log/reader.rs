//! Reading the log: the newest entries from memory, older ones from the files.

use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
    sync::{Arc, PoisonError},
};

use openraft::{AnyError, OptionalSend, RaftLogReader, StorageIOError};

use super::{
    Shared, segment,
    synced::Synced,
    view::{Place, next},
};
use crate::{
    error::{Error, Result},
    replication::strong::types::{Group, LogEntry, LogId, StorageError},
};

/// Bytes that a follower gets in one message, unless one entry alone is longer: enough to use a link well, little enough that heartbeats,
/// which go the same way, are not late. Also how much is read from a file at once.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the log costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Entries that are not purged.
    pub entries: u64,
    /// Length of all segments, in bytes.
    pub disk_bytes: u64,
    /// How many times the log was synced since it was opened.
    pub syncs: u64,
}

/// Reads the log. Clones share it.
#[derive(Clone, Debug)]
pub struct LogReader(pub(super) Arc<Shared>);

impl LogReader {
    /// What the log costs.
    pub fn figures(&self) -> Figures {
        let view = self.0.view();
        Figures {
            entries: next(view.last).saturating_sub(view.first()),
            disk_bytes: view.segments.iter().map(|segment| segment.bytes).sum(),
            syncs: self.0.disk.syncs(),
        }
    }

    /// The first entry of the segments at the end that have so many bytes, or more.
    pub fn begins_with(&self, bytes: u64) -> u64 {
        let view = self.0.view();
        let mut length = 0;
        let last = view.segments.iter().rev().find(|segment| {
            length += segment.bytes;
            length >= bytes
        });
        last.map_or(0, |segment| segment.first)
    }

    /// The last entry.
    pub fn last(&self) -> Option<LogId> {
        self.0.view().last
    }

    /// How far it is durable.
    pub fn synced(&self) -> &Synced {
        &self.0.synced
    }

    /// The last entry that was purged.
    pub fn purged(&self) -> Option<LogId> {
        self.0.view().purged
    }

    /// The last committed entry, as far as openraft said.
    #[cfg(test)]
    pub fn committed(&self) -> Option<LogId> {
        self.0.view().committed
    }

    /// Has the next sync wait until what is returned is dropped.
    #[cfg(test)]
    pub fn hold_sync(&self) -> std::sync::mpsc::Sender<()> {
        let (gate, closed) = std::sync::mpsc::channel();
        self.0.disk.faults().sync_waits = Some(closed);
        gate
    }

    /// Has the disk take no longer writes than this.
    #[cfg(test)]
    pub fn has_room(&self, bytes: usize) {
        self.0.disk.faults().room = Some(bytes);
    }

    /// Entries of a range, as far as the log has them. Those beyond `bytes_max` may be left out, but never the first.
    async fn entries(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<LogEntry>> {
        let cached = match self.0.view().find(start, end, bytes_max) {
            Place::Nowhere => Some(Vec::new()),
            Place::Cache(entries) => Some(entries),
            Place::File(_) => None,
        };
        if let Some(entries) = cached {
            return Ok(entries.iter().map(|entry| (**entry).clone()).collect());
        }
        let shared = self.0.clone();
        self.0.environment.run(move || shared.read(start, end, bytes_max)).await
    }
}

impl RaftLogReader<Group> for LogReader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> std::result::Result<Vec<LogEntry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX).await.map_err(|e| reading(&e))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> std::result::Result<Vec<LogEntry>, StorageError> {
        self.entries(start, end, READ_BYTES_MAX).await.map_err(|e| reading(&e))
    }
}

impl Shared {
    fn read(&self, mut start: u64, end: u64, bytes_max: usize) -> Result<Vec<LogEntry>> {
        let _files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::new();
        loop {
            let place = self.view().find(start, end, bytes_max.min(READ_BYTES_MAX));
            match place {
                Place::Nowhere => return Ok(entries),
                Place::Cache(cached) => entries.extend(cached.iter().map(|entry| (**entry).clone())),
                Place::File(span) => {
                    let read = segment::read(&self.directory, self.salt, &span)?;
                    entries.extend(read.into_iter().map(|(entry, _)| entry));
                }
            }
            start = entries.last().map_or(start, |entry| entry.log_id.index + 1);
            if bytes_max <= READ_BYTES_MAX {
                return Ok(entries);
            }
        }
    }
}

fn reading(error: &Error) -> StorageError {
    StorageIOError::read_logs(AnyError::new(error)).into()
}
