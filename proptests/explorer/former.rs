//! The rules as they were before absence was no proof any more, of two nodes that compare: a live row that is absent where so much was swept
//! was taken for deleted, and its sender removed it, unless it wrote it itself and nobody else had it.

use super::{
    state::{Cluster, Content, Register, id, others},
    sync::Row,
};

impl Cluster {
    /// One exchange of rounds, and what follows. Whether nothing more will.
    pub fn sync_formerly(&mut self, one: usize, other: usize) -> bool {
        let said = |cluster: &Self, node: usize| {
            let node = &cluster.nodes[node];
            (node.is_complete(), node.swept, cluster.guarantee_formerly(node))
        };
        let rounds = (said(self, one), said(self, other));
        for (node, from, (is_complete, swept, guarantee_ms)) in
            [(one, other, rounds.1), (other, one, rounds.0)]
        {
            let progress = &mut self.nodes[node].progress;
            progress.floor.announced(id(from), guarantee_ms);
            if is_complete {
                self.heed_formerly(node, from, swept);
            }
        }
        if self.nodes[one].swept != self.nodes[other].swept {
            return false;
        }
        let now_ms = self.now_ms;
        if self.nodes[one].rows == self.nodes[other].rows {
            for (node, with, is_complete) in [(one, other, rounds.1.0), (other, one, rounds.0.0)] {
                let node = &mut self.nodes[node];
                let compared = node.progress.floor.compare(now_ms);
                node.progress.floor.equal(id(with), compared);
                node.progress.complete |= is_complete;
                if is_complete {
                    node.former.held_ms = node.former.held_ms.max(now_ms);
                }
                if node.progress.floor.floor_ms() >= node.former.anew_ms {
                    node.former.shared_ms = now_ms;
                }
            }
            return true;
        }
        if !rounds.0.0 && !rounds.1.0 {
            return true;
        }
        let (mine, theirs) = self.differing(one, other);
        self.deliver_formerly(one, other, &mine);
        self.deliver_formerly(other, one, &theirs);
        false
    }

    /// What a node did once a round beside links.
    pub fn keep_up_formerly(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let is_alone = self.nodes[node].member_ids(node).is_empty();
        let mut linked = others(node).filter(|other| self.is_linked(node, *other)).peekable();
        let all_wait = linked.peek().is_some() && linked.all(|other| !self.nodes[other].is_complete());
        let kept = &mut self.nodes[node];
        // All that were found waited: the lowest id began, which may be any here.
        kept.progress.complete |= is_alone || all_wait;
        if !kept.is_complete() {
            return;
        }
        kept.former.held_ms = kept.former.held_ms.max(kept.progress.floor.guarantee_ms(now_ms));
        let guarantee_ms = kept.progress.floor.guarantee_ms(now_ms).min(kept.former.held_ms);
        let floor_ms = kept.progress.floor.raise(guarantee_ms);
        self.pass_floor(node, floor_ms);
    }

    /// Takes rows: `Store::accept` and the removal of refused rows as they were.
    pub fn deliver_formerly(&mut self, from: usize, to: usize, rows: &[Row]) {
        let is_complete = self.nodes[to].is_complete();
        let is_trusting = !is_complete && self.nodes[from].is_complete();
        for (key, row) in rows.iter().copied() {
            let node = &mut self.nodes[to];
            let is_absent = node.rows[key].is_none();
            if is_absent && row.is_over(node.swept) {
                continue;
            }
            let is_old = row.content != Content::Deleted && row.at_ms <= node.swept.latest_ms();
            if !is_absent || !is_old || is_trusting {
                node.merge(key, row);
                node.sweep();
                if row.author == from
                    && self.nodes[from].progress.floor.floor_ms() >= self.nodes[from].former.anew_ms
                {
                    let former = &mut self.nodes[from].former;
                    former.shared_ms = former.shared_ms.max(row.at_ms);
                }
            } else if is_complete {
                self.remove_refused(from, key, row);
            }
        }
    }

    /// A complete node refused a row as deleted: its sender removes it, or writes it again.
    fn remove_refused(&mut self, node: usize, key: usize, row: Register) {
        if self.nodes[node].rows[key] != Some(row) {
            return;
        }
        if row.author == node && row.at_ms > self.nodes[node].former.shared_ms {
            let anew = Register { at_ms: self.tick(), ..row };
            self.nodes[node].set(key, Some(anew));
            self.ghost.written(key, anew);
        } else {
            self.nodes[node].set(key, None);
        }
    }

    fn heed_formerly(&mut self, node: usize, from: usize, swept: dynarust::core::protocol::replica::Swept) {
        let now_ms = self.now_ms;
        let heeding = &mut self.nodes[node];
        if heeding.is_complete() && swept.latest_ms() > heeding.former.held_ms {
            heeding.progress.begin_syncing(now_ms);
            heeding.former.anew_ms = now_ms;
        }
        if !heeding.is_complete() {
            let dead: Vec<_> = (0..self.keys)
                .filter_map(|key| self.nodes[node].rows[key].map(|row| (key, row)))
                .filter(|(_, row)| row.is_over(swept))
                .collect();
            self.deliver_formerly(node, from, &dead);
            let heeding = &mut self.nodes[node];
            if heeding.swept.max(swept) != swept {
                heeding.swept = swept;
                return;
            }
        }
        self.nodes[node].sweep_to(swept);
    }

    fn guarantee_formerly(&self, node: &super::state::Node) -> u64 {
        let guarantee_ms = node.progress.floor.guarantee_ms(self.now_ms).min(node.former.held_ms);
        if node.is_complete() { guarantee_ms } else { 0 }
    }
}
