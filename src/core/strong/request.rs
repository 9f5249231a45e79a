//! What clients ask of strong tables, and what they are told. Both travel between nodes: any node takes a request, and
//! passes it to the leader.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::evaluate::{READ, READ_BYTES_MAX, WRITTEN, WRITTEN_BYTES_MAX};
use crate::{
    core::{
        clock::Timestamp,
        etcd,
        json::Value,
        name::{Key, TableName},
        write::{Write, Written},
    },
    error::Error,
};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Makes a strong table. Answered by `Outcome::Created`.
    Create(TableName),
    /// Writes of one table, all or none. Answered by `Outcome::Written`.
    Write {
        /// The table.
        table: TableName,
        /// The writes, in order. Each sees those before it.
        writes: Vec<Write>,
    },
    /// A transaction. Answered by `Outcome::Transaction`.
    Transaction(Transaction),
    /// Removes the tombstones written at or before an instant (Unix milliseconds). Only the leader asks for it. Answered by
    /// `Outcome::Swept`.
    Sweep(u64),
    /// A request of the etcd API. Answered by `Outcome::Etcd`.
    Etcd(etcd::request::Request),
}

/// Comparisons, and what to do if all hold and if not. All of it is one step in the order of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What is compared.
    pub compare: Vec<Compare>,
    /// What is done if all comparisons hold.
    pub success: Vec<Operation>,
    /// What is done otherwise.
    pub failure: Vec<Operation>,
}

impl Transaction {
    /// The tables that it may write to.
    pub fn written_tables(&self) -> BTreeSet<TableName> {
        let operations = self.success.iter().chain(&self.failure);
        let written = operations.filter_map(|operation| match operation {
            Operation::Get { .. } => None,
            Operation::Write { table, .. } => Some(table.clone()),
        });
        written.collect()
    }
}

/// A comparison of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Its table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// What must hold of it.
    pub expected: Expected,
}

/// What a comparison expects of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// It has this value. Members may be in another order, and numbers written otherwise.
    Value(Value),
    /// It has this version.
    Version(Timestamp),
    /// It is absent, or it is present.
    Absent(bool),
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Reads a key, as it is after the operations before this one.
    Get {
        /// Its table.
        table: TableName,
        /// The key.
        key: Key,
    },
    /// Writes a key.
    Write {
        /// Its table.
        table: TableName,
        /// The write.
        write: Write,
    },
}

/// The answer to a request that took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The table is strong. `true` if this request made it so.
    Created(bool),
    /// The tombstones are removed.
    Swept,
    /// What each write gave, in order.
    Written(Vec<Written>),
    /// Which branch of a transaction ran, and what each of its operations gave.
    Transaction {
        /// Whether all comparisons held.
        succeeded: bool,
        /// The results, in order.
        results: Vec<OperationResult>,
    },
    /// What a request of the etcd API gave.
    Etcd(etcd::request::Outcome),
}

impl Outcome {
    /// About how many bytes of values it has.
    pub fn value_bytes(&self) -> usize {
        let Self::Transaction { results, .. } = self else { return 0 };
        let lengths = results.iter().map(|result| match result {
            OperationResult::Got(Some(got)) => got.value.as_str().len(),
            OperationResult::Got(None) | OperationResult::Written(_) => 0,
        });
        lengths.sum()
    }
}

/// What an operation of a transaction gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationResult {
    /// The value of a key; `None` if it is absent.
    Got(Option<Got>),
    /// A write.
    Written(Written),
}

/// A value that a transaction read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// The value.
    pub value: Value,
    /// Its version.
    pub timestamp: Timestamp,
    /// When it expires, in Unix milliseconds, if it does.
    pub expires_at_ms: Option<u64>,
}

/// Why a request had no effect, or that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A condition did not hold. The version of the key, if it has one.
    PreconditionFailed(Option<String>),
    /// Nothing is there.
    NotFound(String),
    /// A patch does not apply.
    Conflict(String),
    /// A patch is none.
    BadJson(String),
    /// The request is wrong in itself.
    BadRequest(String),
    /// A patched value would be larger than this, in bytes.
    TooLarge(u64),
    /// The table has rows of the other kind. The text says which.
    WrongMode(String),
    /// The leader cannot take it now. Nothing was written: try again.
    Unavailable(String),
    /// No majority can be reached. Nothing was written.
    NoQuorum(String),
    /// It may or may not have taken effect, or may yet.
    OutcomeUnknown(String),
    /// What the request writes is more than `WRITTEN_BYTES_MAX` together. Nothing was written.
    WritesTooMuch,
    /// What the transaction reads is more than `READ_BYTES_MAX` together. Nothing was written.
    ReadsTooMuch,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::PreconditionFailed { current } => Self::PreconditionFailed(current),
            Error::NotFound(why) => Self::NotFound(why),
            Error::Conflict(why) => Self::Conflict(why),
            Error::BadJson(why) => Self::BadJson(why),
            Error::BadRequest(why) => Self::BadRequest(why),
            Error::TooLarge { what: WRITTEN, .. } => Self::WritesTooMuch,
            Error::TooLarge { what: READ, .. } => Self::ReadsTooMuch,
            Error::TooLarge { limit, .. } => Self::TooLarge(limit),
            Error::WrongMode(why) => Self::WrongMode(why),
            Error::NoQuorum(why) => Self::NoQuorum(why),
            Error::OutcomeUnknown(why) => Self::OutcomeUnknown(why),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::PreconditionFailed(current) => Self::PreconditionFailed { current },
            Refusal::NotFound(why) => Self::NotFound(why),
            Refusal::Conflict(why) => Self::Conflict(why),
            Refusal::BadJson(why) => Self::BadJson(why),
            Refusal::BadRequest(why) => Self::BadRequest(why),
            Refusal::TooLarge(limit) => Self::TooLarge { what: "patched value", limit },
            Refusal::WritesTooMuch => Self::TooLarge { what: WRITTEN, limit: WRITTEN_BYTES_MAX as u64 },
            Refusal::ReadsTooMuch => Self::TooLarge { what: READ, limit: READ_BYTES_MAX as u64 },
            Refusal::WrongMode(why) => Self::WrongMode(why),
            Refusal::Unavailable(why) => Self::NotReady(why),
            Refusal::NoQuorum(why) => Self::NoQuorum(why),
            Refusal::OutcomeUnknown(why) => Self::OutcomeUnknown(why),
        }
    }
}
