//! Batches: writes that are merged in pieces and made durable in one commit.

use std::sync::Arc;

use super::{Node, Write, Written, write_tracker::WritePermit};
use crate::{core::name::TableName, error::Result, storage::commit::Incarnation};

/// Longer batches are merged on another thread, so that they do not block other requests.
const INLINE_WRITES_MAX: usize = 16;

/// Writes that are merged piece by piece and made durable in one commit.
pub struct Batch<'a> {
    node: &'a Arc<Node>,
    table: &'a TableName,
    incarnation: Incarnation,
    _permit: WritePermit<'a>,
}

impl Batch<'_> {
    /// Merges writes; returns the results in order. With `atomic` the first failure prevents all of them, and is returned.
    ///
    /// # Errors
    /// As `Node::write`; without `atomic` only errors that concern all writes.
    pub async fn merge(&mut self, writes: Vec<Write>, atomic: bool) -> Result<Vec<Result<Written>>> {
        self.node.make_table(self.table, None, &writes).await?;
        if self.node.turns_out_strong(self.table).await {
            return self.node.batch_strong(self.table, writes, atomic).await;
        }
        let (node, table) = (self.node.clone(), self.table.clone());
        let long = writes.len() > INLINE_WRITES_MAX;
        let merge = move || {
            if atomic { node.merge_atomic(&table, writes) } else { Ok(node.merge_each(&table, writes)) }
        };
        if long { self.node.environment().run(merge).await } else { merge() }
    }

    /// Returns when everything merged is durable.
    ///
    /// # Errors
    /// `StorageFull` if the storage has failed meanwhile; some writes may be lost then.
    pub async fn finish(self) -> Result<()> {
        self.node.store.acknowledge(self.incarnation).await
    }
}

impl Node {
    /// Starts a batch of writes to one table.
    ///
    /// # Errors
    /// `StorageFull`, `Draining`.
    pub async fn begin_batch<'a>(self: &'a Arc<Self>, table: &'a TableName) -> Result<Batch<'a>> {
        let (incarnation, permit) = self.begin_write().await?;
        Ok(Batch { node: self, table, incarnation, _permit: permit })
    }
}
