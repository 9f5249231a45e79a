//! The handshake that turns a connection into a WebSocket (RFC 6455, section 4.2).

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    Method,
    header::{self, HeaderName, HeaderValue},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Call, budget::UNCOUNTED_BYTES_MAX};
use crate::error::{Error, Result};

/// Most bytes that are read for a smaller buffer, and most that are kept of them. They are counted only once they are taken.
const READ_AHEAD_BYTES: usize = UNCOUNTED_BYTES_MAX;

/// The only protocol version (RFC 6455).
pub const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Whether the request asks for a WebSocket.
pub fn is_requested(call: &Call) -> bool {
    has_token(call, header::UPGRADE, "websocket")
}

/// Checks the client's half of the handshake, and that the connection can be upgraded. Returns the answer to the key.
pub fn handshake(call: &Call) -> Result<String> {
    let bad = |why: &str| {
        Err(Error::BadRequest(format!("this is not a valid WebSocket handshake (RFC 6455): {why}")))
    };
    if !is_requested(call) {
        return bad("send GET over HTTP/1.1 with Connection: Upgrade and Upgrade: websocket");
    }
    if !has_token(call, header::CONNECTION, "upgrade") {
        return bad("the header Connection does not say Upgrade");
    }
    if call.headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return bad("Sec-WebSocket-Version is not 13");
    }
    let Some(key) = call.header(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
        return bad("Sec-WebSocket-Key is not 16 bytes in base64");
    };
    if call.method != Method::GET || !call.can_upgrade() {
        return bad("use GET over HTTP/1.1; other methods and HTTP/2 cannot be upgraded");
    }
    if call.has_body() {
        return bad("the request has a body");
    }
    Ok(derive_accept_key(key.as_bytes()))
}

/// Whether a header that holds a list contains a word, in any case.
pub fn has_token(call: &Call, name: HeaderName, token: &str) -> bool {
    let values = call.headers.get_all(name);
    let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Sixteen bytes in base64: 22 digits and two of padding.
fn is_key(key: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix("==").is_some_and(|digits| digits.len() == 22 && digits.bytes().all(is_digit))
}

/// The bytes of a connection, whatever carries them.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection after the upgrade. Where the buffer of a read is small, it reads more than fits and keeps what is over: so a connection that waits, of
/// which there may be very many, holds no large buffer, and one that does not makes few system calls.
pub struct Upgraded {
    connection: Box<dyn ByteStream>,
    /// What was read and nobody has taken yet, at first what the client sent behind its request. Without memory of its own while it is empty.
    unread: Bytes,
}

impl Upgraded {
    /// A connection of which `unread` was read too early.
    pub fn new(connection: Box<dyn ByteStream>, unread: Bytes) -> Self {
        Self { connection, unread }
    }
}

/// Puts as much of what was read too early into a buffer as it has room for.
pub fn read_again(unread: &mut Bytes, buffer: &mut ReadBuf<'_>) {
    let taken = unread.split_to(unread.len().min(buffer.remaining()));
    buffer.put_slice(&taken);
    if unread.is_empty() {
        // It may be the last of a large buffer.
        *unread = Bytes::new();
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.unread.is_empty() {
            // As for a read of the connection: a client that sends very much lets others have their turn.
            ready!(coop::poll_proceed(context)).made_progress();
            read_again(&mut this.unread, buffer);
            return Poll::Ready(Ok(()));
        }
        let connection = Pin::new(&mut this.connection);
        if buffer.remaining() >= READ_AHEAD_BYTES {
            return connection.poll_read(context, buffer);
        }
        let mut room = [MaybeUninit::uninit(); READ_AHEAD_BYTES];
        let mut room = ReadBuf::uninit(&mut room);
        ready!(connection.poll_read(context, &mut room))?;
        let (wanted, over) = room.filled().split_at(room.filled().len().min(buffer.remaining()));
        buffer.put_slice(wanted);
        this.unread = Bytes::copy_from_slice(over);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::io::InspectReader;

    use super::*;

    #[tokio::test]
    async fn small_reads_take_few_of_the_connection_and_leave_nothing_behind() {
        let sent: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
        let (mut client, server) = tokio::io::duplex(sent.len());
        client.write_all(&sent[2..]).await.expect("writes");
        drop(client);
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let (read, write) = tokio::io::split(server);
        let read = InspectReader::new(read, move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let mut upgraded =
            Upgraded::new(Box::new(tokio::io::join(read, write)), Bytes::copy_from_slice(&sent[..2]));
        let (mut received, mut small) = (Vec::new(), [0; 7]);
        loop {
            match upgraded.read(&mut small).await.expect("reads") {
                0 => break,
                bytes => received.extend_from_slice(&small[..bytes]),
            }
        }
        assert!(received == sent);
        let least = (sent.len() - 2).div_ceil(READ_AHEAD_BYTES);
        assert_eq!(reads.load(Ordering::Relaxed), least + 1, "the last one finds the end");
        assert!(upgraded.unread.is_empty());
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for key in
            ["", "==", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZ!==", "dGhlIHNhbXBsZSBub25jZQAA=="]
        {
            assert!(!is_key(key), "{key}");
        }
    }
}
