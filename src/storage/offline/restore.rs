//! `DynaRust restore`: makes a store of a backup.
//!
//! As the node it was: with its id, its cluster, and up to when it held the same rows as the others. So members of a living cluster can prove to
//! it what was deleted since (`core::protocol::agreement`). It is marked like a salvaged store, as it lacks what was written since the backup,
//! and is syncing until it has held what the others hold.
//!
//! Or as the first node of a new cluster, with rows and the modes of tables only.
//!
//! The log of the strong tables is in no backup: a member that has forgotten what it promised must not vote. So the store says that it was
//! restored, and the group takes the node in anew (`replication::strong::restored`).

use std::path::Path;

use super::{
    check,
    compact::{CACHE_BYTES, SYNC_ROWS},
};
use crate::{
    core::{
        clock::last_reading,
        hex::from_hex,
        name::{Key, TableName},
        register::{Payload, Register},
    },
    error::{Error, Result},
    storage::{
        META, WallClock,
        backup::{content::altered, line::Mode, read::Backup},
        engine::{Engine, agreement_file, meta, notes, suspected_loss},
        open,
        table::{Table, codec::Samples, mode},
        unfinished::Unfinished,
    },
};

/// Bytes of rows that wait until there are enough to train a dictionary.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Who the store is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The node that was backed up.
    Same,
    /// A new node, the first one of a new cluster.
    NewCluster,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Rows with a value.
    pub live: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Whether there are strong tables.
    pub has_strong: bool,
}

/// Restores a backup to `data`, which must not exist yet. Every row, count and root is checked on the way. Calls `progress` with the number of rows
/// written.
///
/// # Errors
/// `StorageUnusable` if `data` exists; `StorageDamaged` if the backup is damaged; `StorageFull`, `Io`. Then `data` does not exist.
pub fn restore(
    backup: &Backup,
    data: &Path,
    identity: Identity,
    now_ms: &WallClock,
    progress: impl FnMut(u64),
) -> Result<Restored> {
    if data.symlink_metadata().is_ok() {
        return Err(Error::StorageUnusable(format!(
            "{} exists already; name a directory that does not exist, on a disk with room",
            data.display()
        )));
    }
    let target = Unfinished::create(open::sibling_path(data, "restoring"))?;
    let restored = write(backup, target.path(), identity, now_ms, progress)?;
    target.publish(data)?;
    Ok(restored)
}

fn write(
    backup: &Backup,
    target: &Path,
    identity: Identity,
    now_ms: &WallClock,
    progress: impl FnMut(u64),
) -> Result<Restored> {
    let engine = open::engine(target, CACHE_BYTES)?;
    write_records(backup, &engine, identity)?;
    let agreement = match identity {
        Identity::Same => from_hex(&backup.summary.agreement)
            .ok_or_else(|| altered(backup.path(), "its agreement cannot be read"))?,
        Identity::NewCluster => Vec::new(),
    };
    let mut rows = Rows {
        engine: &engine,
        reached_ms: agreement_file::reached_ms(&agreement),
        now_ms,
        table: None,
        waiting: Vec::new(),
        waiting_bytes: 0,
        count: 0,
        progress,
    };
    let contents = backup.read_all(|table, key, register| rows.add(table, key, register))?;
    rows.finish()?;
    drop(rows.table);
    // No timestamp may be issued twice: the node went on after the backup.
    let latest = contents.latest.map_or(0, |latest| latest.hlc.saturating_add(1));
    meta::raise_clock_bound(&engine.tree(META)?, latest.max(last_reading(now_ms())))?;
    engine.close(None)?;
    if identity == Identity::Same {
        suspected_loss::write(
            target,
            &format!(
                "the node was restored from the backup {} of {}: what was written since is missing, and keys that were deleted since may be back",
                backup.id, backup.manifest.made
            ),
        )?;
        if !agreement.is_empty() {
            agreement_file::restore(target, &agreement)?;
        }
    }
    let has_strong = backup.summary.tables.iter().any(|table| table.mode == Mode::Strong);
    Ok(Restored { live: contents.live, tombstones: contents.tombstones, has_strong })
}

/// Writes the node's records, or those that a new node needs: which tables are strong.
fn write_records(backup: &Backup, engine: &Engine, identity: Identity) -> Result<()> {
    let meta = engine.tree(META)?;
    for (key, value) in &backup.summary.records {
        let record = from_hex(key).zip(from_hex(value));
        let (key, value) =
            record.ok_or_else(|| altered(backup.path(), "a record of the node cannot be read"))?;
        let is_kept = match identity {
            Identity::Same => true,
            Identity::NewCluster => {
                [mode::NOTE, mode::SWEPT_NOTE].iter().any(|note| notes::is_piece_of(&key, note))
            }
        };
        if is_kept {
            meta.insert(&key, &value)?;
        }
    }
    if identity == Identity::Same {
        // Even if it takes part in no group that it knows of: it may have since.
        let (key, note) = notes::record(mode::RESTORED_NOTE, &[1]);
        meta.insert(&key, &note)?;
    }
    Ok(())
}

/// The rows on their way into the new store.
struct Rows<'a, P> {
    engine: &'a Engine,
    reached_ms: u64,
    now_ms: &'a WallClock,
    table: Option<Table>,
    /// The first rows of the table: its dictionary is trained from them.
    waiting: Vec<(Key, Register)>,
    waiting_bytes: usize,
    count: u64,
    progress: P,
}

impl<P: FnMut(u64)> Rows<'_, P> {
    fn add(&mut self, name: &TableName, key: &Key, register: Register) -> Result<()> {
        if self.table.as_ref().is_none_or(|table| table.name() != name) {
            self.finish()?;
            let table = check::open_target(self.engine, name.clone(), self.reached_ms, self.now_ms)?;
            self.table = Some(table);
            self.waiting_bytes = 1;
        }
        if self.waiting_bytes == 0 {
            return self.merge(key, register);
        }
        let value =
            if let Payload::Live { value, .. } = register.payload() { value.as_str().len() } else { 0 };
        self.waiting_bytes += key.as_str().len() + value;
        self.waiting.push((key.clone(), register));
        if self.waiting_bytes >= WAITING_BYTES_MAX { self.finish() } else { Ok(()) }
    }

    /// Merges the rows that wait, after they have trained the dictionary.
    fn finish(&mut self) -> Result<()> {
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let Some(table) = &self.table else { return Ok(()) };
        let mut samples = Samples::default();
        let is_enough = waiting.iter().any(|(_, register)| match register.payload() {
            Payload::Live { value, .. } => samples.add(value.as_str().as_bytes()),
            Payload::Deleted => false,
        });
        if is_enough {
            let meta = self.engine.tree(META)?;
            let keep = |number, bytes: &[u8]| open::write_dictionary(&meta, table.name(), number, bytes);
            match table.train(&samples, keep) {
                // The values have nothing in common: they are compressed one by one.
                Ok(()) | Err(Error::Io(_)) => {}
                Err(error) => return Err(error),
            }
        }
        waiting.into_iter().try_for_each(|(key, register)| self.merge(&key, register))
    }

    fn merge(&mut self, key: &Key, register: Register) -> Result<()> {
        let table = self.table.as_ref().expect("rows are added to the table that was opened for them");
        table.merge(key, |_| Ok(register))?;
        self.count += 1;
        if self.count.is_multiple_of(SYNC_ROWS) {
            self.engine.sync()?;
            (self.progress)(self.count);
        }
        Ok(())
    }
}
