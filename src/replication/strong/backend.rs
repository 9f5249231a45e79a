//! What stands between the node and consensus: the node hands over a request and gets an outcome, and asks before it reads. Who agrees
//! on the order of writes is the backend's business: the cluster's own Raft group ([`Strong`]), or an etcd.
//!
//! A backend also applies what was agreed to the store of this node, through the one merge. So reads, listings, events and exports need no
//! backend once `barrier` has returned.

use std::{
    collections::BTreeMap,
    future::ready,
    path::PathBuf,
    sync::{Arc, Weak},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::Notify;
use tracing::warn;

use super::{
    Strong,
    init::Started,
    leases::{LeaseCall, LeaseTime},
    member::Parts,
    revisions::Revisions,
    rpc::RoleChange,
    steps::Steps,
    view::{EtcdView, GroupView, Position},
};
use crate::{
    core::{
        clock::NodeId,
        digest::RootDigest,
        name::TableName,
        strong::request::{Outcome, Request},
    },
    error::{Error, Result},
    storage::WeakStore,
};

/// The note of a node whose strong tables are kept by an etcd.
pub const ETCD_NOTE: &str = "strong/etcd";

/// Which backend a node uses. All nodes of a cluster use the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The cluster's own Raft group.
    #[default]
    Raft,
    /// An etcd, whose members listen for clients at these addresses (`host:port`), at least one.
    Etcd(Vec<String>),
}

/// Agrees with the other nodes on one order of writes, and applies it here.
pub trait Backend: Send + Sync {
    /// Makes a strong table. Returns whether it was made, once the nodes that can be reached know.
    ///
    /// # Errors
    /// `WrongMode` if the table has eventual rows; as `submit`.
    fn create(&self, table: TableName) -> BoxFuture<'_, Result<bool>>;

    /// Has a request decided, and returns its outcome once it is committed and applied here.
    ///
    /// # Errors
    /// `NoQuorum` if nothing was done; `OutcomeUnknown`; what the request is refused for.
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Outcome>>;

    /// Returns when everything that was answered before this call can be read from the store.
    ///
    /// # Errors
    /// `NoQuorum`; `NotReady` if this node is behind.
    fn barrier(&self) -> BoxFuture<'_, Result<()>>;

    /// Whether this node knows which tables are strong, or has nobody to ask.
    fn knows_tables(&self) -> bool;

    /// Returns when this node knows which tables are strong, or has nobody to ask; soon after its start in any case.
    fn until_tables_are_known(&self) -> BoxFuture<'_, ()>;

    /// The steps in which commits are applied here, and whether the store holds all that was applied. `None` while none are.
    fn steps(&self) -> Option<(Arc<Steps>, bool)>;

    /// Prepares that this node leaves the cluster for good.
    ///
    /// # Errors
    /// `Conflict` if the others could not go on without it; `NoQuorum`.
    fn retire(&self) -> BoxFuture<'_, Result<()>>;

    /// Stops taking part.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Why this node serves no strong tables, although there are some.
    fn failure(&self) -> Option<String>;

    /// Starts the group here, because it cannot start by itself. With `force`, from what this node has and without a majority.
    ///
    /// # Errors
    /// `Conflict` where it need not or must not be started here, or only by `force`; `NoQuorum`; those of the storage.
    fn init(&self, _force: bool) -> BoxFuture<'_, Result<Started>> {
        ready(Err(no_group())).boxed()
    }

    /// Changes the role of a member of the group, as an operator asks. Returns whether anything had to be changed.
    ///
    /// # Errors
    /// `NotFound` if the node is not in the group; `Conflict` if the change would do harm, or cannot be made now; `NoQuorum`;
    /// `OutcomeUnknown`.
    fn change_role(&self, _change: RoleChange, _node: NodeId) -> BoxFuture<'_, Result<bool>> {
        ready(Err(no_group())).boxed()
    }

    /// Most writes of a request that is not a client's own step: of an import, which may be of any length.
    fn writes_max(&self) -> usize {
        usize::MAX
    }

    /// The Raft group; `None` while it is asleep, while this node takes no part in it, and with another backend.
    fn group(&self) -> Option<GroupView> {
        None
    }

    /// Where that group is; `None` as for [`Self::group`], and it costs nothing.
    fn position(&self) -> Option<Position> {
        None
    }

    /// The last entry of the log that this node has applied, and the digest of all strong tables as of there: see [`Strong::digest`]. `None`
    /// with another backend.
    ///
    /// # Errors
    /// Those of the storage.
    fn digest(&self) -> BoxFuture<'_, Result<Option<(u64, RootDigest)>>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// What this node keeps in memory of the table of the etcd API; `None` with another backend.
    fn revisions(&self) -> Option<Arc<Revisions>> {
        None
    }

    /// Asks the leader about a lease of the etcd API. `None` if there is none.
    ///
    /// # Errors
    /// `NoQuorum`.
    fn lease(&self, _call: LeaseCall) -> BoxFuture<'_, Result<Option<LeaseTime>>> {
        ready(Err(no_group())).boxed()
    }

    /// Where clients reach the etcd API, on each node that answers it and can be reached.
    fn etcd_urls(&self) -> BoxFuture<'_, BTreeMap<NodeId, String>> {
        ready(BTreeMap::new()).boxed()
    }

    /// The etcd; `None` with another backend.
    fn etcd(&self) -> Option<EtcdView> {
        None
    }
}

