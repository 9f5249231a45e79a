//! The node's storage as a [`Replica`] for the protocol.

use std::sync::Arc;

use tracing::{error, info};

use crate::{
    core::{
        digest::{Digest, DigestKey, Path, RootDigest, Sum},
        name::{Key, TableName},
        protocol::{
            message::Row,
            replica::{Accepted, Replica, Scanned, Swept},
        },
        register::Marker,
    },
    error::{Error, Result},
    storage::{Store, commit::timestamps::Timestamps},
};

/// The rows of this node.
#[derive(Clone)]
pub struct Rows {
    store: Store,
    timestamps: Arc<Timestamps>,
}

impl Rows {
    /// The rows of `store`. `timestamps` makes the timestamps of new writes.
    pub fn new(store: Store, timestamps: Arc<Timestamps>) -> Self {
        Self { store, timestamps }
    }
}

impl Replica for Rows {
    fn digest_key(&self) -> DigestKey {
        self.store.digest_key()
    }

    fn tables(&self) -> Vec<TableName> {
        self.store.digest_tables()
    }

    fn root(&self, at_ms: u64) -> Result<Option<RootDigest>> {
        if self.store.is_sweeping() { Ok(None) } else { self.store.root(at_ms) }
    }

    fn count(&self) -> u64 {
        self.store.rows_total()
    }

    fn sums(&self, table: &TableName, path: Path, below: u8, at_ms: u64) -> Result<Option<Vec<Sum>>> {
        self.store.sums(table, path, below, at_ms)
    }

    fn depth(&self, table: &TableName, path: Path) -> Result<u8> {
        self.store.depth(table, path)
    }

    fn heads(&self, table: &TableName, path: Path) -> Result<Vec<(Key, Marker, Digest)>> {
        self.store.heads(table, path)
    }

    fn read(&self, table: &TableName, key: &Key) -> Result<Option<Row>> {
        match self.store.read_row(table, key) {
            // Other nodes may have it; one damaged row must not keep them from all the rest.
            Err(error @ Error::Corrupt(_)) => {
                error!(%error, "a damaged row is not sent to the other nodes");
                Ok(None)
            }
            read => read,
        }
    }

    fn scan(
        &self,
        table: &TableName,
        partition: u8,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scanned> {
        self.store.scan_partition(table, partition, after, bytes_max)
    }

    fn accept(
        &self,
        table: &TableName,
        rows: Vec<Row>,
        proven_ms: u64,
        announced_ms: u64,
    ) -> Result<Accepted> {
        if self.store.is_strong(table) {
            // Its rows come through its log. The peer has taken these into an eventual table of that name.
            return Ok(Accepted::default());
        }
        let accepted = self.store.accept(table, rows, proven_ms, announced_ms)?;
        if let Some(latest) = accepted.latest {
            self.timestamps.observe_stored(latest);
        }
        Ok(accepted)
    }

    fn lost_ms(&self) -> u64 {
        self.store.lost_ms()
    }

    fn lower_agreement(&self, to_ms: u64) -> Result<()> {
        self.store.lower_agreement(to_ms)
    }

    fn remove(&self, rows: Vec<(TableName, Key, Marker)>) -> Result<u64> {
        let removed = self.store.remove(rows)?;
        info!(removed, "removed rows that were deleted while this node was away");
        Ok(removed)
    }

    fn raise_clock(&self, at_ms: u64) {
        self.timestamps.advance_past(at_ms);
    }

    fn swept(&self) -> Swept {
        self.store.swept()
    }

    fn garbage(&self, swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>> {
        self.store.garbage(swept)
    }

    fn reset_swept(&self, swept: Swept) -> Result<()> {
        self.store.reset_swept(swept)
    }

    fn sweep_to(&self, swept: Swept) {
        self.store.sweep_to(swept);
    }
}
