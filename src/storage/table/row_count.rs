//! Counts all rows after an opening, and compares what the store holds with what it held when it was closed: the number of rows and the sum
//! of their digests.
//!
//! The sum at the close costs nothing, as every write updates the digests. The sum at the opening comes from the count of all rows that
//! follows each start; writes to a partition that is not counted yet are subtracted. So damage that keeps all checksums intact, such as a
//! page in an older version, is still found.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::error;

use crate::{
    core::{
        digest::{DigestKey, Sum},
        name::TableName,
    },
    error::Result,
    storage::{
        Store,
        engine::{mark::ContentSum, suspected_loss},
        table::{
            Table,
            partition::{Counts, Digests, Partition},
            row::PARTITIONS,
        },
    },
};

/// Compares the store's rows with those of the last close.
#[derive(Default)]
pub struct CloseComparison {
    /// Whether `counting` has something: every write asks.
    is_pending: AtomicBool,
    counting: Mutex<Option<Counting>>,
}

struct Counting {
    content: ContentSum,
    /// The sum so far, without what was written since the opening.
    sum: Sum,
}

impl CloseComparison {
    /// Starts with the content at the last close, if it is known.
    pub fn new(content: Option<ContentSum>) -> Self {
        Self {
            is_pending: AtomicBool::new(content.is_some()),
            counting: Mutex::new(content.map(|content| Counting { content, sum: Sum::default() })),
        }
    }

    /// Whether the comparison is still under way.
    pub fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    /// Adds a partition that was counted for the first time.
    pub fn count(&self, sum: Sum) {
        if let Some(counting) = &mut *self.lock() {
            counting.sum += sum;
        }
    }

    /// Subtracts a change of a row in a partition that is not counted yet. The caller holds the partition's lock.
    pub fn change(&self, old: Option<Sum>, new: Option<Sum>) {
        if let Some(counting) = &mut *self.lock() {
            counting.sum += old.unwrap_or_default() - new.unwrap_or_default();
        }
    }

    /// Gives up: rows are hashed under another key, or the engine was reopened.
    pub fn give_up(&self) {
        self.take();
    }

    fn take(&self) -> Option<Counting> {
        let counting = self.lock().take();
        self.is_pending.store(false, Ordering::Release);
        counting
    }

    fn lock(&self) -> MutexGuard<'_, Option<Counting>> {
        // A sum is complete before anything can panic.
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The number of rows, as far as they are counted.
    pub fn counted(&self) -> Counts {
        let counted = (0..PARTITIONS).map(|number| number as u8).filter(|number| self.has_counted(*number));
        let counts = counted.filter_map(|number| self.lock(number).counts);
        counts.fold(Counts::default(), |sum, counts| Counts {
            live: sum.live + counts.live,
            tombstones: sum.tombstones + counts.tombstones,
            live_bytes: sum.live_bytes + counts.live_bytes,
        })
    }

    /// Whether the rows of every partition are counted.
    pub fn is_counted(&self) -> bool {
        (0..PARTITIONS).all(|number| self.has_counted(number as u8))
    }

    /// Whether the rows of a partition are counted.
    pub(super) fn has_counted(&self, number: u8) -> bool {
        self.counted[usize::from(number)].load(Ordering::Acquire)
    }

    /// Records what a partition was found to hold. The caller holds its lock.
    pub(super) fn set_counted(&self, number: u8, partition: &mut Partition, found: (Counts, Digests)) {
        let (counts, digests) = found;
        if partition.counts.is_none() {
            self.context.close_comparison.count(digests.tree().total());
        }
        *partition = Partition { counts: Some(counts), digests: Some(digests) };
        self.note_counted(number);
    }

    /// The rows of a partition are counted. The caller holds its lock.
    pub(super) fn note_counted(&self, number: u8) {
        self.counted[usize::from(number)].store(true, Ordering::Release);
        // Who asked meanwhile had the numbers without it.
        self.cached_digests.invalidate();
    }

    /// All partitions are to be counted again, under another key. Writes go on with what is known of them; who asks waits for none of them.
    pub(super) fn uncount(&self) {
        self.counted.iter().for_each(|is_counted| is_counted.store(false, Ordering::Release));
        self.cached_digests.invalidate();
    }

    /// Counts the rows of every partition that is not counted yet.
    pub fn count(&self) -> Result<()> {
        (0..PARTITIONS).try_for_each(|number| self.count_partition(number as u8))
    }

    /// The sum of all current rows; `None` if some are not hashed under `key`.
    pub(in crate::storage) fn total(&self, key: &Arc<DigestKey>) -> Option<Sum> {
        if !self.is_counted() {
            return None;
        }
        let total = |number: usize| {
            let partition = self.lock(number as u8);
            let digests = partition.digests.as_ref().filter(|digests| digests.is_under(key))?;
            Some(digests.tree().total())
        };
        (0..PARTITIONS).map(total).sum()
    }
}

