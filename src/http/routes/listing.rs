//! `/{table}/keys`, `/{table}/store`, `/{table}/count`: many keys of one table.
//!
//! Without a limit a listing is streamed page by page as the client reads it, so memory stays flat for tables of any size. If some keys
//! cannot be read, it lists all others and then aborts: an incomplete listing never looks like a complete short one. With a limit the page
//! is collected first, because the head of the response says whether another page follows.

use std::sync::Arc;

use hyper::{Method, header};
use serde_json::json;
use warp::{filters::BoxedFilter, reply::Response};

use super::{multi_get, route};
use crate::{
    core::{
        hex::{from_hex, to_hex},
        name::{Key, TableName},
    },
    error::{Error, Result},
    http::{
        request::{Call, Query, consistency, path, route::Route, value},
        response::{
            self,
            chunks::{self, Chunk, Chunks},
        },
    },
    node::{Entry, Node, Page, Range, Row, strong::Consistency},
};

/// Largest `limit`.
pub(super) const LIMIT_MAX: usize = 10_000;
/// A page with a limit ends early at this many bytes, of the answer or of the values that are read for it. The next page continues.
const LIMITED_PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Rows read from the storage at a time.
const PAGE_ROWS: usize = 1000;

/// The route of a table's keys.
pub fn keys_routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(
        Route::Keys,
        |path| path::collection(path, "keys"),
        move |call, table| answer_keys(Arc::clone(&node), call, table),
    )
}

/// The route of a table's rows.
pub fn store_routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(
        Route::Store,
        |path| path::collection(path, "store"),
        move |call, table| answer_store(Arc::clone(&node), call, table),
    )
}

/// The route of a table's count.
pub fn count_routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(
        Route::Count,
        |path| path::collection(path, "count"),
        move |call, table| answer_count(Arc::clone(&node), call, table),
    )
}

async fn answer_keys(node: Arc<Node>, call: Call, table: TableName) -> Result<Response> {
    match call.method {
        // `GET /{table}/keys`
        Method::GET | Method::HEAD => {
            let consistency = consistency::before_read(&node, &call, &table).await?;
            let listed = Listing::of(node, &call, table, Shape::Keys, consistency)?.answer(&call).await?;
            Ok(response::with_consistency(listed, consistency))
        }
        // `POST /{table}/keys`
        Method::POST => multi_get::answer(node, &call, table).await,
        _ => response::other_method(&call),
    }
}

/// `GET /{table}/store`
async fn answer_store(node: Arc<Node>, call: Call, table: TableName) -> Result<Response> {
    match call.method {
        Method::GET | Method::HEAD => {
            let shape = Shape::Store(Fields::of(call.query())?);
            let consistency = consistency::before_read(&node, &call, &table).await?;
            let listed = Listing::of(node, &call, table, shape, consistency)?.answer(&call).await?;
            Ok(response::with_consistency(listed, consistency))
        }
        _ => response::other_method(&call),
    }
}

/// `GET /{table}/count`
async fn answer_count(node: Arc<Node>, call: Call, table: TableName) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(&call);
    }
    let consistency = consistency::before_read(&node, &call, &table).await?;
    let counted = node.count(&table, &range(call.query())?, consistency).await?;
    if counted.incomplete {
        let error = unreadable(&table);
        let mut problem = response::problem_object(&error, call.request_id.to_str().unwrap_or_default());
        problem["count"] = json!(counted.keys);
        return Ok(response::problem_of(&error, &problem));
    }
    Ok(response::with_consistency(response::json(&json!({ "count": counted.keys }))?, consistency))
}

/// The key range that a query asks for.
pub fn range(query: Query<'_>) -> Result<Range> {
    Ok(Range {
        prefix: query.get("prefix")?.unwrap_or_default().into_owned(),
        start: query.get("start")?.map(String::from),
        end: query.get("end")?.map(String::from),
        after: None,
        reverse: false,
    })
}

/// What to return of a row besides its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// `V`
    Value,
    /// `{"value":V,"version":...}`
    ValueAndMeta,
    /// `{"version":...,"bytes":...}`
    Meta,
}

impl Fields {
    fn of(query: Query<'_>) -> Result<Self> {
        match (query.switch("values")?.unwrap_or(true), query.flag("meta")?) {
            (true, false) => Ok(Self::Value),
            (true, true) => Ok(Self::ValueAndMeta),
            (false, true) => Ok(Self::Meta),
            (false, false) => Err(Error::BadRequest(
                "values=false leaves only the keys: use /{table}/keys for those, or add meta=true for versions and expiries".into(),
            )),
        }
    }

    /// Appends these fields of a row.
    pub fn append(self, body: &mut Vec<u8>, entry: &Entry) {
        match self {
            Self::Value => body.extend_from_slice(entry.value.as_str().as_bytes()),
            Self::ValueAndMeta => body.extend_from_slice(value::with_metadata(entry).as_bytes()),
            Self::Meta => body.extend_from_slice(value::without_value(entry).as_bytes()),
        }
    }
}

