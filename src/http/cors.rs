//! CORS: which pages may call this server from a browser (`--cors-origin`). By default none.

use hyper::{
    HeaderMap, Method,
    header::{self, HeaderValue},
};
use warp::reply::Response;

use super::call::Call;

/// How long a browser may remember that it asked.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("600");
/// What a page may read besides the body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "etag, link, location, retry-after, x-request-id, dynarust-version, dynarust-node, dynarust-expires, \
     dynarust-created, dynarust-next-cursor",
);

/// Adds what a browser needs to let the page of this call have the response.
pub fn apply(call: &Call, response: &mut Response) {
    let allowed = &call.peer.options.cors_origins;
    if allowed.is_empty() {
        return;
    }
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = call.headers.get(header::ORIGIN) else { return };
    if !is_allowed(allowed, origin) {
        return;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    if call.method == Method::OPTIONS && call.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        answer_preflight(&call.headers, headers);
    }
}

/// Whether pages of `origin` may call this server.
pub fn is_allowed(allowed: &[String], origin: &HeaderValue) -> bool {
    allowed.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes())
}

/// The methods are those of the resource, which OPTIONS has listed; a path that is none has none.
fn answer_preflight(asked: &HeaderMap, headers: &mut HeaderMap) {
    let Some(methods) = headers.get(header::ALLOW).cloned() else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
}
