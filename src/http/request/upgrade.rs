//! The handshake that turns a connection into a WebSocket (RFC 6455, section 4.2).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    Method,
    header::{self, HeaderName, HeaderValue},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Call;
use crate::error::{Error, Result};

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

/// A connection after the upgrade.
pub struct Upgraded {
    connection: Box<dyn ByteStream>,
    /// What the client sent behind its request.
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
        if !self.unread.is_empty() {
            read_again(&mut self.unread, buffer);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.connection).poll_read(context, buffer)
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
    use super::*;

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
