//! The memory of this machine, and the default of `--memory-budget`, which is a share of it.

use std::fs;

/// The budget holds at least this many of the longest bodies, as a batch takes up to four times its length.
pub const BODIES_MIN: u64 = 4;
/// The budget is the memory divided by this. The rest is for the cache, the connections and other programs.
const MEMORY_FRACTION: u64 = 16;
/// The largest default. More would only help clients that send much and read nothing.
const BUDGET_BYTES_MAX: u64 = 1 << 30;
/// The memory we assume if the system does not tell.
const DEFAULT_MEMORY_BYTES: u64 = 2 << 30;

/// The memory of this machine, in bytes.
pub fn memory_bytes() -> u64 {
    // Only Linux has this file.
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_bytes(&text))
        .unwrap_or(DEFAULT_MEMORY_BYTES)
}

/// The default budget for bodies and responses on a machine with `memory_bytes` of memory.
pub fn budget_bytes(memory_bytes: u64, body_bytes_max: u64) -> u64 {
    (memory_bytes / MEMORY_FRACTION).min(BUDGET_BYTES_MAX).max(BODIES_MIN * body_bytes_max)
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_share_and_holds_the_longest_batch() {
        assert_eq!(budget_bytes(8 << 30, 64 << 20), 512 << 20);
        assert_eq!(budget_bytes(512 << 20, 64 << 20), 256 << 20);
        assert_eq!(budget_bytes(1 << 40, 64 << 20), 1 << 30);
        assert_eq!(budget_bytes(1 << 40, 1 << 30), 4 << 30);
    }

    #[test]
    fn the_total_memory_is_read_from_meminfo() {
        assert_eq!(total_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
        assert!(memory_bytes() > 64 << 20);
    }
}
