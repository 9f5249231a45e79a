//! Laws of the trusted time: whatever a wall clock does, it moves with the monotonic clock but for small corrections, and by a jump only once
//! the jump has lasted, or others agree with it; and a wall clock that is right is trusted in the end.

use std::collections::VecDeque;

use dynarust::core::{
    clock::NodeId,
    wall_clock::{
        ACCEPT_BACKWARD_MS, ACCEPT_CONTRADICTED_MS, ACCEPT_FORWARD_MS, ClockEvent, Options, Reading,
        TrustedClock,
    },
};
use proptest::{collection::vec, prelude::*};

use crate::cases;

const NOW_MS: i64 = 1_763_689_000_000;
/// More than there are while a jump lasts, at one a millisecond.
const READINGS_MAX: usize = 100_000;

#[derive(Clone, Debug)]
enum Step {
    /// The wall clock is set so far off the true time.
    Set(i64),
    /// It is set right.
    SetRight,
    /// It goes so many millionths too fast from now on.
    Slew(i64),
    /// Time passes, with a reading each so many milliseconds.
    Wait { for_ms: i64, gap_ms: i64 },
    /// Nothing runs for so long, but time passes.
    Suspend(i64),
    /// Another node shows a time so far off the true one.
    Sight { node: u64, off_ms: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let off_ms = || {
        prop_oneof![
            2 => -1_200..1_200i64,
            2 => prop_oneof![Just(3_600_000), Just(-3_600_000), Just(30_000)],
            1 => -100_000_000..100_000_000i64,
        ]
    };
    let length_ms = || prop_oneof![3 => 0..5_000i64, 2 => 5_000..70_000i64, 1 => 70_000..200_000i64];
    prop_oneof![
        4 => off_ms().prop_map(Step::Set),
        3 => Just(Step::SetRight),
        1 => (-500..=500i64).prop_map(Step::Slew),
        6 => (length_ms(), 1..2_000i64).prop_map(|(for_ms, gap_ms)| Step::Wait { for_ms, gap_ms }),
        1 => (0..100_000_000i64).prop_map(Step::Suspend),
        1 => (1..4u64, off_ms()).prop_map(|(node, off_ms)| Step::Sight { node, off_ms }),
    ]
}

/// The clocks of a node, as offsets of the true time, and what was read.
struct Simulation {
    options: Options,
    trusted: TrustedClock,
    passed_ms: i64,
    off_millionths_ms: i64,
    slew: i64,
    /// The last readings: when each was, and how far the wall clock was off.
    readings: VecDeque<(i64, i64)>,
    /// The trusted time at the last reading, as an offset.
    last_ms: i64,
    /// When a jump was last accepted, and the offset then; at first those of the start.
    base: (i64, i64),
    /// The offset before accepted forward jumps.
    before_jump_ms: Vec<i64>,
    /// Whether others have shown their times.
    sighted: bool,
}

impl Simulation {
    fn new(jump_ms: u64) -> Self {
        let options = Options { jump_ms, drift_max_ms: jump_ms };
        let first = Reading { wall_ms: NOW_MS.unsigned_abs(), monotonic_ms: 0 };
        Self {
            options,
            trusted: TrustedClock::new(first, options),
            passed_ms: 0,
            off_millionths_ms: 0,
            slew: 0,
            readings: VecDeque::new(),
            last_ms: 0,
            base: (0, 0),
            before_jump_ms: Vec::new(),
            sighted: false,
        }
    }

    fn off_ms(&self) -> i64 {
        self.off_millionths_ms / 1_000_000
    }

    fn pass(&mut self, for_ms: i64) {
        self.passed_ms += for_ms;
        self.off_millionths_ms += self.slew * for_ms;
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Set(off_ms) => self.off_millionths_ms = off_ms * 1_000_000,
            Step::SetRight => (self.off_millionths_ms, self.slew) = (0, 0),
            Step::Slew(slew) => self.slew = slew,
            Step::Wait { for_ms, gap_ms } => {
                let until_ms = self.passed_ms + for_ms;
                while self.passed_ms < until_ms {
                    self.pass(gap_ms.min(until_ms - self.passed_ms));
                    self.read()?;
                }
            }
            Step::Suspend(for_ms) => self.pass(for_ms),
            Step::Sight { node, off_ms } => {
                let theirs_ms = NOW_MS + self.passed_ms + off_ms;
                self.trusted.observe(
                    NodeId(node),
                    theirs_ms.unsigned_abs(),
                    0,
                    self.passed_ms.unsigned_abs(),
                );
                self.sighted = true;
            }
        }
        self.read()
    }

