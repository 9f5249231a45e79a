//! `/{table}/key/{key}`: read and write one key.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::stream;
use hyper::{
    Method, StatusCode,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use warp::{Reply, filters::BoxedFilter, reply::Response};

use super::route;
use crate::{
    core::json::Value,
    error::{Error, Result},
    http::{
        request::{
            Call,
            body::{self, PatchType},
            condition, consistency, expiry,
            path::{self, Address},
            route::Route,
            value::{self, absent, take_value, with_metadata},
        },
        response,
    },
    node::{Action, Entry, Expiry, Node, Patch, Write, Written},
};

/// Why we refuse a patch that looks like a PUT's body: as it stands, it would add a member named "value".
const WRAPPED: &str = "a patch is the change itself, such as {\"visits\":2}, and not wrapped in \"value\" as in a PUT; with ?wrap=true the \
     patch is what \"value\" holds, and with ?wrap=false a member named \"value\" is meant";

/// A value at least this long is not copied for each of its readers.
const SHARED_BYTES_MIN: usize = 64 * 1024;
/// The last instant an HTTP date can express, in Unix milliseconds.
const HTTP_DATE_MS_MAX: u64 = 253_402_300_799_999;

/// The route of single keys. It comes first, because most requests are for it.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(
        Route::Key,
        |path| path::keyed(path, "key"),
        move |call, address| answer(Arc::clone(&node), call, address),
    )
}

async fn answer(node: Arc<Node>, call: Call, address: Address) -> Result<Response> {
    match call.method {
        Method::GET | Method::HEAD if call.uri.query().is_some() || node.may_be_strong(&address.table) => {
            Box::pin(fresh_read(&node, &call, &address)).await
        }
        Method::GET | Method::HEAD => read(&node, &call, &address),
        // Boxed, so that reads do not carry and copy the room that writes need.
        Method::PUT => Box::pin(put(&node, &call, address)).await,
        Method::PATCH => Box::pin(patch(&node, &call, address)).await,
        Method::DELETE => Box::pin(delete(&node, &call, address)).await,
        _ => response::other_method(&call),
    }
}

/// As `read`, once this node may serve it.
async fn fresh_read(node: &Node, call: &Call, address: &Address) -> Result<Response> {
    let consistency = consistency::before_read(node, call, &address.table).await?;
    Ok(response::with_consistency(read(node, call, address)?, consistency))
}

/// `GET /{table}/key/{key}`
fn read(node: &Node, call: &Call, address: &Address) -> Result<Response> {
    let shows_metadata = call.uri.query().is_some() && call.query().flag("meta")?;
    let entry = node.get(&address.table, &address.key)?;
    let read = condition::of_read(&call.headers, entry.as_ref().map(|entry| entry.timestamp))?;
    let entry = entry.ok_or_else(|| absent(address))?;
    if read == condition::Read::NotModified {
        let mut response = response::empty(StatusCode::NOT_MODIFIED);
        insert_entry_headers(&mut response, &entry);
        return Ok(response);
    }
    // An explicit `meta` beats what the client accepts.
    let mut response = if shows_metadata {
        response::json_text(with_metadata(&entry))
    } else if wants_text(call) {
        response::with_type(response::TEXT, plain_text(&entry.value))
    } else if entry.value.as_str().len() >= SHARED_BYTES_MIN {
        shared(&entry.value)
    } else {
        response::json_text(wrap_value(&entry.value))
    };
    insert_entry_headers(&mut response, &entry);
    Ok(response)
}

/// The body of a PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a \"value\"")]
struct PutBody<'a> {
    #[serde(borrow, default, deserialize_with = "value::present")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_at: Option<&'a RawValue>,
}

impl PutBody<'_> {
    fn expiry(&self, call: &Call, now_ms: u64) -> Result<Option<Expiry>> {
        let in_query = expiry::of_query(call.query(), now_ms)?;
        expiry::one_of(in_query, expiry::of_members(self.ttl, self.expires_at, now_ms)?)
    }
}

/// `PUT /{table}/key/{key}`
async fn put(node: &Node, call: &Call, address: Address) -> Result<Response> {
    let bytes = read_value_body(node, call).await?;
    let body: PutBody = body::parse_object(&bytes)?;
    let value = take_value(node.value_bytes_max(), body.value.ok_or(Error::MissingValue)?)?;
    let expiry = body.expiry(call, node.now_ms())?;
    write(node, call, address, Action::Put { value, expiry }).await
}

