//! Counts and digests of one partition of a table, kept under its lock.

use std::sync::{Arc, LazyLock};

use super::{record::Head, row::key_bytes};
use crate::core::{
    digest::{
        DigestKey, KeyHash,
        tree::{Leaf, PartitionTree},
    },
    name::TableName,
};

/// Depth of a tree before its number of rows is known: one of 40,000 rows needs no second scan.
const FIRST_DEPTH: u8 = 8;

/// The tree of all partitions that never had a row: most partitions of a small table, and there may be thousands of those.
static EMPTY: LazyLock<PartitionTree> = LazyLock::new(|| PartitionTree::new(0));

/// Numbers of rows, by kind, and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows with a value, expired ones included until they are removed.
    pub live: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of the keys and values of the rows with a value, as stored: values compressed, without what the engine adds.
    pub live_bytes: u64,
}

impl Counts {
    /// Counts one more row, with its name.
    pub fn add(&mut self, row: &[u8], head: &Head) {
        if head.live {
            self.live += 1;
            self.live_bytes += live_bytes(row, head);
        } else {
            self.tombstones += 1;
        }
    }

    /// Counts one row less.
    fn remove(&mut self, row: &[u8], head: &Head) {
        if head.live {
            self.live -= 1;
            // A record that could not be read when it was counted had no size then.
            self.live_bytes = self.live_bytes.saturating_sub(live_bytes(row, head));
        } else {
            self.tombstones -= 1;
        }
    }

    /// Rows of both kinds.
    pub fn rows(&self) -> u64 {
        self.live + self.tombstones
    }
}

/// What a row with a value adds to the size of its table.
fn live_bytes(row: &[u8], head: &Head) -> u64 {
    key_bytes(row).len() as u64 + u64::from(head.coded_bytes)
}

/// State of one partition, under its lock. `None` until its rows are counted.
#[derive(Default)]
pub struct Partition {
    /// Its rows.
    pub counts: Option<Counts>,
    /// Digests of its rows. Also `None` if the rows could not be read to the end.
    pub digests: Option<Digests>,
}

impl Partition {
    /// Updates counts and digests for a replaced row.
    pub fn replace(&mut self, change: &RowChange<'_>) {
        if let Some(counts) = &mut self.counts {
            if let Some(old) = change.old {
                counts.remove(change.row, old);
            }
            if let Some(new) = change.new {
                counts.add(change.row, new);
            }
        }
        if let Some(digests) = &mut self.digests {
            digests.replace(change);
        }
    }
}

/// A row that replaces another.
pub struct RowChange<'a> {
    /// The table.
    pub table: &'a TableName,
    /// The row's name: partition byte and key.
    pub row: &'a [u8],
    /// The old record, if it was sound.
    pub old: Option<&'a Head>,
    /// The new record.
    pub new: Option<&'a Head>,
    /// The wall clock, in Unix milliseconds.
    pub now_ms: u64,
    /// Most recent changes that the tree keeps.
    pub recents_max: usize,
}

/// The digests of a partition's rows, and the key under which they are hashed. To change the key, build a new tree.
pub struct Digests {
    key: Arc<DigestKey>,
    /// The tree; `None` for an empty one.
    tree: Option<Box<PartitionTree>>,
}

impl Digests {
    /// The key under which the rows are hashed.
    pub fn key(&self) -> &Arc<DigestKey> {
        &self.key
    }

    /// Whether the rows are hashed under this key.
    pub fn is_under(&self, key: &Arc<DigestKey>) -> bool {
        Arc::ptr_eq(&self.key, key)
    }

    /// The tree.
    pub fn tree(&self) -> &PartitionTree {
        self.tree.as_deref().unwrap_or(&EMPTY)
    }

    /// The tree, after dropping history beyond the horizon.
    pub fn forget(&mut self, now_ms: u64) -> &PartitionTree {
        if let Some(tree) = &mut self.tree {
            tree.forget(now_ms);
        }
        self.tree()
    }

    /// Rebuilds the tree at another depth without a scan, if it knows all rows; see `PartitionTree::rebuild_from_recents`.
    pub fn rebuild_from_recents(&mut self, depth: u8) -> bool {
        self.tree_mut().rebuild_from_recents(depth)
    }

    /// Takes the buckets of digests of the same rows; see `PartitionTree::rebuild`.
    pub fn rebuild(&mut self, built: Self) {
        self.tree_mut().rebuild(built.tree.map_or_else(|| EMPTY.clone(), |tree| *tree));
    }

    fn tree_mut(&mut self) -> &mut PartitionTree {
        self.tree.get_or_insert_with(|| Box::new(EMPTY.clone()))
    }

    fn replace(&mut self, change: &RowChange<'_>) {
        let leaf = |head: &Head| leaf(&self.key, change.table, change.row, head);
        let (old, new) = (change.old.map(leaf), change.new.map(leaf));
        let tree = self.tree_mut();
        tree.make_room(change.recents_max);
        tree.replace(KeyHash::of(key_bytes(change.row)), old, new, change.now_ms);
    }
}

/// Counts and digests of a partition, built by one scan.
pub struct Tally<'a> {
    table: &'a TableName,
    now_ms: u64,
    depth: u8,
    counts: Counts,
    digests: Digests,
}

