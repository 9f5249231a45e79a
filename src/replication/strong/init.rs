//! Starts the group where an operator has to, because it cannot start by itself:
//!
//! - before it ever started: a majority of the cluster's members is gone for good, or members have claimed different
//!   groups that never started;
//! - later: a majority of the voters is gone for good, or the log of the only voter is damaged.
//!
//! In the second case this node becomes the only voter of a *new* group, from the rows and the log that it has. Members
//! of the old group that can be reached drop their logs and join; the roster makes them voters. Whoever comes back later
//! with a log of the old group is refused by the id of the group. So two that were started apart are never mixed.
//!
//! All entries of the log are applied first, committed or not: the leader may have answered any of them. The new log
//! begins behind the last of them, so that whoever joins is sent a snapshot, and what is here is the whole of it.

use std::{
    fs, io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use openraft::{CommittedLeaderId, Membership, StoredMembership, storage::RaftLogStorage};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Strong,
    checkpoint::{Checkpoint, Reset},
    claim::Claim,
    group::{Inner, REQUEST_MAX},
    log::RaftLog,
    revisions, roster,
    rpc::{self, Call, CallAnswer, GroupId, Standing},
    start::OPENED_NOTE,
    state_machine::StateMachine,
    types::{LogId, Node, StorageError, Vote},
    watch,
};
use crate::{
    core::{clock::NodeId, protocol::progress::is_majority},
    error::{Error, Result},
    storage::table::mode::SALVAGED_LOG,
};

/// The note of a reset of this node's log that is to be finished.
const RESET_NOTE: &str = "strong/reset";
/// The note of the groups that this node may not go back to. One more for each time that an operator starts a group.
const REPLACED_NOTE: &str = "strong/replaced";
/// How long the new group may take to have a leader.
const LEADER_MAX: Duration = Duration::from_secs(5);

/// A group that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub group: u64,
    /// Whether it was started without the majority that it should have had.
    pub is_forced: bool,
    /// The other members that are known to take part.
    pub others: Vec<NodeId>,
}

impl Strong {
    /// Starts the group, because it cannot start by itself. With `force`, from what this node has and without a majority.
    ///
    /// # Errors
    /// `Conflict` where it need not or must not be started here, or only by `force`; `NoQuorum`; those of the storage.
    pub async fn init(&self, force: bool) -> Result<Started> {
        let inner = &self.0;
        let linked: Vec<_> = inner.linked().collect();
        let asked = linked.into_iter().map(|node| async move {
            match inner.call(node, Call::Standing, REQUEST_MAX).await {
                Ok(CallAnswer::Standing(standing)) => Some((node, standing)),
                Ok(_) | Err(_) => None,
            }
        });
        let others: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        let started: Vec<_> =
            others.iter().filter_map(|(node, standing)| Some((*node, standing.clone()?))).collect();
        let own = inner.standing().await?;
        let own_leads = own.as_ref().filter(|own| own.leads).map(|_| inner.parts.store.node());
        let leader = started.iter().find(|(_, standing)| standing.leads).map(|(node, _)| *node);
        if let Some(leader) = own_leads.or(leader) {
            return Err(Error::Conflict(format!(
                "the strong tables have a leader, node {leader}, and a majority of their voters: nothing was changed. A node that takes no \
                 part is to be forgotten, and started again with an empty data directory"
            )));
        }
        match own {
            Some(own) => inner.init_again(own, &started, force).await,
            None => match started.first() {
                Some((node, _)) => Err(Error::Conflict(format!(
                    "node {node} has a log of strong tables, and this node has none: start the group there"
                ))),
                None => inner.init_first(others.into_iter().map(|(node, _)| node).collect(), force).await,
            },
        }
    }
}

