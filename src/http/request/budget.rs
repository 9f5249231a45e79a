//! The memory budget for request and response bodies, shared by all connections. A request body reserves its bytes until the request is
//! done, a response body until it is written. When the budget is used up, clients get 503 instead of the node running out of memory.
//!
//! Bodies up to `UNCOUNTED_BYTES_MAX` are not counted. They are part of what a connection costs, and the number of connections has its own
//! limit.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::{
    core::memory_pressure::{Level, MemoryPressure},
    error::{Error, Result},
};

/// Bodies up to this length are not counted. Most are this short, and counting them would cost more than it is worth.
pub const UNCOUNTED_BYTES_MAX: usize = 4 * 1024;
/// A growing body reserves in steps of this size.
const STEP_BYTES: u64 = 64 * 1024;

/// Where memory is scarce, what is longer is refused. A streamed answer takes no more than this at a time, and goes on.
pub const SCARCE_BYTES_MAX: u64 = 256 * 1024;

/// The budget of a server.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    pressure: MemoryPressure,
    used: AtomicU64,
    refused: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes, as long as the process has enough memory.
    pub fn new(total: u64, pressure: MemoryPressure) -> Arc<Self> {
        Arc::new(Self { total, pressure, used: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// How scarce the memory of the process is.
    pub fn level(&self) -> Level {
        self.pressure.level()
    }

    /// The memory that the process uses, in bytes.
    pub fn process_bytes(&self) -> u64 {
        self.pressure.used_bytes()
    }

    /// Lets a write be made.
    ///
    /// # Errors
    /// `Overloaded` where the memory of the process is nearly used up.
    pub fn admit_write(&self) -> Result<()> {
        match self.level() {
            Level::Low | Level::High => Ok(()),
            Level::Critical => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Error::Overloaded(
                    "the memory of this node is nearly used up (--memory-budget): try again, or another node"
                        .into(),
                ))
            }
        }
    }

    /// Its size in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The bytes reserved now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many reservations failed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A reservation of no bytes yet, to be grown.
    pub fn empty_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0, waits: false }
    }

    /// The same for a request that goes on bit by bit, and itself waits where memory is scarce: it is not refused for its length.
    pub fn waiting_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0, waits: true }
    }

    /// Reserves bytes.
    ///
    /// # Errors
    /// `Overloaded` if they are not available.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        let mut reservation = self.empty_reservation();
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Reserves bytes even beyond the budget: for a part of a response that has begun.
    pub fn force_reserve(self: &Arc<Self>, bytes: u64) -> Reservation {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Reservation { budget: Arc::clone(self), bytes, waits: false }
    }
}

/// Reserved bytes; released when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
    waits: bool,
}

impl Reservation {
    /// Reserves more bytes.
    ///
    /// # Errors
    /// `Overloaded` if they are not available; the reservation then stays as it was.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        let budget = &self.budget;
        if budget.level() > Level::Low && !self.waits && self.bytes.saturating_add(bytes) > SCARCE_BYTES_MAX {
            budget.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Overloaded(
                "the memory of this node is nearly used up (--memory-budget), and this is long: try again, or another node"
                    .into(),
            ));
        }
        let used = budget.used.fetch_add(bytes, Ordering::Relaxed);
        if used.saturating_add(bytes) > budget.total {
            budget.used.fetch_sub(bytes, Ordering::Relaxed);
            budget.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Overloaded(format!(
                "this node's memory for request and response bodies is used up ({} of {} bytes, --body-memory): try again, or use \
                 another node",
                used, budget.total
            )));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Grows the reservation to at least `bytes`, unless `bytes` is short enough not to count.
    ///
    /// # Errors
    /// As `grow`.
    pub fn reserve_at_least(&mut self, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        if bytes <= self.bytes || bytes <= UNCOUNTED_BYTES_MAX as u64 {
            return Ok(());
        }
        self.grow((bytes - self.bytes).next_multiple_of(STEP_BYTES))
    }

    /// The budget it belongs to.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Attaches a reservation to bytes. It is released when the last copy of the bytes is dropped.
pub fn attach(bytes: Bytes, reservation: impl Send + Sync + 'static) -> Bytes {
    struct Attached<H> {
        bytes: Bytes,
        _held: H,
    }
    impl<H> AsRef<[u8]> for Attached<H> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Attached { bytes, _held: reservation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_and_no_more_is_given_than_there_is() {
        let budget = Budget::new(100_000, MemoryPressure::default());
        let mut one = budget.reserve(60_000).expect("there is room");
        assert!(matches!(budget.reserve(40_001), Err(Error::Overloaded(_))));
        assert!(matches!(one.grow(50_000), Err(Error::Overloaded(_))));
        assert_eq!((budget.used(), one.bytes(), budget.refused()), (60_000, 60_000, 2));
        let other = budget.reserve(40_000).expect("it just fits");
        drop(one);
        drop(budget.force_reserve(1_000_000));
        assert_eq!(budget.used(), 40_000);
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn where_memory_is_scarce_long_bodies_are_refused_and_then_writes() {
        let pressure = MemoryPressure::default();
        let budget = Budget::new(1 << 20, pressure.clone());
        let mut reservation = budget.reserve(100_000).expect("there is room");
        let mut waiting = budget.waiting_reservation();
        pressure.set(Level::High);
        assert!(budget.reserve(SCARCE_BYTES_MAX).is_ok());
        assert!(matches!(reservation.reserve_at_least(300_000), Err(Error::Overloaded(_))));
        assert_eq!(waiting.reserve_at_least(300_000), Ok(()));
        assert_eq!(
            (reservation.reserve_at_least(UNCOUNTED_BYTES_MAX), budget.admit_write()),
            (Ok(()), Ok(()))
        );
        pressure.set(Level::Critical);
        assert!(matches!(budget.admit_write(), Err(Error::Overloaded(_))));
        pressure.set(Level::Low);
        assert_eq!((reservation.reserve_at_least(300_000), budget.refused()), (Ok(()), 2));
    }

    #[test]
    fn what_grows_takes_steps_and_what_is_short_takes_nothing() {
        let budget = Budget::new(1 << 20, MemoryPressure::default());
        let mut reservation = budget.empty_reservation();
        reservation.reserve_at_least(UNCOUNTED_BYTES_MAX).expect("free");
        assert_eq!(budget.used(), 0);
        reservation.reserve_at_least(UNCOUNTED_BYTES_MAX + 1).expect("the budget has room");
        reservation.reserve_at_least(STEP_BYTES as usize).expect("already reserved");
        assert_eq!(budget.used(), STEP_BYTES);
    }

    #[test]
    fn bytes_hold_their_share_until_the_last_copy_is_gone() {
        let budget = Budget::new(100, MemoryPressure::default());
        let bytes = attach(Bytes::from_static(b"abc"), budget.reserve(3).expect("there is room"));
        let copy = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&copy[..], budget.used()), (&b"bc"[..], 3));
        drop(copy);
        assert_eq!(budget.used(), 0);
    }
}
