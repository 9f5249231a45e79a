//! `/_/import`: rows as one JSON object a line, as an export has them. Streamed: memory holds a batch, whatever the size of the store.
//!
//! An export has a first and a last line around its rows, and one that begins so is imported only if it ends so (`whole`). An import is
//! merged batch by batch as it comes, as nobody can hold an export of any size until its end has been seen. So one that proves not to
//! be whole may leave rows behind: the answer says how many. They are as good as any others; importing the whole file again is safe.

use std::{borrow::Cow, sync::Arc};

use bytes::{Bytes, BytesMut};
use hyper::Method;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use warp::{filters::BoxedFilter, reply::Response};

use super::{exactly, export_frame::ExportReader, route};
use crate::{
    core::{
        clock::Timestamp,
        name::{Key, TableName},
        nearest,
    },
    error::{Error, Result},
    http::{
        request::{
            Call,
            body::{self, BodyReader},
            budget::Reservation,
            condition, expiry,
            route::Route,
            value,
        },
        response,
    },
    node::{Import, Imported, Node, WriteConcern},
};

/// Rows that are committed at a time, each batch with one sync.
const BATCH_ROWS: usize = 1000;
/// A batch is committed early at so many bytes of lines.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The route of imports.
pub fn import_routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Import, exactly("/_/import"), move |call, ()| import(Arc::clone(&node), call))
}

/// A line of an import.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"table\", \"key\" and \"value\"")]
struct Line<'a> {
    table: Option<Cow<'a, str>>,
    key: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "value::present")]
    value: Option<&'a RawValue>,
    version: Option<Cow<'a, str>>,
    /// When it was written, as an export says it for people: the version says it too, and is what counts.
    timestamp: Option<u64>,
    expires_at: Option<u64>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
}

/// What becomes of the versions of imported rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They are kept: the import may be repeated, and later writes stay.
    Keep,
    /// Rows are new writes of now, and win over whatever is here: a restore. Those that expired meanwhile are left out.
    New,
}

impl Mode {
    fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("keep") => Ok(Self::Keep),
            Some("new") => Ok(Self::New),
            Some(other) => Err(Error::BadRequest(nearest::unknown("mode", other, &["keep", "new"]))),
        }
    }
}

/// Whether values with lone surrogates are taken, which were stored before those were refused.
fn accepts_surrogates(text: Option<&str>) -> Result<bool> {
    match text {
        None => Ok(false),
        Some("keep") => Ok(true),
        Some(other) => {
            Err(Error::BadRequest(format!("surrogates={other}: keep, or leave it out to refuse them")))
        }
    }
}

/// `POST /_/import`
async fn import(node: Arc<Node>, call: Call) -> Result<Response> {
    if call.method != Method::POST {
        return response::other_method(&call, "POST, OPTIONS");
    }
    let table = call.query().get("table")?.map(|table| TableName::parse(&table)).transpose()?;
    let mode = Mode::parse(call.query().get("mode")?.as_deref())?;
    let accepts_surrogates = accepts_surrogates(call.query().get("surrogates")?.as_deref())?;
    let concern = condition::write_concern(&call)?;
    let export_reader = ExportReader::new(call.query().flag("partial")?);
    let mut running = RunningImport {
        line_bytes_max: node.value_bytes_max() + body::ENVELOPE_BYTES_MAX,
        node,
        table,
        mode,
        accepts_surrogates,
        export_reader,
        batch: Vec::new(),
        batch_bytes: 0,
        lines: 0,
        lines_committed: 0,
        imported: Imported::default(),
        concern,
        replication_error: None,
        reservation: call.connection.budget.empty_reservation(),
    };
    let reader = BodyReader::take(&call)?;
    if let Err(error) = running.read(reader).await {
        return Ok(running.abort_response(&error, &call));
    }
    match &running.replication_error {
        None => response::json(&running.counts()),
        Some(error) => Ok(response::problem_of(error, &running.problem(error, &call))),
    }
}

/// An import under way.
struct RunningImport {
    node: Arc<Node>,
    /// The table of lines that name none.
    table: Option<TableName>,
    mode: Mode,
    accepts_surrogates: bool,
    line_bytes_max: u64,
    export_reader: ExportReader,
    batch: Vec<Import>,
    batch_bytes: usize,
    /// Lines taken, the last of which is the one that is wrong if one is.
    lines: u64,
    /// Lines that are done with: what is between is the batch.
    lines_committed: u64,
    imported: Imported,
    concern: WriteConcern,
    /// Why one batch is not held by as many replicas as wanted. The others are not waited for then.
    replication_error: Option<Error>,
    /// What the batch and a line that has begun hold of the memory for all bodies.
    reservation: Reservation,
}

