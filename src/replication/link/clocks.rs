//! Whether this node's clock keeps it from its peers: what it knows itself, and what it hears of theirs.
//!
//! A node hears of others' clocks by each round of a link that stands, and each time it dials one that refuses it. Each is held against the
//! time that this node believes. One bad clock among several good ones is that of the node which more of the others are apart from than
//! agree with. Of two nodes that are apart nobody can tell which is right: both say so.

use std::fmt;

use tracing::{info, warn};

use crate::{core::wall_clock::Contradiction, replication::Inner};

/// What a link's last round says of the peer's clock counts if it came that short a time ago, in milliseconds.
const ROUND_AGE_MAX_MS: u64 = 5_000;
/// By how much the measure of a round may be wrong beside its round trip: what it waited for on either side.
const ROUND_SLACK_MS: u64 = 50;

/// What is wrong with this node's clock, so that it is not for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockTrouble {
    /// Its own timestamps are so far ahead of its clock, in milliseconds, that it writes none.
    TimestampsAhead(u64),
    /// More of the other nodes are too far apart from it than are not, and no link stands with those.
    Disagrees(Contradiction),
}

impl ClockTrouble {
    /// Its name, as programs see it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TimestampsAhead(_) => "stamps-ahead",
            Self::Disagrees(contradiction) if contradiction.ahead_ms > 0 => "ahead",
            Self::Disagrees(_) => "behind",
        }
    }

    /// How far the timestamps, or the clock, are ahead, in milliseconds; below 0, behind.
    pub fn ahead_ms(&self) -> i64 {
        match self {
            Self::TimestampsAhead(ahead_ms) => i64::try_from(*ahead_ms).unwrap_or(i64::MAX),
            Self::Disagrees(contradiction) => contradiction.ahead_ms,
        }
    }
}

impl fmt::Display for ClockTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimestampsAhead(ahead_ms) => write!(
                f,
                "this node's timestamps are {ahead_ms} ms ahead of its clock, and other nodes refuse them: its clock was ahead, or is behind \
                 now. It takes no writes. See to it that the clock is right (NTP); then stop the node, run `DynaRust clock repair --data DIR`, and \
                 start it"
            ),
            Self::Disagrees(Contradiction { ahead_ms, disagreeing, of }) => write!(
                f,
                "this node's clock is {} ms {} that of {disagreeing} of the {of} other nodes heard of, and no link stands with those: set it by NTP{}",
                ahead_ms.unsigned_abs(),
                if *ahead_ms > 0 { "ahead of" } else { "behind" },
                if *of == 1 { ", or that of the other: of two it cannot be told which is right" } else { "" }
            ),
        }
    }
}

/// How this node's clock is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockState {
    /// What is wrong with it, if anything is.
    pub trouble: Option<ClockTrouble>,
    /// How far the system's clock is ahead of the time that the node believes, in milliseconds, where it has leapt.
    pub jumped_ms: Option<i64>,
}

/// How this node's clock is now.
pub(in crate::replication) fn clock_state(inner: &Inner) -> ClockState {
    ClockState { trouble: clock_trouble(inner), jumped_ms: inner.machine().jumped_ms() }
}

/// What is wrong with this node's clock now.
fn clock_trouble(inner: &Inner) -> Option<ClockTrouble> {
    let ahead = inner.stamps.ahead().map(ClockTrouble::TimestampsAhead);
    ahead.or_else(|| inner.machine().contradiction().map(ClockTrouble::Disagrees))
}

/// Notes what the peers' clocks show, and tells the log where that changes what is wrong with this node's.
pub(in crate::replication) fn watch_clocks(inner: &Inner) {
    let (now_ms, machine) = (inner.store.now_ms(), inner.machine());
    let mut state = inner.state();
    for link in state.registry.links() {
        let figures = link.figures();
        let (Some(offset_ms), Some(last_ms)) = (figures.clock_offset_ms, figures.last_round_ms) else {
            continue;
        };
        // The offset is from the time that was believed then. It may not be this one.
        let age_ms = now_ms.checked_sub(last_ms).filter(|age_ms| *age_ms <= ROUND_AGE_MAX_MS);
        if let Some(age_ms) = age_ms {
            let slack_ms = figures.round_trip_ms.unwrap_or_default() + ROUND_SLACK_MS;
            machine.observe(link.node, last_ms.saturating_add_signed(offset_ms), slack_ms, age_ms);
        }
    }
    let trouble = clock_trouble(inner);
    let said = std::mem::replace(&mut state.registry.logged_clock_trouble, trouble);
    if said.map(|said| said.name()) == trouble.map(|trouble| trouble.name()) {
        return;
    }
    match trouble {
        Some(trouble) => warn!(why = %trouble, "the clock keeps this node from the others"),
        None => info!("the clock keeps this node from no other any more"),
    }
}
