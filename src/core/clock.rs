//! Hybrid logical clock. It orders the writes of all nodes and never runs backwards: not when the wall clock does, and
//! not across a restart.
//!
//! A reading is one `u64`: 48 bits of Unix milliseconds and a 16-bit counter. It stays close to wall time and counts up
//! within a millisecond (Kulkarni et al., "Logical Physical Clocks", 2014). When the counter overflows it carries into
//! the milliseconds. Order is kept, at the cost of one millisecond of drift per 65,536 writes within a millisecond.
//!
//! The clock hands out nothing at or above its *bound*, and the caller makes the bound durable first. Everything handed
//! out and lost in a crash therefore lies below the bound, where the next start begins.
//!
//! The clock also never goes back before an instant it has *passed*: other nodes may have concluded that nothing will
//! be written at or before that instant. There is one exception. If this node's clock disagreed with every node it
//! heard from lately, nobody can have drawn that conclusion. Such an instant is passed *tentatively*: the clock drops
//! it if it turns out to lie further ahead of the wall clock than the allowed drift, because then it came from a wrong
//! clock.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A node's id: random, made at its first start and kept in its storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// When a value was written, and by which node. Totally orders all writes of all nodes.
///
/// As text it is `<hlc>-<node>`, 16 hexadecimal digits each. The text sorts in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// The hybrid logical clock reading: Unix milliseconds << 16 | counter.
    pub hlc: u64,
    /// The node that wrote.
    pub node: NodeId,
}

impl Timestamp {
    /// The Unix milliseconds of the reading.
    pub fn unix_ms(self) -> u64 {
        unix_ms(self.hlc)
    }
}

/// The Unix milliseconds of a reading.
pub fn unix_ms(hlc: u64) -> u64 {
    hlc >> COUNTER_BITS
}

/// The last reading of a millisecond.
pub fn last_reading(unix_ms: u64) -> u64 {
    unix_ms << COUNTER_BITS | ((1 << COUNTER_BITS) - 1)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.hlc, self.node)
    }
}

/// The text is not a timestamp in the form that `Display` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTimestampError;

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a version: 16 hexadecimal digits, a dash, 16 more")
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, ParseTimestampError> {
        let (hlc, node) = text.split_once('-').ok_or(ParseTimestampError)?;
        let digits = |part: &str| {
            let plain = part.len() == 16 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if plain {
                u64::from_str_radix(part, 16).map_err(|_| ParseTimestampError)
            } else {
                Err(ParseTimestampError)
            }
        };
        Ok(Self { hlc: digits(hlc)?, node: NodeId(digits(node)?) })
    }
}

const COUNTER_BITS: u32 = 16;

/// The clock of one node.
#[derive(Clone, Debug)]
pub struct Clock {
    node: NodeId,
    /// The highest reading that was handed out, observed, stored here or passed.
    last: u64,
    /// The first reading after all tentatively passed instants.
    passed_tentatively: u64,
    bound: u64,
    drift_max_ms: u64,
}

/// The next reading would reach the durable bound. Call `extend` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundReached;

/// A remote reading too far ahead of this node's wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// How far ahead, in milliseconds.
    pub ahead_ms: u64,
    /// The limit, in milliseconds.
    pub allowed_ms: u64,
}

impl Clock {
    /// A clock that starts above `bound`, the durable bound of the previous run (0 at the first start). It hands out
    /// nothing until `extend` is called. Remote readings up to `drift_max_ms` ahead are accepted.
    pub fn new(node: NodeId, bound: u64, drift_max_ms: u64) -> Self {
        Self { node, last: bound, passed_tentatively: 0, bound, drift_max_ms }
    }

    /// The next timestamp. It is above every reading handed out or observed, after every instant passed, and not before
    /// `now_ms`.
    pub fn tick(&mut self, now_ms: u64) -> Result<Timestamp, BoundReached> {
        let next = (self.last + 1).max(self.least(now_ms));
        if next >= self.bound {
            return Err(BoundReached);
        }
        self.last = next;
        Ok(Timestamp { hlc: next, node: self.node })
    }

    /// Observes another node's timestamp, so that later ticks are above it. A timestamp too far ahead is an error and
    /// changes nothing.
    pub fn observe(&mut self, now_ms: u64, remote: Timestamp) -> Result<(), Drift> {
        let ahead_ms = remote.unix_ms().saturating_sub(now_ms);
        if ahead_ms > self.drift_max_ms {
            return Err(Drift { ahead_ms, allowed_ms: self.drift_max_ms });
        }
        self.last = self.last.max(remote.hlc);
        Ok(())
    }

    /// Observes a timestamp stored here, whatever the wall clock says: a write over it needs a later one.
    pub fn follow(&mut self, stored: Timestamp) {
        self.last = self.last.max(stored.hlc);
    }

    /// Raises the clock above an instant. Every later tick is after it.
    pub fn pass(&mut self, at_ms: u64) {
        self.last = self.last.max((at_ms + 1) << COUNTER_BITS);
    }

    /// Raises the clock above an instant that no other node has relied on. Later ticks are after it, unless it turns
    /// out to lie further ahead of the wall clock than the allowed drift.
    pub fn pass_tentatively(&mut self, now_ms: u64, at_ms: u64) {
        if self.passed_tentatively > self.latest(now_ms) {
            self.passed_tentatively = 0;
        }
        self.passed_tentatively = self.passed_tentatively.max((at_ms + 1) << COUNTER_BITS);
    }

