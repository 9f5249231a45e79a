//! What a node remembers of its cluster over restarts: which it belongs to, whether it has all of it, and up to when it shared
//! what it wrote.

use serde::{Deserialize, Serialize};

use crate::{
    core::clock::last_reading,
    error::{Error, Result},
    storage::Store,
};

/// The name of the note in the storage.
const NOTE: &str = "cluster";
/// The format of the note, and the one before, in which `shared_hlc` was a Unix millisecond.
const FORMAT: u8 = 2;
const FORMAT_OF_MS: u8 = 1;

/// What a node remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// The cluster's id: random, that of its first node.
    pub cluster: u64,
    /// Whether it belongs there for good: it has had all that the cluster has, or the cluster began with it. Before that it goes
    /// over to any cluster it meets.
    pub settled: bool,
    /// Whether it has finished its first sync.
    pub whole: bool,
    /// Up to this reading of its clock others had what it wrote.
    pub shared_hlc: u64,
    /// Up to here (Unix milliseconds) it had all that the cluster had.
    pub held_ms: u64,
    /// The highest of its incarnations that it knows to have been forgotten.
    pub forgotten: u64,
}

impl Birth {
    /// What a store says, or else that of a new node: one that is to join others is not whole before it has what they have.
    ///
    /// # Errors
    /// `StorageDamaged` for a note that this program did not write.
    pub fn read(store: &Store, joins: bool) -> Result<Self> {
        let Some(note) = store.note(NOTE)? else {
            let cluster = store.machine().random()?;
            return Ok(Self {
                cluster,
                settled: false,
                whole: !joins,
                shared_hlc: 0,
                held_ms: 0,
                forgotten: 0,
            });
        };
        Self::parse(&note)
            .ok_or_else(|| Error::StorageDamaged("the note of the node's cluster is not readable".into()))
    }

    fn parse(note: &[u8]) -> Option<Self> {
        let (format, rest) = note.split_first()?;
        let birth: Self = postcard::from_bytes(rest).ok()?;
        match *format {
            FORMAT => Some(birth),
            // Nothing was shared yet where it is 0.
            FORMAT_OF_MS if birth.shared_hlc > 0 => {
                Some(Self { shared_hlc: last_reading(birth.shared_hlc), ..birth })
            }
            FORMAT_OF_MS => Some(birth),
            _ => None,
        }
    }

    /// Writes it down. Durable by the next commit.
    pub fn write(&self, store: &Store) -> Result<()> {
        let note = postcard::to_extend(self, vec![FORMAT])
            .map_err(|e| Error::Io(format!("writing the note of the cluster: {e}")))?;
        store.set_note(NOTE, &note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_in_either_format_and_in_no_other() {
        let birth =
            Birth { cluster: 1, settled: true, whole: true, shared_hlc: 70_000, held_ms: 2, forgotten: 3 };
        let note = |format, birth: &Birth| postcard::to_extend(birth, vec![format]).expect("encodes");
        assert_eq!(Birth::parse(&note(FORMAT, &birth)), Some(birth));
        let of_ms = Birth { shared_hlc: 70_000 << 16 | 0xffff, ..birth };
        assert_eq!(Birth::parse(&note(FORMAT_OF_MS, &birth)), Some(of_ms));
        let fresh = Birth { shared_hlc: 0, ..birth };
        assert_eq!(Birth::parse(&note(FORMAT_OF_MS, &fresh)), Some(fresh));
        assert_eq!(Birth::parse(&note(FORMAT + 1, &birth)), None);
        assert_eq!(Birth::parse(&[]), None);
    }
}
