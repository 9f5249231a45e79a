//! What nodes are to each other: one encrypted link between each pair of them, over which they tell each other what changes,
//! compare what they have, and agree who belongs. All of them loops that drive the protocol of the core.
//!
//! - [`secret`] is what proves that a node belongs; [`noise`], [`handshake`], [`connect`], [`door`], [`establish`] and [`link`]
//!   make a link of it.
//! - [`identity`], [`members`] and [`address`] say who belongs, and where each is.
//! - `govern` dials, admits links and keeps the members; `converse` is the life of one link, which `couriers` read and write, with
//!   `rest` how fast it sends and `effort` what it does on a thread of its own; `registry` knows them all; `news` is what is heard of
//!   members over them, and `goodbye` the end.
//! - `writes` notes what is written here, and who holds it; `orders` are other calls from outside. `belong` says which cluster a node is of, and `birth` what it remembers of that; [`clocks`] says
//!   whether its clock keeps it apart; `upkeep` is done once a round.
//! - [`rows`] is the storage as the protocol sees it, `sync` makes durable; `view` shows it all.
//!
//! A write costs its writer an entry in the journal. Everything else happens on the links' own tasks: a peer that is slow, hangs or
//! is gone costs nobody else anything.

mod commands;
mod housekeeping;
pub mod link;
pub mod membership;
pub mod session;
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

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

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
    membership::{Dialer, Members, cluster_record::ClusterRecord, identity::Identity},
    session::{storage::Rows, sync::Syncs},
};
use crate::{
    core::{
        clock::NodeId,
        protocol::{
            agreement::Agreement,
            peer::{self, Context},
            progress::Shared,
        },
    },
    error::{Error, Result},
    storage::{
        Machine, Peers, Store,
        commit::{Life, timestamps::Stamps},
    },
};

/// How far behind the present the instant is at which roots are compared: longer than any write is on its way.
const SETTLE_MS: u64 = 2_000;
/// The name of the members' note in the storage.
const MEMBERS_NOTE: &str = "members";

/// How the storage is to find out whether there are other nodes; `joins` says whether this one was told to join some.
pub fn peers(joins: bool) -> Peers {
    Peers { joins, note: MEMBERS_NOTE, are_in: Members::are_saved_in }
}

/// How a node deals with others.
#[derive(Clone)]
pub struct Options {
    /// Addresses of nodes to link with, as text.
    pub join: Vec<String>,
    /// The address it tells others, if it was told one.
    pub advertise: Option<String>,
    /// Where it listens, with the port it got.
    pub listen: SocketAddr,
    /// What proves that it belongs.
    pub secrets: Secrets,
    /// How old a tombstone is at least when it is removed, in milliseconds.
    pub tombstone_grace_ms: u64,
    /// How long a member may be gone before it is forgotten, in milliseconds.
    pub forget_after_ms: u64,
    /// The time between two rounds, in milliseconds.
    pub round_ms: u64,
    /// How far a clock or a timestamp may be ahead, in milliseconds.
    pub clock_drift_max_ms: u64,
    /// How it reaches others.
    pub network: Arc<dyn Network>,
}

/// The part of a node that deals with others. Clones share it.
#[derive(Clone)]
pub struct Replication(Arc<Inner>);

struct Inner {
    options: Options,
    store: Store,
    stamps: Arc<Stamps>,
    rows: Rows,
    shared: Arc<Shared>,
    syncs: Syncs,
    admission_control: Arc<AdmissionControl>,
    state: Mutex<State>,
    /// One link at a time changes which cluster this node belongs to.
    adoption: tokio::sync::Mutex<()>,
    /// Notes are kept one after the other: who finds nothing to keep is not to go on before it is durable.
    saving: tokio::sync::Mutex<()>,
    /// Whether there is anybody to tell of writes.
    has_peers: AtomicBool,
    /// Wakes all links: there may be more in the journal.
    appended: Notify,
    /// Wakes those who wait for acknowledgements, and for members.
    progressed: Notify,
    /// Held by each who waits for acknowledgements.
    waiters: Arc<()>,
    /// Wakes the loop that dials.
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
    /// What of it is written down.
    saved: Option<ClusterRecord>,
    saved_agreement: SavedAgreement,
    /// The doubt about the storage that this node is syncing for.
    handled_doubt: Option<String>,
    /// Why the last node that refused this one did, since a link stood.
    refused: Option<String>,
    /// When a link stood last; at first, when the node started.
    linked_at: Instant,
    /// Whether the log says which addresses to join keep a cluster from beginning.
    logged_waiting: bool,
    registry: Registry,
}

