//! `/metrics`: requests by route and status class, their latency, and the node's own figures, which are read on each scrape. Counting a
//! request costs two lookups by index: all series exist from the start, so no label is hashed.

mod process;
pub mod rpc;
mod strong;
mod visible;

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

pub use self::process::ServerFigures;
use self::{
    process::{BudgetFigures, ProcessFigures},
    rpc::RpcMetrics,
    visible::visible,
};

use crate::{
    core::protocol::message::RequestKind,
    error::{Error, Result},
    http::{
        request::{Call, budget::Budget, route::Route},
        response,
    },
    node::{ClusterView, MemberState, MemberView, Node, Readiness, RequestFigures},
};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The HTTP metrics, and the registry of all metrics.
pub struct Metrics {
    node: Arc<Node>,
    registry: Registry,
    /// Series without the prefix of ours.
    standard: Registry,
    routes: Vec<RouteMetrics>,
    rpc: RpcMetrics,
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
    pub fn new(
        node: Arc<Node>,
        budget: Arc<Budget>,
        server: ServerFigures,
        memory_budget_bytes: u64,
    ) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let seconds = Family::<RouteLabels, Histogram>::new_with_constructor(latency_histogram);
        let routes = Route::ALL
            .iter()
            .map(|route| RouteMetrics {
                requests: CLASSES.map(|status| {
                    requests.get_or_create_owned(&RequestLabels { route: route.name(), status })
                }),
                seconds: seconds.get_or_create_owned(&RouteLabels { route: route.name() }),
            })
            .collect();
        let mut registry = Registry::with_prefix("dynarust");
        registry.register("http_requests", "Requests answered", requests);
        registry.register_with_unit(
            "http_request_duration",
            "From a request's head to the head of its answer",
            Unit::Seconds,
            seconds,
        );
        let rpc = RpcMetrics::register(&mut registry);
        registry.register_collector(Box::new(NodeFigures(Arc::clone(&node))));
        registry.register_collector(Box::new(BudgetFigures { budget, limit_bytes: memory_budget_bytes }));
        registry.register_collector(Box::new(server));
        let mut standard = Registry::default();
        let started_ms = node.now_ms().saturating_sub(node.uptime_ms());
        standard.register_collector(Box::new(ProcessFigures { started: started_ms as f64 / 1000.0 }));
        Self { node, registry, standard, routes, rpc }
    }

    /// The metrics of gRPC.
    pub fn rpc(&self) -> &RpcMetrics {
        &self.rpc
    }

    /// Counts one response.
    pub fn observe(&self, route: Route, status: StatusCode, took: Duration) {
        let series = &self.routes[route as usize];
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        series.requests[class].inc();
        series.seconds.observe(took.as_secs_f64());
    }

    /// `GET /metrics`
    pub async fn answer(self: Arc<Self>, call: Call) -> Result<Response> {
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return response::other_method(&call);
        }
        self.node.rows_counted().await;
        let mut page = String::new();
        text::encode_registry(&mut page, &self.registry)
            .and_then(|()| text::encode(&mut page, &self.standard))
            .map_err(|error| Error::Io(format!("writing the metrics: {error}")))?;
        Ok(response::with_type(OPEN_METRICS, visible(page, call.principal())))
    }
}

/// From 50 microseconds, a GET, to 13 seconds, longer than any client's timeout should be.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 4.0, 10))
}

/// Exports the node's figures.
struct NodeFigures(Arc<Node>);

impl fmt::Debug for NodeFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeFigures")
    }
}

