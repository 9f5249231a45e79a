//! An earlier backup as the base of the next one.

use std::path::PathBuf;

use super::{
    content::LAYERS_MAX,
    read::{self, Backup},
    recipient::Recipient,
    seal::{DataKey, Envelope, Secret},
};
use crate::error::{Error, Result};

/// Layers that a backup with a base adds: what differs, and what was too much to be sorted at once.
const LAYERS_ADDED: usize = 4;

/// What to write, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// An earlier backup: what it has is not written again.
    pub base: Option<PathBuf>,
    /// Opens the base, and encrypts the backup if it is for no recipient.
    pub secret: Option<Secret>,
    /// Whom the backup is encrypted for.
    pub recipient: Option<Recipient>,
    /// The data key of the base, of whoever made it and has no secret.
    pub base_key: Option<DataKey>,
}

/// The base of a backup, opened.
pub struct Base(pub(super) Option<Backup>);

impl Options {
    /// Whether the backup is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.secret.is_some() || self.recipient.is_some()
    }

    /// Puts the data key into an envelope for whoever may read the backup.
    ///
    /// # Errors
    /// As `Envelope::seal`.
    pub fn envelope(&self, key: &DataKey) -> Result<Option<Envelope>> {
        match (&self.recipient, &self.secret) {
            (Some(recipient), _) => Envelope::for_recipient(key, recipient).map(Some),
            (None, Some(secret)) => Envelope::seal(key, secret).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Opens the base, and checks it. One whose later layers have grown to a quarter of its first, or that has many, is not used: then the
    /// backup is a full one.
    ///
    /// # Errors
    /// As `read::check`; `Config` if only one of the two is encrypted.
    pub fn open_base(&self) -> Result<Base> {
        let Some(path) = &self.base else { return Ok(Base(None)) };
        let checked = read::check(path)?;
        if checked.manifest.encryption.is_none() && self.is_encrypted() {
            return Err(Error::Config(format!(
                "the base {} is not encrypted, and its files would be part of this backup: make a full one, without --base",
                path.display()
            )));
        }
        let base = match &self.base_key {
            Some(key) => checked.open_with(Some(key.clone()))?,
            None => checked.open(self.secret.as_ref())?,
        };
        if base.key().is_some() && !self.is_encrypted() {
            return Err(Error::Config("a backup with an encrypted base is encrypted, too: say how".into()));
        }
        let (above, first) = base.manifest.bytes_above_base();
        let is_long = base.manifest.layers.len() + LAYERS_ADDED > LAYERS_MAX;
        Ok(Base(Some(base).filter(|_| !is_long && above <= first / 4)))
    }
}
