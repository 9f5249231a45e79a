//! What an operator changes in the group: who votes, and who leads. Any node takes the request, and the leader makes the
//! change.
//!
//! A member that was demoted is marked in the group's configuration, so that every later leader knows: the roster does
//! not make it a voter again by itself.
//!
//! openraft (0.9) has no transfer of leadership, and its voters vote for nobody within a *lease* of hearing from a
//! leader. So the leader takes no more requests, is silent for that long, and has its successor stand for election.
//! Requests wait meanwhile.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::time::{sleep, timeout};
use tracing::info;

use super::{
    Strong,
    group::{Inner, REQUEST_MAX},
    member::{ELECTION_MS, Member},
    no_quorum,
    roster::{CHANGE_MAX, LAG_MAX, VOTERS_MAX},
    rpc::{Call, CallAnswer, RoleChange},
    types::{Metrics, Node},
};
use crate::{
    core::{clock::NodeId, protocol::progress::is_majority},
    error::{Error, Result},
};

/// The pause before a change is tried again where there is no leader, or while another change is on its way.
const RETRY: Duration = Duration::from_millis(20);
/// How long a member may take to say that it is there.
const PRESENT_MAX: Duration = Duration::from_secs(1);
/// How long the successor of a leader may take to get the rest of the log.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// Voters vote for nobody for so long after they heard from the leader. A little more, because their links are slower at times: an election
/// that is lost costs [`ELECTION_EVERY`].
const LEASE: Duration = Duration::from_millis(ELECTION_MS.end + 50);
/// How long an election may take before the successor stands again, which ends the election that goes on: as long as its own timeout.
const ELECTION_EVERY: Duration = Duration::from_millis(ELECTION_MS.end);
/// How long the leader tries to hand over before it goes on as the leader: two elections over slow links.
const HAND_OVER_MAX: Duration = Duration::from_secs(4);

impl Strong {
    /// Has the leader change the role of a member, as an operator asks. Returns whether anything had to be changed.
    ///
    /// # Errors
    /// `NotFound` if the node is not in the group; `Conflict` if the change would do harm, or cannot be made now; `WrongMode` without
    /// strong tables; `NoQuorum`; `OutcomeUnknown`.
    pub async fn change_role(&self, change: RoleChange, node: NodeId) -> Result<bool> {
        let member = self.member().ok_or_else(|| self.0.asleep())?;
        let until = Instant::now() + REQUEST_MAX;
        // A change that may have been made is asked for again: whoever leads then knows.
        let mut doubt = None;
        loop {
            match self.ask_leader(&member, change, node).await {
                Some(Err(error @ Error::OutcomeUnknown(_))) => doubt = Some(error),
                Some(Ok(changed)) => return Ok(changed || doubt.is_some()),
                Some(Err(error)) => return Err(error),
                None => {}
            }
            if Instant::now() + RETRY >= until {
                return Err(doubt.unwrap_or_else(|| Error::NoQuorum(no_quorum())));
            }
            sleep(RETRY).await;
        }
    }

    /// Asks the leader that this node knows, itself maybe. `None` if it knows none, or the leader did nothing.
    async fn ask_leader(&self, member: &Member, change: RoleChange, node: NodeId) -> Option<Result<bool>> {
        let leader = member.metrics().borrow().current_leader?;
        if leader == self.0.parts.store.node() && member.is_leader() {
            return Some(self.0.change_role(member, change, node).await);
        }
        self.0.ask_for_change(leader, change, node).await
    }
}

pub(super) fn unknown(why: &str) -> Error {
    Error::OutcomeUnknown(format!(
        "the change may or may not take effect ({why}): DynaRust members shows what became of it"
    ))
}

impl Inner {
    /// Changes the role of a member, on the leader.
    ///
    /// # Errors
    /// As [`Strong::change_role`].
    pub(super) async fn change_role(
        &self,
        member: &Member,
        change: RoleChange,
        node: NodeId,
    ) -> Result<bool> {
        let roles = Roles::of(&member.metrics().borrow(), node)?;
        match change {
            RoleChange::Promote => {
                if roles.is_voter() && !roles.is_demoted {
                    return Ok(false);
                }
                if roles.voters.len() >= VOTERS_MAX && !roles.is_voter() {
                    return Err(Error::Conflict(format!(
                        "{VOTERS_MAX} members vote already, and each write waits for a majority of them: demote one first"
                    )));
                }
                self.check_present(&roles).await?;
                timed(promote(member, node)).await?;
            }
            RoleChange::Demote => {
                if !roles.is_voter() && roles.is_demoted {
                    return Ok(false);
                }
                if roles.is_voter() {
                    let reached = self.linked().chain([self.parts.store.node()]).collect();
                    check_can_spare(&roles.voters, node, &reached)?;
                    if node == self.parts.store.node() {
                        let leader = self.hand_over_to_any(member).await?;
                        return self.ask_for_change(leader, change, node).await.unwrap_or_else(|| {
                            Err(Error::Conflict(format!("another member leads than {leader} now. Try again")))
                        });
                    }
                }
                timed(demote(member, node)).await?;
            }
            RoleChange::Lead => {
                if node == self.parts.store.node() {
                    return Ok(false);
                }
                if !roles.is_voter() {
                    return Err(Error::Conflict(format!(
                        "node {node} is a learner, and only voters lead: promote it first"
                    )));
                }
                self.check_present(&roles).await?;
                self.hand_over(member, node).await?;
            }
        }
        info!("the group of the strong tables changed, as an operator asked: {node} {change}");
        Ok(true)
    }

