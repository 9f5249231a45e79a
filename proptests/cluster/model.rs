//! What must be so, whatever happens: the writes that were acknowledged, and what every member has seen.

use std::collections::{BTreeMap, VecDeque};

use dynarust::core::{
    name::{Key, TableName},
    register::{Marker, Payload, Register},
};

/// The name of a row.
pub type Name = (TableName, Key);

/// All writes there were.
#[derive(Default)]
pub struct Model {
    writes: BTreeMap<Name, BTreeMap<Marker, Written>>,
    /// What every member had durably, of each row.
    seen: BTreeMap<Name, Marker>,
    nodes: Vec<Seen>,
}

struct Written {
    payload: Payload,
    node: usize,
    acknowledged: bool,
    /// It may be lost with its node.
    excused: bool,
}

/// What one node saw.
#[derive(Default)]
struct Seen {
    durable: BTreeMap<Name, Marker>,
    /// In order of their places.
    merged: VecDeque<(u64, Name, Marker)>,
}

impl Model {
    /// One node more.
    pub fn add_node(&mut self) {
        self.nodes.push(Seen::default());
    }

    /// A write.
    pub fn written(&mut self, node: usize, name: &Name, register: &Register) {
        let payload = register.payload().clone();
        let written = Written { payload, node, acknowledged: false, excused: false };
        self.writes.entry(name.clone()).or_default().insert(register.marker(), written);
    }

    /// It is durable where it was written.
    pub fn acknowledged(&mut self, name: &Name, marker: Marker) {
        let written = self.writes.get_mut(name).and_then(|writes| writes.get_mut(&marker));
        written.expect("what is acknowledged was written").acknowledged = true;
    }

    /// A node was forgotten and does not come back.
    pub fn gone(&mut self, node: usize) {
        for written in self.writes.values_mut().flat_map(BTreeMap::values_mut) {
            written.excused |= written.node == node;
        }
    }

    /// A node holds a register, not yet durable.
    pub fn merged(&mut self, node: usize, place: u64, name: &Name, marker: Marker) {
        self.nodes[node].merged.push_back((place, name.clone(), marker));
    }

    /// A node made durable what it merged up to a place. `members`: whom nobody has forgotten.
    pub fn synced(&mut self, node: usize, place: u64, members: &[usize]) {
        let mut names = Vec::new();
        let seen = &mut self.nodes[node];
        while seen.merged.front().is_some_and(|(merged, ..)| *merged <= place) {
            let (_, name, marker) = seen.merged.pop_front().expect("just looked at");
            let durable = seen.durable.entry(name.clone()).or_insert(marker);
            *durable = marker.max(*durable);
            names.push(name);
        }
        for name in names {
            let least = members.iter().map(|member| self.nodes[*member].durable.get(&name)).min().flatten();
            if let Some(least) = least.copied() {
                let seen = self.seen.entry(name).or_insert(least);
                *seen = least.max(*seen);
            }
        }
    }

    /// A node lost what was not durable.
    pub fn crashed(&mut self, node: usize) {
        self.nodes[node].merged.clear();
    }

    /// An earlier write of a row than one, `back` writes before it or the first.
    pub fn before(&self, name: &Name, marker: Marker, back: usize) -> Option<Register> {
        let writes = self.writes.get(name)?;
        let (before, written) = writes.range(..marker).rev().take(back + 1).last()?;
        Some(Register::new(written.payload.clone(), before.timestamp))
    }

    /// Whether a node made durable a register of a row, or a later one.
    pub fn is_durable_at(&self, node: usize, name: &Name, marker: Marker) -> bool {
        self.nodes[node].durable.get(name).is_some_and(|durable| *durable >= marker)
    }

    /// A disk lost a register of a row. What no other has is gone.
    pub fn damaged(&mut self, node: usize, name: &Name, marker: Marker, is_elsewhere: bool) {
        self.nodes[node].durable.remove(name);
        if is_elsewhere {
            return;
        }
        let writes = self.writes.entry(name.clone()).or_default();
        writes.range_mut(..=marker).for_each(|(_, written)| written.excused = true);
        // Nobody has seen its end any more either.
        self.seen.remove(name);
    }

    /// Whether every member had something newer of a row once.
    pub fn is_outlived(&self, name: &Name, marker: Marker) -> bool {
        self.seen.get(name).is_some_and(|seen| marker < *seen)
    }

    /// The acknowledged writes that are neither in the rows nor followed by a later write that is, or that ended its row.
    /// Of rows up to `proven_ms` alone it can be proved to all that they ended.
    pub fn lost(&self, rows: &[(TableName, Key, Register)], expired_ms: u64, proven_ms: u64) -> Vec<String> {
        let rows: BTreeMap<Name, &Register> =
            rows.iter().map(|(table, key, register)| ((table.clone(), key.clone()), register)).collect();
        let mut lost = Vec::new();
        for (name, writes) in &self.writes {
            let promised = writes.iter().rev().find(|(_, written)| written.acknowledged && !written.excused);
            let Some((marker, written)) = promised else { continue };
            // What ended it was lost, and may be: then so may it.
            if writes.range(marker..).any(|(_, written)| written.excused) {
                continue;
            }
            let is_kept = match rows.get(name) {
                // What has ended may be gone, and what ended before it be there again: nobody sees either.
                Some(register) => {
                    let both_ended =
                        is_end(&written.payload, expired_ms) && is_end(register.payload(), expired_ms);
                    let is_unproven =
                        is_end(&written.payload, expired_ms) && register.timestamp().unix_ms() > proven_ms;
                    register.marker() >= *marker || both_ended || is_unproven
                }
                // Something later, or it itself, ended the row.
                None => writes.range(marker..).any(|(_, written)| is_end(&written.payload, expired_ms)),
            };
            if !is_kept {
                lost.push(format!("{} {} of node {}", name.1.as_str(), marker.timestamp, written.node));
            }
        }
        lost
    }
}

fn is_end(payload: &Payload, expired_ms: u64) -> bool {
    match payload {
        Payload::Deleted => true,
        Payload::Live { expires_at_ms, .. } => expires_at_ms.is_some_and(|at_ms| at_ms <= expired_ms),
    }
}
