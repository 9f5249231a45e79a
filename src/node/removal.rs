//! Removal of many keys: page by page in key order, as ordinary deletes.

use std::sync::Arc;

use super::{Action, Condition, Node, Write, strong::Consistency};
use crate::{
    core::{clock::Timestamp, name::TableName},
    error::{Error, Result},
    storage::table::scan::Range,
};

/// Keys deleted in one commit.
const PAGE_KEYS: usize = 1000;

/// A running removal. If `step` is not called again, exactly the `deleted` keys are gone.
pub struct Removal {
    table: TableName,
    /// The range that remains.
    range: Range,
    is_begun: bool,
    deleted: u64,
}

impl Node {
    /// Prepares to remove the keys with a prefix, or all if `prefix` is empty. Nothing happens before the first step.
    pub fn begin_removal(&self, table: TableName, prefix: String) -> Removal {
        let range = Range { prefix, ..Range::default() };
        Removal { table, range, is_begun: false, deleted: 0 }
    }
}

impl Removal {
    /// How many keys were deleted so far.
    pub fn deleted(&self) -> u64 {
        self.deleted
    }

    /// Deletes a page of keys durably. Returns the version of the last deletion, or `None` at the end.
    ///
    /// # Errors
    /// As `Node::write`; earlier deletions stay.
    pub async fn step(&mut self, node: &Arc<Node>) -> Result<Option<Timestamp>> {
        if !std::mem::replace(&mut self.is_begun, true) {
            // Of a strong table, all that was answered before goes.
            node.before_read(&self.table, Consistency::Linearizable).await?;
            // Fix the end at the start, or a writer of ever higher keys could keep the removal from ending.
            let from_above = Range { reverse: true, ..self.range.clone() };
            let last = node.keys(&self.table, &from_above, 1, Consistency::Linearizable).await?.rows.pop();
            let Some(last) = last else { return Ok(None) };
            // The smallest text above a key is the key followed by a zero.
            self.range.end = Some(format!("{}\0", last.as_str()));
        }
        loop {
            let page = node.keys(&self.table, &self.range, PAGE_KEYS, Consistency::Linearizable).await?;
            let Some(last) = page.rows.last() else { return Ok(None) };
            self.range.after = Some(last.clone());
            let writes = page.rows.into_iter().map(|key| Write {
                key,
                action: Action::Delete { force: false },
                condition: Condition::Always,
            });
            let mut batch = node.begin_batch(&self.table).await?;
            let results = batch.merge(writes.collect(), false).await?;
            batch.finish().await?;
            let mut deleted = None;
            for result in results {
                match result {
                    Ok(written) => {
                        self.deleted += 1;
                        deleted = deleted.max(Some(written.timestamp));
                    }
                    // Somebody else deleted it first.
                    Err(Error::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if deleted.is_some() {
                return Ok(deleted);
            }
        }
    }
}
