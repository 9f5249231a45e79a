//! What storage does beside requests, by one worker. At the instant a value expires it tells the subscribers; it removes the
//! rows that are dead on every replica, which the floors say, and the tables that have no rows left; and it trains a table's dictionary when enough values have been
//! seen.
//!
//! A dead row goes through trees in order of time, so that nothing is scanned and nothing held in memory:
//!
//! - `expiry`: values that will expire, by their instant. When that has come, subscribers are told, and the entry moves on to
//! - `expired`: values that nobody sees any more, by when the floor of expired values lets go of them.
//! - `tombstones`: by when they were written, which the floor of tombstones has to pass.
//!
//! Entries go in before their rows, and out under the lock of the row's partition. One whose row has been written again since
//! is passed over.

mod expiry;
mod reindex;
mod removal;

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::Duration,
};

use tracing::{error, info};

pub use self::reindex::INDEXED_KEY;
use self::reindex::Indexing;
pub use super::table::floors::{Floors, read_swept, write_floors};
use super::{
    Store,
    table::{codec::Samples, jobs::GcJob},
};
use crate::{
    core::name::TableName,
    error::{Error, Result},
};

/// How long the worker sleeps at the most: the wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Rows dealt with before the worker looks for other work.
const SWEEP_ROWS_MAX: usize = 1000;

/// When a part of the worker's own work wants its turn again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// At once: there is more to do.
    Now,
    /// At this Unix millisecond.
    At(u64),
    /// When somebody calls, or the longest nap is over.
    Later,
}

/// Does all of it, in turns.
pub struct Worker {
    jobs: Receiver<GcJob>,
    indexing: Indexing,
    /// Unix milliseconds of the next turn, where nobody calls before.
    due_ms: u64,
}

impl Worker {
    /// Does these chores, beside what is due by itself.
    pub fn new(jobs: Receiver<GcJob>) -> Self {
        Self { jobs, indexing: Indexing::default(), due_ms: 0 }
    }

    /// Works until told to stop.
    pub fn run(mut self, store: &Store) {
        loop {
            let sleep = self.turn(store);
            if !work(store, self.jobs.recv_timeout(sleep), &self.jobs) {
                return;
            }
        }
    }

    /// Does what there is to do now, and does not wait.
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

    /// One turn of each part. How long there is nothing more to do.
    fn turn(&mut self, store: &Store) -> Duration {
        // An error of one keeps none of the others from its work.
        let turns = [
            (expiry::announce(store), "telling of expired values failed"),
            (self.indexing.step(store), "indexing tombstones failed"),
            (removal::remove(store, self.indexing.is_done()), "removing dead rows failed"),
            (store.remove_empty_tables().map(|()| Turn::Later), "removing tables without rows failed"),
        ];
        let sleeps = turns.into_iter().map(|(turn, failed)| sleep(store, turn, failed));
        sleeps.min().unwrap_or(SLEEP_MAX)
    }
}

fn sleep(store: &Store, turn: Result<Turn>, failed: &str) -> Duration {
    match turn {
        Ok(Turn::Now) => Duration::ZERO,
        Ok(Turn::At(at_ms)) => Duration::from_millis(at_ms.saturating_sub(store.now_ms())).min(SLEEP_MAX),
        Ok(Turn::Later) => SLEEP_MAX,
        // Writes are refused until the disk has room: expired values are hidden all the same, and dead rows go then.
        Err(Error::StorageFull(_) | Error::NotReady(_)) => SLEEP_MAX,
        Err(error) => {
            error!(%error, "{failed}");
            if matches!(error, Error::Corrupt(_)) {
                store.report_damage();
            }
            SLEEP_MAX
        }
    }
}

/// Does the first chore and all others that have come. False at the end.
fn work(
    store: &Store,
    mut next: std::result::Result<GcJob, RecvTimeoutError>,
    jobs: &Receiver<GcJob>,
) -> bool {
    loop {
        match next {
            Ok(GcJob::Train(table, samples)) => train(store, &table, &samples),
            // Whoever writes much calls often: one look serves all of it.
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
        // Values stay larger than they could be; the next start collects samples again.
        Err(error) => info!(table = %name, %error, "no dictionary"),
    }
}

#[cfg(test)]
mod tests;
