//! The state of the model: three nodes with a few keys, who hears whom, and what must be so. What a node knows of the others is the real
//! `Progress`, with the real `Floor` and `Agreement`; rows, digests and messages are abstract.

use dynarust::core::{
    clock::NodeId,
    protocol::{agreement::Agreement, progress::Progress, replica::Swept},
};

use super::{
    ghost::Ghost,
    rules::{Rule, Rules},
    step::{Limits, Spread},
};

/// Nodes of the cluster.
pub const NODES: usize = 3;
/// Keys at the most.
pub const KEYS: usize = 2;
/// What the clock shows first: later than a node waits for a complete one.
const START_MS: u64 = 10_000;
/// A write takes so long. Even instants are those of writes, the odd ones between them are just before.
pub const TICK_MS: u64 = 2;

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Live,
    /// A value that nobody sees any more from this instant on.
    Expiring(u64),
    Deleted,
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    pub at_ms: u64,
    /// Who wrote it.
    pub author: usize,
    pub content: Content,
}

impl Register {
    /// Whether clients see a value.
    pub fn is_visible(self, now_ms: u64) -> bool {
        match self.content {
            Content::Live => true,
            Content::Expiring(expires_at_ms) => now_ms < expires_at_ms,
            Content::Deleted => false,
        }
    }

    /// From which instant on a floor removes it; and how far the floors of its kind are.
    fn over_ms(self, swept: Swept) -> Option<(u64, u64)> {
        match self.content {
            Content::Live => None,
            Content::Expiring(expires_at_ms) => Some((self.at_ms.max(expires_at_ms), swept.expired_ms)),
            Content::Deleted => Some((self.at_ms, swept.tombstones_ms)),
        }
    }

    /// Whether it is removed where so much is swept, unless it came late.
    pub fn is_over(self, swept: Swept) -> bool {
        self.over_ms(swept).is_some_and(|(over_ms, swept_ms)| over_ms <= swept_ms)
    }
}

/// What a node keeps of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The incarnation it knows; 0: none.
    pub incarnation: u64,
    pub is_forgotten: bool,
}

/// What the former rules kept besides. All in Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Former {
    /// Up to here some other member had what the node wrote.
    pub shared_ms: u64,
    /// `shared_ms` does not grow before the floor has passed this instant.
    pub anew_ms: u64,
    /// Up to here the node had all that the cluster had.
    pub held_ms: u64,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    pub rows: [Option<Register>; KEYS],
    /// What each row was before, which a damaged disk may bring back: where a tombstone was swept, what it deleted.
    pub before: [Option<Register>; KEYS],
    /// Below which floor each row stays because it came late; 0 if it did not.
    pub late_ms: [u64; KEYS],
    pub progress: Progress,
    pub swept: Swept,
    pub incarnation: u64,
    pub records: [Record; NODES],
    /// Whether it forgot members without a majority, on an operator's word.
    pub is_forced: bool,
    /// Whether nobody hears it, and it nobody.
    pub is_isolated: bool,
    pub former: Former,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub rules: Rules,
    pub keys: usize,
    pub now_ms: u64,
    pub nodes: [Node; NODES],
    pub ghost: Ghost,
    pub limits: Limits,
}

/// The id of a node.
pub fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

/// The nodes but one.
pub fn others(node: usize) -> impl Iterator<Item = usize> {
    (0..NODES).filter(move |other| *other != node)
}

impl Node {
    fn new(number: usize) -> Self {
        let mut node = Self {
            rows: [None; KEYS],
            before: [None; KEYS],
            late_ms: [0; KEYS],
            progress: Progress::default(),
            swept: Swept::default(),
            incarnation: 1,
            records: [Record { incarnation: 1, is_forgotten: false }; NODES],
            is_forced: false,
            is_isolated: false,
            former: Former::default(),
        };
        node.progress.floor.set_members(others(number).map(id));
        node.progress.intact = true;
        node.progress.become_complete(START_MS);
        node
    }

    pub fn is_complete(&self) -> bool {
        self.progress.complete
    }

    /// The members that it has not forgotten.
    pub fn member_ids(&self, own: usize) -> Vec<usize> {
        let is_member =
            |other: &usize| self.records[*other].incarnation > 0 && !self.records[*other].is_forgotten;
        others(own).filter(is_member).collect()
    }

    /// Has a register in a row's place.
    pub fn set(&mut self, key: usize, register: Option<Register>) {
        if self.rows[key] != register {
            let is_swept =
                register.is_none() && self.rows[key].is_some_and(|held| held.content == Content::Deleted);
            self.before[key] = if is_swept { self.before[key] } else { self.rows[key] };
            self.rows[key] = register;
            self.late_ms[key] = 0;
        }
    }

    /// Whether a row is removed where so much is swept.
    pub fn is_over(&self, key: usize, swept: Swept) -> bool {
        let over = self.rows[key].and_then(|row| row.over_ms(swept));
        over.is_some_and(|(over_ms, swept_ms)| over_ms.max(self.late_ms[key]) <= swept_ms)
    }

