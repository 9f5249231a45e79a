//! `POST /{table}/batch`: many writes in one durable commit.
//!
//! A long body is read twice. The first pass parses everything and keeps only the position of each operation. The second pass parses and
//! merges piece by piece, so that the parsed operations are never in memory all at once. A short body, or an atomic batch, is one piece.

use std::{borrow::Cow, ops::Range, sync::Arc};

use hyper::Method;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use warp::{filters::BoxedFilter, reply::Response};

use super::route;
use crate::{
    core::{
        clock::Timestamp,
        name::{Key, TableName},
    },
    error::{Error, Result},
    http::{
        access::Principal,
        request::{Call, body, condition, consistency, expiry, path, route::Route, strict, value},
        response,
    },
    node::{Action, Expiry, Node, Write, Written},
};

/// Most operations merged at a time, unless the batch is atomic, and most bytes of them.
const PIECE_OPS: usize = 2000;
const PIECE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Memory for the result of one operation, and for its position.
const RESULT_BYTES: usize = 128;

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
    #[serde(borrow, default, deserialize_with = "value::present")]
    value: Option<&'a RawValue>,
    /// A list is a JSON Patch, anything else a merge patch.
    #[serde(borrow, default, deserialize_with = "value::present")]
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
    /// Refuses members that belong to another kind of operation.
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
        return response::other_method(&call);
    }
    consistency::check_write_concern(&node, &call, &table).await?;
    // Writes of a strong table that come together are one step.
    let atomic = call.query().flag("atomic")? || node.turns_out_strong(&table).await;
    let concern = condition::write_concern(&call)?;
    let now_ms = node.now_ms();
    let expiry = expiry::of_query(call.query(), now_ms)?;
    let mut body = body::read(&call, call.connection.options.body_bytes_max).await?;
    // Parse everything before writing anything: a batch with an error anywhere has no effect.
    let reader =
        Reader { node: &node, body: &body, now_ms, expiry, table: &table, principal: call.principal() };
    let ops_max = call.connection.options.batch_ops_max;
    let (offsets, all_writes) = body::parse_aside(body.len(), || reader.check(ops_max, atomic))?;
    // The memory for parsed operations besides the body: their values, and for an atomic batch also the rows.
    let staged_bytes = if all_writes.is_some() { 2 * body.len() } else { body.len().min(PIECE_BYTES_MAX) };
    let results_bytes = offsets.len() * RESULT_BYTES;
    let reservation = body.reservation().bytes() as usize;
    body.reservation().reserve_at_least(reservation + staged_bytes + results_bytes)?;
    let mut results = Results::with_capacity(offsets.len());
    let mut batch = node.begin_batch(&table).await?;
    if let Some(writes) = all_writes.filter(|writes| !writes.is_empty()) {
        let (writes, ops): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        results.add(concealed(call.principal(), &table, batch.merge(writes, atomic).await)?, &ops);
    } else {
        let mut next = 0;
        while next < offsets.len() {
            let reader = Reader {
                node: &node,
                body: &body,
                now_ms,
                expiry,
                table: &table,
                principal: call.principal(),
            };
            let (writes, ops) = body::parse_aside(body.len(), || reader.piece(&offsets, next))?;
            next += ops.len();
            results.add(concealed(call.principal(), &table, batch.merge(writes, false).await)?, &ops);
        }
    }
    drop(body);
    batch.finish().await?;
    if let Some(last) = results.last
        && let Err(error) = node.replicated(last, concern).await
    {
        return Ok(not_replicated(&error, &call, results));
    }
    let mut text = results.text;
    text.extend_from_slice(b"]}\n");
    Ok(response::json_text(text))
}

/// What merged writes came to, as the client may see it.
fn concealed(
    principal: &Principal,
    table: &TableName,
    merged: Result<Vec<Result<Written>>>,
) -> Result<impl Iterator<Item = Result<Written>>> {
    let conceal = move |error| principal.conceal(table, error);
    Ok(merged.map_err(conceal)?.into_iter().map(move |result| result.map_err(conceal)))
}

