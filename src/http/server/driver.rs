//! One connection from its first byte to its last: which protocol it speaks, and hyper for it, until somebody else gets it.

use std::{
    convert::Infallible,
    future::{self, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::Either};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::{Service as HyperService, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_util::io::InspectReader;
use tracing::debug;

use super::{
    answer::answer,
    connection::Http1Stream,
    event_sender,
    rpc::RpcService,
    service::{self, Service},
    socket::{ClientStream, Protocol, Socket, Transport},
    stalled_bodies::{Bodies, READS_TOO_SLOWLY, SEND_BUFFER_BYTES},
    tls::Certificates,
};
use crate::{
    http::{
        HEAD_BYTES_MAX,
        request::{
            connection_state::{ConnectionState, OpenRequest},
            hand_over::{HandOver, Successor},
            upgrade::Upgraded,
        },
        response,
    },
    node::Node,
};

/// Streams of one HTTP/2 connection at a time. Each may hold a request body and a response. Browsers open no more at a time.
const HTTP2_STREAMS_MAX: u32 = 32;

/// Length of what an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// Why a connection ended early.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who gets a connection from hyper, the request that it answers, the bytes of the connection, and what was read too early.
type HandedOver<S> = (Successor, OpenRequest, S, Bytes);

/// One connection from its first byte to its last.
pub(super) struct Connection {
    pub(super) service: Arc<Service>,
    /// What it serves instead of HTTP.
    pub(super) rpc: Option<Arc<dyn RpcService>>,
    pub(super) tls: Option<Certificates>,
    pub(super) node: Arc<Node>,
    pub(super) connection: Arc<ConnectionState>,
}

impl Connection {
    pub(super) async fn run(mut self, stream: Box<dyn ClientStream>, permit: OwnedSemaphorePermit) {
        let remote = self.connection.remote;
        if let Err(error) = self.open_and_serve(stream, permit).await {
            debug!(%remote, %error, "connection ended");
        }
    }

    async fn open_and_serve(
        &mut self,
        stream: Box<dyn ClientStream>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), BoxError> {
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

    async fn serve_tls(&mut self, socket: Socket, tls: Certificates) -> Result<(), BoxError> {
        let handshake = tls.accept(socket, &self.connection);
        let stream = timeout(self.connection.options.header_timeout, handshake).await??;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if http2 { self.serve_http2(stream).await } else { self.serve_http1(stream).await }
    }

    /// Serves a connection by HTTP/1 until it ends, or belongs to another protocol.
    async fn serve_http1(&self, io: impl Transport) -> Result<(), BoxError> {
        let hand_over = Arc::<HandOver>::default();
        let mut stream = Http1Stream::new(io, Arc::clone(&self.connection), Arc::clone(&hand_over));
        loop {
            // Boxed, so that it is gone while an event stream goes on, for hours.
            let Some((successor, request, io, unread)) =
                Box::pin(self.serve_requests(stream, &hand_over)).await?
            else {
                return Ok(());
            };
            let events = match successor {
                Successor::Protocol(begin) => {
                    begin(Upgraded::new(Box::new(io), unread));
                    return Ok(());
                }
                Successor::Events(events) => *events,
            };
            let (mut io, unread) = event_sender::send(events.stream, io, unread).await?;
            drop(request);
            if events.is_last || self.node.is_draining() {
                return Ok(io.shutdown().await?);
            }
            self.connection.expect_requests();
            stream = Http1Stream::resume(io, unread, Arc::clone(&self.connection), Arc::clone(&hand_over));
        }
    }

    /// Has hyper serve requests, until the connection ends or somebody else gets it.
    async fn serve_requests<S: Transport>(
        &self,
        stream: Http1Stream<S>,
        hand_over: &Arc<HandOver>,
    ) -> Result<Option<HandedOver<S>>, BoxError> {
        // Boxed, because hyper keeps room for the future until the connection ends.
        let service = service_fn(|request: Request<Incoming>| {
            let answering = answer(request, &self.service, &self.connection, Some(hand_over));
            let answering = answering.map(Ok::<_, Infallible>);
            let mut answering = Box::pin(answering);
            // Most responses are ready at once. Then hyper gets the head's buffer back before it looks for the next request and can reuse
            // it; otherwise it needs a new buffer. A future that waits is polled again with a real waker.
            match answering.as_mut().now_or_never() {
                Some(answer) => Either::Left(future::ready(answer)),
                None => Either::Right(answering),
            }
        });
        let mut requests = http1::Builder::new()
            .timer(TokioTimer::new())
            // `Http1Stream` has its own timeouts for a head and for the time before it.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            // Treat a client that closes its side as gone. Otherwise a stream would notice only at its next event. The price: a client that
            // closes its side to say it has asked everything gets no response that takes a while.
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            biased;
            ended = until_handed_over(&mut requests, hand_over) => ended?,
            () = self.node.drained() => {
                Pin::new(&mut requests).graceful_shutdown();
                // hyper ends an idle connection at once, but waits for the rest of a partial head.
                tokio::select! {
                    biased;
                    ended = until_handed_over(&mut requests, hand_over) => ended?,
                    () = self.connection.wait_until_idle() => return Ok(None),
                }
            }
        }
        let Some((successor, request)) = hand_over.take() else { return Ok(None) };
        let parts = requests.into_parts();
        let (io, rest) = parts.io.into_inner().into_parts();
        // What hyper has is a part of its buffer.
        let unread = Bytes::from([&parts.read_buf[..], &rest].concat());
        Ok(Some((successor, request, io, unread)))
    }

    async fn serve_http2(
        &mut self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), BoxError> {
        let (service, connection) = (Arc::clone(&self.service), Arc::clone(&self.connection));
        let service = service_fn(move |request: Request<Incoming>| {
            let (service, connection) = (Arc::clone(&service), Arc::clone(&connection));
            async move { Ok::<_, Infallible>(answer(request, &service, &connection, None).await) }
        });
        self.run_http2(io, service, HTTP2_STREAMS_MAX).await
    }

    /// Serves a connection by HTTP/2 until it ends; once the node drains, until its requests are answered.
    pub(super) async fn run_http2<S, B>(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        service: S,
        streams_max: u32,
    ) -> Result<(), BoxError>
    where
        S: HyperService<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let read_bytes = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&read_bytes);
        let count = move |read: &[u8]| _ = counting.fetch_add(read.len(), Ordering::Relaxed);
        let io = InspectReader::new(io, count);
        // hyper asks for a sign of life only after the preface.
        let silent = async {
            sleep(self.connection.options.header_timeout).await;
            if read_bytes.load(Ordering::Relaxed) >= PREFACE_BYTES {
                future::pending::<()>().await;
            }
        };
        let bodies = Arc::new(Bodies::new(Arc::clone(&self.connection.budget)));
        let added = Arc::clone(&bodies);
        let service = service_fn(move |request| {
            let (answering, bodies) = (service.call(request), Arc::clone(&added));
            async move { Ok::<_, Infallible>(answering.await?.map(|body| bodies.add(body))) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(streams_max)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(self.connection.options.stall_timeout)
            .keep_alive_timeout(self.connection.options.stall_timeout)
            .serve_connection(TokioIo::new(io), service);
        let stalled = bodies.drop_stalled(self.connection.options.stall_timeout);
        let (mut connection, mut silent, mut stalled) = (pin!(connection), pin!(silent), pin!(stalled));
        let late = || Err("the HTTP/2 preface did not come in time".into());
        let unread = || Err(READS_TOO_SLOWLY.into());
        tokio::select! {
            biased;
            ended = connection.as_mut() => return Ok(ended?),
            () = self.node.drained() => connection.as_mut().graceful_shutdown(),
            () = silent.as_mut() => return late(),
            () = stalled.as_mut() => return unread(),
        }
        tokio::select! {
            biased;
            ended = connection => Ok(ended?),
            () = silent => late(),
            () = stalled => unread(),
        }
    }
}

/// Completes when the connection ends, or when hyper has done its part of it.
async fn until_handed_over(
    requests: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
    hand_over: &HandOver,
) -> hyper::Result<()> {
    poll_fn(|context| match Pin::new(&mut *requests).poll(context) {
        Poll::Pending if hand_over.is_head_written() => Poll::Ready(Ok(())),
        polled => polled,
    })
    .await
}
