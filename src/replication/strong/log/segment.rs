//! Segments: the files of the log. Each begins with a head and is appended to, frame by frame, until the next segment begins.
//!
//! ```text
//! 0..8    "RLS" and five zeros
//! 8..16   the index of its first entry, also the file's name
//! 16..20  crc32 of that, begun with the log's salt
//! 20..    frames
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{damaged, frame};
use crate::{
    error::{Error, Result},
    replication::strong::types::LogEntry,
};

/// A new segment begins when the newest is this long. Small enough that purging, which removes whole segments, keeps little that is not
/// needed, and that one fits in memory while the log is opened; large enough that the four syncs of a new segment are rare.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Length of a segment's head.
pub const HEAD_BYTES: usize = 20;

const MAGIC: [u8; 8] = *b"RLS\0\0\0\0\0";
const EXTENSION: &str = "log";

/// Where the entries of a segment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The index of its first entry.
    pub first: u64,
    /// The place of each frame.
    pub offsets: Vec<u32>,
    /// Length of the file as far as it is part of the log.
    pub bytes: u64,
}

impl Segment {
    /// A segment without entries.
    pub fn empty(first: u64) -> Self {
        Self { first, offsets: Vec::new(), bytes: HEAD_BYTES as u64 }
    }

    /// The index after its last entry.
    pub fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    /// Where the frame of `index` begins, or would if it is the next.
    pub fn offset(&self, index: u64) -> u64 {
        let place = usize::try_from(index - self.first).ok().and_then(|place| self.offsets.get(place));
        place.map_or(self.bytes, |offset| u64::from(*offset))
    }

    /// The entries from `start`, which it has, up to and without `end`, as far as it has them and they are not longer than `bytes_max`;
    /// at least one.
    pub fn span(&self, start: u64, end: u64, bytes_max: usize) -> Span {
        let from = self.offset(start);
        let limit = from.saturating_add(bytes_max as u64);
        let fitting = self.offsets.partition_point(|offset| u64::from(*offset) <= limit) as u64;
        // The last frame that begins within the limit ends beyond it, unless it is the last of all.
        let fitting = self.first + if self.bytes <= limit { fitting } else { fitting - 1 };
        let end = fitting.max(start + 1).min(end).min(self.next());
        Span { segment: self.first, start, end, from, to: self.offset(end) }
    }

    /// Adds a frame of this length.
    pub fn push(&mut self, frame_bytes: usize) {
        self.offsets
            .push(u32::try_from(self.bytes).expect("a segment ends with the frame that passes its length"));
        self.bytes += frame_bytes as u64;
    }

    /// Removes the entries from `index` on.
    pub fn truncate(&mut self, index: u64) {
        self.bytes = self.offset(index);
        self.offsets.truncate(usize::try_from(index - self.first).unwrap_or(usize::MAX));
    }
}

/// Some entries of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The segment's first index.
    pub segment: u64,
    /// The first entry.
    pub start: u64,
    /// The index after the last entry.
    pub end: u64,
    /// Where the first frame begins.
    pub from: u64,
    /// Where the last frame ends.
    pub to: u64,
}

/// The file of the segment that begins with `first`.
pub fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:020}.{EXTENSION}"))
}

/// The first indexes of all segments in a directory, in order.
///
/// # Errors
/// `Io`.
pub fn list(directory: &Path) -> Result<Vec<u64>> {
    let failed = |e: io::Error| Error::io(format_args!("reading {}", directory.display()), &e);
    let mut firsts = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        firsts.extend(stem.filter(|first| self::path(directory, *first) == path));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Creates an empty segment, over what may be left of one, and makes the file durable; its name is not yet.
///
/// # Errors
/// That of the system.
pub fn create(directory: &Path, salt: u64, first: u64) -> io::Result<File> {
    let path = path(directory, first);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(&head(salt, first))?;
    file.sync_all()?;
    Ok(file)
}

/// Opens a segment to append to it.
///
/// # Errors
/// `Io`.
pub fn open(directory: &Path, first: u64) -> Result<File> {
    let path = path(directory, first);
    let file = OpenOptions::new().read(true).write(true).open(&path);
    file.map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))
}

/// Reads the entries of a span, each with the length of its frame.
///
/// # Errors
/// `StorageDamaged`, `Io`.
pub fn read(directory: &Path, salt: u64, span: &Span) -> Result<Vec<(LogEntry, usize)>> {
    let path = path(directory, span.segment);
    let mut bytes = vec![0; usize::try_from(span.to - span.from).expect("a segment fits in memory")];
    let filled = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, span.from));
    filled.map_err(|e| Error::io(format_args!("reading {} at byte {}", path.display(), span.from), &e))?;
    let mut entries = Vec::new();
    let mut at = 0;
    for index in span.start..span.end {
        let head = frame::read(salt, &bytes[at..]).filter(|head| head.log_id.index == index);
        let entry = head.and_then(|head| Some((frame::decode(&head, &bytes[at..])?, head.frame_bytes())));
        let place = span.from + at as u64;
        let entry = entry.ok_or_else(|| damaged(&path, place, &format!("entry {index} cannot be read")))?;
        at += entry.1;
        entries.push(entry);
    }
    Ok(entries)
}

/// All bytes of a segment, from the disk: what the system holds of the file is dropped first, because after a failed sync it takes
/// unwritten bytes for written ones.
///
/// # Errors
/// `StorageDamaged` if the head is wrong, `Io`.
pub fn load(directory: &Path, salt: u64, first: u64) -> Result<Vec<u8>> {
    let path = path(directory, first);
    let mut bytes = Vec::new();
    let loaded = File::open(&path).and_then(|mut file| {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        file.read_to_end(&mut bytes)
    });
    loaded.map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
    if !bytes.starts_with(&head(salt, first)) {
        return Err(damaged(&path, 0, "the head of the segment is wrong"));
    }
    Ok(bytes)
}

fn head(salt: u64, first: u64) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&first.to_be_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_be_bytes());
    hasher.update(&bytes[..16]);
    bytes[16..].copy_from_slice(&hasher.finalize().to_be_bytes());
    bytes
}
