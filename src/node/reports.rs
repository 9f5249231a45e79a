//! What nodes tell each other about themselves, for whoever watches the cluster: questions and answers, in a form that is the caller's. And
//! how the tables of this node divide into partitions, and those into rows, as the digest tree has them.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::Node;
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        digest::{DigestKey, Path, RootDigest, Sum},
        hex::to_hex,
        name::{Key, TableName},
        protocol::{message::RequestKind, peer::settled_ms},
        register::{Marker, Payload},
    },
    error::{Error, Result},
    replication::{SETTLE_MS, requests::RequestService},
    storage::{Store, changes::change::Topic},
};

/// How long another node may take to answer. Whoever watches asks again a second later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// As much of a digest as is shown: enough that two that differ look different.
const DIGEST_BYTES_SHOWN: usize = 6;

/// Answers questions of other nodes.
pub trait Reporter: Send + Sync {
    /// Answers a question. An error is its text.
    fn report(&self, question: Vec<u8>) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>>;
}

struct Service(Arc<dyn Reporter>);

impl RequestService for Service {
    fn call(
        &self,
        _: NodeId,
        _: RequestKind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> {
        self.0.report(body)
    }
}

/// The version of a row, which may be that of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowVersion {
    /// When and by whom it was written.
    pub timestamp: Timestamp,
    /// Whether it is a tombstone.
    pub is_deleted: bool,
}

/// A table, with its root and the number of its rows if they are known.
pub type TableRoot = (TableName, Option<(String, u64)>);

impl Node {
    /// Has `reporter` answer the questions of this node and the others from now on. A second one is ignored.
    pub fn serve_reports(&self, reporter: Arc<dyn Reporter>) {
        if self.reporter.set(Arc::clone(&reporter)).is_ok() {
            self.replication.serve_reports(Arc::new(Service(reporter)));
        }
    }

    /// Asks a node: this one, or one that is linked with it.
    ///
    /// # Errors
    /// The text of what failed.
    pub async fn ask_for_report(
        &self,
        node: NodeId,
        question: Vec<u8>,
    ) -> std::result::Result<Vec<u8>, String> {
        if node == self.id() {
            let reporter = self.reporter.get().ok_or("this node reports nothing yet: try again")?;
            return reporter.report(question).await;
        }
        let asked = self.replication.request(node, RequestKind::Report, question, ANSWER_TIMEOUT);
        asked.await.map_err(|error| error.to_string())
    }

    /// The latest instant of which nodes can compare what they hold, in Unix milliseconds: what they received until then is merged.
    pub fn settled_ms(&self) -> u64 {
        settled_ms(self.now_ms(), SETTLE_MS)
    }

    /// The eventual tables that have rows: of each the root of its digest tree, shortened, and the number of its rows, as they were at an instant.
    /// `None` while its tree is not available, as in the first moments after a start.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn roots(&self, at_ms: u64) -> Result<Vec<TableRoot>> {
        let store = self.store.clone();
        self.environment().run(move || roots(&store, at_ms)).await
    }

    /// The short digests of the 256 partitions of a table, and the number of rows in each, as they were at an instant. `None` while the
    /// digest tree is not available, as in the first moments after a start.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn partitions(&self, table: &TableName, at_ms: u64) -> Result<Option<Vec<(String, u64)>>> {
        let (store, table, name) = (self.store.clone(), table.clone(), table.clone());
        let sums =
            self.environment().run(move || store.sums(&table, Path::ROOT, Path::partition(0).bits, at_ms));
        let key = self.store.digest_key();
        let sums = sums.await?;
        Ok(sums.map(|sums| sums.into_iter().map(|sum| shown(&key, &name, sum)).collect()))
    }

    /// Keys and versions of all rows of a partition, deletions included.
    ///
    /// # Errors
    /// `TooMany` for more than `rows_max`; those of the storage.
    pub async fn partition_rows(
        &self,
        table: &TableName,
        partition: u8,
        rows_max: usize,
    ) -> Result<Vec<(Key, Marker)>> {
        let (store, table) = (self.store.clone(), table.clone());
        let heads = move || store.heads(&table, Path::partition(partition));
        let heads = self.environment().run(heads).await?;
        if heads.len() > rows_max {
            return Err(Error::TooMany(format!(
                "the partition has {} rows, and at most {rows_max} are compared here: use DynaRust diff",
                heads.len()
            )));
        }
        Ok(heads.into_iter().map(|(key, marker, _)| (key, marker)).collect())
    }

    /// The versions of some keys, deletions included; `None` for a key that has no row here.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn row_versions(&self, table: &TableName, keys: Vec<Key>) -> Result<Vec<Option<RowVersion>>> {
        let (store, table) = (self.store.clone(), table.clone());
        let read = move || {
            let version = |key| {
                let row = store.read_row(&table, key)?;
                Ok(row.map(|row| RowVersion {
                    timestamp: row.marker.timestamp,
                    is_deleted: row.payload == Payload::Deleted,
                }))
            };
            keys.iter().map(version).collect()
        };
        self.environment().run(read).await
    }

    /// What is followed on this node, and by how many subscriptions.
    pub fn topics(&self) -> Vec<(Topic, u64)> {
        self.store.topics()
    }
}

fn roots(store: &Store, at_ms: u64) -> Result<Vec<TableRoot>> {
    let key = store.digest_key();
    let root = |table: TableName| {
        let sums = store.sums(&table, Path::ROOT, 0, at_ms)?;
        let sum = sums.and_then(|sums| sums.first().copied());
        let root = sum.map(|sum| shown(&key, &table, sum));
        Ok((table, root))
    };
    store.digest_tables().into_iter().map(root).collect()
}

/// A digest as it is shown, and the number of rows in it.
fn shown(key: &DigestKey, table: &TableName, sum: Sum) -> (String, u64) {
    let RootDigest(bytes) = key.root([(table, sum)].into_iter());
    (to_hex(&bytes[..DIGEST_BYTES_SHOWN]), u64::try_from(sum.count).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Fixture, close, key, put, table};

    /// It was left out, and was shown as a table without rows, which differs from that of the other nodes.
    #[test]
    fn a_table_whose_rows_are_not_counted_yet_is_there_without_a_root() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.merge(&table(), &key("a"), |_| Ok(put("1", None, 1))).expect("merges");
        close(store);
        let store = fixture.open();
        assert_eq!(roots(&store, u64::MAX), Ok(vec![(table(), None)]));
        store.count_rows().expect("counts");
        let found = roots(&store, u64::MAX).expect("reads");
        assert!(matches!(&found[..], [(name, Some((_, 1)))] if *name == table()), "{found:?}");
        close(store);
    }
}
