//! A link: an encrypted, mutually authenticated connection between two nodes. Messages go both ways over one WebSocket
//! on the node's own port, and arrive complete and in order or not at all.
//!
//! An address goes through [`connect`] (name, connection, WebSocket), [`establish`] (the exchange of [`handshake`]
//! under [`noise`], with a [`secret`]) and becomes a [`Link`]. Incoming connections first pass [`admission`]. `io`
//! reads and writes a link, `registry` knows all of them, [`crossing`] decides which of two stays, and [`error`] says
//! why there is none. [`address`] learns where this node is reached, and [`clocks`] whether its clock keeps it from its
//! peers. Whom to dial is decided in `membership`; what is said over a link, in `session`.
//!
//! The halves of a link are independent: one task can read while another writes. Anything that arrives and was not sent
//! by the other side ends the link with an error.

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
use tokio_util::io::InspectReader;

use self::{
    error::LinkError,
    handshake::{Hello, Offset, Role, Verdict},
    noise::{FRAME_BYTES_MAX, Opener, Sealer},
};
use crate::{
    core::protocol::message::Message, replication::requests::REQUEST_BYTES_MAX,
    storage::table::PAYLOAD_BYTES_MAX,
};

/// Longest message: the longest value, with its key and overhead.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 1024 * 1024;
const _: () = assert!(REQUEST_BYTES_MAX + 1024 <= MESSAGE_BYTES_MAX, "a request fits a message");
/// Size of a read from the connection, in bytes.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// How long closing may take.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection for a link: TCP, TLS or memory.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A boxed connection.
pub type BoxedDuplex = Box<dyn Duplex>;

pub(super) type Socket = WebSocketStream<BoxedDuplex>;

/// An established link.
pub struct Link {
    /// The other node's hello, with the digest key of its cluster.
    pub remote: Hello,
    /// The address of the other end of the connection.
    pub remote_address: SocketAddr,
    /// This node's side of the link.
    pub role: Role,
    /// Which node adopts the other's cluster.
    pub verdict: Verdict,
    /// How far the other node's clock is ahead, as far as the handshake can tell.
    pub offset: Offset,
    /// Sends to the other node.
    pub sender: LinkSender,
    /// Receives from the other node.
    pub receiver: LinkReceiver,
    /// Counts the bytes of both.
    pub traffic: Arc<Traffic>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({} at {}, {:?})", self.remote.node, self.remote_address, self.role)
    }
}

/// The encrypted bytes that went over a link.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    arrived: AtomicU64,
}

