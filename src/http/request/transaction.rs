//! A transaction over strong tables, as sent over HTTP and WebSocket, and its answer.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{condition, expiry, strict, value};
use crate::{
    core::{
        clock::Timestamp,
        name::{Key, TableName},
    },
    error::{Error, Result},
    node::{
        Action, Write,
        strong::{Compare, Expected, Got, Operation, OperationResult, Transaction, check_operations},
    },
};

/// The body of a transaction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"compare\", \"success\" and \"failure\"")]
pub struct TransactionBody<'a> {
    /// What must hold for `success` to run.
    #[serde(borrow, default)]
    pub compare: Vec<CompareBody<'a>>,
    /// What runs if everything compares equal.
    #[serde(borrow, default)]
    pub success: Vec<OperationBody<'a>>,
    /// What runs otherwise.
    #[serde(borrow, default)]
    pub failure: Vec<OperationBody<'a>>,
}

/// A comparison, as sent.
#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with \"table\", \"key\", and \"value\", \"version\" or \"absent\""
)]
pub struct CompareBody<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "value::present")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    absent: Option<bool>,
}

/// An operation, as sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"op\", \"table\" and \"key\"")]
pub struct OperationBody<'a> {
    op: Op,
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "value::present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "value::present")]
    patch: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_at: Option<&'a RawValue>,
    #[serde(borrow)]
    if_match: Option<Cow<'a, str>>,
    #[serde(borrow)]
    if_none_match: Option<Cow<'a, str>>,
    force: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Get,
    Put,
    Patch,
    Delete,
}

impl TransactionBody<'_> {
    /// The transaction. An expiry must lie after `now_ms`, Unix milliseconds.
    ///
    /// # Errors
    /// `BadJson`, `BadName`, `BadRequest`, `TooLarge`.
    pub fn transaction(self, value_bytes_max: u64, now_ms: u64) -> Result<Transaction> {
        check_operations(self.compare.len(), self.success.len(), self.failure.len())?;
        let operations = |operations: Vec<OperationBody<'_>>| {
            operations.into_iter().map(|body| operation(value_bytes_max, now_ms, body)).collect::<Result<_>>()
        };
        Ok(Transaction {
            compare: self
                .compare
                .into_iter()
                .map(|body| compare(value_bytes_max, body))
                .collect::<Result<_>>()?,
            success: operations(self.success)?,
            failure: operations(self.failure)?,
        })
    }
}

/// The answer to a transaction, a JSON object: whether everything compared equal, and what each operation gave.
pub fn rendered(succeeded: bool, results: &[OperationResult]) -> String {
    let mut text = format!("{{\"succeeded\":{succeeded},\"results\":[");
    for (place, result) in results.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        render(result, &mut text);
    }
    text.push_str("]}");
    text
}

fn compare(value_bytes_max: u64, body: CompareBody<'_>) -> Result<Compare> {
    let expected = match (body.value, body.version, body.absent) {
        (Some(raw), None, None) => Expected::Value(value::take_value(value_bytes_max, raw)?),
        (None, Some(version), None) => Expected::Version(version.parse().map_err(|_| {
            Error::BadRequest(format!(
                "compare: {version:?} is not a version: use what the header DynaRust-Version says, without quotes"
            ))
        })?),
        (None, None, Some(absent)) => Expected::Absent(absent),
        _ => {
            return Err(Error::BadJson(
                "a comparison needs one of \"value\", \"version\" and \"absent\"".into(),
            ));
        }
    };
    Ok(Compare { table: TableName::parse(&body.table)?, key: Key::parse(&body.key)?, expected })
}

fn operation(value_bytes_max: u64, now_ms: u64, body: OperationBody<'_>) -> Result<Operation> {
    let given = [
        ("value", body.value.is_some()),
        ("patch", body.patch.is_some()),
        ("ttl", body.ttl.is_some()),
        ("expires_at", body.expires_at.is_some()),
        ("force", body.force.is_some()),
        ("if_match", body.if_match.is_some()),
        ("if_none_match", body.if_none_match.is_some()),
    ];
    const CONDITIONS: [&str; 2] = ["if_match", "if_none_match"];
    let (table, key) = (TableName::parse(&body.table)?, Key::parse(&body.key)?);
    let expiry = expiry::of_members(body.ttl, body.expires_at, now_ms)?;
    let action = match body.op {
        Op::Get => {
            strict::check_members("get", &given, &[])?;
            return Ok(Operation::Get { table, key });
        }
        Op::Put => {
            strict::check_members(
                "put",
                &given,
                &[&["value", "ttl", "expires_at"][..], &CONDITIONS].concat(),
            )?;
            let value = value::take_value(value_bytes_max, body.value.ok_or(Error::MissingValue)?)?;
            Action::Put { value, expiry }
        }
        Op::Patch => {
            strict::check_members(
                "patch",
                &given,
                &[&["patch", "ttl", "expires_at"][..], &CONDITIONS].concat(),
            )?;
            let patch = body.patch.map(|raw| value::take_patch(value_bytes_max, raw)).transpose()?;
            if patch.is_none() && expiry.is_none() {
                return Err(Error::BadJson("a patch needs a \"patch\", or an expiry to renew".into()));
            }
            Action::Patch { patch, expiry }
        }
        Op::Delete => {
            strict::check_members("delete", &given, &[&["force"][..], &CONDITIONS].concat())?;
            Action::Delete { force: body.force.unwrap_or(false) }
        }
    };
    let condition = condition::condition(body.if_match.as_deref(), body.if_none_match.as_deref())?;
    Ok(Operation::Write { table, write: Write { key, action, condition } })
}

/// Adds a result to `text`. Values are copied as they are: as trees of JSON long ones would take many times their length.
fn render(result: &OperationResult, text: &mut String) {
    let version = |timestamp: &Timestamp| {
        format!("{{\"version\":\"{timestamp}\",\"timestamp\":{}", timestamp.unix_ms())
    };
    match result {
        OperationResult::Got(None) => text.push_str("{\"value\":null,\"absent\":true"),
        OperationResult::Got(Some(Got { value, timestamp, expires_at_ms })) => {
            text.push_str(&version(timestamp));
            text.push_str(",\"value\":");
            text.push_str(value.as_str());
            text.push_str(&format!(",\"expires_at\":{}", json!(expires_at_ms)));
        }
        OperationResult::Written(written) => {
            text.push_str(&version(&written.timestamp));
            if written.created {
                text.push_str(",\"created\":true");
            }
        }
    }
    text.push('}');
}
