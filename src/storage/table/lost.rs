//! The rows of a table that cannot be read: on pages that are damaged now, and in ranges that were on such pages when the table was copied.
//!
//! A key in such a range without a row may be absent or lost: this node cannot tell, so it never treats the key as absent. The ranges are
//! kept in `meta` until the table has been found equal to that of a complete member.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
};

use crate::{
    core::{name::TableName, register::Register},
    error::{Error, Result},
    storage::{
        engine::{
            ITEM_BYTES_MAX, Slice, Tree,
            gaps::{Gap, Gaps},
            notes,
        },
        table::jobs::RepairJob,
        table::{Table, tap::ROW_OVERHEAD_BYTES, trees::Trees},
    },
};

/// Prefix of the records of lost ranges in `meta`.
const LOST_PREFIX: &str = "lost/";
/// Longest record of lost ranges: one item of the engine, with its name and checksum.
const RECORD_BYTES_MAX: usize = ITEM_BYTES_MAX - 1024;
/// Most bytes of row names that wait to be copied again: about half a million rows.
const CHANGED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a client is told about a key that cannot be read.
const UNREADABLE: &str = "it lies on a part of the disk that cannot be read. Other nodes may have it, and give it back to this one; a node \
     that is alone has lost it: write it again, or restore a backup";

/// The lost ranges of a table.
#[derive(Default)]
pub struct Lost {
    any: AtomicBool,
    /// When the last of them was found, in Unix milliseconds.
    since_ms: AtomicU64,
    gaps: Gaps,
    /// Held while the ranges change, here and in `meta`.
    changing: Mutex<()>,
}

impl Lost {
    /// Reads the stored ranges of a table that was just opened.
    pub fn read(&self, meta: &Tree, table: &TableName) -> Result<()> {
        let Some(kept) = meta.get(&key(table))? else { return Ok(()) };
        let read = notes::unseal(&kept).and_then(decode);
        let (since_ms, gaps) = read
            .ok_or_else(|| Error::Corrupt(format!("the list of lost ranges of table {table} is damaged")))?;
        self.set(since_ms, gaps);
        Ok(())
    }

    /// Adds ranges and stores them. Durable by the next commit.
    pub fn add(&self, meta: &Tree, table: &TableName, now_ms: u64, lost: &Gaps) -> Result<()> {
        if lost.is_empty() {
            return Ok(());
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Gaps::default();
        self.gaps.all().into_iter().chain(lost.all()).for_each(|gap| all.add(gap));
        meta.insert(&key(table), &notes::seal(&encode(now_ms, all.all())))?;
        self.set(now_ms, all.all());
        Ok(())
    }

    /// Removes all ranges if they were found before an instant at which the table was complete. Returns whether it did.
    pub fn restored(&self, meta: &Tree, table: &TableName, at_ms: u64) -> Result<bool> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.any() || self.since_ms.load(Ordering::Acquire) >= at_ms {
            return Ok(false);
        }
        meta.remove(&key(table))?;
        self.any.store(false, Ordering::Release);
        self.gaps.clear();
        Ok(true)
    }

    /// Moves the time of the loss up to now: a comparison at an earlier instant proves nothing about these ranges.
    pub fn raise_since(&self, now_ms: u64) {
        self.since_ms.fetch_max(now_ms, Ordering::AcqRel);
    }

    /// When the last of them was found, in Unix milliseconds; 0 if there are none.
    pub fn since_ms(&self) -> u64 {
        if self.any() { self.since_ms.load(Ordering::Acquire) } else { 0 }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Whether a row is in one of them.
    pub fn covers(&self, row: &[u8]) -> bool {
        self.any() && self.gaps.covering(row).is_some()
    }

    /// All ranges, in order.
    pub fn all(&self) -> Vec<Gap> {
        if self.any() { self.gaps.all() } else { Vec::new() }
    }

    fn set(&self, since_ms: u64, gaps: Vec<Gap>) {
        self.since_ms.store(since_ms, Ordering::Release);
        let any = !gaps.is_empty();
        gaps.into_iter().for_each(|gap| self.gaps.add(gap));
        self.any.store(any, Ordering::Release);
    }
}

/// The partitions that a range touches.
pub fn partitions(gap: &Gap) -> RangeInclusive<u8> {
    let first = gap.from.first().copied().unwrap_or(0);
    let last = gap.to.as_ref().map_or(u8::MAX, |to| match to.as_slice() {
        [] => 0,
        // The range ends where that partition begins.
        [next] => next.saturating_sub(1),
        [last, ..] => *last,
    });
    first..=last.max(first)
}

impl Table {
    /// Number of ranges that cannot be read or were lost.
    pub fn unreadable_ranges(&self) -> usize {
        let damaged =
            self.with_trees(|trees| Ok(trees.rows.gaps().all().len() + trees.chunks.gaps().all().len()));
        self.lost.all().len() + damaged.unwrap_or(0)
    }

