//! The digest tree of one partition of a table: sums of leaves by key hash, now and at instants a few seconds ago.
//!
//! A tree is an array of 2^depth *buckets*. The levels above are sums of buckets and are not stored. The buckets always
//! hold the current rows. Two replicas under constant writes must compare what they held at one instant, so each tree
//! also remembers what the writes of the last seconds changed, its *recent changes*. For an earlier instant it
//! subtracts the changes that came later.
//!
//! # What an instant shows
//! The register that was current then, by the registers' timestamps, with these exceptions:
//! - If several writes of a key follow each other within `COLLAPSE_MS`, only the last one shows. Until then the key
//!   shows what it held before the first. So a replica that received all of them agrees with one that received only
//!   some.
//! - A key that is written this way for longer than `CONTINUOUS_MS` shows nothing until the last of these writes. So a
//!   replica that joined in between, and does not know the value before, soon agrees too. Both showing nothing means
//!   that both hold something later.
//! - A row that was removed without a new register is gone at all instants. A row written more than `HORIZON_MS` ahead
//!   (by a wrong wall clock) shows at all instants, because nobody knows when the clock will reach it.
//! - A row older than `HORIZON_MS`, or one that was dropped from the recent changes, shows at all instants.
//!   `exact_since_ms` is the instant from which that makes no difference.
//!
//! Keys are told apart only by the 32 bits of their hash. If two keys of one partition share a hash, are written in the
//! same millisecond, and one of them again within a second, they may be taken for each other: their sums may be wrong at
//! instants before the last of these writes.

use std::collections::VecDeque;

use super::{BITS_MAX, Digest, KeyHash, PARTITION_BITS, Path, Sum};

/// How far back the tree can show an instant. Comparisons look back by the settle time (2 s) and take a few round
/// trips.
pub const HORIZON_MS: u64 = 10_000;
/// Writes of one key within this time of each other count as one. It is longer than a push to a peer takes, which sends
/// only the latest write of a key.
pub const COLLAPSE_MS: u64 = 1000;
/// A key that is written without a pause for longer than this shows nothing until it pauses.
pub const CONTINUOUS_MS: u64 = 1000;
/// Most recent changes of a partition: 56 KiB, and 32 bytes for each row that was replaced. A table takes 25,000 evenly spread writes a second before one is dropped
/// within the horizon, and 100,000 before one is dropped that a comparison needs.
pub const RECENTS_MAX: usize = 1024;
/// The greatest depth of a partition's tree, in bits.
pub const DEPTH_MAX: u8 = BITS_MAX - PARTITION_BITS;
/// A tree grows and shrinks by this many bits at a time.
pub const DEPTH_STEP: u8 = 2;
/// A tree with more rows per bucket should grow. After growing it has a quarter as many. A bucket takes 40 bytes, so a
/// tree takes at most a byte per row.
pub const BUCKET_ROWS_MAX: u64 = 160;
/// A tree with fewer rows per bucket shrinks. After shrinking it has four times as many, far from growing again.
pub const BUCKET_ROWS_MIN: u64 = 16;

/// A row, as a tree stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// When it was written, in Unix milliseconds of its timestamp.
    pub at_ms: u64,
    /// The leaf.
    pub digest: Digest,
}

/// The change that one write made, or several in close succession. There may be very many, so it is small.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recent {
    /// When the last of them was written, in Unix milliseconds.
    at_ms: u64,
    /// From the first of them to the last one, in milliseconds, as far as the type reaches.
    lasting_ms: u32,
    hash: KeyHash,
    /// What the key shows since the last write.
    leaf: Digest,
    /// What the key showed before the first one; `None` for nothing.
    before: Option<Box<Digest>>,
}

impl Recent {
    /// Takes a sum back to an instant before the last write.
    fn undo(&self, sum: &mut Sum, at_ms: u64) {
        *sum -= Sum::of(self.leaf);
        if let Some(before) = &self.before
            && at_ms < self.since_ms() + CONTINUOUS_MS
        {
            *sum += Sum::of(**before);
        }
    }

    fn since_ms(&self) -> u64 {
        self.at_ms - u64::from(self.lasting_ms)
    }

    /// Counts an earlier change of the key as a part of this one.
    fn follow(&mut self, earlier: Self) {
        self.lasting_ms = lasting_ms(earlier.since_ms(), self.at_ms);
        self.before = earlier.before;
    }
}