/// `PATCH /{table}/key/{key}`
async fn patch(node: &Node, call: &Call, address: Address) -> Result<Response> {
    let wrap = call.query().switch("wrap")?;
    let bytes = read_value_body(node, call).await?;
    if body::without_bom(&bytes).trim_ascii().is_empty() && wrap.is_none() {
        let Some(expiry) = expiry::of_query(call.query(), node.now_ms())? else {
            return Err(Error::BadJson(
                "no patch: send one, or use ?ttl= or ?expires_at= to renew the expiry".into(),
            ));
        };
        return write(node, call, address, Action::Patch { patch: None, expiry: Some(expiry) }).await;
    }
    let (raw, expiry) = patch_of(node, call, wrap, &bytes)?;
    let patch = take_value(node.value_bytes_max(), raw)?;
    let patch = match body::patch_type(call) {
        PatchType::Json => Patch::json(patch)?,
        // As in a batch, a list is a JSON Patch. To replace a value with a list there is PUT.
        PatchType::Undeclared if patch.as_str().starts_with('[') => Patch::json(patch)?,
        PatchType::Merge | PatchType::Undeclared => {
            if wrap.is_none() && patch.only_wraps_an_object("value") {
                return Err(Error::BadRequest(WRAPPED.into()));
            }
            Patch::Merge(patch)
        }
    };
    write(node, call, address, Action::Patch { patch: Some(patch), expiry }).await
}

/// The patch in a body, and the expiry in the query or, if the patch is wrapped, next to it.
fn patch_of<'a>(
    node: &Node,
    call: &Call,
    wrap: Option<bool>,
    bytes: &'a [u8],
) -> Result<(&'a RawValue, Option<Expiry>)> {
    if wrap == Some(true) {
        let body: PutBody<'a> = body::parse_object(bytes)?;
        return Ok((body.value.ok_or(Error::MissingValue)?, body.expiry(call, node.now_ms())?));
    }
    let raw = serde_json::from_slice(body::without_bom(bytes));
    let raw = raw.map_err(|error| Error::BadJson(error.to_string()))?;
    Ok((raw, expiry::of_query(call.query(), node.now_ms())?))
}

/// `DELETE /{table}/key/{key}`
async fn delete(node: &Node, call: &Call, address: Address) -> Result<Response> {
    let force = call.query().flag("force")?;
    write(node, call, address, Action::Delete { force }).await
}

async fn write(node: &Node, call: &Call, address: Address, action: Action) -> Result<Response> {
    consistency::check_write_concern(node, call, &address.table).await?;
    let concern = condition::write_concern(call)?;
    let condition = condition::of_write(&call.headers)?;
    let deletes = matches!(action, Action::Delete { .. });
    let write = Write { key: address.key, action, condition };
    call.principal().check_write(&address.table, &write)?;
    let written = node.write(&address.table, write).await;
    let written = written.map_err(|error| call.principal().conceal(&address.table, error))?;
    node.replicated(written.timestamp, concern).await?;
    Ok(if deletes { deleted(written) } else { wrote(written) })
}

fn wrote(written: Written) -> Response {
    let Written { timestamp, created } = written;
    let body = format!("{{\"version\":\"{timestamp}\",\"timestamp\":{}}}", timestamp.unix_ms());
    let mut response = response::json_text(body);
    response::insert_version(&mut response, timestamp);
    if created {
        response.headers_mut().insert(response::CREATED, HeaderValue::from_static("true"));
    }
    response
}

fn deleted(written: Written) -> Response {
    let mut response = response::json_text("{\"deleted\":true}");
    let version = response::plain(written.timestamp.to_string().into());
    response.headers_mut().insert(response::VERSION, version);
    response
}

/// Reads the whole body of a request with one value.
async fn read_value_body(node: &Node, call: &Call) -> Result<body::FullBody> {
    let limit = node.value_bytes_max();
    body::read(call, limit + body::ENVELOPE_BYTES_MAX).await.map_err(|error| match error {
        // Report the limit that matters to the client, the value's.
        Error::TooLarge { .. } => Error::TooLarge { what: "value", limit },
        other => other,
    })
}

