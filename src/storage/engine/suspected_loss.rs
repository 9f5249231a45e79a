//! A suspected loss: rows may be missing here, may be older than what was acknowledged, or may be deleted ones that came back. It is kept
//! in a file beside the log until the node has been found to hold what the others hold, and it is written before anything is done that
//! could make the node forget it.
//!
//! Where no other node has the strong tables, nobody can tell what is missing of them: they are accepted as they are, and the file says so, so that
//! each damage is dealt with once.

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
/// The line behind the reason, once the strong tables are accepted as they are.
const ACCEPTED: &str = "the strong tables are accepted as they are";
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

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Why rows may be missing, for people to read.
    pub reason: String,
    /// Whether it concerns the strong tables: not once they are accepted as they are.
    pub concerns_strong: bool,
}

impl SuspectedLoss {
    /// Starts with this one.
    pub fn new(recorded: Option<Recorded>) -> Self {
        let concerns_strong = recorded.as_ref().is_some_and(|recorded| recorded.concerns_strong);
        let reason = recorded.map(|recorded| recorded.reason);
        Self { strong: AtomicBool::new(concerns_strong), reason: Mutex::new(reason) }
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

    /// Ends the suspicion for the strong tables, durably: nobody else has them, so what is here is all there is. It blocks: do not call it from an
    /// async task. `incarnation` as above.
    ///
    /// # Errors
    /// Those of the storage; after a restart the suspicion is there again then.
    pub fn accept_strong_loss(&self, incarnation: Incarnation) -> Result<()> {
        let reason = self.0.suspected_loss.lock();
        if self.incarnation() != incarnation {
            return Ok(());
        }
        if let Some(reason) = reason.as_ref() {
            replace(&self.0.options.data, &format!("{}\n{ACCEPTED}\n", cut(reason)))?;
        }
        self.0.suspected_loss.strong.store(false, Ordering::Release);
        Ok(())
    }

    /// Ends the suspicion, durably: the store was found to hold everything the others hold. It blocks: do not call it from an async task.
    /// `incarnation` as above; returns whether it is still this one.
    ///
    /// # Errors
    /// `Io`; the suspicion stays then.
    pub fn clear_suspected_loss(&self, incarnation: Incarnation) -> Result<bool> {
        let mut suspected_loss = self.0.suspected_loss.lock();
        if self.incarnation() != incarnation {
            return Ok(false);
        }
        if suspected_loss.is_some() {
            clear(&self.0.options.data)?;
            *suspected_loss = None;
            // A strong table that is made later lacks nothing.
            self.0.suspected_loss.strong.store(false, Ordering::Release);
        }
        Ok(true)
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
pub fn read(data: &Path) -> Result<Option<Recorded>> {
    let path = data.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let (reason, concerns_strong) = match text.trim().strip_suffix(ACCEPTED) {
                Some(reason) => (reason.trim(), false),
                None => (text.trim(), true),
            };
            // The file's existence counts, not its text.
            let unknown = "the reason cannot be read";
            let reason = if reason.is_empty() { unknown } else { reason }.to_owned();
            Ok(Some(Recorded { reason, concerns_strong }))
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
    replace(data, &format!("{}\n", cut(reason)))
}

/// Copies what is recorded of one store to another; durable on return.
///
/// # Errors
/// `Io`, `StorageFull`.
pub fn copy(data: &Path, target: &Path) -> Result<()> {
    match read(data)? {
        Some(Recorded { reason, concerns_strong: true }) => write(target, &reason),
        Some(Recorded { reason, concerns_strong: false }) => {
            replace(target, &format!("{}\n{ACCEPTED}\n", cut(&reason)))
        }
        None => Ok(()),
    }
}

fn replace(data: &Path, text: &str) -> Result<()> {
    engine::replace_file(data, FILE, text.as_bytes())
}

/// As much of a reason as is kept. A character that is cut in two is read back as a replacement character.
fn cut(reason: &str) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)])
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
    use crate::storage::tests::{Fixture, close, table, wait_until};

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

    /// A node without strong tables that had all rows again refused to lead the first one that was made.
    #[test]
    fn a_strong_table_made_after_the_suspicion_has_ended_is_not_suspected() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.record_suspected_loss("a test".into());
        assert_eq!(store.clear_suspected_loss(store.incarnation()), Ok(true));
        store.make_strong(&table()).expect("makes");
        assert!(!store.suspects_strong_loss());
        close(store);
    }

    /// Each start of a node without others found its strong tables suspicious again, and raised their revision again.
    #[test]
    fn what_was_accepted_of_strong_tables_is_no_suspicion_after_a_restart_until_there_is_new_damage() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.make_strong(&table()).expect("makes");
        store.record_suspected_loss("a test".into());
        store.accept_strong_loss(store.incarnation()).expect("is accepted");
        assert!(!store.suspects_strong_loss());
        close(store);
        let accepted = Some(Recorded { reason: "a test".into(), concerns_strong: false });
        assert_eq!(read(&fixture.data()), Ok(accepted.clone()));
        let copied = tempfile::tempdir().expect("a temporary directory");
        copy(&fixture.data(), copied.path()).expect("copies");
        assert_eq!(read(copied.path()), Ok(accepted));
        let store = fixture.open();
        assert!(!store.suspects_strong_loss());
        assert_eq!(
            store.suspected_loss().as_deref(),
            Some("a test"),
            "rows of eventual tables may be missing still"
        );
        store.record_suspected_loss("a test".into());
        assert!(store.suspects_strong_loss());
        close(store);
        let store = fixture.open();
        assert!(store.suspects_strong_loss());
        close(store);
    }

    /// A disk without room made a node without others suspect its strong tables anew, and raise their revision.
    #[test]
    fn what_was_accepted_is_no_suspicion_once_the_storage_was_opened_again() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.make_strong(&table()).expect("makes");
        store.record_suspected_loss("a test".into());
        store.accept_strong_loss(store.incarnation()).expect("is accepted");
        store.fail("no room");
        wait_until("it is open again", || store.failure().is_none());
        assert!(!store.suspects_strong_loss());
        let accepted = Recorded { reason: "a test".into(), concerns_strong: false };
        assert_eq!(read(&fixture.data()), Ok(Some(accepted)));
        close(store);
    }

    #[test]
    fn a_suspected_loss_stays_until_it_is_cleared() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(directory.path()), Ok(None));
        write(directory.path(), "first").expect("writes");
        write(directory.path(), "second").expect("writes");
        let second = Recorded { reason: "second".into(), concerns_strong: true };
        assert_eq!(read(directory.path()), Ok(Some(second)));
        clear(directory.path()).expect("clears");
        clear(directory.path()).expect("clears what is clear");
        assert_eq!(read(directory.path()), Ok(None));
    }
}
