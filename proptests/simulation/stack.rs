//! A node on a simulated host: the stack as the binary runs it, from the accept loop to the storage, with time, randomness and
//! network of the simulation.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use dynarust::{
    core::wall_clock::Reading,
    http::{
        self,
        server::{Listener, socket::ClientStream},
    },
    node::{self, Node},
    replication::{
        self,
        link::{BoxedDuplex, connect::Network, secret::Secrets},
    },
    storage::{self, Durability, Environment, Randomness, environment::wall_clock::Clocks},
};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, sleep_until},
};
use turmoil::{
    Sim,
    net::{TcpListener, TcpStream},
};

use super::disk::SimulatedDisk;
use crate::storage::crash::copy;

/// Where nodes listen.
pub const PORT: u16 = 6660;
const CLOCK_DRIFT_MAX_MS: u64 = 500;
/// So few that members that were away for some seconds need a snapshot.
pub const STRONG_LOG_ENTRIES: u64 = 8;
const SECRET: &str = "the secret of all simulated nodes";

/// A simulated host and what lasts from one life of its node to the next.
pub struct Host {
    pub index: usize,
    /// How far its wall clock is ahead of the simulation's, in milliseconds.
    pub skew_ms: i64,
    /// How far it has leapt besides, for a while.
    pub leap_ms: Arc<AtomicI64>,
    pub seed: u64,
    /// Names of those it is to join.
    pub join: Vec<String>,
    /// When its first life begins.
    pub begins_after: Duration,
    pub data: PathBuf,
    /// Unix milliseconds of the simulation.
    pub clock: Arc<AtomicU64>,
    /// Whether a crash loses what was not synced, as a power cut does.
    pub loses_unsynced: bool,
    /// Whether the syncs of its log take long.
    pub has_slow_disk: bool,
    lives: Cell<u64>,
    stop: RefCell<Rc<Notify>>,
    node: RefCell<Weak<Node>>,
    disk: RefCell<Arc<SimulatedDisk>>,
}

/// The name of a host.
pub fn name(index: usize) -> String {
    format!("n{index}")
}

impl Host {
    pub fn new(index: usize, seed: u64, data: PathBuf, clock: Arc<AtomicU64>) -> Self {
        Self {
            index,
            skew_ms: 0,
            leap_ms: Arc::default(),
            seed,
            join: Vec::new(),
            begins_after: Duration::ZERO,
            data,
            clock,
            loses_unsynced: false,
            has_slow_disk: false,
            lives: Cell::new(0),
            stop: RefCell::default(),
            node: RefCell::default(),
            disk: RefCell::new(Arc::new(SimulatedDisk::new(seed, false))),
        }
    }