impl Traffic {
    /// Bytes to the other node.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from the other node.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// All bytes that have come over the connection, those of a frame that is not complete included.
    pub fn arrived_bytes(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

/// A connection that counts what arrives over it.
pub(super) fn counted(stream: BoxedDuplex) -> (BoxedDuplex, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let counting = Arc::clone(&traffic);
    let count = move |read: &[u8]| _ = counting.arrived.fetch_add(read.len() as u64, Ordering::Relaxed);
    (Box::new(InspectReader::new(stream, count)), traffic)
}

/// The halves of a link over a WebSocket.
pub(super) fn halves(
    socket: Socket,
    sealer: Sealer,
    opener: Opener,
    traffic: &Arc<Traffic>,
) -> (LinkSender, LinkReceiver) {
    let (sink, stream) = socket.split();
    let sender = LinkSender {
        socket: sink,
        sealer,
        plain: Vec::new(),
        interrupted: false,
        traffic: Arc::clone(traffic),
    };
    let receiver = LinkReceiver { socket: stream, opener, traffic: Arc::clone(traffic), message_bytes: 0 };
    (sender, receiver)
}

/// The sending half of a link.
pub struct LinkSender {
    socket: SplitSink<Socket, Frame>,
    sealer: Sealer,
    plain: Vec<u8>,
    /// A message was begun and not finished, because its future was dropped.
    interrupted: bool,
    traffic: Arc<Traffic>,
}

impl LinkSender {
    /// Sends a message. Returns when the operating system has it. Dropping the future earlier ends the link, because
    /// half a message may have been sent.
    ///
    /// # Errors
    /// `TooLarge`: nothing was sent. Any other error: the link is over.
    pub async fn send(&mut self, message: &Message) -> Result<(), LinkError> {
        if self.interrupted {
            return Err(LinkError::Broken("an earlier message was only half sent".into()));
        }
        noise::recycle(&mut self.plain);
        self.plain.push(0);
        self.plain = postcard::to_extend(message, std::mem::take(&mut self.plain))
            .map_err(|error| LinkError::Broken(format!("encoding a message: {error}")))?;
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

    /// Closes the link.
    pub async fn close(mut self) {
        // A peer that is gone need not be told.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close()).await;
    }
}

/// The receiving half of a link.
pub struct LinkReceiver {
    socket: SplitStream<Socket>,
    opener: Opener,
    traffic: Arc<Traffic>,
    message_bytes: usize,
}

impl LinkReceiver {
    /// The next message. `None` if the other side closed the link. Cancel-safe: nothing is lost if the future is
    /// dropped.
    ///
    /// # Errors
    /// `Lost`; or `Broken` or `TooLarge` for something the other side cannot have sent. The link is over.
    pub async fn next(&mut self) -> Result<Option<Message>, LinkError> {
        loop {
            let frame = match self.socket.next().await {
                Some(Ok(Frame::Binary(frame))) => frame,
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => continue,
                None | Some(Ok(Frame::Close(_)) | Err(SocketError::ConnectionClosed)) => return Ok(None),
                Some(Ok(Frame::Text(_) | Frame::Frame(_))) => {
                    return Err(LinkError::Broken("a frame arrived that is not binary".into()));
                }
                Some(Err(error)) => return Err(socket_error(error)),
            };
            self.traffic.received.fetch_add(frame.len() as u64, Ordering::Relaxed);
            if let Some(opened) = self.opener.open(&frame, MESSAGE_BYTES_MAX)? {
                self.message_bytes = opened.bytes().len();
                return decode(opened.bytes()).map(Some);
            }
        }
    }

    /// The length of the last message, in bytes.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }
}

fn decode(bytes: &[u8]) -> Result<Message, LinkError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(LinkError::Broken("a message arrived with extra bytes at its end".into())),
        Err(error) => Err(LinkError::Broken(format!("a message arrived that does not decode: {error}"))),
    }
}

/// What a WebSocket error means for the link.
pub(super) fn socket_error(error: SocketError) -> LinkError {
    match error {
        SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            LinkError::Broken("the connection was lost".into())
        }
        SocketError::Capacity(_) | SocketError::Protocol(_) | SocketError::Utf8(_) => {
            LinkError::Broken(format!("not a frame of a link: {error}"))
        }
        error => LinkError::lost(error),
    }
}

/// The WebSocket settings of links.
pub(super) fn config() -> WebSocketConfig {
    // Every frame is written at once: it is either long enough for a write, or the last of its message.
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A peer was silent until a frame was complete, and a full one is 256 KiB: a slow link was dropped again and again.
    #[tokio::test]
    async fn what_arrives_is_counted_before_its_frame_is_complete() {
        let (near, mut far) = tokio::io::duplex(100);
        let (mut near, traffic) = counted(Box::new(near));
        far.write_all(&[0; 30]).await.expect("writes");
        let mut read = [0; 20];
        near.read_exact(&mut read).await.expect("reads");
        assert_eq!((traffic.arrived_bytes(), traffic.received_bytes()), (20, 0));
        near.write_all(&[0; 5]).await.expect("writes");
        far.read_exact(&mut [0; 5]).await.expect("it goes through");
        assert_eq!(traffic.arrived_bytes(), 20);
    }
}