/// From one instant to a later one.
fn lasting_ms(from_ms: u64, to_ms: u64) -> u32 {
    u32::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(u32::MAX)
}

/// The tree of one partition.
#[derive(Clone, Debug)]
pub struct PartitionTree {
    depth: u8,
    buckets: Vec<Sum>,
    total: Sum,
    /// In order of their instants.
    recents: VecDeque<Recent>,
    exact_since_ms: u64,
}

impl PartitionTree {
    /// An empty tree, `depth` bits deep below the partition.
    pub fn new(depth: u8) -> Self {
        assert!(depth <= DEPTH_MAX, "a tree {depth} bits deep");
        Self {
            depth,
            buckets: vec![Sum::default(); 1 << depth],
            total: Sum::default(),
            recents: VecDeque::new(),
            exact_since_ms: 0,
        }
    }

    /// Adds a row that existed before the tree did. What its key held earlier is unknown.
    pub fn insert(&mut self, hash: KeyHash, leaf: Leaf, now_ms: u64) {
        self.add(hash, Sum::of(leaf.digest));
        if leaf.at_ms <= now_ms + HORIZON_MS {
            self.exact_since_ms = self.exact_since_ms.max(leaf.at_ms);
        }
    }

    /// Replaces a key's row `old` by `new`. `None`: there was no row, or there is none now.
    pub fn replace(&mut self, hash: KeyHash, old: Option<Leaf>, new: Option<Leaf>, now_ms: u64) {
        let sum = |leaf: Option<Leaf>| leaf.map_or(Sum::default(), |leaf| Sum::of(leaf.digest));
        let delta = sum(new) - sum(old);
        self.add(hash, delta);
        self.forget(now_ms);
        match new {
            Some(new) if new.at_ms > now_ms + HORIZON_MS => self.forget_key(hash, new.at_ms),
            Some(new) if is_beyond_horizon(new.at_ms, now_ms) => {
                self.exact_since_ms = self.exact_since_ms.max(new.at_ms);
            }
            Some(new) => {
                // An earlier write that is not remembered (it came with a start or a first sync) still counts as the
                // first one.
                let close_ms = old.map(|old| old.at_ms).filter(|old_ms| is_close(*old_ms, new.at_ms));
                let recent = Recent {
                    at_ms: new.at_ms,
                    lasting_ms: lasting_ms(close_ms.unwrap_or(new.at_ms), new.at_ms),
                    hash,
                    leaf: new.digest,
                    before: old.map(|old| Box::new(old.digest)),
                };
                self.remember(recent, close_ms);
            }
            None => self.forget_key(hash, old.map_or(u64::MAX, |old| old.at_ms)),
        }
        self.fold();
    }

    /// Drops the oldest recent changes until one more makes at most `recents_max`: for a node with little memory.
    pub fn make_room(&mut self, recents_max: usize) {
        while self.recents.len() >= recents_max.max(1) {
            self.forget_oldest();
        }
    }

    /// Drops changes beyond the horizon and frees their memory.
    pub fn forget(&mut self, now_ms: u64) {
        while let Some(oldest) = self.recents.front()
            && is_beyond_horizon(oldest.at_ms, now_ms)
        {
            self.forget_oldest();
        }
        if self.recents.len() < self.recents.capacity() / 4 {
            self.recents.shrink_to(self.recents.len() * 2);
        }
    }

    /// The sums of a node's 2^below children in this partition, at an instant. `below` of 0 gives the node's own sum.
    /// `None` if the tree is not that deep, or `path` lies above the partition.
    pub fn sums(&self, path: Path, below: u8, at_ms: u64) -> Option<Vec<Sum>> {
        let bits = path.bits.checked_sub(PARTITION_BITS)?;
        let width = self.depth.checked_sub(bits.checked_add(below)?)?;
        // A node's buckets are adjacent, and so are those of each child.
        let inner = path.prefix as usize & ((1 << bits) - 1);
        let buckets = &self.buckets[inner << (self.depth - bits)..(inner + 1) << (self.depth - bits)];
        let mut sums: Vec<Sum> =
            buckets.chunks_exact(1 << width).map(|buckets| buckets.iter().copied().sum()).collect();
        for recent in self.after(at_ms).filter(|recent| path.covers(recent.hash)) {
            recent.undo(&mut sums[(bucket_of(recent.hash, self.depth) >> width) & ((1 << below) - 1)], at_ms);
        }
        Some(sums)
    }

