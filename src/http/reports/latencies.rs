//! How long requests took, finely enough for quantiles of two seconds. The histograms of the metrics are per route, and coarse.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::http::request::route::Route;

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

/// Requests over HTTP since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpTotals {
    /// All of them.
    pub requests: u64,
    /// Those that were answered 4xx.
    pub client_errors: u64,
    /// Those that were answered 5xx.
    pub server_errors: u64,
    /// How long they took.
    pub latencies: Latencies,
}

impl HttpTotals {
    /// From the numbers of answers 1xx to 5xx.
    pub fn new(by_class: [u64; 5], latencies: Latencies) -> Self {
        let [_, _, _, client_errors, server_errors] = by_class;
        Self { requests: by_class.iter().sum(), client_errors, server_errors, latencies }
    }
}

/// Counts latencies.
pub struct Recorder([AtomicU64; BUCKETS]);

impl Default for Recorder {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Recorder {
    /// Counts a request, unless it waits for something else than this node.
    pub fn observe(&self, route: Route, took: Duration) {
        if !matches!(route, Route::Subscribe | Route::Changes | Route::WebSocket | Route::Link) {
            self.0[Latencies::bucket(took)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts so far.
    pub fn read(&self) -> Latencies {
        Latencies(array::from_fn(|bucket| self.0[bucket].load(Ordering::Relaxed)))
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
}
