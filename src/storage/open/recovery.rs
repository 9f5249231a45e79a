//! The commit thread of a store: it syncs for those who wait, and when the disk fails it brings the store back without a restart.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use crate::{
    error::{Error, Result},
    storage::{
        META, Store,
        commit::Round,
        engine::{self, Engine, suspected_loss},
        open::{self, examine},
        table::trees::Trees,
    },
};

/// How often it is looked whether a disk that failed takes data again.
const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The longest pause between two attempts to open a store again that fails soon after.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A store that took writes for so long after it was opened again has recovered: its next failure is another.
const STABLE_AFTER: Duration = Duration::from_secs(60);

impl Store {
    /// The commit thread.
    pub(in crate::storage) fn run_commits(&self) {
        let mut attempts = Attempts::default();
        loop {
            match self.0.context.committer.next_round() {
                Round::Sync(waiters) => self.commit(waiters),
                Round::Recover => {
                    if !self.recover(&mut attempts) {
                        return;
                    }
                }
                Round::Stop => return,
            }
        }
    }

    /// Makes everything so far durable, for those who wait.
    pub(in crate::storage) fn commit(&self, waiters: Vec<oneshot::Sender<Result<()>>>) {
        let result = self.with_engine(Engine::sync);
        self.counters().commits.increment();
        if let Err(error) = &result {
            error!(%error, "a commit failed: writes are refused until the storage recovers");
            self.0.context.committer.fail(&match error {
                Error::StorageFull(reason) => reason.clone(),
                other => other.to_string(),
            });
        }
        for waiter in waiters {
            // A client that went away wants no answer.
            let _ = waiter.send(result.clone());
        }
    }

    /// Opens the store again as soon as the disk takes data. False where the store is to be closed instead.
    fn recover(&self, attempts: &mut Attempts) -> bool {
        warn!(reason = self.failure(), "writes are refused; reads and subscriptions go on");
        let mut is_logged = false;
        loop {
            if !self.0.context.committer.pause(attempts.pause(Instant::now())) {
                return false;
            }
            if open::probe(&self.0.options.data).is_err() {
                continue;
            }
            attempts.begin(Instant::now());
            match self.reopen() {
                Ok(()) => {
                    self.0.context.committer.recover();
                    info!("the storage was opened again; writes are taken");
                    return true;
                }
                Err(error) if !is_logged => error!(%error, "the storage does not open again yet"),
                Err(error) => debug!(%error, "the storage does not open again yet"),
            }
            is_logged = true;
            attempts.failed();
        }
    }

    fn reopen(&self) -> Result<()> {
        // None is made meanwhile, as writes are refused. Readers of one wait only for its own turn.
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        tables.iter().for_each(|table| table.close());
        let mut slot = self.0.engine.write().unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
        engine::forget_cached(&self.0.options.data)?;
        // What was written behind the last sync that succeeded may be gone. What lay before it may not.
        let engine = examine::open_sound(&self.0.options)?;
        if let Some(why) = suspected_loss::read(&self.0.options.data)? {
            self.record_suspected_loss(why);
        }
        self.0.context.close_comparison.give_up();
        let mut opened = Vec::new();
        for table in &tables {
            let dictionaries = open::read_dictionaries(&engine.tree(META)?, table.name())?;
            opened.push((Trees::open(&engine, table.name())?, dictionaries));
        }
        *slot = Some(engine);
        drop(slot);
        let epoch = self.0.options.environment.fresh_epoch()?;
        for (table, (trees, dictionaries)) in tables.iter().zip(opened) {
            table.reopen(trees, dictionaries);
        }
        // What was visible and not yet durable is gone: whoever saw it must look again, now that there is something to see.
        self.0.context.agreed.forget();
        self.0.hub.renew(epoch);
        // What was removed may be back.
        self.sweep_again();
        tables.iter().try_for_each(|table| self.start_pump(table))
    }
}

/// When a store that failed is to be opened again: as soon as the disk takes data; later and later where it opens and fails again.
#[derive(Default)]
struct Attempts {
    /// When the last was made, and how long after it the next may be.
    last: Option<(Instant, Duration)>,
}

impl Attempts {
    /// How long to wait before the next look at the disk.
    fn pause(&self, now: Instant) -> Duration {
        let left = self.last.map(|(at, pause)| (at + pause).saturating_duration_since(now));
        left.unwrap_or_default().max(DISK_CHECK_INTERVAL)
    }

    /// Notes that the store did not open. Reads wait for it now: it is tried as often as the disk is looked at.
    fn failed(&mut self) {
        self.last = None;
    }

    /// Notes an attempt.
    fn begin(&mut self, now: Instant) {
        let last = self.last.filter(|(at, pause)| now.saturating_duration_since(*at) < *pause + STABLE_AFTER);
        self.last = Some((now, last.map_or(DISK_CHECK_INTERVAL, |(_, pause)| (pause * 2).min(PAUSE_MAX))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that takes data and fails again as soon as it is written to had the store opened four times a second, and all links
    /// ended and dialed as often.
    #[test]
    fn a_store_that_keeps_failing_is_reopened_less_often_and_a_stable_one_at_once() {
        let mut attempts = Attempts::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let pause = attempts.pause(now);
            now += pause;
            pauses.push(pause.as_millis());
            attempts.begin(now);
        }
        assert_eq!(pauses, [250, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        // The disk is looked at each time, however long there is no room.
        now += PAUSE_MAX;
        assert_eq!(attempts.pause(now), DISK_CHECK_INTERVAL);
        now += STABLE_AFTER;
        attempts.begin(now);
        assert_eq!(attempts.pause(now), DISK_CHECK_INTERVAL);
        attempts.begin(now);
        assert_eq!(attempts.pause(now), 2 * DISK_CHECK_INTERVAL);
        attempts.failed();
        assert_eq!(attempts.pause(now), DISK_CHECK_INTERVAL);
    }
}
