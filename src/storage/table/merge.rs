//! The write path of a table. Every write goes through `Table::merge`, whether it comes from a client, a peer, an import or a repair.
//!
//! A merge runs under the lock of the key's partition, so that compare and set are one step. It sets the row at once: readers and
//! subscribers do not wait for the disk, only the writer does (`Committer`). What a row needs is written before it, and the engine's log
//! keeps that order over a crash; what only the old row needed is removed after it.

use std::sync::PoisonError;

use super::{
    Table, chunks,
    codec::Codec,
    partition::Partition,
    record::{self, Body, Head, Record},
    row::row_of,
    trees::Trees,
};
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{KEY_BYTES_MAX, Key, TableName},
        register::{Payload, Register},
    },
    error::{Error, Result},
    storage::{Store, engine, table::jobs::GcJob},
};

/// Longest coded payload that is stored in its row.
const INLINE_BYTES_MAX: usize = engine::ITEM_BYTES_MAX - (1 + KEY_BYTES_MAX) - record::OVERHEAD_BYTES;

/// The result of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The timestamp of the incoming register.
    pub timestamp: Timestamp,
    /// Whether it won; if not, the row is unchanged.
    pub changed: bool,
    /// Whether the key had no visible value before.
    pub created: bool,
}

/// The stored register of a key, as a merge sees it under the lock.
pub struct Existing<'a> {
    table: &'a Table,
    trees: &'a Trees,
    row: &'a [u8],
    record: Record<'a>,
}

impl Existing<'_> {
    /// When it was written, and by which node.
    pub fn timestamp(&self) -> Timestamp {
        self.record.head.marker.timestamp
    }

    /// When it expires, in Unix milliseconds.
    pub fn expires_at_ms(&self) -> Option<u64> {
        self.record.head.expires_at_ms
    }

    /// Whether its value is visible at `now_ms`.
    pub fn visible_at(&self, now_ms: u64) -> bool {
        self.record.head.visible_at(now_ms)
    }

    /// The value.
    pub fn value(&self) -> Result<Value> {
        self.table.load(self.trees, self.row, &self.record)?.ok_or_else(|| self.table.missing_chunk(self.row))
    }
}

