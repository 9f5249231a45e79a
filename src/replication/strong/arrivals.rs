//! Rows of the table of the etcd API that come from another member past the log, in a snapshot or a repair.
//!
//! They come one after the other, and some are newer than what the log was applied up to. So from the first of them until all is applied that the
//! leader had when the last one came, the rows of this node are no state of the log, and nothing is read from them. That outlives a restart.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{error::Result, storage::Store};

/// The note that there are some which are not settled.
const NOTE: &str = "strong/etcd-rows-arrive";

/// How often rows came, and how many of these are settled: all was applied since that the leader had.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<Counts>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    begun: u64,
    settled: u64,
}

impl Arrivals {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on where this node was when it stopped.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn reopen(&self, store: &Store) -> Result<()> {
        if store.note(NOTE)?.is_some_and(|note| !note.is_empty()) {
            self.counts().begun += 1;
        }
        Ok(())
    }

    /// Rows are going to be others.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn begin(&self, store: &Store) -> Result<()> {
        let mut counts = self.counts();
        if counts.begun == counts.settled {
            store.set_note(NOTE, &[1])?;
        }
        counts.begun += 1;
        Ok(())
    }

    /// How many there were, for `settle` and `is_settled`.
    pub fn count(&self) -> u64 {
        self.counts().begun
    }

    /// All was applied that the leader had after the first `count` of them.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn settle(&self, store: &Store, count: u64) -> Result<()> {
        let mut counts = self.counts();
        if count > counts.settled {
            if count == counts.begun {
                store.set_note(NOTE, &[])?;
            }
            counts.settled = count;
        }
        Ok(())
    }

    /// Whether the first `count` of them are settled, and there were no more.
    pub fn is_settled(&self, count: u64) -> bool {
        let counts = self.counts();
        counts.settled == count && counts.begun == count
    }
}
