//! Who is a member of a cluster, as each of its nodes has it: forgetting, meeting again, and what a disk may lose meanwhile.

use super::{Event, World};

/// How long it takes to tell a linked node whom one has forgotten.
const TOLD_MS: u64 = 5;

impl World {
    /// Tells all who the members are, as each has it.
    pub fn tell_members(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.tell_members_to(node));
    }

    pub(super) fn tell_members_to(&mut self, node: usize) {
        let is_forgotten = |other: usize| {
            self.nodes[node].forgotten.get(&other).is_some_and(|last| *last >= self.nodes[other].incarnation)
        };
        let members: Vec<_> = (0..self.nodes.len())
            .filter(|other| !is_forgotten(*other))
            .map(|other| self.nodes[other].id)
            .collect();
        self.nodes[node].set_members(&members);
    }

    /// Whether two nodes that are up hear each other.
    pub fn is_heard(&self, from: usize, to: usize) -> bool {
        let is_up = self.nodes[from].is_up && self.nodes[to].is_up;
        from == to || is_up && !self.cut.contains(&(from, to)) && !self.cut.contains(&(to, from))
    }

    /// Has one side forget a node, one member sooner than the other.
    pub fn forget(&mut self, forgotten: usize, side: &[usize]) {
        self.nodes[forgotten].is_member = false;
        let incarnation = self.nodes[forgotten].incarnation;
        for node in side.iter().copied() {
            let after_ms = self.random.below(0..1_500);
            self.at(after_ms, Event::Forget { node, forgotten, incarnation, agreed_ms: 0, told_by: None });
        }
    }

    /// A node learns that another was forgotten, by itself or from one that has held the same rows up to `agreed_ms`.
    pub(super) fn learn_forgotten(
        &mut self,
        node: usize,
        (forgotten, incarnation): (usize, u64),
        agreed_ms: u64,
    ) {
        let known = self.nodes[node].forgotten.get(&forgotten);
        if incarnation < self.nodes[forgotten].incarnation || known.is_some_and(|known| *known >= incarnation)
        {
            return;
        }
        let id = self.nodes[forgotten].id;
        self.nodes[node].hear_of_forgotten((forgotten, id), incarnation, agreed_ms);
        let agreed_ms = self.nodes[node].agreed_ms(id);
        let linked: Vec<_> = self.nodes[node].ends.iter().map(|(with, end)| (*with, end.link)).collect();
        for (linked, link) in linked {
            let told_by = Some((node, link));
            self.at(TOLD_MS, Event::Forget { node: linked, forgotten, incarnation, agreed_ms, told_by });
        }
        self.tell_members_to(node);
    }

    /// Two nodes meet. Whether they may link: one that was forgotten learns so, and comes back.
    pub(super) fn meet(&mut self, left: usize, right: usize) -> bool {
        for (node, other) in [(left, right), (right, left)] {
            let last = self.nodes[node].forgotten.get(&other).copied();
            if last.is_some_and(|last| last >= self.nodes[other].incarnation) {
                self.nodes[other].incarnation += 1;
                self.hear_of_end(other, node);
                return false;
            }
        }
        // At once with what it hears of others: else it would hold itself to be whole, and say that those were forgotten.
        for (node, other) in [(left, right), (right, left)] {
            self.hear_of_end(node, other);
        }
        for (node, other) in [(left, right), (right, left)] {
            let told = self.nodes[other].forgotten.clone();
            for (forgotten, incarnation) in told.into_iter().filter(|(forgotten, _)| *forgotten != node) {
                let agreed_ms = self.nodes[other].agreed_ms(self.nodes[forgotten].id);
                self.learn_forgotten(node, (forgotten, incarnation), agreed_ms);
            }
        }
        true
    }

    /// A node hears from another which incarnation of it was forgotten, if one was.
    fn hear_of_end(&mut self, node: usize, told_by: usize) {
        let last = self.nodes[told_by].forgotten.get(&node).copied();
        if self.nodes[node].told < last {
            self.nodes[node].told = last;
            self.come_back(node);
        }
        if last.is_some() && self.nodes[node].told == last {
            let id = self.nodes[told_by].id;
            self.nodes[node].hear_went_on(id);
        }
    }

    /// A node comes back. Its links stay: with those who do not know that it was forgotten.
    fn come_back(&mut self, node: usize) {
        self.note(|| format!("{node} comes back"));
        let (now_ms, id) = (self.now_ms, self.nodes[node].id);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let agreed_ms =
                self.nodes[other].agreed_ms(id).min(self.nodes[node].agreed_ms(self.nodes[other].id));
            self.proven_ms = self.proven_ms.min(agreed_ms);
        }
        self.nodes[node].begin_returning(now_ms);
        self.nodes[node].is_member = true;
        self.tell_members();
    }

    /// A node was forgotten and does not come back.
    pub fn gone(&mut self, node: usize) {
        self.nodes[node].is_gone = true;
        self.model.gone(node);
        if self.nodes[node].is_up {
            self.crash(node, false);
        }
    }

    /// Stops a node in order.
    pub fn shut_down(&mut self, node: usize) {
        self.nodes[node].replica.sync_to(self.nodes[node].replica.place());
        let linked: Vec<(usize, u64)> =
            self.nodes[node].ends.iter().map(|(with, end)| (*with, end.link)).collect();
        self.nodes[node].close();
        self.model.crashed(node);
        for (with, link) in linked {
            self.tell_end(node, with, link);
        }
    }

    /// Crashes a node whose disk then lacks some rows, and has older versions of others.
    pub fn damage(&mut self, node: usize) {
        self.crash(node, false);
        self.is_damaged = true;
        self.nodes[node].replica.lose_unsynced();
        let agreed_ms = self.nodes.iter().map(|other| self.nodes[node].agreed_ms(other.id)).min();
        let loses_agreement = self.random.one_in(2);
        self.nodes[node].damage(loses_agreement);
        if loses_agreement {
            self.proven_ms = 0;
        }
        self.proven_ms = self.proven_ms.min(agreed_ms.unwrap_or(0));
        for (table, key, register) in self.nodes[node].replica.rows() {
            let name = (table, key);
            let marker = register.marker();
            let left = match self.random.below(0..4) {
                0 => None,
                1 => self.model.before(&name, marker, self.random.index(4)),
                _ => continue,
            };
            self.note(|| format!("{node}: damaged {} of {}", name.1.as_str(), marker.timestamp));
            self.nodes[node].replica.damage(&name.0, &name.1, left);
            let is_elsewhere = (0..self.nodes.len())
                .filter(|other| *other != node && !self.nodes[*other].is_gone)
                .any(|other| {
                    self.model.is_durable_at(other, &name, marker)
                        && self.nodes[other].replica.holds(&name.0, &name.1, marker)
                });
            self.model.damaged(node, &name, marker, is_elsewhere);
        }
    }
}
