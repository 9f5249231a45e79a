//! Strong tables: `PUT /_/tables/{table}` makes one, `POST /_/txn` runs a transaction.

use std::{borrow::Cow, sync::Arc};

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    core::{
        clock::Timestamp,
        name::{Key, TableName},
        nearest,
    },
    error::{Error, Result},
    http::{
        request::{Call, body, condition, expiry, path, route::Route, strict, value},
        response,
    },
    node::{
        Action, Node, Write,
        strong::{Compare, Expected, Got, OPERATIONS_MAX, Operation, OperationResult, Transaction},
    },
};

/// Longest body of a request that makes a table.
const MODE_BYTES_MAX: u64 = 1024;

/// The routes of this file.
pub fn routes(node: &Arc<Node>) -> BoxedFilter<(Response,)> {
    let (table, transaction) = (Arc::clone(node), Arc::clone(node));
    route(Route::TableMode, path::table_of_catalogue, move |call, name| make(Arc::clone(&table), call, name))
        .or(route(Route::Transaction, exactly("/_/txn"), move |call, ()| {
            transact(Arc::clone(&transaction), call)
        }))
        .unify()
        .boxed()
}

/// The body of a request that makes a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a \"mode\"")]
struct ModeBody<'a> {
    #[serde(borrow)]
    mode: Cow<'a, str>,
}

/// `PUT /_/tables/{table}`
async fn make(node: Arc<Node>, call: Call, table: TableName) -> Result<Response> {
    if call.method != Method::PUT {
        return response::other_method(&call);
    }
    let bytes = body::read(&call, MODE_BYTES_MAX).await?;
    let body: ModeBody = body::parse_object(&bytes)?;
    let created = match body.mode.as_ref() {
        "strong" => node.create_strong(table.clone()).await?,
        // An eventual table is made by its first write.
        "eventual" if !node.is_strong(&table) => false,
        "eventual" => {
            return Err(Error::WrongMode(format!(
                "table {table} is strong, and a table's mode never changes: take another name"
            )));
        }
        other => return Err(Error::BadRequest(nearest::unknown("mode", other, &["strong", "eventual"]))),
    };
    let mut response = response::json(&json!({ "table": table.as_str(), "mode": body.mode }))?;
    if created {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// The body of a transaction.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"compare\", \"success\" and \"failure\"")]
struct TransactionBody<'a> {
    #[serde(borrow, default)]
    compare: Vec<CompareBody<'a>>,
    #[serde(borrow, default)]
    success: Vec<OperationBody<'a>>,
    #[serde(borrow, default)]
    failure: Vec<OperationBody<'a>>,
}

/// A comparison, as sent.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with \"table\", \"key\", and \"value\", \"version\" or \"absent\""
)]
struct CompareBody<'a> {
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"op\", \"table\" and \"key\"")]
struct OperationBody<'a> {
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

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Get,
    Put,
    Patch,
    Delete,
}

/// `POST /_/txn`
async fn transact(node: Arc<Node>, call: Call) -> Result<Response> {
    if call.method != Method::POST {
        return response::other_method(&call);
    }
    let bytes = body::read(&call, call.connection.options.body_bytes_max).await?;
    let transaction = parse(&node, &bytes)?;
    drop(bytes);
    let (succeeded, results) = node.transact(transaction).await?;
    let results: Vec<_> = results.iter().map(render).collect();
    response::json(&json!({ "succeeded": succeeded, "results": results }))
}

/// A transaction from the body of a request.
///
/// # Errors
/// `BadJson`, `BadName`, `BadRequest`, `TooManyOperations`, `TooLarge`.
pub fn parse(node: &Node, bytes: &[u8]) -> Result<Transaction> {
    let body: TransactionBody = body::parse_object(bytes)?;
    for (what, count) in [
        ("comparisons", body.compare.len()),
        ("operations in \"success\"", body.success.len()),
        ("operations in \"failure\"", body.failure.len()),
    ] {
        if count > OPERATIONS_MAX {
            return Err(Error::BadRequest(format!(
                "{count} {what}: a transaction has at most {OPERATIONS_MAX}; nothing was done"
            )));
        }
    }
    let operations = |operations: Vec<OperationBody<'_>>| {
        operations.into_iter().map(|body| operation(node, body)).collect::<Result<_>>()
    };
    Ok(Transaction {
        compare: body.compare.into_iter().map(|body| compare(node, body)).collect::<Result<_>>()?,
        success: operations(body.success)?,
        failure: operations(body.failure)?,
    })
}

fn compare(node: &Node, body: CompareBody<'_>) -> Result<Compare> {
    let expected = match (body.value, body.version, body.absent) {
        (Some(raw), None, None) => Expected::Value(value::take_value(node.value_bytes_max(), raw)?),
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

fn operation(node: &Node, body: OperationBody<'_>) -> Result<Operation> {
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
    let expiry = expiry::of_members(body.ttl, body.expires_at, node.now_ms())?;
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
            let value = value::take_value(node.value_bytes_max(), body.value.ok_or(Error::MissingValue)?)?;
            Action::Put { value, expiry }
        }
        Op::Patch => {
            strict::check_members(
                "patch",
                &given,
                &[&["patch", "ttl", "expires_at"][..], &CONDITIONS].concat(),
            )?;
            let patch = body.patch.map(|raw| value::take_patch(node.value_bytes_max(), raw)).transpose()?;
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

fn render(result: &OperationResult) -> serde_json::Value {
    let version =
        |timestamp: &Timestamp| json!({ "version": timestamp.to_string(), "timestamp": timestamp.unix_ms() });
    match result {
        OperationResult::Got(None) => json!({ "value": null, "absent": true }),
        OperationResult::Got(Some(Got { value, timestamp, expires_at_ms })) => {
            let mut got = version(timestamp);
            // The text is JSON: it came in as such.
            got["value"] = serde_json::from_str(value.as_str()).unwrap_or_default();
            got["expires_at"] = json!(expires_at_ms);
            got
        }
        OperationResult::Written(written) => {
            let mut wrote = version(&written.timestamp);
            if written.created {
                wrote["created"] = json!(true);
            }
            wrote
        }
    }
}
