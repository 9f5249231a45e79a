//! A blocking WebSocket client for tests: JSON in, JSON out, automatic pongs, and a deadline on every read.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

use super::DEADLINE;

/// What arrived.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    Json(Value),
    /// The server closed with this code.
    Close(u16),
    /// The connection ended without a close frame.
    End,
}

/// An open WebSocket.
pub struct Socket {
    socket: WebSocket<TcpStream>,
}

impl Socket {
    pub fn open(address: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the node accepts connections");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout can be set");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout can be set");
        let url = format!("ws://{address}{path}");
        match client::client(url, stream) {
            Ok((socket, _)) => Self { socket },
            Err(error) => panic!("{path} does not become a WebSocket: {error}"),
        }
    }

    pub fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a text frame, JSON or not.
    pub fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text));
    }

    /// Sends a text frame that the node may refuse while it arrives.
    pub fn try_send_text(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text));
    }

    pub fn send_message(&mut self, message: Message) {
        self.socket.send(message).expect("a frame can be sent");
    }

    /// The next JSON message; panics on anything else.
    pub fn json(&mut self) -> Value {
        match self.next() {
            Incoming::Json(value) => value,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// What arrives next, except pings and pongs.
    pub fn next(&mut self) -> Incoming {
        self.next_within(DEADLINE)
    }

    /// What arrives next; panics if nothing does within `deadline`.
    pub fn next_within(&mut self, deadline: Duration) -> Incoming {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no message within {deadline:?}");
            self.socket.get_ref().set_read_timeout(Some(left)).expect("a read timeout can be set");
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let json = serde_json::from_str(&text);
                    return Incoming::Json(json.unwrap_or_else(|error| panic!("{error} in {text}")));
                }
                Ok(Message::Close(frame)) => {
                    return Incoming::Close(frame.map_or(1005, |frame| frame.code.into()));
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("not a text frame: {other:?}"),
                Err(Error::Io(error))
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return Incoming::End,
            }
        }
    }

    /// Sends a ping and waits for its pong: by then the node has read all that was sent before.
    pub fn ping(&mut self) {
        self.send_message(Message::Ping(Default::default()));
        self.socket.get_ref().set_read_timeout(Some(DEADLINE)).expect("a read timeout can be set");
        while !matches!(self.socket.read().expect("a pong within the deadline"), Message::Pong(_)) {}
    }

    /// Sends a request, skips events, and returns the result.
    pub fn request(&mut self, message: &Value) -> Value {
        self.send(message);
        loop {
            let answer = self.json();
            if answer["rid"] == message["rid"] && !answer["rid"].is_null() {
                return answer;
            }
        }
    }
}
