//! What must be so in every state, and what has to be known of the past to say so: no node knows this.
//!
//! 1. A live row that is the newest register of its key leaves no node but by damage; so none vanishes from all, and none that a majority
//!    acknowledged is absent from a majority that is connected.
//! 2. What a majority deleted, or saw expire, is not readable again on a whole node that had seen its end: unless a member was forgotten
//!    since, and then rows up to the instant at which all held the same last are not; unless a disk was damaged and what was
//!    agreed as well, or nobody whole was left to prove it; or a minority forgot by force.
//! 3. Nodes that hear each other and have synced until nothing changes hold the same; and if all do, all are whole.

use std::fmt;

use super::state::{Cluster, Content, KEYS, NODES, Register, others};

/// What broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A node dropped a live row that nothing followed. Others have it still.
    Dropped { node: usize, key: usize },
    /// No node that hears a majority has a row any more that a majority had acknowledged.
    LostByMajority { key: usize },
    /// No node has a live row any more that nothing followed.
    Vanished { key: usize },
    /// A deleted or expired key is readable again.
    Returned { node: usize, key: usize },
    /// All is synced, and they hold different rows.
    Different { one: usize, other: usize },
    /// All hear each other and are synced, and one is not whole.
    NotWhole { node: usize },
}

/// What was so before.
#[derive(Clone, Debug, Default)]
pub struct Ghost {
    pub keys: [Key; KEYS],
    /// When all three held the same last, were whole, and knew so (Unix milliseconds). 0 since more was lost than that outlasts.
    pub settled_ms: u64,
    /// Whether a member was forgotten since, or a disk damaged.
    pub is_parted: bool,
    /// Whether a damaged node may still need one that is whole.
    pub is_healing: bool,
}

/// What was so of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key {
    /// The newest register that was written and not destroyed.
    pub newest: Option<Register>,
    /// Whether a majority held it.
    pub is_acknowledged: bool,
    /// Whether damage destroyed a copy of it.
    pub is_damaged: bool,
    /// The newest register that ended the row and that a majority held.
    pub ended_ms: u64,
    /// Which nodes had that, or something newer.
    pub saw_end: [bool; NODES],
    /// Whether all were members then, and nobody was forgotten since.
    pub is_together: bool,
}

impl Ghost {
    /// A client wrote.
    pub fn written(&mut self, key: usize, register: Register) {
        let key = &mut self.keys[key];
        (key.newest, key.is_acknowledged, key.is_damaged) = (Some(register), false, false);
    }

    /// Damage changed a row of a node; this is what all hold now. `is_proven`: what the node agreed outlasted it, and it hears one that is whole.
    pub fn damaged(&mut self, node: usize, key: usize, is_proven: bool, held: [Option<Register>; NODES]) {
        if !is_proven || self.is_parted {
            self.void();
        }
        (self.is_parted, self.is_healing) = (true, true);
        let key = &mut self.keys[key];
        (key.is_damaged, key.saw_end[node]) = (true, false);
        if key.newest.is_some_and(|newest| !held.contains(&Some(newest))) {
            key.newest = None;
        }
    }

    /// A minority went on by itself.
    pub fn void(&mut self) {
        (self.settled_ms, self.is_parted) = (0, true);
        self.keys.iter_mut().for_each(|key| key.ended_ms = 0);
    }

    /// Whether members are parted, and damaged, in a number.
    pub fn parted_bits(&self) -> u64 {
        u64::from(self.is_parted) | u64::from(self.is_healing) << 1
    }

    /// A member restarts or is cut off: it may be the only one that could prove to a damaged one what was deleted.
    pub fn lost_prover(&mut self) {
        if self.is_healing {
            self.void();
        }
    }

    /// A majority went on without a member. Where it did so before, and that one is not back with all it missed, few are left that know.
    pub fn parted(&mut self) {
        if std::mem::replace(&mut self.is_parted, true) {
            self.keys.iter_mut().for_each(|key| key.ended_ms = 0);
        }
        self.keys.iter_mut().for_each(|key| key.is_together = false);
    }
}

impl Cluster {
    /// Notes what a step that was not damage has changed; what it broke.
    pub fn observe(&mut self, before: &Self, is_damage: bool) -> Option<Broken> {
        let mut broken = None;
        for key in 0..self.keys {
            if !is_damage {
                broken = broken.or(self.lost(before, key)).or(self.returned(key));
            }
            self.note(key);
        }
        broken
    }

