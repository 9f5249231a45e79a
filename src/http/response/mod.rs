//! Responses: JSON, text, and the one `match` that maps an error to its status and code (RFC 9457).

pub mod chunks;

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use serde::Serialize;
use serde_json::{Map, json};
use warp::reply::Response;

use super::request::{self, Call, accepts};
use crate::{
    core::clock::Timestamp,
    error::{Error, Result},
    http::request::{route::Route, write_hex},
    node::strong::Consistency,
};

/// The content type of JSON.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The content type of newline-delimited JSON.
pub const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// The content type of plain text.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The version of a value.
pub const VERSION: HeaderName = HeaderName::from_static("dynarust-version");
/// The node that wrote a value.
pub const NODE: HeaderName = HeaderName::from_static("dynarust-node");
/// When a value expires, in Unix milliseconds.
pub const EXPIRES: HeaderName = HeaderName::from_static("dynarust-expires");
/// `true` if the key was absent before the write.
pub const CREATED: HeaderName = HeaderName::from_static("dynarust-created");
/// Tells that keys are missing from a response.
pub const INCOMPLETE: HeaderName = HeaderName::from_static("dynarust-incomplete");
/// The cursor of the next page of a listing.
pub const NEXT_CURSOR: HeaderName = HeaderName::from_static("dynarust-next-cursor");
/// Whether a read of a strong table may show something old, as was asked for.
pub const STALE: HeaderName = HeaderName::from_static("dynarust-stale");
/// About how many keys a streamed response has: the count at its start, with expired keys that are not swept yet.
pub const TOTAL_KEYS: HeaderName = HeaderName::from_static("dynarust-total-keys");

