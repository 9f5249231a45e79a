//! Digests of a store's rows, which replicas compare: a digest tree for each partition of a table, and their sums.
//!
//! A scan builds the trees when the rows are counted; after that every merge updates them under the lock of its partition. They describe
//! what is on disk: `check_next` finds where that is no longer so (a flipped bit, a bug) and repairs it.
//!
//! Every peer asks for the root of every table each second, so the result is cached until something changes.

mod cached;

use std::{
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use tracing::error;

pub use self::cached::CachedDigests;
use self::cached::CachedSum;
use super::{
    Table,
    partition::{self, Counts, Digests, Partition, RowChange, Tally},
    record::Head,
    row::PARTITIONS,
    trees::{self, Trees},
};
use crate::{
    core::{
        digest::{
            DigestKey, PARTITION_BITS, Path, RootDigest, Sum,
            tree::{DEPTH_MAX, HORIZON_MS},
        },
        name::TableName,
    },
    error::{Error, Result},
    storage::{
        Store,
        engine::{Engine, meta},
    },
};

/// Up to this many tables, asking each of them takes no noticeable time.
const TABLES_AT_ONCE: usize = 100;

/// The key under which a store's rows are hashed.
pub struct SharedKey(RwLock<Arc<DigestKey>>);

impl SharedKey {
    /// Makes one with this key.
    pub fn new(key: DigestKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }

    /// The current key.
    pub fn now(&self) -> Arc<DigestKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Identifies the cluster: its members, and nobody else, hash rows under its key.
    pub fn cluster(&self) -> u32 {
        let hash = blake3::derive_key("DynaRust 2026 cursors of a cluster", &self.now().0);
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
    }

    fn set(&self, key: DigestKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

/// For a store that is not compared with any other.
impl Default for SharedKey {
    fn default() -> Self {
        Self::new(DigestKey([0; 32]))
    }
}

/// The partition that was checked last.
#[derive(Default)]
pub struct Checked(Option<(TableName, u8)>);

impl Table {
    /// Updates counts and digests for a row that replaces another, under the lock of its partition.
    pub(in crate::storage) fn update_digests(
        &self,
        partition: &mut Partition,
        row: &[u8],
        old: Option<&Head>,
        new: Option<&Head>,
    ) {
        self.cached_digests.invalidate();
        self.changed.note(row);
        self.context.tap.note(self.name(), row);
        self.context.counters.changed_rows.increment();
        if partition.counts.is_none() && self.context.close_comparison.is_pending() {
            let key = self.context.digest_key.now();
            let sum = |head: &Head| Sum::of(partition::leaf(&key, self.name(), row, head).digest);
            self.context.close_comparison.change(old.map(sum), new.map(sum));
        }
        let (now_ms, recents_max) = ((self.context.now_ms)(), self.context.recents_max);
        partition.replace(&RowChange { table: self.name(), row, old, new, now_ms, recents_max });
    }

    /// Rebuilds a partition's tree deeper if it has too many rows. All set rows must be in the digests already. Without a scan, what is wrong in the
    /// tree stays until the check finds it.
    pub(in crate::storage) fn grow(&self, trees: &Trees, number: u8, partition: &mut Partition) {
        let Some(digests) = &mut partition.digests else { return };
        let Some(depth) = digests.tree().wants_depth() else { return };
        if digests.rebuild_from_recents(depth) {
            return;
        }
        match self.tally(trees, number, digests.key().clone(), Some(depth)) {
            Ok((_, built)) => digests.rebuild(built),
            Err(error) => {
                // The write itself succeeded. The check retries later.
                error!(table = %self.name(), partition = number, %error, "the rows cannot be read, so they have no digests");
                partition.digests = None;
            }
        }
    }

    /// Counts the rows of one partition and builds its tree, once; after that every merge updates both.
    pub(in crate::storage) fn count_partition(&self, number: u8) -> Result<()> {
        let open = self.open();
        let trees = trees::of(&open)?;
        let mut partition = self.lock(number);
        let key = self.context.digest_key.now();
        if partition.counts.is_some()
            && partition.digests.as_ref().is_some_and(|digests| digests.is_under(&key))
        {
            // If it was counted under this key just before all were to be counted under it, it was not taken to be.
            self.note_counted(number);
            return Ok(());
        }
        let found = self.tally(trees, number, key, None)?;
        self.set_counted(number, &mut partition, found);
        Ok(())
    }

    /// Compares a partition's counts and digests with its rows on disk and repairs them. Returns false if they differed.
    pub(in crate::storage) fn check_partition(&self, number: u8) -> Result<bool> {
        let open = self.open();
        let trees = trees::of(&open)?;
        let mut partition = self.lock(number);
        let now_ms = (self.context.now_ms)();
        if let Some(digests) = &mut partition.digests {
            digests.forget(now_ms);
        }
        let key = self.context.digest_key.now();
        let depth = partition.digests.as_ref().map(|digests| digests.tree().depth());
        let (counts, digests) = self.tally(trees, number, key.clone(), depth)?;
        let known = partition.digests.as_ref().filter(|known| known.is_under(&key));
        if known.is_some_and(|known| known.tree().matches(digests.tree())) && partition.counts == Some(counts)
        {
            return Ok(true);
        }
        // A tree that was not built yet, or built under the old key, was not wrong.
        let wrong = known.is_some();
        self.set_counted(number, &mut partition, (counts, digests));
        if wrong {
            self.context.counters.digest_repairs.increment();
            error!(table = %self.name(), partition = number, "rows and their digests differed; the digests were rebuilt from the disk");
        }
        Ok(!wrong)
    }

    /// Reads a partition from its first row to its last. The caller holds its lock.
    pub(in crate::storage) fn tally(
        &self,
        trees: &Trees,
        number: u8,
        key: Arc<DigestKey>,
        mut depth: Option<u8>,
    ) -> Result<(Counts, Digests)> {
        loop {
            let mut tally = Tally::new(self.name(), key.clone(), depth, (self.context.now_ms)());
            for item in trees.partition(number) {
                // Unreadable rows are left out of the digests, so the other replicas give them back.
                let Some((row, bytes)) = self.readable(item)? else { continue };
                // Whoever reads a damaged record reports it.
                tally.add(&row, self.decode(&row, &bytes).ok().map(|record| record.head).as_ref());
            }
            depth = tally.wants_depth();
            if depth.is_none() {
                return Ok(tally.finish());
            }
        }
    }

    /// The number of rows, as far as they are counted.
    pub(in crate::storage) fn rows(&self) -> u64 {
        let version = self.cached_digests.version();
        self.cached_digests.rows(version, || self.counted().rows())
    }

    fn has_rows(&self) -> bool {
        // The rows may not be counted yet.
        self.rows() > 0
            || self.with_trees(|trees| Ok(trees.rows.range(&[], None).next().is_some())).unwrap_or(false)
    }

    /// The sum of all rows as they were at an instant. `None` if that cannot be told, or if some rows are not hashed under `key`.
    fn sum_at(&self, key: &Arc<DigestKey>, at_ms: u64, now_ms: u64) -> Option<Sum> {
        let version = self.cached_digests.version();
        if let Some(sum) = self.cached_digests.sum_at(key, at_ms, now_ms) {
            return Some(sum);
        }
        let (mut sum, mut now) = (Sum::default(), Sum::default());
        let (mut since_ms, mut has_recents) = (0, false);
        // Nobody waits for partitions that are being counted.
        if !self.is_counted() {
            return None;
        }
        for number in 0..PARTITIONS {
            let mut partition = self.lock(number as u8);
            let digests = partition.digests.as_mut().filter(|digests| digests.is_under(key))?;
            let tree = digests.forget(now_ms);
            if at_ms < tree.exact_since_ms() {
                return None;
            }
            sum += tree.total_at(at_ms);
            now += tree.total();
            since_ms = since_ms.max(tree.settled_ms());
            has_recents |= tree.has_recents();
        }
        let until_ms = if has_recents { since_ms + HORIZON_MS } else { u64::MAX };
        self.cached_digests.cache_sum(CachedSum { version, key: key.clone(), sum: now, since_ms, until_ms });
        Some(sum)
    }

    fn sums(&self, key: &Arc<DigestKey>, path: Path, below: u8, at_ms: u64) -> Option<Vec<Sum>> {
        let bits = path.bits + below;
        let mut sums = Vec::new();
        // Nobody waits for partitions that are being counted.
        if !path.partitions().all(|number| self.has_counted(number)) {
            return None;
        }
        for number in path.partitions() {
            let partition = self.lock(number);
            let tree = partition.digests.as_ref().filter(|digests| digests.is_under(key))?.tree();
            match bits.checked_sub(PARTITION_BITS.max(path.bits)) {
                Some(below) if path.bits < PARTITION_BITS => {
                    sums.extend(tree.sums(Path::partition(number), below, at_ms)?);
                }
                Some(below) => sums.extend(tree.sums(path, below, at_ms)?),
                None => sums.push(tree.total_at(at_ms)),
            }
        }
        let together = 1 << PARTITION_BITS.saturating_sub(bits);
        Some(sums.chunks(together).map(|partitions| partitions.iter().copied().sum()).collect())
    }

    fn depth(&self, path: Path) -> u8 {
        let depth = |number| self.lock(number).digests.as_ref().map_or(0, |digests| digests.tree().depth());
        let depths = path.partitions().map(|number| if self.has_counted(number) { depth(number) } else { 0 });
        PARTITION_BITS + depths.min().unwrap_or(0)
    }
}

impl Store {
    /// The key under which rows are hashed.
    pub fn digest_key(&self) -> DigestKey {
        *self.0.context.digest_key.now()
    }

    /// Hashes all rows under another key, the cluster's; the key is durable first. Scans all rows: none of them counts as counted, and no root can
    /// be read, before that has come to it. It blocks: do not call it from an async task.
    ///
    /// # Errors
    /// `StorageFull` and `NotReady`, after which either key may be in use; `Corrupt` if rows cannot be read, which then have no digests.
    pub fn rekey(&self, key: DigestKey) -> Result<()> {
        if let Some(reason) = self.failure() {
            return Err(Error::StorageFull(reason));
        }
        if key != self.digest_key() {
            meta::write_digest_key(&self.meta()?, &key)?;
            self.with_engine(Engine::sync)?;
            self.0.context.close_comparison.give_up();
            self.0.context.digest_key.set(key);
            self.all_tables().iter().for_each(|table| table.uncount());
        }
        self.count_rows()
    }

    /// The tables that have rows, tombstones included, ordered by name.
    pub fn digest_tables(&self) -> Vec<TableName> {
        let compared = |table: &&Arc<Table>| table.has_rows() && !table.is_strong();
        self.all_tables().iter().filter(compared).map(|table| table.name().clone()).collect()
    }

    /// The number of rows, tombstones included, as far as they are counted.
    pub fn rows_total(&self) -> u64 {
        self.all_tables().iter().map(|table| table.rows()).sum()
    }

    /// The digest of all rows as they were at an instant (Unix milliseconds). `None` if that cannot be told: trees are being built, the
    /// instant is too long ago, or the storage has failed and does not know what it holds.
    pub fn root(&self, at_ms: u64) -> Result<Option<RootDigest>> {
        if self.failure().is_some() {
            return Ok(None);
        }
        self.0.context.agreed.root(at_ms);
        let (key, now_ms) = (self.0.context.digest_key.now(), self.now_ms());
        let (tables, mut sums) = (self.all_tables(), Vec::new());
        for table in tables.iter().filter(|table| !table.is_strong()) {
            let Some(sum) = table.sum_at(&key, at_ms, now_ms) else { return Ok(None) };
            sums.push((table.name(), sum));
        }
        Ok(Some(key.root(sums.into_iter())))
    }

    /// The sums of the 2^below children of a node as they were at an instant, or as near to it as can be told; `below` of 0 gives the
    /// node's own sum. `None` if the tree is not that deep there, is being built, or has no such node.
    pub fn sums(&self, table: &TableName, path: Path, below: u8, at_ms: u64) -> Result<Option<Vec<Sum>>> {
        // No partition is deep enough to have more children than that.
        if self.failure().is_some() || !path.is_valid() || below > DEPTH_MAX {
            return Ok(None);
        }
        match self.table(table) {
            Some(table) => Ok(table.sums(&self.0.context.digest_key.now(), path, below, at_ms)),
            // A table that does not exist counts as an empty one.
            None => Ok((path.bits + below <= PARTITION_BITS).then(|| vec![Sum::default(); 1 << below])),
        }
    }

    /// Depth, in bits, of the shallowest partition below a node; at least that of a partition.
    pub fn depth(&self, table: &TableName, path: Path) -> Result<u8> {
        match self.table(table) {
            Some(table) if path.is_valid() => Ok(table.depth(path)),
            Some(_) | None => Ok(PARTITION_BITS),
        }
    }

    /// Whether the root at an instant is available at once: nothing was written lately, and there are few tables.
    pub fn has_cached_root(&self, at_ms: u64) -> bool {
        let (key, now_ms) = (self.0.context.digest_key.now(), self.now_ms());
        let tables = self.all_tables();
        tables.len() <= TABLES_AT_ONCE
            && tables.iter().all(|table| table.cached_digests.sum_at(&key, at_ms, now_ms).is_some())
    }

    /// Drops the history of the last seconds that nobody can ask for any more. Reading a root does the same.
    pub fn drop_history(&self) {
        for table in self.all_tables() {
            table.sum_at(&self.0.context.digest_key.now(), self.now_ms(), self.now_ms());
        }
    }

    /// Compares the digests of one partition with its rows on disk. Returns false if they differed and were repaired.
    ///
    /// # Errors
    /// `Corrupt` if the rows cannot be read, `NotReady` while the storage is being reopened.
    pub fn check_partition(&self, table: &TableName, number: u8) -> Result<bool> {
        self.read_table(table, true, |table| table.check_partition(number))
    }

    /// Checks the next partition that has rows, of all tables in turn. Call it regularly, so that every row is checked in time. Returns
    /// false if something differed and was repaired.
    ///
    /// # Errors
    /// As `check_partition`; the next call continues after the partition that failed.
    pub fn check_next(&self) -> Result<bool> {
        // Empty partitions cost almost nothing, and most partitions of a small table are empty.
        for _ in 0..PARTITIONS {
            let next = {
                let mut checked = self.0.checked.lock().unwrap_or_else(PoisonError::into_inner);
                checked.0 = self.partition_after(checked.0.take());
                checked.0.clone()
            };
            let Some((name, number)) = next else { break };
            if !self.check_partition(&name, number)? {
                return Ok(false);
            }
            let Some(table) = self.table(&name) else { break };
            if table.lock(number).counts.is_some_and(|counts| counts.rows() > 0) {
                break;
            }
        }
        Ok(true)
    }

    fn partition_after(&self, checked: Option<(TableName, u8)>) -> Option<(TableName, u8)> {
        let tables = self.read_tables();
        let Some((table, number)) = checked else {
            return tables.keys().next().map(|table| (table.clone(), 0));
        };
        if let Some(next) = number.checked_add(1) {
            return Some((table, next));
        }
        let later = tables.range((Bound::Excluded(&table), Bound::Unbounded)).next();
        later.or_else(|| tables.iter().next()).map(|(table, _)| (table.clone(), 0))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, thread};

    use super::*;
    use crate::{
        core::{
            clock::{NodeId, Timestamp},
            json::Value,
            register::Register,
        },
        storage::{
            open::read_dictionaries,
            table::{merge::Existing, row::row_of},
            tests::{Fixture, close, key, merge, put, table, wait_until},
        },
    };

    const KEY: DigestKey = DigestKey([7; 32]);

    /// An instant after all writes here.
    fn later(store: &Store) -> u64 {
        store.now_ms() + 1
    }

    fn root(store: &Store) -> Option<RootDigest> {
        store.root(later(store)).expect("does not fail")
    }

    fn table_sum(store: &Store) -> Sum {
        let sums = store.sums(&table(), Path::ROOT, 0, later(store)).expect("does not fail");
        sums.expect("the trees are built")[0]
    }

    /// The trees match the rows on disk, and so do the sums of what `heads` returns.
    #[track_caller]
    fn assert_sound(store: &Store) {
        for number in 0..=u8::MAX {
            assert_eq!(store.check_partition(&table(), number), Ok(true), "partition {number}");
        }
        assert_eq!(store.counters().digest_repairs.value(), 0);
        let heads = store.heads(&table(), Path::ROOT).expect("reads");
        assert_eq!(heads.iter().map(|(_, _, leaf)| Sum::of(*leaf)).sum::<Sum>(), table_sum(store));
        assert_eq!(store.rows_total(), heads.len() as u64);
    }

    /// Keys of one partition.
    fn neighbours(count: usize) -> Vec<String> {
        let names = (0..).map(|number: u32| number.to_string());
        names.filter(|name| row_of(&key(name))[0] == 0).take(count).collect()
    }

    /// Moves the clock and the floor of expired values past an instant; waits until `left` rows remain.
    fn remove_expired(fixture: &Fixture, store: &Store, at_ms: u64, left: u64) {
        fixture.now_ms.store(at_ms, Ordering::SeqCst);
        store.set_tombstone_grace(at_ms);
        wait_until("the rows that expired are gone", || {
            store.advance_floors(at_ms).expect("passes");
            store.rows_total() == left && !store.is_sweeping()
        });
    }

    #[test]
    fn digests_follow_every_kind_of_write() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let at_ms = store.now_ms() + 60_000;
        for number in 0..200_u64 {
            merge(&store, &number.to_string(), put("1", (number % 7 == 0).then_some(at_ms), number));
        }
        assert_sound(&store);
        let deleted = |counter| Register::deleted(put("0", None, counter).timestamp());
        for number in 0..50 {
            merge(&store, &number.to_string(), deleted(500 + number));
            // Too late: changes nothing.
            merge(&store, &number.to_string(), put("2", None, 1));
        }
        merge(&store, "long", put(&format!("\"{}\"", "x".repeat(100_000)), None, 1));
        merge(&store, "long", put("3", None, 2));
        assert_sound(&store);
        let batch = [("100", 1000), ("a", 1), ("a", 2), ("b", 2), ("b", 1), ("long", 3)];
        let writes = batch
            .map(|(name, counter)| (key(name), move |_: Option<&Existing<'_>>| Ok(put("4", None, counter))));
        store.merge_all(&table(), writes.into()).expect("merges");
        assert_sound(&store);
        // Keys 56 to 196; the others were deleted.
        let left = store.rows_total() - 21;
        remove_expired(&fixture, &store, at_ms, left);
        assert_sound(&store);
        close(store);
    }

    #[test]
    fn trees_grow_with_their_rows_in_batches_and_one_by_one() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let names = neighbours(400);
        let partition = Path::partition(0);
        for name in &names[..150] {
            merge(&store, name, put("1", None, 1));
        }
        assert_eq!(store.depth(&table(), partition), Ok(PARTITION_BITS));
        // One batch makes the tree grow and writes existing keys again.
        let writes =
            names[100..350].iter().map(|name| (key(name), |_: Option<&Existing<'_>>| Ok(put("2", None, 2))));
        store.merge_all(&table(), writes.collect()).expect("merges");
        assert_eq!(store.depth(&table(), partition), Ok(PARTITION_BITS + 2));
        for name in &names {
            merge(&store, name, put("3", None, 3));
        }
        assert_sound(&store);
        let sums =
            store.sums(&table(), partition, 2, later(&store)).expect("does not fail").expect("as deep");
        for (index, sum) in sums.iter().enumerate() {
            let heads = store.heads(&table(), partition.child(2, index as u32)).expect("reads");
            assert_eq!(heads.iter().map(|(_, _, leaf)| Sum::of(*leaf)).sum::<Sum>(), *sum);
        }
        assert_eq!(store.depth(&table(), Path::ROOT), Ok(PARTITION_BITS));
        // Removed like garbage, they leave a tree as shallow as before.
        let at_ms = store.now_ms() + 60_000;
        for name in &names {
            merge(&store, name, put("4", Some(at_ms), 4));
        }
        remove_expired(&fixture, &store, at_ms, 0);
        assert_eq!(store.depth(&table(), partition), Ok(PARTITION_BITS));
        assert_sound(&store);
        assert_eq!(store.digest_tables(), []);
        close(store);
    }

    #[test]
    fn stores_that_merged_the_same_rows_in_any_order_have_equal_roots() {
        let (fixture, other_fixture) = (Fixture::new(), Fixture::new());
        let (store, other) = (fixture.open(), other_fixture.open());
        for store in [&store, &other] {
            store.rekey(KEY).expect("takes the key");
        }
        let writes: Vec<(String, Register)> = (0..300_u64)
            .map(|number| ((number % 40).to_string(), put(&number.to_string(), None, number * 31 % 300)))
            .collect();
        for (name, register) in &writes {
            merge(&store, name, register.clone());
        }
        assert_ne!(root(&store), root(&other));
        for (name, register) in writes.iter().rev() {
            merge(&other, name, register.clone());
        }
        assert!(root(&store).is_some());
        assert_eq!(root(&store), root(&other));
        assert_eq!(store.digest_tables(), [table()]);
        // A table without rows does not count.
        let empty = TableName::parse("empty").expect("a name");
        store.merge(&empty, &key("k"), |_| Err::<Register, _>(Error::Draining)).expect_err("is refused");
        assert!(store.has_table(&empty));
        assert_eq!(root(&store), root(&other));
        assert_eq!(store.digest_tables(), [table()]);
        close(store);
        close(other);
    }

    #[test]
    fn a_root_shows_nothing_that_was_written_after_its_instant() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let now_ms = store.now_ms();
        let at = |ms: u64| {
            let timestamp = Timestamp { hlc: ms << 16, node: NodeId(1) };
            Register::live(Value::trusted("1".into()), None, timestamp)
        };
        merge(&store, "k", at(now_ms));
        let before = store.root(now_ms).expect("does not fail");
        assert!(before.is_some());
        // Twice: the cache must not be used for an instant that it is not valid for.
        for _ in 0..2 {
            merge(&store, "k", at(now_ms + 3000));
            merge(&store, "l", at(now_ms + 1));
            assert_eq!(store.root(now_ms), Ok(before));
            assert_ne!(store.root(now_ms + 1), Ok(before));
            assert_ne!(store.root(now_ms + 5000), store.root(now_ms + 2999));
            let now = store.root(now_ms + 3000);
            assert_eq!(store.root(now_ms + 5000), now);
        }
        let sums =
            |at_ms| store.sums(&table(), Path::ROOT, 8, at_ms).expect("does not fail").expect("is built");
        assert_eq!(sums(now_ms).into_iter().sum::<Sum>().count, 1);
        assert_eq!(sums(now_ms + 1).into_iter().sum::<Sum>().count, 2);
        // Long after, that instant cannot be told any more.
        fixture.now_ms.fetch_add(60_000, Ordering::SeqCst);
        assert_eq!(store.root(now_ms), Ok(None));
        assert!(store.root(now_ms + 3000).expect("does not fail").is_some());
        close(store);
    }

    #[test]
    fn a_root_is_cached_until_the_next_write() {
        let fixture = Fixture::new();
        let store = fixture.open();
        for name in ["k", "l"] {
            merge(&store, name, put("1", None, 1));
            let at_ms = later(&store);
            assert!(!store.has_cached_root(at_ms));
            let asked = store.root(at_ms).expect("does not fail");
            assert!(store.has_cached_root(at_ms) && asked.is_some());
            assert_eq!(store.root(at_ms), Ok(asked));
            assert!(!store.has_cached_root(0), "there was another at that instant");
        }
        store.rekey(KEY).expect("takes the key");
        assert!(!store.has_cached_root(later(&store)));
        close(store);
    }

    /// A node without peers is never asked for a root. It kept its tables' history of recent writes, up to 25 MB, for most of an hour.
    #[test]
    fn old_history_is_dropped_even_if_no_root_is_read() {
        let fixture = Fixture::new();
        let store = fixture.open();
        merge(&store, "k", put("1", None, 1));
        let remembers = || {
            let table = store.table(&table()).expect("is there");
            let has_recents = |partition: &Partition| {
                partition.digests.as_ref().is_some_and(|digests| digests.tree().has_recents())
            };
            (0..=u8::MAX).any(|number| has_recents(&table.lock(number)))
        };
        store.drop_history();
        assert!(remembers(), "a peer may still ask for the second before");
        fixture.now_ms.fetch_add(HORIZON_MS + 1000, Ordering::SeqCst);
        store.drop_history();
        assert!(!remembers());
        close(store);
    }

    #[test]
    fn the_digest_key_survives_a_restart_and_can_be_replaced() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let first = store.digest_key();
        merge(&store, "k", put("1", None, 1));
        let before = root(&store);
        close(store);
        let store = fixture.open();
        assert_eq!(store.digest_key(), first);
        assert_eq!(root(&store), None, "the rows are not counted yet");
        store.count_rows().expect("counts");
        assert_eq!(root(&store), before);
        store.rekey(KEY).expect("takes the key");
        assert!(root(&store).is_some_and(|root| Some(root) != before));
        merge(&store, "k", put("2", None, 2));
        assert_sound(&store);
        let rekeyed = root(&store);
        close(store);
        let store = fixture.open();
        assert_eq!(store.digest_key(), KEY);
        store.count_rows().expect("counts");
        assert_eq!(root(&store), rekeyed);
        close(store);
    }

    #[test]
    fn there_is_no_root_until_all_rows_are_hashed_under_the_new_key() {
        let fixture = Fixture::new();
        let store = fixture.open();
        merge(&store, "k", put("1", None, 1));
        store.0.context.digest_key.set(KEY);
        assert_eq!(root(&store), None);
        assert_eq!(store.sums(&table(), Path::ROOT, 0, later(&store)), Ok(None));
        store.count_rows().expect("hashes the rows");
        assert!(root(&store).is_some());
        assert_sound(&store);
        close(store);
    }

    #[test]
    fn a_reopened_table_has_no_root_before_its_rows_are_counted() {
        let fixture = Fixture::new();
        let store = fixture.open();
        merge(&store, "k", put("1", None, 1));
        let before = root(&store);
        let trees = store.with_engine(|engine| Trees::open(engine, &table(), false)).expect("opens");
        let dictionaries = read_dictionaries(&store.meta().expect("is open"), &table()).expect("reads");
        store.table(&table()).expect("is there").reopen(trees, dictionaries);
        assert_eq!(root(&store), None);
        assert_eq!(store.sums(&table(), Path::ROOT, 0, later(&store)), Ok(None));
        store.count_rows().expect("counts");
        assert_eq!(root(&store), before);
        store.0.context.committer.fail("a test");
        assert_eq!(root(&store), None, "what the storage holds is not known");
        close(store);
    }

    #[test]
    fn a_check_finds_and_repairs_digests_of_lost_rows() {
        let fixture = Fixture::new();
        let store = fixture.open();
        for number in 0..20 {
            merge(&store, &number.to_string(), put("1", None, 1));
        }
        let before = root(&store);
        let row = row_of(&key("7"));
        let table_of = store.table(&table()).expect("is there");
        table_of.with_trees(|trees| trees.rows.insert(&row, b"no record")).expect("writes");
        assert_eq!(root(&store), before, "not checked yet");
        let checks = (0..=u8::MAX).map(|_| store.check_next().expect("reads"));
        assert_eq!(checks.filter(|agreed| !agreed).count(), 1);
        assert_eq!(store.counters().digest_repairs.value(), 1);
        assert_ne!(root(&store), before);
        assert_eq!(store.check_partition(&table(), row[0]), Ok(true));
        // The row exists and has no leaf: whoever has it will send it.
        assert_eq!((store.rows_total(), table_sum(&store).count), (20, 19));
        assert_eq!(store.heads(&table(), Path::ROOT).expect("reads").len(), 19);
        merge(&store, "7", put("1", None, 1));
        assert_eq!(root(&store), before);
        close(store);
    }

    #[test]
    fn concurrent_writers_leave_correct_digests() {
        const WRITERS: u64 = 3;
        let fixture = Fixture::new();
        let store = fixture.open();
        let names = neighbours(300);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (store, names) = (&store, &names);
                scope.spawn(move || {
                    for (counter, name) in (0..).zip(names.iter().cycle().take(900)) {
                        merge(store, name, put("1", None, counter * WRITERS + writer));
                    }
                });
            }
            for number in 0..20 {
                store.rekey(DigestKey([number; 32])).expect("takes the key");
                assert!(root(&store).is_some());
                assert_eq!(store.check_partition(&table(), 0), Ok(true));
            }
        });
        assert_sound(&store);
        close(store);
    }

    #[test]
    fn checks_reach_every_table_in_turn() {
        let fixture = Fixture::new();
        let store = fixture.open();
        assert_eq!(store.check_next(), Ok(true));
        let tables = ["a", "b"].map(|name| TableName::parse(name).expect("a name"));
        for table in &tables {
            store.merge(table, &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        }
        let checked = || store.0.checked.lock().expect("nobody panicked").0.clone();
        let number = row_of(&key("k"))[0];
        for table in tables.iter().chain(&tables) {
            assert_eq!(store.check_next(), Ok(true));
            assert_eq!(checked(), Some((table.clone(), number)));
        }
        assert_eq!(store.check_partition(&table(), 0), Ok(true), "a table that is not there");
        close(store);
    }

    #[test]
    fn paths_without_a_node_are_refused() {
        let fixture = Fixture::new();
        let store = fixture.open();
        merge(&store, "k", put("1", None, 1));
        let sums = |path, below| store.sums(&table(), path, below, 0).expect("does not fail");
        for path in [Path { bits: 25, prefix: 0 }, Path { bits: 3, prefix: 8 }, Path { bits: 255, prefix: 1 }]
        {
            assert_eq!(sums(path, 0), None);
            assert_eq!(store.heads(&table(), path), Ok(vec![]));
            assert_eq!(store.depth(&table(), path), Ok(PARTITION_BITS));
        }
        for below in [9, 16, 17, 255] {
            assert_eq!(sums(Path::ROOT, below), None);
        }
        assert_eq!(sums(Path::partition(0).child(1, 0), 0), None);
        let absent = TableName::parse("absent").expect("a name");
        assert_eq!(store.sums(&absent, Path::ROOT, 4, 0), Ok(Some(vec![Sum::default(); 16])));
        assert_eq!(store.sums(&absent, Path::ROOT, 9, 0), Ok(None));
        assert_eq!(store.depth(&absent, Path::ROOT), Ok(PARTITION_BITS));
        assert_eq!(store.heads(&absent, Path::ROOT), Ok(vec![]));
        close(store);
    }

    #[test]
    fn the_sums_of_children_add_up() {
        let fixture = Fixture::new();
        let store = fixture.open();
        for name in neighbours(200).into_iter().chain((0..2000).map(|number| number.to_string())) {
            merge(&store, &name, put("1", None, 1));
        }
        let sums = |path, below| store.sums(&table(), path, below, later(&store)).expect("does not fail");
        let all = table_sum(&store);
        assert_eq!(all.count, store.heads(&table(), Path::ROOT).expect("reads").len() as i64);
        for bits in 0..=PARTITION_BITS {
            let children = sums(Path::ROOT, bits).expect("as deep");
            assert_eq!(children.iter().copied().sum::<Sum>(), all);
            for (index, child) in children.into_iter().enumerate().step_by(5) {
                let path = Path::ROOT.child(bits, index as u32);
                assert_eq!(sums(path, 0), Some(vec![child]));
                let heads = store.heads(&table(), path).expect("reads");
                assert_eq!(heads.iter().map(|(_, _, leaf)| Sum::of(*leaf)).sum::<Sum>(), child);
            }
        }
        // The partition with many rows is deeper than the others.
        let first = Path::partition(0);
        assert_eq!(sums(first, 2).map(|sums| sums.into_iter().sum()), sums(first, 0).map(|sums| sums[0]));
        assert_eq!(sums(Path::ROOT, PARTITION_BITS + 2), None);
        assert_eq!(sums(first.child(1, 1), 1).map(|sums| sums.len()), Some(2));
        close(store);
    }
}
