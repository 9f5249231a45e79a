//! The checked wall clock: the system's clocks, trusted as `core::wall_clock` decides.
//!
//! Each reading costs two calls that do not enter the kernel. A lock is taken only ten times a second, or if the wall clock is not where it
//! is expected.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use crate::core::{
    clock::NodeId,
    wall_clock::{
        ACCEPT_BACKWARD_MS, ACCEPT_CONTRADICTED_MS, ACCEPT_FORWARD_MS, ClockEvent, Contradiction, Options,
        Reading, TrustedClock,
    },
};

/// A larger correction is a jump, even if clocks may be further apart: NTP steps by more than 128 ms, and rarely by much more.
const JUMP_MIN_MS: u64 = 500;
/// How long a wall clock that is where it is expected is trusted without a closer check.
const QUICK_MS: u64 = 100;
/// Two readings of the monotonic clock this close together, with one of the wall clock between them, count as one moment.
const MOMENT_MS: u64 = 2;
/// How many times a reading is retried until it is of one moment.
const TRIES_MAX: usize = 5;

/// Reads the system's clocks.
pub type Clocks = Box<dyn Fn() -> Reading + Send + Sync>;

/// A wall clock that does not follow jumps of the system's clock at once.
pub struct CheckedClock {
    clocks: Clocks,
    jump_ms: u64,
    trusted: Mutex<TrustedClock>,
    /// How far the wall clock was ahead of the monotonic one at the last check.
    expected_ms: AtomicI64,
    /// Until this monotonic time the wall clock is trusted if it is still about there.
    quick_until_ms: AtomicU64,
}

impl CheckedClock {
    /// The system's clock. The clocks of nodes may be `drift_max_ms` apart.
    pub fn of_system(drift_max_ms: u64) -> Self {
        Self::new(drift_max_ms, Box::new(read_system))
    }

    /// The wall clock of a pair of clocks. The clocks of nodes may be `drift_max_ms` apart.
    pub(super) fn new(drift_max_ms: u64, clocks: Clocks) -> Self {
        let options = Options { jump_ms: drift_max_ms.min(JUMP_MIN_MS), drift_max_ms };
        Self {
            jump_ms: options.jump_ms,
            trusted: Mutex::new(TrustedClock::new(clocks(), options)),
            clocks,
            expected_ms: AtomicI64::new(0),
            quick_until_ms: AtomicU64::new(0),
        }
    }

    /// The trusted time in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        let reading = (self.clocks)();
        let expected_ms = self.expected_ms.load(Ordering::Relaxed);
        let is_expected = offset_ms(reading).abs_diff(expected_ms) <= self.jump_ms / 4;
        if is_expected && reading.monotonic_ms < self.quick_until_ms.load(Ordering::Relaxed) {
            return reading.wall_ms;
        }
        self.look()
    }

    /// Records what another node's clock showed `ago_ms` ago, in Unix milliseconds, and how wrong that reading may be.
    pub fn observe_peer_clock(&self, node: NodeId, theirs_ms: u64, slack_ms: u64, ago_ms: u64) {
        let mut trusted = self.trusted();
        let monotonic_ms = (self.clocks)().monotonic_ms;
        trusted.observe(node, theirs_ms, slack_ms, monotonic_ms.saturating_sub(ago_ms));
    }

    /// The disagreement of most other nodes with the trusted time.
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.now_ms();
        let trusted = self.trusted();
        trusted.contradiction((self.clocks)().monotonic_ms)
    }

    /// How far the system's clock is ahead of the trusted time, in milliseconds, if it jumped and is not trusted.
    pub fn jumped_ms(&self) -> Option<i64> {
        self.now_ms();
        self.trusted().jumped_ms()
    }

    fn look(&self) -> u64 {
        let mut trusted = self.trusted();
        let (now_ms, event) = match self.read_one_moment() {
            Ok(reading) => {
                let (now_ms, event) = trusted.read(reading);
                // A jumped clock is never where it is expected, not even between the two stores.
                if trusted.jumped_ms().is_none() {
                    self.expected_ms.store(offset_ms(reading), Ordering::Relaxed);
                    self.quick_until_ms.store(reading.monotonic_ms + QUICK_MS, Ordering::Relaxed);
                }
                (now_ms, event)
            }
            // The system is too busy to tell what the wall clock showed at which moment.
            Err(monotonic_ms) => (trusted.at(monotonic_ms), None),
        };
        drop(trusted);
        event.into_iter().for_each(tell);
        now_ms
    }

    /// Reads both clocks at one moment, or else only the monotonic one.
    fn read_one_moment(&self) -> Result<Reading, u64> {
        let mut reading = (self.clocks)();
        for _ in 0..TRIES_MAX {
            let next = (self.clocks)();
            if next.monotonic_ms.saturating_sub(reading.monotonic_ms) <= MOMENT_MS {
                return Ok(Reading { monotonic_ms: next.monotonic_ms, ..reading });
            }
            reading = next;
        }
        Err(reading.monotonic_ms)
    }

    fn trusted(&self) -> MutexGuard<'_, TrustedClock> {
        // Plain numbers: valid even if a holder panicked.
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The system's clock in Unix milliseconds, jumps included.
pub fn system_ms() -> u64 {
    // A clock before 1970 was never set; timestamps then continue from the last one.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn read_system() -> Reading {
    // Not `Instant`, which stops while the system is suspended.
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let since = clock_gettime(clock);
    let monotonic_ms = since.tv_sec.unsigned_abs() * 1_000 + since.tv_nsec.unsigned_abs() / 1_000_000;
    Reading { wall_ms: system_ms(), monotonic_ms }
}

