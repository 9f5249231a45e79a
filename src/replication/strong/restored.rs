//! A member that was restored from a backup: it has the id of the member that it was, and not its log. Its former self may have promised a vote,
//! or confirmed an entry, that it does not know of. So it neither votes nor confirms anything until the leader has taken its id out of the
//! group, and the group without it is committed. Then it begins a new log, and the leader takes it in as it takes in a new member: as a
//! learner, and as a voter once it has the log.
//!
//! What its former self promised binds nobody then. A majority of the former voters has committed the group without it, and none of them was it:
//! whoever is elected later needs one of these, has that entry, and so counts its votes in no election. A leader that was deposed meanwhile, and
//! does not know, lacks the same majority.
//!
//! Its rows stay: the leader sends those that differ. Only if an operator has started another group meanwhile, its rows may be ahead of those of
//! the group: then it is not taken in.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use openraft::ChangeMembers;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    checkpoint::{Checkpoint, Reset},
    group::{Inner, REQUEST_MAX},
    member::{Member, RETIRE_MAX},
    no_quorum,
    operate::check_can_spare,
    rpc::{Call, CallAnswer, GroupId},
    types::Metrics,
};
use crate::{
    core::{clock::NodeId, strong::request::Refusal},
    error::{Error, Result},
    storage::{Store, table::mode::RESTORED_NOTE},
};

/// How often the node asks.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Why it serves no strong tables until then.
const WHY: &str = "this node was restored from a backup, which has no log of the strong tables: it waits until a majority of the other voters \
                   has taken it in anew. If they are lost for good, DynaRust strong init --force starts a new group from its rows";

/// What the others say.
enum Answer {
    /// The leader has taken this node's id out of the group, which has this id.
    Readmitted(GroupId),
    /// No node has heard of a group.
    NoGroup,
    /// Nobody could do it yet, for this reason if one is known.
    NotYet(Option<Error>),
}

/// Whether the node was restored, and has not been taken in since.
pub(super) fn is_restored(store: &Store) -> Result<bool> {
    Ok(store.note(RESTORED_NOTE)?.is_some_and(|note| !note.is_empty()))
}

impl Inner {
    /// Begins to ask the others, if this node was restored.
    pub(super) fn begin_restored(self: &Arc<Self>) -> Result<()> {
        if is_restored(&self.parts.store)? {
            self.set_damaged(Some(WHY.into()));
            tokio::spawn(keep(Arc::downgrade(self)));
        }
        Ok(())
    }

    /// Whether it has been taken in, or has found that there is nothing to be taken into.
    async fn ask_to_be_readmitted(self: &Arc<Self>) -> Result<Option<Error>> {
        let own = if self.has_opened()? { self.claimed()? } else { None };
        match self.ask_others(own).await {
            Answer::Readmitted(group) => {
                let _one = self.starting.lock().await;
                if is_restored(&self.parts.store)? {
                    // The same group: it goes back to it, with nothing of what its former self promised.
                    let begins = Checkpoint::default();
                    self.reset(Reset { group, begins, replaces: group }).await?;
                    self.open(group).await?;
                    info!(
                        "the node was restored from a backup, and the group of the strong tables has taken it in anew"
                    );
                }
                Ok(None)
            }
            // What it had claimed when it was backed up, it has claimed.
            Answer::NoGroup if own.is_none() => {
                self.forget_restored().await?;
                self.set_damaged(None);
                Ok(None)
            }
            Answer::NoGroup => Ok(Some(Error::NotReady("no other member knows of the group".into()))),
            Answer::NotYet(why) => Ok(Some(why.unwrap_or_else(|| Error::NoQuorum(no_quorum())))),
        }
    }

