//! A backup that was written, durably, and has no name of its own yet: whoever made it may read it first.

use std::path::{Path, PathBuf};

use super::{read, seal::DataKey, write::Written};
use crate::{
    error::Result,
    storage::{
        open,
        unfinished::{self, Unfinished},
    },
};

/// What the name of a backup that is not complete ends with.
pub const PARTIAL: &str = "partial";

/// A backup that is complete, under its temporary name. Removed if it is dropped.
pub struct Complete {
    pub(super) path: PathBuf,
    pub(super) unfinished: Unfinished,
    pub(super) key: Option<DataKey>,
    pub(super) written: Written,
}

impl Complete {
    /// Where it is now.
    pub fn directory(&self) -> &Path {
        self.unfinished.path()
    }

    /// Its data key, if it is encrypted: whoever made it needs no secret to read it, nor to have it as a base.
    pub fn key(&self) -> Option<&DataKey> {
        self.key.as_ref()
    }

    /// Reads it to its end.
    ///
    /// # Errors
    /// `StorageDamaged`, `Io`.
    pub fn check(&self) -> Result<()> {
        let backup = read::check(self.directory())?.open_with(self.key.clone())?;
        backup.read_all(|_, _, _| Ok(())).map(drop)
    }

    /// Gives it its name, durably.
    ///
    /// # Errors
    /// `StorageUnusable` if the directory exists by now; `Io`.
    pub fn publish(self) -> Result<Written> {
        self.unfinished.publish(&self.path)?;
        Ok(self.written)
    }
}

/// The name of a backup that is not complete.
pub fn partial_path(path: &Path) -> PathBuf {
    open::sibling_path(path, PARTIAL)
}

/// Removes a backup that a crash left incomplete. Returns false if a process is writing it just now.
///
/// # Errors
/// `Io`.
pub fn remove_partial(path: &Path) -> Result<bool> {
    unfinished::remove_left(path)
}
