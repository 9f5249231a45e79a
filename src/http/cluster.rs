//! What this node says about itself and its cluster: `/membership`, `/_/tables`, `/stats`, `/healthz`, `/readyz`, `/version`.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{
    call::Call,
    reply,
    route::{Route, exactly, route},
};
use crate::{
    error::Result,
    node::{Node, Readiness, TableStats},
};

/// The routes of this file.
pub fn routes(node: &Arc<Node>) -> BoxedFilter<(Response,)> {
    let page = |kind, path, render: fn(&Node) -> (StatusCode, Value)| {
        let node = Arc::clone(node);
        route(kind, exactly(path), move |call, ()| answer(Arc::clone(&node), call, render))
    };
    page(Route::Membership, "/membership", membership)
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

async fn answer(node: Arc<Node>, call: Call, render: fn(&Node) -> (StatusCode, Value)) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return reply::other_method(&call, "GET, HEAD, OPTIONS");
    }
    let (status, body) = render(&node);
    let mut response = reply::json(&body)?;
    *response.status_mut() = status;
    Ok(response)
}

/// `GET /membership`
fn membership(node: &Node) -> (StatusCode, Value) {
    (StatusCode::OK, json!(node.members()))
}

/// `GET /_/tables`
fn tables(node: &Node) -> (StatusCode, Value) {
    (StatusCode::OK, render_tables(&node.tables()))
}

/// `GET /stats`
fn stats(node: &Node) -> (StatusCode, Value) {
    let stats = node.stats();
    let body = json!({
        "node": node.id().to_string(),
        "address": node.address(),
        "version": env!("CARGO_PKG_VERSION"),
        "tables": render_tables(&stats.tables),
        "keys": stats.tables.iter().map(|table| table.keys).sum::<u64>(),
        "subscriptions": stats.subscriptions,
        "writes": stats.writes,
        "writes_superseded": stats.writes_superseded,
        "writes_refused": stats.writes_refused,
        "commits": stats.commits,
        "changes": stats.changes,
        "resyncs": stats.resyncs,
        "expired": stats.expired,
        "corrupt_records": stats.corrupt_records,
        "disk_bytes": stats.disk_bytes,
    });
    (StatusCode::OK, body)
}

/// `GET /healthz`: that the process answers. Restarting it heals nothing that `/readyz` complains of.
fn health(_: &Node) -> (StatusCode, Value) {
    (StatusCode::OK, json!({ "status": "ok" }))
}

/// `GET /readyz`: whether clients should be sent here.
fn readiness(node: &Node) -> (StatusCode, Value) {
    match node.readiness() {
        Readiness::Ready => match node.set_aside() {
            None => (StatusCode::OK, json!({ "phase": "ready" })),
            Some(path) => (StatusCode::OK, json!({ "phase": "ready", "set_aside": path })),
        },
        Readiness::ReadOnly(why) => unready(json!({ "phase": "read-only", "detail": why })),
        Readiness::Draining => unready(json!({ "phase": "draining" })),
    }
}

/// `GET /version`
fn version(node: &Node) -> (StatusCode, Value) {
    let version = env!("CARGO_PKG_VERSION");
    (StatusCode::OK, json!({ "name": "DynaRust", "version": version, "node": node.id().to_string() }))
}

fn unready(body: Value) -> (StatusCode, Value) {
    (StatusCode::SERVICE_UNAVAILABLE, body)
}

fn render_tables(tables: &[TableStats]) -> Value {
    let render = |table: &TableStats| json!({ "name": table.name.as_str(), "keys": table.keys, "tombstones": table.tombstones });
    tables.iter().map(render).collect()
}