/// The form of a listing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `["k1","k2"]`
    Keys,
    /// `{"k1":V1,"k2":V2}`
    Store(Fields),
}

impl Shape {
    fn opening(self) -> u8 {
        if self == Self::Keys { b'[' } else { b'{' }
    }

    fn closing(self) -> u8 {
        if self == Self::Keys { b']' } else { b'}' }
    }
}

/// A running listing.
struct Listing {
    node: Arc<Node>,
    table: TableName,
    /// The range that remains.
    range: Range,
    limit: Option<usize>,
    shape: Shape,
    consistency: Consistency,
    begun: bool,
    /// Bytes of values that were read, also where the answer has only their lengths.
    read_bytes: usize,
    /// Whether some keys could not be read.
    incomplete: bool,
    /// Whether unreadable keys were known before the listing began.
    marked_incomplete: bool,
    opened: bool,
    ended: bool,
}

impl Listing {
    fn of(
        node: Arc<Node>,
        call: &Call,
        table: TableName,
        shape: Shape,
        consistency: Consistency,
    ) -> Result<Self> {
        let query = call.query();
        let range = Range {
            after: query.get("cursor")?.map(|cursor| parse_cursor(&cursor)).transpose()?,
            reverse: query.flag("reverse")?,
            ..range(query)?
        };
        let limit = query.get("limit")?.map(|limit| parse_limit(&limit)).transpose()?;
        Ok(Self {
            node,
            table,
            range,
            limit,
            shape,
            consistency,
            begun: false,
            read_bytes: 0,
            incomplete: false,
            marked_incomplete: false,
            opened: false,
            ended: false,
        })
    }

    async fn answer(mut self, call: &Call) -> Result<Response> {
        self.marked_incomplete = self.node.has_unreadable_keys(&self.table, &self.range);
        match self.limit {
            None => {
                // For a range, the number of keys is not known before they are read.
                let total = self.is_all().then(|| self.node.keys_total(|name| *name == self.table)).flatten();
                Ok(response::with_total(chunks::answer(call, response::JSON, self).await?, total))
            }
            Some(limit) => self.answer_page(limit, call).await,
        }
    }

    /// Whether it covers the whole table.
    fn is_all(&self) -> bool {
        let Range { prefix, start, end, after, reverse: _ } = &self.range;
        prefix.is_empty() && start.is_none() && end.is_none() && after.is_none()
    }

    async fn answer_page(mut self, limit: usize, call: &Call) -> Result<Response> {
        let mut body = vec![self.shape.opening()];
        let mut left = limit;
        let mut more = true;
        // Reserve memory until the response itself holds it.
        let mut reservation = call.connection.budget.empty_reservation();
        while more && left > 0 && body.len().max(self.read_bytes) < LIMITED_PAGE_BYTES_MAX {
            let rows;
            (rows, more) = self.append_rows(&mut body, left.min(PAGE_ROWS)).await?;
            left -= rows;
            reservation.reserve_at_least(body.len())?;
        }
        body.push(self.shape.closing());
        let mut response =
            if self.incomplete { self.problem(&body, call)? } else { response::json_text(body) };
        if let Some(last) = self.range.after.filter(|_| more) {
            insert_next(&mut response, call, &last);
        }
        Ok(response)
    }

    /// A page with unreadable keys: an error that carries the readable ones. The next page continues after it.
    fn problem(&self, readable: &[u8], call: &Call) -> Result<Response> {
        let error = unreadable(&self.table);
        let object =
            response::problem_object(&error, call.request_id.to_str().unwrap_or_default()).to_string();
        let open = object.strip_suffix('}').unwrap_or_default();
        // Insert the text as it is, so that numbers keep their digits.
        let body = [open.as_bytes(), b",\"readable\":", readable, b"}"].concat();
        let mut response = response::problem_of(&error, &json!({}));
        *response.body_mut() = hyper::body::Bytes::from(body).into();
        response::mark_incomplete(&mut response);
        Ok(response)
    }

    /// Appends the next rows. Returns how many, and whether more may follow.
    async fn append_rows(&mut self, body: &mut Vec<u8>, rows_max: usize) -> Result<(usize, bool)> {
        match self.shape {
            Shape::Keys => {
                let page = self.node.keys(&self.table, &self.range, rows_max, self.consistency).await?;
                for key in &page.rows {
                    self.append_key(body, key);
                }
                Ok(self.advance(page, |key| key))
            }
            Shape::Store(fields) => {
                let page = self.node.rows(&self.table, &self.range, rows_max, self.consistency).await?;
                for row in &page.rows {
                    self.read_bytes += row.entry.value.as_str().len();
                    self.append_key(body, &row.key);
                    body.push(b':');
                    fields.append(body, &row.entry);
                }
                Ok(self.advance(page, |row: Row| row.key))
            }
        }
    }

    fn append_key(&mut self, body: &mut Vec<u8>, key: &Key) {
        if std::mem::replace(&mut self.begun, true) {
            body.push(b',');
        }
        append_string(body, key.as_str());
    }

