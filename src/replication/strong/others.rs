//! What a member knows of the other nodes, mostly as the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::error;

use crate::core::clock::NodeId;

/// A member that was taken out is not taken in again for this long, in which it leaves the cluster.
const RETIRED: Duration = Duration::from_secs(60);

/// The other nodes.
#[derive(Debug, Default)]
pub struct Others {
    /// Members that left the group to leave the cluster, and when.
    retired: Mutex<BTreeMap<NodeId, Instant>>,
    /// Members whose rows were other than this node's at the same index, as the leader last found.
    differing: Mutex<BTreeSet<NodeId>>,
    /// Nodes of the cluster that belong to another group, as the leader last found.
    foreign: Mutex<BTreeSet<NodeId>>,
    /// Members whose rows this node is repairing.
    repairing: Mutex<BTreeSet<NodeId>>,
}

impl Others {
    /// Notes that this node repairs the rows of a member. Returns false if it does already.
    pub fn begins_repair(&self, node: NodeId) -> bool {
        self.repairing.lock().unwrap_or_else(PoisonError::into_inner).insert(node)
    }

    /// Whether this node repairs the rows of a member.
    pub fn repairs(&self) -> bool {
        !self.repairing.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Notes that it does no more.
    pub fn ended_repair(&self, node: NodeId) {
        self.repairing.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// Records whether a member holds the same rows as this node, at the same index.
    pub fn note_digest(&self, node: NodeId, is_equal: bool) {
        let mut differing = self.differing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = if is_equal { differing.remove(&node) } else { differing.insert(node) };
        if is_news && !is_equal {
            error!(%node, "a member has other rows of the strong tables than the leader at the same index: please report this");
        }
    }

    /// Members that were found to have other rows than this node at the same index, while it led.
    pub fn differing(&self) -> BTreeSet<NodeId> {
        self.differing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records whether a node of the cluster belongs to another group, as one does that comes back after an operator has started another.
    pub fn note_foreign(&self, node: NodeId, is_foreign: bool) {
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = if is_foreign { foreign.insert(node) } else { foreign.remove(&node) };
        if is_news && is_foreign {
            error!(%node, "a node of the cluster has strong tables of another group, which cannot be merged with these: it is not taken in. \
                           Export what it has in them, start it with an empty data directory, and import there");
        }
    }

    /// Nodes of the cluster that were found to belong to another group, while this node led.
    pub fn foreign(&self) -> BTreeSet<NodeId> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A member is about to leave the cluster, or stays after all.
    pub fn note_leaving(&self, node: NodeId, leaves: bool) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        match leaves {
            true => retired.insert(node, Instant::now()),
            false => retired.remove(&node),
        };
    }

    /// Whether a member left the group just now to leave the cluster. After a while it has left, or it stays.
    pub fn is_retired(&self, node: NodeId) -> bool {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.get(&node).is_some_and(|since| since.elapsed() < RETIRED)
    }
}
