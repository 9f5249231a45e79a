//! Strong tables that an etcd keeps, for whoever runs one already.
//!
//! etcd decides the order of writes; every node keeps a copy of the rows in its store, and reads from it:
//!
//! ```text
//! request -> proposer: evaluates on this node's rows, and commits to etcd if no other commit came first
//! etcd    -> follower (every node): the watch -> replica -> store
//! read    -> the revision of the last commit, as etcd says -> wait until applied -> store
//! ```
//! - [`messages`] and [`gateway`] are the client: JSON over HTTP, as each member of etcd serves it.
//! - [`layout`] says what lies in etcd, and what a commit is.
//! - [`proposer`] decides, and [`committer`] commits. [`follower`] applies what all nodes commit, [`resync`] all rows at once. [`replica`] knows how far it is.
//! - `upkeep` does what is due now and then.
//!
//! # Why it is right
//! A commit is one transaction of etcd, which puts the head and compares that it is still the one up to which its writer had applied
//! everything when it evaluated. So commits form a chain, and each was evaluated on just the state that those before it make: requests
//! take effect one after the other, in the order of the chain, between their call and their answer. An answer that changes nothing is given
//! only after etcd confirmed, linearizably, that the head is still that one. A read asks etcd for the head linearizably, after
//! it was called, and waits until that commit is applied: it sees all that was answered before. Timestamps rise along the chain, because
//! each head has the latest so far, and who evaluates has seen it; so the last writer of a key is the last in the chain, on every node.

mod committer;
mod follower;
mod gateway;
mod layout;
mod messages;
mod proposer;
mod replica;
mod resync;
mod upkeep;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use self::{
    gateway::Channel,
    messages::Ranged,
    proposer::{Counters, Proposer, no_quorum},
    replica::Replica,
};
use super::{
    backend::Backend,
    member::Parts,
    reads::Reads,
    rpc::{self, Call, CallAnswer, Envelope},
    start::await_table,
    steps::Steps,
    view::EtcdView,
};
use crate::{
    core::{
        clock::NodeId,
        name::TableName,
        protocol::message::RequestKind,
        strong::request::{Outcome, Refusal, Request},
    },
    error::{Error, Result},
    replication::requests::RequestService,
};

/// How long after its start a node lets first writes to unknown tables wait for what etcd knows.
const KNOWN_MAX: Duration = Duration::from_secs(2);

/// The backend.
pub struct Etcd {
    parts: Parts,
    etcd: gateway::Etcd,
    replica: Arc<Replica>,
    proposer: Arc<Proposer>,
    reads: Reads,
    counters: Arc<Counters>,
    /// When first writes wait no longer for what etcd knows.
    known_by: Instant,
    tasks: Mutex<JoinSet<()>>,
}

impl Etcd {
    /// Starts to follow an etcd, whose members listen at these addresses. It need not answer yet.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn start(parts: Parts, endpoints: &[String]) -> Result<Self> {
        let etcd = gateway::Etcd::new(endpoints);
        let replica = Arc::new(Replica::open(parts.store.clone(), parts.timestamps.clone())?);
        let counters = Arc::<Counters>::default();
        let (proposer, proposing) = Proposer::new(&replica, &etcd, parts.value_bytes_max, counters.clone());
        let proposer = Arc::new(proposer);
        let mut tasks = JoinSet::new();
        tasks.spawn(proposing);
        tasks.spawn(follower::follow(Arc::downgrade(&replica), parts.replication.clone(), etcd.clone()));
        tasks.spawn(upkeep::upkeep(
            Arc::downgrade(&replica),
            Arc::downgrade(&proposer),
            parts.clone(),
            etcd.clone(),
        ));
        let (asking, channel) =
            (Arc::downgrade(&replica), Arc::new(tokio::sync::Mutex::new(Channel::new(&etcd))));
        let held = Arc::downgrade(&replica);
        let is_intact = move || held.upgrade().is_some_and(|replica| replica.is_intact());
        let reads = Reads::start(replica.applied(), is_intact, move || ask(asking.clone(), channel.clone()));
        let service = Service { replica: Arc::downgrade(&replica) };
        parts.replication.serve(Arc::new(service));
        let known_by = Instant::now() + KNOWN_MAX;
        Ok(Self { parts, etcd, replica, proposer, reads, counters, known_by, tasks: Mutex::new(tasks) })
    }

    /// Refuses to make a table on a node that has not joined a cluster, or whose cluster has another backend.
    async fn check_others(&self) -> Result<Vec<NodeId>> {
        match follower::cluster(&self.replica, &self.parts.replication) {
            Ok(Some(_)) => {}
            Ok(None) => {
                return Err(Error::NotReady("this node has not joined its cluster yet; try again".into()));
            }
            Err(why) => return Err(Error::NotReady(why)),
        }
        let linked = upkeep::linked(&self.parts.replication);
        match upkeep::of_another_backend(&self.parts.replication, &linked).await.first() {
            None => Ok(linked),
            Some(node) => Err(Error::NotReady(format!(
                "node {node} does not keep strong tables in etcd: start all nodes of the cluster with the same --strong-backend"
            ))),
        }
    }
}

