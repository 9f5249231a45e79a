//! A table: rows in 256 partitions, each row the record of one register.
//!
//! `merge` is the one write path. It runs under the lock of the key's partition, so that compare and insert are one step, and
//! sets the row at once: reads and subscribers do not wait for the disk, the writer does (`Committer`). A payload too long for
//! an item of the engine goes before its row into chunks of a tree of their own; the engine's log keeps that order over a
//! crash, so a row never lacks its chunks. A reader that finds them gone has been overtaken by a later write, and reads again.
//!
//! Row key = partition byte ‖ key, the partition being the first byte of blake3(key). A partition is a contiguous range, so it
//! can be counted, compared and one day moved as a unit.
//!
//! Lock order: `trees`, then partitions in ascending order, then `dictionaries` or `samples`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, mpsc},
};

use super::{
    Counters, WallClock, chunks,
    codec::{Codec, Dictionaries, Dictionary, Samples},
    commit::Committer,
    engine::{self, Slice, Tree},
    record::{self, Body, Head, Record},
    sweep::{self, Chore},
};
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{KEY_BYTES_MAX, Key, TableName},
        register::{Payload, Register, fingerprint},
    },
    error::{Error, Result},
};

/// How many partitions a table has: what one byte of hash tells apart.
pub const PARTITIONS: usize = 256;
/// Longest payload as coded that stays in its row.
const INLINE_BYTES_MAX: usize = engine::ITEM_BYTES_MAX - (1 + KEY_BYTES_MAX) - record::OVERHEAD_BYTES;
/// Longest plain payload there can be, whatever the limit for new ones is now. Bounds what a damaged length can claim.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a table shares with the store around it.
#[derive(Clone)]
pub struct Surroundings {
    /// The wall clock, in Unix milliseconds.
    pub now_ms: WallClock,
    /// Where figures are kept.
    pub counters: Arc<Counters>,
    /// Where failures are reported and writers wait.
    pub committer: Arc<Committer>,
    /// Work for the thread that sweeps.
    pub chores: mpsc::Sender<Chore>,
}

/// The trees of a table in an open engine.
pub struct Trees {
    /// Rows.
    pub rows: Tree,
    /// Chunks of long payloads.
    pub chunks: Tree,
    /// When rows of all tables expire.
    pub expiry: Tree,
}

/// A live value as a read finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// The version.
    pub timestamp: Timestamp,
    /// Unix milliseconds at which it expires, if it does.
    pub expires_at_ms: Option<u64>,
}

/// What a row shows to a reader.
pub(super) enum Found {
    Visible(Entry),
    /// A tombstone, or a value that has expired.
    Hidden,
    /// The row's chunks are gone, as a later write took its place: read the row again.
    Overtaken,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The timestamp of the register that came in.
    pub timestamp: Timestamp,
    /// Whether it won; if not, the row is as it was.
    pub changed: bool,
    /// Whether the key had no visible value before.
    pub created: bool,
}

/// Rows of a table, or a part of it, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows with a value, expired ones until they are swept included.
    pub live: u64,
    /// Tombstones.
    pub tombstones: u64,
}

impl Counts {
    /// Counts one more row.
    pub fn add(&mut self, head: &Head) {
        *self.of(head) += 1;
    }

    fn of(&mut self, head: &Head) -> &mut u64 {
        if head.live { &mut self.live } else { &mut self.tombstones }
    }
}

/// What is known of one partition, under its lock. `None` until somebody counted its rows.
#[derive(Default)]
struct Partition {
    counts: Option<Counts>,
}

impl Partition {
    fn replace(&mut self, old: Option<&Head>, new: Option<&Head>) {
        let Some(counts) = &mut self.counts else { return };
        if let Some(old) = old {
            *counts.of(old) -= 1;
        }
        if let Some(new) = new {
            *counts.of(new) += 1;
        }
    }
}

/// What a key holds, as a merge sees it under the lock.
pub struct Existing<'a> {
    table: &'a Table,
    trees: &'a Trees,
    row: &'a [u8],
    record: Record<'a>,
}

impl Existing<'_> {
    /// When and by whom it was written.
    pub fn timestamp(&self) -> Timestamp {
        self.record.head.marker.timestamp
    }

    /// When it expires, in Unix milliseconds.
    pub fn expires_at_ms(&self) -> Option<u64> {
        self.record.head.expires_at_ms
    }

    /// Whether it is a value that is to be seen at `now_ms`.
    pub fn visible_at(&self, now_ms: u64) -> bool {
        self.record.head.visible_at(now_ms)
    }

    /// The value.
    pub fn value(&self) -> Result<Value> {
        self.table.load(self.trees, self.row, &self.record)?.ok_or_else(|| self.table.lost(self.row))
    }
}