impl Inner {
    /// How this node stands in its group; `None` if it has never taken part in one.
    pub(super) async fn standing(&self) -> Result<Option<Standing>> {
        if !self.has_opened()? && self.damage().is_none() {
            return Ok(None);
        }
        let group = self.claimed()?.unwrap_or(GroupId(0));
        Ok(Some(match self.member() {
            Some((member, _)) => Standing {
                group: member.group,
                has_log: true,
                last: member.machine.last_entry(),
                leads: member.leads_majority() && !member.machine.needs_repair(),
                has_rows: !member.machine.needs_repair(),
            },
            None => Standing { group, has_log: false, last: None, leads: false, has_rows: false },
        }))
    }

    /// Starts a group where none was ever started.
    async fn init_first(self: &std::sync::Arc<Self>, others: Vec<NodeId>, force: bool) -> Result<Started> {
        match self.start_group().await {
            Ok(()) => {
                let group = self.claimed()?.map_or(0, |group| group.0);
                return Ok(Started { group, is_forced: false, others });
            }
            Err(Error::NoQuorum(_)) if force => {}
            Err(Error::NoQuorum(why)) => {
                return Err(Error::NoQuorum(format!(
                    "{why}. If those that do not answer, or have claimed another group, are gone for good: forget them, or use --force. \
                     If they run and are only cut off, --force may start a second group, and the two can never be merged"
                )));
            }
            Err(error) => return Err(error),
        }
        let _one = self.starting.lock().await;
        let group = GroupId(self.parts.store.environment().random()?);
        // Nobody starts it by this claim but this node, now.
        self.set_claim(Claim { group, voters: Vec::new() }).await?;
        let mut members = vec![self.parts.store.node()];
        for node in others {
            if let Ok(CallAnswer::Claimed(claimed)) =
                self.call_in(group, node, Call::Reclaim, REQUEST_MAX).await
                && claimed == group
            {
                members.push(node);
            }
        }
        let others = members[1..].to_vec();
        members.truncate(roster::voters_wanted(members.len()));
        warn!(
            voters = members.len(),
            "starts the group of the strong tables without a majority, as an operator asked"
        );
        self.set_claim(Claim { group, voters: members.clone() }).await?;
        self.open(group).await?.initialize(members).await?;
        self.until_led().await?;
        Ok(Started { group: group.0, is_forced: true, others })
    }

    /// Claims another group than one that never started, as an operator asks. Returns the group that the node belongs to.
    pub(super) async fn reclaim(&self, group: GroupId) -> Result<GroupId> {
        let _one = self.starting.lock().await;
        if let Some(claimed) = self.claimed()?
            && self.has_opened()?
        {
            return Ok(claimed);
        }
        self.set_claim(Claim { group, voters: Vec::new() }).await?;
        Ok(group)
    }

    /// Starts a new group from what this node has of its group.
    async fn init_again(
        self: &std::sync::Arc<Self>,
        own: Standing,
        others: &[(NodeId, Standing)],
        force: bool,
    ) -> Result<Started> {
        let others: Vec<_> = others.iter().filter(|(_, standing)| standing.group == own.group).collect();
        self.check_lost(&own, &others, force)?;
        let one = self.starting.lock().await;
        let new = GroupId(self.parts.store.environment().random()?);
        warn!(
            old = format_args!("{:016x}", own.group.0),
            new = format_args!("{:016x}", new.0),
            "starts a new group of the strong tables from what this node has, as an operator asked"
        );
        let replaced = async {
            let begins = self.end_group().await?;
            self.reset(Reset { group: new, begins, replaces: own.group }).await?;
            self.open(new).await
        };
        self.or_reopened(replaced.await)?;
        drop(one);
        self.until_led().await?;
        let told = others.into_iter().map(|(node, _)| async move {
            let answer = self.call(*node, Call::Replace(own.group, new), REQUEST_MAX).await;
            matches!(answer, Ok(CallAnswer::Claimed(group)) if group == new).then_some(*node)
        });
        let others = join_all(told).await.into_iter().flatten().collect();
        Ok(Started { group: new.0, is_forced: true, others })
    }

