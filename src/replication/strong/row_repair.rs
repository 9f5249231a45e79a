//! Repair of a member's rows by the leader.
//!
//! A damaged disk can take rows of strong tables from a member, or bring older ones back, and leave the member's log and its promises as they
//! were. Such a member votes and confirms entries as before. But it answers no linearizable read and does not lead, and it asks the leader for a
//! repair: the comparison by which snapshots are sent ([`snapshot`]), while the log goes on. What the leader has is
//! merged, and what it does not have is removed if it is older than all that the leader had yet to apply when the repair began. Nothing is
//! believed of a row but what the leader holds of it.
//!
//! The steps are fenced as those of a snapshot are, but entries may be applied meanwhile: merging is idempotent. Only the removal of tombstones
//! ends a repair, because a row that was read before it would come back. It begins anew then.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    group::{Inner, REQUEST_MAX},
    member::{Member, Parts},
    proposer::Proposed,
    revisions,
    rpc::{Call, CallAnswer},
    types::Metrics,
};
use crate::{
    core::{clock::NodeId, strong::request::Request},
    error::{Error, Result},
};

/// How often a member looks whether its rows need a repair.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it asks for one at first.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often it asks for one later.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long it leaves the others without a leader that answers before it stands for election after all: its log may be the only one that is long enough. It
/// decides nothing then, and lets a voter lead whose rows are whole once that has the log.
const LEADERLESS_MAX: Duration = Duration::from_secs(5);

/// Why a node answers nothing about strong tables whose rows may be missing.
pub fn not_repaired() -> Error {
    Error::NotReady(
        "rows of the strong tables may be missing here since the disk was damaged: the leader compares them with its own and sends what is missing. \
         Try again in a moment, or ask another node. If the rows of all voters were damaged, DynaRust strong init --force starts a new group from \
         those of one"
            .into(),
    )
}

/// Why it does not stand for election.
pub fn cannot_lead() -> Error {
    Error::Conflict(
        "the node's disk was damaged, and its rows of the strong tables are not repaired yet: it cannot lead"
            .into(),
    )
}

/// Keeps a member whose rows need a repair from leading, and asks for the repair.
pub async fn keep(group: Weak<Inner>, member: Weak<Member>) {
    let (mut needed_it, mut ask_due, mut pause) = (false, Instant::now(), ASK_EVERY);
    // When it heard of a leader last that decides requests.
    let mut led = Instant::now();
    loop {
        let Some((group, member)) = group.upgrade().zip(member.upgrade()) else { return };
        if group.is_stopping() {
            return;
        }
        let needs_it = member.machine.needs_repair() && !accepts_alone(&group, &member).await;
        if needs_it != needed_it {
            note(needs_it);
            (needed_it, ask_due, pause, led) = (needs_it, Instant::now(), ASK_EVERY, Instant::now());
        }
        member.raft.runtime_config().elect(!needs_it || led.elapsed() > LEADERLESS_MAX);
        if needs_it && Instant::now() >= ask_due {
            match group.ask_for_repair(&member).await {
                Ok(()) => {
                    led = Instant::now();
                    // What cannot be read and is not copied yet stays so for a while, whatever is repaired.
                    pause = (pause * 2).min(ASK_PAUSE_MAX);
                }
                Err(error) => debug!(%error, "the rows of the strong tables cannot be repaired yet"),
            }
            ask_due = Instant::now() + pause;
        }
        drop((group, member));
        sleep(LOOK_EVERY).await;
    }
}

fn note(needs_it: bool) {
    match needs_it {
        true => warn!(
            "rows of the strong tables may be missing here: asks the leader to repair them, and does not stand for election until then"
        ),
        false => info!("the rows of the strong tables are repaired"),
    }
}

/// Whether nobody has the rows but this node: what is here is all there is then, as with eventual tables.
async fn accepts_alone(group: &Inner, member: &Member) -> bool {
    let parts = &group.parts;
    let is_alone = is_only_member(&member.metrics().borrow(), parts.store.node());
    if is_alone
        && parts.store.suspects_strong_loss()
        && let Err(error) = accept_alone(member, parts).await
    {
        debug!(%error, "the rows of the strong tables cannot be accepted yet");
    }
    is_alone
}

/// Ends the suspicion that rows were lost, where nobody can tell. Until then nothing is decided. Revisions of the etcd API must not come again.
async fn accept_alone(member: &Member, parts: &Parts) -> Result<()> {
    let store = &parts.store;
    let incarnation = store.incarnation();
    let _applying = member.machine.applying().await;
    let Metrics { last_applied, last_log_index, .. } = member.metrics().borrow().clone();
    // An entry that is on its way would write an older head.
    if last_applied.map(|applied| applied.index) < last_log_index {
        return Err(Error::NotReady("the log is being applied".into()));
    }
    revisions::raise(store, &parts.timestamps).await?;
    store.durable(incarnation).await?;
    parts.revisions.begin_anew(store)?;
    parts.revisions.leases.begin_anew();
    // After the raised revision is durable: a crash before has it raised once more.
    let accepted = store.clone();
    store.environment().run(move || accepted.accept_strong_loss(incarnation)).await?;
    warn!(
        "rows of the strong tables may be missing, and no other member has them: they are served as they are"
    );
    Ok(())
}

