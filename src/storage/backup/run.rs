//! A backup of a running store, as lines: first all rows in order, then in rounds those that changed meanwhile, then the cut.
//!
//! Reading a round is much faster than writing its rows was, so each is shorter than the one before. Once few rows are left they are read at
//! the cut, where for a moment nobody writes. So the lines are the rows of one instant, although nobody waited for the reads before.
//!
//! The agreement (`core::protocol::agreement`) is read after the cut: what it claims is about the past, so it is true of rows of any age. One
//! read before the rows would not be: a row that comes late is stored after the claim about it was lowered.

use std::{collections::VecDeque, mem, sync::Arc};

use super::{
    cut::{self, Cut},
    line::{self, CHANGES, End, FORMAT, First},
};
use crate::{
    core::{hex::to_hex, name::TableName},
    error::{Error, Result},
    storage::{
        Store,
        commit::Incarnation,
        engine::agreement_file,
        table::{Table, row::PARTITIONS, tap::Tap},
    },
};

/// Bytes of lines that are read at a time, approximately.
pub const PAGE_BYTES: usize = 128 * 1024;
/// Rows that are read at a time in a round.
const PAGE_ROWS: usize = 500;
/// Rows that are read at the cut: while they are, nobody writes.
const CUT_ROWS_MAX: usize = 1000;
/// After so many rounds each cut may read twice as many, so that a backup ends whatever is written.
const ROUNDS_MAX: u32 = 8;

/// A backup that is being read. One at a time of a store.
pub struct Run {
    store: Store,
    tap: Collecting,
    incarnation: Incarnation,
    first: Option<First>,
    phase: Phase,
    /// What earlier cuts have read, and how many rows it is: to be sent before whatever is read later.
    early: (Vec<u8>, u64),
    rounds: u32,
    lines: u64,
    hasher: blake3::Hasher,
}

/// The tap, until this is dropped.
struct Collecting(Arc<Tap>);

impl Drop for Collecting {
    fn drop(&mut self) {
        self.0.end();
    }
}

enum Phase {
    /// The tables to read, and where in the first of them.
    Scan { tables: VecDeque<TableName>, after: Vec<u8> },
    /// Rows that changed, to be read again.
    Round(VecDeque<(TableName, Vec<u8>)>),
    /// The cut is due, or was made.
    Cut(Option<Box<Cut>>),
}