/// The response when fewer replicas than requested hold the writes: the problem, with the results as usual.
fn not_replicated(error: &Error, call: &Call, results: Results) -> Response {
    let problem = response::problem_object(error, call.request_id.to_str().unwrap_or_default()).to_string();
    let members = problem.strip_prefix('{').expect("a problem is a JSON object");
    let mut text = results.text;
    text.extend_from_slice(b"],");
    text.extend_from_slice(members.as_bytes());
    response::problem_text(error, text)
}

/// Reads the operations of a body. `expiry` applies to puts without one of their own.
struct Reader<'a> {
    node: &'a Node,
    body: &'a [u8],
    /// When the batch came, in Unix milliseconds. One instant for both passes: an expiry that was ahead in the first is not refused in the second.
    now_ms: u64,
    expiry: Option<Expiry>,
    table: &'a TableName,
    /// Must have the right to write each key.
    principal: &'a Principal,
}

impl Reader<'_> {
    /// Parses every operation. Returns their positions in the body, and the writes themselves if the body is short or `atomic`.
    #[expect(clippy::type_complexity, reason = "two lists, each of them plain")]
    fn check(&self, ops_max: usize, atomic: bool) -> Result<(Vec<Range<u32>>, Option<Vec<(Write, Op)>>)> {
        let mut offsets = Vec::new();
        let mut writes = (atomic || self.body.len() <= PIECE_BYTES_MAX).then(Vec::new);
        operations(self.body, |raw| {
            if offsets.len() == ops_max {
                return Err(Error::TooManyOperations { what: "operations", limit: ops_max });
            }
            let write = self.parse(raw.as_bytes(), offsets.len() + 1)?;
            // Many short operations take more memory than their text.
            writes = writes.take().filter(|_| atomic || offsets.len() < PIECE_OPS);
            if let Some(writes) = &mut writes {
                writes.push(write);
            }
            // Keep offsets, so that the text can be dropped after parsing. No body is longer than 4 GiB.
            let begin = raw.as_ptr() as usize - self.body.as_ptr() as usize;
            offsets.push(begin as u32..(begin + raw.len()) as u32);
            Ok(())
        })?;
        Ok((offsets, writes))
    }

    /// The writes of the operations from `begin` on, up to the limits of one piece.
    fn piece(&self, offsets: &[Range<u32>], begin: usize) -> Result<(Vec<Write>, Vec<Op>)> {
        let (mut writes, mut ops, mut bytes) = (Vec::new(), Vec::new(), 0);
        for place in offsets[begin..].iter().take(PIECE_OPS) {
            let text = &self.body[place.start as usize..place.end as usize];
            bytes += text.len();
            if bytes > PIECE_BYTES_MAX && !writes.is_empty() {
                break;
            }
            let (write, op) = self.parse(text, begin + writes.len() + 1)?;
            writes.push(write);
            ops.push(op);
        }
        Ok((writes, ops))
    }

    fn parse(&self, text: &[u8], number: usize) -> Result<(Write, Op)> {
        let operation = body::parse_object(text);
        let parsed = operation.and_then(|operation| write(self.node, self.now_ms, operation, self.expiry));
        let permitted = parsed
            .and_then(|(write, op)| self.principal.check_write(self.table, &write).map(|()| (write, op)));
        permitted.map_err(|error| of_operation(number, error))
    }
}

/// Calls `each` with the operations of a body in order: the items of an array if it starts with a bracket, otherwise one object after
/// another, as in NDJSON. Stops at the first error.
fn operations<'a>(body: &'a [u8], mut each: impl FnMut(&'a str) -> Result<()>) -> Result<()> {
    let body = body::without_bom(body);
    if body.trim_ascii_start().starts_with(b"[") {
        return body::for_each_item(body, |raw: &RawValue| each(raw.get()));
    }
    for raw in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
        each(raw.map_err(|error| Error::BadJson(error.to_string()))?.get())?;
    }
    Ok(())
}

