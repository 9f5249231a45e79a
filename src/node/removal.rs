//! The removal of many keys at once: page by page in the order of keys, as deletes like any other.

use std::sync::Arc;

use super::{Action, Condition, Node, Write};
use crate::{
    core::{clock::Timestamp, name::TableName},
    error::{Error, Result},
    storage::table::scan::Range,
};

/// Keys that are deleted at a time, in one commit.
const PAGE_KEYS: usize = 1000;

/// A removal under way. Whoever stops calling `step` has deleted what `deleted` says, and no more.
pub struct Removal {
    table: TableName,
    /// What is left.
    range: Range,
    is_begun: bool,
    deleted: u64,
}

impl Node {
    /// Begins to remove the keys of a table that begin so, all where `prefix` is empty. Nothing happens before the first step.
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

    /// Deletes some more, durably; the version of the last deletion, or `None` at the end.
    ///
    /// # Errors
    /// As `Node::write`; what was deleted before stays so.
    pub async fn step(&mut self, node: &Arc<Node>) -> Result<Option<Timestamp>> {
        if !std::mem::replace(&mut self.is_begun, true) {
            // Where it ends is known at the beginning, or a writer of ever higher keys would keep it from ending.
            let from_above = Range { reverse: true, ..self.range.clone() };
            let last = node.keys(&self.table, &from_above, 1).await?.rows.pop();
            let Some(last) = last else { return Ok(None) };
            // The least text above a key is that one and a zero.
            self.range.end = Some(format!("{}\0", last.as_str()));
        }
        loop {
            let page = node.keys(&self.table, &self.range, PAGE_KEYS).await?;
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
                    // Somebody else was first.
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
