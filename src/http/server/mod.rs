//! The HTTP server: the accept loop, and everything that surrounds the routes. Warp's own server has no TLS, no header timeout and no limit
//! on connections, and its graceful stop waits for ever for one open event stream. So we drive hyper ourselves, which also gives us HTTP/2.
//!
//! The way of a connection: [`address_limits`](super::request::address_limits) counts it, [`socket`] sets its options and detects the protocol, [`tls`] decrypts,
//! [`connection`] enforces the timeouts of HTTP/1, and `driver` has hyper parse the requests. [`service`] then handles each request: [`guard`], the
//! routes, [`compress`], [`cors`], metrics and the log. An event stream over HTTP/1.1 leaves hyper after its head, for `event_sender`.
//!
//! A connection beyond the limit gets 503 and is closed, instead of waiting in the backlog: its client, or the load balancer, can go
//! elsewhere at once and not at its own timeout. One beyond the limit of its address gets 429.

mod answer;
pub mod certificate;
pub mod compress;
pub mod connection;
pub mod cors;
mod driver;
mod event_sender;
pub mod guard;
pub mod rpc;
pub mod service;
pub mod socket;
mod stalled_bodies;
pub mod tls;

use self::{
    driver::Connection,
    rpc::{RpcListener, RpcService},
    service::Service,
    socket::{ClientStream, Socket},
    tls::Certificates,
};
use super::{
    Options,
    request::{
        address_limits::{AddressLimits, AddressSlot},
        budget::Budget,
        traffic::Traffic,
    },
    response,
};
use crate::{
    error::{Error, Result},
    http::request::connection_state::ConnectionState,
    node::Node,
};
use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

/// Pause after the system had no file descriptor or memory for a connection, so that others can close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are being refused with a response. Beyond that many we just close them.
const REFUSALS_MAX: usize = 64;

/// A connection, and its remote address.
type Accepted = (Box<dyn ClientStream>, SocketAddr);

/// A source of client connections.
pub trait Listener {
    /// The next connection, and its remote address.
    fn accept(&self) -> impl Future<Output = io::Result<Accepted>> + Send;
}

impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<Accepted> {
        let (stream, remote) = self.accept().await?;
        Ok((Box::new(stream), remote))
    }
}

/// Serves `node` on `listener` until `shutdown`, then lets requests in flight finish, up to the shutdown timeout.
///
/// # Errors
/// None so far. Errors of single connections are logged.
pub async fn serve(
    node: Arc<Node>,
    listener: impl Listener,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    serve_with(node, listener, Vec::new(), options, shutdown).await
}

/// As `serve`, and serves `rpcs` on their own listeners: with the same limits, certificates, metrics and end.
///
/// # Errors
/// As `serve`.
pub async fn serve_with(
    node: Arc<Node>,
    listener: impl Listener,
    rpcs: Vec<RpcListener>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    options.access.accept_admin_token(node.admin_token().clone());
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let budget = Budget::new(options.body_memory_bytes, options.memory_pressure.clone());
    let traffic = Arc::default();
    let mut server = Server {
        service: Arc::new(Service::new(Arc::clone(&node), &options, &budget, &traffic)),
        traffic,
        address_limits: AddressLimits::new(
            options.connections_per_address_max,
            options.connections_per_loopback_max,
        ),
        budget,
        tls: options.tls.clone(),
        options: Arc::new(options),
        permits,
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        node: Arc::clone(&node),
        connections: JoinSet::new(),
    };
    server.accept_until(&listener, &rpcs, shutdown).await;
    drop((listener, rpcs));
    node.drain();
    server.finish().await;
    Ok(())
}

struct Server {
    service: Arc<Service>,
    options: Arc<Options>,
    tls: Option<Certificates>,
    permits: Arc<Semaphore>,
    address_limits: Arc<AddressLimits>,
    budget: Arc<Budget>,
    traffic: Arc<Traffic>,
    refusals: Arc<Semaphore>,
    /// When it drains, the server ends.
    node: Arc<Node>,
    connections: JoinSet<()>,
}

