//! Where spans of requests go, as in OpenTelemetry: a request, with when it began and how long it took. The program decides what does it;
//! by default nothing.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use hyper::{HeaderMap, Method, StatusCode};

/// A request that was answered.
#[derive(Debug)]
pub struct RequestSpan<'a> {
    /// The method.
    pub method: &'a Method,
    /// The name of the route, as in the metrics: never a path, which has keys.
    pub route: &'static str,
    /// The status of the answer.
    pub status: StatusCode,
    /// The request's id.
    pub request_id: &'a str,
    /// The headers of the request, where its own trace may be.
    pub headers: &'a HeaderMap,
    /// When it began.
    pub began: SystemTime,
    /// How long it took until the head of the answer.
    pub took: Duration,
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
const TRACE_STATE_BYTES_MAX: usize = 512;

impl RequestSpan<'_> {
    /// The method, if it is a known one.
    pub fn known_method(&self) -> Option<&str> {
        METHODS.contains(self.method).then(|| self.method.as_str())
    }

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
        let span = |method: &str, state: usize, read: fn(&RequestSpan<'_>) -> Option<String>| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let mut headers = HeaderMap::new();
            headers.insert("tracestate", "a".repeat(state).parse().expect("a value"));
            headers.insert("traceparent", "b".repeat(1000).parse().expect("a value"));
            read(&RequestSpan {
                method: &method,
                route: "key",
                status: StatusCode::OK,
                request_id: "1",
                headers: &headers,
                began: SystemTime::UNIX_EPOCH,
                took: Duration::ZERO,
            })
        };
        let method = |span: &RequestSpan<'_>| span.known_method().map(str::to_owned);
        assert_eq!(span("PATCH", 0, method).as_deref(), Some("PATCH"));
        assert_eq!(span(&"X".repeat(10_000), 0, method), None);
        assert_eq!(span("get", 0, method), None, "methods have a case");
        let state = |span: &RequestSpan<'_>| span.trace_header("tracestate").map(str::to_owned);
        assert_eq!(span("GET", TRACE_STATE_BYTES_MAX, state).map(|it| it.len()), Some(TRACE_STATE_BYTES_MAX));
        assert_eq!(span("GET", TRACE_STATE_BYTES_MAX + 1, state), None);
        assert!(span("GET", 0, |span| span.trace_header("traceparent").map(str::to_owned)).is_some());
    }
}
