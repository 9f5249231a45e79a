//! `POST /{table}/batch`: many writes in one durable commit.

use std::{borrow::Cow, sync::Arc};

use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, json, value::RawValue};
use warp::{filters::BoxedFilter, reply::Response};

use super::{
    body,
    call::Call,
    condition, expiry, kv, path, reply,
    route::{Route, route},
    strict,
};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    node::{Action, Expiry, Node, Write, Written},
};

/// The route of batches.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(
        Route::Batch,
        |path| path::collection(path, "batch"),
        move |call, table| answer(Arc::clone(&node), call, table),
    )
}

/// One write of a batch, as sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"op\" and \"key\"")]
struct Operation<'a> {
    op: Op,
    key: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "kv::present")]
    value: Option<&'a RawValue>,
    /// A list is a JSON Patch, anything else a merge patch.
    #[serde(borrow, default, deserialize_with = "kv::present")]
    patch: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_at: Option<&'a RawValue>,
    if_match: Option<Cow<'a, str>>,
    if_none_match: Option<Cow<'a, str>>,
    force: Option<bool>,
}

impl Operation<'_> {
    /// Refuses members that are for another operation.
    fn check(&self) -> Result<()> {
        let given = [
            ("value", self.value.is_some()),
            ("patch", self.patch.is_some()),
            ("ttl", self.ttl.is_some()),
            ("expires_at", self.expires_at.is_some()),
            ("force", self.force.is_some()),
        ];
        match self.op {
            Op::Put => strict::check_members("put", &given, &["value", "ttl", "expires_at"]),
            Op::Patch => strict::check_members("patch", &given, &["patch", "ttl", "expires_at"]),
            Op::Delete => strict::check_members("delete", &given, &["force"]),
        }
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Patch,
    Delete,
}

/// `POST /{table}/batch`
async fn answer(node: Arc<Node>, call: Call, table: TableName) -> Result<Response> {
    if call.method != Method::POST {
        return reply::other_method(&call, "POST, OPTIONS");
    }
    body::expect_plain(&call)?;
    let atomic = call.query().flag("atomic")?;
    let wanted = condition::wanted(&call)?;
    let expiry = expiry::of_query(call.query(), node.now_ms())?;
    let bytes = body::read(&call, call.peer.options.body_bytes_max).await?;
    // All are understood before any is written: a request that is wrong anywhere has no effect.
    let (writes, ops) = writes(&node, &bytes, expiry)?.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    drop(bytes);
    let results = node.batch(&table, writes, atomic).await?;
    let last = results.iter().flatten().map(|written| written.timestamp).max();
    if let Some(last) = last {
        node.replicated(last, wanted).await?;
    }
    let results: Vec<_> = results.iter().zip(ops).map(|(result, op)| render(result, op)).collect();
    reply::json(&json!({ "results": results }))
}

/// The writes of a body: a JSON array where it begins with a bracket, else one object after the other, as in NDJSON. `expiry` is that of
/// puts that have none of their own.
fn writes(node: &Node, body: &[u8], expiry: Option<Expiry>) -> Result<Vec<(Write, Op)>> {
    let body = body::without_bom(body);
    let mut writes = Vec::new();
    let mut add = |raw: &RawValue| {
        let number = writes.len() + 1;
        let operation = body::parse_object(raw.get().as_bytes());
        let parsed = operation.and_then(|operation| write(node, operation, expiry));
        writes.push(parsed.map_err(|error| of_operation(number, error))?);
        Ok::<_, Error>(())
    };
    if body.trim_ascii_start().starts_with(b"[") {
        let array: Vec<&RawValue> =
            serde_json::from_slice(body).map_err(|error| Error::BadJson(error.to_string()))?;
        array.into_iter().try_for_each(&mut add)?;
    } else {
        for raw in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
            add(raw.map_err(|error| Error::BadJson(error.to_string()))?)?;
        }
    }
    Ok(writes)
}

fn write(node: &Node, operation: Operation<'_>, default: Option<Expiry>) -> Result<(Write, Op)> {
    operation.check()?;
    let expiry = expiry::of_members(operation.ttl, operation.expires_at, node.now_ms())?;
    let action = match operation.op {
        Op::Put => {
            let value = kv::take_value(node.value_bytes_max(), operation.value.ok_or(Error::MissingValue)?)?;
            Action::Put { value, expiry: expiry.or(default) }
        }
        Op::Patch => {
            let patch = operation.patch.map(|raw| kv::take_patch(node.value_bytes_max(), raw)).transpose()?;
            if patch.is_none() && expiry.is_none() {
                return Err(Error::BadJson("a patch has a \"patch\", or an expiry to renew".into()));
            }
            Action::Patch { patch, expiry }
        }
        Op::Delete => Action::Delete { force: operation.force.unwrap_or(false) },
    };
    let condition = condition::condition(operation.if_match.as_deref(), operation.if_none_match.as_deref())?;
    Ok((Write { key: Key::parse(&operation.key)?, action, condition }, operation.op))
}

/// Says in an error's text which operation it is about, where it has a text of its own.
fn of_operation(number: usize, error: Error) -> Error {
    match error {
        Error::BadJson(why) => Error::BadJson(format!("operation {number}: {why}")),
        Error::MissingValue => Error::BadJson(format!("operation {number}: a put has a \"value\"")),
        Error::BadName(why) => Error::BadName(format!("operation {number}: {why}")),
        Error::BadRequest(why) => Error::BadRequest(format!("operation {number}: {why}")),
        other => other,
    }
}

fn render(result: &Result<Written>, op: Op) -> serde_json::Value {
    let mut object = Map::new();
    match result {
        Ok(written) => {
            object.insert("status".into(), json!(200));
            object.insert("version".into(), json!(written.timestamp.to_string()));
            object.insert("timestamp".into(), json!(written.timestamp.unix_ms()));
            if op == Op::Delete {
                object.insert("deleted".into(), json!(true));
            } else if written.created {
                object.insert("created".into(), json!(true));
            }
        }
        Err(error) => {
            let (status, code) = reply::status_and_code(error);
            object.insert("status".into(), json!(status.as_u16()));
            object.insert("error".into(), json!(code));
            object.insert("detail".into(), json!(error.to_string()));
        }
    }
    serde_json::Value::Object(object)
}
