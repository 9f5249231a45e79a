//! Stops a node, or makes it leave for good. Before it leaves, another member must have everything this node has.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::timeout;
use tracing::warn;

use crate::{
    core::clock::NodeId,
    error::{Error, Result},
    replication::{Inner, Replication, link::registry},
};

/// How long a stopping node waits for its peers to receive its last writes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a leaving node waits for another member to have all its rows.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(60);

impl Replication {
    /// Hands this node's rows over, and tells all others to forget it. Returns how many members remain.
    ///
    /// # Errors
    /// `NotReady` if there are members and none that stays received everything in time. Nothing has changed then.
    pub async fn leave(&self) -> Result<usize> {
        if self.0.has_peers.load(Ordering::Acquire) {
            self.0.shared.progress().leaving = true;
            self.sync_now();
            let handed_over = self.0.hand_over(self.last_written(), self.0.store.now_ms()).await;
            if let Err(error) = handed_over {
                self.0.shared.progress().leaving = false;
                return Err(error);
            }
        }
        let staying = self.0.staying();
        self.0.announce_leave(true).await;
        Ok(staying)
    }

    /// Ends all links, after a moment for the peers to receive the last writes, and saves the members. A second call
    /// waits for the same end.
    pub async fn stop(&self) {
        let mut stopped = self.0.stopped.lock().await;
        if *stopped {
            return;
        }
        self.0.stopping.store(true, Ordering::Release);
        self.0.drain_links(self.last_written(), DRAIN_TIMEOUT).await;
        self.0.announce_leave(false).await;
        if let Some(background) = self.0.background.lock().unwrap_or_else(PoisonError::into_inner).take() {
            background.abort();
        }
        if let Err(error) = self.0.save_state().await {
            warn!(%error, "the members were not saved");
        }
        *stopped = true;
    }
}

impl Inner {
    /// Waits until all linked peers have this node's writes up to a journal entry, or the time is up.
    async fn drain_links(&self, entry: u64, wait_max: Duration) {
        let written_ms = self.timestamps.last_write_ms();
        let waiting = async {
            let mut looks = tokio::time::interval(Duration::from_millis(10));
            loop {
                looks.tick().await;
                let state = self.state();
                let progress = self.shared.progress();
                if state.registry.links().all(|link| progress.is_served(link.node, entry, written_ms)) {
                    return;
                }
            }
        };
        // A peer that was too slow gets them after the restart.
        let _ = timeout(wait_max, waiting).await;
    }

    /// Waits until some member that stays has everything this node has: its writes up to `entry`, and the rows it held
    /// at `at_ms`, when it began to leave.
    ///
    /// If two nodes leave at once, at most one of them counts on the other. To be counted on, a member must have said
    /// that it stays, in a round whose root is of `at_ms` or later. Such a round is sent a settle time after `at_ms`.
    /// So if that member leaves too, it began to leave that much later, and this node's rounds had long announced that
    /// it leaves.
    ///
    /// # Errors
    /// `NotReady` if the time is up, or nobody stays.
    async fn hand_over(&self, entry: u64, at_ms: u64) -> Result<()> {
        let waiting = async {
            let mut looks = tokio::time::interval(Duration::from_millis(50));
            loop {
                looks.tick().await;
                let state = self.state();
                let progress = self.shared.progress();
                let has_all = |link: &Arc<registry::LinkState>| {
                    let acked = progress.acked.get(&link.node).copied().unwrap_or_default();
                    acked.upto >= entry
                        && !link.figures().is_leaving
                        && progress.floor.equal_ms(link.node).is_some_and(|equal| equal >= at_ms)
                };
                if state.registry.links().any(has_all) {
                    return Ok(());
                }
                let leaves =
                    |node: &NodeId| state.registry.link(*node).is_some_and(|link| link.figures().is_leaving);
                if state.members.member_ids().iter().all(leaves) {
                    return Err(Error::NotReady(
                        "every other member is leaving too, and one has to keep the rows: this node stays. Let the \
                        nodes leave one after the other"
                            .into(),
                    ));
                }
            }
        };
        timeout(HANDOVER_TIMEOUT, waiting).await.unwrap_or_else(|_| {
            Err(Error::NotReady(format!(
                "after {HANDOVER_TIMEOUT:?} no other member that stays has everything this node has: it stays. See \
                DynaRust members, and try again"
            )))
        })
    }

    /// How many other members are present and not leaving.
    fn staying(&self) -> usize {
        let state = self.state();
        let leaves = |node| state.registry.link(node).is_some_and(|link| link.figures().is_leaving);
        state.members.others().filter(|member| member.state.is_here() && !leaves(member.node)).count()
    }

    async fn announce_leave(&self, permanent: bool) {
        let now_ms = self.store.now_ms();
        let actions = self.state().members.leave(permanent, now_ms);
        self.perform(actions);
        let ended = async {
            let mut looks = tokio::time::interval(Duration::from_millis(10));
            // Each peer ends its link when it is told.
            while self.state().registry.links().next().is_some() {
                looks.tick().await;
            }
        };
        // A hanging peer is not waited for.
        let _ = timeout(Duration::from_secs(1), ended).await;
    }
}