/// The result of a read of several keys of strong tables that sees no commit by half. `None` if there was none for too long. A node that takes
/// no part applies nothing.
///
/// # Errors
/// Those of the read.
pub async fn read_at_once<T, F>(backend: &dyn Backend, mut read: impl FnMut() -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    let Some((steps, _)) = backend.steps() else { return read().await.map(Some) };
    let result = steps.read(read).await?;
    Ok(result.filter(|_| backend.steps().is_some_and(|(_, is_intact)| is_intact)))
}

fn no_group() -> Error {
    Error::Conflict(
        "the strong tables are kept by an etcd, which has members of its own: ask it by etcdctl".into(),
    )
}

/// Confirms the instants that the nodes agree on, once this node has all that was in strong tables: so that whoever watches one can go on at
/// another node. Ends with the backend or the store.
async fn confirm(backend: Weak<dyn Backend>, store: WeakStore, offers: Arc<Notify>) {
    loop {
        offers.notified().await;
        let Some((backend, store)) = backend.upgrade().zip(store.upgrade()) else { return };
        let Some(at_ms) = store.offered_ms() else { continue };
        // The next round offers another.
        if backend.barrier().await.is_err() {
            continue;
        }
        let confirmed = store.clone();
        if let Err(error) = store.environment().run(move || confirmed.agree_strong(at_ms)).await {
            warn!(%error, "watchers of strong tables cannot go on at another node yet");
        }
    }
}

/// Starts the backend of a node. `directory` is that of the Raft log.
///
/// # Errors
/// `Config` if the node's strong tables are kept by another backend, or this build has none of that kind; those of the storage.
pub async fn start(parts: Parts, directory: PathBuf, choice: &Choice) -> Result<Arc<dyn Backend>> {
    let store = parts.store.clone();
    let backend = start_chosen(parts, directory, choice).await?;
    tokio::spawn(confirm(Arc::downgrade(&backend), store.downgrade(), store.offers()));
    Ok(backend)
}

async fn start_chosen(parts: Parts, directory: PathBuf, choice: &Choice) -> Result<Arc<dyn Backend>> {
    match choice {
        Choice::Raft if parts.store.note(ETCD_NOTE)?.is_some() => Err(Error::Config(
            "the strong tables of this node are kept by an etcd: start it with the --strong-backend that it had".into(),
        )),
        Choice::Raft => Ok(Arc::new(Strong::start(parts, directory).await?)),
        Choice::Etcd(endpoints) => start_etcd(parts, endpoints),
    }
}

#[cfg(feature = "etcd")]
fn start_etcd(parts: Parts, endpoints: &[String]) -> Result<Arc<dyn Backend>> {
    if parts.store.note(super::start::OPENED_NOTE)?.is_some() {
        return Err(Error::Config(
            "the strong tables of this node are kept by the cluster's own log, and cannot move to an etcd: start it without \
             --strong-backend, or export them, and import them into a new cluster that has it"
                .into(),
        ));
    }
    Ok(Arc::new(super::etcd::Etcd::start(parts, endpoints)?))
}

#[cfg(not(feature = "etcd"))]
fn start_etcd(_: Parts, _: &[String]) -> Result<Arc<dyn Backend>> {
    Err(Error::Config(WITHOUT_ETCD.into()))
}

/// What a build says that cannot use an etcd.
#[cfg(not(feature = "etcd"))]
pub const WITHOUT_ETCD: &str =
    "this build of DynaRust has no backend for etcd: build it with `cargo build --release --features etcd`";

/// The cluster's own Raft group.
impl Backend for Strong {
    fn create(&self, table: TableName) -> BoxFuture<'_, Result<bool>> {
        self.create(table).boxed()
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Outcome>> {
        self.submit(request).boxed()
    }

    fn barrier(&self) -> BoxFuture<'_, Result<()>> {
        self.barrier().boxed()
    }

    fn digest(&self) -> BoxFuture<'_, Result<Option<(u64, RootDigest)>>> {
        self.digest().boxed()
    }

    fn init(&self, force: bool) -> BoxFuture<'_, Result<Started>> {
        self.init(force).boxed()
    }

    fn change_role(&self, change: RoleChange, node: NodeId) -> BoxFuture<'_, Result<bool>> {
        self.change_role(change, node).boxed()
    }

    fn knows_tables(&self) -> bool {
        self.knows_tables()
    }

    fn until_tables_are_known(&self) -> BoxFuture<'_, ()> {
        self.until_tables_are_known().boxed()
    }

    fn steps(&self) -> Option<(Arc<Steps>, bool)> {
        self.member().map(|member| (member.machine.steps(), member.machine.is_intact()))
    }

    fn retire(&self) -> BoxFuture<'_, Result<()>> {
        self.retire().boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop().boxed()
    }

    fn failure(&self) -> Option<String> {
        self.failure()
    }

    fn group(&self) -> Option<GroupView> {
        self.view()
    }

    fn position(&self) -> Option<Position> {
        self.position()
    }

    fn revisions(&self) -> Option<Arc<Revisions>> {
        Some(self.0.parts.revisions.clone())
    }

    fn lease(&self, call: LeaseCall) -> BoxFuture<'_, Result<Option<LeaseTime>>> {
        self.lease(call).boxed()
    }

    fn etcd_urls(&self) -> BoxFuture<'_, BTreeMap<NodeId, String>> {
        self.etcd_urls().boxed()
    }
}
