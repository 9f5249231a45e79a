//! Decides which readings of the wall clock to trust, because a wall clock may jump.
//!
//! Timestamps decide which write wins, and they only grow. A wall clock that is an hour ahead for a moment (a bad NTP
//! server, a migrated virtual machine, a typing error) would put the node's timestamps an hour ahead for good. So a
//! reading is trusted only if it is plausible: a monotonic clock that also counts suspended time tells how much time
//! has passed since the last one.
//!
//! What is trusted, and when:
//! - The *first reading*: there is nothing to check it against.
//! - *Small corrections*, up to `Options::jump_ms` either way: at once. NTP steps and slews by this much, and links
//!   allow it. In total they may come to `jump_ms` per `ACCEPT_FORWARD_MS`, so a jump is not trusted sooner because it
//!   comes in pieces.
//! - A *forward jump*: after it has lasted for `ACCEPT_FORWARD_MS`, or at once if more of the nodes heard from lately
//!   agree with it than with the trusted time. If fewer agree, they contradict it, and it takes
//!   `ACCEPT_CONTRADICTED_MS`. For one node with a wrong clock among several that is practically never. A cluster that
//!   was paused and resumed as a whole, where each node contradicts all others, recovers after that time.
//! - A *backward jump*: after it has lasted for `ACCEPT_BACKWARD_MS`. That is shorter, because a clock that is ahead
//!   does harm with each write and one that is behind does not: timestamps continue from the last one. At once if other
//!   nodes agree, or if the clock returns to where it was before the last forward jump. A clock that goes back only for
//!   a moment is not followed: expired values would reappear.
//! - *Any* time, if the trusted time lies before `UNSET_BEFORE_MS`: the clock had never been set, as on a board without
//!   a battery.
//!
//! Until a jump is accepted, time continues by the monotonic clock. NTP disciplines the rate of that clock too, so
//! nothing is lost. A jump that reverts before then leaves no trace.
//!
//! Other nodes count by the time they reported within the last `OBSERVATION_TTL_MS`, over a link or when one was
//! refused. They also tell whether this node's trusted time is wrong: `TrustedClock::contradiction`.

use std::collections::BTreeMap;

use super::clock::NodeId;

/// How long a forward jump must last before it is trusted. It is longer than it takes to notice and revert a mistake:
/// NTP first polls every 64 s, and a hypervisor sets a guest's time once it runs.
pub const ACCEPT_FORWARD_MS: u64 = 60_000;
/// How long a backward jump must last.
pub const ACCEPT_BACKWARD_MS: u64 = 10_000;
/// How long a jump must last that other nodes contradict.
pub const ACCEPT_CONTRADICTED_MS: u64 = 3_600_000;
/// How long another node's reported time counts: longer than the longest wait between two dials of a node that refuses.
pub const OBSERVATION_TTL_MS: u64 = 90_000;
/// A time before 2020 means that the clock was never set: this program did not exist then.
pub const UNSET_BEFORE_MS: u64 = 1_577_836_800_000;
/// Most other nodes remembered: more than a cluster has members.
const OBSERVATIONS_MAX: usize = 1_024;

/// How far clocks may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A larger difference between two readings is a jump, in milliseconds.
    pub jump_ms: u64,
    /// How far the clocks of two nodes may differ, in milliseconds.
    pub drift_max_ms: u64,
}

/// Two clocks of one machine, read at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, in Unix milliseconds.
    pub wall_ms: u64,
    /// A clock that never jumps and counts suspended time, in milliseconds since some instant.
    pub monotonic_ms: u64,
}

impl Reading {
    fn offset_ms(self) -> i64 {
        signed(self.wall_ms).saturating_sub(signed(self.monotonic_ms))
    }
}

/// A change that should be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// The wall clock jumped by this many milliseconds, and is not trusted.
    Jumped(i64),
    /// It is back where it was.
    Reverted,
    /// A jump of this many milliseconds is now trusted.
    Accepted(i64),
}

