//! Links over real sockets: a node and its server in this process, and whoever dials it. What only the binary does with a secret is
//! in `secret`.

mod secret;
pub mod server;
mod wire;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dynarust::core::clock::Timestamp;
use dynarust::{
    core::{
        clock::NodeId,
        digest::DigestKey,
        json::Value,
        name::{Key, TableName},
        protocol::message::{Message, Row, Rows},
        register::Register,
    },
    http,
    node::wall_clock,
    replication::link::{
        Link,
        connect::SystemNetwork,
        error::LinkError,
        establish::{self, Local},
        handshake::{ClusterIdentity, Hello},
        secret::Secrets,
    },
    storage::Environment,
};
use tokio::net::{TcpSocket, TcpStream};

use server::Server;

const OLD: &str = "the old secret of the cluster";
const NEW: &str = "the new secret of the cluster";

fn local(node: u64, secrets: &[&str]) -> Local {
    let cluster = ClusterIdentity { id: 1, linked: true, digest_key: DigestKey([node as u8; 32]) };
    Local {
        hello: Hello {
            node: NodeId(node),
            incarnation: node,
            cluster,
            address: None,
            reached_as: String::new(),
            now_ms: 0,
            complete: true,
            swept: 0,
        },
        secrets: Secrets::new(secrets.iter().copied()).expect("long enough"),
        drift_max_ms: 500,
        environment: Environment::new(wall_clock()),
        network: Arc::new(SystemNetwork),
    }
}

/// A connection to `target` from another address of this machine.
async fn connect_from(source: [u8; 4], target: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((source, 0))).expect("all of 127/8 is this machine");
    socket.connect(target).await.expect("the node accepts connections")
}

async fn initiate(stream: TcpStream, local: &Local) -> Result<Link, LinkError> {
    let remote = stream.peer_addr().expect("connected");
    let key = local.secrets.link_keys()[0];
    establish::initiate(Box::new(stream), remote, &remote.to_string(), &key, local).await
}

fn rows(value_bytes: usize) -> Message {
    let value = Value::parse(&format!("\"{}\"", "v".repeat(value_bytes))).expect("JSON");
    let register = Register::live(value, None, Timestamp { hlc: 1 << 16, node: NodeId(1) });
    let row = Row::new(Key::parse("k").expect("a key"), register);
    let table = TableName::parse("t").expect("a name");
    Message::Rows(Rows { batch: 1, repair: false, tables: vec![(table, vec![row])] })
}

#[tokio::test]
async fn two_nodes_link_and_replicate_both_ways() {
    let one = Server::start(&[OLD], http::Options::default()).await;
    let other = Server::join(vec![one.address.to_string()], &[OLD], http::Options::default()).await;
    one.until_linked(other.node.id()).await;
    other.until_linked(one.node.id()).await;
    assert_eq!(one.node.cluster().cluster, other.node.cluster().cluster);
    // Longer than a frame of a link.
    let long = format!("\"{}\"", "v".repeat(1_000_000));
    for (from, to) in [(&one, &other), (&other, &one)] {
        for (key, value) in [("short", from.address.port().to_string()), ("long", long.clone())] {
            let key = format!("{key} of {}", from.address);
            from.put(&key, &value).await;
            to.until_has(&key, &value).await;
        }
    }
    one.expect_serving().await;
    other.expect_serving().await;
}

#[tokio::test]
async fn a_node_that_is_dialed_knows_who_links_and_takes_what_is_sent() {
    let server = Server::start(&[OLD], http::Options::default()).await;
    let mut dialed = establish::dial(&server.address.to_string(), &local(1, &[OLD])).await.expect("linked");
    assert_eq!(dialed.remote.node, server.node.id());
    assert_eq!(dialed.remote.address, Some(server.address.to_string()));
    server.until_linked(NodeId(1)).await;
    assert_eq!(server.node.cluster().cluster, 1, "it took over the cluster of the first that it met");
    dialed.sender.send(&rows(300_000)).await.expect("sent");
    server.until_has("k", &format!("\"{}\"", "v".repeat(300_000))).await;
}

#[tokio::test]
async fn a_node_that_dials_with_a_new_secret_falls_back_to_the_old() {
    let server = Server::start(&[OLD], http::Options::default()).await;
    let dialed = establish::dial(&server.address.to_string(), &local(1, &[NEW, OLD])).await;
    assert!(dialed.is_ok());
    server.until_linked(NodeId(1)).await;
}

