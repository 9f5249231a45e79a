//! `/_/import`: rows as one JSON object per line, as an export writes them. Streamed: memory holds one batch, whatever the size of the
//! import.
//!
//! An export has a first and a last line around its rows, and an import accepts one that begins only if it also ends (`export_frame`).
//! Batches are merged as they arrive, because nobody can hold an export of any size until its end is seen. An import that proves incomplete
//! may thus leave rows behind; the response says how many. These rows are valid, and importing the whole file again is safe.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use hyper::Method;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, sleep};
use warp::{filters::BoxedFilter, reply::Response};

use super::{exactly, export_frame::ExportReader, route};
use crate::{
    core::{
        access::{Right, Touched},
        clock::Timestamp,
        memory_pressure::Level,
        name::{Key, TableName},
        nearest,
    },
    error::{Error, Result},
    http::{
        access::{Principal, lease::HeldLease},
        request::{
            Call,
            body::{self, BodyReader},
            budget::Reservation,
            condition, expiry, permission,
            route::Route,
            value,
        },
        response,
    },
    node::{Import, Imported, Node, WriteConcern},
};

/// Rows committed at a time. Each batch costs one sync.
const BATCH_ROWS: usize = 1000;
/// How long a batch waits at most where memory is scarce, and where it is nearly gone. What is superseded is freed meanwhile.
const SCARCE_WAIT_MAX: Duration = Duration::from_millis(200);
const CRITICAL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often it looks.
const MEMORY_LOOK: Duration = Duration::from_millis(20);
/// A batch is committed early at so many bytes of lines.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes of blank lines between two others. Compressed, gigabytes of them are some kilobytes.
const BLANK_BYTES_MAX: usize = 1024 * 1024;

/// The route of imports.
pub fn import_routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Import, exactly("/_/import"), move |call, ()| import(Arc::clone(&node), call))
}

/// One line of an import.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with \"table\", \"key\" and \"value\"")]
struct Line<'a> {
    table: Option<Cow<'a, str>>,
    key: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "value::present")]
    value: Option<&'a RawValue>,
    version: Option<Cow<'a, str>>,
    /// The time of the write, which an export adds for people. The version contains it too, and counts.
    timestamp: Option<u64>,
    expires_at: Option<u64>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
}

/// What happens to the versions of imported rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Keep them: the import may be repeated, and later writes stay.
    Keep,
    /// Make the rows new writes that win over what is here: a restore. Rows that have expired are left out.
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

/// Whether to accept values with lone surrogates, which old versions stored.
fn accepts_surrogates(text: Option<&str>) -> Result<bool> {
    match text {
        None => Ok(false),
        Some("keep") => Ok(true),
        Some(other) => {
            Err(Error::BadRequest(format!("surrogates={other}: use keep, or leave it out to refuse them")))
        }
    }
}

