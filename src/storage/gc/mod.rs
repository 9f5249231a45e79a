//! The garbage collector: one worker does what the storage has to do besides requests. It announces expired values to subscribers; it
//! removes *garbage*, which is tombstones and expired values that the removal floors have passed, so that every replica has them; it
//! removes tables without rows; and it trains a table's dictionary when enough values were collected.
//!
//! Garbage passes through trees ordered by time, so that nothing is scanned and nothing held in memory:
//!
//! - `expiry`: values that will expire, by that instant. When it comes, subscribers are told, and the entry moves to
//! - `expired`: expired values, by the floor of expired values at which they may be removed.
//! - `tombstones`: tombstones, by when they were written; the floor of tombstones has to pass that.
//!
//! Entries are inserted before their rows, and removed under the lock of the row's partition. An entry whose row was rewritten since is
//! skipped.

mod expiry;
mod reindex;
mod removal;

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

use tracing::{error, info};

pub use self::reindex::INDEXED_KEY;
use self::reindex::Indexing;
pub use super::table::floors::{Floors, read_swept, write_floors};
use super::{
    Store,
    table::{codec::Samples, due_index::WORKER_SLEEP_MAX, jobs::GcJob},
};
use crate::{
    core::name::TableName,
    error::{Error, Result},
};

/// Longest sleep after a turn that took longer than that.
const SLEEP_AFTER_LONG_TURN: Duration = Duration::from_millis(100);
/// Rows handled before the worker looks for other work.
const SWEEP_ROWS_MAX: usize = 1000;

/// When a part of the worker's own work wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// At once: there is more to do.
    Now,
    /// At this Unix millisecond.
    At(u64),
    /// When somebody wakes the worker, or after the longest sleep.
    Later,
}

/// Does all of this work, in turns.
pub struct Worker {
    jobs: Receiver<GcJob>,
    indexing: Indexing,
    /// Unix milliseconds of the next turn, if nobody wakes it before.
    due_ms: u64,
}

impl Worker {
    /// Makes a worker that takes these jobs.
    pub fn new(jobs: Receiver<GcJob>) -> Self {
        Self { jobs, indexing: Indexing::default(), due_ms: 0 }
    }

    /// Works until it is told to stop.
    pub fn run(mut self, store: &Store) {
        loop {
            // From its beginning: what came since then relies on being looked at within the longest sleep.
            let begun = Instant::now();
            let sleep = self.turn(store);
            let longest = WORKER_SLEEP_MAX.saturating_sub(begun.elapsed()).max(SLEEP_AFTER_LONG_TURN);
            if !work(store, self.jobs.recv_timeout(sleep.min(longest)), &self.jobs) {
                return;
            }
        }
    }

    /// Does what is due now, without waiting.
    pub fn run_due(&mut self, store: &Store) {
        let called = match self.jobs.try_recv() {
            Ok(job) => work(store, Ok(job), &self.jobs),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => false,
        };
        if called || self.due_ms <= store.now_ms() {
            let sleep = self.turn(store);
            self.due_ms = store.now_ms() + sleep.as_millis() as u64;
        }
    }

    /// One turn of each part. Returns how long nothing more is due.
    fn turn(&mut self, store: &Store) -> Duration {
        store.notice_failure();
        // An error of one part does not keep the others from their work.
        let turns = [
            (expiry::announce(store), "announcing expired values failed"),
            (self.indexing.step(store), "indexing tombstones failed"),
            (removal::remove(store, self.indexing.is_done()), "removing garbage failed"),
            (store.remove_empty_tables().map(|()| Turn::Later), "removing tables without rows failed"),
        ];
        let sleeps = turns.into_iter().map(|(turn, failed)| sleep(store, turn, failed));
        sleeps.min().unwrap_or(WORKER_SLEEP_MAX)
    }
}

fn sleep(store: &Store, turn: Result<Turn>, failed: &str) -> Duration {
    match turn {
        Ok(Turn::Now) => Duration::ZERO,
        Ok(Turn::At(at_ms)) => {
            Duration::from_millis(at_ms.saturating_sub(store.now_ms())).min(WORKER_SLEEP_MAX)
        }
        Ok(Turn::Later) => WORKER_SLEEP_MAX,
        // Writes are refused until the disk has room. Expired values are hidden anyway, and garbage is removed later.
        Err(Error::StorageFull(_) | Error::NotReady(_)) => WORKER_SLEEP_MAX,
        Err(error) => {
            error!(%error, "{failed}");
            if matches!(error, Error::Corrupt(_)) {
                store.report_damage();
            }
            WORKER_SLEEP_MAX
        }
    }
}

/// Does the first job and all others that have arrived. Returns false on `Stop`.
fn work(
    store: &Store,
    mut next: std::result::Result<GcJob, RecvTimeoutError>,
    jobs: &Receiver<GcJob>,
) -> bool {
    loop {
        match next {
            Ok(GcJob::Train(table, samples)) => train(store, &table, &samples),
            // A busy writer wakes the worker often: one turn serves all of that.
            Ok(GcJob::Wake) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Ok(GcJob::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
        next = jobs.recv_timeout(Duration::ZERO);
    }
}

fn train(store: &Store, name: &TableName, samples: &Samples) {
    match store.train(name, samples) {
        Ok(()) => info!(table = %name, samples = samples.count(), "trained a dictionary"),
        // Values stay larger than necessary; the next start collects samples again.
        Err(error) => info!(table = %name, %error, "no dictionary could be trained"),
    }
}

#[cfg(test)]
mod tests;
