//! The span of a call: it begins with the call, and ends with its status.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use hyper::HeaderMap;

use crate::http::spans::{Exchange, RequestSpan, Spans, TRACE_HEADERS, TRACE_STATE_BYTES_MAX};

/// The span of a call that has not ended.
pub struct CallSpan {
    spans: Arc<dyn Spans>,
    method: String,
    request_id: Arc<str>,
    /// What names the trace of the call; the other headers may be long, and a call may last.
    headers: HeaderMap,
    began: SystemTime,
    started: Instant,
}

impl CallSpan {
    /// Begins one. `method` is its name in the metrics.
    pub fn begin(spans: Arc<dyn Spans>, method: &str, request_id: &Arc<str>, headers: &HeaderMap) -> Self {
        let trace = TRACE_HEADERS.into_iter().filter_map(|name| {
            let value = headers.get(&name).filter(|value| value.len() <= TRACE_STATE_BYTES_MAX)?;
            Some((name, value.clone()))
        });
        Self {
            spans,
            method: method.to_owned(),
            request_id: Arc::clone(request_id),
            headers: trace.collect(),
            began: SystemTime::now(),
            started: Instant::now(),
        }
    }

    /// The call has ended with this status, by its number.
    pub fn end(self, code: usize) {
        self.spans.answered(&RequestSpan {
            exchange: Exchange::Grpc { method: &self.method, code },
            request_id: &self.request_id,
            headers: &self.headers,
            began: self.began,
            took: self.started.elapsed(),
        });
    }
}
