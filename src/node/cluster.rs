//! What a node knows about its cluster, and the cluster commands: shared by HTTP and the command line.
//!
//! Times in a view are ages in milliseconds, unless they say Unix milliseconds.

use tracing::info;

use super::{Node, Readiness};
pub use crate::replication::{
    SyncStatus,
    link::clocks::ClockState,
    requests::{FiguresByKind, RequestFigures},
    strong::view::{EtcdView, GroupMember, GroupView, ProposalResult},
};
use crate::{
    core::{clock::NodeId, protocol::replica::Swept},
    error::{Error, Result},
    replication::{PeerView, membership},
};

/// The cluster as this node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterView {
    /// The cluster's id: random, made when the cluster was formed.
    pub cluster: u64,
    /// This node's id.
    pub node: NodeId,
    /// The address others reach this node at.
    pub address: String,
    /// How often this node has joined as a new member.
    pub incarnation: u64,
    /// How far this node has received what the cluster holds.
    pub progress: SyncStatus,
    /// Members that would be forgotten by now, but are kept because this side has no majority.
    pub kept_without_majority: usize,
    /// What is wrong with this node's clock, if anything is.
    pub clock: ClockState,
    /// Every member holds everything up to here (Unix milliseconds; 0: not known).
    pub floor_ms: u64,
    /// How far this node has removed tombstones and expired values (Unix milliseconds).
    pub swept: Swept,
    /// Rows refused since the start, because they were proved to be deleted.
    pub zombies_refused: u64,
    /// All known members including this node, ordered by address.
    pub members: Vec<MemberView>,
    /// The group of the strong tables; `None` while it is asleep, and while this node takes no part in it.
    pub strong: Option<GroupView>,
    /// The etcd that keeps the strong tables; `None` where the cluster's own group does.
    pub strong_etcd: Option<EtcdView>,
    /// Why this node serves no strong tables, although there are some.
    pub strong_failure: Option<String>,
}

/// A member as this node sees it. Counters start with this node.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberView {
    /// Its id.
    pub node: NodeId,
    /// The address it is reached at.
    pub address: String,
    /// Its state.
    pub state: MemberState,
    /// How long it has been in this state.
    pub since_ms: u64,
    /// Whether there is a link with it.
    pub linked: bool,
    /// Why it accepts no rows: its storage is full or failing, or it has no room for a table.
    pub storage_full: Option<String>,
    /// Why this node accepts no rows from it: there is no room for one of its tables.
    pub rows_refused: Option<String>,
    /// The round trip time of the last round.
    pub round_trip_ms: Option<f64>,
    /// How far its clock is ahead of this node's; negative if behind.
    pub clock_offset_ms: Option<i64>,
    /// Its row count as last reported, tombstones included.
    pub rows: Option<u64>,
    /// How old its data may be: the time since both nodes last held the same.
    pub lag_ms: Option<u64>,
    /// Rows waiting here to be sent to it.
    pub outbox: u64,
    /// How long ago its last round arrived.
    pub last_round_ms: Option<u64>,
    /// Rounds received from it.
    pub rounds: u64,
    /// Comparisons of rows with it.
    pub sessions: u64,
    /// Comparisons that found no difference.
    pub false_sessions: u64,
    /// Messages sent to it to find differences.
    pub comparison_messages: u64,
    /// The encoded length of those messages.
    pub comparison_bytes: u64,
    /// The longest chain of messages in the last comparison with it that waited for one another, rows included.
    pub comparison_steps: u32,
    /// Bytes sent to it over links.
    pub bytes_sent: u64,
    /// Bytes received from it over links.
    pub bytes_received: u64,
    /// Rows sent to it.
    pub rows_sent: u64,
    /// Rows received from it.
    pub rows_received: u64,
    /// Requests to it and from it, by kind.
    pub requests: FiguresByKind,
}

/// The state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    /// This node.
    Myself,
    /// It answers.
    Alive,
    /// It did not answer last time; we ask others about it.
    Suspect,
    /// It does not answer. It still counts: nothing it may have missed is swept.
    Down,
    /// It announced that it stops, and is expected back. Like down, but no cause for concern.
    Left,
    /// It was forgotten. If it returns, it joins as a new member.
    Forgotten,
}

