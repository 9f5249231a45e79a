//! The commit thread: it syncs for waiting writers, and after a disk failure it reopens the store without a restart.

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

/// How often a failed disk is checked for whether it takes data again.
const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Longest pause between two attempts to reopen a store that soon fails again.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A store that took writes for this long after it was reopened has recovered: its next failure counts as a new one.
const STABLE_AFTER: Duration = Duration::from_secs(60);

impl Store {
    /// Runs the commit thread.
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

    /// Makes everything written so far durable and answers `waiters`.
    pub(in crate::storage) fn commit(&self, waiters: Vec<oneshot::Sender<Result<()>>>) {
        let result = self.with_engine(Engine::sync);
        self.counters().commits.increment();
        if let Err(error) = &result {
            error!(%error, "a commit failed; writes are refused until the storage recovers");
            self.0.context.committer.fail(&match error {
                Error::StorageFull(reason) => reason.clone(),
                other => other.to_string(),
            });
        }
        self.0.context.committer.round_ends(waiters.len());
        for waiter in waiters {
            // A client that went away needs no answer.
            let _ = waiter.send(result.clone());
        }
    }

    /// Refuses writes from now on if the engine has failed while nobody asked anything of it. It moves rows by itself, and keeps its first error.
    pub(in crate::storage) fn notice_failure(&self) {
        if self.failure().is_none() {
            // The error is what is noticed. A store that is being reopened has no engine.
            let _ = self.0.context.committer.noticed(self.with_engine(Engine::check));
        }
    }

    /// Reopens the store as soon as the disk takes data. Returns false if the store is to be closed instead.
    fn recover(&self, attempts: &mut Attempts) -> bool {
        warn!(reason = self.failure(), "writes are refused; reads and subscriptions still work");
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
                    info!("the storage was reopened; writes are accepted again");
                    return true;
                }
                Err(error) if !is_logged => error!(%error, "the storage cannot be reopened yet"),
                Err(error) => debug!(%error, "the storage cannot be reopened yet"),
            }
            is_logged = true;
            attempts.failed();
        }
    }

    fn reopen(&self) -> Result<()> {
        // No table is made meanwhile, as writes are refused. Readers of a table wait only while that table is reopened.
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        tables.iter().for_each(|table| table.close());
        let mut slot = self.0.engine.write().unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
        engine::forget_cached(&self.0.options.data)?;
        // What was written after the last successful sync may be gone. What lay before it may not.
        let engine = examine::open_sound(&self.0.options)?;
        // What was accepted before is known, and is no new damage.
        if let Some(recorded) =
            suspected_loss::read(&self.0.options.data)?.filter(|recorded| recorded.concerns_strong)
        {
            self.record_suspected_loss(recorded.reason);
        }
        self.0.context.close_comparison.give_up();
        let mut opened = Vec::new();
        for table in &tables {
            let dictionaries = open::read_dictionaries(&engine.tree(META)?, table.name())?;
            opened.push((Trees::open(&engine, table.name(), table.is_strong())?, dictionaries));
        }
        *slot = Some(engine);
        drop(slot);
        self.rewrite_strong_tables()?;
        let epoch = self.0.options.environment.fresh_epoch()?;
        for (table, (trees, dictionaries)) in tables.iter().zip(opened) {
            table.reopen(trees, dictionaries);
            self.start_pump(table)?;
        }
        // The removal of some may have been lost.
        self.open_tables()?;
        // After the pumps are there: what was written before them is in the snapshots. Values that were visible but not durable are gone: subscribers must resynchronize, now that there is something to read.
        self.0.context.agreed.forget();
        self.0.hub.renew(epoch);
        // Removed rows may be back.
        self.sweep_again();
        Ok(())
    }
}

/// When to reopen a store that failed: as soon as the disk takes data, but ever less often if it opens and fails again.
#[derive(Default)]
struct Attempts {
    /// When the last attempt was made, and how long after it the next one may follow.
    last: Option<(Instant, Duration)>,
}

impl Attempts {
    /// How long to wait before the disk is checked again.
    fn pause(&self, now: Instant) -> Duration {
        let left = self.last.map(|(at, pause)| (at + pause).saturating_duration_since(now));
        left.unwrap_or_default().max(DISK_CHECK_INTERVAL)
    }

    /// Records that the store did not open. Reads wait for it now, so it is retried as often as the disk is checked.
    fn failed(&mut self) {
        self.last = None;
    }

    /// Records an attempt.
    fn begin(&mut self, now: Instant) {
        let last = self.last.filter(|(at, pause)| now.saturating_duration_since(*at) < *pause + STABLE_AFTER);
        self.last = Some((now, last.map_or(DISK_CHECK_INTERVAL, |(_, pause)| (pause * 2).min(PAUSE_MAX))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::protocol::replica::Swept;
    use crate::storage::{
        engine::notes,
        table::{
            mode,
            trees::{ROWS, TOMBSTONES},
        },
        tests::{Fixture, NOW_MS, close, deleted, merge, table, wait_until},
    };

    fn fail_and_reopen(store: &Store) {
        store.fail("a test");
        wait_until("it is open again", || store.failure().is_none());
    }

    /// A table was made strong just before the disk failed, and that did not reach it. The node knew, so it did not write it down again when the
    /// same entry of the log was applied again: after the next start the table was an eventual one.
    #[test]
    fn a_table_that_was_made_strong_stays_strong_if_the_disk_did_not_take_that() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.make_strong(&table()).expect("makes");
        let (note, _) = notes::record(mode::NOTE, &[]);
        store.meta().and_then(|meta| meta.remove(&note)).expect("removes");
        fail_and_reopen(&store);
        assert!(store.is_strong(&table()));
        store.make_strong(&table()).expect("is made");
        close(store);
        let store = fixture.open();
        assert!(store.is_strong(&table()));
        close(store);
    }

    /// A table was removed just before the disk failed, and that did not reach it. The node had no such table, so its tombstones lost their
    /// entries and stayed for ever: its digests differed from those of all other members.
    #[test]
    fn a_table_that_was_removed_is_there_again_if_the_disk_did_not_take_that() {
        let fixture = Fixture::new();
        let store = fixture.open();
        merge(&store, "k", deleted(NOW_MS));
        let items = |tree: &str| -> Vec<_> {
            let tree = store.with_engine(|engine| engine.tree(tree)).expect("is open");
            tree.range(&[], None).map(|item| item.expect("reads")).collect()
        };
        let kept = ["rows/t", TOMBSTONES].map(|tree| (tree, items(tree)));
        store.sweep_to(Swept { tombstones_ms: NOW_MS, expired_ms: 0 });
        wait_until("the table is gone", || !store.has_table(&table()) && !store.is_sweeping());
        for (tree, items) in &kept {
            let tree = store.with_engine(|engine| engine.tree(tree)).expect("is open");
            items.iter().try_for_each(|(key, value)| tree.insert(key, value)).expect("inserts");
        }
        fail_and_reopen(&store);
        wait_until("the tombstone is swept", || items(TOMBSTONES).is_empty());
        store.count_rows().expect("counts");
        let is_gone = || store.with_engine(|engine| Ok(engine.tree_names(ROWS).is_empty()));
        wait_until("the table is removed", || is_gone() == Ok(true));
        close(store);
    }

    /// On a disk that took data and failed again as soon as it was written to, the store was reopened four times a second, and all links
    /// were ended and dialed as often.
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
        // The disk is checked each time, however long it has no room.
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
