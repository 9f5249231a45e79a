//! One client's TCP connection: its socket options, the protocol that its first bytes show, and the timeouts for clients that do not read
//! or do not hang up.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use crate::http::request::{connection_state::ConnectionState, traffic::Traffic};

/// Idle time before the kernel probes whether the client is alive: well below the idle limits of common NATs.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// The kernel's send buffer for an event stream. Left alone it grows to 4 MB for every client that does not read. For all other responses
/// we leave it alone, because a fixed size turns off the tuning that fills long links.
const EVENT_STREAM_SEND_BYTES: usize = 64 * 1024;
/// How long we keep reading from a closed connection, so that what the client still sends does not reset it before the client has read the
/// response.
const LINGER: Duration = Duration::from_secs(2);
/// The most we read then: a client that sends more is not waiting for a response.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Enough bytes to tell HTTP/2 and TLS from HTTP/1.
const PREFACE_BYTES: usize = 4;

/// Most chunks in one write.
pub const CHUNKS_MAX: usize = 16;

/// A client's connection as accepted.
pub trait ClientStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Sets no delay for writes, probes for silent clients, and the timeout for a client that takes nothing.
    fn set_options(&self, stall_timeout: Duration) -> io::Result<()>;

    /// Limits how much the kernel buffers for a client that does not read.
    fn limit_send_buffer(&self, bytes: usize) -> io::Result<()>;

    /// The kernel's connection, if it is one to which any thread can write.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl ClientStream for TcpStream {
    fn set_options(&self, stall_timeout: Duration) -> io::Result<()> {
        self.set_nodelay(true)?;
        let socket = SockRef::from(self);
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(KEEPALIVE_INTERVAL / 6),
        )?;
        // The kernel's own stall timeout, for bytes it has already taken.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(stall_timeout))?;
        Ok(())
    }

    fn limit_send_buffer(&self, bytes: usize) -> io::Result<()> {
        SockRef::from(self).set_send_buffer_size(bytes)
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

/// The first chunks as slices for one write.
pub fn gathered<'a, 's>(
    chunks: impl IntoIterator<Item = &'a Bytes>,
    slices: &'s mut [io::IoSlice<'a>; CHUNKS_MAX],
) -> &'s [io::IoSlice<'a>] {
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = io::IoSlice::new(chunk);
        count += 1;
    }
    &slices[..count]
}

/// The bytes of a connection as HTTP/1 sees them: of a socket, or of TLS on it.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Whether `try_write` works.
    fn can_try_write(&self) -> bool;

    /// Writes what can be written at once, from any thread: of at most `CHUNKS_MAX` chunks.
    ///
    /// # Errors
    /// `WouldBlock` if that is nothing; those of the connection.
    fn try_write(&mut self, chunks: &[Bytes]) -> io::Result<usize>;
}

impl Transport for Socket {
    fn can_try_write(&self) -> bool {
        self.stream.as_tcp().is_some()
    }

    fn try_write(&mut self, chunks: &[Bytes]) -> io::Result<usize> {
        self.limit_send_buffer();
        let tcp = self.stream.as_tcp().ok_or(io::ErrorKind::WouldBlock)?;
        let written = match chunks {
            [chunk] => tcp.try_write(chunk)?,
            chunks => {
                let mut slices = [io::IoSlice::new(&[]); CHUNKS_MAX];
                let slices = gathered(chunks, &mut slices);
                tcp.try_write_vectored(slices)?
            }
        };
        self.traffic.sent(written);
        Ok(written)
    }
}

/// What TLS has to write goes out in the task of the connection.
impl Transport for TlsStream<Socket> {
    fn can_try_write(&self) -> bool {
        false
    }

