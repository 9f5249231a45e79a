//! A replica in memory: what the protocol needs of a node's storage, without a disk, under a wall clock that is told what it
//! shows. A crash takes back what was not synced.

mod rows;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use dynarust::{
    core::{
        clock::{Clock, NodeId},
        digest::{Digest, DigestKey, PARTITION_BITS, Path, RootDigest, Sum},
        name::{Key, TableName},
        protocol::{
            message::Row,
            replica::{Accepted, Replica, Scanned, Swept},
        },
        register::{Marker, Payload, Register},
    },
    error::{Error, Result},
};

use self::rows::{Partition, Rows, floors_of};

/// How far a clock may be ahead.
pub const DRIFT_MAX_MS: u64 = 500;
/// Tombstones go in steps.
const TOMBSTONES_STEP_MS: u64 = 1_000;

/// The rows of one node.
pub struct MemoryReplica(RefCell<Rows>);

/// What was done to a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub table: TableName,
    pub key: Key,
    /// What is there now.
    pub register: Option<Register>,
    pub cause: Cause,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A client of this node.
    Client,
    /// A peer.
    Peer,
    /// The floor.
    Sweep,
    /// A whole member proved that it was deleted.
    Removal,
}

impl MemoryReplica {
    /// This one, where a tombstone stays for so long after the floor has passed it.
    pub fn with_grace_ms(self, grace_ms: u64) -> Self {
        self.0.borrow_mut().grace_ms = grace_ms;
        self
    }

    /// An empty one.
    pub fn new(node: NodeId, digest_key: DigestKey, now_ms: u64) -> Self {
        let mut rows = Rows {
            digest_key,
            tables: BTreeMap::new(),
            clock: Clock::new(node, 0, DRIFT_MAX_MS),
            bound: 0,
            now_ms,
            swept: Swept::default(),
            before: VecDeque::new(),
            place: 0,
            changes: Vec::new(),
            lowered_ms: None,
            grace_ms: 0,
            late: BTreeMap::new(),
        };
        rows.set_now(now_ms);
        Self(RefCell::new(rows))
    }

    /// What the wall clock shows.
    pub fn set_now(&self, now_ms: u64) {
        self.0.borrow_mut().set_now(now_ms);
    }

    /// A client's write.
    pub fn write(&self, table: &TableName, key: &Key, payload: Payload) -> Register {
        let mut rows = self.0.borrow_mut();
        let register = Register::new(payload, rows.tick());
        rows.set(table, key, Some(register.clone()), Cause::Client);
        register
    }

    /// Merges a register, whatever was swept.
    pub fn merge(&self, table: &TableName, key: &Key, register: Register) -> bool {
        self.0.borrow_mut().merge(table, key, register)
    }

    /// The place of the last change.
    pub fn place(&self) -> u64 {
        self.0.borrow().place
    }

    /// Makes durable what was changed up to a place.
    pub fn sync_to(&self, place: u64) {
        let mut rows = self.0.borrow_mut();
        while rows.place - (rows.before.len() as u64) < place && !rows.before.is_empty() {
            rows.before.pop_front();
        }
    }

    /// Loses what is not durable, and starts again.
    pub fn crash(&self) {
        self.0.borrow_mut().crash();
    }

    /// Until when the wall clock has to come after a start, so that no timestamp looks skewed to others.
    pub fn ready_ms(&self) -> u64 {
        self.0.borrow().bound >> 16
    }

    /// What was changed since this was asked last.
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.0.borrow_mut().changes)
    }

    /// Loses what is not durable, before the disk is looked at.
    pub fn lose_unsynced(&self) {
        self.0.borrow_mut().crash();
    }

    /// Has another register in a row's place, or none, as a damaged disk does.
    pub fn damage(&self, table: &TableName, key: &Key, register: Option<Register>) {
        self.0.borrow_mut().damage(table, key, register);
    }

    /// Whether it holds a register of a row, or a later one.
    pub fn holds(&self, table: &TableName, key: &Key, marker: Marker) -> bool {
        self.0.borrow().held(table, key).is_some_and(|held| held.marker() >= marker)
    }

    /// Down to where what is kept of the agreement was lowered, if it was since this was asked last.
    pub fn take_lowered_ms(&self) -> Option<u64> {
        self.0.borrow_mut().lowered_ms.take()
    }

    /// All rows.
    pub fn rows(&self) -> Vec<(TableName, Key, Register)> {
        let rows = self.0.borrow();
        let all = rows.tables.iter().flat_map(|(table, partitions)| {
            let held = partitions.values().flat_map(|partition| &partition.rows);
            held.map(|(key, held)| (table.clone(), key.clone(), held.register.clone()))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|(table, key, _), (other, than, _)| (table, key).cmp(&(other, than)));
        all
    }

    /// Whether the trees are the sums of the rows.
    pub fn is_consistent(&self) -> bool {
        let rows = self.0.borrow();
        rows.tables.values().flat_map(BTreeMap::values).all(|partition| {
            let sum: Sum = partition.rows.values().map(|held| Sum::of(held.digest)).sum();
            partition.tree.total() == sum
        })
    }

    /// Raises what is swept to what the floor allows, if anything is due.
    pub fn pass_floor(&self, floor_ms: u64) {
        let mut rows = self.0.borrow_mut();
        let floors = floors_of(floor_ms, rows.grace_ms);
        let tombstones = Swept { expired_ms: 0, ..floors };
        let expired = Swept { tombstones_ms: 0, ..floors };
        let is_due = |rows: &Rows, swept| rows.registers().any(|row| rows.is_swept(row, swept));
        for swept in [tombstones, expired] {
            if rows.swept.max(swept) != rows.swept && is_due(&rows, swept) {
                rows.sweep_to(swept);
            }
        }
    }
}

