//! What can happen to the model: every step that is possible in a state, and what it does.

use std::fmt;

use dynarust::core::protocol::progress::is_majority;

use super::{
    ghost::Broken,
    rules::{Rule, Rules},
    state::{Cluster, Content, NODES, id, others},
};

/// Who is told of a write at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Nobody.
    Local,
    /// All that are linked.
    Pushed,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Write {
        node: usize,
        key: usize,
        content: Content,
        spread: Spread,
    },
    /// Time goes by, and what expires expires.
    Expire,
    /// Two nodes that hear each other link, if they may, and compare until they hold the same. Where both refuse each other and neither
    /// was forced, the second gives way.
    Sync {
        one: usize,
        other: usize,
    },
    /// What a node does once a round: it becomes whole where it may, raises its floor, and sweeps.
    KeepUp {
        node: usize,
    },
    /// All that hear each other sync and keep up until nothing changes.
    Settle,
    Isolate {
        node: usize,
    },
    Heal {
        node: usize,
    },
    Restart {
        node: usize,
    },
    /// A restart after which the disk lacks a row, or has what it was before; and, with `everything`, lacks what was agreed.
    Damage {
        node: usize,
        key: usize,
        ages: bool,
        everything: bool,
    },
    /// A node forgets one that it does not hear. `forced`: an operator says so, to a minority.
    Forget {
        node: usize,
        gone: usize,
        forced: bool,
    },
}

/// How often what may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    pub writes: u8,
    pub deletes: u8,
    pub expiries: u8,
    pub cuts: u8,
    pub restarts: u8,
    pub damages: u8,
    pub forgets: u8,
    pub forced: u8,
}

impl Limits {
    /// All of them.
    pub fn counts(self) -> [u8; 8] {
        let Self { writes, deletes, expiries, cuts, restarts, damages, forgets, forced } = self;
        [writes, deletes, expiries, cuts, restarts, damages, forgets, forced]
    }
}

/// Rounds in which all that hear each other come to hold the same.
const ROUNDS_TO_SETTLE: usize = 12;