    /// What came of opening a log in the place of another. If it failed, this node takes part with what it has as soon as that works.
    fn or_reopened<T>(self: &std::sync::Arc<Self>, opened: Result<T>) -> Result<T> {
        if opened.is_err() && self.damage().is_none() {
            self.failed.store(true, Ordering::Release);
            tokio::spawn(watch::reopen(self.clone()));
        }
        opened
    }

    /// Checks that a majority of the voters is lost, and that no member that can be reached has more than this one.
    fn check_lost(&self, own: &Standing, others: &[&(NodeId, Standing)], force: bool) -> Result<()> {
        let membership = match self.member() {
            Some((member, _)) => member.metrics().borrow().membership_config.membership().clone(),
            None => Checkpoint::read(&self.parts.store)?.membership.membership().clone(),
        };
        let voters: Vec<_> = membership.voter_ids().collect();
        let of = |node: &NodeId| match *node == self.parts.store.node() {
            true => Some(own),
            false => others.iter().find(|(other, _)| other == node).map(|(_, standing)| standing),
        };
        let present: Vec<_> = voters.iter().filter_map(of).filter(|standing| standing.has_log).collect();
        let can_lead = present.iter().any(|standing| standing.has_rows);
        let present = present.len();
        if can_lead && is_majority(present, voters.len()) {
            return Err(Error::Conflict(format!(
                "{present} of {} voters of the strong tables answer, which is a majority: they elect a leader by themselves, and nothing was \
                 changed",
                voters.len()
            )));
        }
        if let Some((node, _)) =
            others.iter().find(|(_, standing)| standing.has_log && (!own.has_log || standing.last > own.last))
        {
            return Err(Error::Conflict(format!(
                "node {node} has more of the log than this node: start the group there"
            )));
        }
        if force {
            return Ok(());
        }
        Err(Error::Conflict(format!(
            "{present} of {} voters of the strong tables answer. If the others can come back, start them instead. If they are lost for good, \
             --force starts a new group from what this node has: writes that were answered and that only lost members hold are gone, and \
             whoever comes back with a log of the old group must be started with an empty data directory",
            voters.len()
        )))
    }

    /// Ends this node's part in its group. Returns what its rows are of, with this node as the only voter.
    async fn end_group(&self) -> Result<Checkpoint> {
        let member = self.member.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let mut term = 0;
        let applied = match member {
            Some((member, _)) => {
                term = member.metrics().borrow().current_term;
                member.stop().await;
                member.machine.apply_rest().await?;
                member.machine.checkpoint().await?.applied
            }
            None => self.apply_salvaged().await?,
        };
        let own = self.parts.store.node();
        let term = 1 + applied.map_or(0, |applied| applied.leader_id.term).max(term);
        let index = applied.map_or(0, |applied| applied.index);
        let begins = LogId::new(CommittedLeaderId::new(term, own), index);
        let membership =
            Membership::new(vec![[own].into()], std::collections::BTreeMap::from([(own, Node::default())]));
        Ok(Checkpoint { applied: Some(begins), membership: StoredMembership::new(Some(begins), membership) })
    }

    /// Applies the log that was salvaged with the rows, if there is one. Returns the last entry that is known to be applied.
    async fn apply_salvaged(&self) -> Result<Option<LogId>> {
        let store = &self.parts.store;
        let applied = Checkpoint::read(store)?.applied;
        let directory = self.directory.with_file_name(SALVAGED_LOG);
        if !directory.is_dir() {
            return Ok(applied);
        }
        let mut log = match RaftLog::open(&directory, store.environment()) {
            Ok(log) => log,
            Err(Error::StorageDamaged(why)) => {
                warn!(why, "the salvaged log of the strong tables cannot be read: what only it had is lost");
                return Ok(applied);
            }
            Err(error) => return Err(error),
        };
        // From its beginning, as rows may be lost that had been applied.
        let (timestamps, reader) = (self.parts.timestamps.clone(), log.get_log_reader().await);
        let machine =
            StateMachine::after(Checkpoint::default(), store.clone(), timestamps, reader, Arc::default());
        let incarnation = store.incarnation();
        machine.apply_rest().await?;
        store.durable(incarnation).await?;
        Ok(machine.last_entry().max(applied))
    }