impl Store {
    /// Merges into one key; see `Table::merge`. Not durable before `acknowledge`.
    pub fn merge(
        &self,
        table: &TableName,
        key: &Key,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<Merged> {
        let mut decide = Some(decide);
        loop {
            let table = self.table_or_new(table)?;
            let merged = table.merge(key, |existing| {
                let decide = decide.take().expect("a merge decides once");
                decide(existing)
            });
            // A table that is being removed decides nothing: retry on the table that replaces it.
            if decide.is_none() || !table.is_removed() {
                return merged;
            }
        }
    }

    /// Merges into many keys, all or none; see `Table::merge_all`.
    pub fn merge_all<D>(&self, table: &TableName, writes: Vec<(Key, D)>) -> Result<Vec<Merged>>
    where
        D: FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    {
        let mut writes = writes;
        loop {
            let (count, table) = (writes.len(), self.table_or_new(table)?);
            let merged = table.merge_all(&mut writes);
            if writes.len() < count || !table.is_removed() {
                return merged;
            }
        }
    }
}

impl Table {
    /// Merges a write. `decide` gets the stored register and returns the register to merge, or an error, which changes nothing. Returns
    /// before the write is durable.
    pub fn merge(
        &self,
        key: &Key,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<Merged> {
        self.writing(|trees| {
            let row = row_of(key);
            let mut partition = self.lock_row_if_few(&row)?;
            let stored = self.stored(trees, &row)?;
            self.merge_locked(trees, &mut partition, &row, stored.as_deref(), decide)
        })
    }

    /// Like `merge`, but if the key has no row, not even a tombstone, `refuse` may return why it must stay so.
    pub(in crate::storage) fn merge_unless<R>(
        &self,
        key: &Key,
        register: Register,
        refuse: impl FnOnce(&Register) -> Option<R>,
    ) -> Result<std::result::Result<Merged, R>> {
        self.writing(|trees| {
            let row = row_of(key);
            let mut partition = self.lock_row(&row);
            let stored = self.stored(trees, &row)?;
            // A damaged or lost row is not an absent one: it is overwritten.
            if stored.is_none()
                && !self.lost.covers(&row)
                && let Some(refusal) = refuse(&register)
            {
                return Ok(Err(refusal));
            }
            self.merge_locked(trees, &mut partition, &row, stored.as_deref(), |_| Ok(register)).map(Ok)
        })
    }

    /// Merges into a row whose partition the caller has locked.
    pub(in crate::storage) fn merge_locked(
        &self,
        trees: &Trees,
        partition: &mut Partition,
        row: &[u8],
        stored: Option<&[u8]>,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<Merged> {
        // Before the write gets its timestamp: a cached sum of an instant is no longer valid once a write at that instant is under way.
        self.cached_digests.invalidate();
        let (merged, staged) = self.stage(trees, row, stored, stored, decide)?;
        if let Some(staged) = staged {
            self.set_row(trees, partition, row, stored, &staged)?;
        }
        Ok(merged)
    }

    /// Replaces the timestamp of a row, even by an earlier one, in one step. Returns whether the row could be read. Only for the repair of
    /// a closed store: the rule that the later write wins is not applied.
    pub(in crate::storage) fn set_timestamp(&self, row: &[u8], timestamp: Timestamp) -> Result<bool> {
        self.writing(|trees| {
            let mut partition = self.lock(row[0]);
            let Some(stored) = self.stored(trees, row)? else { return Ok(false) };
            let record = self.decode(row, &stored)?;
            let payload = match (record.head.live, record.head.expires_at_ms) {
                (false, _) => Payload::Deleted,
                (true, expires_at_ms) => match self.load(trees, row, &record)? {
                    Some(value) => Payload::Live { value, expires_at_ms },
                    None => return Ok(false),
                },
            };
            let staged = self.encode(trees, row, &Register::new(payload, timestamp), Some(&stored))?;
            self.set_stored(trees, row, &staged.bytes)?;
            self.replaced(trees, &mut partition, row, Some(&stored), &staged.head)?;
            Ok(true)
        })
    }

    /// Sets a row that won its merge, under the lock of its partition, and updates counts and digests.
    pub(in crate::storage) fn set_row(
        &self,
        trees: &Trees,
        partition: &mut Partition,
        row: &[u8],
        stored: Option<&[u8]>,
        staged: &Staged,
    ) -> Result<()> {
        let is_published = trees.progress.begin();
        self.set(trees, row, &staged.bytes)?;
        if !is_published && !staged.head.is_quiet_at((self.context.now_ms)()) {
            self.context.counters.changes.increment();
        }
        self.replaced(trees, partition, row, stored, &staged.head)?;
        self.grow(trees, row[0], partition);
        Ok(())
    }

    /// Returns what `decide` makes of a row that is at `current`, ready to replace what is `stored`; `None` if the old register wins.
    /// Chunks and index entries are written already: they come before the row, and without the row nobody reads them.
    pub(in crate::storage) fn stage(
        &self,
        trees: &Trees,
        row: &[u8],
        current: Option<&[u8]>,
        stored: Option<&[u8]>,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<(Merged, Option<Staged>)> {
        let existing = match current {
            // A damaged record has no timestamp to compare: it is overwritten. Whoever reads it counts and logs it.
            Some(bytes) => {
                self.decode(row, bytes).ok().map(|record| Existing { table: self, trees, row, record })
            }
            None => None,
        };
        let decided = decide(existing.as_ref());
        let register = if current.is_none() { self.refuse_if_lost(row, decided)? } else { decided? };
        let visible = existing.as_ref().is_some_and(|existing| self.is_visible(&existing.record.head));
        let present = existing.map(|existing| existing.record.head.marker);
        let changed = present.is_none_or(|present| present < register.marker());
        let merged = Merged { timestamp: register.timestamp(), changed, created: changed && !visible };
        if !changed {
            // A register that is here already has lost against nothing.
            if present != Some(register.marker()) {
                self.context.counters.writes_superseded.increment();
            }
            return Ok((merged, None));
        }
        self.context.counters.writes.increment();
        self.context.agreed.record_row(&trees.meta, register.timestamp().unix_ms())?;
        let staged = self.encode(trees, row, &register, stored)?;
        Ok((merged, Some(staged)))
    }

    fn encode(
        &self,
        trees: &Trees,
        row: &[u8],
        register: &Register,
        stored: Option<&[u8]>,
    ) -> Result<Staged> {
        let mut coded = Vec::new();
        let (live, expires_at_ms, codec) = match register.payload() {
            Payload::Deleted => (false, None, Codec::RAW),
            Payload::Live { value, expires_at_ms } => {
                let plain = value.as_str().as_bytes();
                self.sample(plain);
                (true, *expires_at_ms, self.dictionaries().encode(plain, &mut coded))
            }
        };
        // Checking the old row's bytes costs time, and a plain put needs to know nothing of it.
        let may_end = !live || expires_at_ms.is_some();
        let old = stored.filter(|_| may_end).map(|bytes| self.decode(row, bytes));
        // Nobody needs to be told of the end of a value that nobody saw.
        let silent = may_end
            && match &old {
                Some(Ok(record)) => !self.is_shown_to_subscribers(trees, row, &record.head)?,
                Some(Err(_)) => false,
                None => true,
            };
        let old = old.and_then(std::result::Result::ok).map(|record| record.head);
        let expired = !live && old.is_some_and(|old| self.ends_in_time(&old, register.timestamp()));
        if expired {
            self.context.counters.expired.increment();
        }
        let quiet = !live && silent;
        let coded_bytes = coded.len() as u32;
        let head = Head { marker: register.marker(), live, expires_at_ms, quiet, expired, coded_bytes };
        let chunked = coded.len() > INLINE_BYTES_MAX;
        let body = if chunked { Body::Chunked(coded_bytes) } else { Body::Inline(&coded) };
        let record = Record { head, codec, body };
        if chunked {
            self.report_unreadable_on_error(chunks::insert(&trees.chunks, row, &head, &coded))?;
        }
        self.report_unreadable_on_error(self.insert_index_entries(trees, row, &head, silent))?;
        Ok(Staged { bytes: record::encode(row, &record), head })
    }

    /// Whether a tombstone of this instant ends a value because its time had come: values of strong tables end by a delete
    /// through their log, and what the log carries does not say why. A client's delete in the same moment counts as well.
    fn ends_in_time(&self, value: &Head, deleted: Timestamp) -> bool {
        self.strong && value.live && value.expires_at_ms.is_some_and(|at_ms| at_ms <= deleted.unix_ms())
    }

    /// Updates counts and digests for a row that was set, and removes what only the old row needed.
    fn replaced(
        &self,
        trees: &Trees,
        partition: &mut Partition,
        row: &[u8],
        old: Option<&[u8]>,
        new: &Head,
    ) -> Result<()> {
        let old = old.and_then(|bytes| self.decode(row, bytes).ok());
        self.update_digests(partition, row, old.as_ref().map(|record| &record.head), Some(new));
        let Some(old) = old else { return Ok(()) };
        // The row is set: leftovers on unreadable pages do not matter.
        self.report_unreadable_on_error(self.remove_index_entries(trees, row, &old.head, Some(new)))
            .or_else(ignore_corrupt)?;
        self.report_unreadable_on_error(chunks::remove(&trees.chunks, row, &old)).or_else(ignore_corrupt)
    }

    fn set(&self, trees: &Trees, row: &[u8], bytes: &[u8]) -> Result<()> {
        let set = self.set_stored(trees, row, bytes);
        if set.is_err() {
            trees.progress.give_up();
        }
        self.report_unreadable_on_error(set)
    }

    /// Passes on the engine's result; reports the table if a page cannot be read.
    fn report_unreadable_on_error<T>(&self, done: Result<T>) -> Result<T> {
        if matches!(done, Err(Error::Corrupt(_))) {
            self.report_unreadable();
        }
        done
    }

    fn sample(&self, plain: &[u8]) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.as_mut().is_some_and(|samples| samples.add(plain)) {
            let full = samples.take().expect("just added to");
            let _ = self.context.jobs.send(GcJob::Train(self.name().clone(), full));
        }
    }
}

fn ignore_corrupt(error: Error) -> Result<()> {
    match error {
        Error::Corrupt(_) => Ok(()),
        error => Err(error),
    }
}

/// A row that won its merge.
pub(in crate::storage) struct Staged {
    /// Its record.
    pub(in crate::storage) bytes: Vec<u8>,
    head: Head,
}
