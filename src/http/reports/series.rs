//! The last 15 minutes of a node as a series of points, so that whoever begins to watch sees what came before. A point every two seconds,
//! of sixteen numbers: 58 KB for all of them.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::http::request::latencies::{Latencies, RequestTotals};

/// Between two points.
pub const STEP_MS: u64 = 2_000;
/// Fifteen minutes of points.
const POINTS_MAX: usize = 450;

/// The numbers of a point, by name. Rates are per second, over the step.
pub const FIELDS: [&str; 16] = [
    "at_ms",
    "requests",
    "client_errors",
    "server_errors",
    "p50_ms",
    "p99_ms",
    "writes",
    "changes",
    "rows_sent",
    "rows_received",
    "link_bytes_sent",
    "link_bytes_received",
    "keys",
    "memory_bytes",
    "connections",
    "subscriptions",
];

/// One point: a number for each of `FIELDS`.
pub type Point = [f64; FIELDS.len()];

/// What a point is made from: counters since the start, and gauges.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Requests of all kinds, and how long they took.
    pub requests: RequestTotals,
    /// Writes, changes, rows sent and received, bytes sent and received over links.
    pub counters: [u64; 6],
    /// Keys, memory, connections, subscriptions.
    pub gauges: [u64; 4],
}

/// The points so far.
#[derive(Debug, Default)]
pub struct Series {
    before: Option<Totals>,
    points: VecDeque<Point>,
}

impl Series {
    /// Adds the point between the totals before and these.
    pub fn add(&mut self, now: Totals) {
        let Some(before) = self.before.replace(now.clone()) else { return };
        let elapsed_ms = now.at_ms.saturating_sub(before.at_ms);
        // The clock was set back, or two ticks came together.
        if elapsed_ms == 0 {
            return;
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1000.0 / elapsed_ms as f64;
        let took = now.requests.latencies.since(&before.requests.latencies);
        let [p50_ms, p99_ms] = [0.5, 0.99].map(|quantile| took.quantile_ms(quantile));
        let mut point = [0.0; FIELDS.len()];
        point[..6].copy_from_slice(&[
            now.at_ms as f64,
            rate(now.requests.requests, before.requests.requests),
            rate(now.requests.client_errors, before.requests.client_errors),
            rate(now.requests.server_errors, before.requests.server_errors),
            p50_ms,
            p99_ms,
        ]);
        for (index, value) in now.counters.iter().enumerate() {
            point[6 + index] = rate(*value, before.counters[index]);
        }
        for (index, value) in now.gauges.iter().enumerate() {
            point[12 + index] = *value as f64;
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// The latest point.
    pub fn latest(&self) -> Option<Value> {
        self.points.back().map(render)
    }

    /// All points, with the names of their numbers.
    pub fn render(&self) -> Value {
        json!({
            "step_ms": STEP_MS,
            "fields": FIELDS,
            "points": self.points.iter().map(render).collect::<Vec<_>>(),
        })
    }
}

/// Three digits after the point are enough, and short.
fn render(point: &Point) -> Value {
    let short = |number: &f64| {
        let rounded = (number * 1000.0).round() / 1000.0;
        if rounded.fract() == 0.0 { json!(rounded as i64) } else { json!(rounded) }
    };
    point.iter().map(short).collect()
}

impl Latencies {
    /// The latency that this share of the requests did not exceed, in milliseconds; 0 if there were none.
    fn quantile_ms(&self, quantile: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let wanted = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        let bucket = self.0.iter().position(|count| {
            seen += count;
            *count > 0 && seen >= wanted
        });
        bucket.map_or(0.0, |bucket| Self::upper_us(bucket) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn totals(at_ms: u64, requests: u64, took: &[u64]) -> Totals {
        let mut requests = RequestTotals { requests, ..RequestTotals::default() };
        took.iter().for_each(|ms| requests.latencies.0[Latencies::bucket(Duration::from_millis(*ms))] += 1);
        Totals { at_ms, requests, ..Totals::default() }
    }

    #[test]
    fn a_point_has_rates_over_its_step_and_quantiles_of_what_it_took() {
        let mut series = Series::default();
        series.add(totals(1_000, 10, &[]));
        assert_eq!(series.latest(), None, "there is nothing to compare with yet");
        let took: Vec<u64> = (0..99).map(|_| 1).chain([500]).collect();
        series.add(totals(3_000, 110, &took));
        let point = series.latest().expect("a point");
        assert_eq!((point[0].as_u64(), point[1].as_u64()), (Some(3_000), Some(50)));
        let [p50, p99] = [4, 5].map(|place: usize| point[place].as_f64().expect("a number"));
        assert!((1.0..1.3).contains(&p50) && (1.0..1.3).contains(&p99), "{point}");
        series.add(totals(5_000, 110, &took));
        assert_eq!(series.latest().expect("a point")[5], json!(0), "no request came");
    }

    #[test]
    fn the_series_is_bounded_and_keeps_the_newest() {
        let mut series = Series::default();
        (0..2_000).for_each(|step| series.add(totals(step * STEP_MS, step, &[])));
        let rendered = series.render();
        let points = rendered["points"].as_array().expect("points");
        assert_eq!(points.len(), POINTS_MAX);
        assert_eq!(points[POINTS_MAX - 1][0].as_u64(), Some(1_999 * STEP_MS));
        assert!(size_of::<Point>() * POINTS_MAX < 100_000);
        assert_eq!(
            rendered["fields"].as_array().map(Vec::len),
            Some(points[0].as_array().expect("numbers").len())
        );
    }
}
