//! The log as readers see it: where each entry is in the files, and the newest entries themselves.
//!
//! An entry is readable from the moment it is handed over, before it is on the disk. So entries that are not written yet are always in
//! the cache; others leave it, oldest first, when it is full.

use std::{collections::VecDeque, sync::Arc};

use super::segment::{Segment, Span};
use crate::replication::strong::types::{LogEntry, LogId, Vote};

/// What the cache may hold of entries that are on the disk. Followers that keep up read what was just appended; this much lets one fall
/// behind by a second or so of full load before reads touch the disk.
pub const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The log as it is now.
#[derive(Debug, Default)]
pub struct View {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry, written or not; the purged one if there is none.
    pub last: Option<LogId>,
    /// The last entry that is durable; the purged one if there is none.
    pub synced: Option<LogId>,
    /// The segments, oldest first. There is always one.
    pub segments: Vec<Segment>,
    /// The newest entries.
    pub cache: Cache,
    /// The saved vote.
    pub vote: Option<Vote>,
    /// The last committed entry, as far as openraft said.
    pub committed: Option<LogId>,
}

impl View {
    /// The index of the first entry that was not purged.
    pub fn first(&self) -> u64 {
        let kept = self.segments.first().map_or(0, |segment| segment.first);
        kept.max(next(self.purged))
    }

    /// The index after the last entry that is durable.
    pub fn synced_next(&self) -> u64 {
        self.segments.last().map_or(0, Segment::next)
    }

    /// Whether there is no entry, durable or not.
    pub fn is_empty(&self) -> bool {
        self.last == self.purged
    }

    /// Whether there was never an entry.
    pub fn begins(&self) -> bool {
        self.is_empty() && self.purged.is_none()
    }

    /// Where the entries from `start` on, up to and without `end`, are; or the first of them, where they are many.
    pub fn find(&self, start: u64, end: u64, bytes_max: usize) -> Place {
        let (start, end) = self.clamp(start, end);
        if start >= end {
            return Place::Nowhere;
        }
        if start >= self.cache.first() {
            return Place::Cache(self.cache.get(start, end, bytes_max));
        }
        let segment = &self.segments[self.segments.partition_point(|segment| segment.first <= start) - 1];
        Place::File(segment.span(start, end.min(self.cache.first()), bytes_max))
    }

    /// A range without what is not in the log.
    fn clamp(&self, start: u64, end: u64) -> (u64, u64) {
        (start.max(self.first()), end.min(next(self.last)))
    }

    /// Adds an entry that is not written yet.
    pub fn push(&mut self, entry: Arc<LogEntry>, bytes: usize) {
        self.last = Some(entry.log_id);
        self.cache.push(entry, bytes);
    }

    /// Forgets the entries that are not durable, since they will not be.
    pub fn forget_unsynced(&mut self) {
        self.last = self.synced;
        self.cache.truncate(self.synced_next());
    }

    /// Makes room in the cache.
    pub fn evict(&mut self) {
        self.cache.evict(self.synced_next());
    }
}

/// Where entries are.
#[derive(Debug)]
pub enum Place {
    /// There are none.
    Nowhere,
    /// In memory.
    Cache(Vec<Arc<LogEntry>>),
    /// In a file.
    File(Span),
}

/// The index after an entry; 0 if there is none.
pub fn next(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index + 1)
}

/// The newest entries of the log, without a gap.
#[derive(Debug, Default)]
pub struct Cache {
    entries: VecDeque<(Arc<LogEntry>, usize)>,
    bytes: usize,
}

impl Cache {
    /// The index of the oldest entry here; the highest number there is if there is none.
    pub fn first(&self) -> u64 {
        self.entries.front().map_or(u64::MAX, |(entry, _)| entry.log_id.index)
    }

    /// Length of the entries here, in bytes of the files.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn get(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Arc<LogEntry>> {
        let skipped = usize::try_from(start - self.first()).expect("the entry is here");
        let count = usize::try_from(end - start).expect("the entry is here");
        let mut taken: Vec<Arc<LogEntry>> = Vec::new();
        let mut left = bytes_max;
        for (entry, bytes) in self.entries.iter().skip(skipped).take(count) {
            if !taken.is_empty() && *bytes > left {
                break;
            }
            left = left.saturating_sub(*bytes);
            taken.push(entry.clone());
        }
        taken
    }

    /// Adds the next entry.
    pub fn push(&mut self, entry: Arc<LogEntry>, bytes: usize) {
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
    }

    /// Removes the entries from `index` on.
    pub fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= index) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Removes the entries before `index`.
    pub fn purge(&mut self, index: u64) {
        while self.first() < index {
            self.pop_oldest();
        }
    }

    fn evict(&mut self, synced_next: u64) {
        while self.bytes > CACHE_BYTES_MAX && self.first() < synced_next {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) {
        self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
    }
}
