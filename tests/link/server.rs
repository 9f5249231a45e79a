//! A node and its server in this process, which link with whoever belongs; and what became of that, as the node sees it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dynarust::{
    core::{
        clock::NodeId,
        json::Value,
        name::{Key, TableName},
    },
    http,
    node::{self, Action, Condition, MemberView, Node, Write, wall_clock},
    replication::{
        self,
        link::{connect::SystemNetwork, secret::Secrets},
    },
    storage::{self, Durability, Environment},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{interval, timeout},
};

use crate::harness::DEADLINE;

pub struct Server {
    pub address: SocketAddr,
    pub node: Arc<Node>,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Serves a node that has these secrets.
    pub async fn start(secrets: &[&str], options: http::Options) -> Self {
        Self::join(Vec::new(), secrets, options).await
    }

    /// Serves a node that is to link with those at these addresses.
    pub async fn join(join: Vec<String>, secrets: &[&str], options: http::Options) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let storage = storage::Options {
            data: directory.path().join("storage.db"),
            durability: Durability::None,
            cache_bytes: 8 << 20,
            buffers: storage::Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 10,
            subscriptions_max: 10,
            set_aside_damaged: false,
            peers: Default::default(),
            environment: Environment::new(wall_clock()),
        };
        let replication = replication::Options {
            join,
            advertise: None,
            listen: address,
            secrets: Secrets::new(secrets.iter().copied()).expect("long enough"),
            tombstone_grace_ms: 3_600_000,
            forget_after_ms: 3_600_000,
            round_ms: 1000,
            clock_drift_max_ms: 500,
            strong_log_entries: replication::strong::LOG_ENTRIES,
            network: Arc::new(SystemNetwork),
        };
        let node = Node::start(node::Options {
            address: address.to_string(),
            storage,
            clock_drift_max_ms: 500,
            value_bytes_max: 1 << 20,
            replication,
            strong_backend: node::StrongBackend::Raft,
            new_tables: node::Mode::Eventual,
            etcd_api: false,
            backups: None,
        });
        let node = node.await.expect("a node");
        // Ends with the test's runtime.
        tokio::spawn(http::serve(Arc::clone(&node), listener, options, std::future::pending()));
        Self { address, node, _directory: directory }
    }

    /// The other nodes that it knows.
    pub fn others(&self) -> Vec<MemberView> {
        let members = self.node.cluster().members;
        members.into_iter().filter(|member| member.node != self.node.id()).collect()
    }

    fn is_linked(&self, node: NodeId) -> bool {
        self.others().iter().any(|member| member.node == node && member.linked)
    }

    pub async fn until_linked(&self, node: NodeId) {
        until("the link stands", || self.is_linked(node)).await;
    }

    pub async fn until_unlinked(&self, node: NodeId) {
        until("the link has ended", || !self.is_linked(node)).await;
    }

    pub async fn put(&self, key: &str, value: &str) {
        let value = Value::parse(value).expect("JSON");
        let action = Action::Put { value, expiry: None };
        let write = Write { key: Key::parse(key).expect("a key"), action, condition: Condition::Always };
        self.node.write(&table(), write).await.expect("written");
    }

    /// Returns when a key has a value here.
    pub async fn until_has(&self, key: &str, value: &str) {
        let key = Key::parse(key).expect("a key");
        let has = || {
            let entry = self.node.get(&table(), &key).expect("readable");
            entry.is_some_and(|entry| entry.value.as_str() == value)
        };
        until("the value has come", has).await;
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the node accepts connections")
    }

    /// The whole answer to a GET.
    pub async fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
    }

    /// What comes back for these bytes until the node closes.
    pub async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("bytes can be sent");
        let mut answer = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        read.expect("an answer in time").expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn expect_serving(&self) {
        let answer = timeout(Duration::from_secs(5), self.get("/t/keys")).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn table() -> TableName {
    TableName::parse("t").expect("a name")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        let mut looks = interval(Duration::from_millis(5));
        while !condition() {
            looks.tick().await;
        }
    };
    assert!(timeout(DEADLINE, waiting).await.is_ok(), "{what}: not within {DEADLINE:?}");
}