impl Collector for NodeFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
        let stats = self.0.stats();
        let backups = self.0.scheduled_backups().unwrap_or_default();
        let counters = [
            ("writes", "Writes that changed a key", stats.writes),
            ("writes_superseded", "Writes that lost to a later one", stats.writes_superseded),
            ("writes_refused", "Writes refused because the storage was failing", stats.writes_refused),
            ("commits", "Flush-and-sync rounds", stats.commits),
            ("changes", "Changes published to the change stream", stats.changes),
            ("resyncs", "Times a slow subscriber was told to resynchronize", stats.resyncs),
            ("expired", "Values that expired", stats.expired),
            ("corrupt_records", "Records that did not decode", stats.corrupt_records),
            (
                "start_mismatches",
                "Starts at which the rows differed from those of the last stop",
                stats.start_mismatches,
            ),
            ("scrubbed_bytes", "Bytes of the log read to check for damage", stats.scrubbed_bytes),
            ("damaged_frames", "Places of the log where damage was found", stats.damaged_frames),
            ("backups", "Scheduled backups made and found sound", backups.made),
            ("backup_failures", "Scheduled backups that failed", backups.failed),
        ];
        for (name, help, value) in counters {
            encode_one(&mut encoder, name, help, &ConstCounter::new(value))?;
        }
        let writable = self.0.readiness() == Readiness::Ready;
        let gauges = [
            ("subscriptions", "Subscriptions open now", stats.subscriptions),
            ("disk_bytes", "Size of the storage directory", stats.disk_bytes),
            ("unreadable_ranges", "Ranges of keys that cannot be read", stats.unreadable_ranges),
            (
                "rows_counted",
                "1 once all rows are counted after a start; before, what is told of tables is of those that are",
                u64::from(stats.is_counted),
            ),
            ("ready", "1 while /readyz answers 200", u64::from(writable)),
            (
                "storage_doubtful",
                "1 while rows may be missing or older than what was acknowledged",
                u64::from(stats.may_have_lost_rows),
            ),
            (
                "last_backup_seconds",
                "Unix time of the last scheduled backup; 0 if there is none",
                backups.last.map_or(0, |last| last.made_ms / 1000),
            ),
        ];
        for (name, help, value) in gauges {
            encode_one(&mut encoder, name, help, &ConstGauge::new(value))?;
        }
        let keys = stats.tables.iter().map(|table| (table.name.as_str(), table.keys));
        encode_tables(&mut encoder, "table_keys", "Live keys", keys)?;
        let tombstones = stats.tables.iter().map(|table| (table.name.as_str(), table.tombstones));
        encode_tables(&mut encoder, "table_tombstones", "Tombstones", tombstones)?;
        let view = self.0.cluster();
        encode_cluster(&mut encoder, &view, self.0.now_ms())?;
        strong::encode(&mut encoder, view.strong.as_ref())?;
        strong::encode_etcd(&mut encoder, view.strong_etcd.as_ref())?;
        // Members that are gone for good have no current figures, and would be listed for ever.
        let is_peer = |member: &&MemberView| member.node != view.node && member.state.is_replica();
        let peers: Vec<_> = view.members.iter().filter(is_peer).collect();
        encode_peer_counters(&mut encoder, &peers)?;
        encode_peer_requests(&mut encoder, &peers)?;
        encode_peer_gauges(&mut encoder, &peers)
    }
}

type Encoded = std::result::Result<(), fmt::Error>;

fn encode_cluster(encoder: &mut DescriptorEncoder, view: &ClusterView, now_ms: u64) -> Encoded {
    let zombies = ConstCounter::new(view.zombies_refused);
    encode_one(encoder, "zombies_refused", "Rows refused because they were deleted before", &zombies)?;
    if view.floor_ms > 0 {
        let age = ConstGauge::new(seconds(now_ms.saturating_sub(view.floor_ms)));
        let help = "Since the last instant up to which every member holds everything";
        encode_one(encoder, "floor_age_seconds", help, &age)?;
    }
    let complete = ConstGauge::new(u64::from(view.is_complete()));
    encode_one(
        encoder,
        "whole",
        "1 once the node has held, since its start, what the cluster holds",
        &complete,
    )?;
    let (done, total) = view.sync().unwrap_or_default();
    encode_one(
        encoder,
        "sync_rows_done",
        "Rows received in the first sync that runs",
        &ConstGauge::new(done),
    )?;
    encode_one(encoder, "sync_rows", "Rows to receive in it", &ConstGauge::new(total))?;
    let mut family = encoder.encode_descriptor("members", "Members by state", None, MetricType::Gauge)?;
    for state in MemberState::ALL {
        let count = view.members.iter().filter(|member| member.state == state).count();
        ConstGauge::new(count as u64).encode(family.encode_family(&[("state", state.name())])?)?;
    }
    Ok(())
}

