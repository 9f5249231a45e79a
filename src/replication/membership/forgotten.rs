//! Forgets members, and refuses links to forgotten and duplicate nodes.

use std::fmt;

use foca::State;

use super::{Action, Member, MemberState, Members, identity::Identity};
use crate::{
    core::clock::NodeId,
    error::{Error, Result},
};

/// Most forgotten nodes remembered; the oldest are dropped. A dropped node returns as a new one: then nothing proves
/// that its rows were deleted, and they come back with it.
const FORGOTTEN_MAX: usize = 100;

/// A node forgets nobody on its own for this long after its start, so that a cluster that was off for days can find
/// itself again first.
const FORGET_GRACE_MS: u64 = 3_600 * 1_000;

/// A member that is down for this long while another node is at its address is gone: it lost its directory and came
/// back as that node. Longer than it takes containers to be recreated and swap addresses.
const REPLACED_AFTER_MS: u64 = 60 * 1_000;

/// Why a node is refused a link. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node dialed its own address.
    OwnAddress,
    /// Another node has this node's id.
    SameId(NodeId),
    /// Two running nodes have the same id.
    Duplicate {
        /// The id.
        node: NodeId,
        /// Where the other one is linked from.
        address: String,
    },
    /// Only a later incarnation of the node is accepted: this one was forgotten, has left, or is over. The node must
    /// `rejoin` and dial again.
    Superseded {
        /// The node.
        node: NodeId,
        /// The lowest incarnation that is accepted.
        at_least: u64,
        /// The node was forgotten.
        forgotten: bool,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = "two nodes were started on copies of one directory: stop one of them, and start it on an empty directory";
        match self {
            Self::OwnAddress => {
                f.write_str("the address is this node's own: remove it from the addresses to join")
            }
            Self::SameId(node) => write!(f, "both nodes have the id {node}; {remedy}"),
            Self::Duplicate { node, address } => {
                write!(f, "the id {node} is taken by the node at {address:?}; {remedy}")
            }
            Self::Superseded { node, at_least, forgotten: true } => write!(
                f,
                "node {node} was forgotten by this cluster. It returns on its own as incarnation {at_least} or later, \
                and syncs what was written and deleted in the meantime"
            ),
            Self::Superseded { node, at_least, forgotten: false } => {
                write!(
                    f,
                    "node {node} is known here by a later incarnation. It returns on its own as incarnation {at_least} or later"
                )
            }
        }
    }
}

impl Members {
    /// Whether a link with `remote` is allowed.
    ///
    /// # Errors
    /// The refusal.
    pub fn may_link(&self, remote: &Identity) -> std::result::Result<(), Refusal> {
        let node = remote.node;
        if node == self.local().node {
            let is_itself = remote == self.local();
            return Err(if is_itself { Refusal::OwnAddress } else { Refusal::SameId(node) });
        }
        let Some(record) = self.records.get(&node) else { return Ok(()) };
        let known = &record.member;
        // If the node restarted elsewhere, its former link is silent.
        let elsewhere = known.address != remote.address && known.incarnation != remote.incarnation;
        if elsewhere && !known.address.is_empty() && record.is_heard(self.clock.steady_ms()) {
            return Err(Refusal::Duplicate { node, address: known.address.clone() });
        }
        let (over, forgotten) = match known.state {
            MemberState::Forgotten { .. } => (true, true),
            MemberState::Left { .. } => (true, false),
            MemberState::Alive | MemberState::Suspect { .. } | MemberState::Down { .. } => (false, false),
        };
        let at_least = known.incarnation.saturating_add(u64::from(over));
        if remote.incarnation < at_least {
            return Err(Refusal::Superseded { node, at_least, forgotten });
        }
        Ok(())
    }

