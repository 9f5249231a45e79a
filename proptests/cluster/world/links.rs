//! The links of a cluster: how they come about and end, and how what is said on them is delayed, held back by a cut, and
//! answered.

use dynarust::core::protocol::{message::Message, peer::Output};

use super::{After, Event, ROUND_MS, World};
use crate::cluster::{describe, node::End};

/// A peer that says nothing for so long is given up.
const SILENCE_MS: u64 = 4_000;

impl World {
    /// Ends both ends of a link.
    pub fn drop_link(&mut self, left: usize, right: usize) {
        self.nodes[left].unlink(right);
        self.nodes[right].unlink(left);
    }

    /// What waited for a cut to heal arrives.
    pub fn heal(&mut self) {
        self.heal_where(|_, _| true);
    }

    /// What waited for a cut that is healed now arrives.
    pub fn heal_where(&mut self, is_healed: impl Fn(usize, usize) -> bool) {
        self.cut.retain(|(from, to)| !is_healed(*from, *to));
        for from in 0..self.nodes.len() {
            let held: Vec<_> = self.nodes[from]
                .ends
                .iter_mut()
                .filter(|(to, _)| is_healed(from, **to))
                .map(|(to, end)| (*to, end.link, std::mem::take(&mut end.held)))
                .collect();
            for (to, link, messages) in held {
                messages.into_iter().for_each(|message| self.send(link, from, to, message));
            }
        }
    }

    pub(super) fn end(&mut self, node: usize, with: usize, link: u64) -> Option<&mut End> {
        self.nodes[node].ends.get_mut(&with).filter(|end| end.link == link)
    }

    pub(super) fn dial(&mut self) {
        let all = self.nodes.len();
        for left in 0..all {
            for right in left + 1..all {
                let link_of = |node: usize, with: usize| self.nodes[node].ends.get(&with).map(|end| end.link);
                let (one, other) = (link_of(left, right), link_of(right, left));
                let is_cut = self.cut.contains(&(left, right)) || self.cut.contains(&(right, left));
                let is_there =
                    |node: usize| self.nodes[node].is_up && self.nodes[node].hung_until_ms <= self.now_ms;
                let stands = one.is_some() && one == other;
                if !stands
                    && !is_cut
                    && is_there(left)
                    && is_there(right)
                    && !self.random.one_in(3)
                    && self.meet(left, right)
                {
                    self.link(left, right);
                }
            }
        }
    }

    fn link(&mut self, left: usize, right: usize) {
        self.links += 1;
        let (link, now_ms) = (self.links, self.now_ms);
        self.note(|| format!("link {link}: {left} - {right}"));
        for (node, with) in [(left, right), (right, left)] {
            let (id, seed) = (self.nodes[with].id, self.random.next());
            self.nodes[node].link(now_ms, (with, id), link, seed);
            let after_ms = self.random.below(0..20);
            self.at(after_ms, Event::Round { link, node, with });
        }
        self.follow_up(left);
        self.follow_up(right);
    }

    pub(super) fn round(&mut self, link: u64, node: usize, with: usize) {
        let now_ms = self.now_ms;
        let Some(end) = self.end(node, with, link) else { return };
        if now_ms - end.heard_ms > SILENCE_MS {
            self.close(node, with, link);
            return;
        }
        let output = self.nodes[node]
            .with(now_ms, |ends, context| ends.get_mut(&with).expect("looked at above").peer.round(context));
        match output {
            Ok(output) => self.put_out(node, with, link, output),
            Err(error) => self.broken = Some(format!("a round of {node} with {with}: {error}")),
        }
        self.follow_up(node);
        self.at(ROUND_MS, Event::Round { link, node, with });
    }

    pub(super) fn arrive(&mut self, link: u64, from: usize, to: usize, message: Message) {
        let now_ms = self.now_ms;
        let Some(end) = self.end(to, from, link) else { return };
        end.heard_ms = now_ms;
        self.note(|| format!("{from} -> {to}: {}", describe(&message)));
        let outputs = self.nodes[to].with(now_ms, |ends, context| {
            ends.get_mut(&from).expect("looked at above").peer.handle(context, message)
        });
        match outputs {
            Ok(outputs) => outputs.into_iter().for_each(|output| self.put_out(to, from, link, output)),
            Err(error) => self.broken = Some(format!("a message of {from} to {to}: {error}")),
        }
        self.follow_up(to);
    }

    fn put_out(&mut self, node: usize, with: usize, link: u64, output: Output) {
        match output {
            Output::Send(message) => self.send(link, node, with, message),
            Output::AfterSync(then) => self.sync(node, After::Peer { link, with, then }),
        }
    }

    pub(super) fn send(&mut self, link: u64, from: usize, to: usize, message: Message) {
        let latency_ms =
            1 + self.random.below(0..30) + self.nodes[from].latency_ms + self.nodes[to].latency_ms;
        let (is_cut, now_ms) = (self.cut.contains(&(from, to)), self.now_ms);
        let Some(end) = self.end(from, to, link) else { return };
        if is_cut {
            end.held.push_back(message);
            return;
        }
        end.arrives_ms = end.arrives_ms.max(now_ms + latency_ms);
        let after_ms = end.arrives_ms - now_ms;
        self.at(after_ms, Event::Arrive { link, from, to, message });
    }

    fn close(&mut self, node: usize, with: usize, link: u64) {
        self.note(|| format!("{node} gives up {with}"));
        self.nodes[node].unlink(with);
        self.tell_end(node, with, link);
    }

    pub(super) fn tell_end(&mut self, from: usize, to: usize, link: u64) {
        if !self.cut.contains(&(from, to)) {
            self.at(40, Event::Ended { link, node: to, with: from });
        }
    }
}
