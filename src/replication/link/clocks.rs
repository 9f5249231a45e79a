//! Whether this node's clock keeps it from its peers.
//!
//! A node learns of others' clocks from each round of a link, and each time it dials a node that refuses it. Each is
//! compared with the time this node trusts. One bad clock among several good ones belongs to the node that more of the
//! others disagree with than agree. If two nodes disagree, nobody can tell which is right, and both report it.

use std::fmt;

use tracing::{info, warn};

use crate::{core::wall_clock::Contradiction, replication::Inner};

/// A link's last round says something about the peer's clock if it is at most this old, in milliseconds.
const ROUND_AGE_MAX_MS: u64 = 5_000;
/// The possible error of a round's measurement in addition to the round trip: the time it waited on either side.
const ROUND_SLACK_MS: u64 = 50;

/// A problem with this node's clock, because of which it does not serve clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockTrouble {
    /// Its timestamps are this many milliseconds ahead of its clock, so it accepts no writes.
    TimestampsAhead(u64),
    /// More of the other nodes disagree with it than agree, and it has no link with any that disagree.
    Disagrees(Contradiction),
}

impl ClockTrouble {
    /// Its name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TimestampsAhead(_) => "stamps-ahead",
            Self::Disagrees(contradiction) if contradiction.ahead_ms > 0 => "ahead",
            Self::Disagrees(_) => "behind",
        }
    }

    /// How far the timestamps or the clock are ahead, in milliseconds. Negative: behind.
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
                "this node's timestamps are {ahead_ms} ms ahead of its clock, and other nodes refuse them: its clock \
                 was ahead, or is behind now. It accepts no writes. Set the clock right (NTP), then stop the node, \
                 run `DynaRust clock repair --data DIR`, and start it again"
            ),
            Self::Disagrees(Contradiction { ahead_ms, disagreeing, of }) => write!(
                f,
                "this node's clock is {} ms {} that of {disagreeing} of the {of} other nodes heard from, and there is \
                no link with those: set it by NTP{}",
                ahead_ms.unsigned_abs(),
                if *ahead_ms > 0 { "ahead of" } else { "behind" },
                if *of == 1 {
                    ", or set the other node's: with two nodes it is unknown which is right"
                } else {
                    ""
                }
            ),
        }
    }
}

/// The state of this node's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockState {
    /// The problem, if there is one.
    pub trouble: Option<ClockTrouble>,
    /// How far the system's clock is ahead of the trusted time, in milliseconds, if it has jumped.
    pub jumped_ms: Option<i64>,
}

/// The state of this node's clock now.
pub(in crate::replication) fn clock_state(inner: &Inner) -> ClockState {
    ClockState { trouble: clock_trouble(inner), jumped_ms: inner.environment().jumped_ms() }
}

/// The problem with this node's clock now.
fn clock_trouble(inner: &Inner) -> Option<ClockTrouble> {
    let ahead = inner.timestamps.ahead().map(ClockTrouble::TimestampsAhead);
    ahead.or_else(|| inner.environment().contradiction().map(ClockTrouble::Disagrees))
}

/// Records the peers' clocks, and logs a change of this node's clock problem.
pub(in crate::replication) fn watch_clocks(inner: &Inner) {
    let (now_ms, environment) = (inner.store.now_ms(), inner.environment());
    let mut state = inner.state();
    for link in state.registry.links() {
        let figures = link.figures();
        let (Some(offset_ms), Some(last_ms)) = (figures.clock_offset_ms, figures.last_round_ms) else {
            continue;
        };
        // The offset is relative to the time that was trusted then, which may differ from now.
        let age_ms = now_ms.checked_sub(last_ms).filter(|age_ms| *age_ms <= ROUND_AGE_MAX_MS);
        if let Some(age_ms) = age_ms {
            let slack_ms = figures.round_trip_ms.unwrap_or_default() + ROUND_SLACK_MS;
            environment.observe_peer_clock(
                link.node,
                last_ms.saturating_add_signed(offset_ms),
                slack_ms,
                age_ms,
            );
        }
    }
    let trouble = clock_trouble(inner);
    let said = std::mem::replace(&mut state.registry.logged_clock_trouble, trouble);
    if said.map(|said| said.name()) == trouble.map(|trouble| trouble.name()) {
        return;
    }
    match trouble {
        Some(trouble) => {
            warn!(why = %trouble, "the clocks are too far apart: links with other nodes are refused")
        }
        None => info!("the clock no longer keeps this node from the other nodes"),
    }
}
