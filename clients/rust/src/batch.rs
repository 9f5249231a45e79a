//! Many writes in one commit, and the operations that batches and transactions consist of.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    entry::Version,
    error::{Error, Problem, Result},
    table::Table,
    write,
};

/// One operation of a batch or of a transaction.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<String>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_none_match: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    /// Why the value cannot be sent.
    #[serde(skip)]
    pub(crate) wrong: Option<String>,
}

impl Operation {
    fn new(op: &'static str, key: impl Into<String>) -> Self {
        Self {
            op,
            table: None,
            key: key.into(),
            value: None,
            patch: None,
            ttl: None,
            expires_at: None,
            if_match: None,
            if_none_match: None,
            force: None,
            wrong: None,
        }
    }

    /// Writes a value.
    pub fn put(key: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Self {
        let mut operation = Self::new("put", key);
        operation.value = operation.raw(value);
        operation
    }

    /// Changes parts of a value: by a JSON Patch if it is a list, otherwise by a merge patch.
    pub fn patch(key: impl Into<String>, patch: &(impl Serialize + ?Sized)) -> Self {
        let mut operation = Self::new("patch", key);
        operation.patch = operation.raw(patch);
        operation
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::new("delete", key)
    }

    /// Reads a key; in a transaction only.
    pub fn get(key: impl Into<String>) -> Self {
        Self::new("get", key)
    }

    /// The value expires after so long.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(write::duration(ttl));
        self
    }

    /// The value expires at this instant, in Unix milliseconds.
    #[must_use]
    pub fn expires_at(mut self, unix_ms: u64) -> Self {
        self.expires_at = Some(unix_ms);
        self
    }

    /// Only if the key is absent.
    #[must_use]
    pub fn if_absent(mut self) -> Self {
        self.if_none_match = Some("*".into());
        self
    }

    /// Only if the key is present.
    #[must_use]
    pub fn if_present(mut self) -> Self {
        self.if_match = Some("*".into());
        self
    }

    /// Only over this version.
    #[must_use]
    pub fn if_version(mut self, version: &Version) -> Self {
        self.if_match = Some(version.to_string());
        self
    }

    /// Deletes even if the key is absent here, so that a write which this node has not seen yet is deleted too.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = Some(true);
        self
    }

    fn raw(&mut self, value: &(impl Serialize + ?Sized)) -> Option<Box<RawValue>> {
        match serde_json::value::to_raw_value(value) {
            Ok(raw) => Some(raw),
            Err(error) => {
                self.wrong = Some(format!("the value of {:?} is no JSON: {error}", self.key));
                None
            }
        }
    }
}

/// What an operation of a batch became.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Applied {
    /// The write.
    pub version: Version,
    /// When it was written, in Unix milliseconds.
    pub timestamp: u64,
    /// Whether the key was absent before.
    #[serde(default)]
    pub created: bool,
    /// Whether it was a deletion.
    #[serde(default)]
    pub deleted: bool,
}

/// A batch, not sent yet. It gives a result for each operation, in their order.
#[must_use = "a batch does nothing until it is awaited"]
pub struct Batch {
    table: Table,
    operations: Vec<Operation>,
    query: Vec<(&'static str, String)>,
}

impl Batch {
    pub(crate) fn new(table: Table, operations: Vec<Operation>) -> Self {
        Self { table, operations, query: Vec::new() }
    }

    /// All operations apply, or none: the error is that of the first that failed. It holds on the node that takes the batch, and in a strong
    /// table everywhere.
    pub fn atomic(self) -> Self {
        self.query("atomic", "true".into())
    }

    /// Puts without an expiry expire after so long.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.query("ttl", write::duration(ttl))
    }

    fn query(mut self, name: &'static str, value: String) -> Self {
        self.query.push((name, value));
        self
    }
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Map<String, Value>>,
}

impl IntoFuture for Batch {
    type Output = Result<Vec<std::result::Result<Applied, Problem>>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if let Some(why) = self.operations.iter().find_map(|operation| operation.wrong.clone()) {
                return Err(Error::Invalid(why));
            }
            let path = crate::path::with_query(&self.table.path("batch"), &self.query);
            let request = self.table.client.request(Method::POST, path).json(&self.operations);
            let answer = self.table.client.ask(&request).await?;
            let endpoint = answer.endpoint.clone();
            let results = answer.json::<Results>()?.results;
            results.into_iter().map(|members| result_of(&endpoint, members)).collect()
        })
    }
}

/// The result of one operation.
fn result_of(endpoint: &str, members: Map<String, Value>) -> Result<std::result::Result<Applied, Problem>> {
    let status = members.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
    if members.contains_key("error") {
        let problem = Problem::from_members(endpoint, status.unwrap_or_default(), members);
        return problem.map(Err).ok_or_else(|| Error::Decode("a result of a batch is no result".into()));
    }
    let applied = serde_json::from_value(Value::Object(members));
    applied.map(Ok).map_err(|error| Error::Decode(format!("a result of a batch is no result: {error}")))
}
