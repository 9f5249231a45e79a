//! Rebuilds a store that no node has open into a fresh one: sled gives no space back after deletes, and rows written before
//! their table had a dictionary, or values that have changed since, compress better with a new one.
//!
//! The old directory is touched only when the new one is complete and on disk; then the two change places by renames. Cut
//! short between those, the next open finds the old one under its other name and takes it back.

use std::{fs, path::Path};

use super::{
    META, WallClock, check,
    codec::Samples,
    engine::{self, Engine},
    open,
    row::key_of,
    table::Table,
    trees::ROWS,
};
use crate::{
    core::{
        name::TableName,
        register::{Payload, Register},
    },
    error::{Error, Result},
};

const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Rows between two syncs: bounds what the engine holds back in memory.
const SYNC_ROWS: u64 = 10_000;

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Rows, tombstones included.
    pub rows: u64,
    /// Bytes of the directory before.
    pub bytes_before: u64,
    /// Bytes of the directory now.
    pub bytes_after: u64,
}

/// Compacts the store in `data`; calls `progress` with the number of rows copied so far. Needs as much room as the new store
/// takes, beside the old one.
///
/// # Errors
/// `StorageInUse`, `StorageUnusable`, `StorageDamaged`, `Corrupt` where a record is damaged, `StorageFull`; the store is then as
/// it was.
pub fn compact(data: &Path, now_ms: &WallClock, mut progress: impl FnMut(u64)) -> Result<Compacted> {
    let _lock = check::lock_existing(data)?;
    let old = open::engine(data, CACHE_BYTES)?;
    let target = open::beside(data, "compacting");
    // What compactions left that were cut short. The store opened, so it is whole, whichever of the two it is.
    remove(&target)?;
    remove(&open::before_compaction(data))?;
    let new = open::engine(&target, CACHE_BYTES)?;
    let mut compacted = Compacted { rows: 0, bytes_before: old.disk_bytes(), bytes_after: 0 };
    copy_meta(&old, &new)?;
    for name in old.tree_names(ROWS) {
        let name = TableName::parse(&name)?;
        let source = check::open_unwatched(&old, name.clone(), now_ms)?;
        let target = check::open_unwatched(&new, name, now_ms)?;
        train(&source, &target, &new)?;
        let rows = source.with_trees(|trees| Ok(trees.rows.range(&[], None)))?;
        for item in rows {
            let (row, bytes) = item?;
            source.verify(&row, &bytes)?;
            let Some((head, payload)) = source.read_change(&row, &bytes)? else { continue };
            target.merge(&key_of(&row)?, |_| Ok(Register::new(payload, head.marker.timestamp)))?;
            compacted.rows += 1;
            if compacted.rows.is_multiple_of(SYNC_ROWS) {
                new.sync()?;
                progress(compacted.rows);
            }
        }
    }
    new.sync()?;
    drop((old, new));
    swap(data, &target)?;
    compacted.bytes_after = engine::disk_bytes(data);
    Ok(compacted)
}

/// What the store says of its node. Dictionaries stay behind: the new store trains its own.
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

/// A dictionary from the first rows: partitions are by hash, so these are any rows.
fn train(source: &Table, target: &Table, new: &Engine) -> Result<()> {
    let mut samples = Samples::default();
    let rows = source.with_trees(|trees| Ok(trees.rows.range(&[], None)))?;
    for item in rows {
        let (row, bytes) = item?;
        if let Some((_, Payload::Live { value, .. })) = source.read_change(&row, &bytes)?
            && samples.add(value.as_str().as_bytes())
        {
            let meta = new.tree(META)?;
            let keep = |number, bytes: &[u8]| open::write_dictionary(&meta, target.name(), number, bytes);
            return match target.train(&samples, keep) {
                // Values that have nothing in common: they are compressed one by one.
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

/// Removes a directory, if it is there.
fn remove(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory).map_err(|e| Error::io(format_args!("removing {}", directory.display()), &e))
}
