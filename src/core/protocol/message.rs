//! Everything that linked nodes say to each other, once a link stands. What they say before that, to trust each other, is in
//! `replication::handshake`.
//!
//! `postcard` encodes it. Its encoding names nothing, so any change of this file is a change of `PROTOCOL`, and nodes of
//! different protocols refuse each other's links: a message is never misread.

use serde::{Deserialize, Serialize};

use crate::core::{
    clock::NodeId,
    digest::{BITS_MAX, Path, RootDigest, RowFingerprint, ShortDigest},
    name::{Key, TableName},
    register::{Marker, Payload, Register},
};

/// The version of everything that travels between nodes. Nodes of another are refused.
pub const PROTOCOL: u16 = 4;

/// About how long a message may be that carries many things; one that carries a single long value may be longer.
pub const MESSAGE_BYTES: usize = 240 * 1024;

/// One message. Each may be lost with its link, and then costs at most a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A packet of the membership protocol (SWIM, by `foca`).
    Swim(Vec<u8>),
    /// Nothing; sent where nothing else is for a while, so that the receiver knows that the sender lives.
    Alive,
    /// How the sender stands; each round, and when a link comes up.
    Round(Round),
    /// Registers for the receiver to merge.
    Rows(Rows),
    /// All batches up to this number are durable here, but for rows that were deleted.
    Applied {
        /// The batch.
        batch: u64,
        /// Rows of a sender that is not whole, not taken in: the receiver of the batch, which is whole, proves that they were deleted
        /// (`core::agreement`). The sender removes them.
        deleted: Vec<(TableName, Key, Marker)>,
    },
    /// Opens a comparison: the brief of each table that has rows at the sender, in order of their names.
    Open(Comparison<Vec<(TableName, ShortDigest)>>),
    /// Digests of the sender's rows, for the receiver to compare with its own.
    Digests(Comparison<Vec<NodeDigests>>),
    /// What rows the sender has below some nodes, in four bytes each.
    RowFingerprints(Comparison<Vec<NodeRowFingerprints>>),
    /// Rows by name, and others asked for.
    Names(Comparison<Vec<Names>>),
    /// Asks for rows by name.
    Want(Vec<(TableName, Vec<Key>)>),
    /// Asks for all rows below these nodes, as the sender has none there.
    Pull(Vec<(TableName, Path)>),
    /// Members that were forgotten.
    Forgotten(Vec<Forgotten>),
    /// The receiver is known here as a later life than the one it is in: it is to come back as at least this incarnation.
    Superseded {
        /// The incarnation.
        at_least: u64,
        /// It was forgotten: it is not whole until it has what the cluster has.
        forgotten: bool,
        /// The sender forgot members on an operator's word, without a majority. Where both forgot each other, such a side gives way.
        forced: bool,
    },
    /// The sender ends the link, and says why: for the log of the receiver.
    Refused(String),
    /// The sender is stopping (`forever`: leaving for good), and how far its writes are acknowledged no longer matters.
    Leaving {
        /// It will not come back: forget it.
        permanent: bool,
    },
    /// The sender's storage is full or fails, and why: it takes no more rows over this link, and acknowledges none, nor does it tell
    /// its root. Once it takes rows again it ends the link, for another.
    StorageFull(String),
}

impl Message {
    /// How long it is, encoded.
    pub fn encoded_bytes(&self) -> u64 {
        let size = postcard::ser_flavors::Size::default();
        postcard::serialize_with_flavor(self, size).expect("counting bytes takes all that there are") as u64
    }

    /// Which step of a comparison it is, from 0, the opening; `None` for what is no part of one. What answers a message is of a
    /// later step than that.
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
            | Self::StorageFull(_) => None,
        }
    }
}

/// A member that was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The node.
    pub node: NodeId,
    /// The incarnation that was forgotten, and all before.
    pub incarnation: u64,
    /// Up to when (Unix milliseconds) the sender held the same rows as it, for one that does not know.
    pub agreed_ms: u64,
}

