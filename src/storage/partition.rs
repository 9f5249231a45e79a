//! What is known of one partition of a table, under its lock: how many rows it has, and their digests.

use std::sync::Arc;

use super::record::Head;
use crate::core::{
    digest::{DigestKey, KeyHash},
    merkle::{Leaf, PartitionTree},
    name::TableName,
};

/// How deep a tree is built before it is known how many rows it will hold: one of 40,000 rows needs no second scan.
const FIRST_DEPTH: u8 = 8;

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

    /// Rows of both kinds.
    pub fn rows(&self) -> u64 {
        self.live + self.tombstones
    }

    fn of(&mut self, head: &Head) -> &mut u64 {
        if head.live { &mut self.live } else { &mut self.tombstones }
    }
}

/// What is known of one partition, under its lock. `None` until somebody counted its rows.
#[derive(Default)]
pub struct Partition {
    /// Its rows.
    pub counts: Option<Counts>,
    /// Their digests. Also `None` where the rows could not be read to the end.
    pub digests: Option<Digests>,
}

impl Partition {
    /// Keeps account of a row that took another's place.
    pub fn replace(&mut self, change: &RowChange<'_>) {
        if let Some(counts) = &mut self.counts {
            if let Some(old) = change.old {
                *counts.of(old) -= 1;
            }
            if let Some(new) = change.new {
                *counts.of(new) += 1;
            }
        }
        if let Some(digests) = &mut self.digests {
            digests.replace(change);
        }
    }
}

/// A row that takes another's place.
pub struct RowChange<'a> {
    /// The table.
    pub table: &'a TableName,
    /// The row's name: partition byte and key.
    pub row: &'a [u8],
    /// What was there, if it was sound.
    pub old: Option<&'a Head>,
    /// What is there now.
    pub new: Option<&'a Head>,
    /// The wall clock, in Unix milliseconds.
    pub now_ms: u64,
}

/// The digests of a partition's rows, and the key under which they were hashed. A tree changes its key only by being built anew.
pub struct Digests {
    key: Arc<DigestKey>,
    /// The tree.
    pub tree: PartitionTree,
}

impl Digests {
    /// The key under which the rows were hashed.
    pub fn key(&self) -> &Arc<DigestKey> {
        &self.key
    }

    /// Whether the rows are hashed under this key.
    pub fn is_under(&self, key: &Arc<DigestKey>) -> bool {
        Arc::ptr_eq(&self.key, key)
    }

    fn replace(&mut self, change: &RowChange<'_>) {
        let leaf = |head: &Head| leaf(&self.key, change.table, change.row, head);
        let (old, new) = (change.old.map(leaf), change.new.map(leaf));
        self.tree.replace(KeyHash::of(key_of(change.row)), old, new, change.now_ms);
    }
}

/// Digests and counts of a partition that is read from its first row to its last.
pub struct Tally<'a> {
    table: &'a TableName,
    now_ms: u64,
    counts: Counts,
    digests: Digests,
}

impl<'a> Tally<'a> {
    /// Nothing read yet. `depth`: how deep the tree is; a first one is as deep as most ever get.
    pub fn new(table: &'a TableName, key: Arc<DigestKey>, depth: Option<u8>, now_ms: u64) -> Self {
        let tree = PartitionTree::new(depth.unwrap_or(FIRST_DEPTH));
        Self { table, now_ms, counts: Counts::default(), digests: Digests { key, tree } }
    }

    /// Takes in a row; `None` for a damaged record, which counts as the value it was and has no digest.
    pub fn add(&mut self, row: &[u8], head: Option<&Head>) {
        let Some(head) = head else {
            self.counts.live += 1;
            return;
        };
        self.counts.add(head);
        let leaf = leaf(&self.digests.key, self.table, row, head);
        self.digests.tree.insert(KeyHash::of(key_of(row)), leaf, self.now_ms);
    }

    /// How deep the tree should be instead, now that all rows are known.
    pub fn wants_depth(&self) -> Option<u8> {
        self.digests.tree.wants_depth()
    }

    /// What came of it.
    pub fn finish(mut self) -> (Counts, Digests) {
        self.digests.tree.fold();
        (self.counts, self.digests)
    }
}

fn leaf(key: &DigestKey, table: &TableName, row: &[u8], head: &Head) -> Leaf {
    let digest = key.leaf(table, key_of(row), &head.marker);
    Leaf { at_ms: head.marker.timestamp.unix_ms(), digest }
}

fn key_of(row: &[u8]) -> &[u8] {
    row.get(1..).unwrap_or_default()
}