/// A name, a help text, and how to get the figure of one peer.
type PeerFigure<T> = (&'static str, &'static str, fn(&MemberView) -> T);

fn encode_peer_counters(encoder: &mut DescriptorEncoder, peers: &[&MemberView]) -> Encoded {
    let figures: [PeerFigure<u64>; 9] = [
        ("peer_rounds", "Rounds received from a peer", |peer| peer.rounds),
        ("peer_sessions", "Comparisons of rows with a peer", |peer| peer.sessions),
        ("peer_false_sessions", "Comparisons that found no difference", |peer| peer.false_sessions),
        ("peer_comparison_messages", "Comparison messages sent to a peer", |peer| peer.comparison_messages),
        ("peer_comparison_bytes", "Bytes of those messages", |peer| peer.comparison_bytes),
        ("peer_sent_bytes", "Bytes sent to a peer over links", |peer| peer.bytes_sent),
        ("peer_received_bytes", "Bytes received from a peer over links", |peer| peer.bytes_received),
        ("peer_sent_rows", "Rows sent to a peer", |peer| peer.rows_sent),
        ("peer_received_rows", "Rows received from a peer", |peer| peer.rows_received),
    ];
    for (name, help, figure) in figures {
        encode_peers(encoder, name, help, MetricType::Counter, peers, |peer| {
            Some(ConstCounter::new(figure(peer)))
        })?;
    }
    Ok(())
}

/// A name, a help text, and how to get the figure of one kind of requests with one peer.
type RequestFigure = (&'static str, &'static str, MetricType, fn(&RequestFigures) -> u64);

fn encode_peer_requests(encoder: &mut DescriptorEncoder, peers: &[&MemberView]) -> Encoded {
    const COUNTER: MetricType = MetricType::Counter;
    let figures: [RequestFigure; 6] = [
        ("peer_requests", "Requests to a peer over links", COUNTER, |figures| figures.requests),
        ("peer_failed_requests", "Of these, those without a good response", COUNTER, |figures| {
            figures.failed
        }),
        ("peer_received_requests", "Requests from a peer", COUNTER, |figures| figures.received),
        ("peer_request_sent_bytes", "Bytes of requests and responses to a peer", COUNTER, |figures| {
            figures.sent_bytes
        }),
        ("peer_request_received_bytes", "Bytes of requests and responses from a peer", COUNTER, |figures| {
            figures.received_bytes
        }),
        ("peer_requests_in_flight", "Requests that wait for a peer now", MetricType::Gauge, |figures| {
            figures.in_flight
        }),
    ];
    for (name, help, metric_type, figure) in figures {
        let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
        for peer in peers {
            let node = peer.node.to_string();
            for kind in RequestKind::ALL {
                let labels =
                    [("peer", peer.address.as_str()), ("node", node.as_str()), ("kind", kind.name())];
                let value = figure(&peer.requests[kind.index()]);
                let encoder = family.encode_family(&labels)?;
                match metric_type {
                    MetricType::Gauge => ConstGauge::new(value).encode(encoder)?,
                    _ => ConstCounter::new(value).encode(encoder)?,
                }
            }
        }
    }
    Ok(())
}

fn encode_peer_gauges(encoder: &mut DescriptorEncoder, peers: &[&MemberView]) -> Encoded {
    let figures: [PeerFigure<Option<f64>>; 7] = [
        ("peer_linked", "1 while a link with a peer is up", |peer| Some(f64::from(u8::from(peer.linked)))),
        ("peer_outbox_rows", "Rows waiting to be sent to a peer", |peer| Some(peer.outbox as f64)),
        ("peer_comparison_steps", "Messages of the last comparison that waited for one another", |peer| {
            Some(f64::from(peer.comparison_steps))
        }),
        (
            "peer_lag_seconds",
            "Since the last instant at which a peer is known to have held the same",
            |peer| peer.lag_ms.map(seconds),
        ),
        ("peer_last_round_age_seconds", "Since the last round of a peer", |peer| {
            peer.last_round_ms.map(seconds)
        }),
        ("peer_round_trip_seconds", "Round trip of the last round", |peer| {
            peer.round_trip_ms.map(|milliseconds| milliseconds / 1000.0)
        }),
        ("peer_clock_offset_seconds", "How far the clock of a peer is ahead of this node's", |peer| {
            peer.clock_offset_ms.map(|milliseconds| milliseconds as f64 / 1000.0)
        }),
    ];
    for (name, help, figure) in figures {
        encode_peers(encoder, name, help, MetricType::Gauge, peers, |peer| {
            figure(peer).map(ConstGauge::new)
        })?;
    }
    Ok(())
}