/// A table of a store.
pub struct Table {
    name: TableName,
    around: Surroundings,
    /// `None` while the store is being opened again.
    trees: RwLock<Option<Trees>>,
    partitions: Vec<Mutex<Partition>>,
    dictionaries: RwLock<Dictionaries>,
    /// `None` once there is a dictionary, or while one is trained.
    samples: Mutex<Option<Samples>>,
}

impl Table {
    /// A table over its trees, with the dictionaries it has.
    pub fn new(name: TableName, around: Surroundings, trees: Trees, dictionaries: Dictionaries) -> Self {
        let samples = (dictionaries.len() == 0).then(Samples::default);
        Self {
            name,
            around,
            trees: RwLock::new(Some(trees)),
            partitions: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            dictionaries: RwLock::new(dictionaries),
            samples: Mutex::new(samples),
        }
    }

    /// Its name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The visible value of a key.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let row = row_of(key);
        let open = self.open();
        let trees = trees(&open)?;
        loop {
            let Some(bytes) = trees.rows.get(&row)? else { return Ok(None) };
            match self.entry(trees, &row, &bytes)? {
                Found::Visible(entry) => return Ok(Some(entry)),
                Found::Hidden => return Ok(None),
                Found::Overtaken => self.still_there(trees, &row, &bytes)?,
            }
        }
    }

    /// The write path, of every write whoever sent it: `decide` sees what is there and gives the register to merge, or an error,
    /// and then nothing happens. Returns before the write is durable.
    pub fn merge(
        &self,
        key: &Key,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<Merged> {
        self.writing(|trees| {
            let row = row_of(key);
            let mut partition = self.lock(row[0]);
            let stored = trees.rows.get(&row)?;
            let (merged, staged) = self.stage(trees, &row, stored.as_deref(), stored.as_deref(), decide)?;
            if let Some(staged) = staged {
                trees.rows.insert(&row, &staged.bytes)?;
                self.replaced(trees, &mut partition, &row, stored.as_deref(), &staged.head)?;
            }
            Ok(merged)
        })
    }

    /// Merges many, all or none: the first error of a `decide` keeps every one from happening, and so does a crash.
    pub fn merge_all<D>(&self, writes: Vec<(Key, D)>) -> Result<Vec<Merged>>
    where
        D: FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    {
        self.writing(|trees| {
            let rows: Vec<Vec<u8>> = writes.iter().map(|(key, _)| row_of(key)).collect();
            let mut partitions = self.lock_all(rows.iter().map(|row| row[0]));
            let mut staged_rows = StagedRows::new();
            let decides = writes.into_iter().map(|(_, decide)| decide);
            let staged = self.stage_all(trees, rows.iter().zip(decides), &mut staged_rows);
            let results = match staged {
                Ok(results) => results,
                Err(error) => {
                    for (row, (staged, _)) in &staged_rows {
                        chunks::remove(&trees.chunks, row, &self.decode(row, &staged.bytes)?)?;
                    }
                    return Err(error);
                }
            };
            trees
                .rows
                .insert_all(staged_rows.iter().map(|(row, (staged, _))| (*row, staged.bytes.as_slice())))?;
            for (row, (staged, stored)) in &staged_rows {
                let partition = partitions.get_mut(&row[0]).expect("locked above");
                self.replaced(trees, partition, row, stored.as_deref(), &staged.head)?;
            }
            Ok(results)
        })
    }

    /// How many rows there are, as far as they are counted.
    pub fn counted(&self) -> Counts {
        let counts = (0..PARTITIONS).filter_map(|number| self.lock(number as u8).counts);
        counts.fold(Counts::default(), |sum, counts| Counts {
            live: sum.live + counts.live,
            tombstones: sum.tombstones + counts.tombstones,
        })
    }

    /// Counts the rows of every partition that nobody counted before.
    pub fn count(&self) -> Result<()> {
        (0..PARTITIONS).try_for_each(|number| self.count_partition(number as u8))
    }

    /// Counts the rows of one partition, once; every merge keeps that up.
    fn count_partition(&self, number: u8) -> Result<()> {
        let open = self.open();
        let trees = trees(&open)?;
        let mut partition = self.lock(number);
        if partition.counts.is_some() {
            return Ok(());
        }
        let mut counts = Counts::default();
        for item in trees.rows.range(&[number], number.checked_add(1).as_ref().map(std::slice::from_ref)) {
            let (row, bytes) = item?;
            // A damaged record is reported by whoever reads it; here it counts as the value it was.
            match self.decode(&row, &bytes) {
                Ok(record) => counts.add(&record.head),
                Err(_) => counts.live += 1,
            }
        }
        partition.counts = Some(counts);
        Ok(())
    }

    /// Removes a row whose value expired, if it is still the one that expires at `at_ms`; calls `gone` first, under the lock.
    pub fn expire(&self, row: &[u8], at_ms: u64, gone: impl FnOnce(Key, &Head)) -> Result<()> {
        self.writing(|trees| {
            let mut partition = self.lock(row[0]);
            let Some(bytes) = trees.rows.get(row)? else { return Ok(()) };
            let record = self.decode(row, &bytes)?;
            if !record.head.live || record.head.expires_at_ms != Some(at_ms) {
                return Ok(());
            }
            gone(key_of(row)?, &record.head);
            trees.rows.remove(row)?;
            partition.replace(Some(&record.head), None);
            chunks::remove(&trees.chunks, row, &record)
        })
    }

    /// The register's payload and head from a row as the engine gave it; `None` where a later write took its chunks away.
    pub fn read_change(&self, row: &[u8], bytes: &[u8]) -> Result<Option<(Head, Payload)>> {
        let record = self.decode(row, bytes)?;
        if !record.head.live {
            return Ok(Some((record.head, Payload::Deleted)));
        }
        let open = self.open();
        let value = self.load(trees(&open)?, row, &record)?;
        let live = |value| Payload::Live { value, expires_at_ms: record.head.expires_at_ms };
        Ok(value.map(|value| (record.head, live(value))))
    }

    /// Trains the table's dictionary from the samples, gives it to `keep` to make it durable, and uses it from then on.
    pub fn train(&self, samples: &Samples, keep: impl FnOnce(usize, &[u8]) -> Result<()>) -> Result<()> {
        let bytes = samples.train().map_err(|e| Error::Io(format!("training a dictionary: {e}")))?;
        // The record that needs it comes later in the same log, so after a crash the dictionary is there if the record is.
        keep(self.dictionaries().len(), &bytes)?;
        self.dictionaries.write().unwrap_or_else(PoisonError::into_inner).push(Dictionary::new(&bytes));
        Ok(())
    }

    /// Runs `read` on the trees and the table as they are now.
    pub(super) fn with_trees<T>(&self, read: impl FnOnce(&Trees) -> Result<T>) -> Result<T> {
        let open = self.open();
        read(trees(&open)?)
    }

    /// Lets go of the trees, so that the engine can be closed.
    pub fn close(&self) {
        *self.trees.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Goes on over an engine that was opened again: what was counted may have been lost with the log's tail.
    pub fn reopen(&self, trees: Trees) {
        let mut slot = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        for partition in &self.partitions {
            partition.lock().unwrap_or_else(PoisonError::into_inner).counts = None;
        }
        *slot = Some(trees);
    }

    /// What a row shows now.
    pub(super) fn entry(&self, trees: &Trees, row: &[u8], bytes: &[u8]) -> Result<Found> {
        let record = self.decode(row, bytes)?;
        if !record.head.visible_at((self.around.now_ms)()) {
            return Ok(Found::Hidden);
        }
        let Some(value) = self.load(trees, row, &record)? else { return Ok(Found::Overtaken) };
        let (timestamp, expires_at_ms) = (record.head.marker.timestamp, record.head.expires_at_ms);
        Ok(Found::Visible(Entry { value, timestamp, expires_at_ms }))
    }

    /// Whether a row is to be seen now, without its value.
    pub(super) fn visible(&self, row: &[u8], bytes: &[u8]) -> Result<bool> {
        Ok(self.decode(row, bytes)?.head.visible_at((self.around.now_ms)()))
    }

    /// Whether it is worth reading a row again whose chunks were missing.
    ///
    /// # Errors
    /// `Corrupt` where the row is the same as before: nobody took the chunks away.
    pub(super) fn still_there(&self, trees: &Trees, row: &[u8], bytes: &[u8]) -> Result<()> {
        match trees.rows.get(row)? {
            Some(now) if *now == *bytes => Err(self.lost(row)),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes a record apart; damage is counted and named.
    pub fn decode<'a>(&self, row: &[u8], bytes: &'a [u8]) -> Result<Record<'a>> {
        record::decode(row, bytes).map_err(|why| self.damaged(row, why))
    }

    /// Every byte of a row tested, the payload against its fingerprint. Errors name what is wrong.
    pub fn verify(&self, row: &[u8], bytes: &[u8]) -> Result<Head> {
        let record = self.decode(row, bytes)?;
        let text = match record.head.live {
            true => {
                let value = self.with_trees(|trees| self.load(trees, row, &record))?;
                Some(value.ok_or_else(|| self.lost(row))?.into_string())
            }
            false => None,
        };
        let found = fingerprint(text.as_deref().map(str::as_bytes), record.head.expires_at_ms);
        if found != record.head.marker.fingerprint {
            return Err(self.damaged(row, "the value does not match its fingerprint"));
        }
        Ok(record.head)
    }

    /// Stages writes in their order, each on what the ones before it made of its row.
    fn stage_all<'r, D>(
        &self,
        trees: &Trees,
        writes: impl Iterator<Item = (&'r Vec<u8>, D)>,
        staged_rows: &mut StagedRows<'r>,
    ) -> Result<Vec<Merged>>
    where
        D: FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    {
        let mut results = Vec::new();
        for (row, decide) in writes {
            let before = match staged_rows.get(row.as_slice()) {
                Some((_, stored)) => stored.clone(),
                None => trees.rows.get(row)?,
            };
            let current = staged_rows.get(row.as_slice()).map(|(staged, _)| staged.bytes.as_slice());
            let current = current.or(before.as_deref());
            let (merged, staged) = self.stage(trees, row, current, before.as_deref(), decide)?;
            if let Some(staged) = staged {
                let superseded = staged_rows.insert(row, (staged, before));
                if let Some((superseded, _)) = superseded {
                    chunks::remove(&trees.chunks, row, &self.decode(row, &superseded.bytes)?)?;
                }
            }
            results.push(merged);
        }
        Ok(results)
    }

    /// What `decide` makes of a row that is at `current`, ready to be set over what is `stored`; `None` where what is there wins. Chunks and expiry are stored already:
    /// they go before the row, and without it nobody looks at them.
    fn stage(
        &self,
        trees: &Trees,
        row: &[u8],
        current: Option<&[u8]>,
        stored: Option<&[u8]>,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<(Merged, Option<Staged>)> {
        let existing = match current {
            Some(bytes) => Some(Existing { table: self, trees, row, record: self.decode(row, bytes)? }),
            None => None,
        };
        let register = decide(existing.as_ref())?;
        let visible = existing.as_ref().is_some_and(|existing| existing.visible_at((self.around.now_ms)()));
        let changed = existing.is_none_or(|existing| existing.record.head.marker < register.marker());
        let merged = Merged { timestamp: register.timestamp(), changed, created: changed && !visible };
        if !changed {
            self.around.counters.writes_superseded.increment();
            return Ok((merged, None));
        }
        self.around.counters.writes.increment();
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
        // A value that has expired counts as seen until it is swept: the sweep has told nobody yet.
        let quiet = !live
            && match stored {
                Some(bytes) => !self.decode(row, bytes)?.head.live,
                None => true,
            };
        let head = Head { marker: register.marker(), live, expires_at_ms, quiet };
        let chunked = coded.len() > INLINE_BYTES_MAX;
        let body = if chunked { Body::Chunked(coded.len() as u32) } else { Body::Inline(&coded) };
        let record = Record { head, codec, body };
        if chunked {
            chunks::insert(&trees.chunks, row, &head, &coded)?;
        }
        if let Some(at_ms) = expires_at_ms {
            trees.expiry.insert(&sweep::expiry_key(at_ms, &self.name, row), &[])?;
            // The thread that sweeps outlives the tables, but for the moment in which both are dropped.
            let _ = self.around.chores.send(Chore::Expiry(at_ms));
        }
        Ok(Staged { bytes: record::encode(row, &record), head })
    }

    /// Keeps account of a row that was set, and removes what only the one before needed.
    fn replaced(
        &self,
        trees: &Trees,
        partition: &mut Partition,
        row: &[u8],
        old: Option<&[u8]>,
        new: &Head,
    ) -> Result<()> {
        let old = old.map(|bytes| self.decode(row, bytes)).transpose()?;
        partition.replace(old.as_ref().map(|record| &record.head), Some(new));
        match old {
            Some(record) => chunks::remove(&trees.chunks, row, &record),
            None => Ok(()),
        }
    }

    /// The value of a live record; `None` where its chunks are missing.
    fn load(&self, trees: &Trees, row: &[u8], record: &Record<'_>) -> Result<Option<Value>> {
        let chunked;
        let coded = match record.body {
            Body::Inline(coded) => coded,
            Body::Chunked(length) => match chunks::read(&trees.chunks, row, &record.head, length)? {
                Some(coded) => {
                    chunked = coded;
                    &chunked
                }
                None => return Ok(None),
            },
        };
        let plain = self.dictionaries().decode(record.codec, coded, PAYLOAD_BYTES_MAX).and_then(|plain| {
            // The record's checksum covers what is inline.
            let sound = matches!(record.body, Body::Inline(_))
                || fingerprint(Some(&plain), record.head.expires_at_ms) == record.head.marker.fingerprint;
            if sound { Ok(plain) } else { Err("the value does not match its fingerprint") }
        });
        let text = plain.and_then(|plain| String::from_utf8(plain).map_err(|_| "the value is not UTF-8"));
        text.map(|text| Some(Value::trusted(text))).map_err(|why| self.damaged(row, why))
    }

    fn sample(&self, plain: &[u8]) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.as_mut().is_some_and(|samples| samples.add(plain)) {
            let full = samples.take().expect("just added to");
            let _ = self.around.chores.send(Chore::Train(self.name.clone(), full));
        }
    }

    /// Runs `write` on the trees, unless writes are refused. An error of the engine has them refused from then on.
    fn writing<T>(&self, write: impl FnOnce(&Trees) -> Result<T>) -> Result<T> {
        if let Some(reason) = self.around.committer.failure() {
            self.around.counters.writes_refused.increment();
            return Err(Error::StorageFull(reason));
        }
        let open = self.open();
        let result = write(trees(&open)?);
        if let Err(Error::StorageFull(reason)) = &result {
            self.around.committer.fail(reason);
        }
        result
    }

    fn lock(&self, number: u8) -> MutexGuard<'_, Partition> {
        // Counts are whole before anything can panic; the rows are the engine's.
        self.partitions[usize::from(number)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_all(&self, numbers: impl Iterator<Item = u8>) -> HashMap<u8, MutexGuard<'_, Partition>> {
        let numbers: std::collections::BTreeSet<u8> = numbers.collect();
        numbers.into_iter().map(|number| (number, self.lock(number))).collect()
    }

    fn open(&self) -> RwLockReadGuard<'_, Option<Trees>> {
        self.trees.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn dictionaries(&self) -> RwLockReadGuard<'_, Dictionaries> {
        self.dictionaries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, row: &[u8]) -> Error {
        self.damaged(row, "part of its long value is missing")
    }

    fn damaged(&self, row: &[u8], why: &str) -> Error {
        self.around.counters.corrupt_records.increment();
        Error::corrupt_record(&self.name, row.get(1..).unwrap_or_default(), why)
    }
}

/// What a batch makes of its rows so far, and what is stored there.
type StagedRows<'r> = HashMap<&'r [u8], (Staged, Option<Slice>)>;

/// A row that won its merge.
struct Staged {
    bytes: Vec<u8>,
    head: Head,
}

fn trees<'a>(open: &'a RwLockReadGuard<'_, Option<Trees>>) -> Result<&'a Trees> {
    open.as_ref()
        .ok_or_else(|| Error::NotReady("the storage is being opened again; try again in a moment".into()))
}

/// The row of a key.
pub fn row_of(key: &Key) -> Vec<u8> {
    let key = key.as_str().as_bytes();
    let mut row = Vec::with_capacity(1 + key.len());
    row.push(blake3::hash(key).as_bytes()[0]);
    row.extend_from_slice(key);
    row
}

/// The key of a row.
///
/// # Errors
/// `Corrupt` where the row's name is no key.
pub fn key_of(row: &[u8]) -> Result<Key> {
    let text = row.get(1..).and_then(|key| std::str::from_utf8(key).ok());
    text.and_then(|text| Key::parse(text).ok()).ok_or_else(|| {
        Error::Corrupt(format!("a row is named {:?}, which is no key", String::from_utf8_lossy(row)))
    })
}