    /// Takes a register as `merge` does. It is late if it ends the row, and others may have swept so far already.
    pub fn merge_late(&mut self, key: usize, register: Register) {
        if self.rows[key].is_none_or(|held| held.at_ms < register.at_ms) {
            self.set(key, Some(register));
            let announced_ms = self.progress.announced_ms();
            let over = register.over_ms(self.swept);
            let late = over.filter(|(over_ms, swept_ms)| *over_ms <= announced_ms.max(*swept_ms));
            self.late_ms[key] = late.map_or(0, |(_, swept_ms)| announced_ms.max(swept_ms) + 1);
        }
    }

    /// Takes a register where it is newer than what is here.
    pub fn merge(&mut self, key: usize, register: Register) {
        if self.rows[key].is_none_or(|held| held.at_ms < register.at_ms) {
            self.set(key, Some(register));
        }
    }

    /// Removes what is dead up to there. What comes later stays until more is swept.
    pub fn sweep_to(&mut self, swept: Swept) {
        if self.swept.max(swept) != self.swept {
            self.swept = self.swept.max(swept);
            self.sweep();
        }
    }

    /// Removes what is dead.
    pub fn sweep(&mut self) {
        for key in 0..KEYS {
            if self.is_over(key, self.swept) {
                self.set(key, None);
            }
        }
    }
}

impl Cluster {
    /// A cluster of nodes that are whole and have nothing.
    pub fn new(rules: Rules, keys: usize, limits: Limits) -> Self {
        let nodes = std::array::from_fn(Node::new);
        Self { rules, keys, now_ms: START_MS, nodes, ghost: Ghost::default(), limits }
    }

    /// Whether two nodes hear each other.
    pub fn is_connected(&self, one: usize, other: usize) -> bool {
        one != other && !self.nodes[one].is_isolated && !self.nodes[other].is_isolated
    }

    /// Whether a node takes another only as a later incarnation.
    pub fn is_refused(&self, by: usize, node: usize) -> bool {
        let record = self.nodes[by].records[node];
        record.is_forgotten && record.incarnation >= self.nodes[node].incarnation
    }

    /// Whether a link stands, or may.
    pub fn is_linked(&self, one: usize, other: usize) -> bool {
        self.is_connected(one, other) && !self.is_refused(one, other) && !self.is_refused(other, one)
    }

    /// How many members are here without one, this node included, and how many there are.
    pub fn present_without(&self, node: usize, without: Option<usize>) -> (usize, usize) {
        let members = self.nodes[node].member_ids(node);
        let here =
            members.iter().filter(|other| self.is_connected(node, **other) && Some(**other) != without);
        (1 + here.count(), 1 + members.len())
    }

    /// Time goes by.
    pub fn tick(&mut self) -> u64 {
        self.now_ms += TICK_MS;
        self.now_ms
    }

    /// A client writes.
    pub fn write(&mut self, node: usize, key: usize, content: Content, spread: Spread) {
        let at_ms = self.tick();
        let content = match content {
            Content::Expiring(_) => Content::Expiring(at_ms + 1),
            content => content,
        };
        let register = Register { at_ms, author: node, content };
        self.nodes[node].merge(key, register);
        self.ghost.written(key, register);
        if spread == Spread::Pushed {
            for other in others(node).filter(|other| self.is_linked(node, *other)).collect::<Vec<_>>() {
                self.push(node, other, &[(key, register)]);
            }
        }
    }

    /// A node stops, and starts again with what is durable.
    pub fn restart(&mut self, node: usize) {
        let (now_ms, keeps_complete) = (self.now_ms, !self.rules.has(Rule::StartsSyncing));
        let restarted = &mut self.nodes[node];
        let members = restarted.member_ids(node);
        let (agreement, was_complete) = (restarted.progress.agreement.clone(), restarted.progress.complete);
        let saved_ms = agreement.with_all_ms();
        restarted.progress = Progress::default();
        (restarted.progress.agreement, restarted.progress.intact) = (agreement, true);
        restarted.progress.agreement_saved(saved_ms, 0);
        restarted.progress.floor.set_members(members.into_iter().map(id));
        restarted.progress.begin_syncing(now_ms);
        restarted.progress.complete = keeps_complete && was_complete;
        restarted.incarnation += 1;
        restarted.sweep();
    }

    /// A node stops, and its disk has lost a row, or has again what the row was before. `everything`: and what was agreed is lost, too.
    pub fn damage(&mut self, node: usize, key: usize, ages: bool, everything: bool) {
        self.restart(node);
        let is_noticed = self.rules.has(Rule::DamageShows);
        if everything || !self.rules.has(Rule::AgreementOutlasts) {
            self.nodes[node].progress.agreement = Agreement::default();
        }
        let damaged = &mut self.nodes[node];
        damaged.progress.intact = !is_noticed;
        damaged.rows[key] = damaged.before[key].filter(|_| ages);
        (damaged.before[key], damaged.late_ms[key]) = (None, 0);
        damaged.sweep();
        let is_proven = !everything
            && others(node).any(|other| self.is_linked(node, other) && self.nodes[other].is_complete());
        self.ghost.damaged(node, key, is_proven, self.nodes.each_ref().map(|node| node.rows[key]));
    }
}
