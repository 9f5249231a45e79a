//! The node's storage as a replica: what the protocol reads and writes, on the tables as they lie on the disk.

use std::{collections::BTreeMap, sync::Arc};

use tracing::{error, warn};

use crate::{
    core::{
        clock::Timestamp,
        digest::{Digest, DigestKey, Path, RootDigest, Sum},
        message::Row,
        name::{Key, TableName},
        register::Marker,
        replica::{Accepted, Replica, Scanned, Swept},
        standing::Shared,
    },
    error::{Error, Result},
    storage::{Store, stamps::Stamps},
};

/// The rows of this node.
#[derive(Clone)]
pub struct Rows {
    store: Store,
    stamps: Arc<Stamps>,
    shared: Arc<Shared>,
}

impl Rows {
    /// The rows of a store, whose new writes `stamps` stamps and the journal of `shared` notes.
    pub fn new(store: Store, stamps: Arc<Stamps>, shared: Arc<Shared>) -> Self {
        Self { store, stamps, shared }
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
            // The others have it, or have it not; one damaged row is not to keep them from all the rest.
            Err(error @ Error::Corrupt(_)) => {
                error!(%error, "a row is not sent to the other nodes");
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

    fn accept(&self, table: &TableName, rows: Vec<Row>, trusting: bool) -> Result<Accepted> {
        let accepted = self.store.accept(table, rows, trusting)?;
        if let Some(latest) = accepted.latest {
            self.stamps.follow(latest);
        }
        Ok(accepted)
    }

    fn bury(&self, zombies: Vec<(TableName, Key, Marker)>, shared_hlc: u64) -> Result<u64> {
        let node = self.store.node();
        let known = self.shared.standing().known.clone();
        // What a node brings along that never shared anything, and no member wrote, was imported here and deleted nowhere.
        let is_ours = |timestamp: Timestamp| match timestamp.node == node {
            true => timestamp.hlc > shared_hlc,
            false => shared_hlc == 0 && !known.contains(&timestamp.node),
        };
        let buried = self.store.bury(zombies, |timestamp| match is_ours(timestamp) {
            true => self.stamps.tick().map(Some),
            false => Ok(None),
        })?;
        let mut counts: BTreeMap<&TableName, (u64, u64)> = BTreeMap::new();
        buried.removed.iter().for_each(|(table, _)| counts.entry(table).or_default().0 += 1);
        buried.rewritten.iter().for_each(|(table, _)| counts.entry(table).or_default().1 += 1);
        for (table, (removed, rewritten)) in counts {
            warn!(%table, removed, rewritten, "others refused old rows: removed where another member had them, else written anew");
        }
        let removed = buried.removed.len() as u64;
        let mut journal = self.shared.journal();
        for (table, key) in buried.rewritten {
            journal.append(table, key, None);
        }
        Ok(removed)
    }

    fn pass(&self, at_ms: u64) {
        self.stamps.pass(at_ms);
    }

    fn swept(&self) -> Swept {
        self.store.swept()
    }

    fn dead(&self, swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>> {
        self.store.dead(swept)
    }

    fn reset_swept(&self, swept: Swept) -> Result<()> {
        self.store.reset_swept(swept)
    }

    fn sweep_to(&self, swept: Swept) {
        self.store.sweep_to(swept);
    }
}
