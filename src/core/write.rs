//! What a client can write, and how a write becomes a register. The decision is a pure function of the write, the
//! current value and the time: a node makes it under the lock of the key, the leader of strong tables on the state that
//! its log makes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    clock::Timestamp,
    json::Value,
    name::{Key, TableName},
    register::Register,
};
use crate::error::{Error, Result};

/// What must hold for a write to happen, tested under the same lock as the write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether it holds, given the version of the key's visible value.
    pub fn holds(&self, current: Option<Timestamp>) -> bool {
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902; [`Patch::json`] makes it.
    Json(Value),
}

/// When a value expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The change.
    pub action: Action,
    /// What must hold.
    pub condition: Condition,
}

/// A completed write, durable as `--durability` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its version.
    pub timestamp: Timestamp,
    /// Whether the key was absent here before.
    pub created: bool,
}

/// The stored register of a key.
pub trait Stored {
    /// When it was written, and by which node.
    fn timestamp(&self) -> Timestamp;

    /// When it expires, in Unix milliseconds.
    fn expires_at_ms(&self) -> Option<u64>;

    /// Whether its value is visible at `now_ms`.
    fn is_visible_at(&self, now_ms: u64) -> bool;

    /// The value.
    ///
    /// # Errors
    /// `Corrupt`; `NotFound` for a tombstone.
    fn value(&self) -> Result<Value>;
}

/// What a decision depends on besides the write and the stored register.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The present, in Unix milliseconds.
    pub now_ms: u64,
    /// The largest value, in bytes of JSON text.
    pub value_bytes_max: u64,
}

impl Write {
    /// Turns the write into a register with a timestamp from `tick`, given what is stored.
    ///
    /// # Errors
    /// `PreconditionFailed`; `NotFound` for a patch or delete of an absent key; `Conflict`, `BadJson` and `TooLarge` for
    /// patches; those of `tick`.
    pub fn decide(
        self,
        table: &TableName,
        stored: Option<&impl Stored>,
        limits: Limits,
        tick: impl FnOnce() -> Result<Timestamp>,
    ) -> Result<Register> {
        let Self { key, action, condition } = self;
        let visible = stored.filter(|stored| stored.is_visible_at(limits.now_ms));
        let current = visible.map(Stored::timestamp);
        if !condition.holds(current) {
            return Err(Error::precondition_failed(current));
        }
        match action {
            Action::Put { value, expiry } => {
                let expires_at_ms = expiry.map(|expiry| expiry.unix_ms(limits.now_ms));
                Ok(Register::live(value, expires_at_ms, tick()?))
            }
            Action::Patch { patch, expiry } => {
                let stored = visible.ok_or_else(|| absent(table, &key))?;
                let value = stored.value()?;
                let value = match patch {
                    Some(patch) => patch.apply(&value, limits.value_bytes_max)?,
                    None => value,
                };
                let renewed = expiry.map(|expiry| expiry.unix_ms(limits.now_ms));
                Ok(Register::live(value, renewed.or(stored.expires_at_ms()), tick()?))
            }
            Action::Delete { force } => match visible.is_some() || force {
                true => Ok(Register::deleted(tick()?)),
                false => Err(absent(table, &key)),
            },
        }
    }

    /// Refuses a write to a table that does not exist yet, if it would be refused anyway: a table is created only for a
    /// row.
    ///
    /// # Errors
    /// As `decide`.
    pub fn check_new_table(&self, table: &TableName) -> Result<()> {
        if !self.condition.holds(None) {
            return Err(Error::precondition_failed(None::<Timestamp>));
        }
        match self.action {
            Action::Put { .. } | Action::Delete { force: true } => Ok(()),
            Action::Patch { .. } | Action::Delete { force: false } => Err(absent(table, &self.key)),
        }
    }
}

impl Patch {
    /// A patch by RFC 6902.
    ///
    /// # Errors
    /// `BadJson` if it is not well-formed: then it could never run.
    pub fn json(patch: Value) -> Result<Self> {
        patch.as_json_patch().map(|_| Self::Json(patch))
    }

    /// Whether its outcome tells something of the value.
    pub fn tests_value(&self) -> bool {
        match self {
            Self::Merge(_) => false,
            Self::Json(patch) => patch.as_json_patch().is_ok_and(|summary| summary.tests),
        }
    }

    fn apply(&self, value: &Value, value_bytes_max: u64) -> Result<Value> {
        let value = match self {
            Self::Merge(patch) => value.merge_patch(patch),
            Self::Json(patch) => value.json_patch(patch),
        }?;
        if value.as_str().len() as u64 > value_bytes_max {
            return Err(Error::TooLarge { what: "patched value", limit: value_bytes_max });
        }
        Ok(value)
    }
}

fn absent(table: &TableName, key: &Key) -> Error {
    Error::NotFound(format!("no key {:?} in table {table}", key.as_str()))
}