impl Run {
    /// Begins a backup of a store. It blocks: do not call it from an async task.
    ///
    /// # Errors
    /// `Conflict` if one is running; those of the storage.
    pub fn begin(store: &Store, cluster: String) -> Result<Self> {
        let tap = store.0.context.tap.clone();
        if !tap.begin() {
            return Err(Error::Conflict(
                "a backup of this node is running already, and there is one at a time: wait for its end"
                    .into(),
            ));
        }
        let tap = Collecting(tap);
        store.count_rows()?;
        let tables = store.all_tables();
        for table in &tables {
            check_readable(table)?;
            // Who is setting a row now may not have seen that the tap is on; whoever comes after this has.
            (0..PARTITIONS).for_each(|number| drop(table.lock(number as u8)));
        }
        let first = First {
            backup: FORMAT,
            node: store.node().to_string(),
            cluster,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        Ok(Self {
            store: store.clone(),
            tap,
            incarnation: store.incarnation(),
            first: Some(first),
            phase: Phase::Scan {
                tables: tables.iter().map(|table| table.name().clone()).collect(),
                after: Vec::new(),
            },
            early: (Vec::new(), 0),
            rounds: 0,
            lines: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// The next lines; `None` once the cut is due. It reads the disk.
    ///
    /// # Errors
    /// `Corrupt` if a row cannot be read; those of the storage.
    pub fn next_page(&mut self) -> Result<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        if let Some(first) = self.first.take() {
            lines.extend_from_slice(&line::render(&first));
            self.count(&lines, 1);
        }
        let begin = lines.len();
        let early = match self.phase {
            Phase::Round(_) => self.take_early(&mut lines),
            Phase::Scan { .. } | Phase::Cut(_) => 0,
        };
        let cut_rows_max = self.cut_rows_max();
        let read = match &mut self.phase {
            Phase::Scan { tables, after } => match tables.front().cloned() {
                Some(name) => {
                    let (read, next) = scan(&self.store, &name, after, &mut lines)?;
                    match next {
                        Some(next) => *after = next,
                        None => {
                            tables.pop_front();
                            after.clear();
                        }
                    }
                    read
                }
                None => {
                    lines.extend_from_slice(CHANGES);
                    self.begin_round()?;
                    1
                }
            },
            Phase::Round(rows) if !rows.is_empty() => {
                let page: Vec<_> = rows.drain(..rows.len().min(PAGE_ROWS)).collect();
                for (table, row) in &page {
                    read_again(&self.store, table, row, &mut lines)?;
                }
                page.len() as u64
            }
            Phase::Round(_) if self.tap.0.count() > cut_rows_max => {
                self.begin_round()?;
                0
            }
            Phase::Round(_) => {
                self.phase = Phase::Cut(None);
                0
            }
            Phase::Cut(_) => return Ok(None),
        };
        self.count(&lines[begin..], early + read);
        Ok(Some(lines))
    }

    /// Whether the next page may wait for others. The rows that changed may not: whoever reads them more slowly than they change never ends. Nor
    /// may any, once many names of such rows wait in memory.
    pub fn may_wait(&self) -> bool {
        matches!(self.phase, Phase::Scan { .. }) && !self.tap.0.is_filling()
    }

    /// Makes the cut. Returns false if rows are to be read first, because too much changed just before: then ask for the next lines again. May
    /// be repeated.
    ///
    /// # Errors
    /// As `next`.
    pub fn cut(&mut self) -> Result<bool> {
        if matches!(&self.phase, Phase::Round(rows) if !rows.is_empty()) {
            return Ok(false);
        }
        let cut = self.store.cut(&self.tap.0, self.cut_rows_max())?;
        if let Phase::Cut(before) = &mut self.phase
            && let Some(before) = before.take()
        {
            self.early.0.extend_from_slice(&before.lines);
            self.early.1 += before.count;
        }
        let Some(cut) = cut else {
            self.begin_round()?;
            return Ok(false);
        };
        self.phase = Phase::Cut(Some(Box::new(cut)));
        Ok(true)
    }

    /// The last lines, after the cut.
    ///
    /// # Errors
    /// `StorageFull` if the disk failed meanwhile, and what was read may not be there any more; `Corrupt`; `Io`.
    pub fn end(mut self) -> Result<Vec<u8>> {
        let Phase::Cut(Some(cut)) = mem::replace(&mut self.phase, Phase::Cut(None)) else {
            return Err(Error::Io("the backup ended before its cut".into()));
        };
        if self.store.incarnation() != self.incarnation || self.store.failure().is_some() {
            return Err(Error::StorageFull("the storage failed during the backup: make it again".into()));
        }
        self.store.all_tables().iter().try_for_each(|table| check_readable(table))?;
        let Cut { lines: cut_lines, count, mut last } = *cut;
        let mut lines = Vec::new();
        let early = self.take_early(&mut lines);
        lines.extend_from_slice(&cut_lines);
        self.count(&lines, early + count);
        last.agreement = to_hex(&agreement_file::bytes(&self.store.0.options.data)?.unwrap_or_default());
        let blake3 = self.hasher.finalize().to_hex().to_string();
        lines.extend_from_slice(&line::render(&End { end: true, lines: self.lines, last, blake3 }));
        Ok(lines)
    }

    fn begin_round(&mut self) -> Result<()> {
        self.rounds += 1;
        let changed = self.tap.0.take()?;
        let rows = changed
            .into_iter()
            .flat_map(|(table, rows)| rows.into_iter().map(move |row| (table.clone(), row)));
        self.phase = Phase::Round(rows.collect());
        Ok(())
    }

    /// Appends what earlier cuts have read. Returns how many rows it is.
    fn take_early(&mut self, lines: &mut Vec<u8>) -> u64 {
        let (early, count) = mem::take(&mut self.early);
        lines.extend_from_slice(&early);
        count
    }

    fn cut_rows_max(&self) -> usize {
        CUT_ROWS_MAX << self.rounds.saturating_sub(ROUNDS_MAX).min(20)
    }

    fn count(&mut self, lines: &[u8], count: u64) {
        self.lines += count;
        self.hasher.update(lines);
    }
}

/// Appends rows of a table behind a row name, about a page of them. Returns how many, and where to go on.
fn scan(
    store: &Store,
    name: &TableName,
    after: &[u8],
    lines: &mut Vec<u8>,
) -> Result<(u64, Option<Vec<u8>>)> {
    let begin = lines.len();
    let Some(table) = store.table(name) else { return Ok((0, None)) };
    // The least name above another is that name and a zero byte.
    let from = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
    let scanned = table.with_trees(|trees| {
        let mut count = 0;
        for item in trees.rows.range(&from, None) {
            let (row, bytes) = item?;
            let Some(found) = table.read_row(trees, &row, bytes)? else { continue };
            line::append_row(lines, name, &found);
            count += 1;
            if lines.len() - begin >= PAGE_BYTES {
                return Ok((count, Some(row.to_vec())));
            }
        }
        Ok((count, None))
    });
    match scanned {
        // Its rows are gone, and the tap knows which.
        Err(_) if table.is_removed() => {
            lines.truncate(begin);
            Ok((0, None))
        }
        scanned => scanned.map_err(unreadable),
    }
}

/// Appends what is under a row now.
fn read_again(store: &Store, name: &TableName, row: &[u8], lines: &mut Vec<u8>) -> Result<()> {
    while let Some(table) = store.table(name) {
        match table.with_trees(|trees| cut::append(lines, name, row, Some((&table, trees)))) {
            // The next look finds the table that replaces it, if there is one.
            Err(_) if table.is_removed() => {}
            read => return read.map_err(unreadable),
        }
    }
    cut::append(lines, name, row, None)
}

fn check_readable(table: &Table) -> Result<()> {
    match table.unreadable_ranges() {
        0 => Ok(()),
        ranges => Err(unreadable(Error::Corrupt(format!(
            "table {} has {ranges} ranges of keys that cannot be read",
            table.name()
        )))),
    }
}

/// A backup that lacks rows would look like one that has them all.
fn unreadable(error: Error) -> Error {
    match error {
        Error::Corrupt(what) => Error::Corrupt(format!(
            "{what}. A backup has all rows or is none: back up another node of the cluster, or export what can be read"
        )),
        other => other,
    }
}