fn write(node: &Node, now_ms: u64, operation: Operation<'_>, default: Option<Expiry>) -> Result<(Write, Op)> {
    operation.check()?;
    let expiry = expiry::of_members(operation.ttl, operation.expires_at, now_ms)?;
    let action = match operation.op {
        Op::Put => {
            let value =
                value::take_value(node.value_bytes_max(), operation.value.ok_or(Error::MissingValue)?)?;
            Action::Put { value, expiry: expiry.or(default) }
        }
        Op::Patch => {
            let patch =
                operation.patch.map(|raw| value::take_patch(node.value_bytes_max(), raw)).transpose()?;
            if patch.is_none() && expiry.is_none() {
                return Err(Error::BadJson("a patch needs a \"patch\", or an expiry to renew".into()));
            }
            Action::Patch { patch, expiry }
        }
        Op::Delete => Action::Delete { force: operation.force.unwrap_or(false) },
    };
    let condition = condition::condition(operation.if_match.as_deref(), operation.if_none_match.as_deref())?;
    Ok((Write { key: Key::parse(&operation.key)?, action, condition }, operation.op))
}

/// Adds the operation's number to an error that has a text.
fn of_operation(number: usize, error: Error) -> Error {
    match error {
        Error::BadJson(why) => Error::BadJson(format!("operation {number}: {why}")),
        Error::MissingValue => Error::BadJson(format!("operation {number}: a put needs a \"value\"")),
        Error::BadName(why) => Error::BadName(format!("operation {number}: {why}")),
        Error::BadRequest(why) => Error::BadRequest(format!("operation {number}: {why}")),
        Error::NotGranted { right, why } => {
            Error::NotGranted { right, why: format!("operation {number}: {why}") }
        }
        other => other,
    }
}

/// The outcome of the operations.
struct Results {
    /// The start of a JSON object, up to the last operation's result. There may be many.
    text: Vec<u8>,
    /// The version of the latest write.
    last: Option<Timestamp>,
}

impl Results {
    /// No results yet, with room for this many operations.
    fn with_capacity(operations: usize) -> Self {
        let mut text = Vec::with_capacity(operations * RESULT_BYTES);
        text.extend_from_slice(b"{\"results\":[");
        Self { text, last: None }
    }

    fn add(&mut self, results: impl Iterator<Item = Result<Written>>, ops: &[Op]) {
        for (result, op) in results.zip(ops) {
            if !self.text.ends_with(b"[") {
                self.text.push(b',');
            }
            match result {
                Ok(written) => {
                    self.last = self.last.max(Some(written.timestamp));
                    self.render_written(&written, *op);
                }
                Err(error) => self.render_error(&error),
            }
        }
    }

    fn render_written(&mut self, written: &Written, op: Op) {
        let timestamp = written.timestamp;
        let text = format!(r#"{{"status":200,"version":"{timestamp}","timestamp":{}"#, timestamp.unix_ms());
        self.text.extend_from_slice(text.as_bytes());
        self.text.extend_from_slice(match op {
            Op::Delete => b",\"deleted\":true}",
            Op::Put | Op::Patch if written.created => b",\"created\":true}",
            Op::Put | Op::Patch => b"}",
        });
    }

    fn render_error(&mut self, error: &Error) {
        let (status, code) = response::status_and_code(error);
        let object = json!({ "status": status.as_u16(), "error": code, "detail": error.to_string() });
        self.text.extend_from_slice(object.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(body: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        operations(body.as_bytes(), |raw| {
            found.push(raw.to_owned());
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn operations_are_the_items_of_an_array_or_follow_each_other() {
        for body in [
            r#"[{"a":1},{"b":[2]}]"#,
            " [ {\"a\":1}\n,{\"b\":[2]} ] ",
            "{\"a\":1}\n{\"b\":[2]}",
            "{\"a\":1}{\"b\":[2]}\r\n",
        ] {
            assert_eq!(all(body), Ok(vec![r#"{"a":1}"#.to_owned(), r#"{"b":[2]}"#.to_owned()]), "{body}");
        }
        assert_eq!(all("[]"), Ok(vec![]));
        for wrong in ["[", "[1", "[1,]", "[1] 2", "{", "[1]]"] {
            assert!(matches!(all(wrong), Err(Error::BadJson(_))), "{wrong}");
        }
    }

    #[test]
    fn reading_stops_at_the_first_error() {
        let mut calls = 0;
        let ended = operations(b"[1,2,3,4]", |_| {
            calls += 1;
            if calls == 2 { Err(Error::MissingValue) } else { Ok(()) }
        });
        assert_eq!((ended, calls), (Err(Error::MissingValue), 2));
    }
}
