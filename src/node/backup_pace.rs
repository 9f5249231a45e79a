//! How fast a backup is read while clients write.
//!
//! A page of a backup costs the processor and the disk: to be read, and then to be compressed and written, often on the same machine. Read at full
//! speed, a backup took writers from 0.7 ms to 5 ms in the median, and their slowest hundredth from 5 ms to 30 ms, on two cores. So while
//! somebody writes, each page is followed by a pause that is a multiple of the time that the page took: the busier the machine, the longer both.
//! Where nobody writes there is none.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after a page, as a multiple of the time it took: writers leave a quarter of the machine to a backup.
const PAUSE_FACTOR: u32 = 3;
/// The longest pause: a page that waited for something else is no reason to wait for long.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Writers are there for so long after a write.
const ACTIVE_FOR: Duration = Duration::from_millis(100);

/// The pace of one backup.
#[derive(Debug, Default)]
pub struct Pace {
    /// How many writes there had been when it looked last, those of other nodes included.
    writes: Option<u64>,
    /// When it saw a write last.
    written_at: Option<Instant>,
}

impl Pace {
    /// How long to wait after a page that took so long. `writes`: how many there have been up to now; `in_progress`: those of clients that have not
    /// ended.
    pub fn pause(&mut self, took: Duration, now: Instant, writes: u64, in_progress: usize) -> Duration {
        let before = self.writes.replace(writes);
        if in_progress > 0 || before.is_some_and(|before| before != writes) {
            self.written_at = Some(now);
        }
        let is_active = self.written_at.is_some_and(|at| now.duration_since(at) < ACTIVE_FOR);
        if is_active { (took * PAUSE_FACTOR).min(PAUSE_MAX) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(2);

    #[test]
    fn a_backup_leaves_most_of_the_machine_to_writers_and_none_to_nobody() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        assert_eq!(pace.pause(TOOK, begin, 7, 0), Duration::ZERO, "earlier writes do not count");
        assert_eq!(pace.pause(TOOK, begin, 8, 0), 3 * TOOK);
        assert_eq!(pace.pause(TOOK, begin + ACTIVE_FOR / 2, 8, 0), 3 * TOOK, "the next one may come at once");
        assert_eq!(pace.pause(TOOK, begin + ACTIVE_FOR, 8, 0), Duration::ZERO);
        assert_eq!(pace.pause(TOOK, begin + 2 * ACTIVE_FOR, 8, 1), 3 * TOOK, "one is not done yet");
        assert_eq!(pace.pause(Duration::from_secs(9), begin, 9, 0), PAUSE_MAX);
    }
}
