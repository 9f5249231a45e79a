//! Replication: one encrypted link between each pair of nodes, over which they push writes, compare rows and agree on
//! the members. These are the loops that drive the protocol in `core::protocol`.
//!
//! - [`link`] connects: dialing, handshake, encryption, and the registry of all links.
//! - [`membership`] decides: who is a member, which cluster this node is in, whom to dial, and what a restart needs.
//! - [`request_id`] carries the id of a client's request along.
//! - [`requests`] asks: requests with responses, which pass by what the session sends.
//! - [`session`] talks: the loop of one link, its pacing, and the storage as the protocol sees it.
//! - `supervisor` dials and accepts links and starts their sessions. It runs `housekeeping` once a round.
//! - `writes` and `commands` are called from the node; `view` shows the cluster.
//!
//! A write goes into the journal (`writes`), which wakes the session of each link. The session sends a batch; the peer
//! merges it, syncs its disk and acknowledges; `writes` counts the acknowledgements for those who wait. Everything else
//! happens on the links' own tasks, so a peer that is slow, hangs or is gone costs nobody else anything.

mod commands;
mod housekeeping;
pub mod link;
pub mod membership;
pub mod request_id;
pub mod requests;
pub mod session;
pub mod strong;
mod supervisor;
mod view;
mod writes;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

pub use self::view::{Membership, PeerView, SyncStatus};
use self::{
    housekeeping::SavedAgreement,
    link::{
        BoxedDuplex,
        address::Advertised,
        admission::{Admission, AdmissionControl},
        connect::Network,
        establish::Local,
        handshake::{ClusterIdentity, Hello},
        registry::Registry,
        secret::Secrets,
    },
    membership::{
        Dialer, Members,
        cluster_record::{self, ClusterRecord},
        identity::Identity,
    },
    session::{storage::Rows, sync::Syncs},
};
use crate::{
    core::{
        clock::NodeId,
        protocol::{
            agreement::Agreement,
            peer::{self, Context},
            progress::{Progress, Shared},
        },
    },
    error::{Error, Result},
    storage::{
        Environment, Peers, Store,
        commit::{Incarnation, timestamps::Timestamps},
    },
};

/// How far back roots are compared: longer than any write is in flight.
pub const SETTLE_MS: u64 = 2_000;
/// The name of the members' record in the storage.
const MEMBERS_NOTE: &str = "members";

/// How the storage finds out whether there are other nodes. `joins`: this node was told to join some.
pub fn peers(joins: bool) -> Peers {
    Peers { joins, note: MEMBERS_NOTE, are_in: Members::are_saved_in }
}

/// The settings of replication.
#[derive(Clone)]
pub struct Options {
    /// Addresses of nodes to join.
    pub join: Vec<String>,
    /// The configured address to tell others, if any.
    pub advertise: Option<String>,
    /// Where it listens, with the actual port.
    pub listen: SocketAddr,
    /// The secrets of the cluster.
    pub secrets: Secrets,
    /// Minimum age of a tombstone before it is removed, in milliseconds.
    pub tombstone_grace_ms: u64,
    /// How long a member may be away before it is forgotten, in milliseconds.
    pub forget_after_ms: u64,
    /// Time between two rounds, in milliseconds.
    pub round_ms: u64,
    /// How far ahead a clock or a timestamp may be, in milliseconds.
    pub clock_drift_max_ms: u64,
    /// Entries of the strong tables' log after which it is compacted; half as many stay. See [`strong::LOG_ENTRIES`].
    pub strong_log_entries: u64,
    /// The network to reach other nodes through.
    pub network: Arc<dyn Network>,
}

/// The replication of a node. Clones share it.
#[derive(Clone)]
pub struct Replication(Arc<Inner>);

struct Inner {
    options: Options,
    store: Store,
    timestamps: Arc<Timestamps>,
    rows: Rows,
    shared: Arc<Shared>,
    syncs: Syncs,
    /// What serves the requests of other nodes.
    services: requests::channel::Services,
    admission_control: Arc<AdmissionControl>,
    state: Mutex<State>,
    /// Held while a link may change which cluster this node is in.
    adoption: tokio::sync::Mutex<()>,
    /// Held while state is saved: even a caller with nothing to save must wait until it is durable.
    saving: tokio::sync::Mutex<()>,
    /// Whether there is a peer to send writes to.
    has_peers: AtomicBool,
    /// Wakes all sessions: the journal may have grown.
    appended: Notify,
    /// Wakes those who wait for acknowledgements or members.
    progressed: Notify,
    /// Held by everyone who waits for acknowledgements.
    waiters: Arc<()>,
    /// Counts the links that came and went, and the dials that led to none.
    link_changes: watch::Sender<u64>,
    /// Wakes the supervisor's loop.
    dial_wakeup: Notify,
    stopping: AtomicBool,
    stopped: tokio::sync::Mutex<bool>,
    background: Mutex<Option<JoinHandle<()>>>,
}