    /// Its node, while it lives.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.borrow().upgrade()
    }

    /// What a crash of the node would lose of the log of strong tables, in bytes.
    pub fn unsynced_bytes(&self) -> usize {
        self.node().map_or(0, |_| self.disk.borrow().unsynced_bytes())
    }

    /// Ends the node at once. Returns how many bytes of the log of strong tables are lost.
    pub fn crash(&self, sim: &mut Sim<'_>) -> usize {
        if !self.loses_unsynced || self.node().is_none() {
            sim.crash(name(self.index));
            return 0;
        }
        let lost = self.unsynced_bytes();
        // The store closes as the host is dropped, and syncs then; so what is there before that is put back.
        let kept = self.data.with_extension("crashed");
        copy(&self.data, &kept);
        sim.crash(name(self.index));
        fs::remove_dir_all(&self.data).expect("the directory goes");
        fs::rename(&kept, &self.data).expect("its copy takes its place");
        lost
    }

    /// Asks the node to end in order.
    pub fn stop(&self) {
        self.stop.borrow().notify_one();
    }

    /// One life of its node.
    pub async fn live(self: Rc<Self>) -> turmoil::Result {
        let life = self.lives.replace(self.lives.get() + 1);
        let stop = Rc::new(Notify::new());
        self.stop.replace(stop.clone());
        if life == 0 {
            sleep_until(Instant::now() + self.begins_after).await;
        }
        let address = SocketAddr::new(turmoil::lookup(name(self.index)), PORT);
        let node = Node::start(self.options(address, life)).await?;
        self.node.replace(Arc::downgrade(&node));
        let end = Halt(node.clone());
        let listener = SimulatedListener(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?);
        let stopped = async move { stop.notified().await };
        http::serve(node.clone(), listener, http::Options::default(), stopped).await?;
        node.close().await?;
        drop(end);
        Ok(())
    }

    fn options(&self, address: SocketAddr, life: u64) -> node::Options {
        let storage = storage::Options {
            data: self.data.clone(),
            durability: Durability::Always,
            cache_bytes: 8 << 20,
            buffers: storage::Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 10,
            subscriptions_max: 10,
            set_aside_damaged: false,
            peers: Default::default(),
            environment: self.environment(life),
        };
        let replication = replication::Options {
            join: self.join.clone(),
            advertise: None,
            listen: address,
            secrets: Secrets::new([SECRET]).expect("long enough"),
            tombstone_grace_ms: 3_000,
            forget_after_ms: 3_600_000,
            round_ms: 1_000,
            clock_drift_max_ms: CLOCK_DRIFT_MAX_MS,
            strong_log_entries: STRONG_LOG_ENTRIES,
            network: Arc::new(SimulatedNetwork { local: address.ip() }),
        };
        node::Options {
            address: address.to_string(),
            storage,
            clock_drift_max_ms: CLOCK_DRIFT_MAX_MS,
            value_bytes_max: 1 << 20,
            replication,
            strong_backend: node::StrongBackend::Raft,
            new_tables: node::Mode::Eventual,
            etcd_api: false,
            backups: None,
        }
    }

    fn environment(&self, life: u64) -> Environment {
        let (clock, skew_ms, leap_ms) = (self.clock.clone(), self.skew_ms, self.leap_ms.clone());
        let clocks: Clocks = Box::new(move || {
            let monotonic_ms = clock.load(Ordering::SeqCst);
            let ahead_ms = skew_ms + leap_ms.load(Ordering::SeqCst);
            Reading { wall_ms: monotonic_ms.saturating_add_signed(ahead_ms), monotonic_ms }
        });
        let mut hasher = blake3::Hasher::new();
        for number in [self.seed, self.index as u64, life] {
            hasher.update(&number.to_le_bytes());
        }
        let numbers = Mutex::new(hasher.finalize_xof());
        let random: Randomness = Arc::new(move |bytes| {
            numbers.lock().expect("nobody panics with it").fill(bytes);
            Ok(())
        });
        let environment = Environment::simulated(clocks, CLOCK_DRIFT_MAX_MS, random);
        if !self.loses_unsynced {
            return environment;
        }
        let seed = self.seed ^ (self.index as u64) << 32 ^ life << 40;
        let disk = Arc::new(SimulatedDisk::new(seed, self.has_slow_disk));
        self.disk.replace(disk.clone());
        environment.with_disk(disk)
    }
}

/// Ends a node with its host.
struct Halt(Arc<Node>);

impl Drop for Halt {
    fn drop(&mut self) {
        // Whether it could be synced once more shows in what is there afterwards.
        let _ = self.0.halt();
    }
}

struct SimulatedNetwork {
    local: IpAddr,
}

impl Network for SimulatedNetwork {
    fn look_up<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let found = match address.parse() {
            Ok(number) => number,
            Err(_) => {
                let (host, port) = address.rsplit_once(':').expect("a name and a port");
                SocketAddr::new(turmoil::lookup(host), port.parse().expect("a port"))
            }
        };
        std::future::ready(Ok(vec![found])).boxed()
    }

    fn connect(&self, target: SocketAddr) -> BoxFuture<'_, io::Result<BoxedDuplex>> {
        async move { Ok(Box::new(TcpStream::connect(target).await?) as BoxedDuplex) }.boxed()
    }

    fn local_towards(&self, _: SocketAddr) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(self.local, 0))
    }
}

struct SimulatedListener(TcpListener);

impl Listener for SimulatedListener {
    async fn accept(&self) -> io::Result<(Box<dyn ClientStream>, SocketAddr)> {
        let (stream, remote) = self.0.accept().await?;
        Ok((Box::new(SimulatedStream(stream)), remote))
    }
}

struct SimulatedStream(TcpStream);

impl ClientStream for SimulatedStream {
    fn set_options(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn limit_send_buffer(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for SimulatedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for SimulatedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
