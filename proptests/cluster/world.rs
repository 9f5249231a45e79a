//! A cluster in virtual time: its nodes, the network between them, and everything that is still to happen, in order.

mod links;
mod membership;

use std::collections::{BTreeMap, BTreeSet};

use dynarust::core::{
    name::{Key, TableName},
    protocol::{
        message::{Message, Row},
        peer::{Figures, Then},
    },
    register::{Marker, Payload},
};

use super::{
    model::{Model, Name},
    node::Node,
    schedule::Schedule,
};
use crate::{
    random::Random,
    replica::{Cause, Change},
};

/// Time between rounds.
pub const ROUND_MS: u64 = 1_000;
/// How often nodes look for those they have no link with.
const DIAL_MS: u64 = 400;
/// Bytes that may be on their way.
const WINDOW_BYTES: usize = 1024 * 1024;

/// What broke, and where it was seen.
pub type Outcome<T> = Result<T, String>;

/// A cluster.
pub struct World {
    pub now_ms: u64,
    pub nodes: Vec<Node>,
    pub model: Model,
    pub random: Random,
    /// From whom nothing gets to whom.
    pub cut: BTreeSet<(usize, usize)>,
    pub journal_keys_max: usize,
    /// Whether some disk was damaged.
    pub is_damaged: bool,
    /// Of rows up to here, every deletion can be proved to whoever came back.
    pub proven_ms: u64,
    names: Vec<Name>,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    links: u64,
    trace: Option<Vec<String>>,
    broken: Option<String>,
}

enum Event {
    Arrive {
        link: u64,
        from: usize,
        to: usize,
        message: Message,
    },
    Round {
        link: u64,
        node: usize,
        with: usize,
    },
    Synced {
        node: usize,
        life: u64,
        place: u64,
        after: After,
    },
    KeepUp {
        node: usize,
    },
    /// The other end is gone.
    Ended {
        link: u64,
        node: usize,
        with: usize,
    },
    Forget {
        node: usize,
        forgotten: usize,
        incarnation: u64,
        agreed_ms: u64,
        /// Who tells it, and on which link.
        told_by: Option<(usize, u64)>,
    },
    Dial,
}

enum After {
    Peer { link: u64, with: usize, then: Then },
    Acknowledge { name: Name, marker: Marker },
}

impl World {
    /// A cluster as a schedule begins.
    pub fn new(schedule: &Schedule, traced: bool) -> Self {
        let table = |number: usize| TableName::parse(["t", "u"][number % 2]).expect("a name");
        let key = |number: usize| Key::parse(&format!("key{number}")).expect("a key");
        let mut world = Self {
            now_ms: 0,
            nodes: Vec::new(),
            model: Model::default(),
            random: Random::new(!schedule.seed),
            cut: BTreeSet::new(),
            journal_keys_max: schedule.journal_keys_max,
            is_damaged: false,
            proven_ms: u64::MAX,
            names: (0..schedule.keys).map(|number| (table(number), key(number))).collect(),
            events: BTreeMap::new(),
            scheduled: 0,
            links: 0,
            trace: traced.then(Vec::new),
            broken: None,
        };
        for number in 0..schedule.nodes {
            world.join(number < schedule.complete);
        }
        world.at(0, Event::Dial);
        world
    }