impl RunningImport {
    async fn read(&mut self, mut reader: BodyReader) -> Result<()> {
        // The part of a line whose end has not come yet.
        let mut partial_line = BytesMut::new();
        while let Some(mut bytes) = reader.next().await? {
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let rest = bytes.split_to(end + 1);
                self.check_length(partial_line.len() + rest.len())?;
                let line = join(&mut partial_line, rest);
                self.take_line(&line).await?;
            }
            self.check_length(partial_line.len() + bytes.len())?;
            // A batch is held as text and as values.
            self.reservation.reserve_at_least(2 * (partial_line.len() + bytes.len() + self.batch_bytes))?;
            partial_line.extend_from_slice(&bytes);
        }
        let line = partial_line.freeze();
        if let Err(error) = self.take_line(&line).await {
            // Of an export, a last line without its end is half a line.
            self.export_reader.check_end()?;
            return Err(error);
        }
        self.export_reader.check_end()?;
        self.commit().await
    }

    fn check_length(&mut self, bytes: usize) -> Result<()> {
        if bytes as u64 <= self.line_bytes_max {
            return Ok(());
        }
        self.lines += 1;
        Err(Error::TooLarge { what: "line", limit: self.line_bytes_max })
    }

    async fn take_line(&mut self, line: &[u8]) -> Result<()> {
        if line.trim_ascii().is_empty() {
            self.lines += u64::from(line.ends_with(b"\n"));
            return Ok(());
        }
        self.lines += 1;
        if !self.export_reader.is_row(line)? {
            return Ok(());
        }
        let row = self.parse(line)?;
        if self.mode == Mode::New && row.expires_at_ms.is_some_and(|at_ms| at_ms <= self.node.now_ms()) {
            // Written, it would hide what is here and show nothing.
            self.imported.skipped += 1;
            return Ok(());
        }
        self.batch.push(row);
        self.batch_bytes += line.len();
        if self.batch.len() >= BATCH_ROWS || self.batch_bytes >= BATCH_BYTES {
            self.commit().await?;
        }
        Ok(())
    }

    fn parse(&self, line: &[u8]) -> Result<Import> {
        let line: Line = body::parse_object(line)?;
        let table = match (&line.table, &self.table) {
            (Some(name), _) => TableName::parse(name)?,
            (None, Some(table)) => table.clone(),
            (None, None) => return Err(Error::BadJson("no \"table\", here or in the query".into())),
        };
        let raw = line.value.ok_or(Error::MissingValue)?;
        let limit = self.node.value_bytes_max();
        let value = match self.accepts_surrogates {
            true => value::take_lenient_value(limit, raw),
            false => value::take_value(limit, raw).map_err(|error| match error {
                Error::BadJson(why) if why.contains("surrogate") => Error::BadJson(format!(
                    "{why}; or take rows of an old export as they are, with ?surrogates=keep"
                )),
                other => other,
            }),
        }?;
        let timestamp = self.version_of(&line)?;
        let key = Key::parse(&line.key)?;
        Ok(Import { table, key, value, timestamp, expires_at_ms: self.expiry_of(&line)? })
    }

    /// The version to keep.
    fn version_of(&self, line: &Line<'_>) -> Result<Option<Timestamp>> {
        let wrong = |why: String| Err(Error::BadJson(why));
        let version = match &line.version {
            Some(version) => match version.parse::<Timestamp>() {
                Ok(parsed) => Some(parsed),
                Err(error) => return wrong(format!("version {version:?}: {error}")),
            },
            None => None,
        };
        match (self.mode, version, line.timestamp) {
            (Mode::New, ..) => Ok(None),
            (Mode::Keep, None, Some(_)) => wrong(
                "a \"timestamp\" without a \"version\" says nothing: leave it out, or send ?mode=new for new writes".into(),
            ),
            (Mode::Keep, Some(version), Some(at_ms)) if version.unix_ms() != at_ms => {
                wrong(format!("timestamp {at_ms} is not that of version {version}, which is {}", version.unix_ms()))
            }
            (Mode::Keep, version, _) => Ok(version),
        }
    }

    fn expiry_of(&self, line: &Line<'_>) -> Result<Option<u64>> {
        match (line.ttl, line.expires_at) {
            (None, expires_at) => Ok(expires_at),
            (Some(_), _) if self.mode == Mode::Keep && line.version.is_some() => Err(Error::BadRequest(
                "a row that keeps its version keeps its expiry: \"expires_at\" says it, and \"ttl\" would be another one each time".into(),
            )),
            (Some(_), Some(_)) => Err(Error::BadRequest("ttl and expires_at: send one".into())),
            (ttl, None) => {
                let now_ms = self.node.now_ms();
                Ok(expiry::of_members(ttl, None, now_ms)?.map(|expiry| expiry.unix_ms(now_ms)))
            }
        }
    }

    async fn commit(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let imported = self.node.import(batch, self.concern.replicas).await?;
        self.batch_bytes = 0;
        self.lines_committed = self.lines;
        self.imported.written += imported.written;
        self.imported.skipped += imported.skipped;
        // Batch by batch, so that no peer falls behind by more than the journal remembers.
        if let (None, Some(latest)) = (&self.replication_error, imported.latest) {
            self.replication_error = self.node.replicated(latest, self.concern).await.err();
        }
        Ok(())
    }

    fn counts(&self) -> serde_json::Value {
        json!({ "written": self.imported.written, "skipped": self.imported.skipped })
    }

    /// What went wrong, and what was done all the same.
    fn problem(&self, error: &Error, call: &Call) -> serde_json::Value {
        let mut problem = response::problem_object(error, call.request_id.to_str().unwrap_or_default());
        problem["written"] = json!(self.imported.written);
        problem["skipped"] = json!(self.imported.skipped);
        problem
    }

    /// What failed, at which line or in which batch of lines, and what was written before it.
    fn abort_response(&self, error: &Error, call: &Call) -> Response {
        let (first, last) = (self.lines_committed + 1, self.lines);
        // The batch is given away only to be committed: while it is here, it was a line that failed.
        let are_many = self.batch.is_empty() && first < last;
        let place = if are_many { format!("lines {first} to {last}") } else { format!("line {last}") };
        let mut problem = self.problem(error, call);
        let written = self.imported.written;
        problem["detail"] = json!(format!("{place}: {error}; {written} rows were written before, and stay"));
        problem["line"] = json!(last);
        response::problem_of(error, &problem)
    }
}

/// A line of which the beginning may have come before.
fn join(partial_line: &mut BytesMut, rest: Bytes) -> Bytes {
    if partial_line.is_empty() {
        return rest;
    }
    partial_line.extend_from_slice(&rest);
    partial_line.split().freeze()
}
