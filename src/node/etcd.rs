//! The etcd API as calls of the node: what its requests come to is decided in [`core::etcd`](crate::core::etcd), by the leader where they
//! write. Reads are served from here, as those of any strong table.
//!
//! `reads`: a read is at one revision, however long it is. `watch_stream`: watchers at their place in the history.

mod reads;
mod snapshot;
mod watch_stream;

use std::{collections::BTreeMap, sync::Arc};

pub use self::{
    reads::{Hashed, Reserve},
    watch_stream::WatchStream,
};
use super::{Node, strong::Consistency};
pub use crate::replication::strong::leases::{LeaseCall, LeaseTime};
use crate::{
    core::{
        clock::NodeId,
        etcd::{
            self,
            history::UNKNOWN,
            request::{Answer, Body, Operation, Outcome, Request},
            row::Head,
        },
        strong,
    },
    error::{Error, Result},
    replication::strong::{
        revisions::{checked_head, head},
        view::Position,
    },
};

/// Who answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// This node.
    pub member: u64,
    /// Where the group of the strong tables is; that of none before there is one.
    pub position: Position,
}

impl Identity {
    /// Whether there is a group, and nobody leads it.
    pub fn is_leaderless(&self) -> bool {
        self.position.group != 0 && self.position.leader.is_none()
    }
}

impl Node {
    /// Has a request decided, by the leader. The first one makes the table.
    ///
    /// # Errors
    /// As [`Node::write`] to a strong table; `WrongMode` and `Conflict` if there is a table of this name that is not the API's.
    pub async fn etcd(&self, request: Request) -> Result<Outcome> {
        if !self.turns_out_strong(etcd::table()).await {
            self.create_strong(etcd::table().clone()).await?;
        }
        let _permit = self.write_tracker.begin()?;
        match self.strong.submit(strong::request::Request::Etcd(request)).await? {
            strong::request::Outcome::Etcd(outcome) => Ok(outcome),
            other => Err(Error::Corrupt(format!("the answer to another request: {other:?}"))),
        }
    }

    /// Does an operation, wherever that is best. `reserve` is called while keys are read, with the bytes of all so far: where it fails, so does
    /// the operation.
    ///
    /// # Errors
    /// As [`Node::etcd`]; `NotReady`; those of `reserve`.
    pub async fn etcd_operate(
        self: &Arc<Self>,
        operation: Operation,
        consistency: Consistency,
        reserve: &mut Reserve<'_>,
    ) -> Result<Outcome> {
        if operation.writes() {
            return self.etcd(Request::Operation(operation)).await;
        }
        self.before_read(etcd::table(), consistency).await?;
        match operation {
            Operation::Range(range) => {
                let ranged = self.etcd_range(&range, reserve).await?;
                Ok(ranged.map(|(revision, ranged)| Answer { revision, body: Body::Range(ranged) }))
            }
            operation => self.etcd_read(operation, reserve).await,
        }
    }

    /// Ends a lease and deletes its keys, in as many steps as it takes.
    ///
    /// # Errors
    /// As [`Node::etcd`].
    pub async fn etcd_revoke(&self, id: i64) -> Result<Outcome> {
        let mut outcome = self.etcd(Request::Revoke(id)).await?;
        while matches!(outcome, Ok(Answer { body: Body::Revoking, .. })) {
            outcome = self.etcd(Request::ContinueRevoke(id)).await?;
        }
        Ok(outcome)
    }

    /// A stream of watchers of the table on this node.
    ///
    /// # Errors
    /// `NotReady` if this node keeps no history; `Conflict` if the table's head is damaged.
    pub fn etcd_watch_stream(&self) -> Result<WatchStream> {
        let watching = self.strong.revisions().and_then(WatchStream::open);
        let watching =
            watching.ok_or_else(|| Error::NotReady("this node does not answer the etcd API".into()))?;
        if watching.revision() == UNKNOWN.revision {
            // It says why.
            checked_head(&self.store)?;
        }
        Ok(watching)
    }

    /// The head of the table on this node.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn etcd_head(&self) -> Result<Head> {
        head(&self.store)
    }

    /// Who answers.
    pub fn etcd_identity(&self) -> Identity {
        Identity { member: self.id().0, position: self.strong.position().unwrap_or_default() }
    }

    /// The members of the group that do not vote.
    pub fn etcd_learners(&self) -> Vec<NodeId> {
        let members = self.strong.group().map(|group| group.members).unwrap_or_default();
        members.into_iter().filter(|member| !member.is_voter).map(|member| member.node).collect()
    }

    /// Bytes of the directory of this node.
    pub fn etcd_disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }

    /// Tells where clients reach the etcd API on this node. It is told once.
    pub fn set_etcd_url(&self, url: String) {
        if let Some(revisions) = self.strong.revisions() {
            let _ = revisions.url.set(url);
        }
    }

    /// Where clients reach the etcd API, on each node that answers it and can be reached.
    pub async fn etcd_urls(&self) -> BTreeMap<NodeId, String> {
        self.strong.etcd_urls().await
    }

    /// Asks the leader about a lease. `None` if there is none.
    ///
    /// # Errors
    /// `NoQuorum`.
    pub async fn etcd_lease(&self, call: LeaseCall) -> Result<Option<LeaseTime>> {
        match self.turns_out_strong(etcd::table()).await {
            true => self.strong.lease(call).await,
            false => Ok(None),
        }
    }

    /// An id for a lease: random, and positive as etcd's.
    ///
    /// # Errors
    /// `Io` if there is no randomness.
    pub fn etcd_lease_id(&self) -> Result<i64> {
        Ok((self.environment().random()? >> 1).max(1).cast_signed())
    }
}
