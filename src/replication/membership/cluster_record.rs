//! What a node saves about its cluster: which one it is in, and up to when it held the same rows as others.

use serde::{Deserialize, Serialize};

use crate::{
    core::{clock::NodeId, protocol::agreement::Agreement},
    error::{Error, Result},
    storage::{
        Store,
        engine::agreement_file::{Agreed, Found},
    },
};

/// The name of the cluster record in the storage.
const CLUSTER_NOTE: &str = "cluster";
/// Its format. The former ones had other fields.
const CLUSTER_FORMAT: u8 = 4;
/// The name of the note that the agreement was in before it had a file of its own. Empty once it was moved there.
const AGREEMENT_NOTE: &str = "agreement";
const AGREEMENT_FORMAT: u8 = 1;

/// What a node saves about its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's id: random, made with its first node.
    pub cluster: u64,
    /// Whether the node has joined for good: it was complete, or the cluster started with it. Until then it switches to
    /// any cluster it meets.
    pub joined: bool,
    /// Whether it forgot members by force, without a majority.
    pub forced: bool,
    /// Its highest incarnation that is known to have been forgotten.
    pub forgotten: u64,
    /// Whether it returns since: it was forgotten and has not been complete again.
    pub returning: bool,
}

/// A record of format 3.
#[derive(Deserialize)]
struct Record3 {
    cluster: u64,
    joined: bool,
    forced: bool,
    forgotten: u64,
}

/// A record of format 1 or 2.
#[derive(Deserialize)]
struct FormerRecord {
    cluster: u64,
    joined: bool,
    _whole: bool,
    _shared: u64,
    /// Up to here the node and all members held the same rows (Unix milliseconds).
    held_ms: u64,
    forgotten: u64,
}

impl ClusterRecord {
    /// Reads the record, or makes a new node's.
    ///
    /// # Errors
    /// `StorageDamaged` if the record is unreadable.
    pub fn read(store: &Store) -> Result<Self> {
        let Some(note) = store.note(CLUSTER_NOTE)? else {
            let cluster = store.environment().random()?;
            return Ok(Self { cluster, joined: false, forced: false, forgotten: 0, returning: false });
        };
        Self::parse(&note).map(|(cluster_record, _)| cluster_record).ok_or_else(unreadable)
    }

    /// The record, and the agreement if it is of a former format.
    fn parse(note: &[u8]) -> Option<(Self, Agreement)> {
        let (format, rest) = note.split_first()?;
        match *format {
            CLUSTER_FORMAT => Some((postcard::from_bytes(rest).ok()?, Agreement::default())),
            3 => {
                let Record3 { cluster, joined, forced, forgotten } = postcard::from_bytes(rest).ok()?;
                let cluster_record = Self { cluster, joined, forced, forgotten, returning: false };
                Some((cluster_record, Agreement::default()))
            }
            1 | 2 => {
                let FormerRecord { cluster, joined, held_ms, forgotten, .. } =
                    postcard::from_bytes(rest).ok()?;
                let mut agreement = Agreement::default();
                agreement.reach(held_ms, []);
                Some((Self { cluster, joined, forced: false, forgotten, returning: false }, agreement))
            }
            _ => None,
        }
    }

    /// Writes the record. The next commit makes it durable.
    pub fn write(&self, store: &Store) -> Result<()> {
        let note = postcard::to_extend(self, vec![CLUSTER_FORMAT])
            .map_err(|e| Error::Io(format!("writing the note {CLUSTER_NOTE:?}: {e}")))?;
        store.set_note(CLUSTER_NOTE, &note)
    }
}

/// What a store keeps of the agreement with others. No instant to come, which was agreed while clocks were ahead: of
/// rows that are written until then it would claim that everybody has them. Such a claim is taken back on disk, too.
///
/// `members` are those that the store remembers. With one that was none when the agreement was written down, nothing was agreed: the store may
/// remember one that left long ago, where it is damaged. Those with whom it was are added then: the store may not remember them any more.
///
/// # Errors
/// As the storage's, and `StorageDamaged` for a note that this program did not write.
pub fn read_agreement(store: &Store, members: &mut Vec<NodeId>) -> Result<Agreement> {
    let agreed = match store.found_agreement() {
        Found::Kept(agreed) => {
            let mut agreed = agreed.clone();
            for unknown in members.iter().filter(|member| !agreed.members.contains(member)) {
                agreed.agreement.detach(*unknown, 0);
            }
            agreed
        }
        // A note that lies in the log may be older than rows that are there.
        Found::Absent if store.suspected_loss().is_none() => {
            Agreed { agreement: read_saved_agreement(store)?, members: members.iter().copied().collect() }
        }
        Found::Absent | Found::Unusable => Agreed::default(),
    };
    let agreed = store.keep_agreement(|| {
        let mut agreed = agreed;
        agreed.agreement.lower(store.now_ms());
        agreed
    })?;
    if store.note(AGREEMENT_NOTE)?.is_some() {
        store.set_note(AGREEMENT_NOTE, &[])?;
    }
    if store.suspected_loss().is_some() {
        members.extend(agreed.members);
    }
    Ok(agreed.agreement)
}

