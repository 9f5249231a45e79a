//! This node as a member of the group: its log, state machine and proposer, and what it serves to the others.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{ChangeMembers, Config, Raft, ServerState, Snapshot, SnapshotPolicy, storage::RaftLogStorage};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    leases,
    log::RaftLog,
    network::{Connection, Network, check_group},
    operate::{check_can_spare, unknown},
    others::Others,
    proposer::{Proposed, Proposer},
    revisions::Revisions,
    row_repair,
    rpc::{Call, CallAnswer, Consensus, ConsensusAnswer, GroupId},
    snapshot,
    state_machine::{StateMachine, receiving::Purpose},
    types::{Group, Metrics, Node, Vote},
    view::{Counters, is_cut_off},
};
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        strong::request::{Refusal, Request},
    },
    error::{Error, Result},
    replication::Replication,
    storage::{Store, commit::timestamps::Timestamps},
};

/// A leader says so this often, in milliseconds.
const HEARTBEAT_MS: u64 = 50;
/// A member draws its election timeout from these milliseconds when it starts. It stands for election when it has heard of no leader for twice
/// that time, and again after that time if it was not elected.
pub(super) const ELECTION_MS: Range<u64> = 450..600;
/// Entries after which the log is compacted, of many requests each where they are frequent. A snapshot costs two syncs, and a member that missed
/// more than the log has is sent what differs and the entries since the last one.
pub const LOG_ENTRIES: u64 = 2_000;
/// How long a leader may take to make sure that it leads.
const CONFIRM_MAX: Duration = Duration::from_secs(2);
/// The pause before it tries again.
const CONFIRM_RETRY: Duration = Duration::from_millis(20);
/// How long a member that stops tries to record how far it has applied.
const LAST_CHECKPOINT_MAX: Duration = Duration::from_secs(5);
/// How long it may take to take a member out of the group.
pub(super) const RETIRE_MAX: Duration = Duration::from_secs(10);

/// What members are made of.
#[derive(Clone)]
pub struct Parts {
    /// The links.
    pub replication: Replication,
    /// The rows.
    pub store: Store,
    /// The clock.
    pub timestamps: Arc<Timestamps>,
    /// The largest value, in bytes of JSON text.
    pub value_bytes_max: u64,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// What is kept in memory of the table of the etcd API.
    pub revisions: Arc<Revisions>,
}

