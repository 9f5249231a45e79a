//! The count of all rows after an opening; and what a store held when it was opened, against what it held when it was closed: how many rows, and the sum of their digests.
//!
//! The sum at the close costs nothing, as the digests are kept up by every write. The sum at the opening comes from the count of all
//! rows that follows each start; writes before a partition is counted are taken out again. So damage that fits all checksums, such
//! as a page that is older than it was, is found all the same.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tracing::error;

use crate::{
    core::{digest::Sum, name::TableName},
    error::Result,
    storage::{
        Store,
        engine::{mark::ContentSum, suspected_loss},
        table::partition::Counts,
    },
};

/// What a store was found to hold when it was opened.
#[derive(Default)]
pub struct CloseComparison {
    /// Whether `counting` has anything, asked by every write.
    is_pending: AtomicBool,
    counting: Mutex<Option<Counting>>,
}

struct Counting {
    content: ContentSum,
    /// What was counted so far, without what was written before it was.
    sum: Sum,
}

impl CloseComparison {
    /// Of a store that held that when it was closed, if that is known.
    pub fn new(content: Option<ContentSum>) -> Self {
        Self {
            is_pending: AtomicBool::new(content.is_some()),
            counting: Mutex::new(content.map(|content| Counting { content, sum: Sum::default() })),
        }
    }

    /// Whether it is not known yet.
    pub fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    /// A partition was counted for the first time.
    pub fn count(&self, sum: Sum) {
        if let Some(counting) = &mut *self.lock() {
            counting.sum += sum;
        }
    }

    /// A row of a partition changed that is not counted yet. Whoever calls holds the lock of the partition.
    pub fn change(&self, old: Option<Sum>, new: Option<Sum>) {
        if let Some(counting) = &mut *self.lock() {
            counting.sum += old.unwrap_or_default() - new.unwrap_or_default();
        }
    }

    /// Gives up: rows are hashed under another key, or the engine was opened again.
    pub fn give_up(&self) {
        self.take();
    }

    fn take(&self) -> Option<Counting> {
        let counting = self.lock().take();
        self.is_pending.store(false, Ordering::Release);
        counting
    }

    fn lock(&self) -> MutexGuard<'_, Option<Counting>> {
        // A sum is whole before anything can panic.
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// The tables, by name, with the rows they have, as far as those are counted.
    pub fn tables(&self) -> Vec<(TableName, Counts)> {
        self.read_tables().values().map(|table| (table.name().clone(), table.counted())).collect()
    }

    /// Whether the rows of all tables are counted.
    pub fn is_counted(&self) -> bool {
        self.read_tables().values().all(|table| table.is_counted())
    }

    /// Counts the rows of all tables that were there when the store was opened. Takes a scan.
    pub fn count_rows(&self) -> Result<()> {
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        tables.iter().try_for_each(|table| match table.count() {
            Err(_) if table.is_removed() => Ok(()),
            counted => counted,
        })?;
        self.compare_with_close();
        Ok(())
    }

    /// Once all rows are counted: whether they are those that were here at the close. Where they are not, that is logged, and a
    /// doubt.
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
            "the rows are not those of when the node was stopped: {then} then, {} now: {}",
            sum.count,
            suspected_loss::MEANING
        );
        error!(%why, "the storage changed while the node was stopped");
        self.record_suspected_loss(why);
    }

    /// What all tables hold, for the mark of a close. `None` where that is not known.
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
    use crate::{
        core::{name::Key, register::Register},
        storage::{
            Engine, Store,
            table::row::row_of,
            tests::{Fixture, close, key, put, table, timestamp},
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

    /// Changes a store beneath the mark, as damage would that fits all checksums.
    fn harm(fixture: &Fixture, harm: impl FnOnce(&crate::storage::engine::Tree)) {
        let engine = Engine::open(&fixture.data(), 1024 * 1024).expect("the engine opens");
        let content = engine.content();
        assert!(content.is_some(), "the close noted what there was");
        harm(&engine.tree("rows/t").expect("a tree"));
        engine.close(content).expect("closes");
    }

    #[test]
    fn an_unchanged_store_is_not_suspected_of_a_loss() {
        let fixture = Fixture::new();
        filled(&fixture);
        let store = fixture.open();
        // Before the partitions are counted: a new row, one that was there, one that goes.
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

    /// Pages that were older than they had been were served without a word, and nothing else would ever tell.
    #[test]
    fn rows_missing_or_older_after_a_close_are_a_lasting_suspected_loss() {
        let harms: [fn(&crate::storage::engine::Tree); 2] = [
            |rows| rows.remove(&row_of(&key("k7"))).expect("removes"),
            |rows| {
                let older = rows.get(&row_of(&key("k7"))).expect("reads").expect("is there");
                let mut older = older.to_vec();
                // Another timestamp, with the checksum that fits.
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
            assert_eq!(store.suspected_loss(), None, "nobody has counted yet");
            store.count_rows().expect("counts");
            let why = store.suspected_loss().expect("the rows differ");
            assert!(why.contains("301 then") && why.contains("deleted keys"), "{why}");
            assert_eq!(store.counters().start_mismatches.value(), 1);
            close(store);
            let store = fixture.open();
            assert_eq!(store.suspected_loss(), Some(why), "it is kept");
            store.clear_suspected_loss().expect("clears");
            assert_eq!(store.suspected_loss(), None);
            close(store);
            let store = fixture.open();
            store.count_rows().expect("counts");
            assert_eq!(store.suspected_loss(), None);
            close(store);
        }
    }
}
