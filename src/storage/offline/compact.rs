//! `DynaRust compact`: rebuilds a store that no node has open. sled gives no space back after deletes, and rows written before their table
//! had a dictionary, or values that have changed since, compress better with a new one.
//!
//! The old directory is touched only when the new one is complete and on disk; then two renames swap them. If the swap is interrupted, the
//! next open finds the old directory under its other name and moves it back.
//!
//! A damaged store is not simply compacted: the new one would look complete. If the user accepts the loss, the new store gets what
//! `salvage` can read, and is marked as incomplete.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use super::{
    check,
    salvage::{self, Salvaged},
};
use crate::{
    core::{
        clock::Timestamp,
        name::TableName,
        register::{Payload, Register},
    },
    error::{Error, Result},
    storage::{
        META, WallClock,
        engine::{self, Engine, agreement_file, panics, suspected_loss},
        open::{self, examine},
        table::{
            Table,
            codec::Samples,
            due_index,
            mode::{RAFT_LOG, SALVAGED_LOG},
            record::Head,
            row::key_of,
            trees::ROWS,
        },
    },
};

pub(in crate::storage) const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Rows between two syncs: limits what the engine holds in memory.
pub(in crate::storage) const SYNC_ROWS: u64 = 10_000;

/// The result of a compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Rows, tombstones included.
    pub rows: u64,
    /// Bytes of the directory before.
    pub bytes_before: u64,
    /// Bytes of the directory after.
    pub bytes_after: u64,
    /// What was lost, if the store was damaged and the loss accepted.
    pub salvaged: Option<Salvaged>,
}

/// Compacts the store in `data`; calls `progress` with the number of rows copied. Needs free space for the new store, and twice that if the
/// old store is damaged and `accept_loss` is set.
///
/// # Errors
/// `StorageInUse`, `StorageUnusable`, `StorageDamaged`, `Corrupt` for a damaged record, `StorageFull`; the store is then unchanged.
pub fn compact(
    data: &Path,
    now_ms: &WallClock,
    accept_loss: bool,
    mut progress: impl FnMut(u64),
) -> Result<Compacted> {
    let _lock = check::lock_existing(data)?;
    let target = open::sibling_path(data, "compacting");
    // Leftovers of interrupted compactions; the lock has already moved the old store back if that was needed.
    remove(&target)?;
    let bytes_before = engine::disk_bytes(data);
    let rebuilt = match examine::find_damage(data)? {
        Some(why) => Err(Error::StorageDamaged(why)),
        None => rebuild_caught(data, &target, now_ms, &mut progress),
    };
    let (rows, salvaged) = match rebuilt {
        Ok(rows) => (rows, None),
        Err(Error::StorageDamaged(_) | Error::Corrupt(_)) if accept_loss => {
            remove(&target)?;
            let salvaged = salvage::salvage_locked(data, &target, now_ms, |step| {
                if let salvage::Step::Written(rows) = step {
                    progress(rows);
                }
            })?;
            (salvaged.rows(), Some(salvaged))
        }
        Err(error) => {
            remove(&target)?;
            return Err(refused(error));
        }
    };
    remove(&open::before_compaction(data))?;
    swap(data, &target)?;
    Ok(Compacted { rows, bytes_before, bytes_after: engine::disk_bytes(data), salvaged })
}

/// Adds what to do about a store that is not compacted because it is damaged.
fn refused(error: Error) -> Error {
    let remedy = "Nothing was changed. DynaRust compact --accept-loss keeps what can be read and says what is lost; so does \
                  DynaRust salvage, into another directory";
    match error {
        Error::StorageDamaged(why) => Error::StorageDamaged(format!("{why}. {remedy}")),
        Error::Corrupt(what) => Error::StorageDamaged(format!("damaged bytes on disk: {what}. {remedy}")),
        other => other,
    }
}

fn rebuild_caught(
    data: &Path,
    target: &Path,
    now_ms: &WallClock,
    progress: &mut impl FnMut(u64),
) -> Result<u64> {
    panics::caught(|| rebuild(data, target, now_ms, progress)).unwrap_or_else(|said| {
        Err(Error::StorageDamaged(format!("{}: sled panicked: {said}", data.display())))
    })
}

/// Builds a new store in `target` from the one in `data`, a suspected loss included. Returns the number of rows.
fn rebuild(data: &Path, target: &Path, now_ms: &WallClock, progress: &mut impl FnMut(u64)) -> Result<u64> {
    let old = open::engine(data, CACHE_BYTES)?;
    examine::check_end(data, &old)?;
    let reached_ms = reached_ms(data)?;
    let mut copy = Copy::start(&old, reached_ms, target, now_ms, progress)?;
    for name in old.tree_names(ROWS) {
        copy.table(&TableName::parse(&name)?, &mut |error| Err(error))?;
    }
    let rows = copy.finish()?;
    suspected_loss::copy(data, target)?;
    agreement_file::copy(data, target)?;
    copy_log(&data.join(RAFT_LOG), &target.join(RAFT_LOG))?;
    copy_log(&data.join(SALVAGED_LOG), &target.join(SALVAGED_LOG))?;
    Ok(rows)
}

/// Up to when the node of a store may have announced that all members have everything (Unix milliseconds).
pub(super) fn reached_ms(data: &Path) -> Result<u64> {
    Ok(agreement_file::bytes(data)?.map_or(0, |bytes| agreement_file::reached_ms(&bytes)))
}