    /// For how long the wall clock has stayed about where it was: of a reading and all that followed, none was further from it than a jump.
    fn stood_ms(&self) -> i64 {
        let (mut least_ms, mut most_ms, mut stood_ms) = (i64::MAX, i64::MIN, 0);
        for (at_ms, off_ms) in self.readings.iter().rev() {
            (least_ms, most_ms) = (least_ms.min(*off_ms), most_ms.max(*off_ms));
            if [least_ms, most_ms].iter().all(|other_ms| other_ms.abs_diff(*off_ms) <= self.options.jump_ms) {
                stood_ms = self.passed_ms - at_ms;
            }
        }
        stood_ms
    }

    fn read(&mut self) -> Result<(), TestCaseError> {
        let jump_ms = self.options.jump_ms as i64;
        let off_ms = self.off_ms();
        self.readings.push_back((self.passed_ms, off_ms));
        if self.readings.len() > READINGS_MAX {
            self.readings.pop_front();
        }
        let wall_ms = NOW_MS + self.passed_ms + off_ms;
        let reading =
            Reading { wall_ms: wall_ms.unsigned_abs(), monotonic_ms: self.passed_ms.unsigned_abs() };
        let (now_ms, event) = self.trusted.read(reading);
        let trusted_ms = now_ms as i64 - NOW_MS - self.passed_ms;
        match event {
            Some(ClockEvent::Accepted(by_ms)) => {
                prop_assert_eq!(trusted_ms, off_ms, "the wall clock is trusted");
                prop_assert_eq!(by_ms, off_ms - self.last_ms);
                let stood_ms = self.stood_ms();
                let returns = self
                    .before_jump_ms
                    .iter()
                    .any(|before_jump_ms| before_jump_ms.abs_diff(off_ms) <= self.options.jump_ms);
                let least_ms = match by_ms > 0 {
                    true => ACCEPT_FORWARD_MS as i64,
                    false if returns => 0,
                    false => ACCEPT_BACKWARD_MS as i64,
                };
                prop_assert!(self.sighted || stood_ms >= least_ms, "after {stood_ms} ms by {by_ms}");
                if by_ms > 0 {
                    self.before_jump_ms.push(self.last_ms);
                }
                self.base = (self.passed_ms, trusted_ms);
            }
            Some(ClockEvent::Jumped(_) | ClockEvent::Reverted) | None => {
                // Both ways from the accepted offset: as far as a jump, and as far again in the time until a jump is accepted.
                let creep_ms = (self.passed_ms - self.base.0) * jump_ms / ACCEPT_FORWARD_MS as i64;
                let moved_ms = (trusted_ms - self.base.1).abs();
                prop_assert!(moved_ms <= jump_ms + creep_ms + 1, "moved by {moved_ms} ms in small steps");
            }
        }
        prop_assert_eq!(self.trusted.at(self.passed_ms.unsigned_abs()), now_ms);
        prop_assert_eq!(
            self.trusted.jumped_ms().is_some(),
            trusted_ms != off_ms,
            "a clock that is not followed is reported as jumped"
        );
        self.last_ms = trusted_ms;
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn trusted_time_jumps_only_after_the_wall_clock_has_lasted(jump_ms in prop_oneof![Just(500u64), 10..=500u64], steps in vec(step(), 1..60)) {
        let mut clocks = Simulation::new(jump_ms);
        for step in &steps {
            clocks.take(step)?;
        }
    }

    #[test]
    fn a_wall_clock_that_is_right_is_trusted_in_the_end(steps in vec(step(), 1..60)) {
        let mut clocks = Simulation::new(500);
        for step in &steps {
            clocks.take(step)?;
        }
        clocks.take(&Step::SetRight)?;
        // What others have against it holds for so long at the most; they say nothing more.
        clocks.take(&Step::Wait { for_ms: ACCEPT_CONTRADICTED_MS as i64, gap_ms: 1_000 })?;
        prop_assert_eq!(clocks.last_ms, 0);
        prop_assert_eq!(clocks.trusted.contradiction(clocks.passed_ms.unsigned_abs()), None);
    }
}
