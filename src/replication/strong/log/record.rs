//! The small files beside the segments: the state of the log, the vote, and the mark.
//!
//! State and vote are replaced in one step and durable on return. They are sealed with a checksum, and written when the log is created, so
//! that a missing one is damage and never taken for a new log. A wrong vote could vote twice in one term, and then two leaders write.
//!
//! The mark says what was synced and committed. It is written in place after every sync of the log and not synced itself, so it may lag
//! and is never ahead. A log that ends before its mark has lost entries that were acknowledged.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::damaged;
use crate::{
    error::{Error, Result},
    replication::strong::types::{LogId, Vote},
    storage::engine::{
        self,
        notes::{seal, unseal},
    },
};

/// The file of the state.
pub const STATE_FILE: &str = "state";
/// The file of the vote.
pub const VOTE_FILE: &str = "vote";
/// The file of the mark.
pub const MARK_FILE: &str = "mark";

const FORMAT: u8 = 1;
/// One sector, so that the disk writes all of it or nothing.
const MARK_BYTES: usize = 512;

/// Which entries and segments are part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Random, part of every checksum of the log.
    pub salt: u64,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The first index of the newest segment. Files of later segments are left from a change that a crash interrupted.
    pub newest: u64,
    /// Entries of the newest segment from here on are truncated, though the file may still have them.
    pub cut: Option<u64>,
}

/// What was synced and committed, at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Every entry below this index was synced.
    pub synced_next: u64,
    /// The last committed entry, as far as openraft said.
    pub committed: Option<LogId>,
}

/// Reads the state. `None` if there is no file.
///
/// # Errors
/// `StorageDamaged`, `Io`.
pub fn read_state(directory: &Path) -> Result<Option<State>> {
    read(directory, STATE_FILE)
}

/// Replaces the state, durably.
///
/// # Errors
/// `StorageFull`, `Io`.
pub fn write_state(directory: &Path, state: &State) -> Result<()> {
    write(directory, STATE_FILE, state)
}

/// Reads the vote. The outer `None` says that there is no file, the inner one that no vote was saved yet.
///
/// # Errors
/// `StorageDamaged`, `Io`.
pub fn read_vote(directory: &Path) -> Result<Option<Option<Vote>>> {
    read(directory, VOTE_FILE)
}

/// Replaces the vote, durably.
///
/// # Errors
/// `StorageFull`, `Io`.
pub fn write_vote(directory: &Path, vote: Option<&Vote>) -> Result<()> {
    write(directory, VOTE_FILE, &vote)
}

/// Reads the mark. One that is missing or torn proves nothing, and is that of an empty log.
///
/// # Errors
/// `Io`.
pub fn read_mark(directory: &Path) -> Result<Mark> {
    let path = directory.join(MARK_FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(unseal_mark(&bytes).unwrap_or_default()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Mark::default()),
        Err(e) => Err(Error::io(format_args!("reading {}", path.display()), &e)),
    }
}

/// The open file of the mark.
#[derive(Debug)]
pub struct MarkFile(File);

impl MarkFile {
    /// Opens the file, and creates it if it is missing.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(MARK_FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        file.map(Self).map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))
    }

    /// Writes the mark, unsynced.
    ///
    /// # Errors
    /// That of the system.
    pub fn write(&self, mark: &Mark) -> io::Result<()> {
        let encoded = postcard::to_stdvec(mark).map_err(io::Error::other)?;
        let length = u8::try_from(encoded.len()).map_err(io::Error::other)?;
        let mut bytes = seal(&[&[FORMAT, length], encoded.as_slice()].concat());
        bytes.resize(MARK_BYTES, 0);
        self.0.write_all_at(&bytes, 0)
    }

    /// Makes the mark durable.
    ///
    /// # Errors
    /// That of the system.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn unseal_mark(bytes: &[u8]) -> Option<Mark> {
    const SUM_BYTES: usize = 8;
    let length = usize::from(*bytes.get(SUM_BYTES + 1)?);
    let (format, rest) = unseal(bytes.get(..SUM_BYTES + 2 + length)?)?.split_first()?;
    if *format == FORMAT { postcard::from_bytes(&rest[1..]).ok() } else { None }
}

fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>> {
    let path = directory.join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format_args!("reading {}", path.display()), &e)),
    };
    let content = unseal(&bytes).and_then(<[u8]>::split_first);
    match content {
        Some((&FORMAT, rest)) => {
            postcard::from_bytes(rest).map(Some).map_err(|_| damaged(&path, 0, "cannot be read"))
        }
        Some((format, _)) => Err(Error::StorageUnusable(format!(
            "{} has format {format}, which this version does not know: use the version that wrote it, or a later one",
            path.display()
        ))),
        None => Err(damaged(&path, 0, "its checksum is wrong")),
    }
}

fn write<T: Serialize>(directory: &Path, name: &str, content: &T) -> Result<()> {
    let bytes = postcard::to_extend(content, vec![FORMAT])
        .map_err(|e| Error::Io(format!("encoding {name} of the Raft log: {e}")))?;
    engine::replace_file(directory, name, &seal(&bytes))
}