impl Store {
    /// The tables by name, with their rows as far as they are counted.
    pub fn tables(&self) -> Vec<(TableName, Counts)> {
        self.read_tables().values().map(|table| (table.name().clone(), table.counted())).collect()
    }

    /// The tables whose rows are not all counted.
    pub fn uncounted_tables(&self) -> BTreeSet<TableName> {
        let tables = self.read_tables();
        tables.iter().filter(|(_, table)| !table.is_counted()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether the rows of all tables are counted.
    pub fn is_counted(&self) -> bool {
        self.read_tables().values().all(|table| table.is_counted())
    }

    /// Counts the rows of all tables that are not counted yet. Takes a scan.
    pub fn count_rows(&self) -> Result<()> {
        let _one = self.0.counting.lock().unwrap_or_else(PoisonError::into_inner);
        self.count_tables()
    }

    /// As `count_rows`, unless that is done or under way.
    pub fn count_rows_if_needed(&self) -> Result<()> {
        if self.is_counted() {
            return Ok(());
        }
        match self.0.counting.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(()),
            Ok(_) | Err(TryLockError::Poisoned(_)) => self.count_tables(),
        }
    }

    fn count_tables(&self) -> Result<()> {
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        tables.iter().try_for_each(|table| match table.count() {
            Err(_) if table.is_removed() => Ok(()),
            counted => counted,
        })?;
        self.compare_with_close();
        Ok(())
    }

    /// Once all rows are counted, checks that they are those of the last close. If not, logs it and records a suspected loss.
    pub(in crate::storage) fn compare_with_close(&self) {
        if !self.0.context.close_comparison.is_pending() || !self.is_counted() {
            return;
        }
        let Some(Counting { content, sum }) = self.0.context.close_comparison.take() else { return };
        if sum.to_bytes() == content {
            return;
        }
        self.counters().start_mismatches.increment();
        let then = Sum::count_of(&content);
        let why = format!(
            "the rows differ from those at the last stop: {then} then, {} now: {}",
            sum.count,
            suspected_loss::MEANING
        );
        error!(%why, "the storage changed while the node was stopped");
        self.record_suspected_loss(why);
    }

    /// The content of all tables, for the mark of a close. `None` if it is unknown.
    pub(in crate::storage) fn content(&self) -> Option<ContentSum> {
        if self.failure().is_some() || !self.is_counted() {
            return None;
        }
        let key = self.0.context.digest_key.now();
        let sums: Option<Sum> = self.all_tables().iter().map(|table| table.total(&key)).sum();
        sums.map(|sum| sum.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{digest::Path, name::Key, register::Register},
        storage::{
            Engine, Store,
            table::row::row_of,
            tests::{DEADLINE, Fixture, close, key, put, table, timestamp, wait_until},
        },
    };

    const ROWS: u64 = 300;

    fn filled(fixture: &Fixture) {
        let store = fixture.open();
        for number in 0..ROWS {
            merge(&store, &key(&format!("k{number}")), &put(&number.to_string(), None, number));
        }
        merge(&store, &key("gone"), &Register::deleted(timestamp(ROWS)));
        close(store);
    }

    fn merge(store: &Store, key: &Key, register: &Register) {
        store.merge(&table(), key, |_| Ok(register.clone())).expect("merges");
    }

    /// Changes a store without its mark, like damage that keeps all checksums intact.
    fn harm(fixture: &Fixture, harm: impl FnOnce(&crate::storage::engine::Tree)) {
        let engine = Engine::open(&fixture.data(), 1024 * 1024).expect("the engine opens");
        let content = engine.content();
        assert!(content.is_some(), "the close recorded the content");
        harm(&engine.tree("rows/t").expect("a tree"));
        engine.close(content).expect("closes");
    }

    /// `/readyz`, `/_/cluster` and the rounds went from one partition to the next behind the count: for a million rows the threads of the node
    /// answered nobody for five seconds.
    #[test]
    fn nobody_waits_for_a_partition_that_is_being_counted() {
        let fixture = Fixture::new();
        filled(&fixture);
        let store = fixture.open();
        let held = store.table(&table()).expect("is there");
        held.count_partition(0).expect("counts");
        let being_counted = held.lock(1);
        let (rows, is_counted, has_total) = known(&store);
        drop(being_counted);
        assert!(rows < ROWS && !is_counted && !has_total, "{rows} {is_counted} {has_total}");
        store.count_rows().expect("counts");
        assert_eq!(known(&store), (ROWS + 1, true, true));
        close(store);
    }

    /// What is known of the rows, asked for by somebody who waits for nothing.
    fn known(store: &Store) -> (u64, bool, bool) {
        let (sender, asked) = std::sync::mpsc::channel();
        let asking = store.clone();
        std::thread::spawn(move || {
            let digest_key = asking.0.context.digest_key.now();
            let table = asking.table(&table()).expect("is there");
            let known = (asking.rows_total(), asking.is_counted(), table.total(&digest_key).is_some());
            let sums = |path| asking.sums(table.name(), path, 0, u64::MAX).expect("does not fail");
            assert_eq!(sums(Path::ROOT).is_some(), known.2);
            assert!(sums(Path::partition(0)).is_some(), "that of the first partition is known");
            asking.depth(table.name(), Path::ROOT).expect("does not fail");
            drop((table, asking));
            sender.send(known).expect("is awaited");
        });
        asked.recv_timeout(DEADLINE).expect("nobody waits")
    }

    /// The same where a node joined another cluster, whose key all rows are hashed under then.
    #[test]
    fn nobody_waits_for_a_partition_that_is_being_hashed_under_another_key() {
        let fixture = Fixture::new();
        filled(&fixture);
        let store = fixture.open();
        store.count_rows().expect("counts");
        let held = store.table(&table()).expect("is there");
        let being_counted = held.lock(1);
        let rekeying = store.clone();
        let rekeyed = std::thread::spawn(move || rekeying.rekey(DigestKey([7; 32])).expect("takes the key"));
        wait_until("the first partition has the key", || {
            held.counted[0].load(Ordering::Acquire) && !held.counted[1].load(Ordering::Acquire)
        });
        let (rows, is_counted, has_total) = known(&store);
        assert!(rows < ROWS && !is_counted && !has_total, "{rows} {is_counted} {has_total}");
        merge(&store, &key_outside(1), &put("1", None, 1000));
        drop(being_counted);
        rekeyed.join().expect("no panic");
        assert_eq!(known(&store), (ROWS + 2, true, true));
        drop(held);
        close(store);
    }

    /// Such a partition was counted under the new key already, and was left out for ever then: the node did not know what it holds.
    #[test]
    fn a_partition_that_is_counted_before_all_are_to_be_counted_again_counts() {
        let fixture = Fixture::new();
        filled(&fixture);
        let store = fixture.open();
        store.count_rows().expect("counts");
        store.table(&table()).expect("is there").uncount();
        assert!(!store.is_counted());
        store.count_rows().expect("counts");
        assert_eq!(known(&store), (ROWS + 1, true, true));
        close(store);
    }

    /// A key of a row in another partition.
    fn key_outside(partition: u8) -> Key {
        let keys = (0..).map(|number| key(&format!("new{number}")));
        keys.into_iter().find(|key| row_of(key)[0] != partition).expect("there are many")
    }

    #[test]
    fn an_unchanged_store_is_not_suspected_of_a_loss() {
        let fixture = Fixture::new();
        filled(&fixture);
        let store = fixture.open();
        // Before the partitions are counted: a new row, a replaced one, a deleted one.
        merge(&store, &key("new"), &put("1", None, 1000));
        merge(&store, &key("k1"), &put("9", None, 1001));
        merge(&store, &key("k2"), &Register::deleted(timestamp(1002)));
        store.count_rows().expect("counts");
        assert!(!store.0.context.close_comparison.is_pending(), "it was compared");
        assert_eq!((store.suspected_loss(), store.counters().start_mismatches.value()), (None, 0));
        close(store);
        let store = fixture.open();
        store.count_rows().expect("counts");
        assert_eq!(store.suspected_loss(), None);
        close(store);
    }

    /// Pages in an older version were served silently, and nothing else would ever have shown it.
    #[test]
    fn rows_missing_or_older_after_a_close_are_a_lasting_suspected_loss() {
        let harms: [fn(&crate::storage::engine::Tree); 2] = [
            |rows| rows.remove(&row_of(&key("k7"))).expect("removes"),
            |rows| {
                let older = rows.get(&row_of(&key("k7"))).expect("reads").expect("is there");
                let mut older = older.to_vec();
                // Another timestamp, with a matching checksum.
                older[15] ^= 1;
                let fits = crate::storage::table::record::resealed(&row_of(&key("k7")), older);
                rows.insert(&row_of(&key("k7")), &fits).expect("inserts");
            },
        ];
        for harm_rows in harms {
            let fixture = Fixture::new();
            filled(&fixture);
            harm(&fixture, harm_rows);
            let store = fixture.open();
            assert_eq!(store.suspected_loss(), None, "the rows are not counted yet");
            store.count_rows().expect("counts");
            let why = store.suspected_loss().expect("the rows differ");
            assert!(why.contains("301 then") && why.contains("deleted keys"), "{why}");
            assert_eq!(store.counters().start_mismatches.value(), 1);
            close(store);
            let store = fixture.open();
            assert_eq!(store.suspected_loss(), Some(why), "it is stored");
            store.clear_suspected_loss(store.incarnation()).expect("clears");
            assert_eq!(store.suspected_loss(), None);
            close(store);
            let store = fixture.open();
            store.count_rows().expect("counts");
            assert_eq!(store.suspected_loss(), None);
            close(store);
        }
    }
}