impl Server {
    async fn accept_until(
        &mut self,
        listener: &impl Listener,
        rpcs: &[RpcListener],
        shutdown: impl Future<Output = ()>,
    ) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                // Collect finished connections first; each was accepted once, so this cannot starve the accepts.
                biased;
                () = &mut shutdown => return,
                Some(ended) = self.connections.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "connection task panicked");
                    }
                }
                accepted = listener.accept() => self.take(accepted, None).await,
                (accepted, service) = rpc::accept(rpcs) => self.take(accepted, Some(service)).await,
            }
        }
    }

    /// Serves an accepted connection: `rpc` if its listener was for that.
    async fn take(&mut self, accepted: io::Result<Accepted>, rpc: Option<Arc<dyn RpcService>>) {
        match accepted {
            Ok((stream, remote)) => self.admit(stream, remote, rpc),
            Err(error) => recover_from(&error).await,
        }
    }

    fn admit(&mut self, stream: Box<dyn ClientStream>, remote: SocketAddr, rpc: Option<Arc<dyn RpcService>>) {
        let slot = match self.address_limits.connect(remote.ip()) {
            Ok(slot) => slot,
            Err(error) => return self.refuse(stream, remote, error),
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let error = Error::Overloaded(format!(
                "this node already has {} connections, the most allowed (--max-connections): try again, or use another node",
                self.options.connections_max
            ));
            return self.refuse(stream, remote, error);
        };
        let connection = Connection {
            service: Arc::clone(&self.service),
            tls: self.tls.clone(),
            rpc,
            node: Arc::clone(&self.node),
            connection: Arc::new(self.connection(remote, Some(slot))),
        };
        self.connections.spawn(connection.run(stream, permit));
    }

    fn connection(&self, remote: SocketAddr, slot: Option<AddressSlot>) -> ConnectionState {
        ConnectionState::new(remote, Arc::clone(&self.options), Arc::clone(&self.budget), &self.traffic, slot)
    }

    fn refuse(&mut self, stream: Box<dyn ClientStream>, remote: SocketAddr, error: Error) {
        debug!(%remote, %error, "connection refused");
        // Before a TLS handshake there is no way to respond.
        let Some(permit) = self.refusals.clone().try_acquire_owned().ok().filter(|_| self.tls.is_none())
        else {
            return;
        };
        let connection = Arc::new(self.connection(remote, None));
        self.connections.spawn(async move {
            // The client may be gone, and there is nobody else to tell.
            let _ = send_error_and_close(stream, connection, permit, &error).await;
        });
    }

    /// Waits until every connection is closed, including upgraded ones, but no longer than the shutdown timeout.
    async fn finish(mut self) {
        let all = u32::try_from(self.options.connections_max).unwrap_or(u32::MAX);
        if timeout(self.options.shutdown_timeout, self.permits.acquire_many(all)).await.is_err() {
            let left = self.options.connections_max - self.permits.available_permits();
            info!(connections = left, "shutdown timeout: closing the open connections");
        }
        self.connections.shutdown().await;
    }
}

/// Pauses if the system is short of a resource. Returns at once if only the client hung up.
async fn recover_from(error: &io::Error) {
    let is_client_fault = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if is_client_fault {
        debug!(%error, "client hung up before its connection was accepted");
    } else {
        warn!(%error, "cannot accept connections, trying again");
        sleep(ACCEPT_PAUSE).await;
    }
}

async fn send_error_and_close(
    stream: Box<dyn ClientStream>,
    connection: Arc<ConnectionState>,
    permit: OwnedSemaphorePermit,
    error: &Error,
) -> io::Result<()> {
    let mut socket = Socket::new(stream, connection, permit)?;
    socket.write_all(response::plain_response(error).as_bytes()).await?;
    socket.shutdown().await
}
