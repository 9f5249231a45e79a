//! Links: how they come up, what passes over them, and how they end.

use dynarust::{
    core::protocol::message::{Forgotten, Message},
    replication::{
        link::crossing::{Initiated, Survivor, survivor},
        link::error::Cause,
        membership::{Action, Refusal, identity::Identity},
    },
};

use super::{Draw, Event, Link, Network, address, id, index_of, pair};

impl Network {
    pub(super) fn dialed(&mut self, from: usize, text: &str) {
        let now_ms = self.now_ms;
        let to = (0..self.nodes.len()).find(|index| address(*index) == text);
        let Some(dialing) = self.nodes[from].as_ref() else { return };
        let local = dialing.members.local().clone();
        let answers = |to: &usize| {
            let hung = self.nodes[*to].as_ref().is_none_or(|node| node.hung);
            !hung && !self.cut.contains(&pair(from, *to)) && !dialing.hung
        };
        let Some(to) = to.filter(answers) else {
            self.nodes[from].as_mut().expect("runs").dialer.failed(text, Cause::Refused, now_ms);
            return;
        };
        let remote = self.members(to).local().clone();
        let theirs = self.members(to).may_link(&local);
        let ours = self.members(from).may_link(&remote);
        match theirs {
            Err(Refusal::Superseded { at_least, .. }) => {
                let actions = self.members(from).rejoin(at_least, now_ms);
                self.act(from, actions);
            }
            Err(Refusal::OwnAddress) => {
                self.nodes[from].as_mut().expect("runs").dialer.reached_self(text, now_ms);
                return;
            }
            Err(Refusal::SameId(_) | Refusal::Duplicate { .. }) => {}
            Ok(()) if ours.is_ok() => {
                self.nodes[from].as_mut().expect("runs").dialer.succeeded(text, now_ms);
                self.links_made += 1;
                let link = Link { id: self.links_made, initiated: Initiated { by: id(from), at_ms: now_ms } };
                self.add_link(from, to, link, remote);
                self.add_link(to, from, link, local);
                return;
            }
            Ok(()) => {}
        }
        if let Err(Refusal::Superseded { at_least, .. }) = ours {
            let actions = self.members(to).rejoin(at_least, now_ms);
            self.act(to, actions);
        }
        self.nodes[from].as_mut().expect("runs").dialer.failed(text, Cause::Refused, now_ms);
    }

    /// One side of a fresh link.
    fn add_link(&mut self, at: usize, peer: usize, fresh: Link, remote: Identity) {
        let now_ms = self.now_ms;
        let node = self.nodes[at].as_mut().expect("runs");
        if let Some(existing) = node.links.get(&peer).copied() {
            match survivor(existing.initiated, fresh.initiated) {
                Survivor::Existing => {
                    self.later(1, Event::Ended { at: peer, peer: at, link: fresh.id });
                    return;
                }
                Survivor::New => self.later(1, Event::Ended { at: peer, peer: at, link: existing.id }),
            }
        }
        let node = self.nodes[at].as_mut().expect("runs");
        node.links.insert(peer, fresh);
        let actions = node.members.linked(remote, now_ms);
        self.act(at, actions);
    }

    pub(super) fn end_link(&mut self, a: usize, b: usize) {
        for (at, peer) in [(a, b), (b, a)] {
            if let Some(link) =
                self.nodes[at].as_ref().and_then(|node| node.links.get(&peer)).map(|link| link.id)
            {
                self.later(1, Event::Ended { at, peer, link });
            }
        }
    }

    /// A node goes over to another cluster: nothing of its own is known to it there.
    pub fn switch_cluster(&mut self, index: usize) {
        for peer in self.links(index) {
            self.end_link(index, peer);
        }
        let node = self.nodes[index].as_mut().expect("runs");
        node.members.switch_cluster();
        node.dialer.switch_cluster();
        node.note = node.members.take_unsaved().expect("there are changes");
    }

    pub(super) fn act(&mut self, index: usize, actions: Vec<Action>) {
        for action in actions {
            let node = self.nodes[index].as_mut().expect("runs");
            match action {
                Action::Send(to, message) => {
                    let peer = index_of(to);
                    if let Some(link) = node.links.get(&peer).map(|link| link.id) {
                        self.send(index, peer, link, message);
                    }
                }
                Action::TellForgotten(to, lives) => {
                    let peer = index_of(to);
                    let forgotten = |(node, incarnation)| Forgotten { node, incarnation, agreed_ms: 0 };
                    let message = Message::Forgotten(lives.into_iter().map(forgotten).collect());
                    if let Some(link) = node.links.get(&peer).map(|link| link.id) {
                        self.send(index, peer, link, message);
                    }
                }
                Action::Close(to) => {
                    // What was sent before is still delivered.
                    if let Some(link) = node.links.get(&index_of(to)).map(|link| link.id) {
                        self.later(10, Event::Ended { at: index, peer: index_of(to), link });
                        self.later(10, Event::Ended { at: index_of(to), peer: index, link });
                    }
                }
                Action::Renewed(_) => node.renewals += 1,
                Action::Changed(_) => (),
            }
        }
        let node = self.nodes[index].as_mut().expect("runs");
        if let Some(note) = node.members.take_unsaved() {
            node.note = note;
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, link: u64, message: Message) {
        if self.cut.contains(&pair(from, to)) {
            return;
        }
        // Only packets may be lost: the rest is told once, over a stream.
        let swim = matches!(message, Message::Swim(_));
        if swim && self.rng.below(100) < self.weather.lost {
            return;
        }
        let copies = if swim && self.rng.below(100) < self.weather.repeated { 2 } else { 1 };
        for _ in 0..copies {
            let late = swim && self.rng.below(100) < self.weather.late;
            let after_ms = if late { 20 + self.rng.below(800) } else { 1 + self.rng.below(5) };
            self.later(after_ms, Event::Arrives { from, to, link, message: message.clone() });
        }
    }
}
