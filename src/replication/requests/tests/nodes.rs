//! Nodes without clients, and links between them over real sockets.

use std::{net::SocketAddr, path::Path, sync::Arc};

use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::handshake::server::{Request, Response},
};

use super::{NOW_MS, SECRET, until};
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        json::Value,
        name::{Key, TableName},
        register::Register,
    },
    replication::{
        self, Options, Replication,
        link::{
            connect::{SystemNetwork, subprotocol},
            secret::Secrets,
        },
    },
    storage::{self, Durability, Environment, Store, commit::timestamps::Timestamps},
};

/// A node.
pub(in crate::replication) struct TestNode {
    pub address: SocketAddr,
    pub replication: Replication,
    pub store: Store,
    pub timestamps: Arc<Timestamps>,
    /// Removed when this is dropped.
    pub directory: tempfile::TempDir,
}

/// A connection after the upgrade to a WebSocket, as the HTTP server hands it over.
pub(super) async fn upgraded(stream: TcpStream) -> TcpStream {
    #[expect(clippy::result_large_err, reason = "the type is the library's")]
    let accept_upgrade = |_: &Request, mut response: Response| {
        let protocol = subprotocol().parse().expect("a header value");
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    stream.set_nodelay(true).expect("an option");
    accept_hdr_async(stream, accept_upgrade).await.expect("an upgrade").into_inner()
}

pub(super) fn table() -> TableName {
    TableName::parse("t").expect("a name")
}

/// Starts a node that has `rows` rows and joins another.
pub(in crate::replication) async fn start(rows: u64, join: Option<SocketAddr>) -> TestNode {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path(), join.is_some());
    for number in 0..rows {
        let value = format!("\"{}\"", blake3::hash(&number.to_be_bytes()).to_hex());
        let timestamp = Timestamp { hlc: (NOW_MS << 16) + number, node: NodeId(1) };
        let register = Register::live(Value::trusted(value), None, timestamp);
        let key = Key::parse(&number.to_string()).expect("a key");
        store.merge(&table(), &key, |_| Ok(register)).expect("merges");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let timestamps = Arc::new(Timestamps::new(store.clone(), 500));
    let replication = replicate(&store, &timestamps, address, join);
    let accepting = replication.clone();
    tokio::spawn(async move {
        while let Ok((stream, remote)) = listener.accept().await {
            let replication = accepting.clone();
            tokio::spawn(async move {
                let Ok(admission) = replication.admit(remote) else { return };
                // A connection that only tests whether anybody listens is not upgraded.
                let mut first = [0];
                if matches!(stream.peek(&mut first).await, Ok(1)) {
                    replication.link(Box::new(upgraded(stream).await), remote, admission);
                }
            });
        }
    });
    TestNode { address, replication, store, timestamps, directory }
}

pub(in crate::replication) fn open(directory: &Path, joins: bool) -> Store {
    let options = storage::Options {
        data: directory.join("storage.db"),
        durability: Durability::None,
        cache_bytes: 8 * 1024 * 1024,
        scrub_bytes_per_second: 0,
        buffers: storage::Buffers::default(),
        tables_max: 4,
        subscriptions_max: 1,
        set_aside_damaged: false,
        peers: replication::peers(joins),
        environment: Environment::of_system(500),
    };
    Store::open(options).expect("the store opens")
}

/// Starts what a node is to others.
pub(in crate::replication) fn replicate(
    store: &Store,
    timestamps: &Arc<Timestamps>,
    listen: SocketAddr,
    join: Option<SocketAddr>,
) -> Replication {
    let options = Options {
        join: join.iter().map(SocketAddr::to_string).collect(),
        advertise: None,
        listen,
        secrets: Secrets::new([SECRET]).expect("long enough"),
        tombstone_grace_ms: 3_600_000,
        forget_after_ms: 3_600_000,
        round_ms: 1_000,
        clock_drift_max_ms: 500,
        strong_log_entries: crate::replication::strong::LOG_ENTRIES,
        network: Arc::new(SystemNetwork),
    };
    Replication::start(options, store.clone(), timestamps.clone()).expect("replication starts")
}

/// Returns when two nodes have a link.
pub(in crate::replication) async fn linked(one: &TestNode, two: &TestNode) {
    let is_linked = |node: &TestNode| node.replication.membership().peers.iter().any(|peer| peer.linked);
    until("the nodes are linked", || is_linked(one) && is_linked(two)).await;
}
