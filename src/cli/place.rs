//! Where a backup is that a command names: a directory, or a bucket as `s3://BUCKET/NAME`, which needs a build with the feature `s3`. A backup in a
//! bucket is made and read in a temporary directory.

use std::path::{Path, PathBuf};

use super::{progress::Progress, remote::runtime};
use crate::{
    error::{Error, Result},
    storage::{
        backup::{
            bucket::Bucket,
            content::{Manifest, SCHEME},
            read::{self, Checked},
        },
        temporary::Temporary,
    },
};

/// The directory that a command works in, and where it belongs.
#[derive(Debug)]
pub struct Place {
    /// As the user named it.
    name: PathBuf,
    directory: PathBuf,
    remote: Option<Remote>,
}

#[derive(Debug)]
struct Remote {
    bucket: Bucket,
    /// Where the directory is, until the command ends.
    _temporary: Temporary,
}

/// Whether a name is that of a backup in a bucket.
pub fn is_in_bucket(name: &Path) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(SCHEME))
}

/// Opens a backup to be read, and checks its files.
///
/// # Errors
/// As [`Place::of_backup`] and `read::check`.
pub fn open(name: &Path) -> Result<(Place, Checked)> {
    let place = runtime()?.block_on(Place::of_backup(name))?;
    let checked = place.check()?;
    Ok((place, checked))
}

impl Place {
    /// The place of a backup that is there. From a bucket it is fetched.
    ///
    /// # Errors
    /// `Config` if the name or the environment is wrong, or this build has no buckets; `NotFound`, `Forbidden`, `StorageDamaged`, `StorageFull`,
    /// `Io`.
    pub async fn of_backup(name: &Path) -> Result<Self> {
        let place = Self::new(name)?;
        if let Some(remote) = &place.remote {
            let progress = Progress::start("files fetched");
            remote.bucket.download(&place.directory, |count| progress.set(count)).await?;
        }
        Ok(place)
    }

    /// The place of a backup that is to be made: [`Self::store`] then brings it there.
    ///
    /// # Errors
    /// As `of_backup`; `StorageUnusable` if there is something of its name in the bucket.
    pub async fn to_make(name: &Path) -> Result<Self> {
        let place = Self::new(name)?;
        // Before a node has read all its rows in vain.
        if let Some(remote) = &place.remote {
            remote.bucket.check_free().await?;
        }
        Ok(place)
    }

    fn new(name: &Path) -> Result<Self> {
        if !is_in_bucket(name) {
            return Ok(Self { name: name.to_owned(), directory: name.to_owned(), remote: None });
        }
        let bucket = Bucket::new(name.to_str().unwrap_or_default())?;
        let temporary = Temporary::create()?;
        let directory = temporary.join("backup");
        Ok(Self { name: name.to_owned(), directory, remote: Some(Remote { bucket, _temporary: temporary }) })
    }

    /// The directory to read it in, or to make it in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Checks its files.
    ///
    /// # Errors
    /// As `read::check`.
    pub fn check(&self) -> Result<Checked> {
        read::check(&self.directory).map_err(|error| self.named(error))
    }

    /// Brings a backup that was made in the directory to where it belongs. What its base has in the same bucket is copied there.
    ///
    /// # Errors
    /// `StorageUnusable` if there is something of its name by now; `Forbidden`, `Io`.
    pub async fn store(&self, base: Option<&Self>) -> Result<()> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let base = base.and_then(|base| Some((&base.remote.as_ref()?.bucket, &base.directory)));
        let base = base
            .map(|(bucket, directory)| Manifest::read(directory).map(|manifest| (bucket, manifest)))
            .transpose()?;
        let base = base.as_ref().map(|(bucket, manifest)| (*bucket, manifest));
        let progress = Progress::start("files sent");
        let sent = remote.bucket.upload(&self.directory, base, |count| progress.set(count)).await;
        sent.map_err(|error| self.named(error))
    }

    /// An error about the directory, with the name that the user knows.
    pub fn named(&self, error: Error) -> Error {
        let named = |text| self.named_text(text);
        match error {
            _ if self.remote.is_none() => error,
            Error::NotFound(text) => Error::NotFound(named(text)),
            Error::StorageDamaged(text) => Error::StorageDamaged(named(text)),
            Error::StorageUnusable(text) => Error::StorageUnusable(named(text)),
            Error::Corrupt(text) => Error::Corrupt(named(text)),
            Error::Io(text) => Error::Io(named(text)),
            other => other,
        }
    }

    /// The text of such an error, with the name that the user knows.
    pub fn named_text(&self, text: String) -> String {
        match &self.remote {
            None => text,
            Some(_) => text.replace(&*self.directory.to_string_lossy(), &self.name.to_string_lossy()),
        }
    }
}
