//! The cluster secrets in the environment, for commands that give orders to a node: the same variables, read in the same way, as
//! a node's.

use crate::{
    config::{Config, Layers, Texts},
    error::Result,
    node::AdminKeys,
};

/// The keys of the secrets in the environment; none where there is no secret.
///
/// # Errors
/// `Config` for a secret that is too short, and a file of secrets that cannot be read.
pub fn from_environment() -> Result<AdminKeys> {
    let secret = |name: &str| {
        let variable = name.starts_with("CLUSTER_SECRET").then(|| std::env::var_os(name)).flatten();
        variable.map(|text| text.to_string_lossy().into_owned())
    };
    let layers = Layers::read(Texts::new(), None, secret)?;
    Ok(AdminKeys::of(&Config::new(&layers.settings())?.secrets()?))
}
