//! The cluster's secrets, from the environment or a file.

use super::Config;
use crate::{
    error::{Error, Result},
    replication::link::secret::{REMEDY, Secrets},
};

impl Config {
    /// The cluster's secrets.
    ///
    /// # Errors
    /// `Config` if the file cannot be read, has no secret or has one that is too short, and if both settings are used.
    pub fn secrets(&self) -> Result<Secrets> {
        let Some(path) = &self.cluster_secret_file else {
            return Secrets::new(self.cluster_secret.0.iter().map(String::as_str));
        };
        let wrong = |why: &dyn std::fmt::Display| {
            Error::Config(format!("CLUSTER_SECRET_FILE {}: {why}", path.display()))
        };
        if !self.cluster_secret.0.is_empty() {
            return Err(wrong(&"CLUSTER_SECRET is set as well: set one of them"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
        if lines.peek().is_none() {
            return Err(wrong(&"there is no secret in the file: write one a line"));
        }
        Secrets::new(lines).map_err(|error| wrong(&error))
    }

    /// The cluster's secrets, for a node that links with others.
    ///
    /// # Errors
    /// As `secrets`; `Config` if the node is to join a node on another machine and has no secret: that node would refuse it.
    pub fn link_secrets(&self) -> Result<Secrets> {
        let secrets = self.secrets()?;
        let elsewhere = self.join.iter().find(|address| !address.is_this_machine());
        match elsewhere {
            Some(address) if secrets.is_open() => Err(Error::Config(format!(
                "JOIN {}: a node without CLUSTER_SECRET links with nodes of its own machine only, and this address may be another machine: {REMEDY}",
                address.as_str()
            ))),
            Some(_) | None => Ok(secrets),
        }
    }
}
