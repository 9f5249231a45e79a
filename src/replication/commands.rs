//! Commands from outside the replication loops: forget a member, compare now, prepare for old rows, and ask another
//! node.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    Replication,
    link::registry::{Control, LinkState},
    requests::{RequestError, RequestService},
};
use crate::{
    core::{clock::NodeId, protocol::message::RequestKind},
    error::Result,
};

impl Replication {
    /// Forgets a member that is gone. `force`: even without a majority.
    ///
    /// # Errors
    /// As `Members::forget`.
    pub async fn forget(&self, node: NodeId, force: bool) -> Result<()> {
        let actions = {
            let mut state = self.0.state();
            let is_forced = force && !state.members.has_majority();
            let actions = state.members.forget(node, force, self.0.store.now_ms())?;
            if is_forced {
                state.cluster_record.forced = true;
                // Whoever went on without this node is not to return to any more.
                self.0.shared.progress().stop_returning();
            }
            actions
        };
        self.0.perform(actions);
        self.0.save_state().await
    }

    /// Withdraws all claims about rows as old as one that is about to be written (Unix milliseconds): other members may
    /// lack it.
    ///
    /// # Errors
    /// As the storage's. The row must not be written then.
    pub fn lower_claims(&self, written_ms: u64) -> Result<()> {
        self.0.shared.progress().lower_claims(written_ms);
        self.0.store.lower_agreement(written_ms.saturating_sub(1))
    }

    /// Tells every link to open a comparison. Returns how many will.
    pub fn sync_now(&self) -> usize {
        let state = self.0.state();
        state.registry.links().filter(|link| link.send_control(Control::Compare)).count()
    }

    /// The links that stand.
    pub(in crate::replication) fn links(&self) -> Vec<Arc<LinkState>> {
        self.0.state().registry.links().cloned().collect()
    }

    /// Changes whenever a link comes or goes, and when a dial led to none.
    pub(in crate::replication) fn link_changes(&self) -> watch::Receiver<u64> {
        self.0.link_changes.subscribe()
    }

    /// Whether this node knows no other node, and was not told to join one.
    pub(in crate::replication) fn has_nobody_to_ask(&self) -> bool {
        self.0.options.join.is_empty() && self.0.state().members.others().next().is_none()
    }

    /// Whether an address is being dialed for the first time since the start.
    pub(in crate::replication) fn is_dialing_first(&self) -> bool {
        !self.has_nobody_to_ask() && self.0.state().dialer.is_dialing_first()
    }

    /// Sends a request to a node over the link that stands, and waits for the response. Dropping the future cancels the
    /// request: the other node stops working on it.
    ///
    /// # Errors
    /// All of [`RequestError`]: `is_outcome_unknown` says whether the request may have taken effect.
    pub async fn request(
        &self,
        to: NodeId,
        kind: RequestKind,
        body: Vec<u8>,
        deadline: Duration,
    ) -> std::result::Result<Vec<u8>, RequestError> {
        let requests = self.0.state().registry.link(to).map(|link| link.requests.clone());
        let requests =
            requests.ok_or_else(|| RequestError::NoLink(format!("node {to} is not linked with this one")))?;
        requests.request(kind, body, deadline).await
    }

    /// Serves the requests of other nodes from now on, except for reports. Until then they are told that this node serves none.
    ///
    /// # Panics
    /// If there is a service already.
    pub fn serve(&self, service: Arc<dyn RequestService>) {
        self.serve_kinds(&[RequestKind::Consensus, RequestKind::Client], &service);
    }

    /// Serves the requests of other nodes for reports from now on.
    ///
    /// # Panics
    /// If there is a service already.
    pub fn serve_reports(&self, service: Arc<dyn RequestService>) {
        self.serve_kinds(&[RequestKind::Report], &service);
    }

    fn serve_kinds(&self, kinds: &[RequestKind], service: &Arc<dyn RequestService>) {
        for kind in kinds {
            let is_first = self.0.services[kind.index()].set(Arc::clone(service)).is_ok();
            assert!(is_first, "a node has one service for {} requests", kind.name());
        }
    }
}