    /// Whether there are any.
    pub fn has_unreadable(&self) -> bool {
        let is_damaged =
            || self.with_trees(|trees| Ok(!trees.rows.gaps().is_empty() || !trees.chunks.gaps().is_empty()));
        self.lost.any() || is_damaged().unwrap_or(false)
    }

    /// Returns an item of a scan; `None` in place of an unreadable page, which is reported.
    pub(in crate::storage) fn readable(
        &self,
        item: Result<(Slice, Slice)>,
    ) -> Result<Option<(Slice, Slice)>> {
        match item {
            Err(Error::Corrupt(_)) => {
                self.report_unreadable();
                Ok(None)
            }
            item => item.map(Some),
        }
    }

    /// Reports the table to the repair thread, which finds out what cannot be read and handles it.
    pub(in crate::storage) fn report_unreadable(&self) {
        if !self.reported.swap(true, Ordering::AcqRel) {
            // In a store without threads nobody receives it.
            let _ = self.context.repairs.send(RepairJob::Inspect(Some(self.name().clone())));
        }
    }

    /// Returns what is stored under a row, or an error if the row is in a lost range and so cannot be called absent.
    pub(in crate::storage) fn known(&self, row: &[u8], stored: Option<Slice>) -> Result<Option<Slice>> {
        if stored.is_none() && self.lost.covers(row) { Err(self.unreadable_row(row)) } else { Ok(stored) }
    }

    /// Names the row in an error of the engine, which knows no keys.
    pub(in crate::storage) fn unreadable(&self, row: &[u8], error: Error) -> Error {
        match error {
            Error::Corrupt(_) => {
                self.report_unreadable();
                self.unreadable_row(row)
            }
            other => other,
        }
    }

    /// The error for a key that cannot be read.
    pub(in crate::storage) fn unreadable_row(&self, row: &[u8]) -> Error {
        self.damaged(row, UNREADABLE)
    }

    /// Returns the error for a lost row in place of a decision that was based on its absence.
    pub(in crate::storage) fn refuse_if_lost(
        &self,
        row: &[u8],
        decided: Result<Register>,
    ) -> Result<Register> {
        match decided {
            Err(Error::NotFound(_) | Error::PreconditionFailed { .. }) if self.lost.covers(row) => {
                Err(self.unreadable_row(row))
            }
            decided => decided,
        }
    }

    /// The lost ranges with keys at or above `low` and below `high`.
    pub(in crate::storage) fn lost_between(&self, low: &[u8], high: Option<&[u8]>) -> Vec<Gap> {
        let mut lost = self.lost.all();
        lost.retain(|gap| has_keys_between(gap, low, high));
        lost
    }
}

/// Whether a range of rows has keys at or above `low` and below `high`.
pub fn has_keys_between(gap: &Gap, low: &[u8], high: Option<&[u8]>) -> bool {
    partitions(gap).any(|number| {
        let low = [&[number], low].concat();
        let high = high.map(|high| [&[number], high].concat());
        gap.overlaps(&low, high.as_deref().or(number.checked_add(1).as_ref().map(std::slice::from_ref)))
    })
}

/// Rows written while their table is copied.
#[derive(Default)]
pub struct Changed {
    copying: AtomicBool,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    rows: BTreeSet<Vec<u8>>,
    bytes: usize,
    /// Whether rows were left out for lack of room.
    is_incomplete: bool,
}

impl Changed {
    /// Records a row that was set or removed, if a copy is under way.
    pub fn note(&self, row: &[u8]) {
        if self.copying.load(Ordering::Acquire) {
            self.lock().add(row);
        }
    }