    async fn ask_others(&self, own: Option<GroupId>) -> Answer {
        let linked: Vec<_> = self.linked().collect();
        let (mut without_group, mut obstacle) = (0, None);
        for node in &linked {
            match self.call_in(GroupId(0), *node, Call::Restored(own), RETIRE_MAX).await {
                Ok(CallAnswer::Readmitted(Ok(group))) => return Answer::Readmitted(group),
                Ok(CallAnswer::Readmitted(Err(refusal)) | CallAnswer::OtherGroup(refusal)) => {
                    obstacle = Some(refusal.into());
                }
                Ok(CallAnswer::Claim(None)) => without_group += 1,
                Ok(_) | Err(_) => {}
            }
        }
        let is_alone = linked.is_empty() && self.parts.replication.has_nobody_to_ask();
        let all_say = !linked.is_empty() && without_group == self.cluster_members();
        match is_alone || all_say {
            true => Answer::NoGroup,
            false => Answer::NotYet(obstacle),
        }
    }

    /// Notes that the node need not be taken in any more.
    pub(super) async fn forget_restored(&self) -> Result<()> {
        match is_restored(&self.parts.store)? {
            true => self.set_durable(RESTORED_NOTE, &[]).await,
            false => Ok(()),
        }
    }

    /// The answer to a node that was restored, and whose former self took part in the group `own`.
    pub(super) async fn answer_restored(&self, from: NodeId, own: Option<GroupId>) -> Result<CallAnswer> {
        let Some((member, _)) = self.member() else { return Ok(CallAnswer::Claim(self.own_claim()?)) };
        if own.is_some_and(|own| own != member.group) {
            return Ok(CallAnswer::OtherGroup(Refusal::from(Error::Forbidden(
                "an operator has started another group of strong tables since the backup was made, and its rows may not be those of the backup: \
                 start the node with an empty data directory, and it joins"
                    .into(),
            ))));
        }
        if !member.is_leader() {
            return Ok(CallAnswer::NotLeader(member.metrics().borrow().current_leader));
        }
        let readmitted = match timeout(RETIRE_MAX, self.take_out(&member, from)).await {
            Ok(taken_out) => taken_out.map(|()| member.group).map_err(Refusal::from),
            Err(_) => Err(Refusal::NoQuorum(no_quorum())),
        };
        Ok(CallAnswer::Readmitted(readmitted))
    }

    /// Returns when the group without a node is committed. Only the leader can.
    async fn take_out(&self, member: &Member, node: NodeId) -> Result<()> {
        // A leader that was deposed may not know that the node is in the group.
        match member.read_index().await {
            Some(index) => index?,
            None => return Err(Error::NoQuorum(no_quorum())),
        };
        let membership = member.metrics().borrow().membership_config.membership().clone();
        let voters = membership.voter_ids().collect();
        let change = match membership.get_node(&node) {
            None => return until_settled(member).await,
            Some(_) if membership.voter_ids().any(|voter| voter == node) => {
                let reached = self.linked().filter(|other| *other != node);
                check_can_spare(&voters, node, &reached.chain([self.parts.store.node()]).collect())?;
                ChangeMembers::RemoveVoters([node].into())
            }
            Some(_) => ChangeMembers::RemoveNodes([node].into()),
        };
        let changed = member.raft.change_membership(change, false).await;
        changed.map(drop).map_err(|error| {
            Error::NoQuorum(format!(
                "the group of the strong tables cannot take the node in anew yet: {error}"
            ))
        })
    }
}

/// Returns when the members that the leader knows are committed.
async fn until_settled(member: &Member) -> Result<()> {
    let is_settled = |metrics: &Metrics| metrics.last_applied >= *metrics.membership_config.log_id();
    let mut metrics = member.metrics();
    let settled = timeout(REQUEST_MAX, metrics.wait_for(is_settled)).await;
    match settled {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Error::NoQuorum(no_quorum())),
    }
}

/// Asks the others until the node has been taken in, or an operator has started a group from its rows.
async fn keep(group: Weak<Inner>) {
    let mut said = String::new();
    loop {
        let Some(inner) = group.upgrade().filter(|inner| !inner.is_stopping()) else { return };
        if is_restored(&inner.parts.store) == Ok(false) {
            return;
        }
        if let Ok(Some(error)) | Err(error) = inner.ask_to_be_readmitted().await {
            let why = error.to_string();
            if why != said {
                warn!(why, "restored from a backup: the strong tables are not served here yet");
                said = why;
            }
        }
        drop(inner);
        sleep(ASK_EVERY).await;
    }
}
