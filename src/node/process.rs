//! Figures of the node's process.

use std::fs;

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// The memory of this process in bytes; `None` if the system does not tell.
pub fn memory_bytes() -> Option<u64> {
    fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text))
}

/// The CPU time of this process so far, in seconds: all threads, user and system.
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// How many file descriptors this process has open; `None` if the system does not tell.
pub fn open_descriptors() -> Option<u64> {
    // The one that reads the folder is in it.
    fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1))
}

/// How many it may have open; `None` if there is no limit.
pub fn descriptors_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

fn resident_bytes(status: &str) -> Option<u64> {
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_the_process_has() {
        assert_eq!(resident_bytes("Name:\tDynaRust\nVmRSS:\t   2048 kB\n"), Some(2 << 20));
        assert_eq!(resident_bytes("Name:\tDynaRust\n"), None);
        assert!(memory_bytes().is_none_or(|bytes| bytes > 1 << 20));
        assert!(cpu_seconds() > 0.0);
        let open = open_descriptors();
        assert!(
            open.is_none_or(|open| open >= 3 && descriptors_max().is_none_or(|most| open <= most)),
            "{open:?}"
        );
    }
}