/// `POST /_/import`
async fn import(node: Arc<Node>, call: Call) -> Result<Response> {
    if call.method != Method::POST {
        return response::other_method(&call);
    }
    let table = call.query().get("table")?.map(|table| TableName::parse(&table)).transpose()?;
    let mode = Mode::parse(call.query().get("mode")?.as_deref())?;
    let accepts_surrogates = accepts_surrogates(call.query().get("surrogates")?.as_deref())?;
    let concern = condition::write_concern(&call)?;
    let export_reader = ExportReader::new(call.query().flag("partial")?);
    let mut running = RunningImport {
        line_bytes_max: node.value_bytes_max() + body::ENVELOPE_BYTES_MAX,
        node,
        principal: call.principal().clone(),
        table,
        mode,
        accepts_surrogates,
        export_reader,
        batch: Vec::new(),
        batch_bytes: 0,
        blank_bytes: 0,
        lines: 0,
        lines_committed: 0,
        imported: Imported::default(),
        concern,
        replication_error: None,
        reservation: call.connection.budget.waiting_reservation(),
        lease: permission::held_lease(&call)?,
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

/// A running import.
struct RunningImport {
    node: Arc<Node>,
    /// Must have the right to write each row.
    principal: Principal,
    /// The table of lines that name none.
    table: Option<TableName>,
    mode: Mode,
    accepts_surrogates: bool,
    line_bytes_max: u64,
    export_reader: ExportReader,
    batch: Vec<Import>,
    batch_bytes: usize,
    /// Bytes of blank lines since the last other one.
    blank_bytes: usize,
    /// Lines read. If a line is invalid, it is the last one.
    lines: u64,
    /// Lines committed. The lines after them are the batch.
    lines_committed: u64,
    imported: Imported,
    concern: WriteConcern,
    /// Why fewer replicas than requested hold one batch. Later batches do not wait for replicas.
    replication_error: Option<Error>,
    /// The reservation for the batch and a partial line, from the memory for all bodies.
    reservation: Reservation,
    /// Ends the import when the client's token ends.
    lease: HeldLease,
}

impl RunningImport {
    async fn read(&mut self, mut reader: BodyReader) -> Result<()> {
        // The start of a line whose end has not arrived yet.
        let mut partial_line = BytesMut::new();
        loop {
            let next = tokio::select! {
                biased;
                error = self.lease.ended() => return Err(error),
                next = reader.next() => next?,
            };
            let Some(mut bytes) = next else { break };
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let rest = bytes.split_to(end + 1);
                self.check_length(partial_line.len() + rest.len())?;
                let line = join(&mut partial_line, rest);
                self.take_line(&line).await?;
            }
            self.check_length(partial_line.len() + bytes.len())?;
            // The batch is in memory as text and as values.
            self.reservation.reserve_at_least(2 * (partial_line.len() + bytes.len() + self.batch_bytes))?;
            partial_line.extend_from_slice(&bytes);
        }
        let line = partial_line.freeze();
        if let Err(error) = self.take_line(&line).await {
            // In an export, a last line without its end is half a line.
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
            self.blank_bytes += line.len();
            return match self.blank_bytes > BLANK_BYTES_MAX {
                true => Err(Error::BadRequest(format!("more than {BLANK_BYTES_MAX} bytes of blank lines"))),
                false => Ok(()),
            };
        }
        self.lines += 1;
        self.blank_bytes = 0;
        if !self.export_reader.is_row(line)? {
            return Ok(());
        }
        let row = self.parse(line)?;
        if self.mode == Mode::New && row.expires_at_ms.is_some_and(|at_ms| at_ms <= self.node.now_ms()) {
            // Writing it would hide the current value and show nothing.
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
            (None, None) => return Err(Error::BadJson("no \"table\", neither here nor in the query".into())),
        };
        let raw = line.value.ok_or(Error::MissingValue)?;
        let limit = self.node.value_bytes_max();
        let value = match self.accepts_surrogates {
            true => value::take_lenient_value(limit, raw),
            false => value::take_value(limit, raw).map_err(|error| match error {
                Error::BadJson(why) if why.contains("surrogate") => Error::BadJson(format!(
                    "{why}; use ?surrogates=keep to import the rows of an old export as they are"
                )),
                other => other,
            }),
        }?;
        let timestamp = self.version_of(&line)?;
        let key = Key::parse(&line.key)?;
        self.principal.check(Right::Write, Touched::Key(&table, &key))?;
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
                "a \"timestamp\" without a \"version\" has no meaning: leave it out, or send ?mode=new to make new writes".into(),
            ),
            (Mode::Keep, Some(version), Some(at_ms)) if version.unix_ms() != at_ms => {
                wrong(format!("timestamp {at_ms} does not match the version {version}, whose timestamp is {}", version.unix_ms()))
            }
            (Mode::Keep, version, _) => Ok(version),
        }
    }

    fn expiry_of(&self, line: &Line<'_>) -> Result<Option<u64>> {
        match (line.ttl, line.expires_at) {
            (None, expires_at) => Ok(expires_at),
            (Some(_), _) if self.mode == Mode::Keep && line.version.is_some() => Err(Error::BadRequest(
                "a row that keeps its version keeps its expiry: send \"expires_at\", because \"ttl\" would change it with each \
                 import".into(),
            )),
            (Some(_), Some(_)) => Err(Error::BadRequest("ttl and expires_at exclude each other: send one".into())),
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
        self.wait_for_memory().await;
        self.lease.check()?;
        self.reservation.budget().admit_write()?;
        let batch = std::mem::take(&mut self.batch);
        let imported = self.node.import(batch, self.concern.replicas).await?;
        self.batch_bytes = 0;
        self.lines_committed = self.lines;
        self.imported.written += imported.written;
        self.imported.skipped += imported.skipped;
        // Wait batch by batch, so that no peer falls behind further than the journal reaches.
        if let (None, Some(latest)) = (&self.replication_error, imported.latest) {
            self.replication_error = self.node.replicated(latest, self.concern).await.err();
        }
        Ok(())
    }

    /// Has an import go slower where memory is scarce, as it can wait and others cannot. What it holds is little.
    async fn wait_for_memory(&self) {
        let begun = Instant::now();
        loop {
            let wait_max = match self.reservation.budget().level() {
                Level::Low => return,
                Level::High => SCARCE_WAIT_MAX,
                Level::Critical => CRITICAL_WAIT_MAX,
            };
            if begun.elapsed() >= wait_max {
                return;
            }
            sleep(MEMORY_LOOK).await;
        }
    }

    fn counts(&self) -> serde_json::Value {
        json!({ "written": self.imported.written, "skipped": self.imported.skipped })
    }

    /// The problem, and what was done before it.
    fn problem(&self, error: &Error, call: &Call) -> serde_json::Value {
        let mut problem = response::problem_object(error, call.request_id.to_str().unwrap_or_default());
        problem["written"] = json!(self.imported.written);
        problem["skipped"] = json!(self.imported.skipped);
        problem
    }

    /// What failed, at which line or in which batch, and how many rows were written before it.
    fn abort_response(&self, error: &Error, call: &Call) -> Response {
        let (first, last) = (self.lines_committed + 1, self.lines);
        // The batch is taken away only to be committed. While it is here, it was a line that failed.
        let are_many = self.batch.is_empty() && first < last;
        let place = if are_many { format!("lines {first} to {last}") } else { format!("line {last}") };
        let mut problem = self.problem(error, call);
        let written = self.imported.written;
        problem["detail"] = json!(format!("{place}: {error}; the {written} rows written before it stay"));
        problem["line"] = json!(last);
        response::problem_of(error, &problem)
    }
}

/// A complete line whose start may have arrived earlier.
fn join(partial_line: &mut BytesMut, rest: Bytes) -> Bytes {
    if partial_line.is_empty() {
        return rest;
    }
    partial_line.extend_from_slice(&rest);
    partial_line.split().freeze()
}
