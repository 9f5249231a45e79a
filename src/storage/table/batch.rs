//! Atomic writes to many keys of a table: all or none.
//!
//! No lock is held for the whole batch. Each row is decided and gets its timestamp under the lock of its partition, and is reserved from then
//! on: other writers of that row wait for the batch, everybody else continues. When all rows are decided they are stored as `intents`
//! describes, then set one by one, again under the lock of each partition. Reads of these rows wait while they are being set, so that nobody
//! reads part of a batch key by key.
//!
//! A table runs one batch at a time. Lock order: the turn, a partition, the reserved rows.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Table, chunks, intents,
    merge::{Existing, Merged, Staged},
    partition::Partition,
    row::row_of,
    trees::Trees,
};
use crate::{
    core::{name::Key, register::Register},
    error::Result,
    storage::{
        engine::Slice,
        environment::{Waiting, run_aside},
    },
};

/// The rows of a table that a batch has reserved.
#[derive(Default)]
pub struct Reserved {
    turn: Mutex<()>,
    rows: Mutex<HashSet<Vec<u8>>>,
    /// Whether there are any. Every write asks, so it needs no lock.
    some: AtomicBool,
    /// Whether they are being set. Every read asks.
    being_set: AtomicBool,
    released: Condvar,
}

impl Reserved {
    /// Held by the batch that is under way.
    pub(in crate::storage) fn turn(&self) -> &Mutex<()> {
        &self.turn
    }

    fn rows(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        // Each change is one call that keeps the set consistent.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, row: &[u8]) {
        self.rows().insert(row.to_vec());
        self.some.store(true, Ordering::Release);
    }

    fn has(&self, row: &[u8]) -> bool {
        self.some.load(Ordering::Acquire) && self.rows().contains(row)
    }

    /// Waits for its turn, behind other batches.
    fn take_turn(&self, waiting: &Waiting) -> Result<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Ok(turn),
            Err(TryLockError::Poisoned(turn)) => Ok(turn.into_inner()),
            Err(TryLockError::WouldBlock) => waiting.wait_if_few("an atomic batch of their table", || {
                self.turn.lock().unwrap_or_else(PoisonError::into_inner)
            }),
        }
    }

    /// Waits until no batch has reserved a row.
    fn wait_for(&self, row: &[u8]) {
        let mut rows = self.rows();
        while rows.contains(row) {
            rows = self.released.wait(rows).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_for_if_few(&self, row: &[u8], waiting: &Waiting) -> Result<()> {
        waiting.wait_if_few("an atomic batch that has their key", || self.wait_for(row))
    }

    fn release(&self) {
        let mut rows = self.rows();
        *rows = HashSet::new();
        self.being_set.store(false, Ordering::Release);
        self.some.store(false, Ordering::Release);
        drop(rows);
        self.released.notify_all();
    }
}

impl Table {
    /// Locks the partition of a row to be written, as soon as no batch has reserved the row.
    pub(in crate::storage) fn lock_row(&self, row: &[u8]) -> MutexGuard<'_, Partition> {
        loop {
            match self.lock_unreserved(row) {
                Some(partition) => return partition,
                None => run_aside(|| self.reserved.wait_for(row)),
            }
        }
    }

    /// The same for a request of a client.
    ///
    /// # Errors
    /// `Overloaded` if many requests wait for batches.
    pub(in crate::storage) fn lock_row_if_few(&self, row: &[u8]) -> Result<MutexGuard<'_, Partition>> {
        loop {
            match self.lock_unreserved(row) {
                Some(partition) => return Ok(partition),
                None => self.reserved.wait_for_if_few(row, &self.context.waiting)?,
            }
        }
    }

    fn lock_unreserved(&self, row: &[u8]) -> Option<MutexGuard<'_, Partition>> {
        let partition = self.lock(row[0]);
        // Check under the lock, as a batch reserves under it.
        (!self.reserved.has(row)).then_some(partition)
    }

    /// Waits while a batch is setting this row.
    ///
    /// # Errors
    /// `Overloaded` if many requests wait for batches.
    pub(in crate::storage) fn settled(&self, row: impl FnOnce() -> Vec<u8>) -> Result<()> {
        if self.reserved.being_set.load(Ordering::Acquire) {
            let row = row();
            if self.reserved.has(&row) {
                self.reserved.wait_for_if_few(&row, &self.context.waiting)?;
            }
        }
        Ok(())
    }

    /// Merges many writes, all or none: the first error of a `decide` cancels all of them, and so does a crash. `writes` is emptied only
    /// once the decisions start.
    pub fn merge_all<D>(&self, writes: &mut Vec<(Key, D)>) -> Result<Vec<Merged>>
    where
        D: FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    {
        self.writing(|trees| {
            let _turn = self.reserved.take_turn(&self.context.waiting)?;
            let mut batch = Batch { table: self, trees, rows: HashMap::new() };
            let mut results = Vec::with_capacity(writes.len());
            for (key, decide) in writes.drain(..) {
                match batch.stage(row_of(&key), decide) {
                    Ok(merged) => results.push(merged),
                    Err(error) => {
                        batch.discard()?;
                        return Err(error);
                    }
                }
            }
            batch.set()?;
            Ok(results)
        })
    }
}

