//! What a node remembers of its cluster over restarts: which it belongs to, and up to when it held the same rows as others.

use serde::{Deserialize, Serialize};

use crate::{
    core::protocol::agreement::Agreement,
    error::{Error, Result},
    storage::Store,
};

/// The name of the note of the cluster in the storage.
const CLUSTER_NOTE: &str = "cluster";
/// Its format. The two before had other fields.
const CLUSTER_FORMAT: u8 = 3;
/// The name of the note of the agreement.
const AGREEMENT_NOTE: &str = "agreement";
const AGREEMENT_FORMAT: u8 = 1;

/// What a node remembers of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's id: random, that of its first node.
    pub cluster: u64,
    /// Whether it belongs there for good: it has had all that the cluster has, or the cluster began with it. Before that it goes
    /// over to any cluster it meets.
    pub joined: bool,
    /// Whether it forgot members on an operator's word, without a majority.
    pub forced: bool,
    /// The highest of its incarnations that it knows to have been forgotten.
    pub forgotten: u64,
}

/// A note of format 1 or 2.
#[derive(Deserialize)]
struct FormerRecord {
    cluster: u64,
    joined: bool,
    _whole: bool,
    _shared: u64,
    /// Up to here (Unix milliseconds) the node and all members held the same.
    held_ms: u64,
    forgotten: u64,
}

impl ClusterRecord {
    /// What a store says, or else that of a new node.
    ///
    /// # Errors
    /// `StorageDamaged` for a note that this program did not write.
    pub fn read(store: &Store) -> Result<Self> {
        let Some(note) = store.note(CLUSTER_NOTE)? else {
            let cluster = store.machine().random()?;
            return Ok(Self { cluster, joined: false, forced: false, forgotten: 0 });
        };
        Self::parse(&note).map(|(cluster_record, _)| cluster_record).ok_or_else(unreadable)
    }

    /// What the note says, and what a former one says of the agreement.
    fn parse(note: &[u8]) -> Option<(Self, Agreement)> {
        let (format, rest) = note.split_first()?;
        match *format {
            CLUSTER_FORMAT => Some((postcard::from_bytes(rest).ok()?, Agreement::default())),
            1 | 2 => {
                let FormerRecord { cluster, joined, held_ms, forgotten, .. } =
                    postcard::from_bytes(rest).ok()?;
                let mut agreement = Agreement::default();
                agreement.reach(held_ms, []);
                Some((Self { cluster, joined, forced: false, forgotten }, agreement))
            }
            _ => None,
        }
    }

    /// Writes it down. Durable by the next commit.
    pub fn write(&self, store: &Store) -> Result<()> {
        write(store, CLUSTER_NOTE, CLUSTER_FORMAT, self)
    }
}

/// Up to when the node of a store held the same rows as others. No instant to come, which was agreed while clocks were ahead: of rows that
/// are written until then it would claim that everybody has them. Such a claim is taken back on disk, too, by the next commit.
///
/// # Errors
/// `StorageDamaged` for a note that this program did not write.
pub fn read_agreement(store: &Store) -> Result<Agreement> {
    let mut agreement = read_saved_agreement(store)?;
    if agreement.lower(store.now_ms()) {
        write_agreement(store, &agreement)?;
    }
    Ok(agreement)
}

fn read_saved_agreement(store: &Store) -> Result<Agreement> {
    if let Some(note) = store.note(AGREEMENT_NOTE)? {
        let read = note.split_first().filter(|(format, _)| **format == AGREEMENT_FORMAT);
        return read.and_then(|(_, rest)| postcard::from_bytes(rest).ok()).ok_or_else(unreadable);
    }
    let from_former = store.note(CLUSTER_NOTE)?.and_then(|note| ClusterRecord::parse(&note));
    Ok(from_former.map(|(_, agreement)| agreement).unwrap_or_default())
}

/// Writes the agreement down. Durable by the next commit, and no later than what is stored after it.
pub fn write_agreement(store: &Store, agreement: &Agreement) -> Result<()> {
    write(store, AGREEMENT_NOTE, AGREEMENT_FORMAT, agreement)
}

fn write(store: &Store, name: &str, format: u8, note: &impl Serialize) -> Result<()> {
    let note = postcard::to_extend(note, vec![format])
        .map_err(|e| Error::Io(format!("writing the note {name:?}: {e}")))?;
    store.set_note(name, &note)
}

fn unreadable() -> Error {
    Error::StorageDamaged("the note of the node's cluster is not readable".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::{self, Durability, Machine};

    #[test]
    fn a_note_is_read_in_its_format_and_the_former_ones() {
        let cluster_record = ClusterRecord { cluster: 1, joined: true, forced: true, forgotten: 3 };
        let note = postcard::to_extend(&cluster_record, vec![CLUSTER_FORMAT]).expect("encodes");
        assert_eq!(ClusterRecord::parse(&note), Some((cluster_record, Agreement::default())));
        assert_eq!(ClusterRecord::parse(&[]), None);
        let from_former = |format| {
            let fields = (1_u64, true, true, 70_000_u64, 2_u64, 3_u64);
            ClusterRecord::parse(&postcard::to_extend(&fields, vec![format]).expect("encodes"))
        };
        for format in [1, 2] {
            let (read, agreement) = from_former(format).expect("is read");
            assert_eq!(read, ClusterRecord { forced: false, ..cluster_record });
            assert_eq!(agreement.with_all_ms(), 2);
        }
        assert_eq!(from_former(CLUSTER_FORMAT + 1), None);
    }

    /// Nodes whose clocks were ahead together agreed on instants to come. Of what is written until then they would have claimed that all
    /// have it, and what all have and one lacks counts as deleted.
    #[test]
    fn no_instant_to_come_is_agreed() {
        const NOW_MS: u64 = 1_763_689_000_000;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let open = || {
            let options = storage::Options {
                data: directory.path().join("storage.db"),
                durability: Durability::None,
                cache_bytes: 8 * 1024 * 1024,
                scrub_bytes_per_second: 0,
                tables_max: 1,
                subscriptions_max: 1,
                set_aside_damaged: false,
                peers: storage::Peers::default(),
                machine: Machine::new(Arc::new(|| NOW_MS)),
            };
            Store::open(options).expect("opens")
        };
        let store = open();
        let agreed = |at_ms: u64| {
            let mut agreement = Agreement::default();
            agreement.reach(at_ms, []);
            agreement
        };
        write_agreement(&store, &agreed(NOW_MS)).expect("writes");
        assert_eq!(read_agreement(&store), Ok(agreed(NOW_MS)));
        write_agreement(&store, &agreed(NOW_MS + 3_600_000)).expect("writes");
        assert_eq!(read_agreement(&store), Ok(agreed(NOW_MS)));
        assert_eq!(read_saved_agreement(&store), Ok(agreed(NOW_MS)), "nor on disk");
        store.close().expect("closes");
    }
}
