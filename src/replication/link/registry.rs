//! All current links, one per peer, and the totals of each peer over all its links.

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
    replication::{
        link::crossing::Initiated,
        requests::{
            FiguresByKind,
            channel::{self, Channel},
        },
    },
};

/// Most control messages waiting for a link. Those of membership are sent again.
pub const CONTROLS_MAX: usize = 256;

/// A control message to a link's session.
#[derive(Debug)]
pub enum Control {
    /// Send this.
    Send(Message),
    /// Open a comparison.
    Compare,
    /// End the link, for this reason.
    Close(String),
}

/// A link, as seen from outside its session.
pub struct LinkState {
    /// The node at the other end.
    pub node: NodeId,
    /// Which node dialed, and when the link came up.
    pub initiated: Initiated,
    /// The incarnation of the other node.
    pub incarnation: u64,
    /// Whether the other node was complete when the link came up.
    pub was_complete: bool,
    /// Whether it belonged to a cluster then.
    pub had_joined: bool,
    /// The bytes sent and received.
    pub traffic: Arc<Traffic>,
    /// The requests of both nodes.
    pub requests: Arc<Channel>,
    control: mpsc::Sender<Control>,
    figures: Mutex<Figures>,
    /// Why the other node accepts no rows, if it said so.
    storage_full: Mutex<Option<String>>,
    /// Why this node accepts no rows from the other, if it does not.
    rows_refused: Mutex<Option<String>>,
}

impl LinkState {
    /// A new link.
    pub fn new(
        (node, incarnation): (NodeId, u64),
        (was_complete, had_joined): (bool, bool),
        initiated: Initiated,
        traffic: Arc<Traffic>,
        requests: Arc<Channel>,
        control: mpsc::Sender<Control>,
    ) -> Self {
        let (figures, storage_full, rows_refused) = Default::default();
        Self {
            node,
            initiated,
            incarnation,
            was_complete,
            had_joined,
            traffic,
            requests,
            control,
            figures,
            storage_full,
            rows_refused,
        }
    }

    /// Sends the session a control message. Returns whether it fits the queue. Otherwise it is lost: a link that far
    /// behind ends soon, and a session that has ended needs nothing.
    pub fn send_control(&self, control: Control) -> bool {
        self.control.try_send(control).is_ok()
    }

    /// Publishes the session's figures.
    pub fn set_figures(&self, figures: Figures) {
        *lock(&self.figures) = figures;
    }

    /// The session's figures.
    pub fn figures(&self) -> Figures {
        *lock(&self.figures)
    }

    /// The other node accepts no rows, for this reason.
    pub fn set_storage_full(&self, why: String) {
        *lock(&self.storage_full) = Some(why);
    }

    /// This node accepts no rows from the other, for this reason.
    pub fn set_rows_refused(&self, why: String) {
        *lock(&self.rows_refused) = Some(why);
    }

    /// Why this node accepts no rows from the other, if it does not.
    pub fn rows_refused(&self) -> Option<String> {
        lock(&self.rows_refused).clone()
    }

    /// Why the other node accepts no rows, if it said so.
    pub fn storage_full(&self) -> Option<String> {
        lock(&self.storage_full).clone()
    }
}

/// All links.
#[derive(Default)]
pub struct Registry {
    links: BTreeMap<NodeId, Arc<LinkState>>,
    /// Links that others replaced and that have not ended yet.
    replaced: Vec<Arc<LinkState>>,
    /// The totals of links that have ended.
    totals: BTreeMap<NodeId, Totals>,
    /// What is wrong with this node's clock, as last logged.
    pub logged_clock_trouble: Option<ClockTrouble>,
}

/// The totals of all links with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The protocol's counters. Gauges are those of the last link.
    pub figures: Figures,
    /// Bytes to the peer.
    pub sent_bytes: u64,
    /// Bytes from it.
    pub received_bytes: u64,
    /// Requests in both directions, by kind.
    pub requests: FiguresByKind,
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

    /// Whether some link is with a complete node.
    pub fn reaches_complete(&self) -> bool {
        self.links().any(|link| link.figures().is_complete.unwrap_or(link.was_complete))
    }

    /// Adds a link. One that it replaces counts until it is removed.
    pub fn insert(&mut self, link: Arc<LinkState>) {
        self.replaced.extend(self.links.insert(link.node, link));
    }

    /// Adds an ended link to the totals. Returns whether it was the current link of its peer.
    pub fn remove(&mut self, link: &Arc<LinkState>) -> bool {
        let totals = self.totals.entry(link.node).or_default();
        *totals = totals.with(link);
        self.replaced.retain(|replaced| !Arc::ptr_eq(replaced, link));
        let was_in_place = self.links.get(&link.node).is_some_and(|present| Arc::ptr_eq(present, link));
        if was_in_place {
            self.links.remove(&link.node);
        }
        was_in_place
    }

    /// The totals of a peer: of its former links and the current one. They never go back.
    pub fn totals_of(&self, node: NodeId) -> Totals {
        let ended = self.totals.get(&node).copied().unwrap_or_default();
        let replaced = self.replaced.iter().filter(|link| link.node == node);
        replaced.chain(self.links.get(&node)).fold(ended, |totals, link| totals.with(link))
    }
}

impl Totals {
    /// These and those of a link that is newer than theirs.
    fn with(self, link: &LinkState) -> Self {
        let (was, is) = (self.figures, link.figures());
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
        Self {
            figures,
            sent_bytes: self.sent_bytes + link.traffic.sent_bytes(),
            received_bytes: self.received_bytes + link.traffic.received_bytes(),
            requests: channel::sum(self.requests, link.requests.figures()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values, consistent even after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with node 2 that has carried 100 bytes, and its receiver of control messages.
    fn link() -> (Arc<LinkState>, mpsc::Receiver<Control>) {
        let (sender, control) = mpsc::channel(1);
        let (by, at_ms) = (NodeId(1), 0);
        let requests = Arc::new(Channel::new(NodeId(2), Arc::default()));
        let traffic = Arc::new(Traffic { sent: 100.into(), received: 100.into(), ..Traffic::default() });
        let initiated = Initiated { by, at_ms };
        let link = LinkState::new((NodeId(2), 1), (true, true), initiated, traffic, requests, sender);
        (Arc::new(link), control)
    }

    /// What a replaced link had carried was missing until it ended: counters of bytes went back for seconds.
    #[test]
    fn totals_never_go_back() {
        let mut registry = Registry::default();
        let bytes = |registry: &Registry| registry.totals_of(NodeId(2)).sent_bytes;
        let (first, second) = (link().0, link().0);
        registry.insert(first.clone());
        assert_eq!(bytes(&registry), 100);
        registry.insert(second.clone());
        assert_eq!(bytes(&registry), 200);
        assert!(!registry.remove(&first));
        assert_eq!(bytes(&registry), 200);
        assert!(registry.remove(&second));
        assert_eq!(bytes(&registry), 200);
    }

    /// A link whose queue was full counted as one that would compare.
    #[test]
    fn a_control_message_that_does_not_fit_is_reported() {
        let (link, mut control) = link();
        assert!(link.send_control(Control::Compare));
        assert!(!link.send_control(Control::Compare));
        assert!(matches!(control.try_recv(), Ok(Control::Compare)));
        assert!(link.send_control(Control::Compare));
        drop(control);
        assert!(!link.send_control(Control::Compare));
    }
}
