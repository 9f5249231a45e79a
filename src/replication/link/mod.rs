//! A link: an encrypted, mutually authenticated connection between two nodes, over which messages go both ways, each whole and
//! in order or not at all. One WebSocket on the node's own port carries it.
//!
//! `establish` makes it; who is dialed, and what is said, is not decided here. The two halves of a link are independent, so that
//! one task can read while another writes. Whatever comes in that the other side did not send ends the link with an error.

pub mod address;
pub mod admission;
pub mod clocks;
pub mod connect;
pub mod crossing;
pub mod error;
pub mod establish;
pub mod handshake;
pub(super) mod io;
pub mod noise;
pub(super) mod registry;
pub mod secret;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as SocketError, Message as Frame, error::ProtocolError, protocol::WebSocketConfig},
};

use self::{
    error::LinkError,
    handshake::{Hello, Offset, Role, Verdict},
    noise::{FRAME_BYTES_MAX, Opener, Sealer},
};
use crate::{core::protocol::message::Message, storage::table::PAYLOAD_BYTES_MAX};

/// Longest message: the longest value there can be, with its key and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 1024 * 1024;
/// What is read from the connection at once.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// How long a close may take.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that a link can go over: TCP, TLS, or memory.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Any such connection.
pub type BoxedDuplex = Box<dyn Duplex>;

pub(super) type Socket = WebSocketStream<BoxedDuplex>;

/// A link that stands.
pub struct Link {
    /// What the other node said of itself, the digest key of its cluster included.
    pub remote: Hello,
    /// Where its end of the connection is.
    pub remote_address: SocketAddr,
    /// Which side of the link this node is.
    pub role: Role,
    /// Who takes over whose cluster.
    pub verdict: Verdict,
    /// How far its clock is ahead, as far as the handshake tells.
    pub offset: Offset,
    /// Sends to it.
    pub sender: LinkSender,
    /// Receives from it.
    pub receiver: LinkReceiver,
    /// Counts both.
    pub traffic: Arc<Traffic>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({} at {}, {:?})", self.remote.node, self.remote_address, self.role)
    }
}

/// What went over a link, encrypted, in bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// To the other node.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// From the other node.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The halves of a link that stands on a WebSocket, and what counts for both.
pub(super) fn halves(
    socket: Socket,
    sealer: Sealer,
    opener: Opener,
) -> (LinkSender, LinkReceiver, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let (sink, stream) = socket.split();
    let sender = LinkSender {
        socket: sink,
        sealer,
        plain: Vec::new(),
        interrupted: false,
        traffic: Arc::clone(&traffic),
    };
    let receiver = LinkReceiver { socket: stream, opener, traffic: Arc::clone(&traffic) };
    (sender, receiver, traffic)
}

/// The half of a link that sends.
pub struct LinkSender {
    socket: SplitSink<Socket, Frame>,
    sealer: Sealer,
    plain: Vec<u8>,
    /// A message was begun and not finished: its sender gave up waiting.
    interrupted: bool,
    traffic: Arc<Traffic>,
}

impl LinkSender {
    /// Sends a message; returns once it is with the operating system. A future that is dropped before that ends the link, as
    /// half a message may be out.
    ///
    /// # Errors
    /// `TooLarge`, and then nothing was sent; else the link is over.
    pub async fn send(&mut self, message: &Message) -> Result<(), LinkError> {
        if self.interrupted {
            return Err(LinkError::Broken("a message before was left half sent".into()));
        }
        noise::recycle(&mut self.plain);
        self.plain.push(0);
        self.plain = postcard::to_extend(message, std::mem::take(&mut self.plain))
            .map_err(|error| LinkError::Broken(format!("a message does not encode: {error}")))?;
        if self.plain.len() - 1 > MESSAGE_BYTES_MAX {
            return Err(LinkError::TooLarge { limit: MESSAGE_BYTES_MAX });
        }
        self.interrupted = true;
        let mut next = Some(0);
        while let Some(from) = next {
            let (frame, after) = self.sealer.seal(&mut self.plain, from)?;
            self.traffic.sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
            self.socket.feed(Frame::Binary(frame)).await.map_err(LinkError::lost)?;
            next = after;
        }
        self.socket.flush().await.map_err(LinkError::lost)?;
        self.interrupted = false;
        Ok(())
    }

    /// Says that nothing more follows.
    pub async fn close(mut self) {
        // Who is gone need not be told.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close()).await;
    }
}

/// The half of a link that receives.
pub struct LinkReceiver {
    socket: SplitStream<Socket>,
    opener: Opener,
    traffic: Arc<Traffic>,
}

impl LinkReceiver {
    /// The next message; `None` where the other side has closed the link. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// `Lost`; `Broken` or `TooLarge` for what the other side cannot have sent. The link is over.
    pub async fn next(&mut self) -> Result<Option<Message>, LinkError> {
        loop {
            let frame = match self.socket.next().await {
                Some(Ok(Frame::Binary(frame))) => frame,
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => continue,
                None | Some(Ok(Frame::Close(_)) | Err(SocketError::ConnectionClosed)) => return Ok(None),
                Some(Ok(Frame::Text(_) | Frame::Frame(_))) => {
                    return Err(LinkError::Broken("a frame came in that is not binary".into()));
                }
                Some(Err(error)) => return Err(socket_error(error)),
            };
            self.traffic.received.fetch_add(frame.len() as u64, Ordering::Relaxed);
            if let Some(opened) = self.opener.open(&frame, MESSAGE_BYTES_MAX)? {
                return decode(opened.bytes()).map(Some);
            }
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Message, LinkError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(LinkError::Broken("a message came in that goes on behind its end".into())),
        Err(error) => Err(LinkError::Broken(format!("a message came in that does not decode: {error}"))),
    }
}

/// What an error of the WebSocket means for the link.
pub(super) fn socket_error(error: SocketError) -> LinkError {
    match error {
        SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            LinkError::Broken("the connection was lost".into())
        }
        SocketError::Capacity(_) | SocketError::Protocol(_) | SocketError::Utf8(_) => {
            LinkError::Broken(format!("no frame of a link: {error}"))
        }
        error => LinkError::lost(error),
    }
}

/// How WebSockets of links are set up.
pub(super) fn config() -> WebSocketConfig {
    // Each frame is written at once: it is as long as is worth a write, or the last of its message.
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX))
}