#[tokio::test]
async fn a_wrong_secret_and_a_missing_one_make_no_link() {
    for (theirs, ours) in [(&[OLD][..], &[NEW][..]), (&[OLD], &[]), (&[], &[OLD])] {
        let server = Server::start(theirs, http::Options::default()).await;
        let dialed = establish::dial(&server.address.to_string(), &local(1, ours)).await;
        let error = dialed.map(drop).expect_err("refused").to_string();
        assert!(error.contains("set CLUSTER_SECRET"), "{error}");
        server.expect_serving().await;
        assert_eq!(server.others(), []);
    }
}

#[tokio::test]
async fn a_node_that_stops_takes_no_links_and_says_so() {
    let server = Server::start(&[OLD], http::Options::default()).await;
    server.node.drain();
    let error = establish::dial(&server.address.to_string(), &local(1, &[OLD])).await.expect_err("refused");
    assert!(matches!(&error, LinkError::Answered { status: 503, .. }), "{error:?}");
    assert_eq!(server.others(), []);
}

#[tokio::test]
async fn a_clock_ten_minutes_ahead_makes_no_link() {
    let server = Server::start(&[OLD], http::Options::default()).await;
    let mut early = local(1, &[OLD]);
    early.environment = Environment::new(Arc::new(|| wall_clock()() + 600_000));
    let error = establish::dial(&server.address.to_string(), &early).await.map(drop).expect_err("refused");
    assert!(error.to_string().contains("set both clocks by NTP"), "{error}");
    server.expect_serving().await;
    assert_eq!(server.others(), []);
}

#[tokio::test]
async fn failures_from_one_address_are_slowed_down_and_others_link_meanwhile() {
    let server = Server::start(&[OLD], http::Options::default()).await;
    let (mut refused, mut slowed) = (0, 0);
    for _ in 0..100 {
        match initiate(connect_from([127, 0, 0, 3], server.address).await, &local(1, &[NEW])).await {
            Err(LinkError::SecretDiffers) => refused += 1,
            Err(LinkError::Answered { status: 429, detail }) => {
                assert!(detail.contains("127.0.0.3"), "{detail}");
                slowed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused >= 10 && slowed >= 50, "{refused} refused, {slowed} slowed down");
    let good = initiate(connect_from([127, 0, 0, 4], server.address).await, &local(3, &[OLD])).await;
    let _good = good.expect("another address links");
    server.until_linked(NodeId(3)).await;
    server.expect_serving().await;
}

#[tokio::test]
async fn a_node_that_serves_https_takes_links_without_and_nothing_else() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let tls = http::Tls {
        cert: fixtures.join("certificate.pem"),
        key: fixtures.join("key.pem"),
        client_ca: None,
        clients: http::ClientCertificates::default(),
    };
    let tls = http::Certificates::load(tls).expect("a certificate");
    let options = http::Options { tls: Some(tls), ..http::Options::default() };
    let server = Server::start(&[OLD], options).await;
    let mut dialed = establish::dial(&server.address.to_string(), &local(1, &[OLD])).await.expect("linked");
    dialed.sender.send(&rows(1)).await.expect("sent");
    server.until_has("k", "\"v\"").await;
    for path in ["/t/keys", "/_/links", "/_/link/x", "/healthz"] {
        let answer = server.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("use https://"), "{path}: {answer}");
        assert!(answer.contains("connection: close"), "{path}: {answer}");
    }
}

/// The timeouts of a client's connection would end it: none is as long as a link.
#[tokio::test]
async fn a_link_outlives_the_timeouts_of_requests() {
    let short = Duration::from_millis(50);
    let options = http::Options {
        header_timeout: short,
        body_timeout: short,
        stall_timeout: short,
        ..http::Options::default()
    };
    let server = Server::start(&[OLD], options).await;
    let mut dialed = establish::dial(&server.address.to_string(), &local(1, &[OLD])).await.expect("linked");
    // Nothing goes there for many times that long, and what comes is not much: the rounds.
    let begun = Instant::now();
    while begun.elapsed() < 20 * short {
        dialed.receiver.next().await.expect("the link stands").expect("a message");
    }
    dialed.sender.send(&rows(1)).await.expect("sent");
    server.until_has("k", "\"v\"").await;
}