impl<'a> Tally<'a> {
    /// Starts a scan. `depth`: how deep the tree is; a first tree is as deep as most ever get.
    pub fn new(table: &'a TableName, key: Arc<DigestKey>, depth: Option<u8>, now_ms: u64) -> Self {
        let depth = depth.unwrap_or(FIRST_DEPTH);
        Self { table, now_ms, depth, counts: Counts::default(), digests: Digests { key, tree: None } }
    }

    /// Adds a row; `None` for a damaged record, which counts as a value and has no digest.
    pub fn add(&mut self, row: &[u8], head: Option<&Head>) {
        let Some(head) = head else {
            self.counts.live += 1;
            return;
        };
        self.counts.add(row, head);
        let leaf = leaf(&self.digests.key, self.table, row, head);
        let tree = self.digests.tree.get_or_insert_with(|| Box::new(PartitionTree::new(self.depth)));
        tree.insert(KeyHash::of(key_bytes(row)), leaf, self.now_ms);
    }

    /// The depth the tree should have, now that all rows are known.
    pub fn wants_depth(&self) -> Option<u8> {
        self.digests.tree().wants_depth()
    }

    /// The result.
    pub fn finish(mut self) -> (Counts, Digests) {
        if let Some(tree) = &mut self.digests.tree {
            tree.fold();
        }
        (self.counts, self.digests)
    }
}

/// The digest of a row.
pub fn leaf(key: &DigestKey, table: &TableName, row: &[u8], head: &Head) -> Leaf {
    let digest = key.leaf(table, key_bytes(row), &head.marker);
    Leaf { at_ms: head.marker.timestamp.unix_ms(), digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            clock::{NodeId, Timestamp},
            register::{Fingerprint, Marker},
        },
        storage::table::row::PARTITIONS,
    };

    const NOW_MS: u64 = 1_700_000_000_000;

    /// A table of three rows took 55 KiB for its partitions, and peers may bring thousands of tables.
    #[test]
    fn partitions_without_rows_are_small_and_compare_as_an_empty_tree() {
        assert!(PARTITIONS * size_of::<std::sync::Mutex<Partition>>() <= 14 * 1024);
        let table = TableName::parse("t").expect("a name");
        let key = Arc::new(DigestKey([1; 32]));
        let (counts, mut digests) = Tally::new(&table, key.clone(), None, NOW_MS).finish();
        assert!(digests.tree.is_none());
        assert_eq!((counts, digests.tree().depth(), digests.tree().settled_ms()), (Counts::default(), 0, 0));

        let timestamp = Timestamp { hlc: NOW_MS << 16, node: NodeId(1) };
        let marker = Marker { timestamp, fingerprint: Fingerprint([0; 8]) };
        let head =
            Head { marker, live: true, quiet: false, expired: false, expires_at_ms: None, coded_bytes: 0 };
        let change =
            |old, new| RowChange { table: &table, row: b"\0k", old, new, now_ms: NOW_MS, recents_max: 9 };
        digests.replace(&change(None, Some(&head)));
        let mut tally = Tally::new(&table, key, None, NOW_MS);
        tally.add(b"\0k", Some(&head));
        let (_, mut scanned) = tally.finish();
        assert!(scanned.tree().matches(digests.tree()) && !scanned.tree().matches(&EMPTY));
        scanned.replace(&change(Some(&head), None));
        assert!(scanned.tree().matches(&EMPTY));
    }

    /// A size that did not follow each replacement, or was counted in another way by the scan of the next start, would drift.
    #[test]
    fn the_size_follows_replacements_and_is_that_of_a_scan() {
        let table = TableName::parse("t").expect("a name");
        let marker = Marker {
            timestamp: Timestamp { hlc: NOW_MS << 16, node: NodeId(1) },
            fingerprint: Fingerprint([0; 8]),
        };
        let row = |live, coded_bytes| Head {
            marker,
            live,
            quiet: false,
            expired: false,
            expires_at_ms: None,
            coded_bytes,
        };
        let mut partition = Partition { counts: Some(Counts::default()), digests: None };
        let mut replace = |old: Option<&Head>, new: Option<&Head>| {
            partition.replace(&RowChange {
                table: &table,
                row: b"\0key",
                old,
                new,
                now_ms: NOW_MS,
                recents_max: 9,
            });
            partition.counts.map(|counts| (counts.live, counts.tombstones, counts.live_bytes))
        };
        let (short, long, deleted) = (row(true, 10), row(true, 1_000_000), row(false, 0));
        assert_eq!(replace(None, Some(&short)), Some((1, 0, 13)));
        assert_eq!(replace(Some(&short), Some(&long)), Some((1, 0, 1_000_003)));
        let mut tally = Tally::new(&table, Arc::new(DigestKey([1; 32])), None, NOW_MS);
        tally.add(b"\0key", Some(&long));
        assert_eq!(tally.finish().0.live_bytes, 1_000_003);
        assert_eq!(replace(Some(&long), Some(&deleted)), Some((0, 1, 0)));
        assert_eq!(replace(Some(&deleted), Some(&short)), Some((1, 0, 13)));
        assert_eq!(replace(Some(&short), None), Some((0, 0, 0)));
    }
}
