//! What commands that ask a running node take from the environment, as a node does: from its variable, or from the file that
//! `DYNARUST_CONFIG` names. So they need nothing more where a node is set up by them, as in its container. Other settings are not
//! looked at.

use std::path::PathBuf;

use tracing::warn;

use crate::{
    config::{self, Config, Layers, Texts},
    error::Result,
    node::AdminKeys,
};

/// The keys of the cluster's secrets; none where there is no secret.
///
/// # Errors
/// `Config` for a secret that is too short, and a file of secrets that cannot be read.
pub fn admin_keys() -> Result<AdminKeys> {
    let layers = layers()?.only(&["cluster-secret", "cluster-secret-file"]);
    Ok(AdminKeys::of(&Config::new(&layers.settings())?.secrets()?))
}

/// The certificate that a node here would be started with.
///
/// # Errors
/// `Config` for a configuration file that cannot be read.
pub fn tls_certificate() -> Result<Option<PathBuf>> {
    let settings = layers()?.only(&["tls-cert"]).settings();
    let given = settings.into_iter().find(|setting| setting.spec.name == "tls-cert");
    Ok(given.map(|setting| setting.text).filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// Warns of variables that look like settings and are none: what is misspelt would be passed over.
pub fn warn_about_unknown_variables() {
    let mut names: Vec<_> =
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort();
    for name in names {
        if let Some(why) = config::unknown_variable(&name) {
            warn!("unknown environment variable {name}: {why}");
        }
    }
}

fn layers() -> Result<Layers> {
    let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
    Layers::read(Texts::new(), None, variable)
}
