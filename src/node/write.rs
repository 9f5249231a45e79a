//! What clients can write, and how a write becomes a register. The condition is tested and the timestamp taken under the lock of the key,
//! so that a condition and its write are one step.

use std::{cell::RefCell, time::Duration};

use super::{Node, Replicas};
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{Key, TableName},
        protocol::message::Row,
        register::Register,
    },
    error::{Error, Result},
    storage::table::{merge::Existing, row::row_of},
};

/// What must hold for a write to happen, tested under the same lock as the write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: the write always happens.
    #[default]
    Always,
    /// The key is absent here (`If-None-Match: *`).
    Absent,
    /// The key has a value here (`If-Match: *`).
    Present,
    /// The key's version here is one of these (`If-Match: "v1", "v2"`); an empty list never holds.
    Version(Vec<Timestamp>),
    /// The key's version here is none of these (`If-None-Match: "v1"`); an absent key passes.
    NotVersion(Vec<Timestamp>),
}

impl Condition {
    fn holds(&self, current: Option<Timestamp>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => current.is_none(),
            Self::Present => current.is_some(),
            Self::Version(versions) => current.is_some_and(|version| versions.contains(&version)),
            Self::NotVersion(versions) => current.is_none_or(|version| !versions.contains(&version)),
        }
    }
}

/// A change to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(Value),
}

/// When a value expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// This long after the write.
    After(Duration),
    /// At this instant, in Unix milliseconds.
    At(u64),
}

impl Expiry {
    /// The instant in Unix milliseconds, for a write made now.
    pub fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::After(ttl) => now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            Self::At(unix_ms) => unix_ms,
        }
    }
}

/// What a write does to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets the value, for ever unless it expires.
    Put {
        /// The value.
        value: Value,
        /// When it expires.
        expiry: Option<Expiry>,
    },
    /// Changes the value, the expiry, or both.
    Patch {
        /// The change; `None` keeps the value.
        patch: Option<Patch>,
        /// The new expiry; `None` keeps the old one.
        expiry: Option<Expiry>,
    },
    /// Deletes the key. An absent key is `NotFound` unless `force` is set.
    Delete {
        /// Write a tombstone even if the key is absent.
        force: bool,
    },
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The change.
    pub action: Action,
    /// What must hold.
    pub condition: Condition,
}

/// A completed write, durable as `--durability` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its version.
    pub timestamp: Timestamp,
    /// Whether the key was absent here before.
    pub created: bool,
}

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

impl Node {
    pub(super) fn merge(&self, table: &TableName, write: Write) -> Result<Written> {
        if !self.store.has_table(table) {
            self.check_new_table(table, &write)?;
        }
        self.check_readable(table, &write)?;
        let Write { key, action, condition } = write;
        let mut row = None;
        let decide = |existing: Option<&Existing<'_>>| {
            let register = self.decide(table, &key, action, &condition, existing)?;
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

    /// Refuses a write to a table that does not exist yet, if it would be refused anyway: a table is created only for a row.
    fn check_new_table(&self, table: &TableName, write: &Write) -> Result<()> {
        if !write.condition.holds(None) {
            return Err(Error::PreconditionFailed { current: None });
        }
        match write.action {
            Action::Put { .. } | Action::Delete { force: true } => Ok(()),
            Action::Patch { .. } | Action::Delete { force: false } => Err(absent(table, &write.key)),
        }
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
        let writes = writes.into_iter().map(|Write { key, action, condition }| {
            let (of, rows) = (key.clone(), &rows);
            let decide = move |existing: Option<&Existing<'_>>| {
                let register = self.decide(table, &of, action, &condition, existing)?;
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

    /// Turns a write into a register, given the existing one. Called under the lock of the key.
    fn decide(
        &self,
        table: &TableName,
        key: &Key,
        action: Action,
        condition: &Condition,
        existing: Option<&Existing<'_>>,
    ) -> Result<Register> {
        let now_ms = self.now_ms();
        let visible = existing.filter(|existing| existing.visible_at(now_ms));
        let current = visible.map(Existing::timestamp);
        if let Some(existing) = existing {
            self.timestamps.observe_overwritten(existing.timestamp())?;
        }
        if !condition.holds(current) {
            return Err(Error::precondition_failed(current));
        }
        match action {
            Action::Put { value, expiry } => {
                let expires_at_ms = expiry.map(|expiry| expiry.unix_ms(now_ms));
                Ok(Register::live(value, expires_at_ms, self.timestamps.tick()?))
            }
            Action::Patch { patch, expiry } => {
                let existing = visible.ok_or_else(|| absent(table, key))?;
                let value = existing.value()?;
                let value = match patch {
                    Some(patch) => self.patched(&value, &patch)?,
                    None => value,
                };
                let expires_at_ms = expiry.map(|expiry| expiry.unix_ms(now_ms)).or(existing.expires_at_ms());
                Ok(Register::live(value, expires_at_ms, self.timestamps.tick()?))
            }
            Action::Delete { force } => match visible.is_some() || force {
                true => Ok(Register::deleted(self.timestamps.tick()?)),
                false => Err(absent(table, key)),
            },
        }
    }

    fn patched(&self, value: &Value, patch: &Patch) -> Result<Value> {
        let value = match patch {
            Patch::Merge(patch) => value.merge_patch(patch),
            Patch::Json(patch) => value.json_patch(patch),
        }?;
        if value.as_str().len() as u64 > self.options.value_bytes_max {
            return Err(Error::TooLarge { what: "patched value", limit: self.options.value_bytes_max });
        }
        Ok(value)
    }
}

fn absent(table: &TableName, key: &Key) -> Error {
    Error::NotFound(format!("no key {:?} in table {table}", key.as_str()))
}