/// What changes as members come and go.
struct State {
    members: Members,
    dialer: Dialer,
    advertised: Advertised,
    cluster_record: ClusterRecord,
    /// The cluster record as last saved.
    saved: Option<ClusterRecord>,
    saved_agreement: SavedAgreement,
    /// The suspected loss of rows that the node is already syncing for.
    handled_doubt: Option<String>,
    /// Why a node last refused this one, since the last link.
    refused: Option<String>,
    /// When there was last a link. At first, when the node started.
    linked_at: Instant,
    /// Whether it was logged which addresses to join keep a cluster from starting.
    logged_waiting: bool,
    registry: Registry,
}

/// Begins with what was agreed with these members before the start. `is_returning`: the node was forgotten and not complete since.
fn begin(
    progress: &mut Progress,
    store: &Store,
    members: Vec<NodeId>,
    agreement: Agreement,
    is_returning: bool,
) {
    if !members.is_empty() {
        progress.announced_before_ms = store.now_ms().saturating_sub(SETTLE_MS);
    }
    progress.floor.set_members(members);
    match is_returning {
        true => progress.begin_returning(store.now_ms()),
        false => progress.begin_syncing(store.now_ms()),
    }
    let (agreed_ms, withdrawals) = (agreement.with_all_ms(), progress.withdrawals());
    progress.agreement = agreement;
    progress.agreement_saved(agreed_ms, withdrawals);
    progress.intact = store.suspected_loss().is_none();
    progress.lose(store.lost_ms(), store.now_ms());
}

impl Replication {
    /// Starts dialing and accepting links.
    ///
    /// # Errors
    /// As the storage's; `Corrupt` or `StorageDamaged` if a saved record is unreadable.
    pub fn start(options: Options, store: Store, timestamps: Arc<Timestamps>) -> Result<Self> {
        let environment = store.environment();
        store.set_tombstone_grace(options.tombstone_grace_ms);
        let cluster_record = ClusterRecord::read(&store)?;
        let remembered = store.note(MEMBERS_NOTE)?.map(|note| Members::restore(&note)).transpose()?;
        let remembered = remembered.unwrap_or_default();
        let advertised = Advertised::new(options.advertise.as_deref(), options.listen)
            .remembering(remembered.address.clone());
        let identity = Identity {
            node: store.node(),
            incarnation: cluster_record.forgotten + 1,
            address: advertised.current().or(advertised.candidate()).unwrap_or_default().to_owned(),
        };
        let timing = membership::Options { forget_after_ms: options.forget_after_ms, ..Default::default() };
        let members = Members::new(identity, remembered, environment.random()?, timing, store.now_ms());
        let mut known = members.member_ids();
        let agreement = cluster_record::read_agreement(&store, &mut known)?;
        let dialer = Dialer::new(options.join.iter().cloned(), environment.random()?);
        let shared = Arc::new(Shared::default());
        // If the wall clock was set back, a write before these instants would count as one that everybody has seen.
        timestamps.advance_past(agreement.with_all_ms().max(store.swept().latest_ms()));
        begin(&mut shared.progress(), &store, known, agreement.clone(), cluster_record.returning);
        if members.others().next().is_none() && options.join.is_empty() {
            shared.progress().become_complete(store.now_ms());
        }
        let inner = Arc::new(Inner {
            rows: Rows::new(store.clone(), timestamps.clone()),
            timestamps,
            syncs: Syncs::new(store.clone()),
            services: Arc::default(),
            admission_control: AdmissionControl::new(options.secrets.clone()),
            has_peers: AtomicBool::new(!members.member_ids().is_empty()),
            state: Mutex::new(State {
                members,
                dialer,
                advertised,
                cluster_record,
                saved: None,
                saved_agreement: SavedAgreement::new(agreement),
                handled_doubt: store.suspected_loss(),
                refused: None,
                linked_at: Instant::now(),
                logged_waiting: false,
                registry: Registry::default(),
            }),
            options,
            store,
            shared,
            adoption: tokio::sync::Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            appended: Notify::new(),
            progressed: Notify::new(),
            waiters: Arc::default(),
            link_changes: watch::Sender::new(0),
            dial_wakeup: Notify::new(),
            stopping: AtomicBool::new(false),
            stopped: tokio::sync::Mutex::default(),
            background: Mutex::default(),
        });
        inner.supervise();
        Ok(Self(inner))
    }

    /// Admits a handshake with a node at `remote`.
    ///
    /// # Errors
    /// As `AdmissionControl::admit`; `Draining`.
    pub fn admit(&self, remote: SocketAddr) -> Result<Admission> {
        if self.0.is_stopping() { Err(Error::Draining) } else { self.0.admission_control.admit(remote) }
    }