    /// Drops this node's log of a group that an operator has replaced by another, and takes part in that one.
    pub(super) async fn replace(
        self: &std::sync::Arc<Self>,
        old: GroupId,
        new: GroupId,
    ) -> Result<CallAnswer> {
        let _one = self.starting.lock().await;
        let claimed = self.claimed()?;
        if claimed != Some(old) {
            return Ok(CallAnswer::Claimed(claimed.unwrap_or(new)));
        }
        // Those that were missed have come back meanwhile.
        if self.member().is_some_and(|(member, _)| member.leads_majority()) {
            return Ok(CallAnswer::Claimed(old));
        }
        warn!(
            new = format_args!("{:016x}", new.0),
            "an operator has started a new group of the strong tables on another node: this node drops its log and joins it"
        );
        self.close().await;
        let replaced = async {
            self.reset(Reset { group: new, begins: Checkpoint::default(), replaces: old }).await?;
            self.open(new).await
        };
        self.or_reopened(replaced.await)?;
        Ok(CallAnswer::Claimed(new))
    }

    /// Begins a new log in the place of the one that there is.
    pub(super) async fn reset(&self, reset: Reset) -> Result<()> {
        self.set_durable(RESET_NOTE, &rpc::encode(&Some(reset))).await?;
        self.finish_reset().await
    }

