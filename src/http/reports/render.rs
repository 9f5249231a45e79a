//! The cluster, readiness and tables of a node as JSON, as the routes and the reports have them.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::{
    core::clock::NodeId,
    node::{ClusterView, EtcdView, GroupView, MemberView, Node, Readiness, SyncStatus, TableStats},
};

/// The cluster as a node sees it.
pub fn render_cluster(view: &ClusterView, now_ms: u64) -> Value {
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

/// Whether to send clients here, and why not.
pub fn render_readiness(node: &Node) -> (StatusCode, Value) {
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

fn unready(body: Value) -> (StatusCode, Value) {
    (StatusCode::SERVICE_UNAVAILABLE, body)
}

/// Tables with their figures.
pub fn render_tables(tables: &[TableStats]) -> Value {
    let render = |table: &TableStats| {
        json!({
            "name": table.name.as_str(),
            "mode": table.mode.name(),
            "keys": table.keys,
            "bytes": table.bytes,
            "tombstones": table.tombstones,
            "root": table.root,
            "unreadable_ranges": table.unreadable_ranges,
            "counted": table.is_counted,
        })
    };
    tables.iter().map(render).collect()
}