    /// Lets time go by.
    ///
    /// # Errors
    /// What broke.
    pub fn run_until(&mut self, until_ms: u64) -> Outcome<()> {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= until_ms) {
            let ((at_ms, number), event) = entry.remove_entry();
            self.now_ms = self.now_ms.max(at_ms);
            match self.hung_until(&event) {
                Some(later_ms) => drop(self.events.insert((later_ms, number), event)),
                None => self.happen(event),
            }
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
        }
        self.now_ms = until_ms;
        Ok(())
    }

    /// What happened, if it was written down.
    pub fn into_trace(self) -> Vec<String> {
        self.trace.unwrap_or_default()
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} {}", self.now_ms, what()));
        }
    }

    pub fn members(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_member).collect()
    }

    /// The figures of all links, added up.
    pub fn figures(&self) -> Figures {
        self.nodes.iter().flat_map(Node::figures).fold(Figures::default(), |sum, figures| Figures {
            sessions: sum.sessions + figures.sessions,
            false_sessions: sum.false_sessions + figures.false_sessions,
            rows_pushed: sum.rows_pushed + figures.rows_pushed,
            rows_repaired: sum.rows_repaired + figures.rows_repaired,
            rows_received: sum.rows_received + figures.rows_received,
            rows_changed: sum.rows_changed + figures.rows_changed,
            rows_refused: sum.rows_refused + figures.rows_refused,
            rows_removed: sum.rows_removed + figures.rows_removed,
            ..sum
        })
    }

    /// A node more.
    pub fn join(&mut self, complete: bool) {
        let number = self.nodes.len();
        self.model.add_node();
        self.nodes.push(Node::new(number, complete, self.journal_keys_max));
        // Those that are cut off do not hear of it before they meet.
        self.tell_members();
        let after_ms = self.random.below(0..ROUND_MS);
        self.at(after_ms, Event::KeepUp { node: number });
    }

    /// A client writes.
    pub fn write(
        &mut self,
        node: usize,
        key: usize,
        payload: impl FnOnce(Option<&Payload>) -> Option<Payload>,
    ) {
        let name = self.names[key % self.names.len()].clone();
        let is_busy = self.nodes[node].hung_until_ms > self.now_ms;
        if !self.nodes[node].is_up || is_busy {
            return;
        }
        let now_ms = self.now_ms;
        self.nodes[node].with(now_ms, |_, context| {
            let held = dynarust::core::protocol::replica::Replica::read(context.replica, &name.0, &name.1);
            let held = held.expect("it lies in memory").map(|row| row.payload);
            if let Some(payload) = payload(held.as_ref()) {
                context.replica.write(&name.0, &name.1, payload);
            }
        });
        self.follow_up(node);
    }

    /// Stops a node. `silent`: nobody is told.
    pub fn crash(&mut self, node: usize, silent: bool) {
        let linked: Vec<(usize, u64)> =
            self.nodes[node].ends.iter().map(|(with, end)| (*with, end.link)).collect();
        self.nodes[node].crash();
        self.model.crashed(node);
        for (with, link) in linked.into_iter().filter(|_| !silent) {
            self.tell_end(node, with, link);
        }
    }

    /// Starts a node again.
    pub fn restart(&mut self, node: usize) {
        let now_ms = self.now_ms;
        self.nodes[node].restart(now_ms);
        self.nodes[node].replica.take_changes();
        self.tell_members_to(node);
    }

    fn at(&mut self, after_ms: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now_ms + after_ms, self.scheduled), event);
    }

    /// Until when an event has to wait, as its node does nothing.
    fn hung_until(&self, event: &Event) -> Option<u64> {
        let node = match event {
            Event::Arrive { to: node, .. }
            | Event::Round { node, .. }
            | Event::Synced { node, .. }
            | Event::KeepUp { node }
            | Event::Forget { node, .. }
            | Event::Ended { node, .. } => *node,
            Event::Dial => return None,
        };
        Some(self.nodes[node].hung_until_ms).filter(|until_ms| *until_ms > self.now_ms)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { link, from, to, message } => self.arrive(link, from, to, message),
            Event::Round { link, node, with } => self.round(link, node, with),
            Event::Synced { node, life, place, after } => self.synced(node, life, place, after),
            Event::KeepUp { node } => {
                if self.nodes[node].is_up {
                    let now_ms = self.now_ms;
                    self.nodes[node].keep_up(now_ms);
                    self.follow_up(node);
                }
                self.at(ROUND_MS, Event::KeepUp { node });
            }
            Event::Ended { link, node, with } => {
                if self.end(node, with, link).is_some() {
                    self.nodes[node].unlink(with);
                }
            }
            Event::Forget { node, forgotten, incarnation, agreed_ms, told_by } => {
                if !self.nodes[node].is_up || self.nodes[forgotten].is_member {
                    return;
                }
                match told_by {
                    Some((by, link)) if self.end(node, by, link).is_none() => {}
                    // What is said on a link that is cut arrives when the cut heals.
                    Some((by, _)) if !self.is_heard(by, node) => {
                        self.at(DIAL_MS, Event::Forget { node, forgotten, incarnation, agreed_ms, told_by });
                    }
                    Some(_) | None => self.learn_forgotten(node, (forgotten, incarnation), agreed_ms),
                }
            }
            Event::Dial => {
                self.dial();
                self.at(DIAL_MS, Event::Dial);
            }
        }
    }

    fn sync(&mut self, node: usize, after: After) {
        let jitter_ms = self.random.below(0..4);
        let now_ms = self.now_ms;
        let syncing = &mut self.nodes[node];
        syncing.synced_ms = syncing.synced_ms.max(now_ms + syncing.sync_ms + jitter_ms);
        let (after_ms, life, place) = (syncing.synced_ms - now_ms, syncing.life, syncing.replica.place());
        self.at(after_ms, Event::Synced { node, life, place, after });
    }

    fn synced(&mut self, node: usize, life: u64, place: u64, after: After) {
        if self.nodes[node].life != life {
            return;
        }
        self.nodes[node].replica.sync_to(place);
        let members = self.members();
        self.model.synced(node, place, &members);
        match after {
            After::Acknowledge { name, marker } => self.model.acknowledged(&name, marker),
            After::Peer { link, with, then: Then::Send(message) } => {
                let is_round = matches!(message, Message::Round(_));
                self.send(link, node, with, message);
                if is_round && let Some(end) = self.end(node, with, link) {
                    end.sent_first_round = true;
                    self.follow_up(node);
                }
            }
            After::Peer { link, with, then: Then::Equal(equal) } => {
                let now_ms = self.now_ms;
                if self.end(node, with, link).is_some() {
                    self.note(|| format!("{node} = {with} at {}", equal.compared.at_ms));
                    self.nodes[node].with(now_ms, |ends, context| {
                        ends.get_mut(&with).expect("looked at above").peer.equal(context, equal);
                    });
                }
            }
        }
    }

    /// Does what hangs on the rows that a node has just changed, and sends what is to be sent.
    fn follow_up(&mut self, node: usize) {
        let changes = self.nodes[node].replica.take_changes();
        let last = self.nodes[node].replica.place();
        let first = last + 1 - changes.len() as u64;
        for (place, change) in (first..).zip(changes) {
            self.changed(node, place, change);
        }
        let now_ms = self.now_ms;
        let polled = self.nodes[node].with(now_ms, |ends, context| {
            let mut polled = Vec::new();
            for (with, end) in ends.iter_mut().filter(|(_, end)| end.sent_first_round) {
                while let Some(message) = end.peer.poll(context, WINDOW_BYTES).expect("it lies in memory") {
                    polled.push((end.link, *with, message));
                }
            }
            polled
        });
        for (link, with, message) in polled {
            self.send(link, node, with, message);
        }
    }

    fn changed(&mut self, node: usize, place: u64, change: Change) {
        self.note(|| format!("{node}: {}", super::describe_change(&change)));
        let name = (change.table, change.key);
        let Some(register) = change.register else { return };
        self.model.merged(node, place, &name, register.marker());
        match change.cause {
            Cause::Client => {
                self.model.written(node, &name, &register);
                let row = Some(Row::new(name.1.clone(), register.clone()));
                self.nodes[node].shared.journal().append(name.0.clone(), name.1.clone(), row);
                self.sync(node, After::Acknowledge { name, marker: register.marker() });
            }
            Cause::Peer => {
                let wall_ms = self.nodes[node].wall_ms(self.now_ms);
                // A node that has not finished its first sync may show what is old.
                let is_ready = self.nodes[node].is_complete() && self.nodes[node].is_member;
                let is_seen = is_ready && register.value_at(wall_ms).is_some();
                let at = register.timestamp();
                // What cannot be proved to have been deleted lives.
                let is_proven = at.unix_ms() <= self.proven_ms;
                if is_seen && is_proven && self.model.is_outlived(&name, register.marker()) {
                    self.broken = Some(format!("{} of {at} came back on {node}", name.1.as_str()));
                }
            }
            Cause::Sweep | Cause::Removal => {}
        }
    }
}
