//! The etcd API as calls of the node: what its requests come to is decided in [`core::etcd`](crate::core::etcd), by the leader where they
//! write. Reads are served from here, as those of any strong table.
//!
//! A read is at one revision, however long it is: it reads page by page, each at one instant, and takes back what came after the revision by
//! what the history has.

mod snapshot;

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use tokio::sync::watch;

use self::snapshot::Snapshot;
use super::{Node, strong::Consistency};
pub use crate::replication::strong::leases::{LeaseCall, LeaseTime};
use crate::{
    core::{
        clock::NodeId,
        etcd::{
            self, evaluate,
            history::History,
            request::{Answer, Body, Keys, Operation, Outcome, Problem, Range, Ranged, Request},
            row::{self, Head, Named},
            select::{Found, select, wanted},
        },
        strong,
    },
    error::{Error, Result},
    replication::strong::{
        backend::read_at_once,
        leases,
        revisions::{Revisions, head},
    },
};

/// How often a read begins anew where the history went on without it.
const TRIES_MAX: usize = 3;

/// Who answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The group of the strong tables; 0 before there is one.
    pub cluster: u64,
    /// This node.
    pub member: u64,
    /// The term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// The last entry in this node's log.
    pub log_index: u64,
    /// The last entry that it has applied.
    pub applied_index: u64,
}

