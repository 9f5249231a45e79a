//! The copy of a table into new trees, while it is read and written.
//!
//! Rows that are written meanwhile are noted, and copied again until few are left; those are copied with nobody reading or writing,
//! and then the new trees are the table's. A crash before that leaves the table as it was.

use std::sync::Arc;

use super::{Gaps, META, Store, Table, trees_of};
use crate::{
    core::name::TableName,
    error::{Error, Result},
    storage::{
        engine::{Engine, Feed, Successor, gaps::Gap},
        table::{chunks, progress::Progress, record::Body, row::PARTITIONS, trees::Trees},
    },
};

/// So few rows are copied while everybody waits.
const LAST_ROWS_MAX: usize = 500;
/// How often written rows are copied again before everybody waits however many they are.
const ROUNDS_MAX: usize = 20;

/// Where a table is copied to.
struct Copy {
    rows: Successor,
    chunks: Successor,
    /// What could not be read.
    lost: Gaps,
}

impl Table {
    /// The ranges that cannot be read now. Reads everything.
    pub(super) fn find_unreadable(&self) -> Result<Vec<Gap>> {
        let lost = Gaps::default();
        for number in 0..PARTITIONS {
            self.with_trees(|trees| {
                let mut items = trees.partition(number as u8);
                while let Some(item) = items.next() {
                    match item {
                        Ok((row, bytes)) if !self.has_chunks(trees, &row, &bytes)? => {
                            lost.add(Gap::of_key(&row))
                        }
                        Ok(_) => {}
                        Err(Error::Corrupt(_)) => items.gap().into_iter().for_each(|gap| lost.add(gap)),
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            })?;
        }
        Ok(lost.all())
    }

    /// Whether the chunks of a row can be read, if it has any.
    fn has_chunks(&self, trees: &Trees, row: &[u8], bytes: &[u8]) -> Result<bool> {
        // A record that is no record is not the engine's damage, and nothing that a copy mends.
        let Ok(record) = self.decode(row, bytes) else { return Ok(true) };
        let Body::Chunked(length) = record.body else { return Ok(true) };
        match chunks::read(&trees.chunks, row, &record.head, length) {
            Ok(_) => Ok(true),
            Err(Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies a row as it is now.
    fn copy_row(&self, trees: &Trees, row: &[u8], copy: &Copy) -> Result<()> {
        if let Some(before) = copy.rows.tree.get(row)?
            && let Ok(before) = self.decode(row, &before)
        {
            chunks::remove(&copy.chunks.tree, row, &before)?;
        }
        let bytes = match trees.rows.get(row) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return copy.rows.tree.remove(row),
            Err(Error::Corrupt(_)) => {
                copy.lost.add(Gap::of_key(row));
                return copy.rows.tree.remove(row);
            }
            Err(error) => return Err(error),
        };
        if let Ok(record) = self.decode(row, &bytes)
            && let Body::Chunked(length) = record.body
        {
            match chunks::read(&trees.chunks, row, &record.head, length) {
                Ok(Some(coded)) => chunks::insert(&copy.chunks.tree, row, &record.head, &coded)?,
                // Written again meanwhile, and so copied again; or lost.
                Ok(None) | Err(Error::Corrupt(_)) => {
                    copy.lost.add(Gap::of_key(row));
                    return copy.rows.tree.remove(row);
                }
                Err(error) => return Err(error),
            }
        }
        copy.rows.tree.insert(row, &bytes)
    }

    fn copy_partition(&self, number: u8, copy: &Copy) -> Result<()> {
        self.with_trees(|trees| {
            let mut items = trees.partition(number);
            while let Some(item) = items.next() {
                match item {
                    Ok((row, _)) => self.copy_row(trees, &row, copy)?,
                    Err(Error::Corrupt(_)) => items.gap().into_iter().for_each(|gap| copy.lost.add(gap)),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }
}

impl Store {
    /// Copies a table, and has everybody use the copy. What could not be read.
    pub(super) fn copy_table(&self, table: &Arc<Table>) -> Result<Vec<Gap>> {
        let incarnation = self.incarnation();
        let copy = self.with_engine(|engine| Copy::begin(engine, table.name()))?;
        table.changed.set(true);
        let copied = self.copy_rows(table, &copy).and_then(|()| {
            table.replace_trees(|trees| {
                if self.incarnation() != incarnation {
                    return Err(Error::NotReady("the storage was opened again meanwhile".into()));
                }
                self.switch_to_copy(table, trees, &copy)
            })
        });
        table.changed.set(false);
        let lost = copy.lost.all();
        // Whatever it was to take the place of, nobody else has it.
        drop(copy);
        if copied.is_err() {
            self.remove_spare_trees(table.name());
        }
        let (feed, progress) = copied?;
        self.pump(table, feed, progress)?;
        Ok(lost)
    }

    fn copy_rows(&self, table: &Table, copy: &Copy) -> Result<()> {
        for number in 0..PARTITIONS {
            table.copy_partition(number as u8, copy)?;
        }
        for _ in 0..ROUNDS_MAX {
            let changed = table.changed.take();
            let few = changed.len() <= LAST_ROWS_MAX;
            table.with_trees(|trees| changed.iter().try_for_each(|row| table.copy_row(trees, row, copy)))?;
            if few {
                break;
            }
        }
        Ok(())
    }

    /// Ends a copy, with nobody reading or writing the table.
    fn switch_to_copy(&self, table: &Table, trees: &mut Trees, copy: &Copy) -> Result<(Feed, Arc<Progress>)> {
        // What was written before is told before what will be.
        trees.progress.wait_until_caught_up();
        table.changed.take().iter().try_for_each(|row| table.copy_row(trees, row, copy))?;
        self.with_engine(|engine| {
            // First of all: a crash in between leaves ranges that are held to be lost and are not, and never the other way round.
            table.lost.add(&engine.tree(META)?, table.name(), self.now_ms(), &copy.lost)?;
            engine.succeed(&[&copy.rows, &copy.chunks])
        })?;
        trees.rows = copy.rows.tree.clone();
        trees.chunks = copy.chunks.tree.clone();
        trees.progress = Arc::new(Progress::new());
        let ring_is_active = (trees.rows.subscribe(), trees.progress.clone());
        table.recount(trees, &copy.lost.all())?;
        // Digests of before said that they were here.
        table.lost.raise_since(self.now_ms());
        Ok(ring_is_active)
    }
}

impl Copy {
    fn begin(engine: &Engine, name: &TableName) -> Result<Self> {
        let [rows, chunks] = trees_of(name);
        Ok(Self { rows: engine.successor(&rows)?, chunks: engine.successor(&chunks)?, lost: Gaps::default() })
    }
}