/// One series for each peer that has the figure, labelled by address and id, because an address may have had several members.
fn encode_peers<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    kind: MetricType,
    peers: &[&MemberView],
    figure: impl Fn(&MemberView) -> Option<M>,
) -> Encoded {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for peer in peers {
        let Some(metric) = figure(peer) else { continue };
        let node = peer.node.to_string();
        let labels = [("peer", peer.address.as_str()), ("node", node.as_str())];
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

fn encode_one<M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: &M,
) -> Encoded {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn encode_tables<'a>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    tables: impl Iterator<Item = (&'a str, u64)>,
) -> Encoded {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (table, value) in tables {
        ConstGauge::new(value).encode(family.encode_family(&[("table", table)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{clock::NodeId, protocol::replica::Swept},
        node::SyncStatus,
    };

    #[derive(Debug)]
    struct Figures(ClusterView);

    impl Collector for Figures {
        fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
            let peers: Vec<_> = self.0.members.iter().skip(1).collect();
            encode_cluster(&mut encoder, &self.0, 10_000)?;
            encode_peer_counters(&mut encoder, &peers)?;
            encode_peer_requests(&mut encoder, &peers)?;
            encode_peer_gauges(&mut encoder, &peers)
        }
    }

    #[test]
    fn a_peer_has_series_by_address_for_the_figures_it_has() {
        let mut peer = MemberView::new(NodeId(2), "b:1".into(), MemberState::Alive);
        (peer.rounds, peer.rows_received, peer.outbox) = (7, 8, 9);
        (peer.requests[1].requests, peer.requests[1].in_flight) = (3, 2);
        (peer.round_trip_ms, peer.clock_offset_ms) = (Some(0.5), Some(-250));
        let view = ClusterView {
            cluster: 1,
            node: NodeId(1),
            address: "a:1".into(),
            incarnation: 0,
            progress: SyncStatus::Syncing { done: 3, total: 4 },
            kept_without_majority: 0,
            clock: crate::node::ClockState::default(),
            floor_ms: 8_500,
            swept: Swept::default(),
            zombies_refused: 5,
            members: vec![MemberView::new(NodeId(1), "a:1".into(), MemberState::Myself), peer],
            strong: None,
            strong_etcd: None,
            strong_failure: None,
        };
        let mut registry = Registry::with_prefix("dynarust");
        registry.register_collector(Box::new(Figures(view)));
        let mut page = String::new();
        text::encode(&mut page, &registry).expect("written to a string");
        let of_peer = "{peer=\"b:1\",node=\"0000000000000002\"}";
        for line in [
            format!("dynarust_peer_rounds_total{of_peer} 7"),
            format!("dynarust_peer_received_rows_total{of_peer} 8"),
            "dynarust_peer_requests_total{peer=\"b:1\",node=\"0000000000000002\",kind=\"client\"} 3".into(),
            "dynarust_peer_requests_total{peer=\"b:1\",node=\"0000000000000002\",kind=\"consensus\"} 0"
                .into(),
            "dynarust_peer_requests_in_flight{peer=\"b:1\",node=\"0000000000000002\",kind=\"client\"} 2"
                .into(),
            format!("dynarust_peer_outbox_rows{of_peer} 9.0"),
            format!("dynarust_peer_round_trip_seconds{of_peer} 0.0005"),
            format!("dynarust_peer_clock_offset_seconds{of_peer} -0.25"),
            "dynarust_members{state=\"alive\"} 1".into(),
            "dynarust_members{state=\"down\"} 0".into(),
            "dynarust_floor_age_seconds 1.5".into(),
            "dynarust_zombies_refused_total 5".into(),
            "dynarust_sync_rows_done 3".into(),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("peer_lag_seconds{"), "{page}");
    }
}
