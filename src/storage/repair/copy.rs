//! Copies a table into new trees while it is read and written.
//!
//! Rows written meanwhile are recorded and copied again, until few are left. Those are copied while reads and writes wait; then the new
//! trees become the table's. A crash before that leaves the table as it was.

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

/// At most this many rows are copied while reads and writes wait.
const LAST_ROWS_MAX: usize = 500;
/// How many times written rows are copied again; after that the rest is copied while everybody waits, however many there are.
const ROUNDS_MAX: usize = 20;

/// The target of a copy.
struct Copy {
    rows: Successor,
    chunks: Successor,
    /// What could not be read.
    lost: Gaps,
}

impl Table {
    /// Finds the ranges that cannot be read now. Reads everything.
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
        // An invalid record is not damage of the engine, and a copy does not repair it.
        let Ok(record) = self.decode(row, bytes) else { return Ok(true) };
        let Body::Chunked(length) = record.body else { return Ok(true) };
        match chunks::read(&trees.chunks, row, &record.head, length) {
            Ok(_) => Ok(true),
            Err(Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies the current version of a row.
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
                // Either rewritten meanwhile, and so copied again; or lost.
                Ok(None) | Err(Error::Corrupt(_)) => {
                    copy.lost.add(Gap::of_key(row));
                    return copy.rows.tree.remove(row);
                }
                Err(error) => return Err(error),
            }
        }
        copy.rows.tree.insert(row, &bytes)
    }

    /// Copies the rows again that changed since the last call. Returns how many.
    fn copy_changed(&self, trees: &Trees, copy: &Copy) -> Result<usize> {
        let changed = self.changed.take()?;
        changed.iter().try_for_each(|row| self.copy_row(trees, row, copy))?;
        Ok(changed.len())
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
    /// Copies a table and switches everybody to the copy. Returns what could not be read.
    pub(super) fn copy_table(&self, table: &Arc<Table>) -> Result<Vec<Gap>> {
        let incarnation = self.incarnation();
        let copy = self.with_engine(|engine| Copy::begin(engine, table.name()))?;
        table.changed.set(true);
        let copied = self.copy_rows(table, &copy).and_then(|()| {
            table.replace_trees(|trees| {
                if self.incarnation() != incarnation {
                    return Err(Error::NotReady("the storage was reopened during the copy".into()));
                }
                self.switch_to_copy(table, trees, &copy)
            })
        });
        table.changed.set(false);
        let lost = copy.lost.all();
        // A successor that is not in use has no other user.
        drop(copy);
        if copied.is_err() {
            self.remove_spare_trees(table.name());
        }
        if let Some(feed) = copied? {
            self.pump(table, feed)?;
        }
        Ok(lost)
    }

    fn copy_rows(&self, table: &Table, copy: &Copy) -> Result<()> {
        for number in 0..PARTITIONS {
            table.copy_partition(number as u8, copy)?;
            if table.changed.is_filling() {
                table.with_trees(|trees| table.copy_changed(trees, copy))?;
            }
        }
        for _ in 0..ROUNDS_MAX {
            if table.with_trees(|trees| table.copy_changed(trees, copy))? <= LAST_ROWS_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Finishes a copy while nobody reads or writes the table.
    fn switch_to_copy(
        &self,
        table: &Table,
        trees: &mut Trees,
        copy: &Copy,
    ) -> Result<Option<(Feed, Arc<Progress>)>> {
        // Publish earlier writes before later ones.
        if !trees.progress.wait_until_caught_up() {
            return Err(Error::NotReady("changes of the table still wait to be published".into()));
        }
        table.copy_changed(trees, copy)?;
        self.with_engine(|engine| {
            // Do this first: after a crash ranges may then be recorded as lost that are not, but never the other way round.
            table.lost.add(&engine.tree(META)?, table.name(), self.now_ms(), &copy.lost)?;
            engine.succeed(&[&copy.rows, &copy.chunks])
        })?;
        trees.rows = copy.rows.tree.clone();
        trees.chunks = copy.chunks.tree.clone();
        trees.progress = Arc::new(Progress::new());
        table.recount(trees, &copy.lost.all())?;
        // Earlier digests said that these rows were here.
        table.lost.raise_since(self.now_ms());
        // Last: a feed that nobody takes counts rows that nobody publishes.
        Ok(self.feed(table, trees))
    }
}

impl Copy {
    fn begin(engine: &Engine, name: &TableName) -> Result<Self> {
        let [rows, chunks] = trees_of(name);
        Ok(Self { rows: engine.successor(&rows)?, chunks: engine.successor(&chunks)?, lost: Gaps::default() })
    }
}
