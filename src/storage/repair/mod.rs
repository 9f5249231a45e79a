//! Repair of pages that cannot be read, by one thread, while everything else continues.
//!
//! Whoever meets such a page reports its table. The thread then reads the whole table to find the unreadable ranges. If there are any, it
//! copies everything readable into new trees, records the lost ranges (see `lost`) so that none of their keys is treated as absent, and
//! switches everybody to the copy. Other replicas restore the missing rows by comparison, like anything else that a replica lacks. The
//! damaged trees stay until then: reading the log can still save what is left on them.
//!
//! Index trees are rebuilt from the rows.

mod copy;
mod index;
pub(super) mod scrub;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tracing::{error, info, warn};

use super::{
    META, Store,
    engine::gaps::Gaps,
    table::jobs::RepairJob,
    table::{
        Table,
        trees::{CHUNKS, ROWS},
    },
};
use crate::{
    core::name::TableName,
    error::{Error, Result},
};

/// When failed work is retried.
const RETRY: Duration = Duration::from_secs(30);
/// Space that must stay free on the disk besides a copy.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;

impl Store {
    /// Works until it is told to stop.
    pub(super) fn run_repairs(&self, jobs: &Receiver<RepairJob>) {
        let mut postponed = BTreeSet::new();
        loop {
            let wait = if postponed.is_empty() { Duration::MAX } else { RETRY };
            match jobs.recv_timeout(wait) {
                Ok(RepairJob::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(job) => self.repair(job, &mut postponed),
                Err(RecvTimeoutError::Timeout) => {
                    for name in std::mem::take(&mut postponed) {
                        self.repair(RepairJob::Inspect(Some(name)), &mut postponed);
                    }
                }
            }
        }
    }

    /// Does a job. Adds tables that could not be copied to `postponed`.
    pub(super) fn repair(&self, job: RepairJob, postponed: &mut BTreeSet<TableName>) {
        if let Err(error) = self.renew_indexes() {
            error!(%error, "an index of garbage cannot be rebuilt yet");
        }
        let names: Vec<TableName> = match job {
            RepairJob::Inspect(name) => name.into_iter().collect(),
            RepairJob::InspectAll => self.read_tables().keys().cloned().collect(),
            RepairJob::RemoveUnusedTrees(name) => {
                self.remove_spare_trees(&name);
                return;
            }
            RepairJob::Stop => return,
        };
        for table in names.iter().filter_map(|name| self.table(name)) {
            // Report new damage again from now on.
            table.reported.store(false, Ordering::Release);
            if let Err(error) = self.repair_table(&table) {
                table.reported.store(true, Ordering::Release);
                error!(table = %table.name(), %error, "a damaged table cannot be copied; its readable rows are served");
                postponed.insert(table.name().clone());
            }
        }
    }

    /// Copies a table if some of it cannot be read.
    fn repair_table(&self, table: &Arc<Table>) -> Result<()> {
        if table.find_unreadable()?.is_empty() {
            // What was unreadable for a while can be read again.
            table.with_trees(|trees| {
                trees.rows.gaps().clear();
                trees.chunks.gaps().clear();
                Ok(())
            })?;
            return self.start_late_pump(table);
        }
        self.check_room()?;
        warn!(table = %table.name(), "a part of the table cannot be read; its readable rows are copied");
        let lost = self.copy_table(table)?;
        if lost.is_empty() && !table.lost.any() {
            info!(table = %table.name(), "the whole table was copied; nothing was lost");
            self.remove_spare_trees(table.name());
            return Ok(());
        }
        let ranges: Vec<String> = lost.iter().map(ToString::to_string).collect();
        error!(
            table = %table.name(),
            ranges = ranges.join(", "),
            "the keys of these ranges are lost here until another node restores them or they are written again"
        );
        Ok(())
    }

    /// Starts the pump of a table whose copy was in use already when no thread could be started. What was not published meanwhile is in the
    /// snapshots.
    fn start_late_pump(&self, table: &Arc<Table>) -> Result<()> {
        let feed = table.with_trees(|trees| Ok(self.feed(table, trees)))?;
        if let Some(feed) = feed {
            self.pump(table, feed)?;
            self.0.hub.renew(self.0.options.environment.fresh_epoch()?);
        }
        Ok(())
    }

    /// Removes the trees of a table that are not in use. Damaged ones stay while rows on them are lost.
    fn remove_spare_trees(&self, name: &TableName) {
        let Some(table) = self.table(name) else { return };
        let has_lost = table.lost.any();
        let removed = self.with_engine(|engine| {
            for tree in trees_of(name) {
                if has_lost { engine.remove_unfinished(&tree) } else { engine.remove_predecessors(&tree) }
            }
            Ok(())
        });
        if let Err(error) = removed {
            info!(table = %name, %error, "trees that are not in use stay until the next start");
        }
    }

    /// Asks the thread to remove the trees that a crash during a copy, or just after it, left behind.
    pub(super) fn remove_unused_trees(&self) -> Result<()> {
        for name in self.read_tables().keys() {
            if self.with_engine(|engine| Ok(trees_of(name).iter().any(|tree| engine.has_others(tree))))? {
                // The thread has started, or works when asked.
                let _ = self.0.context.repairs.send(RepairJob::RemoveUnusedTrees(name.clone()));
            }
        }
        Ok(())
    }

    /// Refuses a copy that might fill the disk: a full disk refuses every write.
    fn check_room(&self) -> Result<()> {
        let data = &self.0.options.data;
        let disk = rustix::fs::statvfs(data)
            .map_err(|e| Error::io("reading the free space of the disk", &e.into()))?;
        let (free, needed) = (disk.f_bavail.saturating_mul(disk.f_frsize), self.disk_bytes() + SPARE_BYTES);
        if free >= needed {
            return Ok(());
        }
        Err(Error::Io(format!("{} has {free} bytes free; a copy may need {needed}", data.display())))
    }

    /// Records that all rows of eventual tables were equal to those of a complete member at an instant: nothing lost before it is missing any
    /// more.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn restored(&self, at_ms: u64) -> Result<()> {
        self.restored_where(|table| !table.is_strong(), at_ms)
    }