impl MemberState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Myself, Self::Alive, Self::Suspect, Self::Down, Self::Left, Self::Forgotten];

    /// The name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Myself => "self",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
            Self::Forgotten => "forgotten",
        }
    }

    /// Whether it holds a replica. It may be away, but is expected back.
    pub fn is_replica(self) -> bool {
        match self {
            Self::Myself | Self::Alive | Self::Suspect | Self::Down | Self::Left => true,
            Self::Forgotten => false,
        }
    }

    /// Whether it is not known to be gone.
    pub fn is_present(self) -> bool {
        match self {
            Self::Myself | Self::Alive | Self::Suspect => true,
            Self::Down | Self::Left | Self::Forgotten => false,
        }
    }
}

impl MemberView {
    fn of(peer: &PeerView, now_ms: u64) -> Self {
        let (state, since_ms) = match peer.member.state {
            membership::MemberState::Alive => (MemberState::Alive, now_ms),
            membership::MemberState::Suspect { since_ms } => (MemberState::Suspect, since_ms),
            membership::MemberState::Down { since_ms } => (MemberState::Down, since_ms),
            membership::MemberState::Left { since_ms } => (MemberState::Left, since_ms),
            membership::MemberState::Forgotten { since_ms } => (MemberState::Forgotten, since_ms),
        };
        let ago = |at_ms: u64| now_ms.saturating_sub(at_ms);
        let figures = &peer.totals.figures;
        Self {
            node: peer.member.node,
            address: peer.member.address.clone(),
            state,
            since_ms: ago(since_ms),
            linked: peer.linked,
            storage_full: peer.storage_full.clone(),
            rows_refused: peer.rows_refused.clone(),
            round_trip_ms: figures.round_trip_ms.map(|ms| ms as f64),
            clock_offset_ms: figures.clock_offset_ms,
            rows: figures.rows_there,
            lag_ms: (peer.equal_ms > 0).then(|| ago(peer.equal_ms)),
            outbox: peer.outbox,
            last_round_ms: figures.last_round_ms.map(ago),
            rounds: figures.rounds,
            sessions: figures.sessions,
            false_sessions: figures.false_sessions,
            comparison_messages: figures.comparison_messages,
            comparison_bytes: figures.comparison_bytes,
            comparison_steps: figures.comparison_steps.count_ones(),
            bytes_sent: peer.totals.sent_bytes,
            bytes_received: peer.totals.received_bytes,
            rows_sent: figures.rows_pushed + figures.rows_repaired,
            rows_received: figures.rows_received,
            requests: peer.totals.requests,
        }
    }

    /// A member of which only the address and the state are known.
    pub fn new(node: NodeId, address: String, state: MemberState) -> Self {
        Self {
            node,
            address,
            state,
            since_ms: 0,
            linked: false,
            storage_full: None,
            rows_refused: None,
            round_trip_ms: None,
            clock_offset_ms: None,
            rows: None,
            lag_ms: None,
            outbox: 0,
            last_round_ms: None,
            rounds: 0,
            sessions: 0,
            false_sessions: 0,
            comparison_messages: 0,
            comparison_bytes: 0,
            comparison_steps: 0,
            bytes_sent: 0,
            bytes_received: 0,
            rows_sent: 0,
            rows_received: 0,
            requests: FiguresByKind::default(),
        }
    }
}

impl ClusterView {
    /// The address of a member; `None` if it is not known.
    pub fn address_of(&self, node: NodeId) -> Option<&str> {
        let member = self.members.iter().find(|member| member.node == node);
        member.map(|member| member.address.as_str())
    }

    /// Why a node with this view is not ready, if it is not.
    pub fn unready(&self) -> Option<Readiness> {
        let clock = self.clock.trouble.map(|trouble| Readiness::Clock(trouble.to_string()));
        clock.or_else(|| Readiness::of(&self.progress))
    }

    /// Whether this node is complete: since its start, it has received everything the cluster held.
    pub fn is_complete(&self) -> bool {
        self.progress == SyncStatus::Complete
    }

    /// Progress while it syncs: rows received, and rows in total.
    pub fn sync(&self) -> Option<(u64, u64)> {
        match self.progress {
            SyncStatus::Syncing { done, total } => Some((done, total)),
            SyncStatus::Complete
            | SyncStatus::Agreed
            | SyncStatus::Alone
            | SyncStatus::Refused(_)
            | SyncStatus::Joining(_) => None,
        }
    }