/// The other nodes disagree with the trusted time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// How far the trusted time is ahead of theirs, in milliseconds. Negative: behind.
    pub ahead_ms: i64,
    /// How many nodes differ by more than the limit.
    pub disagreeing: usize,
    /// How many nodes were heard from lately.
    pub of: usize,
}

/// The trusted time of one machine. Times inside are offsets: how far a clock is ahead of the monotonic one.
#[derive(Clone, Debug)]
pub struct TrustedClock {
    options: Options,
    /// The offset of the trusted time.
    offset_ms: i64,
    /// What small corrections are measured from. Follows the wall clock slowly.
    anchor_ms: i64,
    /// When the anchor was last moved, by the monotonic clock.
    anchored_ms: u64,
    jump: Option<Jump>,
    /// The offset of the trusted time before the last accepted forward jump.
    before_jump_ms: Option<i64>,
    observations: BTreeMap<NodeId, Observation>,
}

#[derive(Clone, Copy, Debug)]
struct Jump {
    offset_ms: i64,
    since_ms: u64,
}

/// Another node's time.
#[derive(Clone, Copy, Debug)]
struct Observation {
    offset_ms: i64,
    /// The possible error, in milliseconds.
    slack_ms: u64,
    seen_ms: u64,
}

impl TrustedClock {
    /// Trusts the first reading.
    pub fn new(first: Reading, options: Options) -> Self {
        let offset_ms = first.offset_ms();
        Self {
            options,
            offset_ms,
            anchor_ms: offset_ms,
            anchored_ms: first.monotonic_ms,
            jump: None,
            before_jump_ms: None,
            observations: BTreeMap::new(),
        }
    }

    /// The trusted time in Unix milliseconds, and what changed. Readings must come in the order of the monotonic clock.
    pub fn read(&mut self, reading: Reading) -> (u64, Option<ClockEvent>) {
        let offset_ms = reading.offset_ms();
        let jumped_ms = offset_ms.saturating_sub(self.anchor_ms);
        let event = if jumped_ms.unsigned_abs() <= self.options.jump_ms {
            self.offset_ms = offset_ms;
            self.move_anchor(offset_ms, reading.monotonic_ms);
            self.jump.take().map(|_| ClockEvent::Reverted)
        } else {
            self.jump_to(offset_ms, reading.monotonic_ms)
        };
        (self.at(reading.monotonic_ms), event)
    }

    /// The trusted time at an instant of the monotonic clock, in Unix milliseconds.
    pub fn at(&self, monotonic_ms: u64) -> u64 {
        u64::try_from(signed(monotonic_ms).saturating_add(self.offset_ms)).unwrap_or(0)
    }

    /// How far an untrusted wall clock is ahead of the trusted time, in milliseconds. `None` if the wall clock is
    /// trusted.
    pub fn jumped_ms(&self) -> Option<i64> {
        self.jump.map(|jump| jump.offset_ms.saturating_sub(self.offset_ms))
    }

    /// Records what another node's clock showed (Unix milliseconds) at an instant of the monotonic clock, and the
    /// possible error.
    pub fn observe(&mut self, node: NodeId, theirs_ms: u64, slack_ms: u64, monotonic_ms: u64) {
        if self.observations.len() >= OBSERVATIONS_MAX {
            self.observations.retain(|_, observation| observation.is_fresh(monotonic_ms));
        }
        if self.observations.len() < OBSERVATIONS_MAX || self.observations.contains_key(&node) {
            let offset_ms = signed(theirs_ms).saturating_sub(signed(monotonic_ms));
            self.observations.insert(node, Observation { offset_ms, slack_ms, seen_ms: monotonic_ms });
        }
    }

