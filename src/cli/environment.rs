//! Settings that commands for a running node read from the environment, or from the file that `DYNARUST_CONFIG` names, as a node does.
//! In a node's container they then need no flags. Other settings are not checked.

use std::path::PathBuf;

use tracing::warn;

use crate::{
    config::{self, Config, Layers, Texts},
    error::Result,
    node::AdminKeys,
};

/// The keys that are derived from the cluster's secrets; none if no secret is set.
///
/// # Errors
/// `Config` if a secret is too short, or the file with the secrets cannot be read.
pub fn admin_keys() -> Result<AdminKeys> {
    let layers = layers()?.only(&["cluster-secret", "cluster-secret-file"]);
    Ok(AdminKeys::of(&Config::new(&layers.settings())?.secrets()?))
}

/// The certificate that a node with this environment would use.
///
/// # Errors
/// `Config` if the configuration file cannot be read.
pub fn tls_certificate() -> Result<Option<PathBuf>> {
    let settings = layers()?.only(&["tls-cert"]).settings();
    let given = settings.into_iter().find(|setting| setting.spec.name == "tls-cert");
    Ok(given.map(|setting| setting.text).filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// Warns about variables that look like settings but are not, as a misspelt one has no effect.
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

/// The user's folder that this variable names, such as `XDG_STATE_HOME`, or else the one below their home; `None` if nothing names one.
pub fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| set("HOME").map(|home| home.join(below_home)))
}

fn layers() -> Result<Layers> {
    let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
    Layers::read(Texts::new(), None, variable)
}
