//! The links that stand, one a peer, and what is known of each peer over all of its links.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use super::{Traffic, clocks::ClockTrouble};
use crate::{
    core::{
        clock::NodeId,
        protocol::{message::Message, peer::Figures},
    },
    replication::link::crossing::Initiated,
};

/// Orders that wait for a link at the most. Those of membership come again.
pub const CONTROLS_MAX: usize = 256;

/// What a link is told from outside.
#[derive(Debug)]
pub enum Control {
    /// Send this.
    Send(Message),
    /// Open a comparison.
    Compare,
    /// End, for this reason.
    Close(String),
}

/// A link, as others than its own task see it.
pub struct LinkState {
    /// The node at the other end.
    pub node: NodeId,
    /// Which of the two nodes dialed, and when.
    pub initiated: Initiated,
    /// The life of the other node.
    pub incarnation: u64,
    /// Whether the other node had all that the cluster has when the link came up.
    pub was_complete: bool,
    /// What went over it.
    pub traffic: Arc<Traffic>,
    control: mpsc::Sender<Control>,
    figures: Mutex<Figures>,
    /// Why the other node takes no rows over it, if it said so.
    storage_full: Mutex<Option<String>>,
    /// Why this node takes no rows over it, if it does not.
    rows_refused: Mutex<Option<String>>,
}

impl LinkState {
    /// A link that was just made.
    pub fn new(
        (node, incarnation): (NodeId, u64),
        was_complete: bool,
        initiated: Initiated,
        traffic: Arc<Traffic>,
        control: mpsc::Sender<Control>,
    ) -> Self {
        let (figures, storage_full, rows_refused) = Default::default();
        Self {
            node,
            initiated,
            incarnation,
            was_complete,
            traffic,
            control,
            figures,
            storage_full,
            rows_refused,
        }
    }

    /// Gives the link's task something to do; whether it takes it. What has no room is lost: a link that is that far behind ends
    /// soon, and one whose task has ended is over.
    pub fn send_control(&self, control: Control) -> bool {
        self.control.try_send(control).is_ok()
    }

    /// Shows how the link does.
    pub fn set_figures(&self, figures: Figures) {
        *lock(&self.figures) = figures;
    }

    /// How it does.
    pub fn figures(&self) -> Figures {
        *lock(&self.figures)
    }

    /// The other node says why it takes no rows over it.
    pub fn set_storage_full(&self, why: String) {
        *lock(&self.storage_full) = Some(why);
    }

    /// This node takes no rows over it, and why.
    pub fn set_rows_refused(&self, why: String) {
        *lock(&self.rows_refused) = Some(why);
    }

    /// Why this node takes none, if it does not.
    pub fn rows_refused(&self) -> Option<String> {
        lock(&self.rows_refused).clone()
    }

    /// Why it takes none, if it said so.
    pub fn storage_full(&self) -> Option<String> {
        lock(&self.storage_full).clone()
    }
}

/// All links.
#[derive(Default)]
pub struct Registry {
    links: BTreeMap<NodeId, Arc<LinkState>>,
    /// What links that ended had counted.
    totals: BTreeMap<NodeId, Totals>,
    /// What is wrong with this node's clock, so that links end, as the log said last.
    pub logged_clock_trouble: Option<ClockTrouble>,
}

/// What was counted over all links with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The counters of the protocol. Its gauges are those of the last link.
    pub figures: Figures,
    /// Bytes to the peer.
    pub sent_bytes: u64,
    /// Bytes from it.
    pub received_bytes: u64,
}

impl Registry {
    /// The link with a peer.
    pub fn link(&self, node: NodeId) -> Option<&Arc<LinkState>> {
        self.links.get(&node)
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = &Arc<LinkState>> {
        self.links.values()
    }

    /// Whether some link is with a node that has all that the cluster has.
    pub fn reaches_complete(&self) -> bool {
        self.links().any(|link| link.figures().is_complete.unwrap_or(link.was_complete))
    }

    /// Puts a link in its place. Returns the one that was there.
    pub fn insert(&mut self, link: Arc<LinkState>) -> Option<Arc<LinkState>> {
        self.links.insert(link.node, link)
    }

    /// Keeps account of a link that ended. Whether it was the one in its place.
    pub fn remove(&mut self, link: &Arc<LinkState>) -> bool {
        let totals = self.totals(link.node, Some(link));
        self.totals.insert(link.node, totals);
        let was_in_place = self.links.get(&link.node).is_some_and(|present| Arc::ptr_eq(present, link));
        if was_in_place {
            self.links.remove(&link.node);
        }
        was_in_place
    }

    /// What was counted with a peer, over the links before and the one that stands.
    pub fn totals_of(&self, node: NodeId) -> Totals {
        self.totals(node, self.links.get(&node))
    }

    fn totals(&self, node: NodeId, link: Option<&Arc<LinkState>>) -> Totals {
        let before = self.totals.get(&node).copied().unwrap_or_default();
        let Some(link) = link else { return before };
        let (was, is) = (before.figures, link.figures());
        let figures = Figures {
            rounds: was.rounds + is.rounds,
            sessions: was.sessions + is.sessions,
            false_sessions: was.false_sessions + is.false_sessions,
            rows_pushed: was.rows_pushed + is.rows_pushed,
            rows_repaired: was.rows_repaired + is.rows_repaired,
            rows_received: was.rows_received + is.rows_received,
            rows_changed: was.rows_changed + is.rows_changed,
            rows_refused: was.rows_refused + is.rows_refused,
            rows_unproven: was.rows_unproven + is.rows_unproven,
            rows_removed: was.rows_removed + is.rows_removed,
            comparison_messages: was.comparison_messages + is.comparison_messages,
            comparison_bytes: was.comparison_bytes + is.comparison_bytes,
            ..is
        };
        Totals {
            figures,
            sent_bytes: before.sent_bytes + link.traffic.sent_bytes(),
            received_bytes: before.received_bytes + link.traffic.received_bytes(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values: whole whatever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link whose queue was full counted among those that compare.
    #[test]
    fn an_order_that_has_no_room_is_not_taken() {
        let (sender, mut control) = mpsc::channel(1);
        let (by, at_ms) = (NodeId(1), 0);
        let link = LinkState::new((NodeId(2), 1), true, Initiated { by, at_ms }, Arc::default(), sender);
        assert!(link.send_control(Control::Compare));
        assert!(!link.send_control(Control::Compare));
        assert!(matches!(control.try_recv(), Ok(Control::Compare)));
        assert!(link.send_control(Control::Compare));
        drop(control);
        assert!(!link.send_control(Control::Compare));
    }
}
