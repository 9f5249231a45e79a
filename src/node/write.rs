//! Writes of clients and imports. The condition is tested and the timestamp taken under the lock of the key, so that a condition and its
//! write are one step; what a write does is decided in [`core::write`](crate::core::write).

use std::cell::RefCell;

use super::{Node, Replicas};
pub use crate::core::write::{Action, Condition, Expiry, Patch, Write, Written};
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{Key, TableName},
        protocol::message::Row,
        register::Register,
        write::{Limits, Stored},
    },
    error::{Error, Result},
    storage::table::{merge::Existing, row::row_of},
};

/// A row to import. Without a timestamp it is a new write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its table.
    pub table: TableName,
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// The version to keep, if any.
    pub timestamp: Option<Timestamp>,
    /// When it expires, in Unix milliseconds, if it does.
    pub expires_at_ms: Option<u64>,
}

/// The result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows that changed what was here.
    pub written: u64,
    /// Rows that were already here, or older than what is here.
    pub skipped: u64,
    /// The latest version now here among these rows; `None` if there were none.
    pub latest: Option<Timestamp>,
}

impl Imported {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            written: self.written + other.written,
            skipped: self.skipped + other.skipped,
            latest: self.latest.max(other.latest),
        }
    }
}

impl Node {
    pub(super) fn merge(&self, table: &TableName, write: Write) -> Result<Written> {
        if !self.store.has_table(table) {
            write.check_new_table(table)?;
        }
        self.check_readable(table, &write)?;
        let key = write.key.clone();
        let mut row = None;
        let decide = |existing: Option<&Existing<'_>>| {
            let register = self.decide(table, write, existing)?;
            row = Some(Row::new(key.clone(), register.clone()));
            Ok(register)
        };
        let merged = self.store.merge(table, &key, decide)?;
        assert!(
            merged.changed,
            "a local write lost to a register that its timestamp should exceed: {}",
            merged.timestamp
        );
        self.replication.record_writes(table, row);
        Ok(Written { timestamp: merged.timestamp, created: merged.created })
    }

    /// Refuses a condition on a key that may exist but cannot be read.
    fn check_readable(&self, table: &TableName, write: &Write) -> Result<()> {
        if write.condition != Condition::Always && self.store.is_unknown(table, &write.key) {
            // Fails as a read of the key would.
            self.store.get(table, &write.key)?;
        }
        Ok(())
    }

    pub(super) fn merge_each(&self, table: &TableName, writes: Vec<Write>) -> Vec<Result<Written>> {
        // In the order of the rows on disk, which is faster. Writes to one key keep their order.
        let mut ordered: Vec<_> = writes.into_iter().enumerate().collect();
        ordered.sort_by_cached_key(|(_, write)| row_of(&write.key));
        let mut results: Vec<_> =
            ordered.into_iter().map(|(index, write)| (index, self.merge(table, write))).collect();
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    pub(super) fn merge_atomic(&self, table: &TableName, writes: Vec<Write>) -> Result<Vec<Result<Written>>> {
        writes.iter().try_for_each(|write| self.check_readable(table, write))?;
        let rows = RefCell::new(Vec::with_capacity(writes.len()));
        let writes = writes.into_iter().map(|write| {
            let (key, of, rows) = (write.key.clone(), write.key.clone(), &rows);
            let decide = move |existing: Option<&Existing<'_>>| {
                let register = self.decide(table, write, existing)?;
                rows.borrow_mut().push(Row::new(of, register.clone()));
                Ok(register)
            };
            (key, decide)
        });
        let merged = self.store.merge_all(table, writes.collect())?;
        self.replication.record_writes(table, rows.into_inner());
        let lost = merged.iter().find(|merged| !merged.changed);
        assert!(
            lost.is_none(),
            "a local write lost to a register that its timestamp should exceed: {lost:?}"
        );
        Ok(merged.into_iter().map(|m| Ok(Written { timestamp: m.timestamp, created: m.created })).collect())
    }

    pub(super) fn merge_imports(&self, mut rows: Vec<Import>, replicas: Replicas) -> Result<Imported> {
        rows.sort_by_cached_key(|row| (row.table.clone(), row_of(&row.key)));
        let mut imported = Imported::default();
        if let Some(oldest) = rows.iter().filter_map(|row| row.timestamp).min() {
            self.replication.lower_claims(oldest.unix_ms())?;
        }
        for Import { table, key, value, timestamp, expires_at_ms } in rows {
            let swept_ms = self.store.swept().latest_ms();
            let mut row = None;
            let merged = self.store.merge(&table, &key, |existing| {
                self.check_eventual(&table)?;
                // A row this old that is not here may have been deleted, and nobody can tell any more, because tombstones of that time are
                // swept. Whoever imports it wants it, so make it a new write.
                let is_lost = |timestamp: &Timestamp| existing.is_none() && timestamp.unix_ms() <= swept_ms;
                let timestamp = timestamp.filter(|timestamp| !is_lost(timestamp));
                if let (None, Some(existing)) = (timestamp, existing) {
                    // A new write must be later than what is here, even if that came from a clock that is ahead.
                    self.timestamps.observe_stored(existing.timestamp());
                }
                let timestamp = timestamp.map_or_else(|| self.timestamps.tick(), Ok)?;
                let register = Register::live(value, expires_at_ms, timestamp);
                row = Some(Row::new(key.clone(), register.clone()));
                Ok(register)
            })?;
            if merged.changed {
                self.replication.record_writes(&table, row);
                imported.written += 1;
            } else {
                if replicas != Replicas::Count(1) {
                    // The row may be only here. A repeated import must be as safe as the first.
                    self.replication.announce_again(&table, &key);
                }
                imported.skipped += 1;
            }
            imported.latest = imported.latest.max(Some(merged.timestamp));
        }
        Ok(imported)
    }

    /// Refuses a write that found its table eventual, and now merges into the strong one of that name. Called under the
    /// lock of the key, where the table is the one that its name stands for.
    fn check_eventual(&self, table: &TableName) -> Result<()> {
        match self.is_strong(table) {
            false => Ok(()),
            true => Err(Error::NotReady(format!("table {table} became strong just now; try again"))),
        }
    }

    /// Turns a write into a register, given the existing one. Called under the lock of the key.
    fn decide(&self, table: &TableName, write: Write, existing: Option<&Existing<'_>>) -> Result<Register> {
        self.check_eventual(table)?;
        if let Some(existing) = existing {
            self.timestamps.observe_overwritten(existing.timestamp())?;
        }
        let limits = Limits { now_ms: self.now_ms(), value_bytes_max: self.options.value_bytes_max };
        write.decide(table, existing, limits, || self.timestamps.tick())
    }
}

impl Stored for Existing<'_> {
    fn timestamp(&self) -> Timestamp {
        self.timestamp()
    }

    fn expires_at_ms(&self) -> Option<u64> {
        self.expires_at_ms()
    }

    fn is_visible_at(&self, now_ms: u64) -> bool {
        self.visible_at(now_ms)
    }

    fn value(&self) -> Result<Value> {
        self.value()
    }
}
