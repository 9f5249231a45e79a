//! What a backup is on disk.
//!
//! ```text
//! DIR/id                        the id: 64 hexadecimal digits
//! DIR/content/manifest.json     what the backup is of, and its layers
//! DIR/content/000001.ndjson.zst, ...
//! ```
//! A *layer* is a sequence of chunk files: the concatenation of what they hold, decompressed, is lines (`line`) in order of their places, one
//! for each row. A later layer wins over an earlier one. The first has all rows of a full backup; the next those that changed while it was
//! made; and a backup with a base has its base's layers, as links to the same files, and one for what differs.
//!
//! The id is the root of a Merkle tree over `content`, names included (crate `merkle_hash`, blake3). So it changes with every bit of the backup.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use merkle_hash::{Algorithm, MerkleTree};
use serde::{Deserialize, Serialize};

use super::{
    line::Last,
    seal::{DataKey, Envelope, Kind, Secret},
};
use crate::{
    core::hex::{from_hex, to_hex},
    error::{Error, Result},
};

/// What the name of a backup in a bucket begins with.
pub const SCHEME: &str = "s3://";
/// The format of the directory.
pub const FORMAT: u64 = 1;
/// The directory that the id is of.
pub const CONTENT: &str = "content";
/// The file with the id.
pub const ID: &str = "id";
/// The manifest.
pub const MANIFEST: &str = "manifest.json";
/// Bytes of lines in one chunk file. Far below the 16 MiB that a file may have, whatever they compress to, as a reader holds one of each layer.
pub const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Longest chunk file. One that does not compress is a little longer than its lines.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most layers: a reader holds a chunk of each.
pub const LAYERS_MAX: usize = 24;
/// Longest manifest: its longest part is the node's records, a few MiB of notes at most.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What the manifest's private part is sealed as.
const SEALED: &str = "manifest";

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format of the directory.
    pub backup: u64,
    /// The program that made it.
    pub program: String,
    /// The node.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// When, for people.
    pub made: String,
    /// The id of its base, if it has one.
    pub base: Option<String>,
    /// Its layers, the first one first.
    pub layers: Vec<Layer>,
    /// The data key, if it is encrypted.
    pub encryption: Option<Envelope>,
    /// What the rows are of; `None` if it is encrypted.
    pub summary: Option<Last>,
    /// The encrypted summary, in hexadecimal.
    pub sealed: Option<String>,
}

/// A layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its chunk files, in order.
    pub files: Vec<String>,
    /// How many lines it has.
    pub lines: u64,
    /// How many bytes its files have.
    pub bytes: u64,
}

impl Manifest {
    /// Reads the manifest of a backup.
    ///
    /// # Errors
    /// `NotFound` if there is no backup; `StorageDamaged`, `Io`.
    pub fn read(backup: &Path) -> Result<Self> {
        let path = backup.join(CONTENT).join(MANIFEST);
        // Of the file itself: a link to another one is none of the backup's.
        let length = match fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Err(altered(backup, "its manifest is not a file")),
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotFound(format!("there is no backup in {}", backup.display())));
            }
            Err(e) => return Err(Error::io(format_args!("reading {}", path.display()), &e)),
        };
        if length > MANIFEST_BYTES_MAX {
            return Err(altered(backup, "its manifest is too long"));
        }
        let bytes = fs::read(&path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
        #[derive(Deserialize)]
        struct Format {
            backup: u64,
        }
        match serde_json::from_slice::<Format>(&bytes) {
            Ok(Format { backup: FORMAT }) => {}
            Ok(Format { backup: newer }) => {
                return Err(Error::StorageUnusable(format!(
                    "the backup in {} has format {newer}, and this version knows only {FORMAT}: use the version that made it, or a later one",
                    backup.display()
                )));
            }
            Err(error) => return Err(altered(backup, &format!("its manifest cannot be read: {error}"))),
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| altered(backup, &format!("its manifest cannot be read: {error}")))
    }

    /// Writes the summary into the manifest, encrypted if there is a key.
    ///
    /// # Errors
    /// As `DataKey::seal`.
    pub fn set_summary(&mut self, summary: Last, key: Option<&DataKey>) -> Result<()> {
        match key {
            None => self.summary = Some(summary),
            Some(key) => {
                let plain = serde_json::to_vec(&summary).expect("a summary always encodes");
                self.sealed = Some(to_hex(&key.seal(&self.sealed_name(), &plain)?));
            }
        }
        Ok(())
    }

    /// The data key, if it is encrypted.
    ///
    /// # Errors
    /// `Forbidden` without the right secret.
    pub fn key(&self, secret: Option<&Secret>) -> Result<Option<DataKey>> {
        match (&self.encryption, secret) {
            (None, _) => Ok(None),
            (Some(envelope), Some(secret)) => envelope.open(secret).map(Some),
            (Some(envelope), None) => Err(Error::Forbidden(format!(
                "the backup is encrypted with {}: name {} with {}",
                envelope.kind.name(),
                if envelope.kind == Kind::Recipient { "its private key" } else { "it" },
                if envelope.kind == Kind::Passphrase { "--passphrase-file" } else { "--key-file" },
            ))),
        }
    }

    /// The summary.
    ///
    /// # Errors
    /// `StorageDamaged`.
    pub fn summary(&self, backup: &Path, key: Option<&DataKey>) -> Result<Last> {
        let sealed = || {
            let sealed = from_hex(self.sealed.as_ref()?)?;
            serde_json::from_slice(&key?.open(&self.sealed_name(), &sealed)?).ok()
        };
        self.summary
            .clone()
            .or_else(sealed)
            .ok_or_else(|| altered(backup, "its manifest has no summary, or one of another backup"))
    }

    /// What the summary is sealed as: the rest of the manifest is authenticated with it, so that nobody without the secret can alter either.
    fn sealed_name(&self) -> String {
        let rest = Self { summary: None, sealed: None, ..self.clone() };
        let rest = serde_json::to_vec(&rest).expect("a manifest always encodes");
        format!("{SEALED} {}", blake3::hash(&rest).to_hex())
    }

    /// The names of all chunk files.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        self.layers.iter().flat_map(|layer| &layer.files)
    }

    /// How many bytes the layers above the first have, and how many the first has.
    pub fn bytes_above_base(&self) -> (u64, u64) {
        let above = self.layers.iter().skip(1).map(|layer| layer.bytes).sum();
        (above, self.layers.first().map_or(0, |layer| layer.bytes))
    }
}

/// The name of a chunk file.
pub fn file_name(number: u64) -> String {
    format!("{number:06}.ndjson.zst")
}

/// The path of a chunk file.
pub fn file_path(backup: &Path, name: &str) -> PathBuf {
    backup.join(CONTENT).join(name)
}

/// The id of what is in a backup's directory.
///
/// # Errors
/// `Io`.
pub fn id(backup: &Path) -> Result<String> {
    let content = backup.join(CONTENT);
    let failed = |why: &dyn std::fmt::Display| Error::Io(format!("reading {}: {why}", content.display()));
    let path = content.to_str().ok_or_else(|| failed(&"its name is not text"))?;
    let tree = MerkleTree::builder(path).algorithm(Algorithm::Blake3).hash_names(true).build();
    tree.map(|tree| to_hex(&tree.root.item.hash)).map_err(|error| failed(&error))
}

/// The error for a backup that is not as it was made.
pub fn altered(backup: &Path, why: &str) -> Error {
    Error::StorageDamaged(format!("the backup in {} is damaged or was altered: {why}", backup.display()))
}
