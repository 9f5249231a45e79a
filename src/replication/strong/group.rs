//! The group as the node uses it: asleep until the first strong table is made, then started once; requests and reads,
//! wherever the leader is.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tracing::error;

use super::{
    catalogue::{self, Known},
    member::{Member, Parts},
    operate,
    proposer::Proposed,
    reads::Reads,
    rpc::{self, Call, CallAnswer, Envelope, GroupId},
};
use crate::{
    core::{
        clock::NodeId,
        name::TableName,
        protocol::message::RequestKind,
        strong::request::{Outcome, Refusal, Request},
    },
    error::{Error, Result},
    replication::{request_id, requests::RequestError},
};

/// How long a request may take: an election and some more.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(5);
/// The pause before a request is tried again where there is no leader.
pub(super) const RETRY: Duration = Duration::from_millis(20);
/// The group of this node, asleep or awake. Clones share it.
#[derive(Clone)]
pub struct Strong(pub(super) Arc<Inner>);

/// What clones share.
pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) directory: PathBuf,
    pub(super) member: Mutex<Option<(Arc<Member>, Reads)>>,
    /// Held while the group is started or joined.
    pub(super) starting: tokio::sync::Mutex<()>,
    /// Held while a group is claimed.
    pub(super) claiming: Mutex<()>,
    pub(super) stopping: AtomicBool,
    /// Whether the log failed and waits until the disk takes writes.
    pub(super) failed: AtomicBool,
    /// Why the log cannot be opened, if it cannot be for good.
    pub(super) damaged: Mutex<Option<String>>,
    /// What it knows of the strong tables.
    pub(super) known: Known,
}

/// Why a request to a strong table without a majority is refused.
pub fn no_quorum() -> String {
    "no majority of the voters of the strong tables can be reached: nothing was written. Try again; reads with \
     ?read=stale are answered from here"
        .into()
}

impl Strong {
    /// The group of this node, which it takes part in at once if it has before. The log is in `directory`.
    ///
    /// # Errors
    /// Those of the log and of the storage.
    pub async fn start(parts: Parts, directory: PathBuf) -> Result<Self> {
        let replication = parts.replication.clone();
        let strong = Self(Arc::new(Inner {
            parts,
            directory,
            member: Mutex::default(),
            starting: Default::default(),
            claiming: Mutex::default(),
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            damaged: Mutex::default(),
            known: Known::new(replication.has_nobody_to_ask()),
        }));
        strong.0.finish_reset().await?;
        let is_restored = super::restored::is_restored(&strong.0.parts.store)?;
        if let Some(group) = strong.0.claimed()?
            && strong.0.has_opened()?
            && !is_restored
        {
            match strong.0.open(group).await {
                Ok(_) => {}
                // The eventual tables need no log.
                Err(Error::StorageDamaged(why)) => {
                    error!(why, "this node serves no strong tables");
                    strong.0.set_damaged(Some(why));
                }
                Err(error) => return Err(error),
            }
        }
        if !strong.0.has_opened()?
            && !strong.0.has_learned()?
            && !strong.0.parts.store.strong_tables().is_empty()
        {
            // The records beside the tables were lost, with what the node has promised.
            strong.0.set_damaged(Some(super::start::lost_log(&strong.0.directory)));
        }
        strong.0.begin_restored()?;
        replication.serve(Arc::new(super::serve::Service(Arc::downgrade(&strong.0))));
        tokio::spawn(catalogue::keep(Arc::downgrade(&strong.0)));
        Ok(strong)
    }

