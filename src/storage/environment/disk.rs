//! Writing and syncing the files of a log, as the system does it. A simulation has a disk of its own: one whose syncs take simulated time,
//! and that loses what was not synced when its node crashes.

use std::{fmt::Debug, fs::File, io, os::unix::fs::FileExt};

use futures_util::{FutureExt, future::BoxFuture};

/// A disk, as the log of the strong tables appends to its files.
pub trait Disk: Debug + Send + Sync {
    /// Writes all of `bytes` at this place of a file, or a part of them and fails. Until the file is synced, a crash may undo it.
    ///
    /// # Errors
    /// That of the system.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes what was written to a file durable.
    ///
    /// # Errors
    /// That of the system.
    fn sync<'a>(&'a self, file: &'a File) -> BoxFuture<'a, io::Result<()>>;
}

/// The system's disks.
#[derive(Debug)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync<'a>(&'a self, file: &'a File) -> BoxFuture<'a, io::Result<()>> {
        // Done when it returns. Whoever may not block has a thread for it.
        std::future::ready(file.sync_data()).boxed()
    }
}