impl Cluster {
    /// All that can happen now.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Settle];
        self.add_writes(&mut steps);
        for node in 0..NODES {
            steps.push(Step::KeepUp { node });
            for other in others(node).filter(|other| self.is_connected(node, *other)) {
                // Which comes first matters only where neither may link.
                if node < other || !self.is_linked(node, other) {
                    steps.push(Step::Sync { one: node, other });
                }
            }
            match self.nodes[node].is_isolated {
                true => steps.push(Step::Heal { node }),
                false if self.limits.cuts > 0 => steps.push(Step::Isolate { node }),
                false => {}
            }
            if self.limits.restarts > 0 {
                steps.push(Step::Restart { node });
            }
            self.add_damages(node, &mut steps);
            self.add_forgets(node, &mut steps);
        }
        steps
    }

    fn add_writes(&self, steps: &mut Vec<Step>) {
        let limits = self.limits;
        for (node, key) in (0..NODES).flat_map(|node| (0..self.keys).map(move |key| (node, key))) {
            let held = self.nodes[node].rows[key];
            let is_deletable = held.is_some_and(|held| held.is_visible(self.now_ms));
            let contents = [
                (Content::Live, limits.writes > 0),
                (Content::Deleted, limits.deletes > 0 && is_deletable),
                (Content::Expiring(0), limits.expiries > 0),
            ];
            let is_heard = others(node).any(|other| self.is_linked(node, other));
            for (content, _) in contents.into_iter().filter(|(_, may_be)| *may_be) {
                steps.push(Step::Write { node, key, content, spread: Spread::Local });
                if is_heard {
                    steps.push(Step::Write { node, key, content, spread: Spread::Pushed });
                }
            }
        }
        let rows = self.nodes.iter().flat_map(|node| node.rows).flatten();
        let is_to_come = |content| matches!(content, Content::Expiring(at_ms) if at_ms > self.now_ms);
        if rows.into_iter().any(|row| is_to_come(row.content)) {
            steps.push(Step::Expire);
        }
    }

    fn add_damages(&self, node: usize, steps: &mut Vec<Step>) {
        for key in (0..self.keys).filter(|_| self.limits.damages > 0) {
            for everything in [false, true] {
                if self.nodes[node].rows[key].is_some() {
                    steps.push(Step::Damage { node, key, ages: false, everything });
                }
                if self.nodes[node].before[key].is_some() {
                    steps.push(Step::Damage { node, key, ages: true, everything });
                }
            }
        }
    }

    fn add_forgets(&self, node: usize, steps: &mut Vec<Step>) {
        let (here, all) = self.present_without(node, None);
        let has_right = is_majority(here, all) || !self.rules.has(Rule::MajorityForgets);
        for gone in self.nodes[node].member_ids(node) {
            if self.is_connected(node, gone) {
                continue;
            }
            if has_right && self.limits.forgets > 0 {
                steps.push(Step::Forget { node, gone, forced: false });
            } else if !has_right && self.limits.forced > 0 {
                steps.push(Step::Forget { node, gone, forced: true });
            }
        }
    }

    /// Does a step; what it broke.
    pub fn take(&mut self, step: Step) -> Option<Broken> {
        let before = self.clone();
        self.happen(step);
        let broken = self.observe(&before, matches!(step, Step::Damage { .. }));
        if step == Step::Settle && broken.is_none() {
            let unsettled = self.unsettled();
            if unsettled.is_none() {
                self.settled();
            }
            return unsettled;
        }
        broken
    }

    fn happen(&mut self, step: Step) {
        match step {
            Step::Write { node, key, content, spread } => {
                let limit = match content {
                    Content::Live => &mut self.limits.writes,
                    Content::Deleted => &mut self.limits.deletes,
                    Content::Expiring(_) => &mut self.limits.expiries,
                };
                *limit = limit.saturating_sub(1);
                self.write(node, key, content, spread);
            }
            Step::Expire => drop(self.tick()),
            Step::Sync { one, other } => self.sync(one, other),
            Step::KeepUp { node } => self.keep_up(node),
            Step::Settle => self.settle(),
            Step::Isolate { node } => {
                self.limits.cuts = self.limits.cuts.saturating_sub(1);
                self.ghost.lost_prover();
                self.nodes[node].is_isolated = true;
            }
            Step::Heal { node } => self.nodes[node].is_isolated = false,
            Step::Restart { node } => {
                self.limits.restarts = self.limits.restarts.saturating_sub(1);
                self.ghost.lost_prover();
                self.restart(node);
            }
            Step::Damage { node, key, ages, everything } => {
                self.limits.damages = self.limits.damages.saturating_sub(1);
                self.damage(node, key, ages, everything);
            }
            Step::Forget { node, gone, forced } => self.forget(node, gone, forced),
        }
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_TO_SETTLE {
            let before = self.fingerprint();
            for one in 0..NODES {
                others(one).filter(|other| one < *other).for_each(|other| self.sync(one, other));
            }
            (0..NODES).for_each(|node| self.keep_up(node));
            if self.fingerprint() == before {
                return;
            }
        }
    }

    fn forget(&mut self, node: usize, gone: usize, forced: bool) {
        let (here, all) = self.present_without(node, None);
        match forced {
            true => self.limits.forced = self.limits.forced.saturating_sub(1),
            false => self.limits.forgets = self.limits.forgets.saturating_sub(1),
        }
        self.nodes[node].is_forced |= forced;
        self.ghost.lost_prover();
        match is_majority(here, all) {
            true => self.ghost.parted(),
            // Those that a minority goes on without may be the ones that know.
            false if forced => self.ghost.void(),
            false => self.ghost.parted(),
        }
        self.nodes[node].records[gone].is_forgotten = true;
        self.follow_members(node);
    }

    /// Takes note of who is a member now.
    pub fn follow_members(&mut self, node: usize) {
        let members: Vec<_> = self.nodes[node].member_ids(node).into_iter().map(id).collect();
        let records = self.nodes[node].records;
        let progress = &mut self.nodes[node].progress;
        match self.rules {
            Rules::Former => progress.floor.set_members(members),
            Rules::Today | Rules::Without(_) => progress.set_members(&members),
        }
        progress.agreement.retain(|other| records[other.0 as usize - 1].incarnation > 0);
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: usize| ["A", "B", "C"][node];
        match *self {
            Self::Write { node, key, content, spread } => {
                let what = match content {
                    Content::Live => "writes",
                    Content::Deleted => "deletes",
                    Content::Expiring(_) => "writes, to expire,",
                };
                let told = match spread {
                    Spread::Local => "and nobody is told yet",
                    Spread::Pushed => "and tells all it is linked with",
                };
                write!(f, "{} {what} key {key} {told}", name(node))
            }
            Self::Expire => f.write_str("what is to expire expires"),
            Self::Sync { one, other } => write!(f, "{} and {} sync", name(one), name(other)),
            Self::KeepUp { node } => write!(f, "{} keeps up: whole? floor, sweep", name(node)),
            Self::Settle => f.write_str("all that hear each other sync until nothing changes"),
            Self::Isolate { node } => write!(f, "{} is cut off", name(node)),
            Self::Heal { node } => write!(f, "{} is heard again", name(node)),
            Self::Restart { node } => write!(f, "{} restarts", name(node)),
            Self::Damage { node, key, ages, everything } => {
                let row = if ages { "has key as it was before:" } else { "loses key" };
                let more = if everything { ", and what it had agreed" } else { "" };
                write!(f, "{} crashes and {row} {key}{more}", name(node))
            }
            Self::Forget { node, gone, forced: false } => write!(f, "{} forgets {}", name(node), name(gone)),
            Self::Forget { node, gone, forced: true } => {
                write!(f, "{} is told to forget {} by force", name(node), name(gone))
            }
        }
    }
}
