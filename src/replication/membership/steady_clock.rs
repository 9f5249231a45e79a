//! The members' clock. It follows the wall clock, but never runs backwards and never jumps.
//!
//! A node that was suspended for a minute (a stopped process, a sleeping machine) has heard nobody for a minute, which
//! says nothing about the others. On this clock only a moment has passed.

/// Longest step, in milliseconds. Timers are never further apart, so a longer step means suspension.
const STEP_MAX_MS: u64 = 1_000;

/// A clock that moves only when it is told the time.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    steady_ms: u64,
    wall_ms: u64,
}

impl SteadyClock {
    /// A clock that starts at wall time `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { steady_ms: 0, wall_ms: now_ms }
    }

    /// Moves the clock to wall time `now_ms`, and returns its own time.
    pub fn advance(&mut self, now_ms: u64) -> u64 {
        self.steady_ms += now_ms.saturating_sub(self.wall_ms).min(STEP_MAX_MS);
        self.wall_ms = now_ms;
        self.steady_ms
    }

    /// How far the wall clock jumps if it is now at `now_ms`: the part this clock will not follow. Less than a step is
    /// no jump, because clocks that are read one after the other differ.
    pub fn jump_ms(self, now_ms: u64) -> i64 {
        match i64::try_from(now_ms.abs_diff(self.wall_ms)).unwrap_or(i64::MAX) {
            step_ms if step_ms <= STEP_MAX_MS as i64 => 0,
            step_ms if now_ms > self.wall_ms => step_ms - STEP_MAX_MS as i64,
            step_ms => -step_ms,
        }
    }

    /// Its own time.
    pub fn steady_ms(self) -> u64 {
        self.steady_ms
    }

    /// The wall time at the last move.
    pub fn wall_ms(self) -> u64 {
        self.wall_ms
    }

    /// The wall time at which this clock shows `steady_ms`.
    pub fn wall_at(self, steady_ms: u64) -> u64 {
        self.wall_ms.saturating_add(steady_ms.saturating_sub(self.steady_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspension_is_a_moment_and_a_clock_set_back_is_no_time() {
        let mut clock = SteadyClock::new(5_000);
        assert_eq!(clock.advance(5_300), 300);
        assert_eq!(clock.advance(65_300), 1_300);
        assert_eq!(clock.advance(1_000), 1_300);
        assert_eq!(clock.advance(1_200), 1_500);
        assert_eq!((clock.jump_ms(2_200), clock.jump_ms(200), clock.jump_ms(1_100)), (0, 0, 0));
        assert_eq!((clock.jump_ms(7_200), clock.jump_ms(0)), (5_000, -1_200));
        assert_eq!(
            (clock.jump_ms(u64::MAX), SteadyClock::new(u64::MAX).jump_ms(0)),
            (i64::MAX - 1_000, -i64::MAX)
        );
        assert_eq!(clock.wall_at(1_700), 1_400);
        assert_eq!(clock.wall_at(100), 1_200);
    }
}
