//! Watches how much memory the process really uses, and says when it nears its limit: the system would kill it beyond that, in the
//! middle of whatever it does.

use std::{fs, io, path::Path, thread, time::Duration};

use tracing::{info, warn};

use crate::{
    config::memory::{self, Group, Limit, Shares, Source},
    core::memory_pressure::{Level, MemoryPressure},
    error::{Error, Result},
};

/// How often it looks: between two looks the bodies on their way can take no more than their share.
const EVERY: Duration = Duration::from_millis(50);
/// While less than half of the limit is used it looks when half of it could be used, had memory been taken at this rate since; and at least
/// this often. Each look costs an idle node some processor time.
const TAKEN_BYTES_PER_S: u64 = 512 << 20;
const SELDOM: Duration = Duration::from_secs(1);
/// From these percentages of the limit on, memory is scarce, or nearly gone.
const HIGH_PERCENT: u64 = 80;
const CRITICAL_PERCENT: u64 = 90;
/// What the opening of a store may take of the limit: as much again is for the work.
const OPENED_PERCENT_MAX: u64 = 50;
/// What a node without rows takes, and how many bytes of log one byte of memory stands for: a million rows of 350 bytes have a log
/// of 286 MiB, and take 75 MiB once they are open.
const EMPTY_BYTES: u64 = 4 << 20;
const LOG_BYTES_PER_BYTE: u64 = 4;
const PAGE_BYTES: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Says what memory there is, for the first line of the log.
pub fn describe(limit: &Limit) -> String {
    format!("{} MiB ({})", limit.bytes / MIB, limit.source)
}

/// Says what memory there is, and which share of it each part gets.
pub fn describe_shares(limit: &Limit, shares: &Shares) -> String {
    let mib = |bytes: u64| bytes / MIB;
    format!(
        "{}: cache {} MiB, decoded values {} MiB, changes for subscribers {} MiB, bodies and answers {} MiB, one body {} MiB",
        describe(limit),
        mib(shares.cache),
        mib(shares.decoded),
        mib(shares.changes),
        mib(shares.bodies),
        mib(shares.body_max)
    )
}

/// What to warn of where `--memory-budget` promises more than there is.
pub fn more_than_there_is(setting: Option<u64>, limit: &Limit) -> Option<String> {
    let setting = setting.filter(|&bytes| bytes > limit.bytes)?;
    Some(format!(
        "--memory-budget {} MiB is more than there is: the node uses {}",
        setting / MIB,
        describe(limit)
    ))
}

/// What to warn of before a store is opened whose log is so long that the opening may already be too much, as the system kills the
/// process then without a word.
pub fn too_small_to_open(limit: &Limit, data: &Path) -> Option<String> {
    let log_bytes = fs::metadata(data.join("db")).map_or(0, |log| log.len());
    warning_of_opening(limit.bytes, log_bytes)
}

fn warning_of_opening(limit_bytes: u64, log_bytes: u64) -> Option<String> {
    let needed_bytes = EMPTY_BYTES + log_bytes / LOG_BYTES_PER_BYTE;
    if needed_bytes * 100 <= limit_bytes * HIGH_PERCENT {
        return None;
    }
    Some(format!(
        "a memory of {} MiB may be too small to open a store with a log of {} MiB, and the system then kills the node: give it {} MiB",
        limit_bytes / MIB,
        log_bytes / MIB,
        enough(needed_bytes) / MIB
    ))
}

/// The limit that leaves as much again for work.
fn enough(used_bytes: u64) -> u64 {
    (used_bytes * 100 / OPENED_PERCENT_MAX).next_multiple_of(64 * MIB)
}

/// What to warn of where an opened store takes so much of the limit that little is left for work; with the limit that would do.
pub fn too_small(limit: &Limit) -> Option<String> {
    warning(limit.bytes, used_bytes(&limit.source)?)
}

fn warning(limit_bytes: u64, used_bytes: u64) -> Option<String> {
    if used_bytes * 100 <= limit_bytes * OPENED_PERCENT_MAX {
        return None;
    }
    Some(format!(
        "a memory of {} MiB is too small for what is stored: {} MiB are used before any request; give the node {} MiB",
        limit_bytes / MIB,
        used_bytes / MIB,
        enough(used_bytes) / MIB
    ))
}

/// Watches until the process ends.
///
/// # Errors
/// `Io` where no thread can be started.
pub fn watch(limit: Limit, pressure: MemoryPressure) -> Result<()> {
    let watching = thread::Builder::new().name("memory".into());
    let spawned: io::Result<_> = watching.spawn(move || {
        let mut level = Level::Low;
        loop {
            // Where a look fails, as there is no file left to open, the level stays as it is until one succeeds.
            let Some(used_bytes) = used_bytes(&limit.source) else {
                thread::sleep(SELDOM);
                continue;
            };
            pressure.set_used_bytes(used_bytes);
            let now = level_of(limit.bytes, used_bytes, level);
            if now != level {
                tell(now, level, limit.bytes, used_bytes);
                pressure.set(now);
                level = now;
            }
            thread::sleep(pause(limit.bytes, used_bytes));
        }
    });
    spawned.map(drop).map_err(|error| Error::io("cannot start a thread", &error))
}

/// How long it may be until the next look.
fn pause(limit_bytes: u64, used_bytes: u64) -> Duration {
    let room_bytes = (limit_bytes / 2).saturating_sub(used_bytes);
    Duration::from_millis(room_bytes.saturating_mul(1_000) / TAKEN_BYTES_PER_S).clamp(EVERY, SELDOM)
}