    /// The sum of all rows at an instant.
    pub fn total_at(&self, at_ms: u64) -> Sum {
        let mut total = self.total;
        self.after(at_ms).for_each(|recent| recent.undo(&mut total, at_ms));
        total
    }

    /// The sum of all current rows.
    pub fn total(&self) -> Sum {
        self.total
    }

    /// The first instant that the tree shows exactly.
    pub fn exact_since_ms(&self) -> u64 {
        self.exact_since_ms
    }

    /// The instant from which on every current row shows.
    pub fn settled_ms(&self) -> u64 {
        self.recents.back().map_or(self.exact_since_ms, |newest| newest.at_ms.max(self.exact_since_ms))
    }

    /// Whether there are recent changes.
    pub fn has_recents(&self) -> bool {
        !self.recents.is_empty()
    }

    /// The depth below the partition, in bits.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// The depth to rebuild the tree at, if its buckets have grown too full.
    pub fn wants_depth(&self) -> Option<u8> {
        let mut depth = self.depth;
        while depth < DEPTH_MAX && self.rows() > BUCKET_ROWS_MAX << depth {
            depth += DEPTH_STEP;
        }
        (depth > self.depth).then_some(depth)
    }

    /// Rebuilds the tree at another depth from its recent changes, if they are all the rows that there are. Returns false if not.
    pub fn rebuild_from_recents(&mut self, depth: u8) -> bool {
        if self.recents.len() as u64 != self.rows() {
            return false;
        }
        let mut built = Self::new(depth);
        self.recents.iter().for_each(|recent| built.add(recent.hash, Sum::of(recent.leaf)));
        let is_whole = built.total == self.total;
        if is_whole {
            self.rebuild(built);
        }
        is_whole
    }

    /// Takes over the buckets of a tree of another depth that was built from the same rows. The recent changes stay.
    pub fn rebuild(&mut self, built: Self) {
        (self.depth, self.buckets, self.total) = (built.depth, built.buckets, built.total);
    }

    /// Shrinks the tree as far as its rows allow, by adding up adjacent buckets.
    pub fn fold(&mut self) {
        while self.depth >= DEPTH_STEP && self.rows() < BUCKET_ROWS_MIN << self.depth {
            let neighbours = self.buckets.chunks_exact(1 << DEPTH_STEP);
            self.buckets = neighbours.map(|buckets| buckets.iter().copied().sum()).collect();
            self.depth -= DEPTH_STEP;
        }
    }

    /// Whether both trees hold the same rows, as far as their depths can tell.
    pub fn matches(&self, other: &Self) -> bool {
        let depth = self.depth.min(other.depth);
        let sums = |tree: &Self| -> Vec<Sum> {
            let neighbours = tree.buckets.chunks_exact(1 << (tree.depth - depth));
            neighbours.map(|buckets| buckets.iter().copied().sum()).collect()
        };
        self.total == other.total && sums(self) == sums(other)
    }

