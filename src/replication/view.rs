//! The state of the cluster as this node sees it, for the API.

use std::time::Duration;

use super::{
    Replication, State,
    link::{
        clocks::{ClockState, clock_state},
        registry::Totals,
    },
    membership::{Member, cluster_identity::describe_unanswered},
};
use crate::core::protocol::progress::Progress;

/// A started member that no other member answers for this long serves without them.
const ALONE_AFTER: Duration = Duration::from_secs(10);

/// How far the node is in sync with the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncStatus {
    /// It is complete: see `core::protocol::agreement`.
    Complete,
    /// It has the rows of a majority of the members, which were started together with it. It becomes complete when the
    /// others are there.
    Agreed,
    /// No other member has answered for a while since it started: it serves what it has.
    Alone,
    /// Other nodes refuse it, and it has no link. The text says why and what to do.
    Refused(String),
    /// It is syncing the rows it lacks.
    Syncing {
        /// Rows it has.
        done: u64,
        /// Rows there are.
        total: u64,
    },
    /// It has no link yet, or waits for a cluster to start. The text, if known, says for what it waits and what to do.
    Joining(Option<String>),
}

/// The cluster, as this node sees it.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The cluster's id.
    pub cluster: u64,
    /// The address this node tells others, if known.
    pub address: Option<String>,
    /// The incarnation of this node.
    pub incarnation: u64,
    /// How far the node is in sync with the cluster.
    pub sync_status: SyncStatus,
    /// Members that would be forgotten by now if there were a majority.
    pub kept_without_majority: usize,
    /// The state of this node's clock.
    pub clock: ClockState,
    /// Every member has everything up to here, in Unix milliseconds; 0 while unknown.
    pub floor_ms: u64,
    /// The other members.
    pub peers: Vec<PeerView>,
}

/// Another member, as this node sees it.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its id, address and state.
    pub member: Member,
    /// Whether there is a link with it.
    pub linked: bool,
    /// Why it accepts no rows, if it said so.
    pub storage_full: Option<String>,
    /// Why this node accepts no rows from it: there is no room for its tables.
    pub rows_refused: Option<String>,
    /// Counters over all links with it.
    pub totals: Totals,
    /// Journal entries it has not acknowledged.
    pub outbox: u64,
    /// The last instant at which it held the same rows as this node, in Unix milliseconds; 0 while unknown.
    pub equal_ms: u64,
}

impl Replication {
    /// The address this node tells others, if known.
    pub fn address(&self) -> Option<String> {
        let state = self.0.state();
        state.advertised.current().or(state.advertised.candidate()).map(str::to_owned)
    }

    /// The current state of the cluster.
    pub fn membership(&self) -> Membership {
        let inner = &self.0;
        // Before the locks: it waits for a partition that is being read, and all links would wait for this.
        let rows = inner.store.rows_total();
        let state = inner.state();
        let progress = inner.shared.progress();
        let last = inner.shared.journal().last();
        let view = |member: &Member| {
            let node = member.node;
            let link = state.registry.link(node);
            let acked = progress.acked.get(&node).map(|acked| acked.upto).unwrap_or_default();
            PeerView {
                member: member.clone(),
                linked: link.is_some(),
                storage_full: link.and_then(|link| link.storage_full()),
                rows_refused: link.and_then(|link| link.rows_refused()),
                totals: state.registry.totals_of(node),
                outbox: last - acked,
                equal_ms: progress.floor.equal_ms(node).unwrap_or_default(),
            }
        };
        let peers: Vec<_> = state.members.others().map(view).collect();
        let rows_there = peers.iter().filter(|peer| peer.linked);
        let rows_there = rows_there.filter_map(|peer| peer.totals.figures.rows_there).max();
        let sync_status = sync_status(&state, &progress, inner.store.now_ms(), (rows, rows_there));
        Membership {
            cluster: state.cluster_record.cluster,
            address: state.advertised.current().or(state.advertised.candidate()).map(str::to_owned),
            incarnation: state.members.local().incarnation,
            sync_status,
            kept_without_majority: state.members.kept_without_majority(),
            clock: clock_state(inner),
            floor_ms: progress.floor.floor_ms(),
            peers,
        }
    }

    /// How many members hold replicas, including this node and those that are away.
    pub fn replicas(&self) -> usize {
        1 + self.0.state().members.member_ids().len()
    }
}

fn sync_status(
    state: &State,
    progress: &Progress,
    now_ms: u64,
    (rows, rows_there): (u64, Option<u64>),
) -> SyncStatus {
    let mut links = state.registry.links().filter(|link| link.figures().rounds > 0).peekable();
    let is_linked = links.peek().is_some();
    match &state.refused {
        Some(why) if !is_linked => return SyncStatus::Refused(why.clone()),
        Some(_) | None if progress.complete => return SyncStatus::Complete,
        Some(_) | None => {}
    }
    let mut covered = links.map(|link| progress.covered.contains(&link.node));
    if !state.cluster_record.joined {
        return match rows_there.filter(|_| state.registry.reaches_complete()) {
            Some(total) => SyncStatus::Syncing { done: rows, total },
            None => SyncStatus::Joining(describe_unanswered(state)),
        };
    }
    if is_linked
        && covered.all(|is_covered| is_covered)
        && progress.hears_no_complete_member(now_ms)
        && progress.covers_majority()
    {
        return SyncStatus::Agreed;
    }
    match rows_there {
        Some(total) if is_linked => SyncStatus::Syncing { done: rows, total },
        Some(_) | None if state.linked_at.elapsed() >= ALONE_AFTER => SyncStatus::Alone,
        Some(_) | None => SyncStatus::Joining(Some(format!(
            "no other member answers yet: see DynaRust members. This node serves without them {} s after its start, \
            or after the last link ended",
            ALONE_AFTER.as_secs()
        ))),
    }
}
