//! Figures of the node's process.

use std::fs;

/// The memory of this process in bytes; `None` if the system does not tell.
pub fn memory_bytes() -> Option<u64> {
    fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text))
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
    }
}
