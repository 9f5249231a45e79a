//! Further listeners of the server, for remote procedure calls over HTTP/2: gRPC. They share everything with the main one but the requests:
//! the limits on connections and memory, certificates, timeouts, metrics and the shutdown. What a call is, the layer above knows.

use std::{convert::Infallible, future::Future, io, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::future::{self, BoxFuture, select_all};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    service::service_fn,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{
    Accepted, Listener,
    answer::{Answer, Rest},
    driver::{BoxError, Connection},
    service,
    socket::{Protocol, Socket},
    tls::Certificates,
};
use crate::{
    error::Error,
    http::{
        request::connection_state::{ConnectionState, OpenRequest},
        response,
        routes::metrics::Metrics,
    },
};

/// Calls of one connection at a time. A client of gRPC keeps one connection for everything, and each stream that it follows is a call.
const CALLS_MAX: u32 = 1024;

/// The body of an answer to a call. Its errors are in its trailers.
pub type RpcBody = UnsyncBoxBody<Bytes, Infallible>;

/// The answer to a call, once it is there.
pub type RpcAnswer = Pin<Box<dyn Future<Output = Response<RpcBody>> + Send>>;

/// A listener, and what it serves.
pub struct RpcListener {
    /// Where clients connect.
    pub listener: TcpListener,
    /// What answers them.
    pub service: Arc<dyn RpcService>,
}

/// What answers calls.
pub trait RpcService: Send + Sync {
    /// Whether calls with this path ask how the node is: no rate limit counts them.
    fn is_probe(&self, path: &str) -> bool;

    /// Answers one call. All errors are answers.
    fn answer(self: Arc<Self>, call: RpcCall) -> RpcAnswer;
}

/// A call, and what its answer needs to know.
pub struct RpcCall {
    /// The request.
    pub request: Request<Incoming>,
    /// The connection it came on, with the server's limits.
    pub connection: Arc<ConnectionState>,
    /// Why it must be refused, if it must: its address sends too many.
    pub refusal: Option<Error>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// The next connection of any of these listeners, and what serves it.
pub(super) async fn accept(rpcs: &[RpcListener]) -> (io::Result<Accepted>, Arc<dyn RpcService>) {
    if rpcs.is_empty() {
        return future::pending().await;
    }
    let accepting = rpcs.iter().map(|rpc| Box::pin(Listener::accept(&rpc.listener)));
    let (accepted, place, _) = select_all(accepting).await;
    (accepted, Arc::clone(&rpcs[place].service))
}

impl Connection {
    /// Serves calls on a connection whose first bytes have arrived; `None` if the client hung up before.
    pub(super) fn serve_rpc(
        &mut self,
        rpc: Arc<dyn RpcService>,
        socket: Socket,
        protocol: Option<Protocol>,
    ) -> BoxFuture<'_, Result<(), BoxError>> {
        let tls = self.tls.take();
        Box::pin(self.serve_protocol(rpc, socket, protocol, tls))
    }

    async fn serve_protocol(
        &self,
        rpc: Arc<dyn RpcService>,
        mut socket: Socket,
        protocol: Option<Protocol>,
        tls: Option<Certificates>,
    ) -> Result<(), BoxError> {
        match (protocol, tls) {
            (None, _) => Ok(()),
            (Some(Protocol::Http2), None) => self.serve_calls(rpc, socket).await,
            (Some(Protocol::Tls), Some(tls)) => {
                let handshake = tls.accept(socket, &self.connection);
                let mut stream = timeout(self.connection.options.header_timeout, handshake).await??;
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return self.serve_calls(rpc, stream).await;
                }
                refuse(&mut stream, &grpc_only()).await
            }
            (Some(Protocol::Http1 | Protocol::Http2), Some(_)) => {
                refuse(&mut socket, &service::tls_required()).await
            }
            (Some(Protocol::Http1 | Protocol::Tls), None) => refuse(&mut socket, &grpc_only()).await,
        }
    }

    async fn serve_calls(
        &self,
        rpc: Arc<dyn RpcService>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), BoxError> {
        let (service, connection) = (Arc::clone(&self.service), Arc::clone(&self.connection));
        let service = service_fn(move |request: Request<Incoming>| {
            let open = connection.begin_request();
            let call = RpcCall {
                refusal: refusal(&connection, &open, rpc.is_probe(request.uri().path())),
                request,
                connection: Arc::clone(&connection),
                metrics: Arc::clone(service.metrics()),
            };
            let answering = Arc::clone(&rpc).answer(call);
            async move { Ok::<_, Infallible>(answering.await.map(|body| Answer::streamed(body, open))) }
        });
        self.run_http2(io, service, CALLS_MAX).await
    }
}

/// Why an address may not call now.
fn refusal(connection: &ConnectionState, open: &OpenRequest, is_probe: bool) -> Option<Error> {
    let count = || connection.options.rate_limits.count_address(connection.remote.ip()).err();
    if is_probe { None } else { count() }.or_else(|| open.refusal())
}

/// The error for clients that speak HTTP/1.
fn grpc_only() -> Error {
    Error::BadRequest(
        "this port speaks gRPC, which is HTTP/2: send other requests to the node's own port".into(),
    )
}

async fn refuse(io: &mut (impl AsyncWrite + Unpin), error: &Error) -> Result<(), BoxError> {
    io.write_all(response::plain_response(error).as_bytes()).await?;
    Ok(io.shutdown().await?)
}

impl<B: Body<Data = Bytes>> Answer<B> {
    /// An answer whose body takes care of its memory itself.
    fn streamed(body: B, open: OpenRequest) -> Self {
        Self { body, reservation: None, rest: Rest::Body { _request: open } }
    }
}
