//! Hybrid logical clock. Orders the writes of all nodes; never runs backwards, even if the wall clock does, and not over a
//! restart either.
//!
//! A reading is one `u64`: 48 bits of Unix milliseconds and 16 bits of counter, so that it is close to wall time and
//! counts on within a millisecond (Kulkarni et al., "Logical Physical Clocks", 2014). A counter that overflows runs into
//! the milliseconds, which keeps order and costs a millisecond of drift per 65,536 writes in one.
//!
//! The clock hands out nothing at or above its *bound*, which the caller makes durable first: whatever was handed out
//! and lost in a crash lies below the bound that the next start reads, and starts from.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A node's name for itself: random, made at its first start, kept in its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// When and by whom a value was written: total order over all writes of all nodes.
///
/// As text it is `<hlc>-<node>`, 16 hexadecimal digits each, and sorts as it compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Hybrid logical clock reading: Unix milliseconds << 16 | counter.
    pub hlc: u64,
    /// The node that wrote.
    pub node: NodeId,
}

impl Timestamp {
    /// Unix milliseconds of the reading.
    pub fn unix_ms(self) -> u64 {
        unix_ms(self.hlc)
    }
}

/// The Unix milliseconds of a reading.
pub fn unix_ms(hlc: u64) -> u64 {
    hlc >> COUNTER_BITS
}

/// The last reading of a Unix millisecond.
pub fn last_reading(unix_ms: u64) -> u64 {
    unix_ms << COUNTER_BITS | ((1 << COUNTER_BITS) - 1)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.hlc, self.node)
    }
}

/// The text is not a timestamp as `Display` writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATimestamp;

impl fmt::Display for NotATimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a version: 16 hexadecimal digits, a dash, 16 more")
    }
}

impl FromStr for Timestamp {
    type Err = NotATimestamp;

    fn from_str(text: &str) -> Result<Self, NotATimestamp> {
        let (hlc, node) = text.split_once('-').ok_or(NotATimestamp)?;
        let digits = |part: &str| {
            let plain = part.len() == 16 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if plain { u64::from_str_radix(part, 16).map_err(|_| NotATimestamp) } else { Err(NotATimestamp) }
        };
        Ok(Self { hlc: digits(hlc)?, node: NodeId(digits(node)?) })
    }
}

const COUNTER_BITS: u32 = 16;

/// The clock of one node.
#[derive(Clone, Debug)]
pub struct Clock {
    node: NodeId,
    last: u64,
    bound: u64,
    drift_max_ms: u64,
}

/// The next reading would reach the durable bound: extend it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundReached;

/// A remote reading too far ahead of this node's wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// How far ahead, in milliseconds.
    pub ahead_ms: u64,
    /// How far is allowed, in milliseconds.
    pub allowed_ms: u64,
}

impl Clock {
    /// A clock that starts above `bound`, the durable one of the run before (0 at the first start), and hands out nothing
    /// until `extend`. Remote readings up to `drift_max_ms` ahead are taken.
    pub fn new(node: NodeId, bound: u64, drift_max_ms: u64) -> Self {
        Self { node, last: bound, bound, drift_max_ms }
    }

    /// The next timestamp: above every one handed out or observed, and at or above `now_ms`.
    pub fn tick(&mut self, now_ms: u64) -> Result<Timestamp, BoundReached> {
        let next = (self.last + 1).max(now_ms << COUNTER_BITS);
        if next >= self.bound {
            return Err(BoundReached);
        }
        self.last = next;
        Ok(Timestamp { hlc: next, node: self.node })
    }

    /// Takes note of another node's timestamp, so that later ticks lie above it. One too far ahead changes nothing.
    pub fn observe(&mut self, now_ms: u64, remote: Timestamp) -> Result<(), Drift> {
        let ahead_ms = remote.unix_ms().saturating_sub(now_ms);
        if ahead_ms > self.drift_max_ms {
            return Err(Drift { ahead_ms, allowed_ms: self.drift_max_ms });
        }
        self.last = self.last.max(remote.hlc);
        Ok(())
    }

    /// Takes note of a timestamp that is stored here, whatever the wall clock says: a write over it must lie above it.
    pub fn follow(&mut self, stored: Timestamp) {
        self.last = self.last.max(stored.hlc);
    }

    /// Raises the clock above an instant: every later tick is after it.
    pub fn pass(&mut self, at_ms: u64) {
        self.last = self.last.max((at_ms + 1) << COUNTER_BITS);
    }

    /// The bound to make durable so that ticks up to `lead_ms` from now stay below it, if the present one is lower.
    pub fn bound_wanted(&self, now_ms: u64, lead_ms: u64) -> Option<u64> {
        let wanted = self.last.max(now_ms << COUNTER_BITS) + (lead_ms << COUNTER_BITS);
        (wanted > self.bound).then_some(wanted)
    }

    /// Raises the bound to one that is durable now.
    pub fn extend(&mut self, bound: u64) {
        self.bound = self.bound.max(bound);
    }

    /// The highest reading handed out or observed.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The node whose clock this is.
    pub fn node(&self) -> NodeId {
        self.node
    }
}
