//! Where spans of requests go, as in OpenTelemetry: a request, with when it began and how long it took. The program decides what does it;
//! by default nothing.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use hyper::{HeaderMap, Method, StatusCode, header::HeaderName};

/// A request that was answered.
#[derive(Debug)]
pub struct RequestSpan<'a> {
    /// What was asked, and the status of the answer.
    pub exchange: Exchange<'a>,
    /// The request's id.
    pub request_id: &'a str,
    /// The headers of the request, where its own trace may be.
    pub headers: &'a HeaderMap,
    /// When it began.
    pub began: SystemTime,
    /// How long it took: until the head of the answer, or until the end of the call.
    pub took: Duration,
}

/// What was asked, and the status of the answer.
#[derive(Clone, Copy, Debug)]
pub enum Exchange<'a> {
    /// A request of HTTP.
    Http {
        /// The method.
        method: &'a Method,
        /// The name of the route, as in the metrics: never a path, which has keys.
        route: &'static str,
        /// The status of the answer.
        status: StatusCode,
    },
    /// A call of gRPC.
    Grpc {
        /// `package.Service/Method`, or `unknown`, as in the metrics.
        method: &'a str,
        /// The number of the status.
        code: usize,
    },
}

/// The methods that a span names (RFC 9110, and PATCH). Anyone can send others, of any length.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::CONNECT,
    Method::TRACE,
];
/// Longest `tracestate` that a span keeps: what W3C Trace Context asks everyone to pass on.
pub const TRACE_STATE_BYTES_MAX: usize = 512;

/// The headers of a request that name its trace, as in W3C Trace Context.
pub const TRACE_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

/// The method, if it is a known one.
pub fn known_method(method: &Method) -> Option<&str> {
    METHODS.contains(method).then(|| method.as_str())
}

impl RequestSpan<'_> {
    /// A header that says of which trace the request is a part. A `tracestate` that is too long is dropped, and the rest of the trace kept.
    pub fn trace_header(&self, name: &str) -> Option<&str> {
        let is_bounded =
            |text: &&str| !name.eq_ignore_ascii_case("tracestate") || text.len() <= TRACE_STATE_BYTES_MAX;
        self.headers.get(name)?.to_str().ok().filter(is_bounded)
    }
}

/// What takes the spans. It must not block.
pub trait Spans: fmt::Debug + Send + Sync {
    /// Takes one.
    fn answered(&self, span: &RequestSpan<'_>);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2,048 spans wait for a collector, and each kept what a client had sent as its method: up to 64 KiB.
    #[test]
    fn what_a_client_sends_makes_no_span_long() {
        let known = |method: &str| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            known_method(&method).map(str::to_owned)
        };
        assert_eq!(known("PATCH").as_deref(), Some("PATCH"));
        assert_eq!(known(&"X".repeat(10_000)), None);
        assert_eq!(known("get"), None, "methods have a case");
        let kept = |state: usize, header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("tracestate", "a".repeat(state).parse().expect("a value"));
            headers.insert("traceparent", "b".repeat(1000).parse().expect("a value"));
            let span = RequestSpan {
                exchange: Exchange::Grpc { method: "unknown", code: 0 },
                request_id: "1",
                headers: &headers,
                began: SystemTime::UNIX_EPOCH,
                took: Duration::ZERO,
            };
            span.trace_header(header).map(str::len)
        };
        assert_eq!(kept(TRACE_STATE_BYTES_MAX, "tracestate"), Some(TRACE_STATE_BYTES_MAX));
        assert_eq!(kept(TRACE_STATE_BYTES_MAX + 1, "tracestate"), None);
        assert_eq!(kept(0, "traceparent"), Some(1000));
    }
}
