//! Collects what the membership protocol wants done: packets to send and timers.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use foca::{Notification, Runtime, Timer};

use super::identity::Identity;
use crate::core::clock::NodeId;

/// The packets and timers of the membership protocol.
#[derive(Default)]
pub struct Effects {
    /// The current time, on the members' clock.
    pub now_ms: u64,
    packets: Vec<(NodeId, Vec<u8>)>,
    timers: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
}

impl Effects {
    /// When the next timer is due.
    pub fn next_ms(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse(first)| first.due_ms)
    }

    /// Removes the next due timer.
    pub fn pop_due(&mut self) -> Option<Timer<Identity>> {
        let is_due = self.next_ms().is_some_and(|due_ms| due_ms <= self.now_ms);
        if is_due { self.timers.pop().map(|Reverse(first)| first.timer) } else { None }
    }

    /// The packets to send, in order.
    pub fn take_packets(&mut self) -> Vec<(NodeId, Vec<u8>)> {
        std::mem::take(&mut self.packets)
    }

    /// Drops all timers, because the protocol ignores them from now on. Otherwise a node that often changes its
    /// identity would collect them; this way there are only a handful.
    pub fn clear_timers(&mut self) {
        self.timers.clear();
    }
}

impl Runtime<Identity> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            // The protocol has just invalidated its timers.
            Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => self.clear_timers(),
            // `Members` looks at the whole state after each call, so it misses nothing.
            Notification::MemberUp(_)
            | Notification::MemberDown(_)
            | Notification::Rename(..)
            | Notification::Active => (),
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.packets.push((to.node, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        // `Members` decides whether a suspect is down, because it also knows about links.
        if matches!(timer, Timer::ChangeSuspectToDown { .. }) {
            return;
        }
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let due_ms = self.now_ms.saturating_add(after_ms);
        self.timers.push(Reverse(Scheduled { due_ms, order: self.scheduled, timer }));
        self.scheduled += 1;
    }
}

struct Scheduled {
    due_ms: u64,
    order: u64,
    timer: Timer<Identity>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ms, self.order).cmp(&(other.due_ms, other.order))
    }
}
