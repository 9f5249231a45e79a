//! Backups in a bucket, in a build without the feature `s3`: there are none, and the error says how to get them.

use std::path::Path;

use super::content::Manifest;
use crate::error::{Error, Result};

/// The place of a backup in a bucket. This build has none.
#[derive(Debug)]
pub enum Bucket {}

impl Bucket {
    /// None.
    ///
    /// # Errors
    /// `Config`, always.
    pub fn new(url: &str) -> Result<Self> {
        Err(Error::Config(format!(
            "{url} is in a bucket, and this program was built without them: build it with `cargo build --release --features s3`"
        )))
    }

    /// Nothing.
    ///
    /// # Errors
    /// None.
    pub async fn check_free(&self) -> Result<()> {
        match *self {}
    }

    /// Nothing.
    ///
    /// # Errors
    /// None.
    pub async fn upload(&self, _: &Path, _: Option<(&Self, &Manifest)>, _: impl FnMut(u64)) -> Result<()> {
        match *self {}
    }

    /// Nothing.
    ///
    /// # Errors
    /// None.
    pub async fn download(&self, _: &Path, _: impl FnMut(u64)) -> Result<()> {
        match *self {}
    }
}
