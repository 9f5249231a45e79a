//! CORS: which origins' pages may call this server from a browser (`--cors-origin`). None by default.

use hyper::{
    HeaderMap, Method,
    header::{self, HeaderName, HeaderValue},
};
use warp::reply::Response;

use crate::http::request::Call;

/// How long a browser may cache a preflight response.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("600");
const PRIVATE_NETWORK_ASKED: HeaderName = HeaderName::from_static("access-control-request-private-network");
const PRIVATE_NETWORK_ALLOWED: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// Response headers that a page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "etag, link, location, retry-after, x-request-id, dynarust-version, dynarust-node, dynarust-expires, \
     dynarust-created, dynarust-next-cursor, dynarust-incomplete",
);

/// Adds the headers that let the calling page read the response. `is_of_member`: whether an origin is that of a member of the cluster.
pub fn apply(call: &Call, response: &mut Response, is_of_member: impl Fn(&HeaderValue) -> bool) {
    let allowed = &call.connection.options.cors_origins;
    let mut origins = call.headers.get_all(header::ORIGIN).iter();
    let origin = origins.next();
    let may = |origin: &&HeaderValue| is_allowed(allowed, origin) || is_of_member(origin);
    let origin = origin.filter(may).filter(|_| origins.next().is_none());
    if allowed.is_empty() && origin.is_none() {
        return;
    }
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin else { return };
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

/// Allows the methods that OPTIONS listed for the resource. An unknown path has none.
fn answer_preflight(asked: &HeaderMap, headers: &mut HeaderMap) {
    let Some(methods) = headers.get(header::ALLOW).cloned() else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    // Chromium asks this when the page comes from a wider network than this server.
    if asked.contains_key(PRIVATE_NETWORK_ASKED) {
        headers.insert(PRIVATE_NETWORK_ALLOWED, HeaderValue::from_static("true"));
    }
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
}