/// How openraft is to run. The election timeout is drawn here, because openraft would take the thread's randomness and not the environment's.
fn config(group: GroupId, parts: &Parts, needs_repair: bool) -> Result<Config> {
    let environment = parts.store.environment();
    let log_entries = parts.replication.0.options.strong_log_entries;
    let span_ms = ELECTION_MS.end - ELECTION_MS.start;
    let election_ms = ELECTION_MS.start + environment.random()? % span_ms;
    let config = Config {
        // Until its rows are repaired, where they may be damaged.
        enable_elect: !needs_repair,
        cluster_name: format!("{:016x}", group.0),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: election_ms,
        election_timeout_max: election_ms + 1,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(log_entries),
        // It is purged by `upkeep`.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Io(format!("the settings of openraft: {error}")))
}

fn network(group: GroupId, parts: &Parts, machine: StateMachine) -> Network {
    let Parts { replication, store, timestamps, counters, .. } = parts.clone();
    Network { group, replication, store, timestamps, counters, machine }
}

/// This node as a member.
pub struct Member {
    /// The group.
    pub group: GroupId,
    /// openraft.
    pub raft: Raft<Group>,
    /// The state machine.
    pub machine: StateMachine,
    /// What it knows of the others.
    pub others: Others,
    /// Whether this node leads and lets another take its place: it takes no requests then.
    steps_aside: AtomicBool,
    proposer: Proposer,
    parts: Parts,
}

impl Member {
    /// Opens the log in `directory`, and takes part from there on.
    ///
    /// # Errors
    /// Those of the log; `Corrupt` if the checkpoint cannot be read; `Io` if openraft does not start.
    pub async fn open(group: GroupId, directory: &Path, parts: Parts) -> Result<Self> {
        let Parts { store, timestamps, value_bytes_max, revisions, .. } = parts.clone();
        let log = RaftLog::open(directory, store.environment())?;
        let mut log = log.of_group(group)?.of_node(store.node());
        let reader = log.get_log_reader().await;
        let machine = StateMachine::open(store.clone(), timestamps.clone(), reader, revisions)?;
        let log = log.purged_by(machine.covered())?;
        let network = network(group, &parts, machine.clone());
        let config = config(group, &parts, machine.needs_repair())?;
        let raft = Raft::new(store.node(), Arc::new(config), network, log, machine.clone()).await;
        let raft = raft.map_err(|error| Error::Io(format!("the log of the strong tables: {error}")))?;
        let proposer = Proposer::start(raft.clone(), machine.clone(), store, timestamps, value_bytes_max);
        Ok(Self {
            group,
            raft,
            machine,
            others: Others::default(),
            steps_aside: AtomicBool::new(false),
            proposer,
            parts,
        })
    }

    /// This node.
    pub(super) fn node(&self) -> NodeId {
        self.parts.store.node()
    }

    /// A connection to another member.
    pub(super) fn connection(&self, node: NodeId) -> Connection {
        network(self.group, &self.parts, self.machine.clone()).connection(node)
    }

    /// A timestamp of now, durably below the clock's bound.
    ///
    /// # Errors
    /// Those of the clock.
    pub(super) async fn now(&self) -> Result<Timestamp> {
        self.parts.timestamps.before_writing().await?;
        self.parts.timestamps.tick()
    }

    /// Becomes the first members of the group, together with these nodes.
    ///
    /// # Errors
    /// `Conflict` if the group was started before.
    pub async fn initialize(&self, voters: impl IntoIterator<Item = NodeId>) -> Result<()> {
        let voters = voters.into_iter().map(|voter| (voter, Node::default()));
        let started = self.raft.initialize(voters.collect::<std::collections::BTreeMap<_, _>>()).await;
        started.map_err(|error| {
            Error::Conflict(format!("the group of strong tables cannot be started: {error}"))
        })
    }

    /// The state of the group as this node knows it. Whoever looks at it twice at once may wait for ever, and openraft too.
    pub fn metrics(&self) -> watch::Receiver<Metrics> {
        self.raft.metrics()
    }

    /// Whether the group has started, as far as this node knows: it has a log or has voted.
    pub async fn has_started(&self) -> bool {
        // openraft has failed otherwise, which it cannot before it started.
        self.raft.is_initialized().await.unwrap_or(true)
    }

    /// Whether this node leads, and does not step aside.
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader && !self.steps_aside.load(Ordering::Acquire)
    }

    /// Whether this node leads, and a majority has confirmed that just now.
    pub fn leads_majority(&self) -> bool {
        let has_majority =
            |metrics: &Metrics| metrics.millis_since_quorum_ack.is_some() && !is_cut_off(metrics);
        self.is_leader() && has_majority(&self.raft.metrics().borrow())
    }

    /// Whether an entry of the current term is applied here, so that all of earlier terms are. Before that a new leader knows less than was answered.
    pub fn has_applied_its_term(&self) -> bool {
        let metrics = self.raft.metrics().borrow().clone();
        metrics.last_applied.is_some_and(|applied| applied.leader_id.term == metrics.current_term)
    }

    /// Has this node take no requests as the leader, so that another can take its place; or has it take them again.
    pub fn step_aside(&self, steps_aside: bool) {
        self.steps_aside.store(steps_aside, Ordering::Release);
        // Heartbeats would keep the others from voting.
        self.raft.runtime_config().heartbeat(!steps_aside);
    }

    /// Has a request decided, if this node leads.
    pub async fn propose(&self, request: Request) -> Proposed {
        let proposed = self.decide(request).await;
        self.parts.counters.count(&proposed);
        proposed
    }

    async fn decide(&self, request: Request) -> Proposed {
        if !self.is_leader() {
            return Proposed::NotLeader;
        }
        // Such a leader may wait for ever.
        if is_cut_off(&self.raft.metrics().borrow()) {
            return Proposed::Decided(Err(Refusal::NoQuorum(super::no_quorum())));
        }
        self.proposer.propose(request).await
    }

    /// The index that a linearizable read must have applied, if this node leads. `None` if it does not.
    ///
    /// # Errors
    /// `NoQuorum`.
    pub async fn read_index(&self) -> Option<Result<u64>> {
        if !self.is_leader() {
            return None;
        }
        let until = Instant::now() + CONFIRM_MAX;
        loop {
            match timeout_at(until, self.raft.get_read_log_id()).await {
                Ok(Ok((index, _))) => return Some(Ok(index.map_or(0, |index| index.index))),
                Ok(Err(_)) if !self.is_leader() => return None,
                // The others have one heartbeat's time to confirm, which may be too short on a busy machine.
                Ok(Err(_)) if Instant::now() + CONFIRM_RETRY < until => sleep(CONFIRM_RETRY).await,
                Ok(Err(_)) | Err(_) => return Some(Err(Error::NoQuorum(super::no_quorum()))),
            }
        }
    }

    /// Serves a step of consensus.
    ///
    /// # Errors
    /// Those of the storage; `Io` if openraft has stopped.
    pub async fn serve(&self, step: Consensus) -> Result<ConsensusAnswer> {
        let store = &self.parts.store;
        let stopped =
            |error: &dyn std::fmt::Display| Error::Io(format!("the log of the strong tables: {error}"));
        if let Consensus::Snapshot(vote, _) | Consensus::Install(vote, _) = &step {
            let own_vote = self.own_vote().await?;
            if *vote < own_vote {
                return Ok(ConsensusAnswer::Outvoted(own_vote));
            }
        }
        match step {
            Consensus::Append(rpc) => {
                self.raft.append_entries(rpc).await.map(ConsensusAnswer::Append).map_err(|e| stopped(&e))
            }
            Consensus::Vote(rpc) => {
                self.raft.vote(rpc).await.map(ConsensusAnswer::Vote).map_err(|e| stopped(&e))
            }
            Consensus::Snapshot(vote, step) => {
                snapshot::receive(self, store, Purpose::Snapshot, vote, step).await
            }
            Consensus::Repair(vote, step) => {
                snapshot::receive(self, store, Purpose::Repair, vote, step).await
            }
            Consensus::Repaired(vote) => {
                let own_vote = self.own_vote().await?;
                self.machine.end_repair(&vote, own_vote).await.map(|()| ConsensusAnswer::Done)
            }
            Consensus::Install(vote, meta) => {
                self.machine.check_receiving(Purpose::Snapshot, &vote, self.own_vote().await?)?;
                let snapshot = Snapshot { meta, snapshot: Box::default() };
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                installed.map(ConsensusAnswer::Installed).map_err(|e| stopped(&e))
            }
        }
    }

    /// The vote that this node has given last.
    pub(super) async fn own_vote(&self) -> Result<Vote> {
        let vote = self.raft.with_raft_state(|state| *state.vote_ref()).await;
        vote.map_err(|error| Error::Io(format!("the log of the strong tables: {error}")))
    }

    /// Serves a call of another node, which takes part in a group or asks for one.
    pub async fn call(&self, from: NodeId, group: GroupId, call: Call) -> CallAnswer {
        let is_of_members = match call {
            Call::Propose(_)
            | Call::ReadIndex
            | Call::Retire
            | Call::Digest
            | Call::Lease(_)
            | Call::ChangeRole(..)
            | Call::Repair
            | Call::Elect => true,
            Call::Standing | Call::Reclaim | Call::Replace(..) | Call::Restored(_) | Call::EtcdUrl => false,
            Call::Claim(_) | Call::Claimed | Call::Start | Call::Group => false,
            Call::Leaving(_) | Call::Made(..) | Call::Tables => false,
        };
        if is_of_members && let Err(error) = check_group(self.group, group) {
            return CallAnswer::OtherGroup(error.into());
        }
        let not_leader = || CallAnswer::NotLeader(self.raft.metrics().borrow().current_leader);
        match call {
            Call::Claim(_) | Call::Start => CallAnswer::Claimed(self.group),
            Call::Group => CallAnswer::Group(Some((self.group, self.has_started().await))),
            Call::Digest => CallAnswer::Digest(self.machine.digest().await.unwrap_or_default()),
            // The group serves them, where this node leads.
            Call::Made(..) | Call::Tables | Call::Claimed => CallAnswer::Noted,
            Call::Standing | Call::Reclaim | Call::Replace(..) | Call::Restored(_) | Call::EtcdUrl => {
                CallAnswer::Noted
            }
            Call::Elect if self.machine.needs_repair() => {
                CallAnswer::NotStarted(row_repair::cannot_lead().into())
            }
            Call::Lease(call) => leases::serve(self, &self.parts, call).unwrap_or_else(not_leader),
            Call::Elect => {
                // If openraft has failed, another is elected.
                let _ = self.raft.trigger().elect().await;
                CallAnswer::Noted
            }
            Call::Leaving(leaves) => {
                self.others.note_leaving(from, leaves);
                CallAnswer::Noted
            }
            // The group serves the first two, where this node leads.
            Call::ChangeRole(..) | Call::Repair => not_leader(),
            Call::Retire if !self.is_leader() => not_leader(),
            Call::Retire => CallAnswer::Retired(self.retire(from).await.map_err(Refusal::from)),
            Call::Propose(request) => match self.propose(request).await {
                Proposed::Decided(outcome) => CallAnswer::Proposed(outcome),
                Proposed::NotLeader => not_leader(),
            },
            Call::ReadIndex => match self.read_index().await {
                Some(index) => CallAnswer::Index(index.map_err(Refusal::from)),
                None => not_leader(),
            },
        }
    }

    /// Takes a member out of the group, which leaves the cluster. Only the leader can.
    ///
    /// # Errors
    /// `Conflict` if strong tables would take no writes without it; `OutcomeUnknown`.
    pub async fn retire(&self, node: NodeId) -> Result<()> {
        let is_voter = self.check_can_retire(node)?;
        let membership = self.raft.metrics().borrow().membership_config.membership().clone();
        self.others.note_leaving(node, true);
        let change = match is_voter {
            true => ChangeMembers::RemoveVoters([node].into()),
            false if membership.get_node(&node).is_some() => ChangeMembers::RemoveNodes([node].into()),
            false => return Ok(()),
        };
        match timeout(RETIRE_MAX, self.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            // Its first step may be made.
            Ok(Err(error)) => Err(unknown(&error.to_string())),
            Err(_) => Err(unknown("no majority has confirmed it in time")),
        }
    }

    /// Checks that strong tables take writes without a member. Returns whether it votes.
    ///
    /// # Errors
    /// `Conflict` if they do not.
    pub fn check_can_retire(&self, node: NodeId) -> Result<bool> {
        let voters: BTreeSet<_> =
            self.raft.metrics().borrow().membership_config.membership().voter_ids().collect();
        if voters.contains(&node) {
            let peers = self.parts.replication.membership().peers.into_iter();
            let linked = peers.filter(|peer| peer.linked).map(|peer| peer.member.node);
            check_can_spare(&voters, node, &linked.chain([self.parts.store.node()]).collect())?;
        }
        Ok(voters.contains(&node))
    }

    /// Stops taking part.
    pub async fn stop(&self) {
        // It ends in any case; an error says only that a task of openraft panicked before.
        let _ = self.raft.shutdown().await;
        // What was applied need not be applied again. An entry may wait for a storage that fails, and the checkpoint for the entry.
        let _ = timeout(LAST_CHECKPOINT_MAX, self.machine.checkpoint()).await;
    }
}

#[cfg(test)]
mod tests;
