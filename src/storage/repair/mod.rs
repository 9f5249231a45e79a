//! What is done about pages that cannot be read, by one thread, while everything else goes on.
//!
//! Somebody who meets such a page reports its table. All of that is read then, to know which ranges cannot be. If there are any, the
//! table is copied into new trees, with all that can be read; its lost ranges are kept account of (see `lost`), so that none of
//! their keys is taken for absent, and everybody reads and writes the copy. What is missing there, other replicas give back by
//! comparison, as anything that one of them lacks. The damaged trees stay until that is done: what is left on them can be had
//! by who reads the log.
//!
//! The trees that say what is due when are made anew from the rows.

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

/// When what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Room that is left on the disk beside a copy.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;

impl Store {
    /// Works until told to stop.
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

    /// Does a chore. Tables that could not be copied are left to be tried again.
    pub(super) fn repair(&self, job: RepairJob, postponed: &mut BTreeSet<TableName>) {
        if let Err(error) = self.renew_indexes() {
            error!(%error, "what is due when cannot be made anew yet");
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
            // Whatever is met from now on is to be looked at again.
            table.reported.store(false, Ordering::Release);
            if let Err(error) = self.repair_table(&table) {
                table.reported.store(true, Ordering::Release);
                error!(table = %table.name(), %error, "a damaged table cannot be copied; what can be read of it is served");
                postponed.insert(table.name().clone());
            }
        }
    }

    /// Copies a table if some of it cannot be read.
    fn repair_table(&self, table: &Arc<Table>) -> Result<()> {
        if table.find_unreadable()?.is_empty() {
            // What could not be read for a while can be.
            return table.with_trees(|trees| {
                trees.rows.gaps().clear();
                trees.chunks.gaps().clear();
                Ok(())
            });
        }
        self.check_room()?;
        warn!(table = %table.name(), "a part of the table cannot be read: copying what can be");
        let lost = self.copy_table(table)?;
        if lost.is_empty() && !table.lost.any() {
            info!(table = %table.name(), "all of the table was copied: nothing was lost");
            self.remove_spare_trees(table.name());
            return Ok(());
        }
        let ranges: Vec<String> = lost.iter().map(ToString::to_string).collect();
        error!(
            table = %table.name(),
            ranges = ranges.join(", "),
            "keys of these ranges are lost here, until another node gives them back or they are written again"
        );
        Ok(())
    }

    /// Removes the trees of a table that are not in use; but those that were damaged stay as long as something is lost that is on them.
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

    /// Has the trees removed that a crash left in the middle of a copy, or at its end.
    pub(super) fn remove_unused_trees(&self) -> Result<()> {
        for name in self.read_tables().keys() {
            if self.with_engine(|engine| Ok(trees_of(name).iter().any(|tree| engine.has_others(tree))))? {
                // Whoever works through them has begun, or will when asked.
                let _ = self.0.context.repairs.send(RepairJob::RemoveUnusedTrees(name.clone()));
            }
        }
        Ok(())
    }

    /// Refuses a copy that the disk may not take: one that is full refuses every write.
    fn check_room(&self) -> Result<()> {
        let data = &self.0.options.data;
        let disk =
            rustix::fs::statvfs(data).map_err(|e| Error::io("asking for the room on the disk", &e.into()))?;
        let (free, needed) = (disk.f_bavail.saturating_mul(disk.f_frsize), self.disk_bytes() + SPARE_BYTES);
        if free >= needed {
            return Ok(());
        }
        Err(Error::Io(format!("{} has {free} bytes free, a copy may need {needed}", data.display())))
    }

    /// Notes that all rows were as a member has them that holds everything, at an instant: nothing that was lost before is missing.
    ///
    /// # Errors
    /// `NotReady` while the storage is being opened again.
    pub fn restored(&self, at_ms: u64) -> Result<()> {
        let tables: Vec<_> = self.read_tables().values().filter(|table| table.lost.any()).cloned().collect();
        for table in tables {
            if table.lost.restored(&self.meta()?, table.name(), at_ms)? {
                info!(table = %table.name(), "all that was lost of the table is here again");
                let _ = self.0.context.repairs.send(RepairJob::RemoveUnusedTrees(table.name().clone()));
            }
        }
        Ok(())
    }

    /// When the last rows were lost that were not given back, in Unix milliseconds; 0 where none are.
    pub fn lost_ms(&self) -> u64 {
        self.read_tables().values().map(|table| table.lost.since_ms()).max().unwrap_or(0)
    }

    /// Has somebody find out what of the trees beside the tables cannot be read.
    pub(super) fn report_damage(&self) {
        // The thread may be gone at the end.
        let _ = self.0.context.repairs.send(RepairJob::Inspect(None));
    }

    /// How many ranges of keys cannot be read, or were lost and not given back.
    pub fn unreadable_ranges(&self) -> u64 {
        self.read_tables().values().map(|table| table.unreadable_ranges() as u64).sum()
    }

    /// As `unreadable_ranges`, of one table.
    pub fn unreadable_ranges_of(&self, name: &TableName) -> u64 {
        self.table(name).map_or(0, |table| table.unreadable_ranges() as u64)
    }

    /// Whether a key lies where rows were lost or cannot be read.
    pub(super) fn may_be_unreadable(&self, name: &TableName, key: &crate::core::name::Key) -> bool {
        let row = super::table::row::row_of(key);
        self.table(name).is_some_and(|table| {
            let is_damaged = table.with_trees(|trees| Ok(trees.rows.gaps().covering(&row).is_some()));
            table.lost.covers(&row) || is_damaged.unwrap_or(true)
        })
    }

    /// Whether a key lies where rows were lost, so that nobody can say whether it is absent.
    pub fn is_unknown(&self, name: &TableName, key: &crate::core::name::Key) -> bool {
        let row = super::table::row::row_of(key);
        self.table(name).is_some_and(|table| {
            table.lost.covers(&row)
                && table.with_trees(|trees| trees.rows.get(&row)).is_ok_and(|row| row.is_none())
        })
    }
}

/// The names of the trees of a table.
fn trees_of(name: &TableName) -> [String; 2] {
    [format!("{ROWS}{name}"), format!("{CHUNKS}{name}")]
}

#[cfg(test)]
mod tests;
