//! The memory of bodies and answers, over all connections: each holds its bytes of one budget, a body until it is dealt with, an
//! answer until it is written. Who finds the budget used up is told to come again (503), instead of the node running out of memory.
//!
//! What is shorter than `UNCOUNTED_BYTES_MAX` is not counted: it is part of what a connection costs, whose number has its own limit.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::error::{Error, Result};

/// Bodies and answers up to this length are not counted: most are, and counting costs them more than it says.
pub const UNCOUNTED_BYTES_MAX: usize = 4 * 1024;
/// A body that grows takes its share in steps of this size.
const STEP_BYTES: u64 = 64 * 1024;

/// The budget of a server.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    used: AtomicU64,
    refused: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, used: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// Its bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The bytes that are held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How often there was not enough.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Nothing yet, to be grown.
    pub fn empty_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0 }
    }

    /// Holds so many bytes.
    ///
    /// # Errors
    /// `Overloaded` where they are not there.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        let mut reservation = self.empty_reservation();
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Holds so many bytes, whether or not they are there: for a piece of what was let in already.
    pub fn force_reserve(self: &Arc<Self>, bytes: u64) -> Reservation {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Reservation { budget: Arc::clone(self), bytes }
    }
}

/// Bytes of a budget, until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// Holds so many more.
    ///
    /// # Errors
    /// `Overloaded` where they are not there; what was held stays held.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        let budget = &self.budget;
        let used = budget.used.fetch_add(bytes, Ordering::Relaxed);
        if used.saturating_add(bytes) > budget.total {
            budget.used.fetch_sub(bytes, Ordering::Relaxed);
            budget.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Overloaded(format!(
                "the memory of this node for bodies and answers is used up ({} of {} bytes, --memory-budget): try again, or \
                 another node",
                used, budget.total
            )));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Sees to it that at least `bytes` are held, where they are more than what is free.
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

    /// Of which budget.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Ties what is held to bytes: it is given back when the last who has them lets go of them.
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
        let budget = Budget::new(100_000);
        let mut one = budget.reserve(60_000).expect("there is room");
        assert!(matches!(budget.reserve(40_001), Err(Error::Overloaded(_))));
        assert!(matches!(one.grow(50_000), Err(Error::Overloaded(_))));
        assert_eq!((budget.used(), one.bytes(), budget.refused()), (60_000, 60_000, 2));
        let other = budget.reserve(40_000).expect("just fits");
        drop(one);
        drop(budget.force_reserve(1_000_000));
        assert_eq!(budget.used(), 40_000);
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_grows_takes_steps_and_what_is_short_takes_nothing() {
        let budget = Budget::new(1 << 20);
        let mut reservation = budget.empty_reservation();
        reservation.reserve_at_least(UNCOUNTED_BYTES_MAX).expect("free");
        assert_eq!(budget.used(), 0);
        reservation.reserve_at_least(UNCOUNTED_BYTES_MAX + 1).expect("there is room");
        reservation.reserve_at_least(STEP_BYTES as usize).expect("is held already");
        assert_eq!(budget.used(), STEP_BYTES);
    }

    #[test]
    fn bytes_hold_their_share_until_the_last_copy_is_gone() {
        let budget = Budget::new(100);
        let bytes = attach(Bytes::from_static(b"abc"), budget.reserve(3).expect("there is room"));
        let copy = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&copy[..], budget.used()), (&b"bc"[..], 3));
        drop(copy);
        assert_eq!(budget.used(), 0);
    }
}
