//! Files that a running node reads again: when they change, and on SIGHUP.
//!
//! We look at the files once a second instead of using inotify: editors, certbot and Kubernetes replace files and links in ways that watches
//! lose, and a few `stat` calls a second cost nothing. Files that could not be taken over are read again each second until they can: what is
//! wrong may be elsewhere, as in the permissions of their directory.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

use super::address_file::AddressFile;
use crate::{
    config::Config,
    error::{Error, Result},
    http::Certificates,
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Files, and how they were when they were last taken over.
#[derive(Debug)]
pub struct WatchedFiles {
    files: Vec<PathBuf>,
    stamps: Vec<Stamp>,
    /// Why the files are not taken over; `None` if they are.
    failure: Option<String>,
}

/// What became of the files when they were looked at.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Nothing that was not logged before.
    Same,
    Reloaded,
    Failed(Error),
}

impl WatchedFiles {
    /// Looks at the files. Make this before they are first read, so that no change between is missed.
    pub fn new<'a>(files: impl IntoIterator<Item = Option<&'a Path>>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().flatten().map(Path::to_path_buf).collect();
        Self { stamps: stamps(&files), files, failure: None }
    }

    /// The files of the certificate.
    pub fn of_certificate(config: &Config) -> Self {
        Self::new([&config.tls_cert, &config.tls_key, &config.tls_client_ca].map(Option::as_deref))
    }

    fn names(&self) -> String {
        self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Calls `reload` if the files have changed since they were last taken over, if that failed, or if it `is_asked` for.
    fn look<T>(&mut self, is_asked: bool, reload: impl FnOnce() -> Result<T>) -> Look {
        let now = stamps(&self.files);
        if !is_asked && now == self.stamps && self.failure.is_none() {
            return Look::Same;
        }
        match reload() {
            Ok(_) => {
                // Taken before the files were read: a change meanwhile is seen at the next look.
                self.stamps = now;
                self.failure = None;
                Look::Reloaded
            }
            Err(error) => {
                let text = error.to_string();
                let is_logged = !is_asked && self.failure.as_ref() == Some(&text);
                self.failure = Some(text);
                if is_logged { Look::Same } else { Look::Failed(error) }
            }
        }
    }
}

/// Calls `reload` when one of the files changes, each second until that succeeds, and on SIGHUP. Only then does SIGHUP no longer end the
/// process. `reload` logs its success, to which it gets the names of the files; `failed` logs an error, once for each text.
///
/// # Errors
/// `Io` if the system takes no handler for SIGHUP.
pub fn watch(
    mut watched: WatchedFiles,
    reload: impl Fn(&str) -> Result<()> + Send + 'static,
    failed: impl Fn(Error) + Send + 'static,
) -> Result<()> {
    let mut hangups =
        signal(SignalKind::hangup()).map_err(|error| Error::io("cannot listen for SIGHUP", &error))?;
    let names = watched.names();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::spawn(async move {
        loop {
            let is_asked = tokio::select! {
                hangup = hangups.recv() => hangup.is_some(),
                _ = looks.tick() => false,
            };
            match watched.look(is_asked, || reload(&names)) {
                Look::Failed(error) => failed(error),
                Look::Same | Look::Reloaded => {}
            }
        }
    });
    Ok(())
}

/// Keeps the certificate of a running node up to date, and what its address file says of it.
///
/// # Errors
/// As `watch`.
pub fn watch_certificates(
    watched: WatchedFiles,
    certificates: Option<&Certificates>,
    address_file: &AddressFile,
) -> Result<()> {
    let Some(certificates) = certificates.cloned() else { return Ok(()) };
    let address_file = address_file.clone();
    let reload = move |files: &str| {
        let reloaded = certificates.reload();
        // Also after an error: the certificate may be new, and the authority of clients wrong.
        address_file.update();
        reloaded.map(|()| info!(files, "certificate reloaded, for new connections"))
    };
    watch(watched, reload, |why| {
        error!(
            "CERTIFICATE NOT CHANGED: {why}. New connections use what it said before until it is put right"
        );
    })
}

/// What tells one state of a file from another: `None` if it cannot be looked at. The change time also tells of new permissions and owners.
type Stamp = Option<[i128; 6]>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let stamp = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        Some([
            metadata.dev().into(),
            metadata.ino().into(),
            metadata.size().into(),
            nanos(metadata.mtime(), metadata.mtime_nsec()),
            nanos(metadata.ctime(), metadata.ctime_nsec()),
            metadata.mode().into(),
        ])
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A reload that failed was not tried again before the next change: a file whose permissions came late, or a key that a slow disk had
    /// not written, was missed until the next SIGHUP.
    #[test]
    fn a_failed_reload_is_tried_again_and_logged_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "1").expect("written");
        let mut watched = WatchedFiles::new([Some(file.as_path()), None]);
        let fails = |why: &str| Err::<(), _>(Error::Config(why.to_owned()));
        assert_eq!(watched.look(false, || fails("not called")), Look::Same);
        fs::write(&file, "22").expect("written");
        assert_eq!(watched.look(false, || fails("a")), Look::Failed(Error::Config("a".into())));
        assert_eq!(watched.look(false, || fails("a")), Look::Same, "it is in the log");
        assert_eq!(watched.look(false, || fails("b")), Look::Failed(Error::Config("b".into())));
        assert_eq!(watched.look(true, || fails("b")), Look::Failed(Error::Config("b".into())), "asked");
        assert_eq!(watched.look(false, || Ok(())), Look::Reloaded, "tried again");
        assert_eq!(watched.look(false, || fails("not called")), Look::Same);
        assert_eq!(watched.look(true, || fails("c")), Look::Failed(Error::Config("c".into())));
        assert_eq!(watched.look(false, || Ok(())), Look::Reloaded, "without a change of the file");
    }

    #[test]
    fn new_permissions_are_a_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "1").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
        let mut watched = WatchedFiles::new([Some(file.as_path())]);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("changed");
        assert_eq!(watched.look(false, || Ok(())), Look::Reloaded);
    }
}
