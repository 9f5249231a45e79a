//! How two nodes meet and come to hold the same, each step of it as the protocol has it (`core::protocol::peer`, `replication::membership::events`), but with no time
//! between them.

use dynarust::core::protocol::{message::Flags, progress::is_majority, replica::Swept};

use super::{
    rules::{Rule, Rules},
    state::{Cluster, Content, NODES, Record, Register, id, others},
};

/// Rounds in which two nodes come to hold the same, if they do.
const ROUNDS_TO_SYNC: usize = 6;
/// Links that two nodes try: after the first, one of them may have to come back.
const MEETINGS: usize = 3;

/// A key and its register.
pub type Row = (usize, Register);

/// What a node says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub flags: Flags,
    pub guarantee_ms: u64,
    pub agreed_ms: u64,
    pub swept: Swept,
}

impl Cluster {
    /// Two nodes that hear each other link, if they may, and compare until they hold the same.
    pub fn sync(&mut self, one: usize, other: usize) {
        if !self.is_connected(one, other) || !(0..MEETINGS).any(|_| self.meet(one, other)) {
            return;
        }
        for (teller, hearer) in [(one, other), (other, one)] {
            self.tell_forgotten(teller, hearer);
        }
        if !self.is_linked(one, other) {
            return;
        }
        for _ in 0..ROUNDS_TO_SYNC {
            let is_over = match self.rules {
                Rules::Former => self.sync_formerly(one, other),
                Rules::Today | Rules::Without(_) => self.sync_once(one, other),
            };
            if is_over {
                return;
            }
        }
    }

    /// What a node does once a round beside links.
    pub fn keep_up(&mut self, node: usize) {
        if self.rules == Rules::Former {
            return self.keep_up_formerly(node);
        }
        let linked: Vec<_> = others(node).filter(|other| self.is_linked(node, *other)).map(id).collect();
        let is_alone = self.nodes[node].member_ids(node).is_empty();
        self.look_for_whole(node);
        let now_ms = self.now_ms;
        let progress = &mut self.nodes[node].progress;
        if is_alone && !progress.complete {
            progress.become_complete(now_ms);
        }
        let counts_apart = !self.rules.has(Rule::ApartWaits);
        if counts_apart && progress.intact && progress.hears_no_complete_member(now_ms) {
            let members = 1 + progress.floor.members().count();
            if is_majority(1 + progress.covered.len(), members) {
                progress.become_complete(now_ms);
            }
        }
        if progress.agree(now_ms, linked) {
            progress.raise_agreement(now_ms);
            progress.agreement_saved(progress.agreement.with_all_ms(), progress.withdrawals());
            let floor_ms = progress.raise_floor(now_ms);
            self.pass_floor(node, floor_ms);
        }
    }

    /// Sweeps what is dead below the floor, if anything is.
    pub fn pass_floor(&mut self, node: usize, floor_ms: u64) {
        let tombstones = Swept { tombstones_ms: floor_ms, expired_ms: 0 };
        let expired = Swept { tombstones_ms: 0, expired_ms: floor_ms };
        for swept in [tombstones, expired] {
            if (0..self.keys).any(|key| self.nodes[node].is_over(key, swept)) {
                self.nodes[node].sweep_to(swept);
            }
        }
    }

    /// Whether two nodes link. Where one was forgotten by the other it learns so, and none stands yet.
    fn meet(&mut self, one: usize, other: usize) -> bool {
        match (self.is_refused(one, other), self.is_refused(other, one)) {
            (true, true) => {
                // The side that forgot the other without a majority gives way; here in both orders, whatever the ids.
                let forced = (self.nodes[one].is_forced, self.nodes[other].is_forced);
                let (stays, leaves) = if forced == (true, false) { (other, one) } else { (one, other) };
                self.give_way(leaves, stays);
                false
            }
            (true, false) => self.hear_of_end(other, one),
            (false, true) => self.hear_of_end(one, other),
            (false, false) => {
                for (node, met) in [(one, other), (other, one)] {
                    let incarnation = self.nodes[met].incarnation;
                    self.nodes[node].records[met] = Record { incarnation, is_forgotten: false };
                    self.follow_members(node);
                }
                true
            }
        }
    }

    /// A node hears that another takes it in a later life only.
    fn hear_of_end(&mut self, node: usize, by: usize) -> bool {
        if self.rules != Rules::Former && self.parts_in_turn(node, by) {
            let incarnation = self.nodes[by].incarnation;
            self.nodes[node].records[by] = Record { incarnation, is_forgotten: true };
            self.follow_members(node);
        } else {
            self.give_way(node, by);
        }
        false
    }