    /// Heap memory, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let replaced = self.recents.iter().filter(|recent| recent.before.is_some()).count();
        self.buckets.capacity() * size_of::<Sum>()
            + self.recents.capacity() * size_of::<Recent>()
            + replaced * size_of::<Digest>()
    }

    fn rows(&self) -> u64 {
        u64::try_from(self.total.count).unwrap_or(0)
    }

    fn add(&mut self, hash: KeyHash, delta: Sum) {
        self.buckets[bucket_of(hash, self.depth)] += delta;
        self.total += delta;
    }

    fn after(&self, at_ms: u64) -> impl Iterator<Item = &Recent> {
        self.recents.iter().rev().take_while(move |recent| recent.at_ms > at_ms)
    }

    /// Remembers a change. `close_ms`: when the row that it replaced was written, if both writes count as one.
    fn remember(&mut self, mut new: Recent, close_ms: Option<u64>) {
        // Later changes come from peers whose clocks are ahead: a few, if any.
        let later = self.recents.iter().rev().take_while(|recent| recent.at_ms > new.at_ms).count();
        let mut place = self.recents.len() - later;
        let earlier = close_ms.and_then(|at_ms| self.place_of(new.hash, at_ms));
        if let Some(earlier) = earlier.filter(|earlier| *earlier < place) {
            new.follow(self.recents.remove(earlier).expect("found just before"));
            place -= 1;
        } else if self.recents.len() == RECENTS_MAX {
            self.forget_oldest();
            place = place.saturating_sub(1);
        }
        self.recents.insert(place, new);
    }

    /// The place of a key's last change, which was made at this instant.
    fn place_of(&self, hash: KeyHash, at_ms: u64) -> Option<usize> {
        let first = self.recents.partition_point(|recent| recent.at_ms < at_ms);
        let mut at_once = self.recents.range(first..).take_while(|recent| recent.at_ms == at_ms);
        at_once.position(|recent| recent.hash == hash).map(|place| first + place)
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.recents.pop_front() {
            self.exact_since_ms = self.exact_since_ms.max(oldest.at_ms);
        }
    }

    /// Forgets what a key held before its row of `at_ms`.
    fn forget_key(&mut self, hash: KeyHash, at_ms: u64) {
        // The key's newest change is the row's own. Most removed rows are older than all recent changes.
        if self.recents.front().is_some_and(|oldest| oldest.at_ms <= at_ms) {
            self.recents.retain(|recent| recent.hash != hash);
        }
    }
}

/// Whether two writes follow each other so closely that they count as one.
fn is_close(before_ms: u64, at_ms: u64) -> bool {
    before_ms + COLLAPSE_MS >= at_ms
}

fn is_beyond_horizon(at_ms: u64, now_ms: u64) -> bool {
    at_ms + HORIZON_MS < now_ms
}