    /// The member that `name` stands for: an id, 16 hexadecimal digits, or an address.
    ///
    /// # Errors
    /// `NotFound`, with the known members. `BadRequest` for this node itself, and for an address that several members have had.
    pub fn member(&self, name: &str) -> Result<NodeId> {
        match self.one_of(name, &self.named(name))? {
            node if node == self.node => Err(own_node_error()),
            node => Ok(node),
        }
    }

    /// The member that `name` stands for, or this node. Of several that have had an address, the one that has it now.
    ///
    /// # Errors
    /// `NotFound`, with the known members. `BadRequest` for an address that several members have had, if none of them has it now.
    pub fn present_member(&self, name: &str) -> Result<NodeId> {
        let named = self.named(name);
        let present: Vec<_> = named.iter().copied().filter(|member| member.state.is_present()).collect();
        self.one_of(name, if present.len() == 1 { &present } else { &named })
    }

    fn named(&self, name: &str) -> Vec<&MemberView> {
        let is_named =
            |member: &&MemberView| member.address == name || member.node.to_string() == name.to_lowercase();
        self.members.iter().filter(is_named).collect()
    }

    fn one_of(&self, name: &str, named: &[&MemberView]) -> Result<NodeId> {
        match named {
            [] => Err(self.unknown(name)),
            [member] => Ok(member.node),
            several => {
                let ids: Vec<_> = several.iter().map(|member| member.node.to_string()).collect();
                Err(Error::BadRequest(format!(
                    "{name} was the address of several members: use one of their ids, {}",
                    ids.join(", ")
                )))
            }
        }
    }

    /// The error for an unknown member.
    pub fn unknown(&self, name: &str) -> Error {
        let others = self.members.iter().filter(|member| member.node != self.node);
        let known: Vec<_> = others.map(|member| format!("{} at {}", member.node, member.address)).collect();
        let known = if known.is_empty() {
            "this node knows no other members".into()
        } else {
            format!("the known members are {}", known.join(", "))
        };
        Error::NotFound(format!("no member {name}; {known}"))
    }
}

fn own_node_error() -> Error {
    Error::BadRequest("that is this node itself: to remove it from the cluster, use leave".into())
}

impl Node {
    /// The cluster as this node sees it now.
    pub fn cluster(&self) -> ClusterView {
        let membership = self.replication.membership();
        let now_ms = self.now_ms();
        let address = membership.address.unwrap_or_else(|| self.options.address.clone());
        let mut this_node = MemberView::new(self.id(), address.clone(), MemberState::Myself);
        this_node.rows = self.store.is_counted().then(|| self.store.rows_total());
        this_node.storage_full = self.store.failure();
        let peers = membership.peers.iter().map(|peer| MemberView::of(peer, now_ms));
        let mut members: Vec<_> = peers.chain([this_node]).collect();
        members.sort_by(|a, b| (&a.address, a.node).cmp(&(&b.address, b.node)));
        ClusterView {
            cluster: membership.cluster,
            node: self.id(),
            address,
            incarnation: membership.incarnation,
            progress: membership.sync_status,
            kept_without_majority: membership.kept_without_majority,
            clock: membership.clock,
            floor_ms: membership.floor_ms,
            swept: self.store.swept(),
            zombies_refused: self.store.counters().rows_refused.value(),
            members,
            strong: self.strong.group(),
            strong_etcd: self.strong.etcd(),
            strong_failure: self.strong.failure(),
        }
    }