fn tell(now: Level, before: Level, limit_bytes: u64, used_bytes: u64) {
    let (used, limit) = (used_bytes / MIB, limit_bytes / MIB);
    match now {
        Level::Critical => {
            warn!("{used} of {limit} MiB of memory are used: writes are refused until it is less");
        }
        Level::High if before == Level::Low => {
            info!(
                "{used} of {limit} MiB of memory are used: long bodies and answers are refused, and imports wait"
            );
        }
        Level::High | Level::Low => info!("{used} of {limit} MiB of memory are used"),
    }
}

/// A level ends somewhat below where it began, so that it does not come and go.
fn level_of(limit_bytes: u64, used_bytes: u64, before: Level) -> Level {
    let reaches = |percent: u64, level: Level| {
        let percent = if before >= level { percent - 4 } else { percent };
        used_bytes.saturating_mul(100) >= limit_bytes.saturating_mul(percent)
    };
    if reaches(CRITICAL_PERCENT, Level::Critical) {
        Level::Critical
    } else if reaches(HIGH_PERCENT, Level::High) {
        Level::High
    } else {
        Level::Low
    }
}

/// The bytes that count against the limit and that the system cannot take back; `None` where it does not say.
fn used_bytes(source: &Source) -> Option<u64> {
    let own = of_process(&fs::read_to_string("/proc/self/statm").ok()?)?;
    let in_group = match source {
        Source::ControlGroup(group) => of_group(group),
        Source::Setting | Source::Machine => None,
    };
    Some(own.max(in_group.unwrap_or(0)))
}

fn of_process(statm: &str) -> Option<u64> {
    let mut pages = statm.split(' ').skip(1).map(|field| field.parse::<u64>().ok());
    let (resident, of_files) = (pages.next()??, pages.next()??);
    Some(resident.saturating_sub(of_files) * PAGE_BYTES)
}

fn of_group(group: &Group) -> Option<u64> {
    let used = fs::read_to_string(&group.usage).ok()?.trim().parse::<u64>().ok()?;
    let stat = fs::read_to_string(&group.stat).ok()?;
    let figure =
        |name: &str| memory::stat(&stat, &format!("total_{name}")).or_else(|| memory::stat(&stat, name));
    let of_files = figure("inactive_file").unwrap_or(0) + figure("active_file").unwrap_or(0);
    Some(used.saturating_sub(of_files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_at_their_percentage_and_end_below_it() {
        let level = |used, before| level_of(100, used, before);
        assert_eq!((level(79, Level::Low), level(80, Level::Low)), (Level::Low, Level::High));
        assert_eq!((level(76, Level::High), level(75, Level::High)), (Level::High, Level::Low));
        assert_eq!((level(90, Level::High), level(89, Level::High)), (Level::Critical, Level::High));
        assert_eq!((level(86, Level::Critical), level(85, Level::Critical)), (Level::Critical, Level::High));
    }

    #[test]
    fn it_looks_the_more_often_the_nearer_half_of_the_limit_is() {
        let pause = |limit_mib, used_mib| pause(limit_mib * MIB, used_mib * MIB);
        assert_eq!((pause(24_000, 30), pause(128, 64), pause(128, 120)), (SELDOM, EVERY, EVERY));
        assert_eq!(pause(512, 128), Duration::from_millis(250));
    }

    #[test]
    fn what_the_system_can_take_back_does_not_count() {
        assert_eq!(of_process("1000 300 100 5 0 60 0"), Some(200 * PAGE_BYTES));
        let folder = tempfile::tempdir().expect("a directory");
        let group = Group { usage: folder.path().join("usage"), stat: folder.path().join("stat") };
        assert_eq!(of_group(&group), None);
        fs::write(&group.usage, "1000\n").expect("written");
        for (stat, expected) in [
            ("inactive_file 300\nactive_file 200\n", 500),
            ("inactive_file 1\nactive_file 1\ntotal_inactive_file 300\ntotal_active_file 100\n", 600),
        ] {
            fs::write(&group.stat, stat).expect("written");
            assert_eq!(of_group(&group), Some(expected), "{stat}");
        }
        assert!(used_bytes(&Source::Machine).is_some_and(|bytes| bytes > MIB));
    }

    /// A node of 64 MiB on a million rows was killed while it opened them, and its log said nothing of it.
    #[test]
    fn a_log_that_may_be_too_long_to_open_is_told_of_before_with_the_memory_that_would_do() {
        let said = warning_of_opening(64 * MIB, 286 * MIB).expect("a warning");
        assert!(said.contains("64 MiB may be too small") && said.ends_with("give it 192 MiB"), "{said}");
        assert_eq!(warning_of_opening(128 * MIB, 286 * MIB), None);
        assert_eq!(warning_of_opening(64 * MIB, 0), None);
        let folder = tempfile::tempdir().expect("a directory");
        let limit = Limit { bytes: 4 * MIB, source: Source::Setting };
        assert!(too_small_to_open(&limit, folder.path()).is_some_and(|said| said.contains("a log of 0 MiB")));
    }

    #[test]
    fn a_budget_beyond_what_there_is_is_told_of() {
        let limit = Limit { bytes: 128 * MIB, source: Source::Machine };
        assert_eq!(more_than_there_is(None, &limit), None);
        assert_eq!(more_than_there_is(Some(128 * MIB), &limit), None);
        let said = more_than_there_is(Some(256 * MIB), &limit).expect("a warning");
        assert!(said.contains("256 MiB is more") && said.ends_with("128 MiB (machine)"), "{said}");
    }

    #[test]
    fn a_store_that_leaves_no_room_is_told_of_with_the_memory_that_would_do() {
        assert_eq!(warning(128 * MIB, 64 * MIB), None);
        let said = warning(128 * MIB, 100 * MIB).expect("a warning");
        assert!(said.contains("128 MiB is too small") && said.ends_with("give the node 256 MiB"), "{said}");
    }
}
