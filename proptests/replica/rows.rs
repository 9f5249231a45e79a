//! The rows of a replica in memory, with the trees that sum them up. Every change to them is made here, with what undoes it.

use std::collections::{BTreeMap, VecDeque};

use dynarust::core::{
    clock::{Clock, Timestamp},
    digest::{
        Digest, DigestKey, KeyHash, PARTITION_BITS, Path, Sum,
        tree::{Leaf, PartitionTree},
    },
    name::{Key, TableName},
    protocol::replica::Swept,
    register::{Marker, Payload, Register},
};

use super::{Cause, Change, DRIFT_MAX_MS, TOMBSTONES_STEP_MS};

/// How far ahead of the wall clock the durable bound of the clock is set.
const CLOCK_LEAD_MS: u64 = 1_500;

/// The rows, the clock that dates them, and what is not durable yet.
pub struct Rows {
    pub digest_key: DigestKey,
    pub tables: BTreeMap<TableName, BTreeMap<u8, Partition>>,
    pub clock: Clock,
    pub bound: u64,
    pub now_ms: u64,
    pub swept: Swept,
    /// What was there before each change that is not synced.
    pub before: VecDeque<(TableName, Key, Option<Register>)>,
    /// How many changes were made.
    pub place: u64,
    pub changes: Vec<Change>,
    pub lowered_ms: Option<u64>,
    /// For how long a tombstone stays after the floor has passed it.
    pub grace_ms: u64,
    /// Which registers came late, and above which floor each may be removed. Durable at once.
    pub late: BTreeMap<(TableName, Key), (Marker, u64)>,
}

pub struct Partition {
    pub rows: BTreeMap<Key, Held>,
    pub tree: PartitionTree,
}

#[derive(Clone)]
pub struct Held {
    pub hash: KeyHash,
    pub register: Register,
    pub digest: Digest,
}

