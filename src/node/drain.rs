//! The gate that all writes of clients pass: shut, it lets no more in, and tells when the last one that is on its way is done.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::interval;

use crate::error::{Error, Result};

/// How often it is looked whether writes are still on their way.
const LOOK: Duration = Duration::from_millis(5);

/// The gate. Open at first.
#[derive(Default)]
pub struct Gate {
    passing: AtomicUsize,
    is_shut: AtomicBool,
}

/// A write on its way; done when this is dropped.
pub struct Passing<'a>(&'a Gate);

impl Gate {
    /// Lets a write in.
    ///
    /// # Errors
    /// `Draining` where it is shut.
    pub fn pass(&self) -> Result<Passing<'_>> {
        // Counted before the look: whoever shuts the gate waits for all that were counted.
        self.passing.fetch_add(1, Ordering::AcqRel);
        let passing = Passing(self);
        if self.is_shut.load(Ordering::Acquire) { Err(Error::Draining) } else { Ok(passing) }
    }

    /// Lets no more in.
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::Release);
    }

    /// Lets writes in again.
    pub fn open(&self) {
        self.is_shut.store(false, Ordering::Release);
    }

    /// Returns when no write is on its way.
    pub async fn cleared(&self) {
        let mut looks = interval(LOOK);
        while self.passing.load(Ordering::Acquire) > 0 {
            looks.tick().await;
        }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.0.passing.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shut_gate_lets_nobody_in_and_is_cleared_when_the_last_has_passed() {
        let gate = Gate::default();
        let passing = gate.pass().expect("it is open");
        gate.shut();
        assert!(gate.pass().is_err());
        assert!(tokio::time::timeout(2 * LOOK, gate.cleared()).await.is_err());
        drop(passing);
        gate.cleared().await;
        gate.open();
        assert!(gate.pass().is_ok());
    }
}
