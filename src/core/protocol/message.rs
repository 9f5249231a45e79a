//! The messages between linked nodes. The handshake before them is in `replication::link::handshake`.
//!
//! They are encoded by `postcard`, which writes no names. So any change of this file changes `PROTOCOL`, and nodes of
//! different protocols refuse each other's links: a message is never misread.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::{
    clock::NodeId,
    digest::{BITS_MAX, Path, RootDigest, RowFingerprint, ShortDigest},
    name::{Key, TableName},
    register::{Marker, Payload, Register},
};

/// The version of everything that nodes send each other. Nodes of other versions are refused.
pub const PROTOCOL: u16 = 6;

/// The approximate size limit of a message with many parts. A message with a single long value may be longer.
pub const MESSAGE_BYTES: usize = 240 * 1024;

/// A message. If a message is lost with its link, that costs at most a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A packet of the membership protocol (SWIM, by `foca`).
    Swim(Vec<u8>),
    /// Keep-alive: sent when nothing else has been sent for a while.
    Alive,
    /// The sender's state: sent every round, and when a link comes up.
    Round(Round),
    /// Registers for the receiver to merge.
    Rows(Rows),
    /// All batches up to this number are durable here, except for rows that were deleted.
    Applied {
        /// The batch.
        batch: u64,
        /// Rows that were not accepted. The sender of the batch is syncing; this node is complete and proves that they
        /// were deleted (see `core::protocol::agreement`). The sender of the batch removes them.
        deleted: Vec<(TableName, Key, Marker)>,
    },
    /// Opens a comparison: the short digest of each table that has rows at the sender, in order of their names.
    Open(Comparison<Vec<(TableName, ShortDigest)>>),
    /// Digests of the sender's rows, for the receiver to compare with its own.
    Digests(Comparison<Vec<NodeDigests>>),
    /// The fingerprints of the sender's rows below some nodes.
    RowFingerprints(Comparison<Vec<NodeRowFingerprints>>),
    /// Rows by name, and fingerprints whose names are asked for.
    Names(Comparison<Vec<Names>>),
    /// Asks for rows by name.
    Want(Vec<(TableName, Vec<Key>)>),
    /// Asks for all rows below these nodes, because the sender has none there.
    Pull(Vec<(TableName, Path)>),
    /// Members that were forgotten. The receiver may be among them, as an incarnation that is over: until it has what the
    /// cluster has, it is not complete.
    Forgotten(Vec<Forgotten>),
    /// The receiver is known here by a later incarnation. It must come back with at least this one.
    Superseded {
        /// The lowest incarnation that is accepted.
        at_least: u64,
        /// It was forgotten: it is not complete until it has what the cluster has.
        forgotten: bool,
        /// The sender forgot members by force, without a majority. If both sides forgot each other, the forced side
        /// gives way.
        forced: bool,
    },
    /// The sender ends the link. The reason is for the receiver's log.
    Refused(String),
    /// The sender is stopping, or leaving for good. It no longer waits for acknowledgements.
    Leaving {
        /// It will not come back: forget it.
        permanent: bool,
    },
    /// The sender's storage is full or fails; the text says why. It accepts and acknowledges no more rows over this
    /// link, and reports no root. Once it accepts rows again, it ends this link so that a new one starts.
    StorageFull(String),
    /// Asks the receiver for a response. Without one before the link ends, the sender cannot know whether the request
    /// took effect.
    Request {
        /// Its number: the sender never uses it again on this link.
        id: u64,
        /// What it is for.
        kind: RequestKind,
        /// The request, in the form that the service of the receiver reads.
        body: Bytes,
    },
    /// The response to a request. The sender has forgotten the request.
    Response {
        /// The number of the request.
        id: u64,
        /// The response, in the form that whoever asked reads.
        body: Result<Bytes, RequestFailure>,
    },
    /// Nobody waits for the response to this request any more. The receiver stops working on it. If it has answered
    /// already, this means nothing.
    Cancel {
        /// The number of the request.
        id: u64,
    },
}

impl Message {
    /// The encoded length, in bytes.
    pub fn encoded_bytes(&self) -> u64 {
        let size = postcard::ser_flavors::Size::default();
        postcard::serialize_with_flavor(self, size).expect("counting bytes takes all that there are") as u64
    }

    /// The step of a comparison that this message is, from 0 (the opening). `None` if it is not part of one. An answer
    /// always has a later step than its message.
    pub fn step(&self) -> Option<u32> {
        const DIGESTS: u32 = 1;
        const FINGERPRINTS: u32 = DIGESTS + BITS_MAX as u32 + 1;
        match self {
            Self::Open(_) => Some(0),
            Self::Digests(comparison) => {
                let depths = comparison.nodes.iter().map(|node| node.path.bits.min(BITS_MAX));
                Some(DIGESTS + u32::from(depths.max().unwrap_or_default()))
            }
            Self::RowFingerprints(_) => Some(FINGERPRINTS),
            Self::Names(_) => Some(FINGERPRINTS + 1),
            Self::Want(_) | Self::Pull(_) => Some(FINGERPRINTS + 2),
            Self::Rows(rows) => rows.repair.then_some(FINGERPRINTS + 3),
            Self::Alive
            | Self::Swim(_)
            | Self::Round(_)
            | Self::Applied { .. }
            | Self::Forgotten(_)
            | Self::Superseded { .. }
            | Self::Refused(_)
            | Self::Leaving { .. }
            | Self::StorageFull(_)
            | Self::Request { .. }
            | Self::Response { .. }
            | Self::Cancel { .. } => None,
        }
    }
}

