//! The engine's log as bytes, read without the engine: to find damage before the engine opens it, and to salvage rows from a log that the
//! engine cannot open.
//!
//! The engine (sled 0.34.7) writes one file, `db`, in segments of 2 MiB. A segment starts with a header, which gives its position in the
//! log; frames follow, each with its checksum, the segment's number and the number of its page. A page is the last frame that replaces it
//! (its base) and the deltas after that. At each start the engine writes a snapshot: how long the log is, and where the frames of each page
//! are. At the next start it replays the segments from there on. If a frame does not match its checksum, the engine silently treats the
//! rest of the segment, or of the log, as never written; so all of that is checked here first.

pub mod format;
pub mod pages;

pub mod snapshot;
pub mod walk;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use self::format::SEGMENT_BYTES;
use crate::error::{Error, Result};

/// File name of the log in a storage directory.
pub const LOG_FILE: &str = "db";

/// A log file, open for reading.
pub struct Log {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Log {
    /// Opens the log in `data`; `None` if there is none.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(data: &Path) -> Result<Option<Self>> {
        let path = data.join(LOG_FILE);
        let failed = |e| Error::io(format_args!("opening {}", path.display()), &e);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Some(Self { file, path, bytes }))
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of segments; the last may be short.
    pub fn segments(&self) -> u64 {
        self.bytes.div_ceil(SEGMENT_BYTES)
    }

    /// Reads from `offset` until `buffer` is full or the log ends; returns the number of bytes read.
    ///
    /// # Errors
    /// `Io`, also if the disk cannot read a sector.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let at = offset + read as u64;
                    return Err(Error::io(format_args!("reading {} at {at}", self.path.display()), &e));
                }
            }
        }
        Ok(read)
    }

    /// Reads one segment into `buffer`. Unreadable sectors become zeros, which are no valid frame.
    pub fn read_segment(&self, slot: u64, buffer: &mut Vec<u8>) {
        const SECTOR_BYTES: usize = 4096;
        let offset = slot * SEGMENT_BYTES;
        let length = SEGMENT_BYTES.min(self.bytes.saturating_sub(offset)) as usize;
        buffer.resize(length, 0);
        if self.read(offset, buffer).is_ok_and(|read| read == length) {
            return;
        }
        for (number, sector) in buffer.chunks_mut(SECTOR_BYTES).enumerate() {
            if self.read(offset + (number * SECTOR_BYTES) as u64, sector).is_err() {
                sector.fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
