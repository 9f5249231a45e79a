//! How a WebSocket connection ends.

use std::io::ErrorKind;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{
    Error as SocketError, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::Socket;

/// Why a connection ends.
pub enum End {
    /// The client closed it or is gone: nobody is left to tell.
    Gone,
    /// We close it, with this reason.
    Close(CloseCode, &'static str),
}

/// The outcome of one step: continue, or end the connection.
pub type Step = std::result::Result<(), End>;

/// Sends the reason, waits for the client to close, and closes our side.
pub async fn close(
    socket: &mut Socket,
    code: CloseCode,
    reason: &'static str,
) -> std::result::Result<(), SocketError> {
    socket.close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) })).await?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(socket.get_mut().shutdown().await?)
}

impl From<SocketError> for End {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Capacity(_) => {
                Self::Close(CloseCode::Size, "a message is larger than a value may be")
            }
            SocketError::Io(error) if error.kind() == ErrorKind::OutOfMemory => {
                Self::Close(CloseCode::Again, "this node's memory for messages is used up; try again")
            }
            SocketError::Utf8(_) => Self::Close(CloseCode::Invalid, "a text frame is not UTF-8"),
            SocketError::Protocol(
                ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::SendAfterClosing
                | ProtocolError::ReceivedAfterClosing,
            ) => Self::Gone,
            SocketError::Protocol(_) => Self::Close(CloseCode::Protocol, "this is not WebSocket (RFC 6455)"),
            // The connection broke, or a write waited too long: a close frame would not get through.
            _ => Self::Gone,
        }
    }
}
