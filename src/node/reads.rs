//! Reads of several keys. Of a strong table each call is a read at one instant: it sees all of what one request wrote, or
//! nothing. So a call reads a page, and a longer listing is of several instants.

use std::{future::Future, sync::Arc};

use super::{Counted, Entry, Node, Page, Range, Row, strong::Consistency};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    replication::strong::backend::read_at_once,
    storage::table::scan::Counting,
};

/// Most bytes of values that are read at one instant, and a little more: a page of rows has as many.
const BYTES_MAX: usize = 256 * 1024;
/// A strong table with more keys is not counted at one instant: that would take so long that writes would wait for it.
const COUNTED_AT_ONCE_MAX: u64 = 10_000;
/// Rows that a count reads before it lets others read, and looks whether anybody waits for it still.
const COUNTED_ROWS_MAX: usize = 10_000;

/// The values of some keys, in order. A key that cannot be read is `Corrupt`.
pub type Entries = Vec<Result<Option<Entry>>>;

impl Node {
    /// The values of the first keys of a list, as many as there is room for: at least one.
    ///
    /// # Errors
    /// As `get`, but `Corrupt` is the result of its key; `NotReady`.
    pub async fn get_many(
        self: &Arc<Self>,
        table: &TableName,
        keys: &[Key],
        consistency: Consistency,
    ) -> Result<Entries> {
        let read = || async {
            let (mut entries, mut bytes) = (Entries::new(), 0);
            for key in keys {
                let entry = match self.get(table, key) {
                    Err(error) if !matches!(error, Error::Corrupt(_)) => return Err(error),
                    entry => entry,
                };
                let value = entry.as_ref().ok().and_then(Option::as_ref);
                bytes += key.as_str().len() + value.map_or(0, |entry| entry.value.as_str().len());
                entries.push(entry);
                if bytes >= BYTES_MAX {
                    break;
                }
            }
            Ok(entries)
        };
        self.read_at_once(table, consistency, read).await
    }

    /// A page of live keys, at most `rows_max`. May read the disk.
    ///
    /// # Errors
    /// Those of the storage; `NotReady`.
    pub async fn keys(
        &self,
        table: &TableName,
        range: &Range,
        rows_max: usize,
        consistency: Consistency,
    ) -> Result<Page<Key>> {
        let read = || {
            let (store, table, range) = (self.store.clone(), table.clone(), range.clone());
            self.environment().run(move || store.keys(&table, &range, rows_max))
        };
        self.read_at_once(table, consistency, read).await
    }

    /// A page of live rows, at most `rows_max` and about 256 KiB.
    ///
    /// # Errors
    /// Those of the storage; `NotReady`.
    pub async fn rows(
        &self,
        table: &TableName,
        range: &Range,
        rows_max: usize,
        consistency: Consistency,
    ) -> Result<Page<Row>> {
        let read = || {
            let (store, table, range) = (self.store.clone(), table.clone(), range.clone());
            self.environment().run(move || store.rows(&table, &range, rows_max))
        };
        self.read_at_once(table, consistency, read).await
    }

    /// The number of live keys in a range.
    ///
    /// # Errors
    /// Those of the storage; `NotReady`.
    pub async fn count(&self, table: &TableName, range: &Range, consistency: Consistency) -> Result<Counted> {
        let count = |turn| async move {
            let (store, table, range) = (self.store.clone(), table.clone(), range.clone());
            let count_part =
                move |counting: &Counting| store.count_part(&table, &range, counting, COUNTED_ROWS_MAX);
            self.counts.count(self.environment(), turn, count_part).await
        };
        let is_short =
            || self.keys_total(|name| name == table).is_some_and(|keys| keys <= COUNTED_AT_ONCE_MAX);
        if !self.is_strong(table) || !is_short() {
            return count(None).await;
        }
        // Before it is read: writes wait for who reads a strong table, and not for who waits to read it.
        let turn = self.counts.turn().await;
        self.read_at_once(table, consistency, || count(Some(&turn))).await
    }

    /// Reads a strong table at one instant. What is read may be old if that is allowed, and the node takes no writes just
    /// now: then it is read as it is.
    async fn read_at_once<T, F>(
        &self,
        table: &TableName,
        consistency: Consistency,
        mut read: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let may_be_old = consistency == Consistency::Stale;
        if !self.is_strong(table) || may_be_old && self.store.failure().is_some() {
            return read().await;
        }
        match read_at_once(&*self.strong, &mut read).await? {
            Some(result) => Ok(result),
            None if may_be_old => read().await,
            None => Err(Error::NotReady(
                "this node could not read these keys as they are at one instant, because it is busy or takes no writes; try \
                 again, or another node, or add ?read=stale for what is here"
                    .into(),
            )),
        }
    }
}