fn offset_ms(reading: Reading) -> i64 {
    let of = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    of(reading.wall_ms).saturating_sub(of(reading.monotonic_ms))
}

fn tell(event: ClockEvent) {
    match event {
        ClockEvent::Jumped(by_ms) => warn!(
            by_ms,
            "the system clock jumped: ignored until it has held for {} s (forward) or {} s (backward), or other nodes confirm it; {} s \
             if they contradict it",
            ACCEPT_FORWARD_MS / 1_000,
            ACCEPT_BACKWARD_MS / 1_000,
            ACCEPT_CONTRADICTED_MS / 1_000
        ),
        ClockEvent::Reverted => {
            info!("the system's clock is back where it was; nothing was written with its time")
        }
        ClockEvent::Accepted(by_ms) => warn!(by_ms, "the system's clock was changed; the node follows it"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW_MS: u64 = 1_763_689_000_000;

    /// Clocks that show what the test sets.
    #[derive(Clone, Default)]
    struct FakeClocks {
        wall_ms: Arc<AtomicU64>,
        monotonic_ms: Arc<AtomicU64>,
        step_ms: Arc<AtomicU64>,
    }

    impl FakeClocks {
        fn clock(&self) -> CheckedClock {
            self.set(NOW_MS, 0);
            let fake = self.clone();
            let read = move || Reading {
                wall_ms: fake.wall_ms.load(Ordering::Relaxed),
                monotonic_ms: fake
                    .monotonic_ms
                    .fetch_add(fake.step_ms.load(Ordering::Relaxed), Ordering::Relaxed),
            };
            CheckedClock::new(500, Box::new(read))
        }

        fn set(&self, wall_ms: u64, monotonic_ms: u64) {
            self.wall_ms.store(wall_ms, Ordering::Relaxed);
            self.monotonic_ms.store(monotonic_ms, Ordering::Relaxed);
        }
    }

    /// A jump became what is expected just before the quick check was switched off: a thread that read the clock between the
    /// two took an hour too much, and the node's timestamps stayed an hour ahead.
    #[test]
    fn a_jump_is_not_expected_while_the_quick_check_may_still_be_on() {
        let fake = FakeClocks::default();
        let clock = fake.clock();
        fake.set(NOW_MS + 1, 1);
        assert_eq!(clock.now_ms(), NOW_MS + 1);
        fake.set(NOW_MS + 3_600_002, 2);
        assert_eq!(clock.now_ms(), NOW_MS + 2);
        // As another thread sees it that was in the midst of a reading.
        clock.quick_until_ms.store(1 + QUICK_MS, Ordering::Relaxed);
        assert_eq!(clock.now_ms(), NOW_MS + 2);
    }

    #[test]
    fn the_quick_check_sees_a_jump_as_soon_as_the_slow_one() {
        let fake = FakeClocks::default();
        let clock = fake.clock();
        for passed_ms in 1..1_000 {
            fake.set(NOW_MS + passed_ms, passed_ms);
            assert_eq!(clock.now_ms(), NOW_MS + passed_ms);
        }
        fake.set(NOW_MS + 31_000, 1_000);
        assert_eq!((clock.now_ms(), clock.jumped_ms()), (NOW_MS + 1_000, Some(30_000)));
        fake.set(NOW_MS + 31_001, 1_001);
        assert_eq!(clock.now_ms(), NOW_MS + 1_001, "nor is it trusted at the next reading");
        fake.set(NOW_MS + 1_400, 1_400);
        assert_eq!((clock.now_ms(), clock.jumped_ms()), (NOW_MS + 1_400, None));
    }

    #[test]
    fn a_slow_reading_says_nothing_about_the_wall_clock() {
        let fake = FakeClocks::default();
        let clock = fake.clock();
        fake.step_ms.store(700, Ordering::Relaxed);
        fake.set(NOW_MS, 1_000);
        clock.now_ms();
        assert_eq!(clock.trusted().jumped_ms(), None);
    }

    #[test]
    fn the_system_clocks_are_read() {
        let clock = CheckedClock::of_system(500);
        let (before_ms, now_ms, after_ms) = (system_ms(), clock.now_ms(), system_ms());
        assert!(before_ms <= now_ms + 500 && now_ms <= after_ms + 500, "{before_ms} {now_ms} {after_ms}");
        assert_eq!((clock.jumped_ms(), clock.contradiction()), (None, None));
    }

    #[test]
    fn a_peer_clock_reading_counts_for_the_time_it_was_taken() {
        let fake = FakeClocks::default();
        let clock = fake.clock();
        fake.set(NOW_MS + 10_000, 10_000);
        clock.observe_peer_clock(NodeId(2), NOW_MS + 8_000, 0, 2_000);
        assert_eq!(clock.contradiction(), None);
        clock.observe_peer_clock(NodeId(2), NOW_MS + 8_000, 0, 0);
        assert_eq!(clock.contradiction(), Some(Contradiction { ahead_ms: 2_000, disagreeing: 1, of: 1 }));
    }
}
