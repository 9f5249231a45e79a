//! A number for each state that is the same for states in which the same can happen: nodes and keys may change places, and instants count only
//! by their order.

use super::state::{Cluster, Content, KEYS, NODES, Register, id, others};

const NODE_ORDERS: [[usize; NODES]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const KEY_ORDERS: [[usize; KEYS]; 2] = [[0, 1], [1, 0]];

/// A state with instants by their ranks, each part that moves with a node or a key in one number.
struct Flat {
    nodes: [u64; NODES],
    pairs: [[u64; NODES]; NODES],
    rows: [[u64; KEYS]; NODES],
    keys: [u64; KEYS],
    all: u64,
}

/// Puts parts of up to eight bits together. Instants have ranks far below that.
fn pack(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |packed, part| packed << 8 ^ part)
}

/// The instants of a state, by rank. An odd instant lies just before the even one that follows.
struct Ranks(Vec<u64>);

impl Ranks {
    fn of(&self, at_ms: u64) -> u64 {
        let place = self.0.partition_point(|class| *class < at_ms.div_ceil(2)) as u64;
        if at_ms == 0 { 0 } else { 2 * (place + 1) - at_ms % 2 }
    }
}

impl Cluster {
    /// The same for all states that differ by names alone.
    pub fn canonical(&self) -> u64 {
        let flat = self.flat();
        let key_orders = &KEY_ORDERS[..self.keys];
        let orders = NODE_ORDERS.iter().flat_map(|nodes| key_orders.iter().map(move |keys| (nodes, keys)));
        orders.map(|(nodes, keys)| flat.fingerprint(nodes, keys)).min().expect("there are several")
    }

    /// The same for states that are the same.
    pub fn fingerprint(&self) -> u64 {
        self.flat().fingerprint(&NODE_ORDERS[0], &KEY_ORDERS[0])
    }

    fn ranks(&self) -> Ranks {
        let mut classes = Vec::with_capacity(64);
        let mut add = |at_ms: u64| {
            if at_ms > 0 && !classes.contains(&at_ms.div_ceil(2)) {
                classes.push(at_ms.div_ceil(2));
            }
        };
        add(self.now_ms);
        add(self.ghost.settled_ms);
        for (number, node) in self.nodes.iter().enumerate() {
            let progress = &node.progress;
            let former = node.former;
            let agreement = &progress.agreement;
            let own = [agreement.with_all_ms(), progress.guaranteed_ms, node.swept.tombstones_ms];
            own.into_iter().chain([node.swept.expired_ms, agreement.reached_ms()]).for_each(&mut add);
            [former.shared_ms, former.anew_ms, former.held_ms].into_iter().for_each(&mut add);
            for other in others(number).map(id) {
                add(progress.agreement.with_ms(other));
                add(progress.floor.equal_ms(other).unwrap_or(0));
                add(progress.floor.announced_ms(other).unwrap_or(0));
            }
            node.late_ms.into_iter().for_each(&mut add);
            for row in node.rows.iter().chain(&node.before).flatten() {
                add(row.at_ms);
                if let Content::Expiring(at_ms) = row.content {
                    add(at_ms);
                }
            }
        }
        for key in &self.ghost.keys {
            add(key.ended_ms);
            add(key.newest.map_or(0, |newest| newest.at_ms));
        }
        classes.sort_unstable();
        Ranks(classes)
    }

    fn flat(&self) -> Flat {
        let ranks = self.ranks();
        let rank = |at_ms: u64| ranks.of(at_ms);
        let row_of = |row: Option<Register>| match row.map(|row| (row.at_ms, row.content)) {
            None => 0,
            Some((at_ms, Content::Live)) => rank(at_ms) << 10 | 1,
            Some((at_ms, Content::Deleted)) => rank(at_ms) << 10 | 2,
            Some((at_ms, Content::Expiring(until_ms))) => rank(at_ms) << 10 | 3 | rank(until_ms) << 2,
        };
        let bits = |bits: &[bool]| bits.iter().fold(0, |sum, bit| sum << 1 | u64::from(*bit));
        let mut flat = Flat {
            nodes: [0; NODES],
            pairs: [[0; NODES]; NODES],
            rows: [[0; KEYS]; NODES],
            keys: [0; KEYS],
            all: pack(&[self.ghost.parted_bits(), rank(self.now_ms), rank(self.ghost.settled_ms)]),
        };
        flat.all = self.limits.counts().into_iter().fold(flat.all, |all, count| all << 4 | u64::from(count));
        for (number, node) in self.nodes.iter().enumerate() {
            let progress = &node.progress;
            let own = [progress.complete, progress.intact, node.is_forced, node.is_isolated];
            let former = node.former;
            flat.nodes[number] = pack(&[
                rank(progress.agreement.with_all_ms()),
                rank(progress.guaranteed_ms),
                rank(node.swept.tombstones_ms),
                rank(node.swept.expired_ms),
                bits(&own),
                // No rules use both.
                rank(former.shared_ms) ^ rank(progress.agreement.reached_ms()),
                rank(former.anew_ms),
                rank(former.held_ms),
            ]);
            for other in others(number) {
                let (record, of) = (node.records[other], id(other));
                let flags =
                    [progress.agreement.is_detached(of), progress.covered.contains(&of), record.is_forgotten];
                flat.pairs[number][other] = pack(&[
                    rank(progress.agreement.with_ms(of)),
                    progress.floor.equal_ms(of).map_or(255, rank),
                    rank(progress.floor.announced_ms(of).unwrap_or(0)),
                    bits(&flags),
                    // How far behind it is with what it knows.
                    if record.incarnation == 0 {
                        255
                    } else {
                        self.nodes[other].incarnation - record.incarnation
                    },
                ]);
            }
            for key in 0..KEYS {
                let before = if self.limits.damages > 0 { row_of(node.before[key]) } else { 0 };
                let seen = u64::from(self.ghost.keys[key].saw_end[number]);
                let late = rank(node.late_ms[key]);
                let author = match self.rules {
                    super::rules::Rules::Former => {
                        node.rows[key].map_or(0, |row| u64::from(row.author == number))
                    }
                    _ => 0,
                };
                flat.rows[number][key] =
                    (row_of(node.rows[key]) << 32 | before << 4 | seen << 1 | author) ^ late << 24;
            }
        }
        for (key, ghost) in self.ghost.keys.iter().enumerate() {
            let flags = [ghost.is_acknowledged, ghost.is_damaged, ghost.is_together];
            flat.keys[key] = row_of(ghost.newest) << 32 | pack(&[rank(ghost.ended_ms), bits(&flags)]);
        }
        flat
    }
}

impl Flat {
    /// A number for the state with nodes and keys in this order.
    fn fingerprint(&self, nodes: &[usize; NODES], keys: &[usize; KEYS]) -> u64 {
        let mut hash = self.all;
        let mut mix = |word: u64| {
            // As SplitMix64 does.
            hash = (hash ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        };
        for key in keys {
            mix(self.keys[*key]);
        }
        for node in nodes {
            mix(self.nodes[*node]);
            nodes.iter().filter(|other| *other != node).for_each(|other| mix(self.pairs[*node][*other]));
            keys.iter().for_each(|key| mix(self.rows[*node][*key]));
        }
        hash ^ hash >> 32
    }
}