    /// Asks another node, which is to lead. `None` if it does not, and did nothing.
    async fn ask_for_change(&self, leader: NodeId, change: RoleChange, node: NodeId) -> Option<Result<bool>> {
        match self.call(leader, Call::ChangeRole(change, node), CHANGE_MAX).await {
            Ok(CallAnswer::RoleChanged(changed)) => Some(changed.map_err(Error::from)),
            Ok(CallAnswer::OtherGroup(refusal)) => Some(Err(refusal.into())),
            Err(error) if error.is_outcome_unknown() => Some(Err(unknown(&error.to_string()))),
            Ok(_) | Err(_) => None,
        }
    }

    /// Lets the other voter lead whose log is the longest, because this node is to vote no longer: openraft would end its lead in the middle of
    /// writes, whose outcome nobody would know. Returns which leads.
    ///
    /// # Errors
    /// `Conflict` if none can.
    pub(super) async fn hand_over_to_any(&self, member: &Member) -> Result<NodeId> {
        let metrics = member.metrics().borrow().clone();
        let linked: BTreeSet<_> = self.linked().collect();
        let matched = |voter: &NodeId| metrics.replication.as_ref()?.get(voter).copied().flatten();
        let voters =
            metrics.membership_config.membership().voter_ids().filter(|voter| linked.contains(voter));
        let mut voters: Vec<_> = voters.collect();
        voters.sort_by_key(|voter| Reverse(matched(voter)));
        for to in voters {
            let standing = self.call(to, Call::Standing, PRESENT_MAX).await;
            let Ok(CallAnswer::Standing(Some(standing))) = standing else { continue };
            if standing.has_rows {
                self.hand_over(member, to).await?;
                return Ok(to);
            }
        }
        Err(Error::Conflict(
            "no other voter of the strong tables can be reached that can lead: nothing was changed".into(),
        ))
    }

    /// Checks that a member can be reached and has almost the whole log.
    async fn check_present(&self, roles: &Roles) -> Result<()> {
        let node = roles.node;
        let is_here = node == self.parts.store.node();
        if !is_here && self.call(node, Call::Group, PRESENT_MAX).await.is_err() {
            return Err(Error::Conflict(format!(
                "node {node} is down, or the leader cannot reach it: nothing was changed. Start it, wait until DynaRust members shows it \
                 alive, and try again"
            )));
        }
        match roles.lag {
            _ if is_here => Ok(()),
            Some(lag) if lag <= LAG_MAX => Ok(()),
            lag => {
                let lag =
                    lag.map_or("not known to the leader yet".into(), |lag| format!("{lag} entries behind"));
                Err(Error::Conflict(format!(
                    "the log of node {node} is {lag}, and may be {LAG_MAX} behind at most: nothing was changed. It catches up by itself; \
                     try again in a moment"
                )))
            }
        }
    }

    /// Lets another voter lead. Takes no requests meanwhile.
    pub(super) async fn hand_over(&self, member: &Member, to: NodeId) -> Result<()> {
        let aside = StepsAside::begin(member);
        let began = Instant::now();
        let until = began + HAND_OVER_MAX;
        let mut metrics = member.metrics();
        let is_whole = |metrics: &Metrics| {
            let matched =
                metrics.replication.as_ref().and_then(|matched| matched.get(&to).copied().flatten());
            let last = metrics.last_log_index;
            matched.map(|matched| matched.index) == last && metrics.last_applied.map(|at| at.index) == last
        };
        // If it does not get there now, it will lose the election.
        let _ = timeout(CATCH_UP_MAX, metrics.wait_for(is_whole)).await;
        sleep(LEASE).await;
        let own = self.parts.store.node();
        while Instant::now() < until {
            // It may have been elected although it did not answer.
            if let Ok(CallAnswer::NotStarted(why)) = self.call(to, Call::Elect, ELECTION_EVERY).await {
                return Err(why.into());
            }
            let is_other = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != own);
            let elected = timeout(ELECTION_EVERY, metrics.wait_for(is_other)).await;
            let Ok(Ok(elected)) = elected.map(|elected| elected.map(|now| now.current_leader)) else {
                continue;
            };
            drop(aside);
            if elected == Some(to) {
                info!(leader = %to, took = ?began.elapsed(), "handed over the lead of the strong tables");
                return Ok(());
            }
            return Err(Error::Conflict(format!(
                "another member than node {to} was elected: DynaRust members shows which. Try again"
            )));
        }
        Err(Error::Conflict(format!(
            "node {to} was not elected within {} s: this node goes on as the leader. Try again",
            HAND_OVER_MAX.as_secs()
        )))
    }
}

