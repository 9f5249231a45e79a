//! Starts the group, and this node's part in it.
//!
//! To start it, a node asks the others to *claim* membership of a new group, durably ([`claim`](super::claim)). A node claims one group. The
//! group starts if those that did are a majority of the cluster's members. So two sides of a cut cannot start two groups.
//!
//! A claim of a group that never started gives way to a group that has: of a majority each has claimed that one first, so
//! no other can have a majority any more.

use std::{
    path::Path,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{
    claim::Claim,
    election::stand_early,
    group::{Inner, REQUEST_MAX},
    leases,
    log::{self, REMEDY},
    member::Member,
    network::check_group,
    reads::{Reads, ask},
    roster, row_repair,
    rpc::{Call, CallAnswer, GroupId},
    upkeep::upkeep,
    watch::watch,
};
use crate::{
    core::{clock::NodeId, name::TableName, protocol::progress::is_majority},
    error::{Error, Result},
    storage::Store,
};

/// How long a strong table that was made waits for the other nodes to know: time enough to take learners into a new group.
pub(super) const KNOWN_MAX: Duration = Duration::from_secs(3);
/// How often a node looks meanwhile.
const KNOWN_EVERY: Duration = Duration::from_millis(5);
/// The note that this node has a log of the group.
pub(super) const OPENED_NOTE: &str = "strong/opened";

impl Inner {
    /// Whether this node has, or had, a log of the group.
    pub(super) fn has_opened(&self) -> Result<bool> {
        Ok(self.parts.store.note(OPENED_NOTE)?.is_some())
    }

    /// Checks that the log is not damaged, and that none waits for a disk that takes writes.
    fn check_log(&self) -> Result<()> {
        if self.damage().is_some() || self.failed.load(Ordering::Acquire) {
            Err(self.asleep())
        } else {
            Ok(())
        }
    }

    /// Whether this node takes part in a group that has started.
    pub(super) async fn has_started(&self) -> bool {
        match self.member() {
            Some((member, _)) => member.has_started().await,
            None => false,
        }
    }

    /// Takes part in a group from now on.
    pub(super) async fn open(self: &Arc<Self>, group: GroupId) -> Result<Arc<Member>> {
        let is_first = !self.has_opened()?;
        if !is_first && !self.directory.is_dir() {
            return Err(Error::StorageDamaged(lost_log(&self.directory)));
        }
        let member = Arc::new(Member::open(group, &self.directory, self.parts.clone()).await?);
        if is_first {
            // Before it votes or answers anybody.
            self.set_durable(OPENED_NOTE, &[]).await?;
        }
        let weak = Arc::downgrade(self);
        let machine = member.machine.clone();
        let reads = Reads::start(machine.applied(), move || machine.is_intact(), move || ask(weak.clone()));
        *self.member.lock().unwrap_or_else(PoisonError::into_inner) = Some((member.clone(), reads));
        tokio::spawn(roster::keep(Arc::downgrade(self), Arc::downgrade(&member)));
        tokio::spawn(upkeep(Arc::downgrade(self), Arc::downgrade(&member), self.parts.clone()));
        tokio::spawn(leases::keep(Arc::downgrade(&member), self.parts.clone()));
        tokio::spawn(watch(Arc::downgrade(self), Arc::downgrade(&member)));
        tokio::spawn(stand_early(Arc::downgrade(self), Arc::downgrade(&member)));
        tokio::spawn(row_repair::keep(Arc::downgrade(self), Arc::downgrade(&member)));
        Ok(member)
    }

    /// Ends this node's part in the group for now.
    pub(super) async fn close(&self) {
        let member = self.member.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((member, _)) = member {
            member.stop().await;
        }
    }

    /// Opens the log again after it failed.
    ///
    /// # Errors
    /// Those of the log and of the storage.
    pub(super) fn reopen(self: &Arc<Self>) -> BoxFuture<'static, Result<()>> {
        // Boxed, because what it opens is watched, and watching may call this.
        let inner = self.clone();
        async move {
            let _one = inner.starting.lock().await;
            inner.finish_reset().await?;
            // It may take part in another group by now.
            if inner.is_stopping() || inner.member().is_some() {
                return Ok(());
            }
            if let Some(why) = inner.parts.store.failure() {
                return Err(Error::StorageFull(why));
            }
            let Some(group) = inner.claimed()? else { return Ok(()) };
            log::probe(&inner.directory)?;
            inner.open(group).await.map(drop)
        }
        .boxed()
    }

    /// Takes part in a group that another node names and that has started, if this one does not take part in another.
    pub(super) async fn join(self: &Arc<Self>, group: GroupId) -> Result<Arc<Member>> {
        let _one = self.starting.lock().await;
        self.finish_reset().await?;
        if self.replaced()?.contains(&group) {
            return Err(Error::Forbidden(
                "an operator has started another group of strong tables in the place of that one: start the node with an empty data \
                 directory, and it joins"
                    .into(),
            ));
        }
        let mut has_log = self.has_opened()?;
        if let Some((member, _)) = self.member() {
            if member.group == group || member.has_started().await {
                return Ok(member);
            }
            self.member.lock().unwrap_or_else(PoisonError::into_inner).take();
            member.stop().await;
            has_log = false;
        }
        self.check_log()?;
        let joined = Claim { group, voters: Vec::new() };
        let claimed = self.claim(joined.clone()).await?.group;
        if claimed != group && !has_log {
            info!(
                "a group of the strong tables that this node asked for never started: it takes part in another"
            );
            self.set_claim(joined).await?;
        } else {
            check_group(claimed, group)?;
        }
        info!("takes part in the group of the strong tables");
        self.open(group).await
    }

    /// Starts the group, here or at the member with the lowest id.
    pub(super) async fn start_group(self: &Arc<Self>) -> Result<()> {
        self.check_log()?;
        let own = self.parts.store.node();
        let linked: Vec<_> = self.linked().collect();
        if let Some(group) = self.find_group(&linked).await {
            return self.join(group).await.map(drop);
        }
        if let Some(first) = linked.iter().copied().filter(|node| *node < own).min() {
            // Two that start it at once could keep each other from a majority.
            if let Ok(CallAnswer::Claimed(group)) = self.call(first, Call::Start, REQUEST_MAX).await {
                return self.join(group).await.map(drop);
            }
        }
        self.start_here(&linked).await
    }

    /// As `start_group`, on the node that was chosen to start it.
    pub(super) async fn start_or_join(self: &Arc<Self>) -> Result<()> {
        let linked: Vec<_> = self.linked().collect();
        match self.find_group(&linked).await {
            Some(group) => self.join(group).await.map(drop),
            None => self.start_here(&linked).await,
        }
    }

    /// Returns when this node and those that it can reach, by others too, know that a table is strong: a node that does not would take
    /// writes into an eventual table of that name. Whoever does not answer in time finds out when it applies the log.
    pub(super) async fn until_known(&self, table: &TableName) {
        tokio::join!(await_table(&self.parts.store, table), self.tell_made(table, None));
    }

    /// The group that others take part in.
    pub(super) async fn find_group(&self, linked: &[NodeId]) -> Option<GroupId> {
        for node in linked {
            if let Ok(CallAnswer::Group(Some((group, true)))) =
                self.call(*node, Call::Group, REQUEST_MAX).await
            {
                return Some(group);
            }
        }
        None
    }

    /// Checks that so many nodes are a majority of the cluster's members.
    pub(super) fn check_majority(&self, count: usize) -> Result<()> {
        let all = 1 + self.cluster_members();
        if is_majority(count, all) {
            return Ok(());
        }
        Err(Error::NoQuorum(format!(
            "the first strong table needs a majority of the cluster's members, and {count} of {all} answer; nothing was made"
        )))
    }

    pub(super) async fn start_here(self: &Arc<Self>, linked: &[NodeId]) -> Result<()> {
        let _one = self.starting.lock().await;
        if self.has_started().await {
            return Ok(());
        }
        self.check_log()?;
        // None is made that cannot be of use.
        self.check_majority(1 + linked.len())?;
        let claim = self.claim(self.choose_claim(linked).await?).await?;
        let Claim { group, voters } = claim.clone();
        let mut members = 1;
        for node in linked {
            match self.call_in(group, *node, Call::Claim(voters.clone()), REQUEST_MAX).await {
                Ok(CallAnswer::Claimed(claimed)) if claimed == group => members += 1,
                Ok(CallAnswer::Claimed(_)) => {
                    warn!(%node, "a member belongs to another group of strong tables");
                }
                // Its strong tables are kept by another backend.
                Ok(CallAnswer::NotStarted(why)) => return Err(why.into()),
                Ok(_) | Err(_) => {}
            }
        }
        self.check_majority(members)?;
        if !voters.contains(&self.parts.store.node()) {
            return self.have_started(&claim, linked).await;
        }
        let member = match self.member() {
            Some((member, _)) => member,
            None => self.open(group).await?,
        };
        info!(voters = voters.len(), "starts the group of the strong tables");
        member.initialize(voters).await
    }
}

/// Returns when a node's store has a strong table, or when too much time has passed.
pub(super) async fn await_table(store: &Store, table: &TableName) {
    let until = Instant::now() + KNOWN_MAX;
    while !store.is_strong(table) && Instant::now() < until {
        sleep(KNOWN_EVERY).await;
    }
}

pub(super) fn lost_log(directory: &Path) -> String {
    format!(
        "the log of the strong tables is gone: {} is missing. A member that has forgotten what it promised must not vote. {REMEDY}",
        directory.display()
    )
}
