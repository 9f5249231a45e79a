//! SuspectedLoss: that rows may be missing here, may be older than what was acknowledged, or may have been deleted. It is kept in a file
//! beside the log until the node has been seen to hold what others hold, and it is written before anything is done that could make
//! it forgotten.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::error;

use crate::{
    error::{Error, Result},
    storage::{Store, engine},
};

const FILE: &str = "dynarust.doubt";
const UNFINISHED: &str = "dynarust.doubt.new";
/// Longest reason, in bytes: it is shown in one line of a log.
const REASON_BYTES_MAX: usize = 16 * 1024;
/// What damage of a log can mean.
pub const MEANING: &str = "rows may be missing, older values may be back, and so may deleted keys";

/// The doubt of an open store.
#[derive(Default)]
pub struct SuspectedLoss(Mutex<Option<String>>);

impl SuspectedLoss {
    /// This doubt.
    pub fn new(reason: Option<String>) -> Self {
        Self(Mutex::new(reason))
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // One value, whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Why this store may not hold what it acknowledged, for people to read. `None` where nothing speaks against it.
    pub fn suspected_loss(&self) -> Option<String> {
        self.0.suspected_loss.lock().clone()
    }

    /// Ends the doubt, durably: the store has been seen to hold all that others hold. May wait: not for an async task.
    ///
    /// # Errors
    /// `Io`; the doubt stays then.
    pub fn clear_suspected_loss(&self) -> Result<()> {
        let mut suspected_loss = self.0.suspected_loss.lock();
        if suspected_loss.is_some() {
            clear(&self.0.options.data)?;
            *suspected_loss = None;
        }
        Ok(())
    }

    /// Raises a doubt, durably where the disk takes it.
    pub(in crate::storage) fn record_suspected_loss(&self, reason: String) {
        let mut suspected_loss = self.0.suspected_loss.lock();
        if let Err(error) = write(&self.0.options.data, &reason) {
            error!(%error, "the doubt about the storage could not be written down");
        }
        *suspected_loss = Some(reason);
    }
}

/// The doubt about the store in `data`, if there is one.
///
/// # Errors
/// `Io`.
pub fn read(data: &Path) -> Result<Option<String>> {
    let path = data.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let reason = text.trim();
            // The file is what counts.
            let unknown = "the reason was not readable";
            Ok(Some(if reason.is_empty() { unknown } else { reason }.to_owned()))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format_args!("reading {}", path.display()), &e)),
    }
}

/// Writes down a doubt about the store in `data`; durable on return.
///
/// # Errors
/// `Io`, `StorageFull`.
pub fn write(data: &Path, reason: &str) -> Result<()> {
    // A character that is cut in two is read as one that is none.
    let reason = String::from_utf8_lossy(&reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)]);
    let path = data.join(UNFINISHED);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(format!("{reason}\n").as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&path, data.join(FILE))).map_err(|e| match e.kind() {
        io::ErrorKind::StorageFull => Error::StorageFull(format!("writing {}: {e}", path.display())),
        _ => Error::io(format_args!("writing {}", path.display()), &e),
    })?;
    engine::sync_directory(data)
}

fn clear(data: &Path) -> Result<()> {
    let path = data.join(FILE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format_args!("removing {}", path.display()), &e))
        }
        Ok(()) | Err(_) => engine::sync_directory(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspected_loss_stays_until_it_is_cleared() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(directory.path()), Ok(None));
        write(directory.path(), "first").expect("writes");
        write(directory.path(), "second").expect("writes");
        assert_eq!(read(directory.path()), Ok(Some("second".into())));
        clear(directory.path()).expect("clears");
        clear(directory.path()).expect("clears what is clear");
        assert_eq!(read(directory.path()), Ok(None));
    }
}