/// A hash of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// The hash.
    pub hash: u32,
    /// The newest revision.
    pub revision: i64,
    /// The oldest revision that can be read; -1 if none was compacted.
    pub compacted: i64,
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

    /// Does an operation, wherever that is best.
    ///
    /// # Errors
    /// As [`Node::etcd`]; `NotReady`.
    pub async fn etcd_operate(
        self: &Arc<Self>,
        operation: Operation,
        consistency: Consistency,
    ) -> Result<Outcome> {
        if operation.writes() {
            return self.etcd(Request::Operation(operation)).await;
        }
        self.before_read(etcd::table(), consistency).await?;
        match operation {
            Operation::Range(range) => {
                let ranged = self.etcd_range(&range).await?;
                Ok(ranged.map(|(revision, ranged)| Answer { revision, body: Body::Range(ranged) }))
            }
            operation => {
                let operation = Arc::new(operation);
                self.etcd_at_once(false, move |snapshot| {
                    let request = Request::Operation((*operation).clone());
                    evaluate::evaluate(&request, snapshot).map(|evaluated| evaluated.outcome)
                })
                .await
            }
        }
    }

    /// The history of the table on this node.
    ///
    /// # Errors
    /// `NotReady` if this node keeps none.
    pub fn etcd_history(&self) -> Result<EtcdHistory> {
        let revisions = self.strong.revisions().filter(|revisions| revisions.history().is_some());
        revisions
            .map(EtcdHistory)
            .ok_or_else(|| Error::NotReady("this node does not answer the etcd API".into()))
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
        let member = self.id().0;
        let group = self.strong.group();
        group.map_or(Identity { member, ..Identity::default() }, |group| Identity {
            cluster: group.group,
            member,
            term: group.term,
            leader: group.leader,
            log_index: group.log_index,
            applied_index: group.applied_index,
        })
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

    /// The ids of all leases.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn etcd_leases(self: &Arc<Self>) -> Result<Vec<i64>> {
        self.before_read(etcd::table(), Consistency::Linearizable).await?;
        let store = self.store.clone();
        let granted = self.environment().run(move || leases::granted(&store)).await?;
        Ok(granted.into_iter().map(|(id, _)| id).collect())
    }

    /// The keys of a lease.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn etcd_lease_keys(self: &Arc<Self>, id: i64) -> Result<Vec<Vec<u8>>> {
        self.before_read(etcd::table(), Consistency::Linearizable).await?;
        self.etcd_at_once(false, move |snapshot| {
            let (mut keys, (low, high)) = (Vec::new(), row::leased_bounds(id));
            snapshot.each(&low, &high, |key, _| {
                if let Some(Named::Leased(_, key)) = Named::of(key) {
                    keys.push(key);
                }
                Ok(())
            })?;
            Ok(keys)
        })
        .await
    }

    /// A read of keys at one revision, and the newest revision.
    async fn etcd_range(
        self: &Arc<Self>,
        range: &Range,
    ) -> Result<std::result::Result<(i64, Ranged), Problem>> {
        for _ in 0..TRIES_MAX {
            let mut found = Found::default();
            let walked = self.etcd_walk(&range.keys, range.revision, wanted(range), |page| {
                found.count += page.count;
                found.kvs.extend(page.kvs);
            });
            match walked.await? {
                Ok(head) => return Ok(Ok((head.revision, select(range, found)))),
                // The history went on without it.
                Err(Problem::Compacted(_)) if range.revision <= 0 => {}
                Err(problem) => return Ok(Err(problem)),
            }
        }
        Err(Error::NotReady(
            "so much is written that this long read finds no end: read less at a time".into(),
        ))
    }

    /// A hash of all keys with their revisions, as they were after a revision, or are if it is 0. It is the same on all nodes.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn etcd_hash(self: &Arc<Self>, revision: i64) -> Result<std::result::Result<Hashed, Problem>> {
        let mut hasher = blake3::Hasher::new();
        let all = Keys::Range(vec![0], None);
        let walked = self.etcd_walk(&all, revision, usize::MAX, |page| {
            for kv in page.kvs {
                let numbers = [kv.create_revision, kv.mod_revision, kv.version, kv.lease];
                for number in numbers {
                    hasher.update(&number.to_le_bytes());
                }
                for bytes in [&kv.key, &kv.value] {
                    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
                }
            }
        });
        Ok(walked.await?.map(|head| {
            let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
            Hashed {
                hash: u32::from_le_bytes([a, b, c, d]),
                revision: head.revision,
                compacted: head.compacted,
            }
        }))
    }

    /// Reads keys at one revision, page by page, with the values of the first `wanted`. Returns the newest head at the beginning.
    async fn etcd_walk(
        self: &Arc<Self>,
        keys: &Keys,
        revision: i64,
        mut wanted: usize,
        mut take: impl FnMut(Found),
    ) -> Result<std::result::Result<Head, Problem>> {
        let (mut keys, mut begun) = (keys.clone(), None::<Head>);
        loop {
            let at = if revision > 0 { revision } else { begun.map_or(0, |head| head.revision) };
            let is_short = matches!(keys, Keys::One(_));
            let page = self.etcd_at_once(is_short, move |snapshot| snapshot.range(&keys, at, wanted)).await?;
            let (head, page) = match page {
                Ok(page) => page,
                Err(problem) => return Ok(Err(problem)),
            };
            let head = *begun.get_or_insert(head);
            wanted = wanted.saturating_sub(page.found.kvs.len());
            take(page.found);
            match page.next {
                Some(next) => keys = next,
                None => return Ok(Ok(head)),
            }
        }
    }

    /// Reads at one instant. What is not short is made where it holds up nobody.
    async fn etcd_at_once<T: Send + 'static>(
        self: &Arc<Self>,
        is_short: bool,
        read: impl Fn(&Snapshot) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let snapshot = Snapshot { store: self.store.clone(), revisions: self.strong.revisions() };
        let result = read_at_once(&*self.strong, || {
            let (snapshot, read) = (snapshot.clone(), read.clone());
            async move {
                if is_short {
                    return read(&snapshot);
                }
                self.environment().run(move || read(&snapshot)).await
            }
        });
        result.await?.ok_or_else(|| {
            Error::NotReady(
                "this node could not read these keys as they are at one instant, because it is busy or takes no writes".into(),
            )
        })
    }
}

/// The history of the table on a node.
#[derive(Clone)]
pub struct EtcdHistory(Arc<Revisions>);

impl EtcdHistory {
    /// The history, locked: nothing is applied meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, History> {
        self.0.history().expect("it was looked for")
    }

    /// The newest revision, and its changes.
    pub fn newest(&self) -> watch::Receiver<i64> {
        self.0.newest()
    }
}