    fn lost(&self, before: &Self, key: usize) -> Option<Broken> {
        let ghost = &self.ghost.keys[key];
        let newest = ghost.newest.filter(|newest| newest.is_visible(self.now_ms))?;
        let holds = |node: usize| self.nodes[node].rows[key] == Some(newest);
        let is_held = (0..NODES).any(holds);
        if !is_held {
            return Some(Broken::Vanished { key });
        }
        let linked: Vec<usize> = (0..NODES).filter(|node| !self.nodes[*node].is_isolated).collect();
        let is_promised = ghost.is_acknowledged && !ghost.is_damaged && linked.len() > 1;
        if is_promised && !linked.iter().any(|node| holds(*node)) {
            return Some(Broken::LostByMajority { key });
        }
        let held = |node: &usize| before.nodes[*node].rows[key] == Some(newest);
        (0..NODES).filter(held).find(|node| !holds(*node)).map(|node| Broken::Dropped { node, key })
    }

    fn returned(&mut self, key: usize) -> Option<Broken> {
        let (now_ms, settled_ms) = (self.now_ms, self.ghost.settled_ms);
        let ghost = self.ghost.keys[key];
        let is_back = |node: &usize| {
            let row = self.nodes[*node].rows[key];
            let is_visible = row.is_some_and(|row| row.is_visible(now_ms) && row.at_ms < ghost.ended_ms);
            is_visible && ghost.saw_end[*node]
        };
        let node = (0..NODES).find(is_back)?;
        let at_ms = self.nodes[node].rows[key].map_or(0, |row| row.at_ms);
        if !ghost.is_together && at_ms > settled_ms {
            // Nobody can prove that it was deleted.
            self.ghost.keys[key].ended_ms = 0;
            return None;
        }
        self.nodes[node].is_complete().then_some(Broken::Returned { node, key })
    }

    fn note(&mut self, key: usize) {
        let now_ms = self.now_ms;
        let held: [Option<Register>; NODES] = self.nodes.each_ref().map(|node| node.rows[key]);
        let is_parted = self.ghost.is_parted;
        let ghost = &mut self.ghost.keys[key];
        let holders = |register: Register| held.iter().filter(|held| **held == Some(register)).count();
        ghost.is_acknowledged |= ghost.newest.is_some_and(|newest| holders(newest) > 1);
        let ends = held.into_iter().flatten().filter(|held| !held.is_visible(now_ms));
        let ended_ms = ends.filter(|end| holders(*end) > 1).map(|end| end.at_ms).max().unwrap_or(0);
        if ended_ms > ghost.ended_ms {
            (ghost.ended_ms, ghost.saw_end, ghost.is_together) = (ended_ms, [false; NODES], !is_parted);
        }
        for node in 0..NODES {
            let is_past = held[node].is_some_and(|held| held.at_ms >= ghost.ended_ms);
            // Once swept it is not there to be seen; whoever learns of that holds nothing.
            ghost.saw_end[node] |= is_past;
        }
        if held.into_iter().flatten().any(|held| held.is_visible(now_ms) && held.at_ms > ghost.ended_ms) {
            ghost.ended_ms = 0;
        }
        if ghost.ended_ms == 0 {
            (ghost.saw_end, ghost.is_together) = ([false; NODES], false);
        }
    }

    /// What is not so where all that hear each other have synced until nothing changes.
    pub fn unsettled(&self) -> Option<Broken> {
        let all = || (0..NODES).filter(|node| !self.nodes[*node].is_isolated);
        let mut pairs = (0..NODES).flat_map(|one| others(one).map(move |other| (one, other)));
        let differ = |(one, other): &(usize, usize)| {
            self.is_linked(*one, *other)
                && self.is_one_whole(*one, *other)
                && self.nodes[*one].rows != self.nodes[*other].rows
        };
        if let Some((one, other)) = pairs.find(differ) {
            return Some(Broken::Different { one, other });
        }
        let is_complete = |node: usize| self.nodes[node].is_complete();
        let is_all = all().count() == NODES;
        all().find(|node| is_all && !is_complete(*node)).map(|node| Broken::NotWhole { node })
    }

    /// Where none is, they may wait for one that is and is away.
    fn is_one_whole(&self, one: usize, other: usize) -> bool {
        self.nodes[one].is_complete() || self.nodes[other].is_complete()
    }

    /// Notes that all have settled.
    pub fn settled(&mut self) {
        let is_all = (0..NODES).all(|one| others(one).all(|other| self.is_linked(one, other)));
        if is_all && (0..NODES).all(|node| self.nodes[node].is_complete()) {
            (self.ghost.settled_ms, self.ghost.is_parted) = (self.now_ms, false);
            self.ghost.is_healing = false;
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Expiring(at_ms) => write!(f, "live until {at_ms}"),
            Self::Deleted => f.write_str("deleted"),
        }
    }
}