impl Replication {
    /// Begins to look for others, and to let them in.
    ///
    /// # Errors
    /// As the storage's; `Corrupt` or `StorageDamaged` for notes of before that are not readable.
    pub fn start(options: Options, store: Store, stamps: Arc<Stamps>) -> Result<Self> {
        let machine = store.machine();
        let cluster_record = ClusterRecord::read(&store)?;
        let agreement = match store.doubt() {
            None => membership::cluster_record::read_agreement(&store)?,
            // What it says may be older than rows that are here.
            Some(_) => Agreement::default(),
        };
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
        let members = Members::new(identity, remembered, machine.random()?, timing, store.now_ms());
        let dialer = Dialer::new(options.join.iter().cloned(), machine.random()?);
        let shared = Arc::new(Shared::default());
        {
            let mut progress = shared.progress();
            progress.floor.set_members(members.member_ids());
            progress.begin_syncing(store.now_ms());
            // A write before these, where the wall clock was set back, would be taken for one that everybody has seen.
            stamps.pass(agreement.with_all_ms().max(store.swept().latest_ms()));
            progress.agreement = agreement.clone();
            progress.intact = store.doubt().is_none();
            progress.lose(store.lost_ms(), store.now_ms());
            if members.others().next().is_none() && options.join.is_empty() {
                progress.become_complete(store.now_ms());
            }
        }
        let inner = Arc::new(Inner {
            rows: Rows::new(store.clone(), stamps.clone()),
            stamps,
            syncs: Syncs::new(store.clone()),
            admission_control: AdmissionControl::new(options.secrets.clone()),
            has_peers: AtomicBool::new(!members.member_ids().is_empty()),
            state: Mutex::new(State {
                members,
                dialer,
                advertised,
                cluster_record,
                saved: None,
                saved_agreement: SavedAgreement::new(agreement),
                handled_doubt: store.doubt(),
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
            dial_wakeup: Notify::new(),
            stopping: AtomicBool::new(false),
            stopped: tokio::sync::Mutex::default(),
            background: Mutex::default(),
        });
        let governing = tokio::spawn(supervisor::supervise(inner.clone()));
        *inner.background.lock().unwrap_or_else(PoisonError::into_inner) = Some(governing);
        Ok(Self(inner))
    }

    /// Lets a handshake with a node at `remote` begin.
    ///
    /// # Errors
    /// As `Door::admit`; `Draining`.
    pub fn admit(&self, remote: SocketAddr) -> Result<Admission> {
        if self.0.is_stopping() { Err(Error::Draining) } else { self.0.admission_control.admit(remote) }
    }

    /// Makes a link of a connection that came in and has become a WebSocket.
    pub fn link(&self, stream: BoxedDuplex, remote: SocketAddr, admission: Admission) {
        tokio::spawn(supervisor::accept(self.0.clone(), stream, remote, admission));
    }
}

impl Inner {
    fn node(&self) -> NodeId {
        self.store.node()
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn machine(&self) -> &Machine {
        self.store.machine()
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

    /// Tells all links that there may be more in the journal.
    fn notify_appended(&self) {
        self.appended.notify_waiters();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    async fn sync(&self, life: Life) -> Result<()> {
        self.syncs.sync(life).await
    }

    fn notify_progress(&self) {
        self.progressed.notify_waiters();
    }

    /// Whether anybody waits for acknowledgements.
    fn has_waiters(&self) -> bool {
        Arc::strong_count(&self.waiters) > 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Members and links are changed by calls that do not panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node says of itself to those it links with.
    async fn local(&self) -> Local {
        // While it goes over to another cluster it has that one's key already, and its own id still: whoever took over both would be
        // of one cluster with others by its id, and never hold the same by its key.
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
            machine: self.machine().clone(),
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
        storage::{self, Durability, Machine},
    };

    /// A node without peers noted nothing, and whoever linked before a write was answered counted as one that has it.
    #[tokio::test]
    async fn a_write_that_nobody_is_there_to_be_told_of_has_a_number() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let storage = storage::Options {
            data: directory.path().join("storage.db"),
            durability: Durability::None,
            cache_bytes: 8 * 1024 * 1024,
            scrub_bytes_per_second: 0,
            tables_max: 1,
            subscriptions_max: 1,
            set_aside_damaged: false,
            peers: Default::default(),
            machine: Machine::new(Arc::new(|| 1_700_000_000_000)),
        };
        let store = Store::open(storage).expect("the store opens");
        let stamps = Arc::new(Stamps::new(store.clone(), 500));
        let options = Options {
            join: Vec::new(),
            advertise: None,
            listen: ([127, 0, 0, 1], 1).into(),
            secrets: Secrets::new(["sixteen letters!"]).expect("long enough"),
            tombstone_grace_ms: 1,
            forget_after_ms: 1,
            round_ms: 1_000,
            clock_drift_max_ms: 500,
            network: Arc::new(link::connect::SystemNetwork),
        };
        let replication = Replication::start(options, store.clone(), stamps.clone()).expect("starts");
        let (table, key) = (TableName::parse("t").expect("a name"), Key::parse("k").expect("a key"));
        assert_eq!(replication.last_written(), 0);
        stamps.before_writing().await.expect("the clock's bound is raised");
        let written = stamps.tick().expect("there is time");
        let register = Register::live(Value::trusted("1".into()), None, written);
        replication.record_writes(&table, [Row::new(key.clone(), register)]);
        assert_eq!(replication.last_written(), 1);
        replication.announce_again(&table, &key);
        assert_eq!(replication.last_written(), 2);
        replication.stop().await;
        store.close().expect("closes");
    }
}