    fn give_way(&mut self, node: usize, to: usize) {
        let at_least = self.nodes[to].records[node].incarnation + 1;
        if self.rules.has(Rule::MajorityForgets) {
            for record in self.nodes[node].records.iter_mut().filter(|record| record.is_forgotten) {
                *record = Record::default();
            }
        }
        self.nodes[node].is_forced = false;
        self.begin_anew(node);
        self.nodes[node].incarnation = self.nodes[node].incarnation.max(at_least);
    }

    fn begin_anew(&mut self, node: usize) {
        let now_ms = self.now_ms;
        self.nodes[node].progress.begin_syncing(now_ms);
        self.nodes[node].former.anew_ms = now_ms;
    }

    /// A node tells another whom it has forgotten.
    fn tell_forgotten(&mut self, teller: usize, hearer: usize) {
        let list: Vec<usize> =
            (0..NODES).filter(|node| self.nodes[teller].records[*node].is_forgotten).collect();
        for gone in list {
            let told = self.nodes[teller].records[gone];
            if gone == hearer {
                continue;
            }
            let agreed_ms = self.agreed_ms(teller, gone);
            let progress = &mut self.nodes[hearer].progress;
            if !progress.complete && !progress.intact {
                progress.agreement.detach(id(gone), agreed_ms);
            }
            let known = self.nodes[hearer].records[gone];
            let is_known = known.incarnation == told.incarnation && known.is_forgotten;
            if known.incarnation <= told.incarnation && !is_known {
                self.nodes[hearer].records[gone] = told;
                self.follow_members(hearer);
                // Whoever is linked with it tells it.
                if told.incarnation >= self.nodes[gone].incarnation && self.is_connected(hearer, gone) {
                    self.hear_of_end(gone, hearer);
                }
            }
        }
    }

    /// One exchange of rounds, and what follows. Whether nothing more will.
    fn sync_once(&mut self, one: usize, other: usize) -> bool {
        let rounds = (self.round(one, other), self.round(other, one));
        self.heed(one, other, rounds.1);
        self.heed(other, one, rounds.0);
        if self.nodes[one].swept != self.nodes[other].swept {
            return false;
        }
        if self.nodes[one].rows == self.nodes[other].rows {
            self.equal(one, other, rounds.1.flags);
            self.equal(other, one, rounds.0.flags);
            return true;
        }
        if !self.is_due(one, other, rounds.1) && !self.is_due(other, one, rounds.0) {
            return true;
        }
        let (mine, theirs) = self.differing(one, other);
        self.deliver(one, other, &mine, rounds.0);
        self.deliver(other, one, &theirs, rounds.1);
        false
    }

    /// Rows of which each node has a later register than the other, or any.
    pub fn differing(&self, one: usize, other: usize) -> (Vec<Row>, Vec<Row>) {
        let later = |from: usize, than: usize| {
            let is_later = |key: &usize| {
                let held = self.nodes[than].rows[*key].map_or(0, |held| held.at_ms);
                self.nodes[from].rows[*key].is_some_and(|row| row.at_ms > held)
            };
            let keys = (0..self.keys).filter(is_later);
            keys.filter_map(|key| self.nodes[from].rows[key].map(|row| (key, row))).collect()
        };
        (later(one, other), later(other, one))
    }

    fn round(&mut self, from: usize, to: usize) -> Round {
        let agreed_ms = self.agreed_ms(from, to);
        let now_ms = self.now_ms;
        let announces_saved = self.rules.has(Rule::AnnouncesSaved);
        let node = &mut self.nodes[from];
        let progress = &mut node.progress;
        let guarantee_ms = match progress.complete {
            _ if announces_saved => progress.guarantee_ms(now_ms),
            true => progress.floor.guarantee_ms(now_ms),
            false => 0,
        };
        progress.guaranteed_ms = progress.guaranteed_ms.max(guarantee_ms);
        let (complete, intact, detached) =
            (progress.complete, progress.intact, progress.agreement.is_detached(id(to)));
        let flags = Flags { complete, intact, is_all: true, detached, ..Flags::default() };
        Round { flags, guarantee_ms, agreed_ms, swept: node.swept }
    }

    /// As `Peer::heed`.
    fn heed(&mut self, node: usize, from: usize, round: Round) {
        self.look_for_whole(node);
        let now_ms = self.now_ms;
        let progress = &mut self.nodes[node].progress;
        progress.floor.announced(id(from), round.guarantee_ms);
        if round.flags.detached {
            progress.hear_detached(id(from));
        }
        if round.flags.complete {
            progress.complete_seen_ms = now_ms;
            if progress.complete && round.swept.latest_ms() > progress.guaranteed_ms {
                progress.begin_syncing(now_ms);
            }
        } else if progress.complete || !progress.hears_no_complete_member(now_ms) {
            return;
        }
        if !self.nodes[node].is_complete() {
            let dead: Vec<_> = (0..self.keys)
                .filter(|key| self.nodes[node].is_over(*key, round.swept))
                .filter_map(|key| self.nodes[node].rows[key].map(|row| (key, row)))
                .collect();
            if !dead.is_empty() {
                let said = self.round(node, from);
                self.deliver(node, from, &dead, said);
            }
            let own = self.nodes[node].swept;
            if round.flags.complete && own.max(round.swept) != round.swept {
                self.nodes[node].swept = round.swept;
                return;
            }
        }
        self.nodes[node].sweep_to(round.swept);
    }

