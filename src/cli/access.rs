//! Keeps the access control of a running node up to date: it reads its files again on SIGHUP, and when one of them changes. And it says
//! where there is none.
//!
//! We look at the files once a second instead of using inotify: editors and Kubernetes replace files and links in ways that watches lose,
//! and two `stat` calls a second cost nothing.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use crate::{
    config::Config,
    error::{Error, Result},
    http::access::AccessControl,
};

/// How often the files are looked at. A token is revoked after at most this time.
const LOOK: Duration = Duration::from_secs(1);

/// Starts to watch the files, if there are any. Only then does SIGHUP no longer end the process.
///
/// # Errors
/// `Io` if the system takes no handler for SIGHUP.
pub fn watch(control: AccessControl) -> Result<()> {
    if !control.is_on() {
        return Ok(());
    }
    let mut hangups =
        signal(SignalKind::hangup()).map_err(|error| Error::io("cannot listen for SIGHUP", &error))?;
    let files: Vec<PathBuf> = control.files().map(Path::to_path_buf).collect();
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
                reload(&control, &files);
            }
        }
    });
    Ok(())
}

fn reload(control: &AccessControl, files: &[PathBuf]) {
    let names = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    match control.reload() {
        Ok(tokens) => info!(target: "audit", files = names, tokens, "access control reloaded"),
        Err(why) => {
            error!(target: "audit", "ACCESS CONTROL NOT CHANGED: {why}. The tokens and keys from before stay valid until it is put right")
        }
    }
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

/// Whether other machines can reach a node that asks nobody for a token, and nobody has said that this is meant.
pub fn is_open(config: &Config, local: SocketAddr) -> bool {
    let has_rules = config.tokens.is_some() || config.jwks.is_some();
    !local.ip().to_canonical().is_loopback() && !has_rules && !config.no_auth
}

/// Warns if the node is open.
pub fn warn_if_open(config: &Config, local: SocketAddr) {
    if !is_open(config, local) {
        return;
    }
    warn!(
        "NO ACCESS CONTROL: everyone who reaches {local} can read and write all data. Make a token (`DynaRust token new NAME --tokens \
         tokens.toml`) and start the node with --tokens tokens.toml; or say --no-auth if that is meant, as behind a firewall"
    );
}
