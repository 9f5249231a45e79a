//! What this node reports about itself and its cluster: `/membership`, `/_/cluster`, `/_/tables`, `/stats`, `/healthz`, `/readyz`,
//! `/version`.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    error::Result,
    http::{
        reports::render::{render_cluster, render_readiness, render_tables},
        request::{Call, route::Route},
        response,
    },
    node::{Node, ScheduledBackups, TableStats},
};

/// The routes of this file.
pub fn routes(node: &Arc<Node>) -> BoxedFilter<(Response,)> {
    let page = |kind, path, render: fn(&Node, &Call) -> (StatusCode, Value)| {
        let node = Arc::clone(node);
        route(kind, exactly(path), move |call, ()| answer(Arc::clone(&node), call, render))
    };
    page(Route::Membership, "/membership", membership)
        .or(page(Route::Cluster, "/_/cluster", cluster))
        .unify()
        .or(page(Route::Tables, "/_/tables", tables))
        .unify()
        .or(page(Route::Stats, "/stats", stats))
        .unify()
        .or(page(Route::Probe, "/healthz", health))
        .unify()
        .or(page(Route::Probe, "/readyz", readiness))
        .unify()
        .or(page(Route::Probe, "/version", version))
        .unify()
        .boxed()
}

async fn answer(
    node: Arc<Node>,
    call: Call,
    render: fn(&Node, &Call) -> (StatusCode, Value),
) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(&call);
    }
    // After a start, counting the rows of tables takes a moment. Probes report no counts and do not wait.
    if matches!(call.route(), Route::Cluster | Route::Tables | Route::Stats) {
        node.rows_counted().await;
    }
    let (status, body) = render(&node, &call);
    // An old route: its body ends with the bracket.
    let mut response = match call.route() {
        Route::Membership => response::json_text(body.to_string()),
        _ => response::json(&body)?,
    };
    *response.status_mut() = status;
    Ok(response)
}

/// `GET /membership`
fn membership(node: &Node, _: &Call) -> (StatusCode, Value) {
    (StatusCode::OK, json!(node.members()))
}

/// `GET /_/cluster`: the fields of a `ClusterView` by name, with times as ages in milliseconds, and `null` for what is not known.
fn cluster(node: &Node, _: &Call) -> (StatusCode, Value) {
    (StatusCode::OK, render_cluster(&node.cluster(), node.now_ms()))
}

/// `GET /_/tables`
fn tables(node: &Node, call: &Call) -> (StatusCode, Value) {
    (StatusCode::OK, render_tables(&visible(node.tables(), call)))
}

/// The tables that the client may see.
fn visible(mut tables: Vec<TableStats>, call: &Call) -> Vec<TableStats> {
    tables.retain(|table| call.principal().may_see(&table.name));
    tables
}

/// `GET /stats`
fn stats(node: &Node, call: &Call) -> (StatusCode, Value) {
    let stats = node.stats();
    let tables = visible(stats.tables, call);
    let body = json!({
        "node": node.id().to_string(),
        "address": node.address(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": stats.uptime_ms,
        "memory_bytes": stats.memory_bytes,
        "tables": render_tables(&tables),
        "keys": tables.iter().map(|table| table.keys).sum::<u64>(),
        "counted": stats.is_counted,
        "subscriptions": stats.subscriptions,
        "writes": stats.writes,
        "writes_superseded": stats.writes_superseded,
        "writes_refused": stats.writes_refused,
        "commits": stats.commits,
        "changes": stats.changes,
        "resyncs": stats.resyncs,
        "expired": stats.expired,
        "corrupt_records": stats.corrupt_records,
        "unreadable_ranges": stats.unreadable_ranges,
        "scrubbed_bytes": stats.scrubbed_bytes,
        "damaged_frames": stats.damaged_frames,
        "disk_bytes": stats.disk_bytes,
        "backups": node.scheduled_backups().map(|backups| render_backups(&backups)),
    });
    (StatusCode::OK, body)
}

fn render_backups(backups: &ScheduledBackups) -> Value {
    let last = backups.last.as_ref();
    json!({
        "last": last.map(|last| json!({ "name": last.name, "made_ms": last.made_ms, "id": last.id })),
        "made": backups.made,
        "failed": backups.failed,
        "failure": backups.failure,
    })
}

/// `GET /healthz`: the process answers. A restart would not fix what `/readyz` reports.
fn health(_: &Node, _: &Call) -> (StatusCode, Value) {
    (StatusCode::OK, json!({ "status": "ok" }))
}

/// `GET /readyz`: whether to send clients here.
fn readiness(node: &Node, _: &Call) -> (StatusCode, Value) {
    render_readiness(node)
}

/// `GET /version`
fn version(node: &Node, _: &Call) -> (StatusCode, Value) {
    let version = env!("CARGO_PKG_VERSION");
    (StatusCode::OK, json!({ "name": "DynaRust", "version": version, "node": node.id().to_string() }))
}
