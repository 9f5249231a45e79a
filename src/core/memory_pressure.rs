//! How near the process is to the end of its memory, as whoever measures it says and all others see it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

/// How scarce memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is enough.
    #[default]
    Low,
    /// Long bodies and answers are refused, and imports wait.
    High,
    /// Every write by a client is refused.
    Critical,
}

/// The present level and use. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryPressure(Arc<Measured>);

#[derive(Debug, Default)]
struct Measured {
    level: AtomicU8,
    used_bytes: AtomicU64,
}

impl MemoryPressure {
    /// The present level.
    pub fn level(&self) -> Level {
        match self.0.level.load(Ordering::Relaxed) {
            0 => Level::Low,
            1 => Level::High,
            _ => Level::Critical,
        }
    }

    /// Sets the level.
    pub fn set(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    /// The memory in use that the system cannot take back, in bytes, as last measured; 0 before.
    pub fn used_bytes(&self) -> u64 {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    /// Sets what was measured.
    pub fn set_used_bytes(&self, bytes: u64) {
        self.0.used_bytes.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_seen_by_all_who_share_it() {
        let pressure = MemoryPressure::default();
        let other = pressure.clone();
        for level in [Level::Critical, Level::High, Level::Low] {
            pressure.set(level);
            assert_eq!(other.level(), level);
        }
        assert!(Level::Low < Level::High && Level::High < Level::Critical);
        pressure.set_used_bytes(7);
        assert_eq!(other.used_bytes(), 7);
    }
}
