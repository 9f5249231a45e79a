//! The end of a node among the others: for now, or for good. What only this node has goes to somebody else first.

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

/// How long a node that stops waits for its peers to take what they have not yet.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one that leaves for good does.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(60);

impl Replication {
    /// Hands over what only this node has, and tells all others to go on without it. How many are there to do so.
    ///
    /// # Errors
    /// `NotReady` where there are members and none of those that stay took everything in time; nothing has changed then.
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

    /// Ends all links, after a moment for the peers to take what they have not yet, and remembers the members. Whoever calls
    /// again waits for the same end.
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
            warn!(%error, "the members were not noted");
        }
        *stopped = true;
    }
}

impl Inner {
    /// Returns when all that are linked have what this node wrote, up to an entry of the journal, or the time is over.
    async fn drain_links(&self, entry: u64, wait_max: Duration) {
        let written_ms = self.stamps.last_write_ms();
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
        // Who did not take it in time gets it after the restart.
        let _ = timeout(wait_max, waiting).await;
    }

    /// Returns when some member that stays holds everything this node has: what it wrote up to `entry`, and what it held at `at_ms`,
    /// when it began to leave.
    ///
    /// Of two that leave at once at most one counts on the other. To be counted on, a member must have said that it stays in a round
    /// that shows what it held at `at_ms` or later, which is sent a settle time after `at_ms`: so it began to leave later than this node
    /// by that much, and by then this node's rounds had said long since that it leaves.
    ///
    /// # Errors
    /// `NotReady` where that does not happen in time, or nobody stays.
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
                        "every other member is leaving too, and somebody has to keep what there is: this node stays. Let one leave after \
                         the other"
                            .into(),
                    ));
                }
            }
        };
        timeout(HANDOVER_TIMEOUT, waiting).await.unwrap_or_else(|_| {
            Err(Error::NotReady(format!(
                "no other member that stays has everything that this node has, after {HANDOVER_TIMEOUT:?}: it stays. See DynaRust members, and \
                 try again"
            )))
        })
    }

    /// How many other members are there, and not about to leave.
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
        // One that hangs is not waited for.
        let _ = timeout(Duration::from_secs(1), ended).await;
    }
}