    /// Advertised addresses of the members not known to be gone, sorted, including this node's.
    pub fn members(&self) -> Vec<String> {
        let present = self.cluster().members.into_iter().filter(|member| member.state.is_present());
        let mut addresses: Vec<_> = present.map(|member| member.address).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Whether another member, which is there or expected back, has an address of which this is true.
    pub fn has_member_at(&self, is_it: impl Fn(&str) -> bool) -> bool {
        let peers = self.replication.membership().peers;
        peers.iter().any(|peer| !peer.member.state.is_forgotten() && is_it(&peer.member.address))
    }

    /// Tells the cluster that a member will not return. Nothing waits for it any more.
    ///
    /// # Errors
    /// `NotFound` if it is unknown, `BadRequest` for this node itself and for a member that is alive.
    pub async fn forget(&self, node: NodeId, force: bool) -> Result<()> {
        if node == self.id() {
            return Err(own_node_error());
        }
        self.replication.forget(node, force).await
    }

    /// Hands over all data, tells the cluster that this node will not return, and starts the shutdown. Returns how many members remain.
    ///
    /// # Errors
    /// `NotReady` if nobody took what only this node has; `Conflict` or `NoQuorum` if the group of the strong tables cannot let it go. It then
    /// stays.
    pub async fn leave(&self) -> Result<usize> {
        info!("leaving the cluster");
        // Refuse writes now: one acknowledged after the handover would be lost.
        self.write_tracker.close();
        self.write_tracker.wait().await;
        let left = async {
            self.strong.retire().await?;
            self.replication.leave().await
        };
        let staying = left.await.inspect_err(|_| self.write_tracker.reopen())?;
        self.drain();
        Ok(staying)
    }

    /// Starts a comparison with every linked peer. Returns how many.
    ///
    /// # Errors
    /// `Draining`.
    pub fn sync_now(&self) -> Result<usize> {
        if self.is_draining() { Err(Error::Draining) } else { Ok(self.replication.sync_now()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::link::clocks::ClockTrouble;

    fn view(members: &[(u64, &str, MemberState)]) -> ClusterView {
        ClusterView {
            cluster: 1,
            node: NodeId(1),
            address: "a:1".into(),
            incarnation: 0,
            progress: SyncStatus::Complete,
            kept_without_majority: 0,
            clock: ClockState::default(),
            floor_ms: 0,
            swept: Swept::default(),
            zombies_refused: 0,
            members: members
                .iter()
                .map(|&(node, address, state)| MemberView::new(NodeId(node), address.into(), state))
                .collect(),
            strong: None,
            strong_etcd: None,
            strong_failure: None,
        }
    }

    #[test]
    fn a_member_is_found_by_its_id_or_its_address() {
        let view = view(&[(1, "a:1", MemberState::Myself), (0xab, "b:1", MemberState::Down)]);
        for name in ["b:1", "00000000000000ab", "00000000000000AB"] {
            assert_eq!(view.member(name), Ok(NodeId(0xab)), "{name}");
        }
        for name in ["a:1", "0000000000000001"] {
            assert!(
                matches!(view.member(name), Err(Error::BadRequest(why)) if why.contains("leave")),
                "{name}"
            );
        }
        let unknown = view.member("c:1").expect_err("unknown").to_string();
        assert!(unknown.contains("c:1") && unknown.contains("00000000000000ab at b:1"), "{unknown}");
    }

    #[test]
    fn two_members_with_one_address_are_told_apart_by_id() {
        let view = view(&[
            (1, "a:1", MemberState::Myself),
            (2, "b:1", MemberState::Down),
            (3, "b:1", MemberState::Alive),
        ]);
        let several = view.member("b:1").expect_err("two").to_string();
        assert!(several.contains("0000000000000002, 0000000000000003"), "{several}");
        assert_eq!(view.member("0000000000000002"), Ok(NodeId(2)));
    }

    #[test]
    fn a_node_is_not_ready_until_it_holds_what_the_cluster_held() {
        let mut view = view(&[]);
        assert_eq!(view.unready(), None);
        for progress in [SyncStatus::Agreed, SyncStatus::Alone] {
            view.progress = progress;
            assert_eq!((view.unready(), view.is_complete()), (None, false));
        }
        for (progress, readiness) in [
            (SyncStatus::Joining(None), Readiness::Joining(None)),
            (SyncStatus::Joining(Some("a:1".into())), Readiness::Joining(Some("a:1".into()))),
            (SyncStatus::Refused("why".into()), Readiness::Refused("why".into())),
            (SyncStatus::Syncing { done: 3, total: 10 }, Readiness::Syncing { done: 3, total: 10 }),
        ] {
            view.progress = progress;
            assert_eq!(view.unready(), Some(readiness));
        }
        // While others refuse it for its clock it receives nothing, so the clock is what to report.
        view.clock.trouble = Some(ClockTrouble::TimestampsAhead(3_600_000));
        let unready = view.unready().expect("unready");
        assert_eq!(unready.phase(), "clock");
        assert!(unready.detail().is_some_and(|detail| detail.contains("3600000 ms ahead")), "{unready:?}");
    }

    #[test]
    fn every_state_is_listed_and_has_its_own_name() {
        let mut names: Vec<_> = MemberState::ALL.iter().map(|state| state.name()).collect();
        names.dedup();
        assert_eq!(names, ["self", "alive", "suspect", "down", "left", "forgotten"]);
    }
}