fn is_only_member(metrics: &Metrics, own: NodeId) -> bool {
    let membership = metrics.membership_config.membership();
    let mut members = membership.nodes().map(|(node, _)| *node);
    members.next() == Some(own) && members.next().is_none()
}

impl Inner {
    /// Asks the leader for a repair; or lets another lead, if this node does. An error if nobody is there that can.
    async fn ask_for_repair(&self, member: &Member) -> Result<()> {
        let leader = member.metrics().borrow().current_leader;
        match leader {
            Some(leader) if leader == self.parts.store.node() => {
                self.hand_over_to_any(member).await.map(drop)
            }
            Some(leader) => match self.call(leader, Call::Repair, REQUEST_MAX).await {
                Ok(CallAnswer::Noted) => Ok(()),
                Ok(CallAnswer::OtherGroup(refusal) | CallAnswer::NotStarted(refusal)) => Err(refusal.into()),
                Ok(_) => Err(Error::NoQuorum("the last known leader leads no more".into())),
                Err(error) => Err(Error::Io(error.to_string())),
            },
            None => Err(Error::NoQuorum("there is no leader".into())),
        }
    }

    /// Repairs the rows of a member, if this node leads. Returns at once.
    pub(super) fn begin_repair(self: &Arc<Self>, member: &Arc<Member>, node: NodeId) -> CallAnswer {
        if !member.is_leader() {
            return CallAnswer::NotLeader(member.metrics().borrow().current_leader);
        }
        if member.machine.needs_repair() {
            return CallAnswer::NotStarted(cannot_lead().into());
        }
        if !member.others.begins_repair(node) {
            return CallAnswer::Noted;
        }
        let member = member.clone();
        tokio::spawn(async move {
            match repair(&member, node).await {
                Ok(()) => {}
                Err(error) => {
                    info!(%node, %error, "the rows of a member are not repaired yet: it asks again")
                }
            }
            member.others.ended_repair(node);
        });
        CallAnswer::Noted
    }
}

async fn repair(member: &Member, node: NodeId) -> Result<()> {
    // First: whoever leads by it now has applied all that was committed before.
    let vote = member.own_vote().await?;
    if !vote.is_committed() || vote.leader_id().voted_for() != Some(member.node()) {
        return Err(Error::Conflict("this node leads no more".into()));
    }
    let latest = member.now().await?;
    // The requests that were stamped before `latest` are decided and applied when this one is.
    match member.propose(Request::Sweep(0)).await {
        Proposed::Decided(outcome) => outcome.map(drop)?,
        Proposed::NotLeader => return Err(Error::Conflict("this node leads no more".into())),
    }
    let figures = member.connection(node).repair(vote, latest).await?;
    info!(%node, rows = figures.rows, removed = figures.removed, "repaired the rows of a member");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            etcd::{
                self,
                request::{Operation, Put},
                row::Head,
            },
            strong::request::Outcome,
        },
        replication::strong::group::tests::Alone,
    };

    async fn revision(node: &Alone) -> Result<i64> {
        let put = Put { key: b"k".to_vec(), ..Put::default() };
        let put = etcd::request::Request::Operation(Operation::Put(put));
        match node.strong.submit(Request::Etcd(put)).await? {
            Outcome::Etcd(Ok(answer)) => Ok(answer.revision),
            other => panic!("{other:?}"),
        }
    }

    /// A single node that had lost its last writes went on from an older revision: clients were told other things by the same revisions.
    #[tokio::test(flavor = "multi_thread")]
    async fn revisions_do_not_come_again_where_nobody_has_what_was_lost() {
        let node = Alone::start().await;
        assert_eq!(node.strong.create(etcd::table().clone()).await, Ok(true));
        assert_eq!(revision(&node).await, Ok(2));
        node.parts.store.record_suspected_loss("a test".into());
        let until = Instant::now() + Duration::from_secs(10);
        while node.parts.store.suspects_strong_loss() {
            assert!(Instant::now() < until, "it is accepted");
            tokio::task::yield_now().await;
        }
        let raised = Head { revision: 1_000_000_002, compacted: 1_000_000_002 };
        assert_eq!(revisions::head(&node.parts.store), Ok(raised));
        let history = node.parts.revisions.history().expect("it keeps one").head();
        assert_eq!(history, raised, "it has begun anew");
        assert_eq!(revision(&node).await, Ok(raised.revision + 1));
        node.stop().await;
    }
}
