//! The HTTP server: the accept loop, and everything that surrounds the routes. Warp's own server has no TLS, no header timeout and no limit
//! on connections, and its graceful stop waits for ever for one open event stream. So we drive hyper ourselves, which also gives us HTTP/2.
//!
//! The way of a connection: [`address_limits`](super::request::address_limits) counts it, [`socket`] sets its options and detects the protocol, [`tls`] decrypts,
//! [`connection`] enforces the timeouts of HTTP/1, and hyper parses the requests. [`service`] then handles each request: [`guard`], the
//! routes, [`compress`], [`cors`], metrics and the log.
//!
//! A connection beyond the limit gets 503 and is closed, instead of waiting in the backlog: its client, or the load balancer, can go
//! elsewhere at once and not at its own timeout. One beyond the limit of its address gets 429.

mod answer;
pub mod certificate;
pub mod compress;
pub mod connection;
pub mod cors;
pub mod guard;
pub mod rpc;
pub mod service;
pub mod socket;
pub mod tls;

use self::{
    answer::answer,
    connection::Http1Stream,
    rpc::{RpcListener, RpcService},
    service::Service,
    socket::{ClientStream, Protocol, Socket},
    tls::Certificates,
};
use super::{
    HEAD_BYTES_MAX, Options,
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
use std::{
    convert::Infallible,
    future::{self, Future},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::Either};
use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

/// Streams of one HTTP/2 connection at a time. Each may hold a request body and a response. Browsers open no more at a time.
const HTTP2_STREAMS_MAX: u32 = 32;
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

/// One connection from its first byte to its last.
struct Connection {
    service: Arc<Service>,
    /// What it serves instead of HTTP.
    rpc: Option<Arc<dyn RpcService>>,
    tls: Option<Certificates>,
    node: Arc<Node>,
    connection: Arc<ConnectionState>,
}

impl Connection {
    async fn run(mut self, stream: Box<dyn ClientStream>, permit: OwnedSemaphorePermit) {
        let remote = self.connection.remote;
        if let Err(error) = self.open_and_serve(stream, permit).await {
            debug!(%remote, %error, "connection ended");
        }
    }

    async fn open_and_serve(
        &mut self,
        stream: Box<dyn ClientStream>,
        permit: OwnedSemaphorePermit,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut socket = Socket::new(stream, Arc::clone(&self.connection), permit)?;
        // The timeout for a head starts with the first byte. This one covers the time before.
        let first = timeout(self.connection.options.header_timeout, socket.protocol());
        let protocol = tokio::select! {
            biased;
            protocol = first => protocol??,
            () = self.node.drained() => None,
        };
        // Box what few connections need, so that the others, thousands of idle streams, do not carry room for it.
        if let Some(rpc) = self.rpc.take() {
            return self.serve_rpc(rpc, socket, protocol).await;
        }
        match (protocol, self.tls.take()) {
            (None, _) => Ok(()),
            (Some(Protocol::Http2), None) => Box::pin(self.serve_http2(socket)).await,
            (Some(Protocol::Http1 | Protocol::Tls), None) => self.serve_http1(socket).await,
            (Some(Protocol::Tls), Some(tls)) => Box::pin(self.serve_tls(socket, tls)).await,
            // Allow a plain link on a TLS port: links have their own encryption, and peers know no certificates.
            (Some(Protocol::Http1), Some(_)) => {
                self.connection.expect_link();
                self.serve_http1(socket).await
            }
            (Some(Protocol::Http2), Some(_)) => {
                socket.write_all(response::plain_response(&service::tls_required()).as_bytes()).await?;
                Ok(socket.shutdown().await?)
            }
        }
    }

    async fn serve_tls(
        &mut self,
        socket: Socket,
        tls: Certificates,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let handshake = tls.accept(socket, &self.connection);
        let stream = timeout(self.connection.options.header_timeout, handshake).await??;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if http2 { self.serve_http2(stream).await } else { self.serve_http1(stream).await }
    }

    async fn serve_http1(
        &mut self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // Boxed, because hyper keeps room for the future until the connection ends, and a stream outlives its handler by hours.
        let service = service_fn(|request: Request<Incoming>| {
            let answering = answer(request, &self.service, &self.connection).map(Ok::<_, Infallible>);
            let mut answering = Box::pin(answering);
            // Most responses are ready at once. Then hyper gets the head's buffer back before it looks for the next request and can reuse
            // it; otherwise it needs a new buffer. A future that waits is polled again with a real waker.
            match answering.as_mut().now_or_never() {
                Some(answer) => Either::Left(future::ready(answer)),
                None => Either::Right(answering),
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // `Http1Stream` has its own timeouts for a head and for the time before it.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            // Treat a client that closes its side as gone. Otherwise a stream would notice only at its next event. The price: a client that
            // closes its side to say it has asked everything gets no response that takes a while.
            .half_close(false)
            .serve_connection(TokioIo::new(Http1Stream::new(io, Arc::clone(&self.connection))), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            ended = connection.as_mut() => return Ok(ended?),
            () = self.node.drained() => connection.as_mut().graceful_shutdown(),
        }
        // hyper ends an idle connection at once, but waits for the rest of a partial head.
        tokio::select! {
            biased;
            ended = connection => Ok(ended?),
            () = self.connection.wait_until_idle() => Ok(()),
        }
    }

    async fn serve_http2(
        &mut self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (service, connection) = (Arc::clone(&self.service), Arc::clone(&self.connection));
        let service = service_fn(move |request: Request<Incoming>| {
            let (service, connection) = (Arc::clone(&service), Arc::clone(&connection));
            async move { Ok::<_, Infallible>(answer(request, &service, &connection).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(self.connection.options.stall_timeout)
            .keep_alive_timeout(self.connection.options.stall_timeout)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            ended = connection.as_mut() => return Ok(ended?),
            () = self.node.drained() => connection.as_mut().graceful_shutdown(),
        }
        Ok(connection.await?)
    }
}