/// Checks that writes go on without a voter. `reached`: the members that the leader can reach, and itself. A change that the remaining voters
/// cannot confirm would hold up every write that follows.
///
/// # Errors
/// `Conflict`.
pub(super) fn check_can_spare(
    voters: &BTreeSet<NodeId>,
    node: NodeId,
    reached: &BTreeSet<NodeId>,
) -> Result<()> {
    let rest: Vec<_> = voters.iter().filter(|voter| **voter != node).collect();
    if rest.is_empty() {
        return Err(Error::Conflict(format!(
            "node {node} is the only voter of the strong tables, and without a voter they take no writes: promote another first, with \
             DynaRust strong promote"
        )));
    }
    let there = rest.iter().filter(|voter| reached.contains(voter)).count();
    if !is_majority(there, rest.len()) {
        return Err(Error::Conflict(format!(
            "of the voters that would remain, {there} of {} can be reached, and strong tables would take no writes: nothing was changed. \
             Start those that are down, or forget those that are lost, first",
            rest.len()
        )));
    }
    Ok(())
}

/// While it is there, the leader lets another take its place.
struct StepsAside<'a>(&'a Member);

impl<'a> StepsAside<'a> {
    fn begin(member: &'a Member) -> Self {
        member.step_aside(true);
        Self(member)
    }
}

impl Drop for StepsAside<'_> {
    fn drop(&mut self) {
        self.0.step_aside(false);
    }
}

/// A member of the group, and who votes.
struct Roles {
    node: NodeId,
    voters: BTreeSet<NodeId>,
    is_demoted: bool,
    /// How many entries it is behind, if that is known.
    lag: Option<u64>,
}

impl Roles {
    fn of(metrics: &Metrics, node: NodeId) -> Result<Self> {
        let membership = metrics.membership_config.membership();
        let Some(known) = membership.get_node(&node) else {
            return Err(Error::NotFound(format!(
                "node {node} is not in the group of the strong tables yet: the leader takes it in as a learner once it has a link with it"
            )));
        };
        let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&node).copied().flatten());
        let last = metrics.last_log_index.unwrap_or_default();
        Ok(Self {
            node,
            voters: membership.voter_ids().collect(),
            is_demoted: known.is_demoted,
            lag: matched.map(|matched| last.saturating_sub(matched.index)),
        })
    }

    fn is_voter(&self) -> bool {
        self.voters.contains(&self.node)
    }
}

async fn timed(change: impl Future<Output = std::result::Result<(), String>>) -> Result<()> {
    match timeout(CHANGE_MAX, change).await {
        Ok(changed) => changed.map_err(|why| unknown(&why)),
        Err(_) => Err(unknown("no majority has confirmed it in time")),
    }
}

/// Makes a learner a voter, for good. Only the leader can.
///
/// # Errors
/// Why not. Part of it may have been done.
pub(super) async fn promote(member: &Member, node: NodeId) -> std::result::Result<(), String> {
    mark(member, node, false).await?;
    change(member, ChangeMembers::AddVoterIds([node].into())).await
}

async fn demote(member: &Member, node: NodeId) -> std::result::Result<(), String> {
    // First, so that no leader promotes it again meanwhile.
    mark(member, node, true).await?;
    change(member, ChangeMembers::RemoveVoters([node].into())).await
}

/// Marks a member as demoted, or not.
async fn mark(member: &Member, node: NodeId, is_demoted: bool) -> std::result::Result<(), String> {
    let known = member.metrics().borrow().membership_config.membership().get_node(&node).copied();
    if known == Some(Node { is_demoted }) {
        return Ok(());
    }
    change(member, ChangeMembers::SetNodes([(node, Node { is_demoted })].into())).await
}

/// Makes the second step of a change that was begun: those vote who are to. Members that no longer vote stay as learners.
///
/// # Errors
/// Why not: the first step may not be committed yet.
pub(super) async fn finish(member: &Member) -> std::result::Result<(), String> {
    // Nothing more than what was begun.
    let finished = member.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await;
    finished.map(drop).map_err(|error| error.to_string())
}

/// Changes the group's configuration, after the change that is on its way. Members that no longer vote stay as learners.
async fn change(member: &Member, change: ChangeMembers<NodeId, Node>) -> std::result::Result<(), String> {
    loop {
        match member.raft.change_membership(change.clone(), true).await {
            Ok(_) => return Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => sleep(RETRY).await,
            Err(error) => return Err(error.to_string()),
        }
    }
}
