//! Handles membership events from links, and carries out what the members ask for.

use std::sync::atomic::Ordering;

use tracing::{debug, info, warn};

use super::{Action, Member, MemberState};
use crate::{
    core::{
        clock::NodeId,
        protocol::message::{Forgotten, Message},
    },
    error::Result,
    replication::{Inner, State, link::registry::Control},
};

/// Digits of an id in a log line.
const SHORT_ID: usize = 8;

/// Logs the new state of a member.
fn log_state(member: &Member) {
    let name = named(&member.address, member.node);
    match member.state {
        MemberState::Alive => info!("{name} is up"),
        MemberState::Suspect { .. } => debug!("{name} does not answer"),
        MemberState::Down { .. } => warn!("{name} is down"),
        MemberState::Left { .. } => info!("{name} left"),
        MemberState::Forgotten { .. } => info!("{name} is forgotten"),
    }
}

/// A node's name in the log: its address and the beginning of its id.
pub fn named(address: &str, node: NodeId) -> String {
    let address = if address.is_empty() { "at an unknown address" } else { address };
    format!("node {address} ({})", &node.to_string()[..SHORT_ID])
}

impl Inner {
    pub(in crate::replication) fn heard(&self, node: NodeId) {
        let now_ms = self.store.now_ms();
        self.state().members.heard(node, now_ms);
    }

    pub(in crate::replication) fn packet(&self, from: NodeId, packet: &[u8]) -> Result<()> {
        let now_ms = self.store.now_ms();
        let actions = self.state().members.packet(from, packet, now_ms)?;
        self.perform(actions);
        Ok(())
    }

    pub(in crate::replication) fn left(&self, node: NodeId, permanent: bool) {
        let now_ms = self.store.now_ms();
        let actions = self.state().members.left(node, permanent, now_ms);
        self.perform(actions);
    }

    /// A peer says which nodes were forgotten. A former incarnation of this node may be among them.
    pub(in crate::replication) fn learn_forgotten(&self, from: NodeId, forgotten: &[Forgotten]) {
        let now_ms = self.store.now_ms();
        let actions = {
            let mut state = self.state();
            // The peer may be in a cluster that this node has switched away from.
            if !state.members.is_linked(from) {
                return;
            }
            if let Some(own) = forgotten.iter().find(|forgotten| forgotten.node == self.node()) {
                self.resync_forgotten(&mut state, from, own.incarnation);
            }
            let mut progress = self.shared.progress();
            if !progress.complete && !progress.intact {
                // The node may have lost rows, so its own agreement with them does not count.
                let others = forgotten.iter().filter(|told| told.node != self.node());
                others.for_each(|told| progress.agreement.detach(told.node, told.agreed_ms));
            }
            drop(progress);
            let lives = forgotten.iter().map(|forgotten| (forgotten.node, forgotten.incarnation));
            state.members.forgotten(lives.collect(), now_ms)
        };
        self.perform(actions);
    }

    /// A peer accepts only a later incarnation of this node. If the peer forgot this node by force and this side has a
    /// majority, the peer is the one that must come back, and this side forgets it in turn.
    pub(in crate::replication) fn superseded(
        &self,
        from: NodeId,
        at_least: u64,
        forgotten: bool,
        forced: bool,
    ) {
        let now_ms = self.store.now_ms();
        let actions = {
            let mut state = self.state();
            if forgotten && forced && state.members.has_majority_without(from) {
                warn!(peer = %from, "a peer forgot this node without a majority: the peer must come back to this side");
                state.members.forget_in_turn(from, now_ms)
            } else {
                if forgotten {
                    state.members.drop_forgotten();
                    state.cluster_record.forced = false;
                    self.resync_forgotten(&mut state, from, at_least.saturating_sub(1));
                }
                state.members.rejoin(at_least, now_ms)
            }
        };
        self.perform(actions);
    }

    /// An incarnation of this node was forgotten, so it must sync before it counts again: with those that say so, and not with
    /// others that were forgotten too.
    fn resync_forgotten(&self, state: &mut State, from: NodeId, incarnation: u64) {
        if incarnation > state.cluster_record.forgotten {
            warn!(by = %from, "the cluster had forgotten this node: it syncs what was written and deleted in the meantime");
            state.cluster_record.forgotten = incarnation;
            self.shared.progress().begin_returning(self.store.now_ms());
            self.store.reset_agreed();
        }
        // One that forgot only an earlier incarnation may have been forgotten with the last one.
        if incarnation == state.cluster_record.forgotten {
            self.shared.progress().hear_went_on(from);
        }
    }

    /// Carries out the members' actions.
    pub(in crate::replication) fn perform(&self, actions: Vec<Action>) {
        let state = self.state();
        if actions.iter().any(|action| matches!(action, Action::Changed(_))) {
            self.follow_members(&state);
        }
        for action in actions {
            match action {
                Action::Send(node, message) => {
                    if let Some(link) = state.registry.link(node) {
                        link.send_control(Control::Send(message));
                    }
                }
                Action::TellForgotten(node, lives) => {
                    if let Some(link) = state.registry.link(node) {
                        link.send_control(Control::Send(Message::Forgotten(self.forgotten(lives))));
                    }
                }
                Action::Close(node) => {
                    if let Some(link) = state.registry.link(node) {
                        link.send_control(Control::Close("the cluster goes on without it".into()));
                    }
                }
                Action::Changed(member) => {
                    log_state(&member);
                }
                Action::Renewed(identity) => {
                    debug!(
                        incarnation = identity.incarnation,
                        address = identity.address,
                        "this node has a new incarnation"
                    );
                }
            }
        }
    }

    /// Follows a change of who is a member.
    fn follow_members(&self, state: &State) {
        let members = state.members.member_ids();
        self.has_peers.store(!members.is_empty(), Ordering::Release);
        let mut progress = self.shared.progress();
        progress.set_members(&members);
        progress.agreement.retain(|node| state.members.other(node).is_some());
        drop(progress);
        self.dial_wakeup.notify_one();
        self.progressed.notify_waiters();
    }

    /// Forgotten incarnations, as a message contains them.
    fn forgotten(&self, lives: Vec<(NodeId, u64)>) -> Vec<Forgotten> {
        let progress = self.shared.progress();
        let forgotten = |(node, incarnation)| Forgotten {
            node,
            incarnation,
            agreed_ms: progress.agreement.with_ms(node),
        };
        lives.into_iter().map(forgotten).collect()
    }
}
