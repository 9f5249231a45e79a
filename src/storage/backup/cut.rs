//! The cut of a backup: the instant at which the rows were as the backup has them.
//!
//! For a moment nobody writes: the cut holds the turn of every table, so that no batch is half set, and every partition. Meanwhile it reads
//! the few rows that changed last, the counts and digests, and the node's records. Lock order: the tables, then of each table its trees; all
//! turns; all partitions, by table and number.

use std::{
    sync::{Arc, MutexGuard, PoisonError, RwLockReadGuard},
    thread,
    time::{Duration, Instant},
};

use super::line::{self, Last, Mode, TableSummary};
use crate::{
    core::{
        digest::{DigestKey, Sum},
        hex::{from_hex, to_hex},
        name::TableName,
    },
    error::{Error, Result},
    storage::{
        Store,
        engine::Tree,
        open,
        table::{
            Table,
            partition::{Counts, Partition},
            row::{PARTITIONS, key_of},
            tap::{Rows, Tap},
            trees::{self, Trees},
        },
    },
};

/// How long a cut looks for a moment without batches before it makes them wait.
const POLITE: Duration = Duration::from_secs(1);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What was read at the cut.
pub struct Cut {
    /// The lines of the rows that changed last.
    pub lines: Vec<u8>,
    /// How many they are.
    pub count: u64,
    /// What the tables had, and the node's records. The agreement is not there yet.
    pub last: Last,
}

impl Store {
    /// Makes the cut; `None` if more than `rows_max` rows have changed since they were read last.
    ///
    /// # Errors
    /// `Corrupt`, `NotReady`, `TooMany`.
    pub(super) fn cut(&self, tap: &Tap, rows_max: usize) -> Result<Option<Cut>> {
        let until = Instant::now() + POLITE;
        loop {
            let all = self.read_tables();
            let tables: Vec<&Arc<Table>> = all.values().collect();
            let open: Vec<_> = tables.iter().map(|table| table.open()).collect();
            let is_urgent = Instant::now() >= until;
            let turns: Option<Vec<_>> = tables.iter().map(|table| table.batch_turn(is_urgent)).collect();
            if turns.is_some() {
                let numbers = 0..PARTITIONS;
                let partitions: Vec<Vec<_>> = tables
                    .iter()
                    .map(|table| numbers.clone().map(|number| table.lock(number as u8)).collect())
                    .collect();
                if tap.count() > rows_max {
                    return Ok(None);
                }
                return self.read_cut(tap.take()?, &tables, &open, &partitions).map(Some);
            }
            // Whoever makes or removes a table waits for all of them.
            drop((turns, open));
            drop(all);
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Reads under all locks.
    fn read_cut(
        &self,
        changed: Rows,
        tables: &[&Arc<Table>],
        open: &[RwLockReadGuard<'_, Option<Trees>>],
        partitions: &[Vec<MutexGuard<'_, Partition>>],
    ) -> Result<Cut> {
        let (mut lines, mut count) = (Vec::new(), 0);
        for (name, rows) in changed {
            let at = tables.iter().position(|table| *table.name() == name);
            let there = at.map(|at| Ok::<_, Error>((tables[at], trees::of(&open[at])?))).transpose()?;
            for row in rows {
                append(&mut lines, &name, &row, there.map(|(table, trees)| (&**table, trees)))?;
                count += 1;
            }
        }
        let key = self.0.context.digest_key.now();
        let mut last = Last {
            made_ms: self.now_ms(),
            digest_key: to_hex(&key.0),
            records: records(&self.meta()?)?,
            ..Last::default()
        };
        for (table, partitions) in tables.iter().zip(partitions) {
            let mut sum = Sum::default();
            let mut counts = Counts::default();
            for partition in partitions {
                let known = partition.digests.as_ref().filter(|digests| digests.is_under(&key));
                let (Some(digests), Some(known)) = (known, partition.counts) else {
                    return Err(Error::NotReady(format!(
                        "the rows of table {} are being counted; try again in a moment",
                        table.name()
                    )));
                };
                sum += digests.tree().total();
                counts.live += known.live;
                counts.tombstones += known.tombstones;
            }
            let mode = if table.is_strong() { Mode::Strong } else { Mode::Eventual };
            last.tables.push(summary(table.name(), mode, counts, &sum));
        }
        Ok(Cut { lines, count, last })
    }
}

/// What a table has, as a line says it.
pub fn summary(table: &TableName, mode: Mode, counts: Counts, sum: &Sum) -> TableSummary {
    let (live, tombstones) = (counts.live, counts.tombstones);
    TableSummary { name: table.as_str().into(), mode, live, tombstones, root: to_hex(&sum.digest.to_bytes()) }
}

/// The key of a summary's roots.
pub fn digest_key(last: &Last) -> Option<DigestKey> {
    Some(DigestKey(from_hex(&last.digest_key)?.try_into().ok()?))
}

/// Appends what is under a row now.
pub fn append(
    lines: &mut Vec<u8>,
    name: &TableName,
    row: &[u8],
    table: Option<(&Table, &Trees)>,
) -> Result<()> {
    let found = match table {
        Some((table, trees)) => match table.stored(trees, row)? {
            Some(bytes) => table.read_row(trees, row, bytes)?,
            None => None,
        },
        None => None,
    };
    match found {
        Some(found) => line::append_row(lines, name, &found),
        None => line::append_removed(lines, name.as_str(), key_of(row)?.as_str()),
    }
    Ok(())
}

/// The node's records, without the dictionaries: a restored store trains its own.
fn records(meta: &Tree) -> Result<Vec<(String, String)>> {
    let mut records = Vec::new();
    for item in meta.range(&[], None) {
        let (key, value) = item?;
        if !key.starts_with(open::DICTIONARY_PREFIX.as_bytes()) {
            records.push((to_hex(&key), to_hex(&value)));
        }
    }
    Ok(records)
}

impl Table {
    /// The turn of batches: no batch is being decided or set while it is held. `None` if one is and `waits` is false.
    fn batch_turn(&self, waits: bool) -> Option<MutexGuard<'_, ()>> {
        if waits {
            return Some(self.reserved.turn().lock().unwrap_or_else(PoisonError::into_inner));
        }
        match self.reserved.turn().try_lock() {
            Ok(turn) => Some(turn),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}
