//! Batches: writes that are merged in pieces and made durable in one commit.

use std::sync::Arc;

use super::{Action, Node, Write, Written, write_tracker::WritePermit};
use crate::{core::name::TableName, error::Result, storage::commit::Incarnation};

/// Longer batches are merged on another thread, so that they do not block other requests.
const INLINE_WRITES_MAX: usize = 16;
/// The same of the values, in bytes of JSON text: so much takes some milliseconds to compress.
const INLINE_BYTES_MAX: usize = 512 * 1024;

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
        let takes_long = takes_long(&writes);
        let merge = move || {
            if atomic { node.merge_atomic(&table, writes) } else { Ok(node.merge_each(&table, writes)) }
        };
        if takes_long { self.node.environment().run(merge).await } else { merge() }
    }

    /// Returns when everything merged is durable.
    ///
    /// # Errors
    /// `StorageFull` if the storage has failed meanwhile; some writes may be lost then.
    pub async fn finish(self) -> Result<()> {
        self.node.store.acknowledge(self.incarnation).await
    }
}

/// Whether writes may take more than a few milliseconds. What a patch changes may be long.
fn takes_long(writes: &[Write]) -> bool {
    let mut bytes = 0;
    writes.len() > INLINE_WRITES_MAX
        || writes.iter().any(|write| match &write.action {
            Action::Put { value, .. } => {
                bytes += value.as_str().len();
                bytes > INLINE_BYTES_MAX
            }
            Action::Patch { .. } => true,
            Action::Delete { .. } => false,
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{json::Value, name::Key},
        node::Condition,
    };

    fn write(action: Action) -> Write {
        Write { key: Key::parse("k").expect("a key"), action, condition: Condition::Always }
    }

    fn put(bytes: usize) -> Write {
        let value = Value::parse(&format!("\"{}\"", "x".repeat(bytes - 2))).expect("JSON");
        write(Action::Put { value, expiry: None })
    }

    #[test]
    fn many_writes_long_values_and_patches_take_long() {
        let half = INLINE_BYTES_MAX / 2;
        assert!(!takes_long(&[put(half), put(half), write(Action::Delete { force: true })]));
        assert!(takes_long(&[put(half), put(half + 1)]));
        assert!(!takes_long(&vec![put(2); INLINE_WRITES_MAX]));
        assert!(takes_long(&vec![put(2); INLINE_WRITES_MAX + 1]));
        assert!(takes_long(&[write(Action::Patch { patch: None, expiry: None })]));
    }
}
