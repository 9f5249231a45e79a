//! The generated clients on a connection of hyper's, as tonic's own transport would bring twenty crates for tests alone.

#[expect(clippy::enum_variant_names, reason = "so etcd's protocol names them")]
pub mod generated {
    include!(concat!(env!("OUT_DIR"), "/clients/clients.rs"));
}

use std::{
    future::Future,
    net::SocketAddr,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use hyper::{Request, Response, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;
use tower_service::Service;

pub use generated::dynarust::v1::{kv_client::KvClient, value::Kind, *};

use crate::harness::{DEADLINE, Node, Setup};

/// One connection to a listener for gRPC.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<Body>,
}

impl Channel {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the listener accepts");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        // Ends with the last sender.
        tokio::spawn(connection);
        Self { sender }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<Response<Incoming>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// A node that serves gRPC on a free port, and a runtime for its clients.
pub struct Served {
    pub node: Node,
    pub address: SocketAddr,
    pub runtime: Runtime,
}

impl Served {
    pub fn start() -> Self {
        Self::start_with(|setup| setup)
    }

    pub fn start_with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let node = change(Setup::new().flag("--grpc", "127.0.0.1:0")).start();
        let address = address_in(&node.log());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { node, address, runtime }
    }

    /// Runs a test with a client on a connection of its own, until the deadline of all tests.
    pub fn with_client<T, F: Future<Output = T>>(&self, test: impl FnOnce(KvClient<Channel>) -> F) -> T {
        self.runtime.block_on(async {
            let run = async { test(client(self.address).await).await };
            timeout(DEADLINE, run).await.expect("in time")
        })
    }
}

/// A client on a connection of its own.
pub async fn client(address: SocketAddr) -> KvClient<Channel> {
    let origin = format!("http://{address}").parse().expect("a URI");
    KvClient::with_origin(Channel::open(address).await, origin)
}

/// The address that the log names.
pub fn address_in(log: &str) -> SocketAddr {
    let line = log.lines().find(|line| line.contains("listening for gRPC"));
    let line = line.unwrap_or_else(|| panic!("no line with the address in {log}"));
    let (_, address) = line.split_once("address=").expect("an address");
    address.split_whitespace().next().and_then(|text| text.parse().ok()).expect("an address")
}

/// A value of JSON text.
pub fn json(text: &str) -> Option<Value> {
    Some(Value { kind: Some(Kind::Json(text.into())) })
}

/// A value of bytes.
pub fn bytes(bytes: &[u8]) -> Option<Value> {
    Some(Value { kind: Some(Kind::Bytes(bytes.into())) })
}

pub fn get(table: &str, key: &str) -> GetRequest {
    GetRequest { table: table.into(), key: key.into(), ..GetRequest::default() }
}

pub fn set(table: &str, key: &str, value: Option<Value>) -> SetRequest {
    SetRequest { table: table.into(), key: key.into(), value, ..SetRequest::default() }
}

pub fn delete(table: &str, key: &str) -> DeleteRequest {
    DeleteRequest { table: table.into(), key: key.into(), ..DeleteRequest::default() }
}

pub fn exists(exists: bool) -> Option<Condition> {
    Some(Condition { expected: Some(condition::Expected::Exists(exists)) })
}

/// Whether a call failed with this status, this code of DynaRust, and these words.
#[track_caller]
pub fn assert_status<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, name: &str, words: &[&str]) {
    let status = outcome.expect_err(name);
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((status.code(), info.metadata["code"].as_str()), (code, name), "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "{word} in {:?}", status.message());
    }
}