    /// How far the highest reading is ahead of the wall clock, in milliseconds.
    pub fn ahead_ms(&self, now_ms: u64) -> u64 {
        unix_ms(self.last).saturating_sub(now_ms)
    }

    /// The bound to make durable so that ticks up to `lead_ms` from now stay below it. `None` if the current bound is
    /// high enough.
    pub fn bound_wanted(&self, now_ms: u64, lead_ms: u64) -> Option<u64> {
        let wanted = self.bound_at(now_ms, lead_ms);
        (wanted > self.bound).then_some(wanted)
    }

    /// Lowers a bound that a wrong wall clock has raised: one that lies further above the bound that `bound_wanted`
    /// would give than the allowed drift. Returns the lower bound, which the caller makes durable. From now on nothing
    /// at or above it is handed out.
    pub fn lower_bound(&mut self, now_ms: u64, lead_ms: u64) -> Option<u64> {
        let wanted = self.bound_at(now_ms, lead_ms);
        if self.bound <= wanted + (self.drift_max_ms << COUNTER_BITS) {
            return None;
        }
        self.bound = wanted;
        Some(wanted)
    }

    /// Raises the bound to one that is now durable.
    pub fn extend(&mut self, bound: u64) {
        self.bound = self.bound.max(bound);
    }

    /// The highest reading that was handed out, observed, stored or passed.
    pub fn last(&self) -> u64 {
        self.last
    }

    fn bound_at(&self, now_ms: u64, lead_ms: u64) -> u64 {
        self.last.max(self.least(now_ms)) + (lead_ms << COUNTER_BITS)
    }

    /// The lowest reading to hand out at `now_ms`.
    fn least(&self, now_ms: u64) -> u64 {
        let now = now_ms << COUNTER_BITS;
        if self.passed_tentatively > self.latest(now_ms) { now } else { self.passed_tentatively.max(now) }
    }

    /// The last reading that another node's clock may have.
    fn latest(&self, now_ms: u64) -> u64 {
        last_reading(now_ms + self.drift_max_ms + 1)
    }

    /// The node whose clock this is.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_763_689_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn clock(bound: u64) -> Clock {
        Clock::new(NodeId(1), bound, 500)
    }

    /// Each round makes the clock pass an instant. A wall clock that was an hour ahead for a moment put all later
    /// timestamps an hour ahead.
    #[test]
    fn tentatively_passed_instants_of_a_wrong_wall_clock_leave_no_trace() {
        let mut clock = clock(0);
        clock.extend(last_reading(NOW_MS + 2 * HOUR_MS));
        let before = clock.tick(NOW_MS).expect("below the bound");
        clock.pass_tentatively(NOW_MS + HOUR_MS, NOW_MS + HOUR_MS - 2_000);
        let after = clock.tick(NOW_MS + 10).expect("below the bound");
        assert!(before < after);
        assert_eq!((after.unix_ms(), clock.ahead_ms(NOW_MS + 10)), (NOW_MS + 10, 0));
        // Instants passed since then still count, tentative or not.
        clock.pass_tentatively(NOW_MS + 20, NOW_MS + 300);
        assert_eq!(clock.tick(NOW_MS + 20).map(Timestamp::unix_ms), Ok(NOW_MS + 301));
        clock.pass(NOW_MS + 400);
        assert_eq!(clock.tick(NOW_MS + 20).map(Timestamp::unix_ms), Ok(NOW_MS + 401));
    }

    #[test]
    fn readings_handed_out_stored_or_passed_are_never_undercut() {
        let ahead_ms = NOW_MS + HOUR_MS;
        let mut handed_out = clock(0);
        handed_out.extend(last_reading(ahead_ms + 1_000));
        handed_out.tick(ahead_ms).expect("below the bound");
        let mut stored = handed_out.clone();
        stored.follow(Timestamp { hlc: last_reading(ahead_ms), node: NodeId(2) });
        let mut passed = clock(0);
        passed.extend(last_reading(ahead_ms + 1_000));
        passed.pass(ahead_ms);
        for mut clock in [handed_out, stored, passed] {
            let last = clock.last();
            assert!(clock.ahead_ms(NOW_MS) >= HOUR_MS);
            assert!(clock.tick(NOW_MS).expect("below the bound").hlc > last);
        }
    }

    #[test]
    fn a_bound_raised_by_a_wrong_clock_is_lowered_and_holds() {
        let mut clock = clock(0);
        clock.extend(last_reading(NOW_MS + HOUR_MS));
        assert_eq!(clock.lower_bound(NOW_MS + HOUR_MS - 590, 100), None, "within the allowed drift");
        let lower = clock.lower_bound(NOW_MS, 1_500);
        assert_eq!(lower, Some((NOW_MS + 1_500) << COUNTER_BITS));
        assert_eq!(clock.tick(NOW_MS + 1_500), Err(BoundReached));
        assert_eq!(clock.lower_bound(NOW_MS, 1_500), None, "it is already lowered");
        // Never below what was handed out.
        let mut clock = super::Clock::new(NodeId(1), last_reading(NOW_MS + HOUR_MS), 500);
        assert_eq!(clock.lower_bound(NOW_MS, 0), None);
    }
}
