//! What the protocol needs of a replica's rows: the seam between what nodes say to each other and where the rows lie. The
//! node's storage is one replica; a map in memory, for simulation, is another.

use super::{agreement::Agreement, message::Row};
use crate::{
    core::{
        clock::Timestamp,
        digest::{Digest, DigestKey, Path, RootDigest, Sum},
        name::{Key, TableName},
        register::Marker,
    },
    error::Result,
};

/// The rows of one node, as those see them who compare and copy them. Nothing here waits for a disk to sync.
///
/// # Errors
/// All methods: `StorageFull`, `NotReady` while the storage is being opened again, `Corrupt` for a row that does not decode.
pub trait Replica {
    /// The key under which rows are hashed.
    fn digest_key(&self) -> DigestKey;

    /// The tables that have rows, in order of their names.
    fn tables(&self) -> Vec<TableName>;

    /// The digest of all rows as they were at an instant (Unix milliseconds); `None` where that cannot be told: trees are
    /// being built, a sweep is on its way, the storage fails, or the instant is too long ago.
    fn root(&self, at_ms: u64) -> Result<Option<RootDigest>>;

    /// How many rows there are, tombstones included.
    fn count(&self) -> u64;

    /// The sums of the 2^below children of a node as they were at an instant, or as near to it as can be told; `below` of 0
    /// gives the node's own. `None` where the tree is not so deep there.
    fn sums(&self, table: &TableName, path: Path, below: u8, at_ms: u64) -> Result<Option<Vec<Sum>>>;

    /// How many bits deep the tree is in the shallowest partition below `path`; at least `PARTITION_BITS`.
    fn depth(&self, table: &TableName, path: Path) -> Result<u8>;

    /// Key, marker and leaf of all rows below a node as they are now.
    fn heads(&self, table: &TableName, path: Path) -> Result<Vec<(Key, Marker, Digest)>>;

    /// One row as it is now; a tombstone or an expired value is one too.
    fn read(&self, table: &TableName, key: &Key) -> Result<Option<Row>>;

    /// Rows of one partition after a key, in order of keys, about `bytes_max` of them but at least one; and whether more follow.
    fn scan(
        &self,
        table: &TableName,
        partition: u8,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scanned>;

    /// Merges rows that a peer sent. See `Accepted`. Of live rows written up to `proven_ms` (Unix milliseconds; 0: none) it is proved that
    /// they were deleted where there is none of their key here: see `core::agreement`.
    fn accept(&self, table: &TableName, rows: Vec<Row>, proven_ms: u64) -> Result<Accepted>;

    /// When the last rows were lost here with a page that cannot be read, and not given back (Unix milliseconds); 0 where none are.
    fn lost_ms(&self) -> u64 {
        0
    }

    /// Keeps what was agreed with others over a restart: durable no later than anything stored after it.
    fn save_agreement(&self, agreement: &Agreement) -> Result<()>;

    /// Removes rows, each that still has its marker: a whole member proved that they were deleted. Returns how many were removed.
    fn remove(&self, rows: Vec<(TableName, Key, Marker)>) -> Result<u64>;

    /// Raises the node's clock above an instant, so that no write of this node falls before it any more.
    fn raise_clock(&self, at_ms: u64);

    /// How far tombstones, and expired values, have been removed here (Unix milliseconds).
    fn swept(&self) -> Swept;

    /// The rows that are dead here, tombstones and expired values, and will be removed once `swept` is taken over.
    fn garbage(&self, swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>>;

    /// Sets how far things have been removed here to what the cluster has, which may be less: for a node that knows nothing of
    /// its own about that.
    fn reset_swept(&self, swept: Swept) -> Result<()>;

    /// Tells that others have removed so much: it may be removed here too, and must before roots can be compared.
    fn sweep_to(&self, swept: Swept);
}

/// A page of a partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scanned {
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether more follow after the last.
    pub more: bool,
}

/// What became of rows that a peer sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accepted {
    /// How many changed what was here.
    pub changed: u64,
    /// The highest timestamp among them.
    pub latest: Option<Timestamp>,
    /// How many live rows were taken in that are as old as what was swept here, and of a key that is not here: they may have been deleted, and
    /// nothing proves it.
    pub unproven: u64,
    /// Live rows that were not taken in, as it is proved that they were deleted.
    pub deleted: Vec<(Key, Marker)>,
}

/// How far a node has removed what is dead on every replica. Only grows; nodes take over the larger of theirs and a peer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tombstones written up to here are gone (Unix milliseconds; 0: none).
    pub tombstones_ms: u64,
    /// Values written and expired up to here are gone (Unix milliseconds; 0: none).
    pub expired_ms: u64,
}

impl Swept {
    /// The later of both.
    pub fn latest_ms(self) -> u64 {
        self.tombstones_ms.max(self.expired_ms)
    }

    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            tombstones_ms: self.tombstones_ms.max(other.tombstones_ms),
            expired_ms: self.expired_ms.max(other.expired_ms),
        }
    }
}
