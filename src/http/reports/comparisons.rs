//! The log of comparisons with other nodes: what the counters of each peer did in the steps in which a comparison began or went on.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use serde_json::{Value, json};

use crate::{
    core::clock::NodeId,
    node::{ClusterView, MemberView},
};

/// Comparisons that are kept: a screen or two.
const KEPT_MAX: usize = 100;

/// The counters that tell what a comparison did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    begun: u64,
    without_difference: u64,
    messages: u64,
    bytes: u64,
    rows_sent: u64,
    rows_received: u64,
}

impl Counters {
    fn of(member: &MemberView) -> Self {
        Self {
            begun: member.sessions,
            without_difference: member.false_sessions,
            messages: member.comparison_messages,
            bytes: member.comparison_bytes,
            rows_sent: member.rows_sent,
            rows_received: member.rows_received,
        }
    }

    /// Counters begin at zero again when a peer is forgotten and comes back.
    fn since(self, before: Self) -> Self {
        Self {
            begun: self.begun.saturating_sub(before.begun),
            without_difference: self.without_difference.saturating_sub(before.without_difference),
            messages: self.messages.saturating_sub(before.messages),
            bytes: self.bytes.saturating_sub(before.bytes),
            rows_sent: self.rows_sent.saturating_sub(before.rows_sent),
            rows_received: self.rows_received.saturating_sub(before.rows_received),
        }
    }
}

/// One comparison, or several that were too near to tell apart.
#[derive(Clone, Debug)]
struct Comparison {
    at_ms: u64,
    node: NodeId,
    address: String,
    steps: u32,
    did: Counters,
}

/// The latest comparisons.
#[derive(Debug, Default)]
pub struct Comparisons {
    before: HashMap<NodeId, Counters>,
    latest: VecDeque<Comparison>,
}

impl Comparisons {
    /// Looks at the counters of all peers.
    pub fn observe(&mut self, view: &ClusterView, now_ms: u64) {
        let before = mem::take(&mut self.before);
        for member in view.members.iter().filter(|member| member.node != view.node) {
            let now = Counters::of(member);
            self.before.insert(member.node, now);
            let did = now.since(before.get(&member.node).copied().unwrap_or_default());
            if did.messages > 0 || did.begun > 0 {
                self.add(member, did, now_ms);
            }
        }
    }

    fn add(&mut self, member: &MemberView, did: Counters, now_ms: u64) {
        if self.latest.len() == KEPT_MAX {
            self.latest.pop_front();
        }
        let (node, address, steps) = (member.node, member.address.clone(), member.comparison_steps);
        self.latest.push_back(Comparison { at_ms: now_ms, node, address, steps, did });
    }

    /// The latest first.
    pub fn render(&self) -> Value {
        let render = |comparison: &Comparison| {
            let Comparison { at_ms, node, address, steps, did } = comparison;
            json!({
                "at_ms": at_ms,
                "peer": node.to_string(),
                "address": address,
                "begun_here": did.begun > 0,
                "steps": steps,
                "messages": did.messages,
                "bytes": did.bytes,
                "rows_sent": did.rows_sent,
                "rows_received": did.rows_received,
                "without_difference": did.without_difference > 0,
            })
        };
        self.latest.iter().rev().map(render).collect()
    }
}