/// `{"value":V}`, without parsing V.
fn wrap_value(value: &Value) -> Vec<u8> {
    let value = value.as_str().as_bytes();
    let mut body = Vec::with_capacity(value.len() + 10);
    body.extend_from_slice(b"{\"value\":");
    body.extend_from_slice(value);
    body.push(b'}');
    body
}

/// As `wrap_value`, but without copying V: all readers share its bytes.
fn shared(value: &Value) -> Response {
    struct Text(Value);
    impl AsRef<[u8]> for Text {
        fn as_ref(&self) -> &[u8] {
            self.0.as_str().as_bytes()
        }
    }
    let parts = [
        Bytes::from_static(b"{\"value\":"),
        Bytes::from_owner(Text(value.clone())),
        Bytes::from_static(b"}"),
    ];
    let length = parts.iter().map(Bytes::len).sum::<usize>();
    let mut response = warp::reply::stream(stream::iter(parts.map(Ok::<_, Error>))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, response::JSON);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn wants_text(call: &Call) -> bool {
    call.headers.get(header::ACCEPT).is_some_and(|accept| {
        let accept = accept.to_str().unwrap_or_default();
        // A client that accepts JSON gets JSON. Browsers ask for text/html and for everything.
        accept.contains("text/plain") && !accept.contains("json") && !accept.contains("text/html")
    })
}

/// The value alone, a string without its quotes. A string that cannot be text (a lone surrogate) stays JSON.
fn plain_text(value: &Value) -> String {
    serde_json::from_str::<String>(value.as_str()).unwrap_or_else(|_| value.as_str().to_string())
}

fn insert_entry_headers(response: &mut Response, entry: &Entry) {
    response::insert_version(response, entry.timestamp);
    let modified_ms = entry.timestamp.unix_ms().min(HTTP_DATE_MS_MAX);
    let modified = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(modified_ms));
    response.headers_mut().insert(header::LAST_MODIFIED, response::plain(modified.into()));
    if let Some(expires_at_ms) = entry.expires_at_ms {
        response.headers_mut().insert(response::EXPIRES, HeaderValue::from(expires_at_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::clock::{NodeId, Timestamp};

    fn entry(value: &str, unix_ms: u64) -> Entry {
        let timestamp = Timestamp { hlc: unix_ms << 16, node: NodeId(7) };
        Entry { value: Value::parse(value).expect("json"), timestamp, expires_at_ms: Some(5) }
    }

    #[test]
    fn null_is_a_value_and_differs_from_absent() {
        let value = |body: &str| {
            body::parse_object::<PutBody>(body.as_bytes()).map(|it| it.value.map(|v| v.get().to_string()))
        };
        assert_eq!(value(r#"{"value":null}"#).expect("json"), Some("null".into()));
        assert_eq!(value(r#"{"ttl":1,"value": 1.10 }"#).expect("json"), Some("1.10".into()));
        assert_eq!(value("{}").expect("json"), None);
        for wrong in [
            "",
            "1",
            "null",
            "{",
            "[1]",
            r#"{"value":1,"value":2}"#,
            r#"{"other":1,"value":2}"#,
            r#"{"value":tru}"#,
            "{\"value\":\"\x01\"}",
        ] {
            assert!(value(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_is_returned_as_it_was_sent() {
        let entry = entry(r#"{"n":12345678901234567890}"#, 1);
        assert_eq!(wrap_value(&entry.value), br#"{"value":{"n":12345678901234567890}}"#);
        let meta: serde_json::Value = serde_json::from_str(&with_metadata(&entry)).expect("json");
        assert_eq!(meta["version"], entry.timestamp.to_string());
        assert_eq!((meta["timestamp"].as_u64(), meta["expires_at"].as_u64()), (Some(1), Some(5)));
    }

    #[test]
    fn plain_text_is_a_string_without_quotes_or_another_value_as_json() {
        let text = |value: &str| plain_text(&Value::trusted(value.into()));
        assert_eq!(text(r#""a \"b\"\n""#), "a \"b\"\n");
        assert_eq!(text("[1,2]"), "[1,2]");
        assert_eq!(text(r#""\ud800""#), r#""\ud800""#);
    }

    #[test]
    fn a_time_beyond_http_dates_becomes_the_last_http_date() {
        let mut response = response::json_text("{}");
        insert_entry_headers(&mut response, &entry("1", u64::MAX >> 16));
        assert_eq!(response.headers()[header::LAST_MODIFIED], "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