    fn try_write(&mut self, _: &[Bytes]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// The protocol a client speaks, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1, or something unknown, which gets an HTTP/1 response.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS client hello.
    Tls,
}

/// The connection's bytes. Whoever owns it last, it keeps its place among the connections until it is closed.
pub struct Socket {
    stream: Box<dyn ClientStream>,
    connection: Arc<ConnectionState>,
    /// That of the connection: one event for very many sockets would wait for memory at each of their connections.
    traffic: Arc<Traffic>,
    first: [u8; PREFACE_BYTES],
    first_length: usize,
    first_read: usize,
    send_buffer_set: bool,
    stalled: Option<Pin<Box<Sleep>>>,
    linger: Linger,
    _permit: OwnedSemaphorePermit,
}

/// The state of closing a connection.
enum Linger {
    Open,
    /// Our side is closed, and the client has sent nothing more so far.
    HalfClosed,
    /// The client sends more: read and discard until it hangs up, the time is over, or it was too much.
    Draining {
        over: Pin<Box<Sleep>>,
        bytes: usize,
    },
}

impl Socket {
    /// Takes over an accepted connection and sets its options.
    pub fn new(
        stream: Box<dyn ClientStream>,
        connection: Arc<ConnectionState>,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        stream.set_options(connection.options.stall_timeout)?;
        Ok(Self {
            stream,
            traffic: Arc::clone(connection.traffic()),
            connection,
            first: [0; PREFACE_BYTES],
            first_length: 0,
            first_read: 0,
            send_buffer_set: false,
            stalled: None,
            linger: Linger::Open,
            _permit: permit,
        })
    }

    /// Waits for the first bytes and tells the protocol; `None` if the client hung up before. The bytes stay to be read.
    pub async fn protocol(&mut self) -> io::Result<Option<Protocol>> {
        while b"PRI ".starts_with(&self.first[..self.first_length]) && self.first_length < PREFACE_BYTES {
            let length = self.stream.read(&mut self.first[self.first_length..]).await?;
            if length == 0 {
                return Ok(None);
            }
            self.first_length += length;
            self.traffic.received(length);
        }
        Ok(Some(match &self.first {
            b"PRI " => Protocol::Http2,
            [0x16, ..] => Protocol::Tls,
            _ => Protocol::Http1,
        }))
    }

    fn limit_send_buffer(&mut self) {
        if !self.send_buffer_set && self.connection.is_event_stream() {
            self.send_buffer_set = true;
            if let Err(error) = self.stream.limit_send_buffer(EVENT_STREAM_SEND_BYTES) {
                tracing::warn!(remote = %self.connection.remote, %error, "could not limit the send buffer");
            }
        }
    }

    fn count_sent(&self, outcome: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(length)) = outcome {
            self.traffic.sent(*length);
        }
    }

    /// Returns the outcome of a write, or an error once the client has not read for too long.
    fn watch_stall<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if self.stalled.take().is_some() {
                self.connection.set_write_blocked(false);
            }
            return outcome;
        }
        self.connection.set_write_blocked(true);
        let stall_timeout = self.connection.options.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall_timeout)));
        ready!(stalled.as_mut().poll(context));
        tracing::debug!(remote = %self.connection.remote, "closed: the client does not read");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }

    /// Reads and discards what the client still sends. Closing with unread bytes would reset the connection, and the client would lose the
    /// response.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0u8; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            let length = buffer.filled().len();
            match (read, &mut self.linger) {
                (Poll::Ready(Ok(())), Linger::HalfClosed) if length > 0 => {
                    self.linger = Linger::Draining { over: Box::pin(sleep(LINGER)), bytes: length };
                }
                (Poll::Ready(Ok(())), Linger::Draining { over, bytes }) if length > 0 => {
                    *bytes += length;
                    if *bytes > LINGER_BYTES_MAX || over.as_mut().poll(context).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                }
                (Poll::Pending, Linger::Draining { over, .. }) => {
                    ready!(over.as_mut().poll(context));
                    return Poll::Ready(Ok(()));
                }
                // The client hung up, the connection broke, or nothing arrived after we closed our side: stop waiting.
                (Poll::Ready(_) | Poll::Pending, _) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first_read < self.first_length {
            let length = buffer.remaining().min(self.first_length - self.first_read);
            buffer.put_slice(&self.first[self.first_read..self.first_read + length]);
            self.first_read += length;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.traffic.received(buffer.filled().len() - before);
        outcome
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.limit_send_buffer();
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count_sent(&outcome);
        self.watch_stall(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.limit_send_buffer();
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.count_sent(&outcome);
        self.watch_stall(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.linger, Linger::Open) {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.linger = Linger::HalfClosed;
        }
        self.poll_linger(context)
    }
}
