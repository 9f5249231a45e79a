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
    /// The beginning of a prefix.
    prefix: [u8; PREFIX_BYTES],
    prefix_length: usize,
    /// The bytes that are missing from the current message.
    missing: u64,
    held: Held,
    /// Runs while a part of a message is missing.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Messages {
    /// Those of a call on this connection. The memory of a message is in `held` until the next one begins.
    pub fn new(body: Incoming, connection: Arc<ConnectionState>, held: &Held) -> Self {
        let bytes_max = connection.options.body_bytes_max;
        Self {
            body,
            connection,
            bytes_max,
            prefix: [0; PREFIX_BYTES],
            prefix_length: 0,
            missing: 0,
            held: Arc::clone(held),
            pause: None,
        }
    }

    /// Follows where messages begin, and takes the memory for each.
    fn scan(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let length = bytes.len().min(usize::try_from(self.missing).unwrap_or(usize::MAX));
                self.missing -= length as u64;
                bytes = &bytes[length..];
                continue;
            }
            let length = bytes.len().min(PREFIX_BYTES - self.prefix_length);
            self.prefix[self.prefix_length..][..length].copy_from_slice(&bytes[..length]);
            self.prefix_length += length;
            bytes = &bytes[length..];
            if self.prefix_length == PREFIX_BYTES {
                self.prefix_length = 0;
                let [_, length @ ..] = self.prefix;
                self.begin(u64::from(u32::from_be_bytes(length)))?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, length: u64) -> Result<()> {
        if length > self.bytes_max {
            return Err(Error::TooLarge { what: "message", limit: self.bytes_max });
        }
        self.missing = length;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // The one before was decoded.
        *held = None;
        let mut reservation = self.connection.budget.empty_reservation();
        reservation.reserve_at_least(usize::try_from(length).unwrap_or(usize::MAX))?;
        *held = Some(reservation);
        Ok(())
    }

    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        if self.missing == 0 && self.prefix_length == 0 {
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
                self.scan(bytes).map_err(|error| status::of(&error))?;
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
