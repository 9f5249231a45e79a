//! A suspected loss: rows may be missing here, may be older than what was acknowledged, or may be deleted ones that came back. It is kept
//! in a file beside the log until the node has been found to hold what the others hold, and it is written before anything is done that
//! could make the node forget it.

use std::{
    fs, io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::error;

use crate::{
    error::{Error, Result},
    storage::{Store, engine},
};

const FILE: &str = "dynarust.doubt";
/// Longest reason, in bytes: it is shown in one line of the log.
const REASON_BYTES_MAX: usize = 16 * 1024;
/// What damage of the log can mean.
pub const MEANING: &str = "rows may be missing, older values may be back, and so may deleted keys";

/// The suspected loss of an open store, if there is one.
#[derive(Default)]
pub struct SuspectedLoss(Mutex<Option<String>>);

impl SuspectedLoss {
    /// Starts with this one.
    pub fn new(reason: Option<String>) -> Self {
        Self(Mutex::new(reason))
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // One value: valid even if a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Why this store may lack acknowledged writes, for people to read. `None` if there is no reason to suspect that.
    pub fn suspected_loss(&self) -> Option<String> {
        self.0.suspected_loss.lock().clone()
    }

    /// Ends the suspicion, durably: the store was found to hold everything the others hold. It blocks: do not call it from an async task.
    ///
    /// # Errors
    /// `Io`; the suspicion stays then.
    pub fn clear_suspected_loss(&self) -> Result<()> {
        let mut suspected_loss = self.0.suspected_loss.lock();
        if suspected_loss.is_some() {
            clear(&self.0.options.data)?;
            *suspected_loss = None;
        }
        Ok(())
    }

    /// Records a suspected loss, durably if the disk takes it.
    pub(in crate::storage) fn record_suspected_loss(&self, reason: String) {
        let mut suspected_loss = self.0.suspected_loss.lock();
        if let Err(error) = write(&self.0.options.data, &reason) {
            error!(%error, "the suspected loss of the storage could not be recorded");
        }
        *suspected_loss = Some(reason);
    }
}

/// Reads the suspected loss of the store in `data`, if there is one.
///
/// # Errors
/// `Io`.
pub fn read(data: &Path) -> Result<Option<String>> {
    let path = data.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let reason = text.trim();
            // The file's existence counts, not its text.
            let unknown = "the reason cannot be read";
            Ok(Some(if reason.is_empty() { unknown } else { reason }.to_owned()))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format_args!("reading {}", path.display()), &e)),
    }
}

/// Records a suspected loss of the store in `data`; durable on return.
///
/// # Errors
/// `Io`, `StorageFull`.
pub fn write(data: &Path, reason: &str) -> Result<()> {
    // A character that is cut in two is read back as a replacement character.
    let reason = String::from_utf8_lossy(&reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)]);
    engine::replace_file(data, FILE, format!("{reason}\n").as_bytes())
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