    fn equal(&mut self, node: usize, with: usize, flags: Flags) {
        let at_ms = self.now_ms;
        let progress = &mut self.nodes[node].progress;
        progress.cover(id(with), flags, at_ms);
        let compared = progress.floor.compare(at_ms);
        progress.floor.equal(id(with), compared);
    }

    /// Whether a node opens a comparison with one that says this.
    fn is_due(&mut self, node: usize, from: usize, round: Round) -> bool {
        self.look_for_whole(node);
        let progress = &self.nodes[node].progress;
        match (progress.complete, round.flags.complete) {
            (true, true) | (false, true) => true,
            (false, false) => {
                let may_agree = progress.may_agree_with(id(from)) || !self.rules.has(Rule::ApartWaits);
                progress.hears_no_complete_member(self.now_ms) && may_agree
            }
            (true, false) => false,
        }
    }

    /// Notes whether the node hears of one that is whole: it does at once, or has not for long.
    fn look_for_whole(&mut self, node: usize) {
        let is_heard =
            others(node).any(|other| self.is_linked(node, other) && self.nodes[other].is_complete());
        self.nodes[node].progress.complete_seen_ms = if is_heard { self.now_ms } else { 0 };
    }

    /// Rows of one that just wrote them.
    pub fn push(&mut self, from: usize, to: usize, rows: &[Row]) {
        if self.rules == Rules::Former {
            return self.deliver_formerly(from, to, rows);
        }
        let said = self.round(from, to);
        self.deliver(from, to, rows, said);
    }

    /// Rows of a node that said this of itself: `Peer::take_rows`, `Store::accept`, and `Peer::take_applied`.
    fn deliver(&mut self, from: usize, to: usize, rows: &[Row], said: Round) {
        let both_agreed_ms = self.both_agreed_ms(from, to, said);
        let proven_ms = if self.is_prover(to) { both_agreed_ms } else { 0 };
        let live = rows.iter().filter(|(_, row)| row.content != Content::Deleted).map(|(_, row)| row.at_ms);
        let late = live.filter(|at_ms| *at_ms > both_agreed_ms).min();
        if let Some(oldest_ms) = late.filter(|_| self.rules.has(Rule::LateRowsLower)) {
            self.nodes[to].progress.lower_claims(oldest_ms);
        }
        let tombstones = rows.iter().filter(|(_, row)| row.content == Content::Deleted);
        let late = tombstones.map(|(_, row)| row.at_ms).min();
        if let Some(oldest_ms) = late.filter(|_| self.rules.has(Rule::LateDeletionsLower)) {
            self.nodes[to].progress.lower_floor(oldest_ms);
        }
        let mut deleted = Vec::new();
        let is_late_kept = self.rules.has(Rule::LateGarbageStays);
        for (key, row) in rows.iter().copied() {
            let node = &mut self.nodes[to];
            let is_absent = node.rows[key].is_none();
            if is_absent && row.at_ms <= proven_ms {
                deleted.push((key, row));
                continue;
            }
            match is_late_kept {
                true => node.merge_late(key, row),
                false => node.merge(key, row),
            }
        }
        let agreed_ms = match self.nodes[from].is_complete() && self.rules.has(Rule::ProverIsWhole) {
            true => 0,
            false if self.rules.has(Rule::ClaimantAgrees) => self.agreed_ms(from, to),
            false => u64::MAX,
        };
        for (key, row) in deleted {
            if row.at_ms <= agreed_ms && self.nodes[from].rows[key] == Some(row) {
                self.nodes[from].set(key, None);
            }
        }
    }

    fn is_prover(&self, node: usize) -> bool {
        self.nodes[node].is_complete() || !self.rules.has(Rule::ProverIsWhole)
    }

    /// As `Peer::agreed_ms`.
    fn both_agreed_ms(&self, from: usize, to: usize, said: Round) -> u64 {
        if self.is_prover(to) == said.flags.complete {
            return 0;
        }
        let agreed_ms = self.agreed_ms(to, from);
        if self.rules.has(Rule::ClaimantAgrees) { agreed_ms.min(said.agreed_ms) } else { agreed_ms }
    }
}
