//! A directory that is being made under a temporary name: a backup, or a store that is restored. It gets its own name once it is complete and
//! durable, so a crash leaves nothing that looks like one. What a crash left is removed by whoever makes a directory of that name next.
//!
//! Two that make the same directory keep out of each other's way by a lock on it. The system gives the lock back when the process ends.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::engine;
use crate::error::{Error, Result};

/// The directory. Removed with all that is in it if it is dropped before it is published.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    /// Keeps others out.
    lock: File,
    is_published: bool,
}

impl Unfinished {
    /// Makes the directory, empty. What a crash left there is removed.
    ///
    /// # Errors
    /// `Conflict` if another process is making it; `StorageFull`, `Io`.
    pub fn create(path: PathBuf) -> Result<Self> {
        if !remove_left(&path)? {
            return Err(is_taken(&path));
        }
        let failed = |e| Error::io(format_args!("creating {}", path.display()), &e);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(is_taken(&path)),
            made => made.map_err(failed)?,
        }
        // Another process may take what was just made for what a crash has left, until it is locked.
        match lock(&path).map_err(failed)? {
            Some(lock) if is_at(&lock, &path) => Ok(Self { path, lock, is_published: false }),
            Some(_) | None => Err(is_taken(&path)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its own name, durably. What is in it must be durable already.
    ///
    /// # Errors
    /// `StorageUnusable` if there is something of that name; `Io`.
    pub fn publish(mut self, name: &Path) -> Result<()> {
        if fs::symlink_metadata(name).is_ok() {
            return Err(Error::StorageUnusable(format!(
                "{} was made by somebody else meanwhile, and is not overwritten",
                name.display()
            )));
        }
        fs::rename(&self.path, name).map_err(|e| {
            Error::io(format_args!("renaming {} to {}", self.path.display(), name.display()), &e)
        })?;
        self.is_published = true;
        engine::sync_directory(&engine::parent(name))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_published && is_at(&self.lock, &self.path) {
            // What cannot be removed is removed by whoever makes a directory of that name next.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes a directory in one that exists.
///
/// # Errors
/// `StorageFull`, `Io`.
pub fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir(path).map_err(|e| Error::io(format_args!("creating {}", path.display()), &e))
}

/// Removes a directory that a crash left. Returns false if a process is making it just now.
///
/// # Errors
/// `StorageUnusable` if it is something else than a directory; `Io`.
pub fn remove_left(path: &Path) -> Result<bool> {
    let failed = |e| Error::io(format_args!("removing {}", path.display()), &e);
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(true),
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            let why = format!("{} is in the way, and is not a directory: remove it", path.display());
            return Err(Error::StorageUnusable(why));
        }
    }
    let Some(lock) = lock(path).map_err(failed)? else { return Ok(false) };
    if !is_at(&lock, path) {
        return Ok(false);
    }
    fs::remove_dir_all(path).map_err(failed)?;
    Ok(true)
}

/// The lock of a directory; `None` if another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let directory = match File::open(path) {
        Ok(directory) => directory,
        // Whoever made it has removed it again.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match directory.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        // On a file system without locks nobody holds one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(directory)),
    }
}

/// Whether an open directory is the one that has this name now.
fn is_at(directory: &File, path: &Path) -> bool {
    let number = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (directory.metadata().map(number), fs::symlink_metadata(path).map(number));
    matches!((open, named), (Ok(open), Ok(named)) if open == named)
}

fn is_taken(path: &Path) -> Error {
    Error::Conflict(format!(
        "another process is writing {}: wait for its end, or name another one",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_makes_a_directory_and_what_is_not_published_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, name) = (directory.path().join("a.partial"), directory.path().join("a"));
        let first = Unfinished::create(path.clone()).expect("makes it");
        fs::write(path.join("file"), b"1").expect("writes");
        assert!(matches!(Unfinished::create(path.clone()), Err(Error::Conflict(_))));
        assert_eq!(remove_left(&path), Ok(false));
        assert!(path.join("file").exists(), "it is not the other's to remove");
        drop(first);
        assert!(!path.exists());
        // What a crash left.
        fs::create_dir(&path).expect("makes");
        fs::write(path.join("left"), b"1").expect("writes");
        let second = Unfinished::create(path.clone()).expect("makes it");
        assert!(!path.join("left").exists());
        second.publish(&name).expect("has its name");
        assert!(name.is_dir() && !path.exists());
        let third = Unfinished::create(path.clone()).expect("makes it");
        assert!(matches!(third.publish(&name), Err(Error::StorageUnusable(_))));
        assert!(!path.exists());
    }

    /// A process that made a directory, and had not locked it yet, removed the directory of another that had taken its place.
    #[test]
    fn a_directory_that_another_has_made_anew_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.partial");
        let first = Unfinished::create(path.clone()).expect("makes it");
        fs::rename(&path, directory.path().join("away")).expect("renames");
        fs::create_dir(&path).expect("makes");
        drop(first);
        assert!(path.exists());
    }
}
