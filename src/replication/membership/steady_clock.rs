//! The members' own clock. It follows the clock it is shown, but never runs backwards, and never leaps.
//!
//! A node that stood still for a minute (a stopped process, a machine put to sleep) has heard nobody for a minute, and that says
//! nothing about the others. On this clock it has missed a moment.

/// The longest step. Timers are never further apart than this, so a longer one is a standstill.
const STEP_MAX_MS: u64 = 1_000;

/// A clock that is moved by the calls it gets.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    steady_ms: u64,
    wall_ms: u64,
}

impl SteadyClock {
    /// A clock that starts when it is `now_ms` elsewhere.
    pub fn new(now_ms: u64) -> Self {
        Self { steady_ms: 0, wall_ms: now_ms }
    }

    /// Moves the clock to when it is `now_ms` elsewhere, and says what it shows.
    pub fn advance(&mut self, now_ms: u64) -> u64 {
        self.steady_ms += now_ms.saturating_sub(self.wall_ms).min(STEP_MAX_MS);
        self.wall_ms = now_ms;
        self.steady_ms
    }

    /// By how much the other clock leaps where it is `now_ms` there now: what this one will not follow. Clocks that are read side by
    /// side differ by less than a step; that is no leap.
    pub fn jump_ms(self, now_ms: u64) -> i64 {
        match i64::try_from(now_ms.abs_diff(self.wall_ms)).unwrap_or(i64::MAX) {
            step_ms if step_ms <= STEP_MAX_MS as i64 => 0,
            step_ms if now_ms > self.wall_ms => step_ms - STEP_MAX_MS as i64,
            step_ms => -step_ms,
        }
    }

    /// What it shows.
    pub fn steady_ms(self) -> u64 {
        self.steady_ms
    }

    /// What it was when the clock was moved last.
    pub fn wall_ms(self) -> u64 {
        self.wall_ms
    }

    /// What it is elsewhere when this clock shows `own_ms`.
    pub fn wall_at(self, steady_ms: u64) -> u64 {
        self.wall_ms.saturating_add(steady_ms.saturating_sub(self.steady_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_a_moment_and_a_clock_set_back_is_none() {
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