    /// Like `restored`, for strong tables: their rows were equal to the leader's.
    ///
    /// # Errors
    /// As `restored`.
    pub fn restored_strong(&self, at_ms: u64) -> Result<()> {
        self.restored_where(Table::is_strong, at_ms)
    }

    fn restored_where(&self, is_meant: impl Fn(&Table) -> bool, at_ms: u64) -> Result<()> {
        let tables: Vec<_> = self
            .read_tables()
            .values()
            .filter(|table| table.lost.any() && is_meant(table))
            .cloned()
            .collect();
        for table in tables {
            if table.lost.restored(&self.meta()?, table.name(), at_ms)? {
                info!(table = %table.name(), "all lost rows of the table are restored");
                let _ = self.0.context.repairs.send(RepairJob::RemoveUnusedTrees(table.name().clone()));
            }
        }
        Ok(())
    }

    /// When the last rows of eventual tables that are still lost were lost, in Unix milliseconds; 0 if there are none.
    pub fn lost_ms(&self) -> u64 {
        let tables = self.read_tables();
        tables
            .values()
            .filter(|table| !table.is_strong())
            .map(|table| table.lost.since_ms())
            .max()
            .unwrap_or(0)
    }

    /// Whether rows of strong tables are lost, or cannot be read.
    pub fn has_unreadable_strong(&self) -> bool {
        !self.0.context.strong.is_empty()
            && self.read_tables().values().any(|table| table.is_strong() && table.has_unreadable())
    }

    /// Asks the thread to check the trees beside the tables.
    pub(super) fn report_damage(&self) {
        // The thread may be gone while the store closes.
        let _ = self.0.context.repairs.send(RepairJob::Inspect(None));
    }

    /// Number of key ranges that cannot be read, or were lost and not restored.
    pub fn unreadable_ranges(&self) -> u64 {
        self.read_tables().values().map(|table| table.unreadable_ranges() as u64).sum()
    }

    /// Like `unreadable_ranges`, for one table.
    pub fn unreadable_ranges_of(&self, name: &TableName) -> u64 {
        self.table(name).map_or(0, |table| table.unreadable_ranges() as u64)
    }

    /// Whether a key is where rows were lost or cannot be read.
    pub(super) fn may_be_unreadable(&self, name: &TableName, key: &crate::core::name::Key) -> bool {
        let row = super::table::row::row_of(key);
        self.table(name).is_some_and(|table| {
            let is_damaged = table.with_trees(|trees| Ok(trees.rows.gaps().covering(&row).is_some()));
            table.lost.covers(&row) || is_damaged.unwrap_or(true)
        })
    }

    /// Whether a key is in a lost range, so that nobody can say whether it is absent.
    pub fn is_unknown(&self, name: &TableName, key: &crate::core::name::Key) -> bool {
        let row = super::table::row::row_of(key);
        self.table(name).is_some_and(|table| {
            table.lost.covers(&row)
                && table.with_trees(|trees| trees.rows.get(&row)).is_ok_and(|row| row.is_none())
        })
    }
}

/// The names of a table's trees.
fn trees_of(name: &TableName) -> [String; 2] {
    [format!("{ROWS}{name}"), format!("{CHUNKS}{name}")]
}

#[cfg(test)]
mod tests;
