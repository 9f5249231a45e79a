//! What a client sends in a call: its messages, held to limits of size, memory and pauses, and who it is.

use std::{
    collections::{VecDeque, vec_deque},
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::{
    HeaderMap,
    body::{Body, Frame, Incoming},
};
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

use super::status;
use crate::{
    error::{Error, Result},
    http::{
        access::{
            Principal,
            lease::{HeldLease, Lease},
        },
        request::{body::Pace, budget::Reservation, connection_state::ConnectionState},
    },
    node::{Node, strong::OPERATIONS_MAX},
};

/// The length of what comes before each message: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 5;
/// The most fields of a message that is the only one of its call, with each element of its lists: those of the longest transaction. An empty
/// element is two bytes, and takes seventy times as much once it is decoded, so they are counted before.
const FIELDS_MAX: usize = 3 * OPERATIONS_MAX;
/// A message is kept in blocks of this size while it arrives.
const BLOCK_BYTES: usize = 64 * 1024;

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

/// The memory of the messages of a call that arrive, or of the last of them in a stream.
pub type Held = Arc<Mutex<Option<Reservation>>>;

/// What a method takes from its clients.
#[derive(Clone, Copy, Debug)]
pub struct Takes {
    /// The most bytes of one message.
    pub bytes_max: u64,
    /// Whether clients send any number of messages, instead of one.
    pub is_stream: bool,
}

/// Completes when the node stops.
type Drained = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The messages of a client as they arrive. The only message of a call is passed on once it is there and the client has sent all it will: until
/// then the call has not begun, and its token and the node must be valid. The messages of a stream are passed on bit by bit.
pub struct Messages {
    body: Incoming,
    node: Arc<Node>,
    caller: Caller,
    takes: Takes,
    framing: Framing,
    held: Held,
    /// The only message, until it is passed on.
    blocks: Blocks,
    progress: Progress,
    /// Runs while the client is waited for.
    pause: Option<Pin<Box<Sleep>>>,
    waits_since: Option<Instant>,
    pace: Pace,
    /// Set once the client is waited for: before that, no time has passed in which a token could end.
    ends: Option<(HeldLease, Drained)>,
}

/// How far the message of a call is that has only one.
enum Progress {
    Receiving,
    /// It is there, with the trailers of the client.
    PassingOn(Option<HeaderMap>),
}

impl Messages {
    /// Those of a call of `caller`. Their memory is in `held`; that of a message in a stream until the next one begins.
    pub fn new(body: Incoming, node: Arc<Node>, caller: Caller, takes: Takes, held: &Held) -> Self {
        Self {
            body,
            node,
            caller,
            takes,
            framing: Framing::default(),
            held: Arc::clone(held),
            blocks: Blocks::default(),
            progress: Progress::Receiving,
            pause: None,
            waits_since: None,
            pace: Pace::default(),
            ends: None,
        }
    }

    /// Takes note of bytes that arrived: their length, their rate and their memory.
    fn receive(&mut self, bytes: &[u8]) -> Result<()> {
        let waited = self.waits_since.take().map(|since| since.elapsed()).unwrap_or_default();
        self.pace.received(bytes.len(), waited, &self.caller.connection.options)?;
        let begun = self.framing.advance(bytes);
        if begun.iter().any(|length| *length > self.takes.bytes_max) {
            return Err(Error::TooLarge { what: "message", limit: self.takes.bytes_max });
        }
        if !self.takes.is_stream && self.framing.begun > 1 {
            return Err(Error::BadRequest("the client sent a second message: this method takes one".into()));
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !begun.is_empty() {
            // The one before, if any, was decoded: a stream is read on only then.
            *held = None;
            self.pace = Pace::default();
        }
        let reservation = held.get_or_insert_with(|| self.caller.connection.budget.empty_reservation());
        reservation.reserve_at_least(self.framing.received())
    }

    /// Why the client is waited for no longer: it pauses, its token has ended, or the node stops.
    fn poll_broken_off(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        self.waits_since.get_or_insert_with(Instant::now);
        let (node, caller) = (&self.node, &self.caller);
        let (lease, drained) = self.ends.get_or_insert_with(|| {
            let node = Arc::clone(node);
            (HeldLease::new(caller.lease()), Box::pin(async move { node.drained().await }))
        });
        if let Poll::Ready(ended) = pin!(lease.ended()).poll(context) {
            return Poll::Ready(ended);
        }
        if self.takes.is_stream && self.framing.begun > 0 && self.framing.is_between() {
            // The stream of the answer ends the call.
            self.waits_since = None;
            return Poll::Pending;
        }
        if drained.as_mut().poll(context).is_ready() {
            return Poll::Ready(Error::Draining);
        }
        let timeout = self.caller.connection.options.body_timeout;
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(pause.as_mut().poll(context));
        let seconds = timeout.as_secs_f64();
        Poll::Ready(Error::RequestTimeout(format!("no part of the message arrived for {seconds} s")))
    }

    /// Receives until the only message is there.
    fn poll_whole(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Status>> {
        let trailers = loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                return self.poll_broken_off(context).map(|error| Err(status::of(&error)));
            };
            self.pause = None;
            let Some(frame) = frame.transpose().map_err(broken)? else { break None };
            match frame.into_data() {
                Ok(bytes) => {
                    self.receive(&bytes).map_err(|error| status::of(&error))?;
                    self.blocks.keep(&bytes, self.framing.missing);
                }
                Err(frame) => break frame.into_trailers().ok(),
            }
        };
        self.check_whole().map_err(|error| status::of(&error))?;
        self.progress = Progress::PassingOn(trailers);
        Poll::Ready(Ok(()))
    }

    fn check_whole(&mut self) -> Result<()> {
        if let Some((lease, _)) = &mut self.ends {
            lease.check()?;
        }
        if self.framing.begun == 0 || !self.framing.is_between() {
            return Err(Error::BadRequest("the client sent no whole message: this method takes one".into()));
        }
        if self.blocks.has_more_fields_than(FIELDS_MAX) {
            return Err(Error::BadRequest(format!(
                "the message has more than {FIELDS_MAX} fields: a transaction has at most {OPERATIONS_MAX} comparisons, and as many \
                 operations in each list"
            )));
        }
        Ok(())
    }
}

fn broken(error: hyper::Error) -> Status {
    Status::cancelled(format!("the call broke off: {error}"))
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        if !self.takes.is_stream {
            if matches!(self.progress, Progress::Receiving) {
                ready!(self.poll_whole(context))?;
            }
            let block = self.blocks.0.pop_front().map(|block| Frame::data(block.freeze()));
            let Progress::PassingOn(trailers) = &mut self.progress else { return Poll::Ready(None) };
            return Poll::Ready(block.or_else(|| trailers.take().map(Frame::trailers)).map(Ok));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let error = ready!(self.poll_broken_off(context));
            return Poll::Ready(Some(Err(status::of(&error))));
        };
        self.pause = None;
        let frame = frame.map(|frame| {
            let frame = frame.map_err(broken)?;
            if let Some(bytes) = frame.data_ref() {
                self.receive(bytes).map_err(|error| status::of(&error))?;
            }
            Ok(frame)
        });
        Poll::Ready(frame)
    }
}