    /// Forgets a member that an operator says will not return. `force`: even if the members present are no majority.
    ///
    /// # Errors
    /// `NotFound` if no member has that id; the text lists the known ones. `BadRequest` if the member is alive, is this
    /// node, or there is no majority.
    pub fn forget(&mut self, node: NodeId, force: bool, now_ms: u64) -> Result<Vec<Action>> {
        self.begin(now_ms);
        if node == self.local().node {
            return Err(Error::BadRequest(format!(
                "{node} is this node: `DynaRust leave` makes it leave for good"
            )));
        }
        let Some(member) = self.other(node) else {
            let known: Vec<_> =
                self.others().map(|member| format!("{} ({})", member.node, member.address)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::NotFound(format!("no member has the id {node}; known are: {known}")));
        };
        if member.state.is_here() {
            let address = &member.address;
            return Err(Error::BadRequest(format!(
                "node {node} ({address}) is still present: stop it first, or run `DynaRust leave` on it to let it leave for good"
            )));
        }
        let incarnation = member.incarnation;
        if !force && !member.state.is_forgotten() && !self.has_majority() {
            let (here, all) = self.present();
            return Err(Error::BadRequest(format!(
                "{here} of {all} members are here, which is no majority: if the others are still running, they and \
                 this side would forget each other. If they are gone for good, repeat this with --force \
                 (\"force\":true). If they return after all, no value is lost, but keys that this side deleted in the \
                 meantime may come back"
            )));
        }
        self.spread_forgotten(vec![(node, incarnation)]);
        Ok(self.finish())
    }

    /// Forgets a member that forgot this node.
    pub fn forget_in_turn(&mut self, node: NodeId, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        if let Some(incarnation) = self.other(node).map(|member| member.incarnation) {
            self.spread_forgotten(vec![(node, incarnation)]);
        }
        self.finish()
    }

    /// Drops the forgotten nodes: this node returns to the majority, which says whom it has forgotten.
    pub fn drop_forgotten(&mut self) {
        let forgotten: Vec<_> = self.forgotten_list().into_iter().map(|(node, _)| node).collect();
        forgotten.into_iter().for_each(|node| self.drop_record(node));
    }

    /// A peer says which incarnations the cluster forgot.
    pub fn forgotten(&mut self, list: Vec<(NodeId, u64)>, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        if self.leaving {
            return Vec::new();
        }
        let local = self.local().clone();
        if let Some((_, incarnation)) =
            list.iter().find(|(node, last)| *node == local.node && *last >= local.incarnation)
        {
            let incarnation = incarnation.saturating_add(1);
            self.change_identity(Identity { incarnation, ..local.clone() });
        }
        self.spread_forgotten(list.into_iter().filter(|(node, _)| *node != local.node).collect());
        self.finish()
    }

    /// The forgotten nodes, as `Message::Forgotten` contains them.
    pub fn forgotten_list(&self) -> Vec<(NodeId, u64)> {
        let forgotten = self.others().filter(|member| member.state.is_forgotten());
        forgotten.map(|member| (member.node, member.incarnation)).collect()
    }

    /// Forgets those of the list that are not forgotten yet, and tells all linked nodes, including the forgotten ones.
    pub(in crate::replication::membership) fn spread_forgotten(&mut self, list: Vec<(NodeId, u64)>) {
        list.iter().for_each(|(node, incarnation)| self.note_former(*node, *incarnation));
        let fresh: Vec<_> =
            list.into_iter().filter(|(node, last)| self.is_newly_forgotten(*node, *last)).collect();
        if fresh.is_empty() {
            return;
        }
        let linked: Vec<_> = self.linked_nodes().collect();
        self.actions.extend(linked.into_iter().map(|node| Action::TellForgotten(node, fresh.clone())));
        for (node, incarnation) in fresh {
            let address = self.other(node).map(|member| member.address.clone()).unwrap_or_default();
            self.learn(&Identity { node, incarnation, address }, 0, State::Down);
            self.mark_forgotten(node, incarnation);
        }
        self.drop_oldest_forgotten();
    }

