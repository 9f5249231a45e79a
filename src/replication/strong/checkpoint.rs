//! The checkpoint: an index whose effects are durable in the store. After a crash, entries are applied again from there.

use openraft::{SnapshotMeta, StoredMembership};
use serde::{Deserialize, Serialize};

use super::{
    rpc::GroupId,
    types::{LogId, Node},
};
use crate::{
    core::clock::NodeId,
    error::{Error, Result},
    storage::Store,
};

/// The note of the checkpoint.
const NOTE: &str = "strong/checkpoint";

/// How far entries were applied, and who the members are as of there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last entry.
    pub applied: Option<LogId>,
    /// The members.
    pub membership: StoredMembership<NodeId, Node>,
}

/// A log that begins anew, durable before the old one is removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reset {
    /// Its group.
    pub group: GroupId,
    /// What the new log begins behind: the first voter's rows. Empty for whoever is sent a snapshot.
    pub begins: Checkpoint,
    /// The group that this one takes the place of. The node has forgotten what it promised there, and may not go back.
    pub replaces: GroupId,
}

impl Checkpoint {
    /// The last checkpoint of a store.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read.
    pub fn read(store: &Store) -> Result<Self> {
        let Some(note) = store.note(NOTE)? else { return Ok(Self::default()) };
        postcard::from_bytes(&note).map_err(|_| {
            Error::Corrupt("the record of how far the log of the strong tables was applied".into())
        })
    }

    /// Makes it the checkpoint of a store. Durable by the next commit.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn write(&self, store: &Store) -> Result<()> {
        store.set_note(NOTE, &postcard::to_stdvec(self).expect("a checkpoint can be encoded"))
    }

    /// What a snapshot of it is called.
    pub fn meta(self) -> SnapshotMeta<NodeId, Node> {
        let snapshot_id = self.applied.map_or_else(|| "0".into(), |applied| applied.to_string());
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership, snapshot_id }
    }
}