    /// This node as a member of the group; `None` while the group is asleep.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.0.member().map(|(member, _)| member)
    }

    /// Whether this node knows which tables are strong, or has nobody to ask.
    pub fn knows_tables(&self) -> bool {
        self.0.known.is_known()
    }

    /// Returns when this node knows which tables are strong, or has nobody to ask; soon after its start in any case.
    pub async fn until_tables_are_known(&self) {
        self.0.known.wait().await;
    }

    /// Makes a strong table, and first starts the group if there is none. Returns whether it was made, once the nodes that
    /// can be reached know.
    ///
    /// # Errors
    /// `WrongMode` if the table has eventual rows; as `submit`.
    pub async fn create(&self, table: TableName) -> Result<bool> {
        if !self.0.has_started().await {
            self.0.start_group().await?;
        }
        match self.submit(Request::Create(table.clone())).await? {
            Outcome::Created(created) => {
                self.0.until_known(&table).await;
                Ok(created)
            }
            other => Err(Error::Corrupt(format!("the answer to another request: {other:?}"))),
        }
    }

    /// Has a request decided, by whichever node leads.
    ///
    /// # Errors
    /// `NoQuorum` if nothing was done; `OutcomeUnknown`; what the request is refused for.
    pub async fn submit(&self, request: Request) -> Result<Outcome> {
        self.0.known.wait().await;
        let until = Instant::now() + REQUEST_MAX;
        loop {
            // Another one, if the log was opened again meanwhile.
            let (member, _) = self.0.until_member(until).await?;
            let left = until.saturating_duration_since(Instant::now());
            let leader = member.metrics().borrow().current_leader;
            match leader {
                Some(leader) if leader == self.0.parts.store.node() => {
                    match timeout(left, member.propose(request.clone())).await {
                        Ok(Proposed::Decided(outcome)) => return outcome.map_err(Error::from),
                        Ok(Proposed::NotLeader) => {}
                        Err(_) => return Err(unknown("no majority has confirmed the write in time")),
                    }
                }
                Some(leader) => match self.0.call(leader, Call::Propose(request.clone()), left).await {
                    Ok(CallAnswer::Proposed(outcome)) => return outcome.map_err(Error::from),
                    Ok(CallAnswer::OtherGroup(refusal)) => return Err(refusal.into()),
                    Err(error) if error.is_outcome_unknown() => return Err(unknown(&error.to_string())),
                    Ok(_) | Err(_) => {}
                },
                None => {}
            }
            if Instant::now() + RETRY >= until {
                return Err(Error::NoQuorum(no_quorum()));
            }
            sleep(RETRY).await;
        }
    }

    /// Returns when everything that was answered before this call can be read here.
    ///
    /// # Errors
    /// `NoQuorum`; `NotReady` if this node is behind.
    pub async fn barrier(&self) -> Result<()> {
        let (_, reads) = self.0.until_member(Instant::now() + REQUEST_MAX).await?;
        reads.barrier().await
    }

    /// Leaves the group, because this node leaves the cluster for good.
    ///
    /// # Errors
    /// `Conflict` if strong tables would take no writes without it; `NoQuorum`; `OutcomeUnknown`.
    pub async fn retire(&self) -> Result<()> {
        let Some(member) = self.member() else { return Ok(()) };
        // Whoever leads next must know.
        self.say_leaving(true).await;
        let retired = self.ask_to_retire(&member).await;
        if retired.is_err() {
            self.say_leaving(false).await;
        }
        retired
    }

    /// Tells the others that this node leaves the cluster, or stays after all.
    async fn say_leaving(&self, leaves: bool) {
        let others: Vec<_> = self.0.linked().collect();
        join_all(others.into_iter().map(|node| self.0.call(node, Call::Leaving(leaves), REQUEST_MAX))).await;
    }

    async fn ask_to_retire(&self, member: &Member) -> Result<()> {
        let own = self.0.parts.store.node();
        let until = Instant::now() + REQUEST_MAX;
        // A change that may have been made is asked for again.
        let mut doubt = None;
        while Instant::now() < until {
            let leader = member.metrics().borrow().current_leader;
            match leader {
                Some(leader) if leader == own => {
                    member.check_can_retire(own)?;
                    // The next leader is asked then.
                    if self.0.hand_over_to_any(member).await.is_err() {
                        return member.retire(own).await;
                    }
                    continue;
                }
                Some(leader) => {
                    let answer = self.0.call(leader, Call::Retire, REQUEST_MAX).await;
                    match answer {
                        Ok(CallAnswer::Retired(Err(Refusal::OutcomeUnknown(why)))) => {
                            doubt = Some(Error::OutcomeUnknown(why));
                        }
                        Ok(CallAnswer::Retired(retired)) => return retired.map_err(Error::from),
                        Err(error) if error.is_outcome_unknown() => {
                            doubt = Some(operate::unknown(&error.to_string()));
                        }
                        Ok(CallAnswer::OtherGroup(refusal)) => return Err(refusal.into()),
                        Ok(_) | Err(_) => {}
                    }
                }
                None => {}
            }
            sleep(RETRY).await;
        }
        Err(doubt.unwrap_or_else(|| Error::NoQuorum(no_quorum())))
    }

    /// Stops taking part.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        self.0.close().await;
    }
}