    /// Starts or stops recording.
    pub fn set(&self, copying: bool) {
        self.copying.store(copying, Ordering::Release);
        *self.lock() = Noted::default();
    }

    /// Whether an eighth of the rows that can be remembered are.
    pub fn is_filling(&self) -> bool {
        self.lock().bytes > CHANGED_BYTES_MAX / 8
    }

    /// Takes the rows recorded since the last call.
    ///
    /// # Errors
    /// `TooMany` if they were too many to remember.
    pub fn take(&self) -> Result<BTreeSet<Vec<u8>>> {
        let noted = std::mem::take(&mut *self.lock());
        if noted.is_incomplete {
            return Err(Error::TooMany(format!(
                "more rows changed during the copy than the {} MiB of names that a node remembers",
                CHANGED_BYTES_MAX >> 20
            )));
        }
        Ok(noted.rows)
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        // Whoever panics in between leaves one row too many at most.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn add(&mut self, row: &[u8]) {
        let bytes = row.len() + ROW_OVERHEAD_BYTES;
        if self.bytes + bytes > CHANGED_BYTES_MAX {
            self.is_incomplete = true;
        } else if self.rows.insert(row.to_vec()) {
            self.bytes += bytes;
        }
    }
}

fn key(table: &TableName) -> Vec<u8> {
    format!("{LOST_PREFIX}{table}").into_bytes()
}

/// since u64 ‖ per range: length of `from` u16 ‖ from ‖ length of `to` u16, or 0xffff for none ‖ to. Big-endian.
fn encode(since_ms: u64, mut gaps: Vec<Gap>) -> Vec<u8> {
    loop {
        let mut bytes = since_ms.to_be_bytes().to_vec();
        for gap in &gaps {
            bytes.extend_from_slice(&(gap.from.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&gap.from);
            bytes.extend_from_slice(&gap.to.as_ref().map_or(u16::MAX, |to| to.len() as u16).to_be_bytes());
            bytes.extend_from_slice(gap.to.as_deref().unwrap_or_default());
        }
        if bytes.len() <= RECORD_BYTES_MAX || gaps.len() < 2 {
            return bytes;
        }
        // There are too many to store each: neighbours are merged, and the keys between them count as lost too.
        let pairs = gaps
            .chunks(2)
            .map(|pair| Gap { from: pair[0].from.clone(), to: pair[pair.len() - 1].to.clone() });
        gaps = pairs.collect();
    }
}

fn decode(bytes: &[u8]) -> Option<(u64, Vec<Gap>)> {
    let (since_ms, mut rest) = bytes.split_first_chunk::<8>()?;
    let mut gaps = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (from, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (length, after) = after.split_first_chunk::<2>()?;
        let length = u16::from_be_bytes(*length);
        let (to, after) = after.split_at_checked(if length == u16::MAX { 0 } else { usize::from(length) })?;
        gaps.push(Gap { from: from.to_vec(), to: (length != u16::MAX).then(|| to.to_vec()) });
        rest = after;
    }
    Some((u64::from_be_bytes(*since_ms), gaps))
}

/// Replacing the trees of a table.
impl Table {
    /// Replaces the table's trees while nobody reads or writes.
    pub(in crate::storage) fn replace_trees<T>(
        &self,
        replace: impl FnOnce(&mut Trees) -> Result<T>,
    ) -> Result<T> {
        let mut slot = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let trees = slot.as_mut();
        let trees = trees
            .ok_or_else(|| Error::NotReady("the storage is being reopened; try again in a moment".into()))?;
        let replaced = replace(trees);
        self.context.hot.clear();
        self.cached_digests.invalidate();
        replaced
    }

    /// Counts a partition again and rebuilds its tree, whatever was known of it.
    fn recount_partition(&self, trees: &Trees, number: u8) -> Result<()> {
        let mut partition = self.lock(number);
        let depth = partition.digests.as_ref().map(|digests| digests.tree().depth());
        let found = self.tally(trees, number, self.context.digest_key.now(), depth)?;
        self.set_counted(number, &mut partition, found);
        Ok(())
    }

    /// Recounts the partitions that these ranges touch.
    pub(in crate::storage) fn recount(&self, trees: &Trees, gaps: &[Gap]) -> Result<()> {
        let numbers: BTreeSet<u8> = gaps.iter().flat_map(partitions).collect();
        numbers.into_iter().try_for_each(|number| self.recount_partition(trees, number))
    }
}

/// Where damage is reported.
pub type Reports = mpsc::Sender<RepairJob>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_round_trip_and_too_many_are_merged() {
        let gap = |number: u32| Gap {
            from: vec![7; 1000],
            to: (number > 0).then(|| [&[8; 1000][..], &number.to_be_bytes()].concat()),
        };
        for count in [0, 1, 2, 7] {
            let gaps: Vec<Gap> = (0..count).map(gap).collect();
            assert_eq!(decode(&encode(5, gaps.clone())), Some((5, gaps)));
        }
        let many: Vec<Gap> =
            (0..100_u8).map(|n| Gap { from: vec![n; 1000], to: Some(vec![n, 255]) }).collect();
        let bytes = encode(5, many.clone());
        assert!(bytes.len() <= RECORD_BYTES_MAX);
        let (_, kept) = decode(&bytes).expect("decodes");
        assert!(many.iter().all(|gap| kept.iter().any(|kept| kept.covers(&gap.from))));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
    }

    /// A table whose copy took long could not be written to as fast as memory allows: the node remembered every row that was written meanwhile.
    #[test]
    fn too_many_rows_that_change_during_a_copy_fail_it_and_not_the_writers() {
        let changed = Changed::default();
        let row = |number: u8| [&[number][..], &[0; 1024 * 1024]].concat();
        changed.note(&row(0));
        assert_eq!(changed.take(), Ok(BTreeSet::new()), "no copy is under way");
        changed.set(true);
        for number in [1, 2, 1] {
            changed.note(&row(number));
        }
        assert_eq!(changed.take(), Ok([row(1), row(2)].into()));
        (0..63).for_each(|number| changed.note(&row(number)));
        assert!(changed.is_filling());
        assert_eq!(changed.take().map(|rows| rows.len()), Ok(63));
        (0..65).for_each(|number| changed.note(&row(number)));
        assert!(matches!(changed.take(), Err(Error::TooMany(_))));
        assert_eq!(changed.take(), Ok(BTreeSet::new()));
    }

    /// If ranges were lost just as earlier ones were found restored, the new ones were removed with them, and their rows then taken for
    /// deleted.
    #[test]
    fn what_is_lost_while_what_was_lost_is_given_back_stays_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let engine = crate::storage::engine::Engine::open(&directory.path().join("storage.db"), 1024 * 1024);
        let engine = engine.expect("opens");
        let (meta, name) = (engine.tree("meta").expect("a tree"), TableName::parse("t").expect("a name"));
        let of = |key: &[u8]| {
            let gaps = Gaps::default();
            gaps.add(Gap::of_key(key));
            gaps
        };
        for _ in 0..5000 {
            let lost = Lost::default();
            lost.add(&meta, &name, 1, &of(b"a")).expect("adds");
            let both = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    lost.add(&meta, &name, 2, &of(b"b")).expect("adds");
                });
                both.wait();
                lost.restored(&meta, &name, 2).expect("notes");
            });
            assert!(lost.covers(b"b"));
            let kept = Lost::default();
            kept.read(&meta, &name).expect("reads");
            assert!(kept.covers(b"b"));
        }
    }

    #[test]
    fn a_range_touches_the_partitions_of_its_rows() {
        let gap = |from: &[u8], to: Option<&[u8]>| Gap { from: from.to_vec(), to: to.map(<[u8]>::to_vec) };
        assert_eq!(partitions(&gap(&[3, 1], Some(&[3, 9]))), 3..=3);
        assert_eq!(partitions(&gap(&[3, 1], Some(&[4]))), 3..=3);
        assert_eq!(partitions(&gap(&[3, 1], Some(&[5, 1]))), 3..=5);
        assert_eq!(partitions(&gap(&[], None)), 0..=255);
        assert!(has_keys_between(&gap(&[3, b'k'], Some(&[4])), b"m", None));
        assert!(!has_keys_between(&gap(&[3, b'k'], Some(&[3, b'm'])), b"m", None));
        assert!(!has_keys_between(&gap(&[3, b'k'], Some(&[3, b'm'])), b"a", Some(b"k")));
    }
}