/// How a node stands. Sent each round to every linked peer, whatever happens: also the link's sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Unix milliseconds at the sender.
    pub now_ms: u64,
    /// The `now_ms` of the last round received, and for how many milliseconds it has lain here: the receiver learns the round
    /// trip and the offset of the clocks from it.
    pub echo: Option<(u64, u32)>,
    /// How many milliseconds before `now_ms` the instant lies that the root stands for: by the settle time.
    pub behind_ms: u32,
    /// Digest of everything the sender held at that instant; `None` while it cannot tell (it builds its trees, sweeps, or its
    /// storage fails).
    pub root: Option<RootDigest>,
    /// Rows the sender has, tombstones included.
    pub rows: u64,
    /// Up to here everything that the sender wrote or saw is on every member, as far as it knows (Unix milliseconds).
    pub guarantee_ms: u64,
    /// Up to here the sender and the receiver held the same rows (Unix milliseconds): see `core::agreement`.
    pub agreed_ms: u64,
    /// The sender has swept tombstones up to here (Unix milliseconds; 0: none).
    pub swept_ms: u64,
    /// The sender has removed expired values up to here (Unix milliseconds; 0: none).
    pub expired_ms: u64,
    /// What is so of the sender, or not.
    pub flags: Flags,
}

/// What is so of the sender of a round, or not. One byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
pub struct Flags {
    /// It is whole: see `core::agreement`.
    pub complete: bool,
    /// It holds what it held when it was whole last: see `core::standing`.
    pub intact: bool,
    /// The root shows all that it holds: nothing of it is later than that instant. Said only to who is not whole, or by who is not.
    pub is_all: bool,
    /// It wrote something before that instant that the receiver has not acknowledged yet: their roots may well differ.
    pub pushing: bool,
    /// Its journal does not reach back to where the receiver is: something is to be compared.
    pub gap: bool,
    /// It hands over what it has, to leave for good: nobody is to count on it.
    pub leaving: bool,
    /// The receiver is apart from it: it was forgotten, or is new, and they have not held the same as all members since.
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
    /// The instant the root stands for, in Unix milliseconds.
    pub fn at_ms(&self) -> u64 {
        self.now_ms.saturating_sub(u64::from(self.behind_ms))
    }
}

/// A batch of rows. Numbered by link, from 1; acknowledged in order, once durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Its number.
    pub batch: u64,
    /// Whether a comparison found them, and not a fresh write.
    pub repair: bool,
    /// The rows, by table.
    pub tables: Vec<(TableName, Vec<Row>)>,
}

/// A register with its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// What orders the register. Its fingerprint is tested against the payload.
    pub marker: Marker,
    /// What the register holds.
    pub payload: Payload,
}

impl Row {
    /// The row of a register.
    pub fn new(key: Key, register: Register) -> Self {
        Self { key, marker: register.marker(), payload: register.into_payload() }
    }

    /// The key and its register; `None` where the payload is not what the marker says.
    pub fn into_register(self) -> Option<(Key, Register)> {
        let register = Register::new(self.payload, self.marker.timestamp);
        (register.marker() == self.marker).then_some((self.key, register))
    }

    /// About how many bytes it takes in a message.
    pub fn cost(&self) -> usize {
        let value = match &self.payload {
            Payload::Live { value, .. } => value.as_str().len(),
            Payload::Deleted => 0,
        };
        48 + self.key.as_str().len() + value
    }
}

/// A step of a comparison. Whoever answers keeps nothing: all it needs is in the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison<T> {
    /// Random to the comparison: briefs and glimpses are hashed with it.
    pub nonce: u64,
    /// The instant that is compared, in Unix milliseconds.
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
    /// How many bits the children lie below it.
    pub below: u8,
    /// The briefs of its 2^below children, in order.
    pub short_digests: Vec<ShortDigest>,
}

/// The rows below a node, at the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRowFingerprints {
    /// The table.
    pub table: TableName,
    /// The node.
    pub path: Path,
    /// A glimpse of each row, in no order.
    pub row_fingerprints: Vec<RowFingerprint>,
}

/// What differs below a node, as the receiver of its glimpses sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The table.
    pub table: TableName,
    /// The node.
    pub path: Path,
    /// Rows the sender has as nobody had glimpsed them.
    pub named: Vec<(Key, Marker)>,
    /// Glimpses of the receiver that no row of the sender has.
    pub wanted: Vec<RowFingerprint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison<T>(nodes: T) -> Comparison<T> {
        Comparison { nonce: 1, at_ms: 2, nodes }
    }

    #[test]
    fn a_round_is_short_whatever_there_is() {
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
    fn what_answers_a_message_is_of_a_later_step() {
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