fn read_saved_agreement(store: &Store) -> Result<Agreement> {
    if let Some(note) = store.note(AGREEMENT_NOTE)? {
        let Some((format, rest)) = note.split_first() else { return Ok(Agreement::default()) };
        let read = if *format == AGREEMENT_FORMAT { postcard::from_bytes(rest).ok() } else { None };
        return read.ok_or_else(unreadable);
    }
    let from_former = store.note(CLUSTER_NOTE)?.and_then(|note| ClusterRecord::parse(&note));
    Ok(from_former.map(|(_, agreement)| agreement).unwrap_or_default())
}

fn unreadable() -> Error {
    Error::StorageDamaged("the record of the node's cluster is unreadable".into())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::storage::{self, Durability, Environment};

    #[test]
    fn the_current_and_former_formats_are_read() {
        let cluster_record =
            ClusterRecord { cluster: 1, joined: true, forced: true, forgotten: 3, returning: true };
        let note = postcard::to_extend(&cluster_record, vec![CLUSTER_FORMAT]).expect("encodes");
        assert_eq!(ClusterRecord::parse(&note), Some((cluster_record, Agreement::default())));
        assert_eq!(ClusterRecord::parse(&[]), None);
        let from_former = |format| {
            let fields = (1_u64, true, true, 70_000_u64, 2_u64, 3_u64);
            ClusterRecord::parse(&postcard::to_extend(&fields, vec![format]).expect("encodes"))
        };
        for format in [1, 2] {
            let (read, agreement) = from_former(format).expect("is read");
            assert_eq!(read, ClusterRecord { forced: false, returning: false, ..cluster_record });
            assert_eq!(agreement.with_all_ms(), 2);
        }
        let note = postcard::to_extend(&(1_u64, true, true, 3_u64), vec![3]).expect("encodes");
        let read = ClusterRecord { returning: false, ..cluster_record };
        assert_eq!(ClusterRecord::parse(&note), Some((read, Agreement::default())));
        assert_eq!(from_former(CLUSTER_FORMAT + 1), None);
    }

    /// Nodes whose clocks were ahead together agreed on future instants. They then claimed that all had the rows
    /// written until then, and a row that one node lacks of those counts as deleted.
    #[test]
    fn no_future_instant_is_agreed() {
        const NOW_MS: u64 = 1_763_689_000_000;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let open = || {
            let options = storage::Options {
                data: directory.path().join("storage.db"),
                durability: Durability::None,
                cache_bytes: 8 * 1024 * 1024,
                buffers: storage::Buffers::default(),
                scrub_bytes_per_second: 0,
                tables_max: 1,
                subscriptions_max: 1,
                set_aside_damaged: false,
                peers: storage::Peers::default(),
                environment: Environment::new(Arc::new(|| NOW_MS)),
            };
            Store::open(options).expect("opens")
        };
        let agreed = |at_ms: u64| {
            let mut agreement = Agreement::default();
            agreement.reach(at_ms, []);
            Agreed { agreement, members: BTreeSet::new() }
        };
        // What keeps another process out goes with the store.
        let close = |store: Store| store.close().expect("closes");
        let store = open();
        store.keep_agreement(|| agreed(NOW_MS)).expect("writes");
        close(store);
        let store = open();
        assert_eq!(read_agreement(&store, &mut Vec::new()), Ok(agreed(NOW_MS).agreement));
        store.keep_agreement(|| agreed(NOW_MS + 3_600_000)).expect("writes");
        close(store);
        let store = open();
        // Others may have been told so.
        let now = agreed(NOW_MS).agreement.with_reached_ms(NOW_MS + 3_600_000);
        assert_eq!(read_agreement(&store, &mut Vec::new()), Ok(now.clone()));
        close(store);
        let store = open();
        let now = Agreed { agreement: now, ..agreed(NOW_MS) };
        assert_eq!(store.found_agreement(), &Found::Kept(now), "nor on disk");
        close(store);
    }
}