    /// Forgets members that have been gone for too long or were replaced, if there is a majority.
    pub(in crate::replication::membership) fn forget_long_gone(&mut self) {
        if !self.has_majority() {
            return;
        }
        let is_started = self.clock.steady_ms() >= self.options.forget_after_ms.min(FORGET_GRACE_MS);
        let taken = self.taken_addresses();
        let is_gone = |member: &&Member| {
            let Some(gone_ms) = self.gone_ms(member) else { return false };
            let at_its_address = taken.get(member.address.as_str());
            let is_replaced = at_its_address.is_some_and(|node| *node != member.node);
            is_started && gone_ms >= self.options.forget_after_ms
                || is_replaced && gone_ms >= REPLACED_AFTER_MS
        };
        let gone = self.others().filter(is_gone).map(|member| (member.node, member.incarnation)).collect();
        self.spread_forgotten(gone);
    }

    /// How many members would be forgotten by now if there were a majority.
    pub fn kept_without_majority(&self) -> usize {
        if self.has_majority() {
            return 0;
        }
        let is_long_gone = |member: &&Member| {
            self.gone_ms(member).is_some_and(|gone_ms| gone_ms >= self.options.forget_after_ms)
        };
        self.others().filter(is_long_gone).count()
    }

    /// How long a member has been gone, in milliseconds; `None` if it is not.
    fn gone_ms(&self, member: &Member) -> Option<u64> {
        match member.state {
            MemberState::Down { since_ms } | MemberState::Left { since_ms } => {
                Some(self.clock.wall_ms().saturating_sub(since_ms))
            }
            MemberState::Alive | MemberState::Suspect { .. } | MemberState::Forgotten { .. } => None,
        }
    }

    /// Notes that an incarnation was forgotten which is over. Its node may have restarted since, and not know that it was forgotten.
    fn note_former(&mut self, node: NodeId, incarnation: u64) {
        let Some(record) = self.records.get_mut(&node) else { return };
        if incarnation < record.member.incarnation && record.forgotten < Some(incarnation) {
            record.forgotten = Some(incarnation);
            if record.linked {
                self.actions.push(Action::TellForgotten(node, vec![(node, incarnation)]));
            }
        }
    }

    fn is_newly_forgotten(&self, node: NodeId, incarnation: u64) -> bool {
        self.other(node).is_none_or(|known| {
            known.incarnation < incarnation || known.incarnation == incarnation && !known.state.is_forgotten()
        })
    }

    fn mark_forgotten(&mut self, node: NodeId, incarnation: u64) {
        let since_ms = self.clock.wall_ms();
        let Some(record) = self.records.get_mut(&node) else { return };
        record.member.incarnation = incarnation;
        record.member.state = MemberState::Forgotten { since_ms };
        record.forgotten = Some(incarnation);
        record.suspected_ms = None;
        if record.linked {
            self.actions.push(Action::Close(node));
        }
        self.changed(node);
    }

    fn drop_oldest_forgotten(&mut self) {
        let age = |record: &super::Record| match record.member.state {
            MemberState::Forgotten { since_ms } => Some((since_ms, record.member.node)),
            MemberState::Alive
            | MemberState::Suspect { .. }
            | MemberState::Down { .. }
            | MemberState::Left { .. } => None,
        };
        let mut forgotten: Vec<_> = self.records.values().filter_map(age).collect();
        forgotten.sort_unstable();
        let surplus = forgotten.len().saturating_sub(FORGOTTEN_MAX);
        forgotten.into_iter().take(surplus).for_each(|(_, node)| self.drop_record(node));
    }

    fn drop_record(&mut self, node: NodeId) {
        if let Some(record) = self.records.remove(&node) {
            let removed =
                self.foca.handle_timer(foca::Timer::RemoveDown(record.identity()), &mut self.effects);
            self.count(removed);
            self.unsaved = true;
        }
    }
}