/// What a request is for. Each kind has limits and figures of its own, so that one never waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestKind {
    /// A message of a Raft group. It goes before everything else on its link.
    Consensus,
    /// A client's request, passed on to the node that can serve it.
    Client,
    /// A question about the other node's state, for whoever watches the cluster. It goes after everything else.
    Report,
}

impl RequestKind {
    /// All kinds, the one that goes first before the others.
    pub const ALL: [Self; 3] = [Self::Consensus, Self::Client, Self::Report];

    /// The name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Client => "client",
            Self::Report => "report",
        }
    }

    /// Its place in `ALL`.
    pub fn index(self) -> usize {
        match self {
            Self::Consensus => 0,
            Self::Client => 1,
            Self::Report => 2,
        }
    }
}

/// Why a request has no good response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestFailure {
    /// The receiver serves no requests. It did nothing.
    NotServed,
    /// The receiver already works on as many requests of this link and kind as it may. It did nothing.
    Busy,
    /// The request failed, for this reason.
    Failed(String),
    /// The receiver worked on the request and cannot answer, for this reason: whether it took effect is unknown.
    NoAnswer(String),
}

/// A member that was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The node.
    pub node: NodeId,
    /// The highest incarnation that was forgotten.
    pub incarnation: u64,
    /// Up to when the sender held the same rows as the forgotten node (Unix milliseconds), for receivers that do not
    /// know.
    pub agreed_ms: u64,
}

/// A node's state. Sent to every linked peer each round, whatever happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The sender's clock, in Unix milliseconds.
    pub now_ms: u64,
    /// The `now_ms` of the last round received, and how many milliseconds ago that was. It gives the receiver the round
    /// trip and the clock offset.
    pub echo: Option<(u64, u32)>,
    /// How many milliseconds before `now_ms` the root's instant lies: the settle time.
    pub behind_ms: u32,
    /// The digest of everything the sender held at that instant. `None` while it cannot tell: it is building its trees
    /// or sweeping, or its storage fails.
    pub root: Option<RootDigest>,
    /// The sender's row count, tombstones included.
    pub rows: u64,
    /// Everything the sender wrote or saw up to here is on every member, as far as it knows (Unix milliseconds).
    pub guarantee_ms: u64,
    /// The sender and the receiver held the same rows up to here (Unix milliseconds): see `core::protocol::agreement`.
    pub agreed_ms: u64,
    /// The sender has removed tombstones up to here (Unix milliseconds; 0: none).
    pub swept_ms: u64,
    /// The sender has removed expired values up to here (Unix milliseconds; 0: none).
    pub expired_ms: u64,
    /// More about the sender.
    pub flags: Flags,
}

/// What is true of the sender of a round. Encoded as one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
pub struct Flags {
    /// It is complete: see `core::protocol::agreement`.
    pub complete: bool,
    /// It has lost nothing since it was last complete: see `core::protocol::progress`.
    pub intact: bool,
    /// The root covers everything it holds: no row is later than the root's instant. Only computed if the sender or the
    /// receiver is not complete.
    pub is_all: bool,
    /// It wrote something before that instant that the receiver has not acknowledged, so their roots may well differ.
    pub pushing: bool,
    /// Its journal does not reach back to the receiver's cursor: a comparison is needed.
    pub gap: bool,
    /// It is handing over its rows to leave for good: do not rely on it.
    pub leaving: bool,
    /// The receiver is detached from it: it was forgotten or is new, and has not held the same rows as all members
    /// since.
    pub detached: bool,
}

impl From<Flags> for u8 {
    fn from(flags: Flags) -> Self {
        let Flags { complete, intact, is_all, pushing, gap, leaving, detached } = flags;
        let bits = [complete, intact, is_all, pushing, gap, leaving, detached];
        bits.into_iter().enumerate().map(|(place, bit)| Self::from(bit) << place).sum()
    }
}

impl From<u8> for Flags {
    fn from(bits: u8) -> Self {
        let bit = |place: u32| bits >> place & 1 == 1;
        Self {
            complete: bit(0),
            intact: bit(1),
            is_all: bit(2),
            pushing: bit(3),
            gap: bit(4),
            leaving: bit(5),
            detached: bit(6),
        }
    }
}

