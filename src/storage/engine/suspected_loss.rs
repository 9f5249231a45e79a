//! A suspected loss: rows may be missing here, may be older than what was acknowledged, or may be deleted ones that came back. It is kept
//! in a file beside the log until the node has been found to hold what the others hold, and it is written before anything is done that
//! could make the node forget it.

use std::{
    fs, io,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::error;

use crate::{
    error::{Error, Result},
    storage::{Store, commit::Incarnation, engine},
};

const FILE: &str = "dynarust.doubt";
/// Longest reason, in bytes: it is shown in one line of the log.
const REASON_BYTES_MAX: usize = 16 * 1024;
/// What damage of the log can mean.
pub const MEANING: &str = "rows may be missing, older values may be back, and so may deleted keys";

/// The suspected loss of an open store, if there is one.
///
/// Rows of eventual and of strong tables come back in two ways, so the suspicion ends for each by itself; for the store once it has for both.
#[derive(Default)]
pub struct SuspectedLoss {
    reason: Mutex<Option<String>>,
    /// Whether it concerns the strong tables still.
    strong: AtomicBool,
}

impl SuspectedLoss {
    /// Starts with this one.
    pub fn new(reason: Option<String>) -> Self {
        Self { strong: AtomicBool::new(reason.is_some()), reason: Mutex::new(reason) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // One value: valid even if a holder panicked.
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Why this store may lack acknowledged writes, for people to read. `None` if there is no reason to suspect that.
    pub fn suspected_loss(&self) -> Option<String> {
        self.0.suspected_loss.lock().clone()
    }

    /// Whether acknowledged writes to strong tables may be missing.
    pub fn suspects_strong_loss(&self) -> bool {
        self.0.suspected_loss.strong.load(Ordering::Acquire) && !self.0.context.strong.is_empty()
    }

    /// Ends the suspicion for the strong tables: they were found to hold what the leader's hold. After a restart it is there again, unless it has
    /// ended for the store. `incarnation`: the one of the store that was found so; a later one may have lost something else.
    pub fn clear_strong_loss(&self, incarnation: Incarnation) {
        let _reason = self.0.suspected_loss.lock();
        if self.incarnation() == incarnation {
            self.0.suspected_loss.strong.store(false, Ordering::Release);
        }
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
    pub(crate) fn record_suspected_loss(&self, reason: String) {
        let mut suspected_loss = self.0.suspected_loss.lock();
        if let Err(error) = write(&self.0.options.data, &reason) {
            error!(%error, "the suspected loss of the storage could not be recorded");
        }
        *suspected_loss = Some(reason);
        self.0.suspected_loss.strong.store(true, Ordering::Release);
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
    use crate::storage::tests::{Fixture, close, table};

    #[test]
    fn it_concerns_strong_tables_until_theirs_are_found_whole() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.record_suspected_loss("a test".into());
        assert!(!store.suspects_strong_loss(), "there are none");
        store.make_strong(&table()).expect("makes");
        assert!(store.suspects_strong_loss());
        close(store);
        let store = fixture.open();
        assert!(store.suspects_strong_loss());
        store.clear_strong_loss(store.incarnation());
        assert!(!store.suspects_strong_loss() && store.suspected_loss().is_some());
        store.record_suspected_loss("another".into());
        assert!(store.suspects_strong_loss());
        close(store);
    }

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