/// The rows of a batch as decided so far, with what is stored there. They are reserved until this is dropped.
struct Batch<'t> {
    table: &'t Table,
    trees: &'t Trees,
    rows: HashMap<Vec<u8>, (Staged, Option<Slice>)>,
}

impl Batch<'_> {
    /// Decides a write, based on what earlier writes of the batch made of its row.
    fn stage(
        &mut self,
        row: Vec<u8>,
        decide: impl FnOnce(Option<&Existing<'_>>) -> Result<Register>,
    ) -> Result<Merged> {
        let (table, trees) = (self.table, self.trees);
        let _partition = table.lock(row[0]);
        table.cached_digests.invalidate();
        let before = self.rows.get(&row);
        let stored = match before {
            Some((_, stored)) => stored.clone(),
            None => table.stored(trees, &row)?,
        };
        let current = before.map(|(staged, _)| staged.bytes.as_slice()).or(stored.as_deref());
        let (merged, staged) = table.stage(trees, &row, current, stored.as_deref(), decide)?;
        if let Some(staged) = staged {
            table.reserved.add(&row);
            if let Some((superseded, _)) = self.rows.insert(row.clone(), (staged, stored)) {
                chunks::remove(&trees.chunks, &row, &table.decode(&row, &superseded.bytes)?)?;
            }
        }
        Ok(merged)
    }

    /// Removes what staging has stored.
    fn discard(&self) -> Result<()> {
        self.rows.iter().try_for_each(|(row, (staged, _))| {
            chunks::remove(&self.trees.chunks, row, &self.table.decode(row, &staged.bytes)?)
        })
    }

    fn set(&self) -> Result<()> {
        let mut rows: Vec<_> =
            self.rows.iter().map(|(row, (staged, stored))| (row, staged, stored)).collect();
        // Rows that are neighbours on disk, one after the other.
        rows.sort_unstable_by_key(|(row, ..)| *row);
        let (trees, name) = (self.trees, self.table.name());
        let pieces = match rows.len() {
            // A single row is atomic by itself.
            0 | 1 => 0,
            _ => {
                let kept = rows.iter().map(|(row, staged, _)| (row.as_slice(), staged.bytes.as_slice()));
                intents::write(&trees.batches, name, kept)?
            }
        };
        self.table.reserved.being_set.store(true, Ordering::Release);
        for (row, staged, stored) in rows {
            let mut partition = self.table.lock(row[0]);
            self.table.set_row(trees, &mut partition, row, stored.as_deref(), staged)?;
        }
        intents::forget(&trees.batches, name, pieces)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.table.reserved.release();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread,
        time::{Duration, Instant},
    };

    use tokio::runtime::{Builder, Runtime};

    use crate::{
        core::{name::Key, register::Register},
        error::{Error, Result},
        storage::{
            Store,
            environment::WAITING_MAX,
            table::merge::{Existing, Merged},
            tests::{DEADLINE, Fixture, close, key, put, table, wait_until},
        },
    };

    type Decide = Box<dyn FnOnce(Option<&Existing<'_>>) -> Result<Register> + Send>;

    fn write(register: Register) -> Decide {
        Box::new(move |_| Ok(register))
    }

    fn value(store: &Store, name: &str) -> Option<String> {
        let entry = store.get(&table(), &key(name)).expect("reads");
        entry.map(|entry| entry.value.as_str().to_owned())
    }

    fn one_worker() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).build().expect("a runtime")
    }

    /// A batch that waits, in the decision of its last row, to be told to go on.
    struct StuckBatch {
        go_on: mpsc::Sender<()>,
        batch: thread::JoinHandle<Result<Vec<Merged>>>,
    }

    impl StuckBatch {
        /// Returns once `writes` are decided and their rows reserved.
        fn begin(store: &Store, mut writes: Vec<(Key, Decide)>) -> Self {
            let (go_on, waits) = mpsc::channel::<()>();
            let reserved = writes.len();
            writes.push((
                key("last"),
                Box::new(move |_| {
                    waits.recv().expect("told to go on");
                    Ok(put("2", None, 2000))
                }),
            ));
            let batching = store.clone();
            let batch = thread::spawn(move || batching.merge_all(&table(), writes));
            wait_until("the batch waits in its last row", || {
                store.table(&table()).is_some_and(|table| table.reserved.rows().len() == reserved)
            });
            Self { go_on, batch }
        }

        fn finish(self) {
            self.go_on.send(()).expect("it waits");
            self.batch.join().expect("no panic").expect("merges");
        }
    }

    /// A batch held the locks of all its partitions from its first row to its last: one of a million operations kept another client's write
    /// waiting for 18 s. Now a writer of other keys does not wait, however long the batch takes.
    #[test]
    fn a_write_of_another_key_does_not_wait_for_a_batch() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let writes = (0..500).map(|number| (key(&format!("batch-{number}")), write(put("1", None, number))));
        let batch = StuckBatch::begin(&store, writes.collect());
        // Only a partition that no other key here needs is locked meanwhile.
        let last = crate::storage::table::row::row_of(&key("last"))[0];
        let mut names = (0..).map(|number| format!("other-{number}"));
        let mut others =
            names.by_ref().filter(|name| crate::storage::table::row::row_of(&key(name))[0] != last);
        for name in others.by_ref().take(600) {
            store.merge(&table(), &key(&name), |_| Ok(put("0", None, 5000))).expect("merges");
        }
        assert_eq!(value(&store, "batch-7"), None, "nothing of it is set yet");
        // A writer of one of its keys waits for the batch.
        let (racing, done) = (store.clone(), Arc::new(AtomicBool::new(false)));
        let written = done.clone();
        let racer = thread::spawn(move || {
            let merged = racing.merge(&table(), &key("batch-7"), |existing| {
                assert!(existing.is_some(), "it was decided before the batch was set");
                Ok(put("9", None, 9000))
            });
            written.store(true, Ordering::SeqCst);
            merged
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!done.load(Ordering::SeqCst));
        batch.finish();
        racer.join().expect("no panic").expect("merges");
        assert_eq!(
            (value(&store, "batch-7").as_deref(), value(&store, "batch-8").as_deref()),
            (Some("9"), Some("1"))
        );
        close(store);
    }

    /// Whoever writes or reads a key of a batch waited for it on a thread that serves requests: two of them, and a node of two cores answered nobody,
    /// not even the other members.
    #[test]
    fn whoever_waits_for_a_batch_keeps_no_thread_from_other_requests() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let runtime = one_worker();
        let batch = StuckBatch::begin(&store, vec![(key("first"), write(put("1", None, 1)))]);
        let (begins, begun) = mpsc::channel();
        let waiting: [Box<dyn FnOnce(Store) + Send>; 2] = [
            Box::new(|store| {
                store.merge(&table(), &key("first"), |_| Ok(put("9", None, 9000))).expect("merges");
            }),
            Box::new(|store| {
                store.merge_all(&table(), vec![(key("other"), write(put("9", None, 9000)))]).expect("merges");
            }),
        ];
        for wait in waiting {
            let (store, begins_to_wait) = (store.clone(), begins.clone());
            runtime.spawn(async move {
                begins_to_wait.send(()).expect("is awaited");
                wait(store);
            });
            begun.recv_timeout(DEADLINE).expect("it begins");
            let begins = begins.clone();
            runtime.spawn(async move { begins.send(()).expect("is awaited") });
            begun.recv_timeout(DEADLINE).expect("others are served");
        }
        batch.finish();
        drop(runtime);
        assert_eq!(
            (value(&store, "first").as_deref(), value(&store, "other").as_deref()),
            (Some("9"), Some("9"))
        );
        close(store);
    }

    /// With as many as the runtime has threads for what blocks, the node served nobody until the batch was over.
    #[test]
    fn of_very_many_that_wait_for_a_batch_some_are_refused_and_others_are_served() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let runtime = one_worker();
        let batch = StuckBatch::begin(&store, vec![(key("first"), write(put("1", None, 1)))]);
        let (ends, ended) = mpsc::channel();
        for number in 0..600 {
            let (store, ends) = (store.clone(), ends.clone());
            runtime.spawn(async move {
                let merged = store.merge(&table(), &key("first"), |_| Ok(put("9", None, 9000 + number)));
                ends.send(merged.is_ok()).expect("is awaited");
            });
        }
        let refused = || ended.recv_timeout(DEADLINE).expect("more are refused");
        assert!((0..600 - WAITING_MAX).all(|_| !refused()));
        let (serves, served) = mpsc::channel();
        runtime.spawn(async move { serves.send(()).expect("is awaited") });
        served.recv_timeout(DEADLINE).expect("others are served");
        batch.finish();
        assert!((0..WAITING_MAX).all(|_| ended.recv_timeout(DEADLINE).expect("the others end")));
        drop(runtime);
        close(store);
    }

    /// A reader of two keys, first the one that a batch sets first, never sees the first one new and the second one old.
    #[test]
    fn two_reads_in_a_row_see_all_of_a_batch_or_nothing() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let mut rows = names.clone();
        rows.sort_by_key(|name| crate::storage::table::row::row_of(&key(name)));
        let (first, last) = (rows[0].clone(), rows[rows.len() - 1].clone());
        let over = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (store, over) = (store.clone(), over.clone());
            move || {
                let mut reads = 0_u64;
                while !over.load(Ordering::SeqCst) {
                    let before =
                        value(&store, &first).map_or(0, |text| text.parse::<u64>().expect("a number"));
                    let after = value(&store, &last).map_or(0, |text| text.parse::<u64>().expect("a number"));
                    assert!(before <= after, "{before} was there before {after}");
                    reads += 1;
                }
                reads
            }
        });
        let end = Instant::now() + Duration::from_millis(500);
        let mut round = 0;
        while Instant::now() < end {
            round += 1;
            let writes = names
                .iter()
                .map(|name| (key(name), write(put(&round.to_string(), None, round * 1000))))
                .collect::<Vec<_>>();
            store.merge_all(&table(), writes).expect("merges");
        }
        over.store(true, Ordering::SeqCst);
        assert!(reader.join().expect("no part of a batch was seen") > 0 && round > 1);
        close(store);
    }

    #[test]
    fn a_batch_that_fails_releases_its_rows_and_leaves_nothing() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let failing: Decide = Box::new(|_| Err(Error::MissingValue));
        let writes = vec![(key("a"), write(put("1", None, 1))), (key("b"), failing)];
        assert_eq!(store.merge_all(&table(), writes), Err(Error::MissingValue));
        assert_eq!(value(&store, "a"), None);
        store.merge(&table(), &key("a"), |_| Ok(put("2", None, 2))).expect("merges");
        close(store);
    }
}
