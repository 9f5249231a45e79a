//! Figures of gRPC: calls by method and status code, and how long until the head of an answer. A method gets its series at its first call,
//! and there are only the methods of this server.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::latency_histogram;

/// The names of the status codes, by number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: String,
}

/// The families of all methods.
#[derive(Clone)]
pub struct RpcMetrics {
    calls: Family<CallLabels, Counter>,
    seconds: Family<MethodLabels, Histogram>,
}

/// The series of one method. Clones share the counts.
#[derive(Clone)]
pub struct RpcSeries {
    calls: [Counter; CODES.len()],
    seconds: Histogram,
}

impl RpcMetrics {
    /// Without any series, in this registry.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let calls = Family::<CallLabels, Counter>::default();
        let seconds = Family::<MethodLabels, Histogram>::new_with_constructor(latency_histogram);
        registry.register("grpc_calls", "Calls of gRPC that have ended", calls.clone());
        registry.register_with_unit(
            "grpc_call_duration",
            "From a call's head to the head of its answer",
            Unit::Seconds,
            seconds.clone(),
        );
        Self { calls, seconds }
    }

    /// The series of a method: `package.Service/Method`.
    pub fn series(&self, method: &str) -> RpcSeries {
        RpcSeries {
            calls: CODES
                .map(|code| self.calls.get_or_create_owned(&CallLabels { method: method.into(), code })),
            seconds: self.seconds.get_or_create_owned(&MethodLabels { method: method.into() }),
        }
    }
}

impl RpcSeries {
    /// Records how long the head of an answer took.
    pub fn answered(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a call that has ended with this status code.
    pub fn ended(&self, code: usize) {
        self.calls[code.min(CODES.len() - 1)].inc();
    }
}
