//! A table: rows in 256 partitions, each row the record of one register. This file reads single rows; `merge` writes them and `scan` lists
//! them.
//!
//! A payload too long for one item of the engine is stored in chunks in a tree of their own, written before the row and removed after it.
//! If a reader finds them missing, a later write has replaced the row, and it reads again.
//!
//! Lock order: `trees`, then partitions in ascending order, then `dictionaries` or `samples`.

pub(crate) mod agreed;
pub(super) mod batch;
pub(super) mod cache;
pub mod chunks;
pub mod codec;
pub mod context;
pub(super) mod digests;
pub mod due_index;
pub(crate) mod floors;
pub(super) mod intents;
pub mod jobs;
pub(crate) mod lost;
pub mod merge;
pub mod mode;
pub mod partition;
pub(crate) mod progress;
pub mod record;
pub mod row;
pub(crate) mod row_count;
pub mod scan;
pub(crate) mod spans;
pub(in crate::storage) mod tap;
pub mod trees;
mod value;

pub use self::{
    merge::Existing,
    scan::{Counted, Range},
};
use std::sync::{
    Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
    atomic::{AtomicBool, Ordering},
};

use self::{
    batch::Reserved,
    cache::TableId,
    codec::{Dictionaries, Dictionary, Samples},
    context::TableContext,
    digests::CachedDigests,
    lost::{Changed, Lost},
    partition::Partition,
    record::{Body, Head, Record},
    row::{PARTITIONS, key_bytes, row_of},
    trees::Trees,
};
use super::engine::Slice;
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{Key, TableName},
        register::{Payload, fingerprint},
    },
    error::{Error, Result},
};

/// Longest decoded payload, whatever the current limit for new ones is. Limits what a damaged length can claim.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A visible value, as a read returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// The version.
    pub timestamp: Timestamp,
    /// When it expires, in Unix milliseconds; `None` for never.
    pub expires_at_ms: Option<u64>,
}

/// What a reader sees of a row.
pub(super) enum Found {
    Visible(Entry),
    /// A tombstone, or an expired value.
    Hidden,
    /// The row's chunks are gone, as a later write replaced it: read the row again.
    Superseded,
}

/// A table of a store.
pub struct Table {
    name: TableName,
    /// Its id in the cache of values.
    id: TableId,
    /// Whether its rows come through the log of the Raft group.
    pub(super) strong: bool,
    pub(super) context: TableContext,
    /// `None` while the store is reopened.
    pub(super) trees: RwLock<Option<Trees>>,
    /// Whether the store removed the table because it had no rows: holders look up the table that replaces it.
    removed: AtomicBool,
    pub(super) partitions: Vec<Mutex<Partition>>,
    /// Which of them are counted. Who asks for the numbers does not wait for a partition that is being counted: one after the other, that would
    /// be for all of them.
    counted: Vec<AtomicBool>,
    pub(super) cached_digests: CachedDigests,
    pub(super) reserved: Reserved,
    dictionaries: RwLock<Dictionaries>,
    /// `None` once there is a dictionary, and while one is trained.
    pub(super) samples: Mutex<Option<Samples>>,
    /// Ranges lost with unreadable pages.
    pub(super) lost: Lost,
    /// Whether damage was reported and not yet looked at.
    pub(super) reported: AtomicBool,
    /// Rows written while the table is copied.
    pub(super) changed: Changed,
}