/// Copies the log of the strong tables, if there is one. Durable on return.
pub(super) fn copy_log(from: &Path, to: &Path) -> Result<()> {
    let copied = || -> io::Result<()> {
        fs::create_dir(to)?;
        for file in fs::read_dir(from)? {
            let name = file?.file_name();
            fs::copy(from.join(&name), to.join(&name))?;
            File::open(to.join(&name))?.sync_all()?;
        }
        File::open(to)?.sync_all()
    };
    if !from.is_dir() {
        return Ok(());
    }
    copied().map_err(|e| Error::io(format_args!("copying {} to {}", from.display(), to.display()), &e))
}

/// The copy of a store into a new one, row by row.
pub(in crate::storage) struct Copy<'a, P> {
    old: &'a Engine,
    reached_ms: u64,
    new: Engine,
    now_ms: &'a WallClock,
    progress: P,
    rows: u64,
    /// The latest timestamp of all rows.
    pub(in crate::storage) latest: Option<Timestamp>,
}

impl<'a, P: FnMut(u64)> Copy<'a, P> {
    /// Makes the new store and copies the node's records. `reached_ms`: that of the old store.
    pub(in crate::storage) fn start(
        old: &'a Engine,
        reached_ms: u64,
        target: &Path,
        now_ms: &'a WallClock,
        progress: P,
    ) -> Result<Self> {
        let new = open::engine(target, CACHE_BYTES)?;
        copy_meta(old, &new)?;
        Ok(Self { old, reached_ms, new, now_ms, progress, rows: 0, latest: None })
    }

    /// Copies a table; `damaged` decides about each unreadable row.
    pub(in crate::storage) fn table(
        &mut self,
        name: &TableName,
        damaged: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<u64> {
        let source = check::open_unwatched(self.old, name.clone(), self.now_ms)?;
        let target = check::open_target(&self.new, name.clone(), self.reached_ms, self.now_ms)?;
        train(&source, &target, &self.new)?;
        let before = self.rows;
        for item in source.with_trees(|trees| Ok(trees.rows.range(&[], None)))? {
            let (row, bytes) = item?;
            let read = source.verify(&row, &bytes).and_then(|_| source.read_change(&row, &bytes));
            let (head, payload) = match read {
                Ok(Some(change)) => change,
                Ok(None) => {
                    damaged(source.missing_chunk(&row))?;
                    continue;
                }
                Err(error @ Error::Corrupt(_)) => {
                    damaged(error)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let timestamp = head.marker.timestamp;
            target.merge(&key_of(&row)?, |_| Ok(Register::new(payload, timestamp)))?;
            keep_due(&source, &target, &row, &head)?;
            self.latest = self.latest.max(Some(timestamp));
            self.rows += 1;
            if self.rows.is_multiple_of(SYNC_ROWS) {
                self.new.sync()?;
                (self.progress)(self.rows);
            }
        }
        Ok(self.rows - before)
    }

    /// The new store.
    pub(in crate::storage) fn new_store(&self) -> &Engine {
        &self.new
    }

    /// Makes the new store durable and closes it. Returns the number of rows.
    pub(in crate::storage) fn finish(self) -> Result<u64> {
        self.new.close(None)?;
        Ok(self.rows)
    }
}

/// Has a tombstone be removed when other members remove theirs, if the old store knows that it did not come late.
fn keep_due(source: &Table, target: &Table, row: &[u8], head: &Head) -> Result<()> {
    if head.live {
        return Ok(());
    }
    let entry = due_index::entry(head.marker.timestamp.unix_ms(), source.name(), row);
    match source.with_trees(|trees| trees.tombstones.get(&entry)) {
        Ok(Some(value)) if value.is_empty() => {
            target.with_trees(|trees| trees.tombstones.insert(&entry, &[]))
        }
        // Nobody can tell.
        Ok(_) | Err(Error::Corrupt(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Copies the node's records. Dictionaries are left out: the new store trains its own.
fn copy_meta(old: &Engine, new: &Engine) -> Result<()> {
    let target = new.tree(META)?;
    for item in old.tree(META)?.range(&[], None) {
        let (key, value) = item?;
        if !key.starts_with(open::DICTIONARY_PREFIX.as_bytes()) {
            target.insert(&key, &value)?;
        }
    }
    Ok(())
}

/// Trains a dictionary from the first rows: partitions are by hash, so these are random rows.
fn train(source: &Table, target: &Table, new: &Engine) -> Result<()> {
    let mut samples = Samples::default();
    let rows = source.with_trees(|trees| Ok(trees.rows.range(&[], None)))?;
    for item in rows {
        let (row, bytes) = item?;
        // The copy handles damaged rows.
        let Ok(Some((_, Payload::Live { value, .. }))) = source.read_change(&row, &bytes) else { continue };
        if samples.add(value.as_str().as_bytes()) {
            let meta = new.tree(META)?;
            let keep = |number, bytes: &[u8]| open::write_dictionary(&meta, target.name(), number, bytes);
            return match target.train(&samples, keep) {
                // The values have nothing in common: they are compressed one by one.
                Err(Error::Io(_)) => Ok(()),
                other => other,
            };
        }
    }
    Ok(())
}

fn swap(data: &Path, target: &Path) -> Result<()> {
    let before = open::before_compaction(data);
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to)
            .map_err(|e| Error::io(format_args!("renaming {} to {}", from.display(), to.display()), &e))
    };
    rename(data, &before)?;
    if let Err(error) = rename(target, data) {
        rename(&before, data)?;
        return Err(error);
    }
    engine::sync_directory(&engine::parent(data))?;
    remove(&before)
}

/// Removes a directory, if it exists.
pub(in crate::storage) fn remove(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory).map_err(|e| Error::io(format_args!("removing {}", directory.display()), &e))
}
