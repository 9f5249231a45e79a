//! What is heard of members, over links and of their ends, and what follows from it.

use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::{Inner, State, members::Action, registry::Control};
use crate::{core::clock::NodeId, error::Result};

impl Inner {
    pub(super) fn heard(&self, node: NodeId) {
        let now_ms = self.store.now_ms();
        self.state().members.heard(node, now_ms);
    }

    pub(super) fn packet(&self, from: NodeId, packet: &[u8]) -> Result<()> {
        let now_ms = self.store.now_ms();
        let actions = self.state().members.packet(from, packet, now_ms)?;
        self.perform(actions);
        Ok(())
    }

    pub(super) fn left(&self, node: NodeId, forever: bool) {
        let now_ms = self.store.now_ms();
        let actions = self.state().members.left(node, forever, now_ms);
        self.perform(actions);
    }

    /// A peer tells who was forgotten. It may have been this node, in a former life.
    pub(super) fn learn_forgotten(&self, from: NodeId, forgotten: &[(NodeId, u64)]) {
        let now_ms = self.store.now_ms();
        let actions = {
            let mut state = self.state();
            // It may be of a cluster that this node has left behind.
            if !state.members.is_linked(from) {
                return;
            }
            if let Some((_, incarnation)) = forgotten.iter().find(|(node, _)| *node == self.node()) {
                self.begin_anew(&mut state, from, *incarnation);
            }
            state.members.forgotten(forgotten.to_vec(), now_ms)
        };
        self.perform(actions);
    }

    /// A peer takes this node in a later life only.
    pub(super) fn outlived(&self, from: NodeId, at_least: u64, forgotten: bool) {
        let now_ms = self.store.now_ms();
        let actions = {
            let mut state = self.state();
            if forgotten {
                self.begin_anew(&mut state, from, at_least.saturating_sub(1));
            }
            state.members.rejoin(at_least, now_ms)
        };
        self.perform(actions);
    }

    /// A life of this node was forgotten: what the cluster has replaces what is here.
    fn begin_anew(&self, state: &mut State, from: NodeId, incarnation: u64) {
        if incarnation > state.birth.forgotten {
            warn!(by = %from, "the cluster had forgotten this node: its data is brought up to the cluster's");
            state.birth.forgotten = incarnation;
            self.shared.standing().begin_anew(self.store.now_ms());
        }
    }

    /// Does what the members ask for.
    pub(super) fn perform(&self, actions: Vec<Action>) {
        let state = self.state();
        let mut changed = false;
        for action in actions {
            match action {
                Action::Send(node, message) => {
                    if let Some(link) = state.registry.link(node) {
                        link.order(Control::Send(message));
                    }
                }
                Action::Close(node) => {
                    if let Some(link) = state.registry.link(node) {
                        link.order(Control::Close("the cluster goes on without it".into()));
                    }
                }
                Action::Changed(member) => {
                    info!(node = %member.node, address = member.address, state = ?member.state, "member");
                    changed = true;
                }
                Action::Renewed(identity) => {
                    info!(
                        incarnation = identity.incarnation,
                        address = identity.address,
                        "this node is known anew"
                    );
                }
            }
        }
        if changed {
            let members = state.members.unforgotten();
            self.has_peers.store(!members.is_empty(), Ordering::Release);
            let mut standing = self.shared.standing();
            standing.known = state.members.others().map(|member| member.node).collect();
            standing.floor.set_members(members);
            drop(standing);
            self.nudged.notify_one();
            self.progressed.notify_waiters();
        }
    }
}