impl Replica for MemoryReplica {
    fn digest_key(&self) -> DigestKey {
        self.0.borrow().digest_key
    }

    fn tables(&self) -> Vec<TableName> {
        let rows = self.0.borrow();
        let has_rows = |partitions: &BTreeMap<u8, Partition>| {
            partitions.values().any(|partition| !partition.rows.is_empty())
        };
        let tables = rows.tables.iter().filter(|(_, partitions)| has_rows(partitions));
        tables.map(|(table, _)| table.clone()).collect()
    }

    fn root(&self, at_ms: u64) -> Result<Option<RootDigest>> {
        let rows = self.0.borrow();
        let trees = rows.tables.values().flat_map(BTreeMap::values).map(|partition| &partition.tree);
        if trees.into_iter().any(|tree| tree.exact_since_ms() > at_ms) {
            return Ok(None);
        }
        let sum = |partitions: &BTreeMap<u8, Partition>| -> Sum {
            partitions.values().map(|partition| partition.tree.total_at(at_ms)).sum()
        };
        let sums = rows.tables.iter().map(|(table, partitions)| (table, sum(partitions)));
        Ok(Some(rows.digest_key.root(sums)))
    }

    fn count(&self) -> u64 {
        self.0.borrow().registers().count() as u64
    }

    fn sums(&self, table: &TableName, path: Path, below: u8, at_ms: u64) -> Result<Option<Vec<Sum>>> {
        Ok(self.0.borrow().sums(table, path, below, at_ms))
    }

    fn depth(&self, table: &TableName, path: Path) -> Result<u8> {
        let rows = self.0.borrow();
        let partitions = rows.tables.get(table);
        let depth = |number| partitions.and_then(|all| Some(all.get(&number)?.tree.depth())).unwrap_or(0);
        Ok(PARTITION_BITS + path.partitions().map(depth).min().unwrap_or(0))
    }

    fn heads(&self, table: &TableName, path: Path) -> Result<Vec<(Key, Marker, Digest)>> {
        let rows = self.0.borrow();
        let Some(partitions) = rows.tables.get(table) else { return Ok(Vec::new()) };
        let held = partitions.range(path.partitions()).flat_map(|(_, partition)| &partition.rows);
        let held = held.filter(|(_, held)| path.covers(held.hash));
        Ok(held.map(|(key, held)| (key.clone(), held.register.marker(), held.digest)).collect())
    }

    fn read(&self, table: &TableName, key: &Key) -> Result<Option<Row>> {
        Ok(self.0.borrow().held(table, key).map(|register| Row::new(key.clone(), register.clone())))
    }

    fn scan(
        &self,
        table: &TableName,
        partition: u8,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scanned> {
        let rows = self.0.borrow();
        let Some(partition) = rows.tables.get(table).and_then(|partitions| partitions.get(&partition)) else {
            return Ok(Scanned::default());
        };
        let mut scanned = Scanned::default();
        let mut bytes = 0;
        for (key, held) in partition.rows.iter().filter(|(key, _)| after.is_none_or(|after| *key > after)) {
            if bytes >= bytes_max && !scanned.rows.is_empty() {
                scanned.more = true;
                break;
            }
            let row = Row::new(key.clone(), held.register.clone());
            bytes += row.cost();
            scanned.rows.push(row);
        }
        Ok(scanned)
    }

    fn accept(
        &self,
        table: &TableName,
        sent: Vec<Row>,
        proven_ms: u64,
        announced_ms: u64,
    ) -> Result<Accepted> {
        let mut rows = self.0.borrow_mut();
        let mut accepted = Accepted::default();
        for row in sent {
            let bad =
                || Error::corrupt_record(table, row.key.as_str().as_bytes(), "not what its marker says");
            let (key, register) = row.clone().into_register().ok_or_else(bad)?;
            let at = register.timestamp();
            if rows.held(table, &key).is_none() && at.unix_ms() <= proven_ms {
                accepted.deleted.push((key, register.marker()));
                continue;
            }
            rows.clock.follow(at);
            accepted.latest = accepted.latest.max(Some(at));
            accepted.changed += u64::from(rows.accept(table, &key, register, announced_ms));
        }
        Ok(accepted)
    }

    fn lower_agreement(&self, to_ms: u64) -> Result<()> {
        let mut rows = self.0.borrow_mut();
        rows.lowered_ms = Some(rows.lowered_ms.map_or(to_ms, |lowered_ms| lowered_ms.min(to_ms)));
        Ok(())
    }

    fn remove(&self, removed: Vec<(TableName, Key, Marker)>) -> Result<u64> {
        let mut rows = self.0.borrow_mut();
        let mut count = 0;
        for (table, key, marker) in removed {
            if rows.held(&table, &key).is_some_and(|held| held.marker() == marker) {
                rows.set(&table, &key, None, Cause::Removal);
                count += 1;
            }
        }
        Ok(count)
    }

    fn raise_clock(&self, at_ms: u64) {
        self.0.borrow_mut().clock.pass(at_ms);
    }

    fn swept(&self) -> Swept {
        self.0.borrow().swept
    }

    fn garbage(&self, swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>> {
        let rows = self.0.borrow();
        let garbage = rows.registers().filter(|row| rows.is_swept(*row, swept));
        Ok(garbage.map(|(table, key, _)| (table.clone(), vec![key.clone()])).collect())
    }

    fn reset_swept(&self, swept: Swept) -> Result<()> {
        self.0.borrow_mut().swept = swept;
        Ok(())
    }

    fn sweep_to(&self, swept: Swept) {
        self.0.borrow_mut().sweep_to(swept);
    }
}
