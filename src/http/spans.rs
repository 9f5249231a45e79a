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

/// What takes the spans. It must not block.
pub trait Spans: fmt::Debug + Send + Sync {
    /// Takes one.
    fn answered(&self, span: &RequestSpan<'_>);
}