/// A 200 with this body.
pub fn with_type(content_type: HeaderValue, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    // Room for what the response to a read gets: type and nosniff, request id, three version headers and the date, keep-alive. hyper adds
    // its own later.
    response.headers_mut().reserve(8);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// A 200 with JSON text as given. By contract, the bodies of the oldest routes end with their last bracket.
pub fn json_text(text: impl Into<Bytes>) -> Response {
    with_type(JSON, text)
}

/// A 200 with `body` as one line of JSON. The oldest routes end without a line break and use `json_text`.
///
/// # Errors
/// `Io` for what JSON cannot express; the types here never hold that.
pub fn json(body: &impl Serialize) -> Result<Response> {
    let mut text = serde_json::to_vec(body).map_err(|error| Error::Io(format!("writing JSON: {error}")))?;
    text.push(b'\n');
    Ok(json_text(text))
}

/// Adds how many keys a response has in all, if known.
pub fn with_total(mut response: Response, keys: Option<u64>) -> Response {
    if let Some(keys) = keys {
        response.headers_mut().insert(TOTAL_KEYS, keys.into());
    }
    response
}

/// Says of a response that it may be old, if it was asked for so.
pub fn with_consistency(mut response: Response, consistency: Consistency) -> Response {
    if consistency == Consistency::Stale {
        response.headers_mut().insert(STALE, HeaderValue::from_static("true"));
    }
    response
}

/// A response without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// The response to a method that a resource has no handler for: for OPTIONS the methods that it has, otherwise 405.
///
/// # Errors
/// `MethodNotAllowed`, for everything but OPTIONS; `NotFound` for a table alone, where somebody may look for its keys.
pub fn other_method(call: &Call) -> Result<Response> {
    if call.route() == Route::Table && matches!(call.method, Method::GET | Method::HEAD) {
        return Err(Error::NotFound(format!(
            "nothing is at {path}; keys are at {path}/key/{{key}}, lists of them at {path}/keys",
            path = call.path()
        )));
    }
    let methods = accepts::methods(call.route(), call.path());
    if call.method != Method::OPTIONS {
        return Err(Error::MethodNotAllowed(methods));
    }
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(header::ALLOW, allow(&methods));
    Ok(response)
}

fn allow(methods: &str) -> HeaderValue {
    HeaderValue::from_str(methods).expect("names of methods are visible ASCII")
}

/// The response to a request that failed.
pub fn problem(error: &Error, call: &Call) -> Response {
    problem_of(error, &problem_object(error, call.request_id.to_str().unwrap_or_default()))
}

/// The response to a request that failed with `error`, with the problem in `object`.
pub fn problem_of(error: &Error, object: &serde_json::Value) -> Response {
    problem_text(error, object.to_string())
}

/// The response to a request that failed with `error`, with the problem as JSON text.
pub fn problem_text(error: &Error, text: impl Into<Bytes>) -> Response {
    let (status, _) = status_and_code(error);
    let mut text = text.into().to_vec();
    text.push(b'\n');
    let mut response = with_type(PROBLEM, text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Error::MethodNotAllowed(methods) = error {
        headers.insert(header::ALLOW, allow(methods));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, challenge(error));
    }
    if is_retryable(status) {
        let seconds = if let Error::RateLimited { wait_ms, .. } = error { wait_ms.div_ceil(1000) } else { 1 };
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// How a client may prove who it is (RFC 6750, section 3).
fn challenge(error: &Error) -> HeaderValue {
    HeaderValue::from_static(match error {
        Error::Unauthenticated { is_invalid: true, .. } => {
            r#"Bearer realm="DynaRust", error="invalid_token""#
        }
        Error::Unauthenticated { is_invalid: false, .. } => r#"Bearer realm="DynaRust""#,
        _ => "DynaRust",
    })
}

/// A complete response as text, for a connection that ends before there was a request.
pub fn plain_response(error: &Error) -> String {
    let (status, _) = status_and_code(error);
    let id = request::next_request_id();
    let id = id.to_str().unwrap_or_default();
    let body = problem_object(error, id).to_string() + "\n";
    let length = body.len();
    let retry = if is_retryable(status) { "retry-after: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\
         x-content-type-options: nosniff\r\nx-request-id: {id}\r\n{retry}connection: close\r\n\r\n{body}"
    )
}

/// Whether the client may succeed if it tries again in a moment.
pub fn is_retryable(status: StatusCode) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
}

/// The body of a problem, also when it is part of a larger response.
pub fn problem_object(error: &Error, request_id: &str) -> serde_json::Value {
    let (status, code) = status_and_code(error);
    let mut problem = Map::new();
    problem.insert("type".into(), format!("urn:dynarust:error:{code}").into());
    problem.insert("title".into(), status.canonical_reason().unwrap_or_default().into());
    problem.insert("status".into(), status.as_u16().into());
    problem.insert("detail".into(), error.to_string().into());
    problem.insert("error".into(), code.into());
    problem.insert("request_id".into(), request_id.into());
    if let Error::PreconditionFailed { current } = error {
        problem.insert("version".into(), json!(current));
    }
    if let Error::TooLarge { limit, .. } = error {
        problem.insert("limit".into(), json!(limit));
    }
    if let Error::TooManyOperations { limit, .. } = error {
        problem.insert("limit".into(), json!(limit));
    }
    if let Error::NotGranted { right, .. } = error {
        problem.insert("right".into(), json!(right));
    }
    if let Error::RateLimited { wait_ms, .. } = error {
        problem.insert("retry_after_ms".into(), json!(wait_ms));
    }
    if let Error::NotEnoughReplicas { held, wanted, version, unix_ms } = error {
        problem.insert("held".into(), json!(held));
        problem.insert("wanted".into(), json!(wanted));
        problem.insert("version".into(), json!(version));
        problem.insert("timestamp".into(), json!(unix_ms));
    }
    serde_json::Value::Object(problem)
}

/// The status and the short code of an error. Nothing else decides them.
pub fn status_and_code(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::BadJson(_) => (StatusCode::BAD_REQUEST, "bad-json"),
        Error::MissingValue => (StatusCode::BAD_REQUEST, "missing-value"),
        Error::BadKey(_) => (StatusCode::BAD_REQUEST, "bad-key"),
        Error::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request"),
        Error::Unauthorized(_) | Error::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, "unauthorized"),
        Error::Forbidden(_) | Error::NotGranted { .. } => (StatusCode::FORBIDDEN, "forbidden"),
        Error::Misdirected(_) => (StatusCode::MISDIRECTED_REQUEST, "misdirected"),
        Error::NotFound(_) => (StatusCode::NOT_FOUND, "not-found"),
        Error::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
        Error::RequestTimeout(_) => (StatusCode::REQUEST_TIMEOUT, "request-timeout"),
        Error::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        Error::PreconditionFailed { .. } => (StatusCode::PRECONDITION_FAILED, "precondition-failed"),
        Error::TooLarge { .. } | Error::TooManyOperations { .. } => {
            (StatusCode::PAYLOAD_TOO_LARGE, "too-large")
        }
        Error::HeadTooLarge { .. } => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large"),
        Error::UnsupportedType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type"),
        Error::BadName(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad-name"),
        Error::ClockDrift { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "clock-drift"),
        Error::TimestampsAhead { .. } => (StatusCode::SERVICE_UNAVAILABLE, "clock-drift"),
        Error::TooMany(_) | Error::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "too-many"),
        Error::Overloaded(_) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        Error::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
        Error::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Error::NotEnoughReplicas { .. } => (StatusCode::GATEWAY_TIMEOUT, "not-enough-replicas"),
        Error::WrongMode(_) => (StatusCode::CONFLICT, "wrong-mode"),
        Error::NoQuorum(_) => (StatusCode::SERVICE_UNAVAILABLE, "no-quorum"),
        Error::OutcomeUnknown(_) => (StatusCode::GATEWAY_TIMEOUT, "outcome-unknown"),
        Error::StorageFull(_) => (StatusCode::INSUFFICIENT_STORAGE, "storage-full"),
        Error::Corrupt(_) => (StatusCode::INTERNAL_SERVER_ERROR, "corrupt"),
        Error::StorageInUse(_)
        | Error::StorageUnusable(_)
        | Error::StorageDamaged(_)
        | Error::Config(_)
        | Error::Io(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// Marks a response as incomplete.
pub fn mark_incomplete(response: &mut Response) {
    let why = HeaderValue::from_static("keys that cannot be read on this node are missing");
    response.headers_mut().insert(INCOMPLETE, why);
}

/// The headers that name the version a response is about.
pub fn insert_version(response: &mut Response, timestamp: Timestamp) {
    // `"<hlc>-<node>"`: one allocation serves the entity tag, the version inside its quotes, and the node inside that.
    let mut text = [b'"'; 35];
    write_hex(timestamp.hlc, &mut text[1..17]);
    text[17] = b'-';
    write_hex(timestamp.node.0, &mut text[18..34]);
    let etag = Bytes::copy_from_slice(&text);
    let headers = response.headers_mut();
    headers.insert(NODE, plain(etag.slice(18..34)));
    headers.insert(VERSION, plain(etag.slice(1..34)));
    headers.insert(header::ETAG, plain(etag));
}

/// A header value of visible ASCII.
pub fn plain(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("visible ASCII is a header value")
}

/// A 101: the connection is a WebSocket from here on.
pub fn switching_protocols(accept: &str) -> Response {
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, plain(accept.to_owned().into()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::clock::NodeId;

    #[test]
    fn version_headers_match_the_text_of_the_timestamp() {
        let timestamp = Timestamp { hlc: 0x0123_4567_89ab_cdef, node: NodeId(0xfedc_ba98) };
        let mut response = json_text("{}");
        insert_version(&mut response, timestamp);
        let header = |name: HeaderName| response.headers()[name].to_str().expect("text").to_string();
        assert_eq!(header(VERSION), timestamp.to_string());
        assert_eq!(header(NODE), timestamp.node.to_string());
        assert_eq!(header(header::ETAG), format!("\"{timestamp}\""));
    }

    #[test]
    fn a_problem_names_the_fault_and_the_request() {
        let error = Error::TooLarge { what: "value", limit: 10 };
        let problem = problem_object(&error, "id-1");
        assert_eq!(problem["error"], "too-large");
        assert_eq!(problem["status"], 413);
        assert_eq!(problem["title"], "Payload Too Large");
        assert_eq!(problem["request_id"], "id-1");
        assert_eq!(problem["limit"], 10);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("10 bytes")));
    }
}
