//! `/metrics`: requests by route and class of status, their latency, and the node's own figures, which are read when asked
//! for. A request costs two lookups by index here: the series are made at the start, so that no label is hashed on the way.

use std::{fmt, sync::Arc, time::Duration};

use hyper::{Method, StatusCode, header::HeaderValue};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        MetricType, TypedMetric,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use warp::reply::Response;

use super::{call::Call, reply, route::Route};
use crate::{
    error::{Error, Result},
    node::{Node, Readiness},
};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What is counted here, and the registry of all there is.
pub struct Metrics {
    node: Arc<Node>,
    registry: Registry,
    routes: Vec<RouteMetrics>,
}

/// The series of one route.
struct RouteMetrics {
    requests: [Counter; CLASSES.len()],
    seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

impl Metrics {
    /// All series, at zero.
    pub fn new(node: Arc<Node>) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let seconds = Family::<RouteLabels, Histogram>::new_with_constructor(latency_histogram);
        let routes = Route::ALL
            .map(|route| RouteMetrics {
                requests: CLASSES.map(|status| {
                    requests.get_or_create_owned(&RequestLabels { route: route.name(), status })
                }),
                seconds: seconds.get_or_create_owned(&RouteLabels { route: route.name() }),
            })
            .into();
        let mut registry = Registry::with_prefix("dynarust");
        registry.register("http_requests", "Requests answered", requests);
        registry.register_with_unit(
            "http_request_duration",
            "From a request's head to the head of its answer",
            Unit::Seconds,
            seconds,
        );
        registry.register_collector(Box::new(NodeFigures(Arc::clone(&node))));
        Self { node, registry, routes }
    }

    /// Counts one answer.
    pub fn observe(&self, route: Route, status: StatusCode, took: Duration) {
        let series = &self.routes[route as usize];
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        series.requests[class].inc();
        series.seconds.observe(took.as_secs_f64());
    }

    /// `GET /metrics`
    pub async fn answer(self: Arc<Self>, call: Call) -> Result<Response> {
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return reply::other_method(&call, "GET, HEAD, OPTIONS");
        }
        self.node.rows_counted().await;
        let mut page = String::new();
        text::encode(&mut page, &self.registry)
            .map_err(|error| Error::Io(format!("writing the metrics: {error}")))?;
        Ok(reply::with_type(OPEN_METRICS, page))
    }
}

/// From 50 microseconds, a GET, to 13 seconds, beyond every timeout that a client should have.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 4.0, 10))
}

/// The node's figures as series.
struct NodeFigures(Arc<Node>);

impl fmt::Debug for NodeFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeFigures")
    }
}

impl Collector for NodeFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::result::Result<(), fmt::Error> {
        let stats = self.0.stats();
        let counters = [
            ("writes", "Writes that changed a key", stats.writes),
            ("writes_superseded", "Writes that lost against a later one", stats.writes_superseded),
            ("writes_refused", "Writes refused because the storage was failing", stats.writes_refused),
            ("commits", "Flush-and-sync rounds", stats.commits),
            ("changes", "Changes published to the change stream", stats.changes),
            ("resyncs", "Times a slow subscriber was told to resynchronise", stats.resyncs),
            ("expired", "Values that expired", stats.expired),
            ("corrupt_records", "Records that did not decode", stats.corrupt_records),
        ];
        for (name, help, value) in counters {
            encode_one(&mut encoder, name, help, &ConstCounter::new(value))?;
        }
        let writable = self.0.readiness() == Readiness::Ready;
        let gauges = [
            ("subscriptions", "Subscriptions open now", stats.subscriptions),
            ("disk_bytes", "Size of the storage directory", stats.disk_bytes),
            ("ready", "1 while reads and writes are served", u64::from(writable)),
        ];
        for (name, help, value) in gauges {
            encode_one(&mut encoder, name, help, &ConstGauge::new(value))?;
        }
        let keys = stats.tables.iter().map(|table| (table.name.as_str(), table.keys));
        encode_tables(&mut encoder, "table_keys", "Live keys", keys)?;
        let tombstones = stats.tables.iter().map(|table| (table.name.as_str(), table.tombstones));
        encode_tables(&mut encoder, "table_tombstones", "Tombstones", tombstones)
    }
}

fn encode_one<M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: &M,
) -> std::result::Result<(), fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn encode_tables<'a>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    tables: impl Iterator<Item = (&'a str, u64)>,
) -> std::result::Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (table, value) in tables {
        ConstGauge::new(value).encode(family.encode_family(&[("table", table)])?)?;
    }
    Ok(())
}
