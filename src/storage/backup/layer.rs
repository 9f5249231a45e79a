//! Writes the layers of a backup: chunk files of one length, compressed, and encrypted if there is a key.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    content::{self, CHUNK_BYTES, Layer},
    seal::DataKey,
};
use crate::error::{Error, Result};

/// The fastest level: a backup should wait for the disk, not for the processor.
const COMPRESSION_LEVEL: i32 = 1;

/// Where layers are written.
pub struct Target {
    /// The directory of the backup.
    pub directory: PathBuf,
    /// The data key, if it is encrypted.
    pub key: Option<DataKey>,
    /// The number of the last chunk file.
    pub files: u64,
}

/// A layer that is being written.
#[derive(Default)]
pub struct LayerWriter {
    layer: Layer,
    bytes: Vec<u8>,
}

impl LayerWriter {
    /// Adds a line, without its line feed. They come in order.
    ///
    /// # Errors
    /// `StorageFull`, `Io`.
    pub fn push(&mut self, target: &mut Target, line: &[u8]) -> Result<()> {
        self.layer.lines += 1;
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        while self.bytes.len() >= CHUNK_BYTES {
            let rest = self.bytes.split_off(CHUNK_BYTES);
            self.write(target)?;
            self.bytes = rest;
        }
        Ok(())
    }

    /// The layer; `None` if it has no lines.
    ///
    /// # Errors
    /// As `push`.
    pub fn finish(mut self, target: &mut Target) -> Result<Option<Layer>> {
        if !self.bytes.is_empty() {
            self.write(target)?;
        }
        Ok((self.layer.lines > 0).then_some(self.layer))
    }

    fn write(&mut self, target: &mut Target) -> Result<()> {
        let compressed = zstd::bulk::compress(&self.bytes, COMPRESSION_LEVEL)
            .map_err(|error| Error::io("compressing a chunk of the backup", &error))?;
        target.files += 1;
        let name = content::file_name(target.files);
        let bytes = match &target.key {
            Some(key) => key.seal(&name, &compressed)?,
            None => compressed,
        };
        write_file(&content::file_path(&target.directory, &name), &bytes)?;
        self.layer.bytes += bytes.len() as u64;
        self.layer.files.push(name);
        Ok(())
    }
}

/// Writes a new file, durably.
///
/// # Errors
/// `StorageFull`, `Io`.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    written.map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
}

/// Takes a chunk file over from another backup: as a link to the same file, or as a copy on another file system.
///
/// # Errors
/// `Io`.
pub fn take_file(name: &str, from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (content::file_path(from, name), content::file_path(to, name));
    if fs::hard_link(&from, &to).is_ok() {
        return Ok(());
    }
    let copied = fs::read(&from).map_err(|e| Error::io(format_args!("reading {}", from.display()), &e));
    copied.and_then(|bytes| write_file(&to, &bytes))
}