fn unknown(why: &str) -> Error {
    Error::OutcomeUnknown(format!("the write may or may not take effect ({why}): read the key to find out"))
}

impl Inner {
    pub(super) fn member(&self) -> Option<(Arc<Member>, Reads)> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this is the node's part in the group still.
    pub(super) fn has(&self, member: &Weak<Member>) -> bool {
        self.member().is_some_and(|(own, _)| std::ptr::eq(Arc::as_ptr(&own), member.as_ptr()))
    }

    /// Why the log cannot be opened, if it cannot be for good.
    pub(super) fn damage(&self) -> Option<String> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_damaged(&self, why: Option<String>) {
        *self.damaged.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Whether the node stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// This node as a member. One that has joined just now waits until the leader has taken it into the group.
    async fn until_member(&self, until: Instant) -> Result<(Arc<Member>, Reads)> {
        loop {
            if let Some(member) = self.member() {
                return Ok(member);
            }
            let is_awaited = !self.parts.store.strong_tables().is_empty()
                && self.damage().is_none()
                && !self.failed.load(Ordering::Acquire)
                && self.linked().next().is_some();
            if !is_awaited || self.is_stopping() || Instant::now() + RETRY >= until {
                return Err(self.asleep());
            }
            sleep(RETRY).await;
        }
    }

    /// Why this node takes no part in the group.
    pub(super) fn asleep(&self) -> Error {
        if self.parts.store.strong_tables().is_empty() && self.damage().is_none() {
            return Error::WrongMode("there are no strong tables in this cluster yet".into());
        }
        match self.damage() {
            Some(why) => Error::NotReady(format!("this node serves no strong tables; ask another: {why}")),
            None if self.failed.load(Ordering::Acquire) => Error::NotReady(
                "the log of the strong tables failed on this node and is being opened; try again".into(),
            ),
            None => Error::NotReady(
                "this node has not been taken into the group of the strong tables yet; try again, or ask another node".into(),
            ),
        }
    }

    /// The members that this node has a link with.
    pub(super) fn linked(&self) -> impl Iterator<Item = NodeId> {
        let peers = self.parts.replication.membership().peers.into_iter();
        peers.filter(|peer| peer.linked && !peer.member.state.is_forgotten()).map(|peer| peer.member.node)
    }

    /// How many other members the cluster has.
    pub(super) fn cluster_members(&self) -> usize {
        let peers = self.parts.replication.membership().peers;
        peers.iter().filter(|peer| !peer.member.state.is_forgotten()).count()
    }

    pub(super) async fn call(
        &self,
        to: NodeId,
        call: Call,
        deadline: Duration,
    ) -> std::result::Result<CallAnswer, RequestError> {
        let group = self.member().map_or(GroupId(0), |(member, _)| member.group);
        self.call_in(group, to, call, deadline).await
    }

    pub(super) async fn call_in(
        &self,
        group: GroupId,
        to: NodeId,
        call: Call,
        deadline: Duration,
    ) -> std::result::Result<CallAnswer, RequestError> {
        let mut body = rpc::encode(&Envelope { group, body: call });
        // Behind the body, where builds that do not know of it ignore it.
        body.extend_from_slice(request_id::current().as_deref().unwrap_or_default().as_bytes());
        let answer = self.parts.replication.request(to, RequestKind::Client, body, deadline).await?;
        rpc::decode(&answer).map_err(|error| RequestError::NoAnswer(error.to_string()))
    }
}

#[cfg(test)]
pub(super) mod tests;