    /// Establishes a link over an incoming connection that was upgraded to a WebSocket.
    pub fn link(&self, stream: BoxedDuplex, remote: SocketAddr, admission: Admission) {
        tokio::spawn(supervisor::accept(self.0.clone(), stream, remote, admission));
    }
}

impl Inner {
    fn supervise(self: &Arc<Self>) {
        let supervising = tokio::spawn(supervisor::supervise(self.clone()));
        *self.background.lock().unwrap_or_else(PoisonError::into_inner) = Some(supervising);
    }

    fn node(&self) -> NodeId {
        self.store.node()
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn environment(&self) -> &Environment {
        self.store.environment()
    }

    fn round(&self) -> Duration {
        Duration::from_millis(self.options.round_ms)
    }

    fn peer_options(&self) -> peer::Options {
        peer::Options { settle_ms: SETTLE_MS, clock_drift_max_ms: self.options.clock_drift_max_ms }
    }

    fn context(&self) -> Context<'_, Rows> {
        Context { replica: &self.rows, shared: &self.shared, now_ms: self.store.now_ms() }
    }

    /// Tells all sessions that the journal may have grown.
    fn notify_appended(&self) {
        self.appended.notify_waiters();
    }

    /// Tells those who follow the links that something changed.
    fn notify_links(&self) {
        self.link_changes.send_modify(|changes| *changes += 1);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    async fn sync(&self, incarnation: Incarnation) -> Result<()> {
        self.syncs.sync(incarnation).await
    }

    fn notify_progress(&self) {
        self.progressed.notify_waiters();
    }

    /// Whether anyone waits for acknowledgements.
    fn has_waiters(&self) -> bool {
        Arc::strong_count(&self.waiters) > 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Members and links are changed by calls that do not panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node says about itself in handshakes.
    async fn local(&self) -> Local {
        // During a cluster switch the node already has the new digest key but still its old cluster id. A peer that
        // adopted both would share the id with other nodes but never have equal digests.
        let _goes_over = self.adoption.lock().await;
        let state = self.state();
        let cluster_record = state.cluster_record;
        let hello = Hello {
            node: self.node(),
            incarnation: state.members.local().incarnation,
            cluster: ClusterIdentity {
                id: cluster_record.cluster,
                linked: membership::cluster_identity::has_joined(&state),
                digest_key: self.store.digest_key(),
            },
            address: state.advertised.current().or(state.advertised.candidate()).map(str::to_owned),
            reached_as: String::new(),
            now_ms: self.store.now_ms(),
            complete: self.shared.progress().complete,
            swept: self.store.swept().tombstones_ms,
        };
        Local {
            hello,
            secrets: self.options.secrets.clone(),
            drift_max_ms: self.options.clock_drift_max_ms,
            environment: self.environment().clone(),
            network: self.options.network.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            json::Value,
            name::{Key, TableName},
            protocol::message::Row,
            register::Register,
        },
        storage::{self, Durability, Environment},
    };

    /// A node without peers did not record its writes, and a peer that linked before a write was answered counted as
    /// having it.
    #[tokio::test]
    async fn a_write_without_peers_still_has_a_number() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let storage = storage::Options {
            data: directory.path().join("storage.db"),
            durability: Durability::None,
            cache_bytes: 8 * 1024 * 1024,
            buffers: storage::Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 1,
            subscriptions_max: 1,
            set_aside_damaged: false,
            peers: Default::default(),
            environment: Environment::new(Arc::new(|| 1_700_000_000_000)),
        };
        let store = Store::open(storage).expect("the store opens");
        let timestamps = Arc::new(Timestamps::new(store.clone(), 500));
        let options = Options {
            join: Vec::new(),
            advertise: None,
            listen: ([127, 0, 0, 1], 1).into(),
            secrets: Secrets::new(["sixteen letters!"]).expect("long enough"),
            tombstone_grace_ms: 1,
            forget_after_ms: 1,
            round_ms: 1_000,
            clock_drift_max_ms: 500,
            strong_log_entries: strong::LOG_ENTRIES,
            network: Arc::new(link::connect::SystemNetwork),
        };
        let replication = Replication::start(options, store.clone(), timestamps.clone()).expect("starts");
        let (table, key) = (TableName::parse("t").expect("a name"), Key::parse("k").expect("a key"));
        assert_eq!(replication.last_written(), 0);
        timestamps.before_writing().await.expect("the clock's bound is raised");
        let written = timestamps.tick().expect("there is time");
        let register = Register::live(Value::trusted("1".into()), None, written);
        replication.record_writes(&table, [Row::new(key.clone(), register)]);
        assert_eq!(replication.last_written(), 1);
        replication.announce_again(&table, &key);
        assert_eq!(replication.last_written(), 2);
        replication.stop().await;
        store.close().expect("closes");
    }
}
