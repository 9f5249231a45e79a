//! An earlier backup as the base of the next one.

use std::path::PathBuf;

use super::{
    content::LAYERS_MAX,
    read::{self, Backup},
    seal::Secret,
};
use crate::error::{Error, Result};

/// Layers that a backup with a base adds: what differs, and what was too much to be sorted at once.
const LAYERS_ADDED: usize = 4;

/// What to write, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// An earlier backup: what it has is not written again.
    pub base: Option<PathBuf>,
    /// Encrypts the backup, and opens the base.
    pub secret: Option<Secret>,
}

/// The base of a backup, opened.
pub struct Base(pub(super) Option<Backup>);

impl Options {
    /// Opens the base, and checks it. One whose later layers have grown to a quarter of its first, or that has many, is not used: then the
    /// backup is a full one.
    ///
    /// # Errors
    /// As `read::check`; `Config` if only one of the two is encrypted.
    pub fn open_base(&self) -> Result<Base> {
        let Some(path) = &self.base else { return Ok(Base(None)) };
        let checked = read::check(path)?;
        if checked.manifest.encryption.is_none() && self.secret.is_some() {
            return Err(Error::Config(format!(
                "the base {} is not encrypted, and its files would be part of this backup: make a full one, without --base",
                path.display()
            )));
        }
        let base = checked.open(self.secret.as_ref())?;
        let (above, first) = base.manifest.bytes_above_base();
        let is_long = base.manifest.layers.len() + LAYERS_ADDED > LAYERS_MAX;
        Ok(Base(Some(base).filter(|_| !is_long && above <= first / 4)))
    }
}
