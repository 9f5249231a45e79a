//! What this node reports about itself and its cluster: `/membership`, `/_/cluster`, `/_/tables`, `/stats`, `/healthz`, `/readyz`,
//! `/version`.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    core::clock::NodeId,
    error::Result,
    http::{
        request::{Call, route::Route},
        response,
    },
    node::{
        ClusterView, EtcdView, GroupView, MemberView, Node, Readiness, ScheduledBackups, SyncStatus,
        TableStats,
    },
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

fn render_cluster(view: &ClusterView, now_ms: u64) -> Value {
    let age_ms = |unix_ms: u64| (unix_ms > 0).then(|| now_ms.saturating_sub(unix_ms));
    json!({
        "cluster": format!("{:016x}", view.cluster),
        "node": view.node.to_string(),
        "address": view.address,
        "incarnation": view.incarnation,
        "whole": view.is_complete(),
        "sync": view.sync().map(|(done, total)| json!({ "done": done, "total": total })),
        "clock": {
            "trouble": view.clock.trouble.map(|trouble| trouble.name()),
            "ahead_ms": view.clock.trouble.map(|trouble| trouble.ahead_ms()),
            "detail": view.clock.trouble.map(|trouble| trouble.to_string()),
            "system_leapt_ms": view.clock.jumped_ms,
        },
        "floor_age_ms": age_ms(view.floor_ms),
        "swept": {
            "tombstones_age_ms": age_ms(view.swept.tombstones_ms),
            "expired_age_ms": age_ms(view.swept.expired_ms),
        },
        "zombies_refused": view.zombies_refused,
        "kept_without_majority": view.kept_without_majority,
        "members": view.members.iter().map(render_member).collect::<Vec<_>>(),
        "strong_failure": view.strong_failure,
        "strong": view.strong.as_ref().map(|group| render_group(group, view)),
        "strong_etcd": view.strong_etcd.as_ref().map(render_etcd),
    })
}

/// The etcd that keeps the strong tables.
fn render_etcd(etcd: &EtcdView) -> Value {
    json!({
        "endpoints": etcd.endpoints,
        "prefix": etcd.prefix,
        "answers": etcd.answers,
        "applied_revision": etcd.applied_revision,
        "known_revision": etcd.known_revision,
        "commits": etcd.commits,
        "conflicts": etcd.conflicts,
        "resyncs": etcd.resyncs,
    })
}

/// The group of the strong tables.
fn render_group(group: &GroupView, view: &ClusterView) -> Value {
    let member = |node: NodeId| json!({ "node": node.to_string(), "address": view.address_of(node) });
    let those = |voters: bool| {
        let those = group.members.iter().filter(|member| member.is_voter == voters);
        let rendered = those.map(|it| {
            let mut rendered = member(it.node);
            rendered["matched_index"] = json!(it.matched_index);
            rendered["differs"] = json!(it.differs);
            if !voters {
                rendered["demoted"] = json!(it.is_demoted);
            }
            rendered
        });
        rendered.collect::<Vec<_>>()
    };
    json!({
        "group": format!("{:016x}", group.group),
        "leader": group.leader.map(member),
        "leads": group.leads,
        "term": group.term,
        "applied_index": group.applied_index,
        "log_index": group.log_index,
        "voters": those(true),
        "learners": those(false),
        "foreign": group.foreign.iter().map(|node| member(*node)).collect::<Vec<_>>(),
    })
}

fn render_member(member: &MemberView) -> Value {
    json!({
        "node": member.node.to_string(),
        "address": member.address,
        "state": member.state.name(),
        "since_ms": member.since_ms,
        "linked": member.linked,
        "storage_full": member.storage_full,
        "rows_refused": member.rows_refused,
        "round_trip_ms": member.round_trip_ms,
        "clock_offset_ms": member.clock_offset_ms,
        "rows": member.rows,
        "lag_ms": member.lag_ms,
        "outbox": member.outbox,
        "last_round_ms": member.last_round_ms,
        "rounds": member.rounds,
        "sessions": member.sessions,
        "false_sessions": member.false_sessions,
        "comparison_messages": member.comparison_messages,
        "comparison_bytes": member.comparison_bytes,
        "comparison_steps": member.comparison_steps,
        "bytes_sent": member.bytes_sent,
        "bytes_received": member.bytes_received,
        "rows_sent": member.rows_sent,
        "rows_received": member.rows_received,
    })
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
    let readiness = node.readiness();
    let phase = readiness.phase();
    match readiness {
        Readiness::Ready => (StatusCode::OK, render_ready(node, phase)),
        Readiness::Repairing { ranges } => unready(json!({ "phase": phase, "unreadable_ranges": ranges })),
        Readiness::ReadOnly(why)
        | Readiness::Refused(why)
        | Readiness::Broken(why)
        | Readiness::Clock(why) => unready(json!({ "phase": phase, "detail": why })),
        // How much there is to do is unknown until the first member answers.
        Readiness::Joining(None) => unready(json!({ "phase": phase, "done": 0, "total": 0 })),
        Readiness::Joining(Some(why)) => {
            unready(json!({ "phase": phase, "done": 0, "total": 0, "detail": why }))
        }
        Readiness::Syncing { done, total } => {
            unready(json!({ "phase": phase, "done": done, "total": total }))
        }
        Readiness::Draining => unready(json!({ "phase": phase })),
    }
}

fn render_ready(node: &Node, phase: &str) -> Value {
    let mut body = json!({ "phase": phase });
    if let Some(path) = node.set_aside() {
        body["set_aside"] = json!(path);
    }
    if node.unreadable_ranges() > 0 {
        body["unreadable_ranges"] = json!(node.unreadable_ranges());
    }
    let detail = match node.cluster().progress {
        SyncStatus::Agreed => {
            "it holds what a majority of the members holds; all of them were started together"
        }
        SyncStatus::Alone => "no other member answers; it serves what it has",
        SyncStatus::Complete
        | SyncStatus::Refused(_)
        | SyncStatus::Syncing { .. }
        | SyncStatus::Joining(_) => {
            return body;
        }
    };
    body["detail"] = json!(detail);
    body
}

/// `GET /version`
fn version(node: &Node, _: &Call) -> (StatusCode, Value) {
    let version = env!("CARGO_PKG_VERSION");
    (StatusCode::OK, json!({ "name": "DynaRust", "version": version, "node": node.id().to_string() }))
}

fn unready(body: Value) -> (StatusCode, Value) {
    (StatusCode::SERVICE_UNAVAILABLE, body)
}

fn render_tables(tables: &[TableStats]) -> Value {
    let render = |table: &TableStats| {
        json!({
            "name": table.name.as_str(),
            "mode": table.mode.name(),
            "keys": table.keys,
            "tombstones": table.tombstones,
            "root": table.root,
            "unreadable_ranges": table.unreadable_ranges,
        })
    };
    tables.iter().map(render).collect()
}
