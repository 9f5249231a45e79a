//! Transactions over keys of strong tables.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    batch::Operation,
    client::Client,
    entry::Version,
    error::{Error, Result},
};

/// What must hold of a key for a transaction to run its first list.
#[derive(Clone, Debug, Serialize)]
pub struct Compare {
    table: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<bool>,
    #[serde(skip)]
    wrong: Option<String>,
}

impl Compare {
    fn new(table: impl Into<String>, key: impl Into<String>) -> Self {
        Self { table: table.into(), key: key.into(), value: None, version: None, absent: None, wrong: None }
    }

    /// The key has this value, as JSON compares.
    pub fn value(
        table: impl Into<String>,
        key: impl Into<String>,
        value: &(impl Serialize + ?Sized),
    ) -> Self {
        let mut compare = Self::new(table, key);
        match serde_json::value::to_raw_value(value) {
            Ok(raw) => compare.value = Some(raw),
            Err(error) => compare.wrong = Some(format!("a value to compare is no JSON: {error}")),
        }
        compare
    }

    /// The key has this version.
    pub fn version(table: impl Into<String>, key: impl Into<String>, version: &Version) -> Self {
        Self { version: Some(version.clone()), ..Self::new(table, key) }
    }

    /// The key is absent.
    pub fn absent(table: impl Into<String>, key: impl Into<String>) -> Self {
        Self { absent: Some(true), ..Self::new(table, key) }
    }

    /// The key is there.
    pub fn present(table: impl Into<String>, key: impl Into<String>) -> Self {
        Self { absent: Some(false), ..Self::new(table, key) }
    }
}

/// A transaction, not sent yet: what is compared, and what to do if all of it holds, and otherwise. All of a list is done, or none of it.
#[must_use = "a transaction does nothing until it is awaited"]
#[derive(Clone)]
pub struct Transaction {
    client: Client,
    compare: Vec<Compare>,
    success: Vec<Operation>,
    failure: Vec<Operation>,
}

/// What a transaction became.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Committed {
    /// Whether everything compared equal.
    pub succeeded: bool,
    /// One for each operation of the list that ran.
    pub results: Vec<OperationResult>,
}

/// What an operation of a transaction became. A read of an absent key has `absent`.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct OperationResult {
    /// The value of a read.
    pub value: Option<Value>,
    /// The version that was written or read.
    pub version: Option<Version>,
    /// When it was written, in Unix milliseconds.
    pub timestamp: Option<u64>,
    /// When the value expires, in Unix milliseconds.
    pub expires_at: Option<u64>,
    /// Whether a write found its key absent.
    #[serde(default)]
    pub created: bool,
    /// Whether a read found its key absent.
    #[serde(default)]
    pub absent: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    compare: &'a [Compare],
    success: &'a [Operation],
    failure: &'a [Operation],
}

impl Client {
    /// A transaction over keys of strong tables. With nothing to compare it runs its first list.
    pub fn transaction(&self) -> Transaction {
        Transaction { client: self.clone(), compare: Vec::new(), success: Vec::new(), failure: Vec::new() }
    }
}

impl Transaction {
    /// Something that must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// An operation on a key of this table, if everything holds.
    pub fn then(mut self, table: impl Into<String>, mut operation: Operation) -> Self {
        operation.table = Some(table.into());
        self.success.push(operation);
        self
    }

    /// An operation on a key of this table, if something does not hold.
    pub fn otherwise(mut self, table: impl Into<String>, mut operation: Operation) -> Self {
        operation.table = Some(table.into());
        self.failure.push(operation);
        self
    }
}

impl IntoFuture for Transaction {
    type Output = Result<Committed>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut operations = self.success.iter().chain(&self.failure);
            let wrong = operations.find_map(|operation| operation.wrong.clone());
            if let Some(why) = wrong.or_else(|| self.compare.iter().find_map(|compare| compare.wrong.clone()))
            {
                return Err(Error::Invalid(why));
            }
            let body = Body { compare: &self.compare, success: &self.success, failure: &self.failure };
            let request = self.client.request(Method::POST, "/_/txn").json(&body);
            self.client.ask(&request).await?.json()
        })
    }
}