    fn advance<T>(&mut self, page: Page<T>, key: impl FnOnce(T) -> Key) -> (usize, bool) {
        self.incomplete |= page.incomplete;
        let rows = page.rows.len();
        if let Some(last) = page.rows.into_iter().last() {
            self.range.after = Some(key(last));
        }
        (rows, page.more)
    }
}

impl Chunks for Listing {
    async fn next(&mut self) -> Result<Chunk> {
        if self.ended {
            return Err(unreadable(&self.table));
        }
        let mut bytes = Vec::new();
        if !self.opened {
            bytes.push(self.shape.opening());
            self.opened = true;
        }
        let (_, more) = self.append_rows(&mut bytes, PAGE_ROWS).await?;
        // An incomplete response has no closing bracket.
        self.ended = !more && self.incomplete;
        if !more && !self.incomplete {
            bytes.push(self.shape.closing());
        }
        Ok(Chunk { bytes, last: !more && !self.incomplete })
    }

    fn is_incomplete(&self) -> bool {
        self.incomplete || self.marked_incomplete
    }
}

/// The error of a listing with unreadable keys.
pub fn unreadable(table: &TableName) -> Error {
    Error::Corrupt(format!(
        "some keys of table {table} lie on a part of the disk that cannot be read, and are missing here; all others were read. \
         Another node may have them"
    ))
}

/// Appends `text` as a JSON string.
pub fn append_string(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("text is valid JSON, and writing to a Vec cannot fail");
}

/// The rows of a page.
///
/// # Errors
/// `BadRequest` for anything but a number up to `LIMIT_MAX`.
pub(super) fn parse_limit(text: &str) -> Result<usize> {
    let limit = text.parse().map_err(|_| Error::BadRequest(format!("limit={text}: not a number")))?;
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::BadRequest(format!(
        "limit={limit}: use 1 to {LIMIT_MAX}, or leave it out to stream everything"
    )))
}

/// A cursor is the last key's bytes in hexadecimal, so it needs no escaping in a header, a link or a shell.
pub fn render_cursor(key: &Key) -> String {
    to_hex(key.as_str().as_bytes())
}

/// The key of a cursor.
///
/// # Errors
/// `BadRequest`.
pub fn parse_cursor(text: &str) -> Result<Key> {
    let key = from_hex(text).and_then(|bytes| String::from_utf8(bytes).ok());
    key.and_then(|key| Key::parse(&key).ok())
        .ok_or_else(|| Error::BadRequest(format!("cursor={text}: this is not a cursor of this server")))
}

/// Adds the link to the next page: the same request, starting at the cursor.
fn insert_next(response: &mut Response, call: &Call, last: &Key) {
    let cursor = render_cursor(last);
    let query = call.uri.query().unwrap_or_default();
    let parameters = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "cursor");
    // The link is relative, because a proxy may serve this path under another.
    let target = form_urlencoded::Serializer::for_suffix(String::from("?"), 1)
        .extend_pairs(parameters)
        .append_pair("cursor", &cursor)
        .finish();
    response.headers_mut().insert(header::LINK, response::plain(format!("<{target}>; rel=\"next\"").into()));
    response.headers_mut().insert(response::NEXT_CURSOR, response::plain(cursor.into()));
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn a_cursor_holds_any_key() {
        for key in ["a", "a/b=ü&\n🦀", "\0", &"x".repeat(1024)] {
            let key = Key::parse(key).expect("a key");
            assert_eq!(parse_cursor(&render_cursor(&key)), Ok(key));
        }
        for wrong in ["", "0", "0g", "ff", "+1", &"61".repeat(1025)] {
            assert!(matches!(parse_cursor(wrong), Err(Error::BadRequest(_))), "{wrong}");
        }
    }

    #[test]
    fn the_next_page_is_the_same_request_from_the_cursor_on() {
        let request = Request::get("/t/keys?prefix=a%2F&cursor=00&limit=2").body(()).expect("a request");
        let mut response = response::json_text("[]");
        insert_next(&mut response, &Call::of(request), &Key::parse("ab").expect("a key"));
        let link = "<?prefix=a%2F&limit=2&cursor=6162>; rel=\"next\"";
        assert_eq!(response.headers()[header::LINK], link);
        assert_eq!(response.headers()[response::NEXT_CURSOR], "6162");
    }

    /// A query with a letter outside ASCII, which the server takes, got 400 instead of the link to its next page.
    #[test]
    fn whatever_a_query_has_can_stand_in_the_link() {
        let request = Request::get("/t/keys?prefix=é&reverse").body(()).expect("a request");
        let mut response = response::json_text("[]");
        insert_next(&mut response, &Call::of(request), &Key::parse("ab").expect("a key"));
        let link = "<?prefix=%C3%A9&reverse=&cursor=6162>; rel=\"next\"";
        assert_eq!(response.headers()[header::LINK], link);
    }

    #[test]
    fn a_limit_has_limits() {
        assert_eq!(parse_limit("10000"), Ok(10_000));
        for wrong in ["0", "10001", "", "-1", "x", "1.5"] {
            assert!(matches!(parse_limit(wrong), Err(Error::BadRequest(_))), "{wrong}");
        }
    }
}
