//! The exchange between `Members` and the membership protocol: what it is told, what it learned, and what it sends.

use foca::State;

use super::{Action, Member, Members, Record, identity::Identity, saved};
use crate::core::{clock::NodeId, protocol::message::Message};

impl Members {
    /// Takes over what the protocol learned and wants to send.
    pub(in crate::replication::membership) fn finish(&mut self) -> Vec<Action> {
        self.adopt();
        if self.announced.incarnation != self.local().incarnation {
            self.announced = self.local().clone();
            self.unsaved = true;
            self.actions.push(Action::Renewed(self.announced.clone()));
            let linked = self.records.values().filter(|record| record.linked);
            for identity in linked.map(Record::identity).collect::<Vec<_>>() {
                self.announce(identity);
            }
        }
        self.dispatch();
        std::mem::take(&mut self.actions)
    }

    pub(in crate::replication::membership) fn dispatch(&mut self) {
        for (node, packet) in self.effects.take_packets() {
            if self.is_linked(node) {
                self.actions.push(Action::Send(node, Message::Swim(packet)));
            }
        }
    }

    pub(in crate::replication::membership) fn adopt(&mut self) {
        let (steady_ms, now_ms) = (self.clock.steady_ms(), self.clock.wall_ms());
        let local = self.foca.identity().node;
        let mut changed = Vec::new();
        // The protocol also remembers former incarnations of this node.
        for protocol_state in
            self.foca.iter_membership_state().filter(|protocol_state| protocol_state.id().node != local)
        {
            let record = self
                .records
                .entry(protocol_state.id().node)
                .or_insert_with(|| Record::new(Member::unknown(protocol_state.id().node), steady_ms));
            if record.adopt(protocol_state, steady_ms, now_ms) {
                changed.push(protocol_state.id().node);
            }
        }
        for node in changed {
            self.changed(node);
        }
    }

    pub(in crate::replication::membership) fn changed(&mut self, node: NodeId) {
        let Some(record) = self.records.get_mut(&node) else { return };
        let saved_form = saved::saved_form(&record.member);
        if record.saved.as_ref() != Some(&saved_form) {
            record.saved = Some(saved_form);
            self.unsaved = true;
        }
        self.actions.push(Action::Changed(record.member.clone()));
    }

    /// Tells the protocol about a member, and takes over the result.
    pub(in crate::replication::membership) fn learn(
        &mut self,
        identity: &Identity,
        refutations: u16,
        state: State,
    ) {
        let update = foca::Member::new(identity.clone(), refutations, state);
        let applied = self.foca.apply_many([update].into_iter(), true, &mut self.effects);
        self.count(applied);
        self.adopt();
    }

    pub(in crate::replication::membership) fn announce(&mut self, identity: Identity) {
        let announced = self.foca.announce(identity, &mut self.effects);
        self.count(announced);
    }

    pub(in crate::replication::membership) fn broadcast(&mut self, message: &Message) {
        let linked: Vec<_> = self.linked_nodes().collect();
        self.actions.extend(linked.into_iter().map(|node| Action::Send(node, message.clone())));
    }

    pub(in crate::replication::membership) fn linked_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.records.iter().filter(|(_, record)| record.linked).map(|(node, _)| *node)
    }

    /// The protocol recovers from its own errors. They are counted, because there should be none.
    pub(in crate::replication::membership) fn count<T>(
        &mut self,
        result: std::result::Result<T, foca::Error>,
    ) {
        self.faults += u64::from(result.is_err());
    }
}
