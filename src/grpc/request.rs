//! What a client sends in a call: its messages, held to limits of size, memory and pauses, and who it is.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::status;
use crate::{
    error::{Error, Result},
    http::{
        access::{Principal, lease::Lease},
        request::{budget::Reservation, connection_state::ConnectionState},
    },
};

/// The length of what comes before each message: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 5;

/// Who makes a call, and on which connection. A service finds it in the extensions of its request.
#[derive(Clone)]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// The connection, with the server's limits.
    pub connection: Arc<ConnectionState>,
    /// The id of the call, which its log lines carry.
    pub request_id: Arc<str>,
    pub(super) secret: Option<Arc<str>>,
}

impl Caller {
    /// The caller of a request; the services of this module always find one.
    ///
    /// # Errors
    /// `Io` for a request that did not come by [`super::services`], which is a bug.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self> {
        request.extensions().get().cloned().ok_or_else(|| Error::Io("a call without a caller".into()))
    }

    /// The one of a call that is refused.
    pub(super) fn nobody(connection: &Arc<ConnectionState>, request_id: &Arc<str>) -> Self {
        Self {
            principal: Principal::Nobody,
            connection: Arc::clone(connection),
            request_id: Arc::clone(request_id),
            secret: None,
        }
    }

    /// What ends when the token of the caller does; `None` if it never ends.
    pub fn lease(&self) -> Option<Lease> {
        let secret = self.secret.as_deref()?;
        self.connection.options.access.lease(&self.principal, secret)
    }
}

/// The memory of the last message of a call.
pub type Held = Arc<Mutex<Option<Reservation>>>;

/// The messages of a client as they arrive.
pub struct Messages {
    body: Incoming,
    connection: Arc<ConnectionState>,
    /// The most bytes of one message.
    bytes_max: u64,
    framing: Framing,
    held: Held,
    /// Runs while a part of a message is missing.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Messages {
    /// Those of a call on this connection. The memory of a message is in `held` until the next one begins.
    pub fn new(body: Incoming, connection: Arc<ConnectionState>, held: &Held) -> Self {
        let bytes_max = connection.options.body_bytes_max;
        Self { body, connection, bytes_max, framing: Framing::default(), held: Arc::clone(held), pause: None }
    }

    /// Takes the memory for a message that begins.
    fn begin(&mut self, length: u64) -> Result<()> {
        if length > self.bytes_max {
            return Err(Error::TooLarge { what: "message", limit: self.bytes_max });
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // The one before was decoded.
        *held = None;
        let mut reservation = self.connection.budget.empty_reservation();
        reservation.reserve_at_least(usize::try_from(length).unwrap_or(usize::MAX))?;
        *held = Some(reservation);
        Ok(())
    }

    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        if self.framing.is_between() {
            return Poll::Pending;
        }
        let timeout = self.connection.options.body_timeout;
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(pause.as_mut().poll(context));
        let seconds = timeout.as_secs_f64();
        Poll::Ready(Error::RequestTimeout(format!("no part of the message arrived for {seconds} s")))
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let error = ready!(self.poll_pause(context));
            return Poll::Ready(Some(Err(status::of(&error))));
        };
        self.pause = None;
        let frame = frame.map(|frame| {
            let frame = frame.map_err(|error| Status::cancelled(format!("the call broke off: {error}")))?;
            if let Some(bytes) = frame.data_ref() {
                for length in self.framing.advance(bytes) {
                    self.begin(length).map_err(|error| status::of(&error))?;
                }
            }
            Ok(frame)
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where messages begin and end in the bytes of a call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Framing {
    /// The beginning of a prefix.
    prefix: [u8; PREFIX_BYTES],
    prefix_length: usize,
    /// The bytes that are missing from the current message.
    missing: u64,
}

impl Framing {
    /// Whether no part of a message is missing.
    fn is_between(&self) -> bool {
        self.missing == 0 && self.prefix_length == 0
    }

    /// Passes over the next bytes. Returns the lengths of the messages that begin in them.
    fn advance(&mut self, mut bytes: &[u8]) -> Vec<u64> {
        let mut begun = Vec::new();
        while !bytes.is_empty() {
            let wanted = match self.missing {
                0 => PREFIX_BYTES - self.prefix_length,
                missing => usize::try_from(missing).unwrap_or(usize::MAX),
            };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.missing > 0 {
                self.missing -= part.len() as u64;
                continue;
            }
            self.prefix[self.prefix_length..][..part.len()].copy_from_slice(part);
            self.prefix_length += part.len();
            if self.prefix_length == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.prefix_length = 0;
                self.missing = u64::from(u32::from_be_bytes(length));
                begun.push(self.missing);
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_their_bytes_are_cut() {
        let bytes = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[1, 0, 0, 1, 0], &[7; 256]].concat();
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let mut framing = Framing::default();
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let begun: Vec<u64> = parts.iter().flat_map(|part| framing.advance(part)).collect();
                assert_eq!((begun, framing.is_between()), (vec![3, 0, 256], true), "{first} {second}");
            }
        }
        let mut framing = Framing::default();
        assert_eq!(framing.advance(&bytes[..6]), [3]);
        assert!(!framing.is_between());
        assert_eq!(Framing::default().advance(&[0, 255, 255, 255, 255]), [u64::from(u32::MAX)]);
    }
}