impl Table {
    /// A table over its trees, with its dictionaries.
    pub fn new(name: TableName, context: TableContext, trees: Trees, dictionaries: Dictionaries) -> Self {
        let samples = (dictionaries.count() == 0).then(Samples::default);
        Self {
            strong: context.strong.contains(&name),
            name,
            id: context.hot.add_table(),
            context,
            trees: RwLock::new(Some(trees)),
            removed: AtomicBool::new(false),
            partitions: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            counted: (0..PARTITIONS).map(|_| AtomicBool::default()).collect(),
            cached_digests: CachedDigests::default(),
            reserved: Reserved::default(),
            dictionaries: RwLock::new(dictionaries),
            samples: Mutex::new(samples),
            lost: Lost::default(),
            reported: AtomicBool::new(false),
            changed: Changed::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The visible value of a key.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let open = self.open();
        let trees = trees::of(&open)?;
        self.settled(|| row_of(key))?;
        let (cached, stamp) = self.context.hot.get(self.id, key.as_str().as_bytes());
        if let Some(entry) = cached {
            return Ok(Some(entry).filter(|entry| self.is_current(entry.expires_at_ms)));
        }
        let row = row_of(key);
        loop {
            let stored = self.stored(trees, &row)?;
            let Some(bytes) = self.known(&row, stored)? else { return Ok(None) };
            match self.entry(trees, &row, &bytes, Self::load_shared)? {
                Found::Visible(entry) => {
                    self.context.hot.insert(self.id, key.as_str().as_bytes(), stamp, &entry);
                    return Ok(Some(entry));
                }
                Found::Hidden => return Ok(None),
                Found::Superseded => self.check_replaced(trees, &row, &bytes)?,
            }
        }
    }

    /// Returns head and payload of a row's record; `None` if a later write removed its chunks.
    pub fn read_change(&self, row: &[u8], bytes: &[u8]) -> Result<Option<(Head, Payload)>> {
        let record = self.decode(row, bytes)?;
        if !record.head.live {
            return Ok(Some((record.head, Payload::Deleted)));
        }
        let open = self.open();
        let value = match open.as_ref() {
            Some(trees) => self.load(trees, row, &record)?,
            // The chunks of a long value were removed with the table, or are out of reach while the storage is being reopened.
            None if matches!(record.body, Body::Inline(_)) || self.is_removed() => {
                self.load_inline(row, &record)?
            }
            None => self.load(trees::of(&open)?, row, &record)?,
        };
        let live = |value| Payload::Live { value, expires_at_ms: record.head.expires_at_ms };
        Ok(value.map(|value| (record.head, live(value))))
    }

    /// Trains the table's dictionary from the samples, makes it durable with `keep`, and uses it from then on.
    pub fn train(&self, samples: &Samples, keep: impl FnOnce(usize, &[u8]) -> Result<()>) -> Result<()> {
        let bytes = samples.train().map_err(|e| Error::Io(format!("training a dictionary: {e}")))?;
        // While this is held the engine is not reopened, so a dictionary in use is in the open engine.
        let open = self.open();
        trees::of(&open)?;
        // Records that need it come later in the same log: after a crash, if the record is there, so is the dictionary.
        keep(self.dictionaries().count(), &bytes)?;
        self.dictionaries.write().unwrap_or_else(PoisonError::into_inner).push(Dictionary::new(&bytes));
        Ok(())
    }

    /// Calls `read` with the table's current trees.
    pub(super) fn with_trees<T>(&self, read: impl FnOnce(&Trees) -> Result<T>) -> Result<T> {
        let open = self.open();
        read(trees::of(&open)?)
    }

    /// Releases the trees, so that the engine can be closed.
    pub fn close(&self) {
        *self.trees.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Releases the trees for good, if nobody uses them, they hold no row, and everything is published. Returns them for the caller to
    /// remove.
    pub(super) fn remove_if_empty(&self) -> Option<Trees> {
        let mut slot = self.trees.try_write().ok()?;
        let trees = slot.as_ref()?;
        if trees.rows.range(&[], None).next().is_some() || !trees.progress.is_caught_up() {
            return None;
        }
        self.removed.store(true, Ordering::Release);
        slot.take()
    }

    /// Whether the store removed the table. Retry on the table that has its name now, if there is one.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Continues with a reopened engine: counts or a dictionary may have been lost with the end of the log.
    pub fn reopen(&self, trees: Trees, dictionaries: Dictionaries) {
        let samples = (dictionaries.count() == 0).then(Samples::default);
        let mut slot = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        for number in 0..PARTITIONS {
            *self.lock(number as u8) = Partition::default();
            self.counted[number].store(false, Ordering::Release);
        }
        self.cached_digests.invalidate();
        self.context.hot.clear();
        *self.dictionaries.write().unwrap_or_else(PoisonError::into_inner) = dictionaries;
        *self.samples.lock().unwrap_or_else(PoisonError::into_inner) = samples;
        *slot = Some(trees);
    }

    /// What a row shows now.
    pub(super) fn entry(
        &self,
        trees: &Trees,
        row: &[u8],
        bytes: &[u8],
        load: impl FnOnce(&Self, &Trees, &[u8], &Record<'_>) -> Result<Option<Value>>,
    ) -> Result<Found> {
        let record = self.decode(row, bytes)?;
        if !self.is_visible(&record.head) {
            return Ok(Found::Hidden);
        }
        let Some(value) = load(self, trees, row, &record)? else { return Ok(Found::Superseded) };
        let (timestamp, expires_at_ms) = (record.head.marker.timestamp, record.head.expires_at_ms);
        Ok(Found::Visible(Entry { value, timestamp, expires_at_ms }))
    }

    /// Whether a row is visible now; does not read its value.
    pub(super) fn visible(&self, row: &[u8], bytes: &[u8]) -> Result<bool> {
        Ok(self.is_visible(&self.decode(row, bytes)?.head))
    }

    /// Whether a row is visible now. A value of a strong table is until it is deleted.
    pub(super) fn is_visible(&self, head: &Head) -> bool {
        head.live && self.is_current(head.expires_at_ms)
    }

    /// Whether a value with this expiry is visible now.
    fn is_current(&self, expires_at_ms: Option<u64>) -> bool {
        self.strong || expires_at_ms.is_none_or(|at_ms| at_ms > (self.context.now_ms)())
    }

    /// Returns `Ok` if a row whose chunks were missing has changed, so that reading it again makes sense.
    ///
    /// # Errors
    /// `Corrupt` if the row is unchanged: no write removed the chunks.
    pub(super) fn check_replaced(&self, trees: &Trees, row: &[u8], bytes: &[u8]) -> Result<()> {
        match self.stored(trees, row)? {
            Some(now) if *now == *bytes => Err(self.missing_chunk(row)),
            Some(_) | None => Ok(()),
        }
    }

    /// Parses a record; damage is counted and named.
    pub fn decode<'a>(&self, row: &[u8], bytes: &'a [u8]) -> Result<Record<'a>> {
        record::decode(row, bytes).map_err(|why| self.damaged(row, why))
    }

    /// Checks every byte of a row, and the payload against its fingerprint. Errors name what is wrong.
    pub fn verify(&self, row: &[u8], bytes: &[u8]) -> Result<Head> {
        let record = self.decode(row, bytes)?;
        let text = match record.head.live {
            true => {
                let value = self.with_trees(|trees| self.load(trees, row, &record))?;
                Some(value.ok_or_else(|| self.missing_chunk(row))?)
            }
            false => None,
        };
        let found =
            fingerprint(text.as_ref().map(|text| text.as_str().as_bytes()), record.head.expires_at_ms);
        if found != record.head.marker.fingerprint {
            return Err(self.damaged(row, "the value does not match its fingerprint"));
        }
        Ok(record.head)
    }

    /// Sets a row in the engine.
    pub(super) fn set_stored(&self, trees: &Trees, row: &[u8], bytes: &[u8]) -> Result<()> {
        self.context.hot.change(self.id, key_bytes(row), || trees.rows.insert(row, bytes))
    }

    /// Removes a row from the engine.
    pub(in crate::storage) fn remove_stored(&self, trees: &Trees, row: &[u8]) -> Result<()> {
        self.context.hot.change(self.id, key_bytes(row), || trees.rows.remove(row))
    }

    /// Calls `write` with the trees, unless writes are refused. After an error of the engine they are refused.
    pub(super) fn writing<T>(&self, write: impl FnOnce(&Trees) -> Result<T>) -> Result<T> {
        if let Some(reason) = self.context.committer.failure() {
            self.context.counters.writes_refused.increment();
            return Err(Error::StorageFull(reason));
        }
        let open = self.open();
        self.context.committer.noticed(write(trees::of(&open)?))
    }

    pub(super) fn lock(&self, number: u8) -> MutexGuard<'_, Partition> {
        // Counts and digests are consistent before anything can panic; the rows are the engine's.
        self.partitions[usize::from(number)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The locks of all partitions: nothing is written meanwhile.
    pub(super) fn lock_all(&self) -> Vec<MutexGuard<'_, Partition>> {
        (0..PARTITIONS).map(|number| self.lock(number as u8)).collect()
    }

    pub(super) fn open(&self) -> RwLockReadGuard<'_, Option<Trees>> {
        self.trees.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dictionaries(&self) -> RwLockReadGuard<'_, Dictionaries> {
        self.dictionaries.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn missing_chunk(&self, row: &[u8]) -> Error {
        self.damaged(row, "part of its long value is missing")
    }

    /// The stored bytes of a row.
    pub(super) fn stored(&self, trees: &Trees, row: &[u8]) -> Result<Option<Slice>> {
        trees.rows.get(row).map_err(|error| self.unreadable(row, error))
    }

    pub(super) fn damaged(&self, row: &[u8], why: &str) -> Error {
        self.context.counters.corrupt_records.increment();
        Error::corrupt_record(&self.name, key_bytes(row), why)
    }
}