impl Round {
    /// The instant of the root, in Unix milliseconds.
    pub fn at_ms(&self) -> u64 {
        self.now_ms.saturating_sub(u64::from(self.behind_ms))
    }
}

/// A batch of rows. Batches are numbered per link from 1, and acknowledged in order once durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// The number of the batch.
    pub batch: u64,
    /// Whether a comparison found these rows, or they were just written.
    pub repair: bool,
    /// The rows, by table.
    pub tables: Vec<(TableName, Vec<Row>)>,
}

/// A register with its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// What orders the register. Its fingerprint is checked against the payload.
    pub marker: Marker,
    /// The register's payload.
    pub payload: Payload,
}

impl Row {
    /// The row of a register.
    pub fn new(key: Key, register: Register) -> Self {
        Self { key, marker: register.marker(), payload: register.into_payload() }
    }

    /// The key and its register. `None` if the payload does not match the marker.
    pub fn into_register(self) -> Option<(Key, Register)> {
        let register = Register::new(self.payload, self.marker.timestamp);
        (register.marker() == self.marker).then_some((self.key, register))
    }

    /// Its approximate size in a message, in bytes.
    pub fn cost(&self) -> usize {
        let value = match &self.payload {
            Payload::Live { value, .. } => value.as_str().len(),
            Payload::Deleted => 0,
        };
        48 + self.key.as_str().len() + value
    }
}

/// A step of a comparison. The answering side keeps no state: everything it needs is in the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison<T> {
    /// Random per comparison. Short digests and row fingerprints are hashed with it.
    pub nonce: u64,
    /// The instant being compared, in Unix milliseconds.
    pub at_ms: u64,
    /// What the sender has.
    pub nodes: T,
}

/// The digests of a node's children, at the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDigests {
    /// The table.
    pub table: TableName,
    /// The node.
    pub path: Path,
    /// How many bits below the node the children are.
    pub below: u8,
    /// The short digests of its 2^below children, in order.
    pub short_digests: Vec<ShortDigest>,
}

/// The rows below a node, at the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRowFingerprints {
    /// The table.
    pub table: TableName,
    /// The node.
    pub path: Path,
    /// The fingerprint of each row, in no order.
    pub row_fingerprints: Vec<RowFingerprint>,
}

/// What differs below a node, according to the receiver of its row fingerprints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The table.
    pub table: TableName,
    /// The node.
    pub path: Path,
    /// Rows of the sender whose fingerprint the receiver did not send.
    pub named: Vec<(Key, Marker)>,
    /// Fingerprints of the receiver that no row of the sender has.
    pub wanted: Vec<RowFingerprint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison<T>(nodes: T) -> Comparison<T> {
        Comparison { nonce: 1, at_ms: 2, nodes }
    }

    #[test]
    fn a_round_is_short_whatever_it_holds() {
        let now_ms = 1_800_000_000_000;
        let round = Round {
            now_ms,
            echo: Some((now_ms, 1_000)),
            behind_ms: 2_499,
            root: Some(RootDigest([255; 16])),
            rows: 1_000_000,
            guarantee_ms: now_ms,
            agreed_ms: now_ms,
            swept_ms: now_ms,
            expired_ms: now_ms,
            flags: Flags::from(u8::MAX),
        };
        assert!(Message::Round(round.clone()).encoded_bytes() <= 64);
        let encoded = postcard::to_stdvec(&Message::Round(round.clone())).expect("encodes");
        assert_eq!(Message::Round(round).encoded_bytes(), encoded.len() as u64);
    }

    #[test]
    fn each_flag_has_a_bit_of_its_own() {
        for bits in 0..1 << 7 {
            assert_eq!(u8::from(Flags::from(bits)), bits);
        }
    }

    #[test]
    fn an_answer_has_a_later_step_than_its_message() {
        let table = TableName::parse("t").expect("a name");
        let digests = |bits| {
            let path = Path { bits, prefix: 0 };
            let node = NodeDigests { table: table.clone(), path, below: 4, short_digests: Vec::new() };
            Message::Digests(comparison(vec![node]))
        };
        let rows = |repair| Message::Rows(Rows { batch: 1, repair, tables: Vec::new() });
        let conversation = [
            Message::Open(comparison(Vec::new())),
            digests(0),
            digests(4),
            digests(8),
            digests(BITS_MAX),
            Message::RowFingerprints(comparison(Vec::new())),
            Message::Names(comparison(Vec::new())),
            Message::Want(Vec::new()),
            rows(true),
        ];
        let steps: Vec<_> = conversation.iter().map(|message| message.step().expect("a step")).collect();
        assert!(steps.is_sorted_by(|earlier, later| earlier < later), "{steps:?}");
        assert_eq!(steps[0], 0);
        assert!(*steps.last().expect("several") < u32::BITS);
        assert_eq!(Message::Pull(Vec::new()).step(), Message::Want(Vec::new()).step());
        assert_eq!(rows(false).step(), None);
        assert_eq!(Message::Swim(Vec::new()).step(), None);
    }
}
