//! Requests with responses over the links between nodes: what consensus says, and clients' requests that another node
//! has to serve.
//!
//! A request goes out over the link that stands; there is no waiting for one. Its response comes back under its number,
//! in any order. Whoever no longer wants it drops the future, and the other node stops working on it.
//!
//! Requests do not wait for rows. They have a queue of their own, from which the writer of a link takes before it takes
//! from the session's, and the reader hands them over here and not to the session, which may be merging rows. They are
//! not ordered among each other, nor against rows.
//!
//! Everything is limited for each link and kind of request ([`Limit`]), so that clients' requests never keep consensus
//! from its own. The other node holds the requester to the same limits.
//!
//! - [`channel`]: the requests of one link, in both directions. `state`: what is under way on it.

pub mod channel;
mod state;

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    core::{
        clock::NodeId,
        protocol::message::{RequestFailure, RequestKind},
    },
    storage::table::PAYLOAD_BYTES_MAX,
};

/// Longest body of a request or response: the longest value, with its key and what goes with it.
pub const REQUEST_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 512 * 1024;

/// What a node does with the requests of others.
pub trait RequestService: Send + Sync {
    /// Serves a request. The future runs as a task of its own, and is dropped if the requester no longer waits or the
    /// link ends. An error is the text of the failure at the requester.
    fn call(
        &self,
        from: NodeId,
        kind: RequestKind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>>;
}

/// How many requests of one kind may be on their way over a link in one direction, until their responses are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many requests. Each is a task on the other node.
    pub count: usize,
    /// The bytes of their bodies. A longer request may go alone.
    pub bytes: usize,
}

impl Limit {
    /// The limit of a kind.
    pub const fn of(kind: RequestKind) -> Self {
        const MIB: usize = 1024 * 1024;
        match kind {
            // A group sends a member one request after the other, besides heartbeats and votes.
            RequestKind::Consensus => Self { count: 256, bytes: 32 * MIB },
            // As many clients as wait for one node at a time.
            RequestKind::Client => Self { count: 1024, bytes: 32 * MIB },
            // A few people who watch, each with a question or two at a time. The questions are short.
            RequestKind::Report => Self { count: 32, bytes: MIB / 4 },
        }
    }

    /// Whether a request of `bytes` may join the `count` that there are, which have `present_bytes`.
    pub(in crate::replication) fn admits(self, count: usize, present_bytes: usize, bytes: usize) -> bool {
        count < self.count && (count == 0 || present_bytes.saturating_add(bytes) <= self.bytes)
    }
}

/// The figures of all requests of one kind with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestFigures {
    /// Requests to the peer, those that were not sent because of a limit included.
    pub requests: u64,
    /// Of these, the ones without a good response: they failed, were refused here or there, were dropped, their
    /// deadline passed, or the link ended.
    pub failed: u64,
    /// Requests to the peer that wait for a response now.
    pub in_flight: u64,
    /// Requests from the peer.
    pub received: u64,
    /// Bytes of requests and responses to the peer, without their envelope.
    pub sent_bytes: u64,
    /// Bytes of requests and responses from the peer.
    pub received_bytes: u64,
}

/// The figures of each kind, in the order of `RequestKind::ALL`.
pub type FiguresByKind = [RequestFigures; RequestKind::ALL.len()];

impl RequestFigures {
    /// The figures of two links with the same peer together.
    pub(in crate::replication) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            in_flight: self.in_flight + other.in_flight,
            received: self.received + other.received,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            received_bytes: self.received_bytes + other.received_bytes,
        }
    }
}

/// Why a request has no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// There is no link with the node, or it ended before the request was sent. The text says more.
    NoLink(String),
    /// Too many requests of this kind wait for that node. Nothing was sent.
    TooMany(RequestKind),
    /// The body is longer than a request may be. Nothing was sent.
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The deadline passed before the link had time to send the request.
    NotSentInTime(Duration),
    /// The deadline passed without a response. Whether the request took effect is unknown.
    TimedOut(Duration),
    /// The link ended, for this reason, after the request was sent. Whether it took effect is unknown.
    LinkEnded(String),
    /// The other node worked on the request and cannot answer, for this reason. Whether it took effect is unknown.
    NoAnswer(String),
    /// The other node serves no requests. It did nothing.
    NotServed,
    /// The other node works on too many requests of this kind already. It did nothing.
    Busy(RequestKind),
    /// The other node's service says that the request failed, and why. What became of it is for the service to say.
    Failed(String),
}

impl RequestError {
    /// Whether the request may have taken effect. Otherwise nothing has happened, except as `Failed` says.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::LinkEnded(_) | Self::NoAnswer(_) => true,
            Self::NoLink(_)
            | Self::TooMany(_)
            | Self::TooLarge { .. }
            | Self::NotSentInTime(_)
            | Self::NotServed
            | Self::Busy(_)
            | Self::Failed(_) => false,
        }
    }

    fn of(failure: RequestFailure, kind: RequestKind) -> Self {
        match failure {
            RequestFailure::NotServed => Self::NotServed,
            RequestFailure::Busy => Self::Busy(kind),
            RequestFailure::Failed(why) => Self::Failed(printable(&why)),
            RequestFailure::NoAnswer(why) => Self::NoAnswer(printable(&why)),
        }
    }
}

impl std::error::Error for RequestError {}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNKNOWN: &str = "whether the request took effect is unknown";
        match self {
            Self::NoLink(why) => write!(f, "no link with that node, so nothing was sent: {why}"),
            Self::TooMany(kind) => {
                let Limit { count, bytes } = Limit::of(*kind);
                write!(
                    f,
                    "more than {count} {} requests or {bytes} bytes of them wait for that node, so this one was not \
                    sent: try again",
                    kind.name()
                )
            }
            Self::TooLarge { bytes } => {
                write!(f, "the request has {bytes} bytes, and at most {REQUEST_BYTES_MAX} are sent to a node")
            }
            Self::NotSentInTime(deadline) => {
                write!(f, "the link was busy for {deadline:?}, so the request was not sent: try again")
            }
            Self::TimedOut(deadline) => write!(f, "no response within {deadline:?}: {UNKNOWN}"),
            Self::LinkEnded(why) => write!(f, "the link ended before the response ({why}): {UNKNOWN}"),
            Self::NoAnswer(why) => write!(f, "that node cannot answer ({why}): {UNKNOWN}"),
            Self::NotServed => f.write_str("that node serves no such requests"),
            Self::Busy(kind) => {
                write!(
                    f,
                    "that node works on too many {} requests of this one already: try again",
                    kind.name()
                )
            }
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Text from another node without what would confuse a log or a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
pub(in crate::replication) mod tests;
