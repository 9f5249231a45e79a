//! `Tables` and `Cluster`: what a node reports of its tables, itself and the others, for whoever looks at them. The same as `/_/tables` and
//! `/_/cluster` of REST, with the same rights.

use crate::{
    core::{
        access::{Right, Touched},
        clock::NodeId,
    },
    error::Result,
    grpc::{
        proto::dynarust::v1::{self as proto, ClusterResponse, TablesResponse},
        request::Caller,
    },
    node::{ClusterView, GroupView, MemberState, MemberView, Mode, Node, TableStats},
};

/// The tables that the caller may see.
///
/// # Errors
/// `NotGranted`.
pub async fn tables(node: &Node, caller: &Caller) -> Result<TablesResponse> {
    caller.principal.check(Right::Read, Touched::Node)?;
    node.rows_counted().await;
    let tables = node.tables_without_roots();
    let visible = tables.iter().filter(|table| caller.principal.may_see(&table.name));
    Ok(TablesResponse { tables: visible.map(table).collect() })
}

fn table(stats: &TableStats) -> proto::Table {
    let mode = match stats.mode {
        Mode::Eventual => proto::TableMode::Eventual,
        Mode::Strong => proto::TableMode::Strong,
    };
    proto::Table {
        name: stats.name.as_str().to_owned(),
        mode: mode.into(),
        keys: stats.keys,
        unreadable_ranges: stats.unreadable_ranges,
        counting: !stats.is_counted,
    }
}

/// The cluster as a node sees it.
///
/// # Errors
/// `NotGranted`.
pub async fn cluster(node: &Node, caller: &Caller) -> Result<ClusterResponse> {
    caller.principal.check(Right::Read, Touched::Node)?;
    // After a start, counting the rows takes a moment.
    node.rows_counted().await;
    let (view, readiness) = (node.cluster(), node.readiness());
    let ClusterView { cluster, node: id, address, members, strong, strong_failure, .. } = view;
    let detail = readiness.detail().map(str::to_owned).or(strong_failure);
    Ok(ClusterResponse {
        cluster: format!("{cluster:016x}"),
        node: id.to_string(),
        address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: node.uptime_ms(),
        phase: readiness.phase().to_owned(),
        detail: detail.unwrap_or_default(),
        members: members.iter().map(member).collect(),
        strong: strong.as_ref().map(group),
    })
}

fn member(view: &MemberView) -> proto::Member {
    let state = match view.state {
        MemberState::Myself => proto::MemberState::Self_,
        MemberState::Alive => proto::MemberState::Alive,
        MemberState::Suspect => proto::MemberState::Suspect,
        MemberState::Down => proto::MemberState::Down,
        MemberState::Left => proto::MemberState::Left,
        MemberState::Forgotten => proto::MemberState::Forgotten,
    };
    proto::Member {
        node: view.node.to_string(),
        address: view.address.clone(),
        state: state.into(),
        since_ms: view.since_ms,
        linked: view.linked,
        round_trip_ms: view.round_trip_ms,
        clock_offset_ms: view.clock_offset_ms,
        rows: view.rows,
        lag_ms: view.lag_ms,
        outbox: view.outbox,
        trouble: view.storage_full.clone().or_else(|| view.rows_refused.clone()).unwrap_or_default(),
    }
}

fn group(view: &GroupView) -> proto::StrongGroup {
    let members = view.members.iter().map(|member| proto::StrongMember {
        node: member.node.to_string(),
        voter: member.is_voter,
        matched_index: member.matched_index,
    });
    proto::StrongGroup {
        leader: view.leader.as_ref().map(NodeId::to_string).unwrap_or_default(),
        term: view.term,
        applied_index: view.applied_index,
        log_index: view.log_index,
        members: members.collect(),
    }
}