fn bucket_of(hash: KeyHash, depth: u8) -> usize {
    (hash.0 >> (32 - PARTITION_BITS - depth)) as usize & ((1 << depth) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        clock::{NodeId, Timestamp},
        digest::DigestKey,
        name::TableName,
        register::{Fingerprint, Marker},
    };

    const NOW_MS: u64 = 1_700_000_000_000;

    fn leaf(key: u64, at_ms: u64) -> (KeyHash, Leaf) {
        let timestamp = Timestamp { hlc: at_ms << 16, node: NodeId(1) };
        let marker = Marker { timestamp, fingerprint: Fingerprint([0; 8]) };
        let (table, key) = (TableName::parse("t").expect("a name"), key.to_be_bytes());
        (KeyHash::of(&key), Leaf { at_ms, digest: DigestKey([1; 32]).leaf(&table, &key, &marker) })
    }

    fn write(tree: &mut PartitionTree, key: u64, at_ms: u64, now_ms: u64) {
        let (hash, leaf) = leaf(key, at_ms);
        tree.replace(hash, None, Some(leaf), now_ms);
    }

    #[test]
    fn a_full_list_of_recent_changes_drops_the_oldest_and_reports_it() {
        let mut tree = PartitionTree::new(0);
        for key in 0..RECENTS_MAX as u64 + 10 {
            write(&mut tree, key, NOW_MS + key, NOW_MS + key);
        }
        assert_eq!(tree.recents.len(), RECENTS_MAX);
        assert_eq!(tree.recents.capacity(), RECENTS_MAX);
        assert_eq!(tree.exact_since_ms(), NOW_MS + 9);
        assert_eq!(tree.total_at(NOW_MS + 9).count, 10);
    }

    /// The recent changes of one table took 24 MiB during a load, a fifth of what a small container has.
    #[test]
    fn with_room_for_few_recent_changes_the_oldest_are_dropped_and_reported() {
        let mut tree = PartitionTree::new(0);
        for key in 0..100 {
            tree.make_room(64);
            write(&mut tree, key, NOW_MS + key, NOW_MS + key);
        }
        assert_eq!((tree.recents.len(), tree.recents.capacity()), (64, 64));
        assert_eq!(tree.exact_since_ms(), NOW_MS + 35);
        assert_eq!((tree.total_at(NOW_MS + 35).count, tree.total().count), (36, 100));
        tree.make_room(0);
        assert!(!tree.has_recents());
    }

    #[test]
    fn changes_beyond_the_horizon_use_no_memory() {
        let mut tree = PartitionTree::new(0);
        (0..100).for_each(|key| write(&mut tree, key, NOW_MS, NOW_MS));
        assert!(tree.has_recents());
        tree.forget(NOW_MS + HORIZON_MS + 1);
        assert_eq!(tree.recents.capacity(), 0);
        assert_eq!(tree.heap_bytes(), size_of::<Sum>());
        assert_eq!((tree.exact_since_ms(), tree.settled_ms()), (NOW_MS, NOW_MS));
    }

    #[test]
    fn a_key_written_continuously_makes_one_recent_change() {
        let mut tree = PartitionTree::new(0);
        let mut before = None;
        for step in 0..1000 {
            let (hash, leaf) = leaf(1, NOW_MS + step * 100);
            tree.replace(hash, before, Some(leaf), NOW_MS + step * 100);
            before = Some(leaf);
        }
        assert_eq!(tree.recents.len(), 1);
        assert_eq!(tree.total_at(NOW_MS + 99_800), Sum::default());
        assert_eq!(tree.total_at(NOW_MS + 99_900), tree.total());
    }

    /// A load took a tenth of its time for scans of what it had just written.
    #[test]
    fn a_tree_whose_rows_are_all_recent_is_rebuilt_from_them() {
        let (mut tree, mut scanned) = (PartitionTree::new(0), PartitionTree::new(2));
        (0..200).for_each(|key| write(&mut tree, key, NOW_MS + key, NOW_MS + key));
        let ((hash, old), (_, new)) = (leaf(7, NOW_MS + 7), leaf(7, NOW_MS + 300));
        tree.replace(hash, Some(old), Some(new), NOW_MS + 300);
        for key in 0..200 {
            let (hash, leaf) = leaf(key, NOW_MS + if key == 7 { 300 } else { key });
            scanned.insert(hash, leaf, NOW_MS + 300);
        }
        assert!(tree.rebuild_from_recents(2));
        assert_eq!((tree.depth, &tree.buckets), (2, &scanned.buckets));
        assert_eq!(tree.total_at(NOW_MS + 299).count, 199, "the first write of the key no longer shows");
        // As many are remembered as there are rows, but one of these is older than all of them, and the key of one has no row any more.
        let mut other = tree.clone();
        let (hash, gone) = leaf(500, NOW_MS - 2 * HORIZON_MS);
        other.insert(hash, gone, NOW_MS + 300);
        let (hash, first) = leaf(0, NOW_MS);
        other.add(hash, Sum::default() - Sum::of(first.digest));
        assert_eq!(other.recents.len() as u64, other.rows());
        assert!(!other.rebuild_from_recents(4));
        // A row is older than all recent changes.
        tree.forget_oldest();
        assert!(!tree.rebuild_from_recents(4));
        assert_eq!((tree.depth, other.depth), (2, 2));
    }

    #[test]
    fn a_node_outside_the_tree_has_no_sums() {
        let tree = PartitionTree::new(2);
        let partition = Path::partition(0);
        assert!(tree.sums(partition, 2, 0).is_some_and(|sums| sums.len() == 4));
        assert_eq!(tree.sums(partition, 3, 0), None);
        assert_eq!(tree.sums(partition.child(3, 0), 0, 0), None);
        assert_eq!(tree.sums(Path::ROOT, 8, 0), None);
        assert_eq!(tree.sums(partition, u8::MAX, 0), None);
        assert_eq!(tree.sums(Path { bits: u8::MAX, prefix: 0 }, 0, 0), None);
    }

    /// Trees grow to the same size whether their rows came one by one or were found at a start.
    #[test]
    fn a_tree_takes_at_most_a_byte_per_row() {
        const PARTITIONS: usize = 256;
        for rows in [10_000_u64, 50_000, 500_000, 1_000_000] {
            let mut counts = [0_u64; PARTITIONS];
            (0..rows).for_each(|key| counts[usize::from(KeyHash::of(&key.to_be_bytes()).partition())] += 1);
            let trees = counts.map(|count| {
                let mut tree = PartitionTree::new(0);
                // The depth depends on the row count alone.
                tree.total.count = count as i64;
                tree.wants_depth().map_or(tree, PartitionTree::new)
            });
            let bytes = size_of_val(&trees) + trees.iter().map(PartitionTree::heap_bytes).sum::<usize>();
            assert!(bytes as u64 <= 100_000 + rows, "{bytes} bytes for {rows} rows");
        }
    }
}