/// The bytes of a message, in blocks that are freed one by one. Frames are copied, because a short one may keep a long buffer.
#[derive(Debug, Default)]
struct Blocks(VecDeque<BytesMut>);

impl Blocks {
    /// Adds bytes. `missing`: how many will follow.
    fn keep(&mut self, mut bytes: &[u8], missing: u64) {
        while !bytes.is_empty() {
            let room = self.0.back().map_or(0, |block| block.capacity() - block.len());
            if room == 0 {
                let wanted = usize::try_from(missing).unwrap_or(usize::MAX).saturating_add(bytes.len());
                self.0.push_back(BytesMut::with_capacity(wanted.min(BLOCK_BYTES)));
                continue;
            }
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            if let Some(block) = self.0.back_mut() {
                block.extend_from_slice(part);
            }
            bytes = rest;
        }
    }

    /// Counts the fields of the message as the decoder will meet them, without decoding.
    fn has_more_fields_than(&self, max: usize) -> bool {
        let mut walk = Walk { blocks: self.0.iter(), now: &[], left: self.0.iter().map(BytesMut::len).sum() };
        walk.advance(PREFIX_BYTES.min(walk.left));
        for _ in 0..max {
            let field = decode_key(&mut walk)
                .and_then(|(tag, kind)| skip_field(kind, tag, &mut walk, DecodeContext::default()));
            // What is no message, the decoder refuses at the same place.
            if field.is_err() {
                return false;
            }
        }
        walk.has_remaining()
    }
}

/// A reader of blocks.
struct Walk<'a> {
    blocks: vec_deque::Iter<'a, BytesMut>,
    now: &'a [u8],
    left: usize,
}

impl Buf for Walk<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.now
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while count >= self.now.len() {
            count -= self.now.len();
            match self.blocks.next() {
                Some(block) => self.now = block,
                None => return self.now = &[],
            }
        }
        self.now = &self.now[count..];
    }
}

/// Where messages begin and end in the bytes of a call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Framing {
    /// The beginning of a prefix.
    prefix: [u8; PREFIX_BYTES],
    prefix_length: usize,
    /// The length of the current message, and the bytes of it that are missing.
    length: u64,
    missing: u64,
    /// The messages that have begun.
    begun: u64,
}

impl Framing {
    /// Whether no part of a message is missing.
    fn is_between(&self) -> bool {
        self.missing == 0 && self.prefix_length == 0
    }

    /// The bytes of the current message that have arrived.
    fn received(&self) -> usize {
        usize::try_from(self.length - self.missing).unwrap_or(usize::MAX)
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
                self.length = self.missing;
                self.begun += 1;
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

    fn blocks_of(message: &[u8], step: usize) -> Blocks {
        let whole = [&[0; PREFIX_BYTES], message].concat();
        let mut blocks = Blocks::default();
        let mut missing = whole.len();
        for part in whole.chunks(step) {
            missing -= part.len();
            blocks.keep(part, missing as u64);
        }
        assert_eq!(blocks.0.iter().flatten().copied().collect::<Vec<_>>(), whole);
        blocks
    }

    /// An empty operation is two bytes in a message and 144 in memory, so that 64 MiB became 4.6 GiB before they were counted.
    #[test]
    fn fields_are_counted_before_a_message_is_decoded() {
        let operations = [0x12, 0].repeat(FIELDS_MAX);
        let one_more = [&operations[..], &[0x1a, 0]].concat();
        let cut = [&operations[..], &[0x1a]].concat();
        for step in [1, 7, usize::MAX] {
            assert!(!blocks_of(&operations, step).has_more_fields_than(FIELDS_MAX), "{step}");
            assert!(blocks_of(&one_more, step).has_more_fields_than(FIELDS_MAX), "{step}");
            assert!(blocks_of(&cut, step).has_more_fields_than(FIELDS_MAX), "the decoder meets as many");
            assert!(!blocks_of(&[], step).has_more_fields_than(FIELDS_MAX));
        }
        let long = [&[0x12, 0xa0, 0x8d, 0x06][..], &[7; 100_000]].concat();
        for step in [1000, BLOCK_BYTES, usize::MAX] {
            let blocks = blocks_of(&long, step);
            assert!(!blocks.has_more_fields_than(1) && blocks.has_more_fields_than(0), "{step}");
        }
    }
}
