//! The bytes of one entry in a segment: a head, then the entry in postcard.
//!
//! ```text
//! 0..4    "RLF1"
//! 4..8    crc32 of all that follows, begun with the log's salt
//! 8..12   length of the entry, in bytes
//! 12..20  index
//! 20..28  term
//! 28..36  the leader of that term
//! 36..44  group: the index of the first frame that was written in one step with this one
//! 44..    the entry
//! ```
//!
//! Numbers are big-endian. The salt is random for each log, so that no value of a client can pass for a frame.
//!
//! A group is written and synced before the next begins. So a frame proves that every frame before its group was durable. That tells a
//! power cut from damage: a cut can spoil any frame of the last group, and no other.

use openraft::{CommittedLeaderId, EntryPayload};

use crate::{
    core::clock::NodeId,
    error::{Error, Result},
    replication::strong::types::{LogEntry, LogId},
};

/// Length of a head.
pub const HEAD_BYTES: usize = 44;
/// Longest encoded entry. A link carries 257 MiB in a message, and an entry must reach the followers in one.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"RLF1";
const CHECKED_FROM: usize = 8;

/// An entry, encoded, on its way to the disk.
#[derive(Debug)]
pub struct Frame {
    /// Its id.
    pub log_id: LogId,
    /// The entry in postcard.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Encodes an entry.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn new(entry: &LogEntry) -> Result<Self> {
        let payload = encode(entry)?;
        if payload.len() > ENTRY_BYTES_MAX {
            return Err(Error::TooLarge { what: "entry of the Raft log", limit: ENTRY_BYTES_MAX as u64 });
        }
        Ok(Self { log_id: entry.log_id, payload })
    }

    /// Length in the file.
    pub fn bytes(&self) -> usize {
        HEAD_BYTES + self.payload.len()
    }

    /// Appends the frame to a group that begins with index `group`.
    pub fn write(&self, salt: u64, group: u64, to: &mut Vec<u8>) {
        let start = to.len();
        let length = u32::try_from(self.payload.len()).expect("an entry is at most 256 MiB");
        to.extend_from_slice(&MAGIC);
        to.extend_from_slice(&[0; 4]);
        to.extend_from_slice(&length.to_be_bytes());
        to.extend_from_slice(&self.log_id.index.to_be_bytes());
        to.extend_from_slice(&self.log_id.leader_id.term.to_be_bytes());
        to.extend_from_slice(&self.log_id.leader_id.node_id.0.to_be_bytes());
        to.extend_from_slice(&group.to_be_bytes());
        to.extend_from_slice(&self.payload);
        let sum = checksum(salt, &to[start + CHECKED_FROM..]);
        to[start + 4..start + CHECKED_FROM].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Length of the entry, in bytes.
    pub length: usize,
    /// The entry's id.
    pub log_id: LogId,
    /// The index of the first frame of its group.
    pub group: u64,
}

impl Head {
    /// Length of the frame.
    pub fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.length
    }
}

/// The head of the frame that `bytes` begin with. `None` if there is no whole and undamaged one.
pub fn read(salt: u64, bytes: &[u8]) -> Option<Head> {
    let head = bytes.get(..HEAD_BYTES)?;
    if head[..4] != MAGIC {
        return None;
    }
    let length = u32::from_be_bytes(array(&head[8..12])) as usize;
    let checked = bytes.get(CHECKED_FROM..HEAD_BYTES + length)?;
    if length > ENTRY_BYTES_MAX || u32::from_be_bytes(array(&head[4..8])) != checksum(salt, checked) {
        return None;
    }
    let number = |at: usize| u64::from_be_bytes(array(&head[at..at + 8]));
    let leader = CommittedLeaderId::new(number(20), NodeId(number(28)));
    Some(Head { length, log_id: LogId::new(leader, number(12)), group: number(36) })
}

/// The first undamaged frame at or after `from`, with its place.
pub fn find(salt: u64, bytes: &[u8], from: usize) -> Option<(usize, Head)> {
    let places =
        (from..bytes.len().saturating_sub(HEAD_BYTES - 1)).filter(|at| bytes[*at..].starts_with(&MAGIC));
    places.into_iter().find_map(|at| Some((at, read(salt, &bytes[at..])?)))
}

/// The entry of the undamaged frame that `bytes` begin with. `None` if it is not what its head says.
pub fn decode(head: &Head, bytes: &[u8]) -> Option<LogEntry> {
    let (log_id, payload): (LogId, EntryPayload<_>) =
        postcard::from_bytes(bytes.get(HEAD_BYTES..head.frame_bytes())?).ok()?;
    (log_id == head.log_id).then_some(LogEntry { log_id, payload })
}

fn encode(entry: &LogEntry) -> Result<Vec<u8>> {
    postcard::to_stdvec(&(&entry.log_id, &entry.payload))
        .map_err(|e| Error::Io(format!("encoding entry {} of the Raft log: {e}", entry.log_id)))
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_be_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller cuts N bytes")
}
