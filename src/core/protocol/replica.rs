//! The trait through which the protocol reads and writes rows. The node's storage implements it, and so does an
//! in-memory map for simulation.

use super::message::Row;
use crate::{
    core::{
        clock::Timestamp,
        digest::{Digest, DigestKey, Path, RootDigest, Sum},
        name::{Key, TableName},
        register::Marker,
    },
    error::Result,
};

/// The rows of one node. No method waits for a disk sync.
///
/// # Errors
/// All methods: `StorageFull`; `NotReady` while the storage is being reopened; `Corrupt` for a row that does not
/// decode.
pub trait Replica {
    /// The key that rows are hashed with.
    fn digest_key(&self) -> DigestKey;

    /// The tables that have rows, in order of their names.
    fn tables(&self) -> Vec<TableName>;

    /// The digest of all rows at an instant (Unix milliseconds). `None` if it cannot tell: trees are being built, a
    /// sweep is running, the storage fails, or the instant is too long ago.
    fn root(&self, at_ms: u64) -> Result<Option<RootDigest>>;

    /// The row count, tombstones included.
    fn count(&self) -> u64;

    /// The sums of a node's 2^below children at an instant, or as near to it as possible. `below` of 0 gives the node's
    /// own sum. `None` if the tree is not that deep there.
    fn sums(&self, table: &TableName, path: Path, below: u8, at_ms: u64) -> Result<Option<Vec<Sum>>>;

    /// The depth of the tree in the shallowest partition below `path`, in bits; at least `PARTITION_BITS`.
    fn depth(&self, table: &TableName, path: Path) -> Result<u8>;

    /// The key, marker and leaf of each current row below a node.
    fn heads(&self, table: &TableName, path: Path) -> Result<Vec<(Key, Marker, Digest)>>;

    /// A current row, which may be a tombstone or an expired value.
    fn read(&self, table: &TableName, key: &Key) -> Result<Option<Row>>;

    /// Rows of one partition after a key, in key order, about `bytes_max` but at least one; and whether more follow.
    fn scan(
        &self,
        table: &TableName,
        partition: u8,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scanned>;

    /// Merges rows from a peer. Rows written up to `proven_ms` (Unix milliseconds; 0: none) are proved to be removed if
    /// their key is missing here: see `core::protocol::agreement`. A tombstone or expired value below `announced_ms`, or below
    /// what was swept here, stays until more than both is swept, also after a restart: other members may still hold what it
    /// ended.
    fn accept(
        &self,
        table: &TableName,
        rows: Vec<Row>,
        proven_ms: u64,
        announced_ms: u64,
    ) -> Result<Accepted>;

    /// When rows were last lost here with an unreadable page and not restored (Unix milliseconds); 0 if none are.
    fn lost_ms(&self) -> u64 {
        0
    }

    /// Has what is kept of the agreement with others claim nothing of rows later than an instant (Unix milliseconds): durable on return.
    fn lower_agreement(&self, to_ms: u64) -> Result<()>;

    /// Removes rows that still have the given marker: a complete member proved that they were deleted. Returns how
    /// many.
    fn remove(&self, rows: Vec<(TableName, Key, Marker)>) -> Result<u64>;

    /// Raises the node's clock above an instant, so that this node writes nothing at or before it any more.
    fn raise_clock(&self, at_ms: u64);

    /// How far tombstones and expired values have been removed here.
    fn swept(&self) -> Swept;

    /// The tombstones and expired values that will be removed here once `swept` is followed.
    fn garbage(&self, swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>>;

    /// Sets how far this node has swept to what the cluster has, which may be less. For a node whose own sweeps mean
    /// nothing.
    fn reset_swept(&self, swept: Swept) -> Result<()>;

    /// Others have swept this far. This node may too, and must before roots can be compared.
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

/// What became of a peer's rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accepted {
    /// How many changed something here.
    pub changed: u64,
    /// The highest timestamp among them.
    pub latest: Option<Timestamp>,
    /// Live rows accepted although they are as old as what was swept here and their key is missing here. They may have
    /// been deleted; nothing proves it.
    pub unproven: u64,
    /// Live rows not accepted, because they are proved to be deleted.
    pub deleted: Vec<(Key, Marker)>,
}

/// How far a node has removed tombstones and expired values. It grows, except when a syncing node takes over lower ones; a node follows whichever is larger, its own
/// or a peer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tombstones written up to here are removed (Unix milliseconds; 0: none).
    pub tombstones_ms: u64,
    /// Values written and expired up to here are removed (Unix milliseconds; 0: none).
    pub expired_ms: u64,
}

impl Swept {
    /// The later of the two instants.
    pub fn latest_ms(self) -> u64 {
        self.tombstones_ms.max(self.expired_ms)
    }

    /// The maximum of each instant.
    pub fn max(self, other: Self) -> Self {
        Self {
            tombstones_ms: self.tombstones_ms.max(other.tombstones_ms),
            expired_ms: self.expired_ms.max(other.expired_ms),
        }
    }
}