    /// Finishes a reset, if one was begun.
    ///
    /// # Errors
    /// Those of the log and of the storage.
    pub(super) async fn finish_reset(&self) -> Result<()> {
        let store = &self.parts.store;
        let Some(note) = store.note(RESET_NOTE)? else { return Ok(()) };
        let Some(Reset { group, begins, replaces }) = rpc::decode::<Option<Reset>>(&note)? else {
            return Ok(());
        };
        for directory in [self.directory.clone(), self.directory.with_file_name(SALVAGED_LOG)] {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(format_args!("removing {}", directory.display()), &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let mut log = RaftLog::open(&self.directory, store.environment())?;
        let failed = |error: StorageError| Error::Io(format!("the new log of the strong tables: {error}"));
        if let Some(applied) = begins.applied {
            log.save_vote(&Vote::new(applied.leader_id.term, store.node())).await.map_err(failed)?;
            log.purge(applied).await.map_err(failed)?;
            revisions::raise(store, &self.parts.timestamps).await?;
        }
        drop(log);
        begins.write(store)?;
        let mut replaced = self.replaced()?;
        // One that was restored goes back to its group, which has taken it in anew.
        if replaces != group && !replaced.contains(&replaces) {
            replaced.push(replaces);
            store.set_note(REPLACED_NOTE, &rpc::encode(&replaced))?;
        }
        self.set_claim(Claim { group, voters: Vec::new() }).await?;
        self.set_durable(OPENED_NOTE, &[]).await?;
        self.forget_restored().await?;
        self.set_durable(RESET_NOTE, &rpc::encode(&None::<Reset>)).await?;
        self.set_damaged(None);
        info!("the log of the strong tables was begun anew");
        Ok(())
    }

    /// The groups that this node took part in until an operator started another in their place.
    pub(super) fn replaced(&self) -> Result<Vec<GroupId>> {
        let note = self.parts.store.note(REPLACED_NOTE)?;
        Ok(note.map(|note| rpc::decode(&note)).transpose()?.unwrap_or_default())
    }

    pub(super) async fn set_durable(&self, name: &str, note: &[u8]) -> Result<()> {
        let store = &self.parts.store;
        let incarnation = store.incarnation();
        store.set_note(name, note)?;
        store.durable(incarnation).await
    }

    /// Returns when the group has a leader.
    async fn until_led(&self) -> Result<()> {
        let Some((member, _)) = self.member() else { return Err(Error::Draining) };
        let mut metrics = member.metrics();
        let led = timeout(LEADER_MAX, metrics.wait_for(|metrics| metrics.current_leader.is_some())).await;
        match led {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Draining),
            Err(_) => Err(Error::NoQuorum("the group was started, and has no leader yet".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::{
        requests::tests::nodes::{TestNode, replicate},
        strong::{
            group::tests::{Alone, name, put},
            member::Parts,
        },
    };

    /// How far a node got with a reset before it crashed.
    #[derive(Clone, Copy, Debug)]
    enum Crash {
        Noted,
        Removed,
        Created,
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reset_that_a_crash_interrupted_is_finished_at_the_next_start() {
        for crash in [Crash::Noted, Crash::Removed, Crash::Created] {
            let node = Alone::start().await;
            assert_eq!(node.strong.create(name()).await, Ok(true));
            node.strong.submit(put("a")).await.expect("writes");
            let (inner, new) = (&node.strong.0, GroupId(5));
            let old = inner.claimed().expect("reads").expect("a group");
            let begins = inner.end_group().await.expect("ends");
            let reset = Reset { group: new, begins, replaces: old };
            inner.set_durable(RESET_NOTE, &rpc::encode(&Some(reset))).await.expect("notes");
            if !matches!(crash, Crash::Noted) {
                fs::remove_dir_all(&inner.directory).expect("there was a log");
            }
            if matches!(crash, Crash::Created) {
                drop(RaftLog::open(&inner.directory, node.parts.store.environment()).expect("a log"));
            }
            node.strong.stop().await;
            let TestNode { store, timestamps, address, .. } = &node.node;
            let replication = replicate(store, timestamps, *address, None);
            let parts = Parts { replication, ..node.parts.clone() };
            let again = Strong::start(parts, inner.directory.clone()).await.expect("starts again");
            assert_eq!(again.member().map(|member| member.group), Some(new), "{crash:?}");
            again.0.until_led().await.expect("it leads");
            again.submit(put("b")).await.expect("writes");
            let key = |key| crate::core::name::Key::parse(key).expect("a key");
            assert!(store.get(&name(), &key("a")).expect("reads").is_some(), "{crash:?}");
            let back = again.0.join(old).await.map(drop);
            assert!(matches!(&back, Err(Error::Forbidden(why)) if why.contains("another group")), "{back:?}");
            again.stop().await;
            node.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_is_not_started_anew_where_another_node_has_more_of_the_log() {
        let node = Alone::start().await;
        assert_eq!(node.strong.create(name()).await, Ok(true));
        let inner = &node.strong.0;
        let has = inner.standing().await.expect("reads").expect("a group");
        let at = |last, has_log| Standing { last, has_log, ..has.clone() };
        let last = has.last.expect("entries");
        let later = LogId::new(last.leader_id, last.index + 1);
        let check = |own: Standing, other: Standing, force| {
            inner.check_lost(&own, &[&(NodeId(7), other)], force).map_err(|error| error.to_string())
        };
        let longer = check(at(Some(last), false), at(Some(last), true), true);
        assert!(
            longer.is_err_and(
                |why| why.contains(&NodeId(7).to_string()) && why.contains("start the group there")
            )
        );
        assert_eq!(check(at(Some(last), false), at(Some(later), false), true), Ok(()), "it has lost it");
        let unforced = check(at(Some(last), false), at(None, false), false);
        assert!(unforced.is_err_and(|why| why.contains("0 of 1 voters") && why.contains("--force")));
        let majority = check(at(Some(last), true), at(Some(later), true), true);
        assert!(majority.is_err_and(|why| why.contains("1 of 1 voters")));
        node.stop().await;
    }
}
