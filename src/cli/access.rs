//! The access control of a running node: it is read again when its files change, and the node says where there is none.

use std::net::SocketAddr;

use tracing::{error, info, warn};

use super::reload::{self, WatchedFiles};
use crate::{config::Config, error::Result, http::access::AccessControl};

/// The files with the rules.
pub fn files(config: &Config) -> WatchedFiles {
    WatchedFiles::new([&config.tokens, &config.jwks].map(Option::as_deref))
}

/// Starts to watch the files, if there are any.
///
/// # Errors
/// As `reload::watch`.
pub fn watch(files: WatchedFiles, control: AccessControl) -> Result<()> {
    if !control.is_on() {
        return Ok(());
    }
    let reload = move |files: &str| {
        let tokens = control.reload()?;
        info!(target: "audit", files, tokens, "access control reloaded");
        Ok(())
    };
    reload::watch(files, reload, |why| {
        error!(target: "audit", "ACCESS CONTROL NOT CHANGED: {why}. What such a file said before stays valid until it is put right");
    })
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
