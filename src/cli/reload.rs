//! Files that a running node reads again: when they change, and on SIGHUP.
//!
//! We look at the files once a second instead of using inotify: editors, certbot and Kubernetes replace files and links in ways that watches
//! lose, and a few `stat` calls a second cost nothing.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

use crate::{
    error::{Error, Result},
    http::Certificates,
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Calls `reload` with the names of the files when one of them changes, and on SIGHUP. Only then does SIGHUP no longer end the process.
///
/// # Errors
/// `Io` if the system takes no handler for SIGHUP.
pub fn watch(files: Vec<PathBuf>, reload: impl Fn(&str) + Send + 'static) -> Result<()> {
    let mut hangups =
        signal(SignalKind::hangup()).map_err(|error| Error::io("cannot listen for SIGHUP", &error))?;
    let names = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let mut stamps = stamps(&files);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::spawn(async move {
        loop {
            let is_asked = tokio::select! {
                hangup = hangups.recv() => hangup.is_some(),
                _ = looks.tick() => false,
            };
            let now = self::stamps(&files);
            if is_asked || now != stamps {
                stamps = now;
                reload(&names);
            }
        }
    });
    Ok(())
}

/// Keeps the certificate of a running node up to date.
///
/// # Errors
/// As `watch`.
pub fn watch_certificates(certificates: Option<&Certificates>) -> Result<()> {
    let Some(certificates) = certificates.cloned() else { return Ok(()) };
    watch(certificates.files(), move |files| match certificates.reload() {
        Ok(()) => info!(files, "certificate reloaded, for new connections"),
        Err(why) => {
            error!(
                "CERTIFICATE NOT CHANGED: {why}. New connections get the one from before until it is put right"
            );
        }
    })
}

/// What tells one state of a file from another: `None` if it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}
