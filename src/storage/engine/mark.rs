//! The durable mark: a small file beside the log that says how much of the log was durable, and after a clean close, what the store held.
//!
//! ```text
//! 0..8    position in the log
//! 8..16   the first 8 bytes of the blake3 of that
//! 16      version, 1
//! 17      1 if the store was closed after this and nothing was written since
//! 18..58  after a close: number of rows and sum of their digests, if known; else zeros
//! 58..66  the first 8 bytes of the blake3 of all before
//! ```
//!
//! Numbers are big-endian. The mark is written after every sync, but synced only at a close and at the start after it, so it may lag and is
//! never ahead. Before version 1 it ended at byte 16.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::{
    core::digest::SUM_BYTES,
    error::{Error, Result},
};

const FILE: &str = "dynarust.mark";
const POSITION_BYTES: usize = 16;
const BYTES: usize = 66;
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 8;
/// Length of the content sum.
const CONTENT_BYTES: usize = SUM_BYTES;

/// Number of rows and the sum of their digests.
pub type ContentSum = [u8; CONTENT_BYTES];

/// The content of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The last durable position.
    pub position: i64,
    /// Whether the store was closed and nothing was written since.
    pub is_closed: bool,
    /// What the store held then, if that was known.
    pub content: Option<ContentSum>,
}

impl Mark {
    fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&self.position.to_be_bytes());
        let check = check(&bytes[..8]);
        bytes[8..POSITION_BYTES].copy_from_slice(&check);
        bytes[16] = VERSION;
        bytes[17] = u8::from(self.is_closed);
        bytes[18..58].copy_from_slice(&self.content.unwrap_or([0; CONTENT_BYTES]));
        let check = self::check(&bytes[..BYTES - CHECK_BYTES]);
        bytes[BYTES - CHECK_BYTES..].copy_from_slice(&check);
        bytes
    }

    /// `None` if the bytes are not a mark.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (position, rest) = bytes.split_first_chunk::<8>()?;
        if rest.first_chunk() != Some(&check(position)) {
            return None;
        }
        let position = i64::from_be_bytes(*position);
        let before = Self { position, is_closed: false, content: None };
        let Some(bytes) = bytes.first_chunk::<BYTES>() else { return Some(before) };
        let (said, kept) = bytes.split_at(BYTES - CHECK_BYTES);
        // An older program overwrites the position and leaves the rest.
        if said[16] != VERSION || *kept != check(said) {
            return Some(before);
        }
        let content =
            said[18..].first_chunk().copied().filter(|content: &ContentSum| *content != [0; CONTENT_BYTES]);
        Some(Self { is_closed: said[17] == 1, content, ..before })
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("a hash has eight bytes")
}

/// What was found in place of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No mark, or one that was incomplete when the power went.
    Nothing,
    /// Bytes that are not a mark.
    Damaged,
    /// A mark.
    Mark(Mark),
}

impl Found {
    /// The mark, if there is one.
    pub fn mark(self) -> Option<Mark> {
        match self {
            Self::Mark(mark) => Some(mark),
            Self::Nothing | Self::Damaged => None,
        }
    }
}

/// Reads the mark of the store in `data`.
///
/// # Errors
/// `Io`.
pub fn read(data: &Path) -> Result<Found> {
    let path = data.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Err(Error::io(format_args!("reading {}", path.display()), &e)),
    };
    // After a power cut a file may have its new length without its content.
    if bytes.len() < POSITION_BYTES || bytes.iter().all(|byte| *byte == 0) {
        return Ok(Found::Nothing);
    }
    Ok(Mark::parse(&bytes).map_or(Found::Damaged, Found::Mark))
}

/// A mark's file, open for writing.
pub struct MarkFile(File);

impl MarkFile {
    /// Opens or creates the mark of the store in `data`.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(data: &Path) -> Result<Self> {
        let path = data.join(FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        file.map(Self).map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))
    }

    /// Writes a mark.
    ///
    /// # Errors
    /// Those of the system.
    pub fn write(&self, mark: &Mark) -> io::Result<()> {
        self.0.write_all_at(&mark.encode(), 0)
    }

    /// Makes the mark durable.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark { position: 0x0102_0304, is_closed: true, content: Some([7; CONTENT_BYTES]) }
    }

    #[test]
    fn the_format_on_disk_stays() {
        let hex: String = mark().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let content = "07".repeat(CONTENT_BYTES);
        let golden = format!("0000000001020304718399bd8fba55dc0101{content}815b4621dd79866f");
        assert_eq!(hex, golden);
        assert_eq!(Mark::parse(&mark().encode()), Some(mark()));
    }

    #[test]
    fn a_mark_of_an_earlier_version_is_read() {
        let before = Mark { is_closed: false, content: None, ..mark() };
        assert_eq!(Mark::parse(&mark().encode()[..POSITION_BYTES]), Some(before));
        // An older program wrote over a newer mark.
        let mut mixed = mark().encode();
        mixed[..POSITION_BYTES].copy_from_slice(&Mark { position: 9, ..mark() }.encode()[..POSITION_BYTES]);
        assert_eq!(Mark::parse(&mixed), Some(Mark { position: 9, ..before }));
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(directory.path()), Ok(Found::Nothing));
        let file = MarkFile::open(directory.path()).expect("opens");
        file.write(&mark()).expect("writes");
        assert_eq!(read(directory.path()), Ok(Found::Mark(mark())));
        for bit in 0..BYTES * 8 {
            let mut bytes = mark().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let parsed = Mark::parse(&bytes);
            assert!(parsed.is_none() || parsed.is_some_and(|parsed| parsed.content.is_none()), "bit {bit}");
        }
    }
}
