//! Requests of all kinds, and how long they took, finely enough for quantiles of two seconds. The histograms of the metrics are per route,
//! and coarse.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hyper::StatusCode;

/// Parts of each power of two: a latency is known to a quarter.
const PARTS: usize = 4;
/// Microseconds in powers of two, up to more than an hour.
const BUCKETS: usize = 32 * PARTS;

/// How many requests took how long, in buckets of microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies(pub [u64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Latencies {
    /// The bucket of a latency.
    pub fn bucket(took: Duration) -> usize {
        let us = usize::try_from(took.as_micros()).unwrap_or(usize::MAX).max(PARTS);
        let power = us.ilog2() as usize;
        let part = (us >> (power - 2)) % PARTS;
        (power * PARTS + part).min(BUCKETS - 1)
    }

    /// Where a bucket ends, in microseconds.
    pub fn upper_us(bucket: usize) -> f64 {
        let (power, part) = (bucket / PARTS, bucket % PARTS);
        2f64.powi(power as i32) * (1.0 + (part + 1) as f64 / PARTS as f64)
    }

    /// Those that came after the ones in `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self(array::from_fn(|bucket| self.0[bucket].saturating_sub(before.0[bucket])))
    }
}

/// Requests since the start: those over HTTP, calls of gRPC, and operations on WebSockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestTotals {
    /// All of them.
    pub requests: u64,
    /// Those that failed by a fault of the client: 4xx.
    pub client_errors: u64,
    /// Those that failed by a fault of the server: 5xx.
    pub server_errors: u64,
    /// How long they took.
    pub latencies: Latencies,
}

/// Whose fault it is that a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 4xx.
    Client,
    /// 5xx.
    Server,
}

impl Fault {
    /// What a status says; `None` for one of success.
    pub fn of(status: StatusCode) -> Option<Self> {
        match status {
            status if status.is_client_error() => Some(Self::Client),
            status if status.is_server_error() => Some(Self::Server),
            _ => None,
        }
    }
}

/// Counts requests, however they came.
#[derive(Debug)]
pub struct RequestCounters {
    requests: AtomicU64,
    client_errors: AtomicU64,
    server_errors: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
}

impl Default for RequestCounters {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            client_errors: AtomicU64::new(0),
            server_errors: AtomicU64::new(0),
            latencies: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl RequestCounters {
    /// Counts a request with its status, or the one that it would have over HTTP. `took`: as for `answered`.
    pub fn count(&self, status: StatusCode, took: Option<Duration>) {
        self.answered(took);
        Fault::of(status).into_iter().for_each(|fault| self.failed(fault));
    }

    /// Counts a request. `took`: until the head of its answer; `None` if it waited for something else than this node.
    pub fn answered(&self, took: Option<Duration>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(took) = took {
            self.latencies[Latencies::bucket(took)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the failure of a request that is counted already.
    pub fn failed(&self, fault: Fault) {
        let counter = match fault {
            Fault::Client => &self.client_errors,
            Fault::Server => &self.server_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn read(&self) -> RequestTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestTotals {
            requests: read(&self.requests),
            client_errors: read(&self.client_errors),
            server_errors: read(&self.server_errors),
            latencies: Latencies(array::from_fn(|bucket| read(&self.latencies[bucket]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_lies_in_its_bucket() {
        for us in [4, 5, 7, 8, 50, 999, 1_000, 123_456, 60_000_000] {
            let bucket = Latencies::bucket(Duration::from_micros(us));
            let (low, high) = (Latencies::upper_us(bucket - 1), Latencies::upper_us(bucket));
            assert!(low <= us as f64 && (us as f64) < high, "{us}: {low}..{high}");
        }
        assert_eq!(Latencies::bucket(Duration::ZERO), Latencies::bucket(Duration::from_micros(4)));
        assert_eq!(Latencies::bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_failure_is_counted_beside_its_request_and_a_wait_has_no_latency() {
        let counters = RequestCounters::default();
        counters.count(StatusCode::NOT_FOUND, Some(Duration::from_millis(3)));
        counters.count(StatusCode::SERVICE_UNAVAILABLE, None);
        counters.count(StatusCode::OK, None);
        assert_eq!(Fault::of(StatusCode::NOT_MODIFIED), None);
        let totals = counters.read();
        assert_eq!((totals.requests, totals.client_errors, totals.server_errors), (3, 1, 1));
        assert_eq!(totals.latencies.0.iter().sum::<u64>(), 1);
    }
}