/// Asks etcd for the revision of the last commit.
async fn ask(replica: Weak<Replica>, channel: Arc<tokio::sync::Mutex<Channel>>) -> Result<u64> {
    let until = Instant::now() + proposer::REQUEST_MAX;
    let mut channel = channel.lock().await;
    loop {
        let replica = replica.upgrade().ok_or(Error::Draining)?;
        if let Some(why) = replica.failure() {
            return Err(Error::NotReady(why));
        }
        if let Some(layout) = replica.layout() {
            // One member may hang, and the next one answer.
            let attempt = until.min(Instant::now() + committer::ASK_MAX);
            let read: std::result::Result<Ranged, _> =
                channel.call("/v3/kv/range", &layout.read_head(true), attempt).await;
            if let Ok(read) = read {
                let head = read.kvs.first().map_or(0, |head| head.mod_revision.0);
                replica.note_known(head);
                return Ok(head);
            }
        }
        if Instant::now() + upkeep::RETRY >= until {
            return Err(Error::NoQuorum(no_quorum()));
        }
        tokio::time::sleep(upkeep::RETRY).await;
    }
}

impl Backend for Etcd {
    fn create(&self, table: TableName) -> BoxFuture<'_, Result<bool>> {
        async move {
            let linked = self.check_others().await?;
            let Outcome::Created(created) = self.submit(Request::Create(table.clone())).await? else {
                return Err(Error::Corrupt("the answer to another request than making a table".into()));
            };
            let replication = &self.parts.replication;
            let known = linked
                .into_iter()
                .map(|node| upkeep::call(replication, node, Call::Made(table.clone(), false)));
            join_all(known).await;
            Ok(created)
        }
        .boxed()
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Outcome>> {
        self.proposer.submit(request).boxed()
    }

    fn barrier(&self) -> BoxFuture<'_, Result<()>> {
        self.reads.barrier().boxed()
    }

    fn knows_tables(&self) -> bool {
        self.replica.knows_tables() || Instant::now() >= self.known_by
    }

    fn until_tables_are_known(&self) -> BoxFuture<'_, ()> {
        // Whatever ends the wait.
        async { drop(timeout_at(self.known_by, self.replica.until_tables_are_known()).await) }.boxed()
    }

    fn steps(&self) -> Option<(Arc<Steps>, bool)> {
        Some((self.replica.steps.clone(), self.replica.is_intact()))
    }

    /// etcd does not need this node.
    fn retire(&self) -> BoxFuture<'_, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async {
            let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
            tasks.shutdown().await;
            // What was applied need not be applied again.
            let _ = self.replica.checkpoint().await;
        }
        .boxed()
    }

    fn failure(&self) -> Option<String> {
        self.replica.failure().or_else(|| upkeep::silence(&self.etcd))
    }

    fn etcd(&self) -> Option<EtcdView> {
        Some(EtcdView {
            endpoints: self.etcd.endpoints().to_vec(),
            prefix: self.replica.layout().map(|layout| layout.prefix().to_owned()),
            answers: self.etcd.answers(),
            applied_revision: self.replica.place().revision,
            known_revision: self.replica.known(),
            commits: self.counters.commits.value(),
            conflicts: self.counters.conflicts.value(),
            resyncs: self.replica.resyncs.value(),
        })
    }

    fn writes_max(&self) -> usize {
        proposer::EFFECTS_MAX
    }
}

/// Serves the other nodes.
struct Service {
    replica: Weak<Replica>,
}

impl RequestService for Service {
    fn call(
        &self,
        _from: NodeId,
        kind: RequestKind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> {
        let replica = self.replica.upgrade();
        async move {
            let replica = replica.ok_or_else(|| "the node is stopping".to_owned())?;
            if kind == RequestKind::Consensus {
                return Err(OTHER_BACKEND.into());
            }
            let call: Envelope<Call> = rpc::decode(&body).map_err(|error| error.to_string())?;
            Ok(rpc::encode(&match call.body {
                // It learns of it from etcd.
                Call::Made(table, _) => {
                    await_table(&replica.store, &table).await;
                    CallAnswer::Noted
                }
                Call::Propose(_)
                | Call::ReadIndex
                | Call::Claim(_)
                | Call::Claimed
                | Call::Start
                | Call::Group
                | Call::Digest
                | Call::Leaving(_)
                | Call::Retire
                | Call::Tables
                | Call::ChangeRole(..)
                | Call::Elect
                | Call::Lease(_)
                | Call::EtcdUrl
                | Call::Standing
                | Call::Reclaim
                | Call::Replace(..)
                | Call::Restored(_)
                | Call::Repair => CallAnswer::NotStarted(Refusal::Unavailable(OTHER_BACKEND.into())),
            }))
        }
        .boxed()
    }
}

/// What nodes are told whose strong tables are not in etcd.
const OTHER_BACKEND: &str =
    "another node keeps strong tables in etcd: start all nodes of the cluster with the same --strong-backend";
