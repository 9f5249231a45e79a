//! openraft's types as the group has them.

use openraft::impls::OneshotResponder;
use serde::{Deserialize, Serialize};

use super::runtime::Runtime;
use crate::core::{
    clock::NodeId,
    strong::entry::{Applied, Entry},
};

openraft::declare_raft_types!(
    /// The types of the group.
    pub Group:
        D = Entry,
        R = Applied,
        NodeId = NodeId,
        Node = Node,
        Entry = openraft::Entry<Group>,
        SnapshotData = SnapshotData,
        Responder = OneshotResponder<Group>,
        AsyncRuntime = Runtime,
);

/// What a snapshot is until it is sent: only its meta, because the rows are read from the store while it is sent, and a
/// snapshot may hold rows that are newer than its index.
#[derive(Clone, Debug, Default)]
pub struct SnapshotData;

/// What the group knows of a member beside its id. The cluster's membership has its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// An operator made it a learner: the leader does not make it a voter by itself.
    pub is_demoted: bool,
}
/// An id of an entry: term, leader and index.
pub type LogId = openraft::LogId<NodeId>;
/// A vote.
pub type Vote = openraft::Vote<NodeId>;
/// An entry of the log as openraft keeps it.
pub type LogEntry = openraft::Entry<Group>;
/// An error of the log or the state machine.
pub type StorageError = openraft::StorageError<NodeId>;
/// What openraft tells of itself.
pub type Metrics = openraft::RaftMetrics<NodeId, Node>;