impl Rows {
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if let Some(bound) = self.clock.bound_wanted(now_ms, CLOCK_LEAD_MS) {
            self.bound = bound;
            self.clock.extend(bound);
        }
    }

    pub fn tick(&mut self) -> Timestamp {
        self.clock.tick(self.now_ms).unwrap_or_else(|_| {
            self.set_now(self.now_ms);
            self.clock.tick(self.now_ms).expect("the bound was raised")
        })
    }

    pub fn registers(&self) -> impl Iterator<Item = (&TableName, &Key, &Register)> {
        self.tables.iter().flat_map(|(table, partitions)| {
            let rows = partitions.values().flat_map(|partition| &partition.rows);
            rows.map(move |(key, held)| (table, key, &held.register))
        })
    }

    pub fn held(&self, table: &TableName, key: &Key) -> Option<&Register> {
        let partition = self.tables.get(table)?.get(&hash_of(key).partition())?;
        partition.rows.get(key).map(|held| &held.register)
    }

    /// As `merge`. What ends a row and comes after so much was announced or swept is late.
    pub fn accept(&mut self, table: &TableName, key: &Key, register: Register, announced_ms: u64) -> bool {
        let floors = floors_of(announced_ms, self.grace_ms);
        let passed = self.swept.max(floors);
        let due_ms = match register.payload() {
            Payload::Deleted => passed.tombstones_ms + 1,
            Payload::Live { .. } => passed.expired_ms + 1,
        };
        let late = is_over(&register, passed).then(|| (register.marker(), due_ms));
        let changes = self.merge(table, key, register);
        if let Some(late) = late.filter(|_| changes) {
            self.late.insert((table.clone(), key.clone()), late);
        }
        changes
    }

    /// Whether a row is dead where so much is swept, and did not come too late for that.
    pub fn is_swept(&self, (table, key, register): (&TableName, &Key, &Register), swept: Swept) -> bool {
        let late = self.late.get(&(table.clone(), key.clone())).filter(|late| late.0 == register.marker());
        let due_ms = late.map_or(0, |late| late.1);
        let swept_ms = match register.payload() {
            Payload::Deleted => swept.tombstones_ms,
            Payload::Live { .. } => swept.expired_ms,
        };
        is_over(register, swept) && due_ms <= swept_ms
    }

    pub fn merge(&mut self, table: &TableName, key: &Key, register: Register) -> bool {
        let held = self.held(table, key).cloned();
        let mut merged = held.clone().unwrap_or_else(|| register.clone());
        merged.merge(register);
        let changes = held.as_ref() != Some(&merged);
        if changes {
            self.set(table, key, Some(merged), Cause::Peer);
        }
        changes
    }

    pub fn set(&mut self, table: &TableName, key: &Key, register: Option<Register>, cause: Cause) {
        let before = self.put(table, key, register.clone());
        self.before.push_back((table.clone(), key.clone(), before));
        self.place += 1;
        self.changes.push(Change { table: table.clone(), key: key.clone(), register, cause });
    }

    /// Puts a register in its place that nobody is told of.
    pub fn damage(&mut self, table: &TableName, key: &Key, register: Option<Register>) {
        self.put(table, key, register);
    }

    /// Puts a register in its place; returns what was there.
    fn put(&mut self, table: &TableName, key: &Key, register: Option<Register>) -> Option<Register> {
        let hash = hash_of(key);
        let held = register.map(|register| {
            let digest = self.digest_key.leaf(table, key.as_str().as_bytes(), &register.marker());
            Held { hash, register, digest }
        });
        let partition = self.tables.entry(table.clone()).or_default().entry(hash.partition());
        let partition =
            partition.or_insert_with(|| Partition { rows: BTreeMap::new(), tree: PartitionTree::new(0) });
        let new = held.as_ref().map(leaf_of);
        let before = match held {
            Some(held) => partition.rows.insert(key.clone(), held),
            None => partition.rows.remove(key),
        };
        partition.tree.replace(hash, before.as_ref().map(leaf_of), new, self.now_ms);
        if let Some(depth) = partition.tree.wants_depth() {
            partition.tree.rebuild(tree_of(&partition.rows, depth, self.now_ms));
        }
        before.map(|held| held.register)
    }

    pub fn crash(&mut self) {
        while let Some((table, key, register)) = self.before.pop_back() {
            self.put(&table, &key, register);
        }
        self.clock = Clock::new(self.clock.node(), self.bound, DRIFT_MAX_MS);
        self.changes.clear();
        // Trees are built again from the rows, and know nothing of what was before.
        for partition in self.tables.values_mut().flat_map(BTreeMap::values_mut) {
            partition.tree = tree_of(&partition.rows, partition.tree.depth(), self.now_ms);
        }
        // The last sweep may not have been durable.
        self.sweep();
    }

    pub fn sweep_to(&mut self, swept: Swept) {
        if self.swept.max(swept) != self.swept {
            self.swept = self.swept.max(swept);
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        let swept = self.swept;
        let over = self.registers().filter(|row| self.is_swept(*row, swept));
        let over: Vec<_> = over.map(|(table, key, _)| (table.clone(), key.clone())).collect();
        for (table, key) in over {
            self.set(&table, &key, None, Cause::Sweep);
        }
    }

    pub fn sums(&self, table: &TableName, path: Path, below: u8, at_ms: u64) -> Option<Vec<Sum>> {
        let bits = path.bits + below;
        let partitions = self.tables.get(table);
        let mut sums = Vec::new();
        for number in path.partitions() {
            let tree = partitions.and_then(|partitions| Some(&partitions.get(&number)?.tree));
            match (tree, bits.checked_sub(PARTITION_BITS.max(path.bits))) {
                (Some(tree), Some(below)) if path.bits < PARTITION_BITS => {
                    sums.extend(tree.sums(Path::partition(number), below, at_ms)?);
                }
                (Some(tree), Some(below)) => sums.extend(tree.sums(path, below, at_ms)?),
                (Some(tree), None) => sums.push(tree.total_at(at_ms)),
                (None, Some(1..)) => return None,
                (None, Some(0) | None) => sums.push(Sum::default()),
            }
        }
        let together = 1 << PARTITION_BITS.saturating_sub(bits);
        Some(sums.chunks(together).map(|sums| sums.iter().copied().sum()).collect())
    }
}

/// What is swept at most once everybody has everything up to an instant.
pub fn floors_of(floor_ms: u64, grace_ms: u64) -> Swept {
    let step_ms = floor_ms.saturating_sub(grace_ms);
    Swept { tombstones_ms: step_ms - step_ms % TOMBSTONES_STEP_MS, expired_ms: floor_ms }
}

/// Whether a register is dead everywhere where so much is swept.
pub fn is_over(register: &Register, swept: Swept) -> bool {
    let written_ms = register.timestamp().unix_ms();
    match register.payload() {
        Payload::Deleted => written_ms <= swept.tombstones_ms,
        Payload::Live { expires_at_ms: Some(at_ms), .. } => written_ms.max(*at_ms) <= swept.expired_ms,
        Payload::Live { expires_at_ms: None, .. } => false,
    }
}

fn hash_of(key: &Key) -> KeyHash {
    KeyHash::of(key.as_str().as_bytes())
}

fn leaf_of(held: &Held) -> Leaf {
    Leaf { at_ms: held.register.timestamp().unix_ms(), digest: held.digest }
}

fn tree_of(rows: &BTreeMap<Key, Held>, depth: u8, now_ms: u64) -> PartitionTree {
    let mut tree = PartitionTree::new(depth);
    for held in rows.values() {
        tree.insert(held.hash, leaf_of(held), now_ms);
    }
    tree
}
