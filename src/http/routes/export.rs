//! `/_/export`: all rows, or those of one table, as one JSON object per line, with their versions. Streamed: memory holds one page,
//! whatever the size of the store.
//!
//! An export has a first and a last line around its rows (`export_frame`). If keys cannot be read, or the client's token ends, an error
//! takes the place of the last line, and the response is aborted.

use std::{collections::VecDeque, sync::Arc};

use hyper::Method;
use serde_json::json;
use warp::{filters::BoxedFilter, reply::Response};

use super::{
    exactly,
    export_frame::{ExportWriter, FIRST_LINE},
    listing, route,
};
use crate::{
    core::{
        access::{Right, Touched},
        name::TableName,
    },
    error::{Error, Result},
    http::{
        request::{Call, consistency, route::Route},
        response::{
            self,
            chunks::{self, Chunk, Chunks},
        },
    },
    node::{Node, Range, Row, strong::Consistency},
};

/// Rows read from the storage at a time.
const PAGE_ROWS: usize = 1000;

/// The route of exports.
pub fn export_routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Export, exactly("/_/export"), move |call, ()| export(Arc::clone(&node), call))
}

/// `GET /_/export`
async fn export(node: Arc<Node>, call: Call) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(&call);
    }
    let range = listing::range(call.query())?;
    let values = call.query().switch("values")?.unwrap_or(true);
    let tables = match call.query().get("table")? {
        Some(table) => vec![TableName::parse(&table)?],
        // Those that the client may read, if it may read these keys of any.
        None => node.table_names().into_iter().filter(|table| call.principal().may_see(table)).collect(),
    };
    call.principal().check_keys(Right::Read, &range.prefix)?;
    for table in &tables {
        call.principal().check(Right::Read, Touched::Keys(table, &range.prefix))?;
    }
    let consistency = consistency::of_query(&call)?;
    for table in &tables {
        node.before_read(table, consistency).await?;
    }
    let marked_incomplete = tables.iter().any(|table| node.has_unreadable_keys(table, &range));
    // For a range, the number of keys is not known before they are read.
    let is_all = range.prefix.is_empty() && range.start.is_none() && range.end.is_none();
    let total = is_all.then(|| node.keys_total(|name| tables.contains(name))).flatten();
    let (remaining, tables) = (range.clone(), tables.into());
    let export = Export {
        node,
        remaining,
        range,
        values,
        consistency,
        tables,
        writer: None,
        incomplete: None,
        marked_incomplete,
        ended: false,
    };
    let answer = response::with_total(chunks::answer(&call, response::NDJSON, export).await?, total);
    Ok(response::with_consistency(answer, consistency))
}

/// A running export.
struct Export {
    node: Arc<Node>,
    /// The range of each table to export.
    range: Range,
    values: bool,
    consistency: Consistency,
    /// The current table and those after it.
    tables: VecDeque<TableName>,
    /// What remains of the current table.
    remaining: Range,
    /// The checksum of the lines so far; `None` before the first.
    writer: Option<ExportWriter>,
    /// The first table with keys that cannot be read.
    incomplete: Option<TableName>,
    /// Whether unreadable keys were known before the export began.
    marked_incomplete: bool,
    ended: bool,
}

impl Chunks for Export {
    async fn next(&mut self) -> Result<Chunk> {
        if let (true, Some(table)) = (self.ended, &self.incomplete) {
            return Err(listing::unreadable(table));
        }
        let mut bytes = if self.writer.is_none() { FIRST_LINE.to_vec() } else { Vec::new() };
        let writer = self.writer.get_or_insert_with(ExportWriter::begin);
        if let Some(table) = self.tables.front() {
            let page = self.node.rows(table, &self.remaining, PAGE_ROWS, self.consistency).await?;
            if page.incomplete {
                self.incomplete.get_or_insert_with(|| table.clone());
            }
            let begin = bytes.len();
            for row in &page.rows {
                append_line(&mut bytes, table, row, self.values);
            }
            writer.add(page.rows.len(), &bytes[begin..]);
            if page.more {
                self.remaining.after = page.rows.into_iter().last().map(|row| row.key);
            } else {
                self.tables.pop_front();
                self.remaining = self.range.clone();
            }
        }
        self.ended = self.tables.is_empty();
        if self.ended && self.incomplete.is_none() {
            bytes.extend_from_slice(writer.last_line().as_bytes());
        }
        Ok(Chunk { bytes, last: self.ended && self.incomplete.is_none() })
    }

    /// A line in place of the last one. An import refuses it.
    fn error_text(&self, error: &Error) -> Vec<u8> {
        let (_, code) = response::status_and_code(error);
        format!("{}\n", json!({ "error": code, "detail": error.to_string() })).into_bytes()
    }

    fn is_incomplete(&self) -> bool {
        self.incomplete.is_some() || self.marked_incomplete
    }
}

fn append_line(bytes: &mut Vec<u8>, table: &TableName, row: &Row, values: bool) {
    let timestamp = row.entry.timestamp;
    bytes.extend_from_slice(b"{\"table\":");
    listing::append_string(bytes, table.as_str());
    bytes.extend_from_slice(b",\"key\":");
    listing::append_string(bytes, row.key.as_str());
    if values {
        bytes.extend_from_slice(b",\"value\":");
        bytes.extend_from_slice(row.entry.value.as_str().as_bytes());
    }
    let version = format!(",\"version\":\"{timestamp}\",\"timestamp\":{}", timestamp.unix_ms());
    bytes.extend_from_slice(version.as_bytes());
    if let Some(expires_at_ms) = row.entry.expires_at_ms {
        bytes.extend_from_slice(format!(",\"expires_at\":{expires_at_ms}").as_bytes());
    }
    bytes.extend_from_slice(b"}\n");
}