    /// What the other nodes disagree about, if more of those heard from lately disagree with the trusted time than
    /// agree.
    pub fn contradiction(&self, monotonic_ms: u64) -> Option<Contradiction> {
        let fresh = || self.observations.values().filter(|observation| observation.is_fresh(monotonic_ms));
        let is_apart =
            |observation: &&Observation| !observation.agrees(self.offset_ms, self.options.drift_max_ms);
        let mut ahead: Vec<i64> = fresh()
            .filter(is_apart)
            .map(|observation| self.offset_ms.saturating_sub(observation.offset_ms))
            .collect();
        ahead.sort_unstable();
        let (disagreeing, of) = (ahead.len(), fresh().count());
        let ahead_ms = *ahead.get(disagreeing / 2)?;
        (disagreeing > of - disagreeing).then_some(Contradiction { ahead_ms, disagreeing, of })
    }

    fn move_anchor(&mut self, offset_ms: i64, monotonic_ms: u64) {
        let passed_ms = monotonic_ms.saturating_sub(self.anchored_ms);
        let allowed_ms = passed_ms.saturating_mul(self.options.jump_ms) / ACCEPT_FORWARD_MS;
        let wanted_ms = offset_ms - self.anchor_ms;
        let step_ms = signed(wanted_ms.unsigned_abs().min(allowed_ms)) * wanted_ms.signum();
        // Less than a whole millisecond is left for next time.
        if step_ms != 0 || wanted_ms == 0 {
            self.anchor_ms += step_ms;
            self.anchored_ms = monotonic_ms;
        }
    }

    fn jump_to(&mut self, offset_ms: i64, monotonic_ms: u64) -> Option<ClockEvent> {
        let by_ms = offset_ms.saturating_sub(self.offset_ms);
        let known = self.jump.filter(|jump| self.is_near(jump.offset_ms, offset_ms));
        let jump = *self.jump.insert(known.unwrap_or(Jump { offset_ms, since_ms: monotonic_ms }));
        let stood_ms = monotonic_ms.saturating_sub(jump.since_ms);
        if stood_ms < self.accept_after_ms(offset_ms, monotonic_ms) {
            return known.is_none().then_some(ClockEvent::Jumped(by_ms));
        }
        self.before_jump_ms = (by_ms > 0).then_some(self.offset_ms);
        (self.offset_ms, self.anchor_ms, self.anchored_ms) = (offset_ms, offset_ms, monotonic_ms);
        self.jump = None;
        Some(ClockEvent::Accepted(by_ms))
    }

    /// How long a jump to an offset must last.
    fn accept_after_ms(&self, offset_ms: i64, monotonic_ms: u64) -> u64 {
        let is_ahead = offset_ms > self.offset_ms;
        let returns = !is_ahead
            && self.before_jump_ms.is_some_and(|before_jump_ms| self.is_near(before_jump_ms, offset_ms));
        if returns || self.at(monotonic_ms) < UNSET_BEFORE_MS {
            return 0;
        }
        let agreeing = |offset_ms: i64| {
            let fresh = self.observations.values().filter(|observation| observation.is_fresh(monotonic_ms));
            fresh.filter(|observation| observation.agrees(offset_ms, self.options.drift_max_ms)).count()
        };
        let (there, here) = (agreeing(offset_ms), agreeing(self.offset_ms));
        match there.cmp(&here) {
            std::cmp::Ordering::Greater => 0,
            std::cmp::Ordering::Less => ACCEPT_CONTRADICTED_MS,
            std::cmp::Ordering::Equal if is_ahead => ACCEPT_FORWARD_MS,
            std::cmp::Ordering::Equal => ACCEPT_BACKWARD_MS,
        }
    }

    fn is_near(&self, one_ms: i64, other_ms: i64) -> bool {
        one_ms.abs_diff(other_ms) <= self.options.jump_ms
    }
}

impl Observation {
    fn is_fresh(&self, monotonic_ms: u64) -> bool {
        monotonic_ms.saturating_sub(self.seen_ms) <= OBSERVATION_TTL_MS
    }

    fn agrees(&self, offset_ms: i64, drift_max_ms: u64) -> bool {
        self.offset_ms.abs_diff(offset_ms) <= drift_max_ms.saturating_add(self.slack_ms)
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_763_689_000_000;
    const HOUR_MS: i64 = 3_600_000;
    const OPTIONS: Options = Options { jump_ms: 500, drift_max_ms: 500 };

    /// A settable wall clock, a monotonic clock, and the true time.
    struct Simulation {
        trusted: TrustedClock,
        monotonic_ms: u64,
        ahead_ms: i64,
    }

    impl Simulation {
        fn new() -> Self {
            let first = Reading { wall_ms: NOW_MS, monotonic_ms: 0 };
            Self { trusted: TrustedClock::new(first, OPTIONS), monotonic_ms: 0, ahead_ms: 0 }
        }

        fn true_ms(&self) -> u64 {
            NOW_MS + self.monotonic_ms
        }

        /// Sets the wall clock this far ahead of the true time. Returns how far the trusted time is then ahead.
        fn set(&mut self, ahead_ms: i64) -> (i64, Option<ClockEvent>) {
            self.ahead_ms = ahead_ms;
            self.wait(0)
        }

        /// Lets time pass, with a reading every 100 ms. Returns how far the trusted time is then ahead, and the last
        /// event.
        fn wait(&mut self, for_ms: u64) -> (i64, Option<ClockEvent>) {
            let until_ms = self.monotonic_ms + for_ms;
            let mut last = None;
            loop {
                let wall_ms = self.true_ms().saturating_add_signed(self.ahead_ms);
                let (now_ms, event) = self.trusted.read(Reading { wall_ms, monotonic_ms: self.monotonic_ms });
                last = event.or(last);
                if self.monotonic_ms >= until_ms {
                    return (signed(now_ms) - signed(self.true_ms()), last);
                }
                self.monotonic_ms = until_ms.min(self.monotonic_ms + 100);
            }
        }

        fn observe(&mut self, node: u64, ahead_ms: i64) {
            let theirs_ms = self.true_ms().saturating_add_signed(ahead_ms);
            self.trusted.observe(NodeId(node), theirs_ms, 5, self.monotonic_ms);
        }
    }

    /// A clock that was an hour ahead for 6 s put the node's timestamps an hour ahead, and cut it off for as long.
    #[test]
    fn a_jump_that_reverts_leaves_no_trace() {
        for (ahead_ms, for_ms) in
            [(HOUR_MS, 6_000), (30_000, 400), (-HOUR_MS, 6_000), (HOUR_MS, ACCEPT_FORWARD_MS - 1)]
        {
            let mut clocks = Simulation::new();
            clocks.wait(10_000);
            assert_eq!(clocks.set(ahead_ms), (0, Some(ClockEvent::Jumped(ahead_ms))));
            assert_eq!(clocks.wait(for_ms), (0, None));
            assert_eq!(clocks.trusted.jumped_ms(), Some(ahead_ms));
            assert_eq!(clocks.set(0), (0, Some(ClockEvent::Reverted)));
            assert_eq!(clocks.trusted.jumped_ms(), None);
        }
    }

    #[test]
    fn a_jump_that_lasts_is_trusted_and_its_return_at_once() {
        let mut clocks = Simulation::new();
        clocks.set(HOUR_MS);
        assert_eq!(clocks.wait(ACCEPT_FORWARD_MS), (HOUR_MS, Some(ClockEvent::Accepted(HOUR_MS))));
        clocks.wait(500_000);
        assert_eq!(clocks.set(0), (0, Some(ClockEvent::Accepted(-HOUR_MS))));
        // A second forward jump must last just as long: the clock may do this regularly.
        clocks.set(HOUR_MS);
        assert_eq!(clocks.wait(ACCEPT_FORWARD_MS - 100).0, 0);
        assert_eq!(clocks.wait(100).0, HOUR_MS);
    }

    #[test]
    fn a_backward_jump_is_trusted_sooner() {
        let mut clocks = Simulation::new();
        clocks.set(-HOUR_MS);
        assert_eq!(clocks.wait(ACCEPT_BACKWARD_MS - 100).0, 0);
        assert_eq!(clocks.wait(100).0, -HOUR_MS);
    }

    #[test]
    fn a_jump_must_stay_at_one_offset() {
        let mut clocks = Simulation::new();
        for round in 0..100 {
            clocks.set(HOUR_MS + (round % 2) * 1_000);
            assert_eq!(clocks.wait(2_000).0, 0, "round {round}");
        }
    }

    #[test]
    fn small_corrections_are_followed_and_do_not_add_up_to_a_jump() {
        let mut clocks = Simulation::new();
        assert_eq!(clocks.set(300), (300, None));
        assert_eq!(clocks.set(-400), (-400, None));
        clocks.set(0);
        let mut most_ms = 0;
        // One second ahead for each second that passes.
        for step in 1..=50 {
            most_ms = most_ms.max(clocks.set(step * 400).0);
            clocks.wait(400);
        }
        assert!((400..=600).contains(&most_ms), "{most_ms}");
        // NTP slews by at most half a millisecond per second. That is followed without limit.
        let mut clocks = Simulation::new();
        for step in 1..=10_000 {
            assert_eq!(clocks.set(step).0, step);
            clocks.wait(2_000);
        }
    }

    #[test]
    fn suspension_is_not_a_jump() {
        let mut clocks = Simulation::new();
        clocks.monotonic_ms += 8 * 3_600_000;
        assert_eq!(clocks.wait(0), (0, None));
    }

    #[test]
    fn a_jump_that_other_nodes_confirm_is_trusted_at_once() {
        for ahead_ms in [HOUR_MS, -HOUR_MS] {
            let mut clocks = Simulation::new();
            clocks.observe(1, ahead_ms + 20);
            assert_eq!(clocks.set(ahead_ms), (ahead_ms, Some(ClockEvent::Accepted(ahead_ms))));
        }
    }

    #[test]
    fn a_jump_that_other_nodes_contradict_is_not_trusted() {
        let mut clocks = Simulation::new();
        let mut stood_ms = 0;
        clocks.set(HOUR_MS);
        while clocks.trusted.jumped_ms().is_some() {
            clocks.observe(1, 0);
            clocks.observe(2, 10);
            clocks.observe(3, HOUR_MS);
            clocks.wait(1_000);
            stood_ms += 1_000;
        }
        assert_eq!(stood_ms, ACCEPT_CONTRADICTED_MS);
        // What they reported long ago does not count.
        let mut clocks = Simulation::new();
        clocks.observe(1, 0);
        clocks.wait(OBSERVATION_TTL_MS + 1);
        clocks.set(HOUR_MS);
        assert_eq!(clocks.wait(ACCEPT_FORWARD_MS).0, HOUR_MS);
    }

    #[test]
    fn a_clock_that_was_never_set_is_trusted_once_it_is_set() {
        let mut trusted = TrustedClock::new(Reading { wall_ms: 5_000, monotonic_ms: 5_000 }, OPTIONS);
        let set = Reading { wall_ms: NOW_MS, monotonic_ms: 6_000 };
        assert_eq!(trusted.read(set).0, NOW_MS);
    }

    #[test]
    fn a_majority_of_other_nodes_contradicts_and_one_bad_clock_does_not() {
        let mut clocks = Simulation::new();
        assert_eq!(clocks.trusted.contradiction(0), None);
        clocks.observe(1, 505);
        assert_eq!(clocks.trusted.contradiction(0), None, "it may be that close");
        clocks.observe(1, -5_000);
        let alone = Contradiction { ahead_ms: 5_000, disagreeing: 1, of: 1 };
        assert_eq!(clocks.trusted.contradiction(0), Some(alone));
        clocks.observe(2, 100);
        assert_eq!(clocks.trusted.contradiction(0), None, "one bad clock beside a good one");
        clocks.observe(3, -6_000);
        let most = Contradiction { ahead_ms: 6_000, disagreeing: 2, of: 3 };
        assert_eq!(clocks.trusted.contradiction(0), Some(most));
        assert_eq!(clocks.trusted.contradiction(OBSERVATION_TTL_MS + 1), None);
    }
}
