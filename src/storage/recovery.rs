//! The commit thread of a store: it syncs for those who wait, and when the disk fails it brings the store back without a restart.

use std::{sync::PoisonError, time::Duration};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    META, Store,
    commit::Round,
    engine::{self, Engine},
    fresh_epoch, open,
    trees::Trees,
};
use crate::error::{Error, Result};

/// How often a store whose disk fails is tried again.
const RECOVERY_PAUSE: Duration = Duration::from_millis(250);

impl Store {
    /// The commit thread.
    pub(super) fn run_commits(&self) {
        loop {
            match self.0.around.committer.next_round() {
                Round::Sync(waiters) => self.commit(waiters),
                Round::Recover => {
                    if !self.recover() {
                        return;
                    }
                }
                Round::Stop => return,
            }
        }
    }

    /// Makes everything so far durable, for those who wait.
    pub(super) fn commit(&self, waiters: Vec<oneshot::Sender<Result<()>>>) {
        let result = self.with_engine(Engine::sync);
        self.counters().commits.increment();
        if let Err(error) = &result {
            error!(%error, "a commit failed: writes are refused until the storage recovers");
            self.0.around.committer.fail(&match error {
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
    fn recover(&self) -> bool {
        warn!(reason = self.failure(), "writes are refused; reads and subscriptions go on");
        loop {
            if !self.0.around.committer.pause(RECOVERY_PAUSE) {
                return false;
            }
            if open::probe(&self.0.options.data).is_err() {
                continue;
            }
            match self.reopen() {
                Ok(()) => {
                    self.0.around.committer.recover();
                    info!("the storage was opened again; writes are taken");
                    return true;
                }
                Err(error) => error!(%error, "the storage does not open again yet"),
            }
        }
    }

    fn reopen(&self) -> Result<()> {
        // None is made meanwhile, as writes are refused. Readers of one wait only for its own turn.
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        tables.iter().for_each(|table| table.close());
        let mut slot = self.0.engine.write().unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
        engine::forget_cached(&self.0.options.data)?;
        let engine = open::engine(&self.0.options.data, self.0.options.cache_bytes)?;
        let mut opened = Vec::new();
        for table in &tables {
            let dictionaries = open::read_dictionaries(&engine.tree(META)?, table.name())?;
            opened.push((Trees::open(&engine, table.name())?, dictionaries));
        }
        *slot = Some(engine);
        drop(slot);
        let epoch = fresh_epoch(&self.0.options.machine)?;
        for (table, (trees, dictionaries)) in tables.iter().zip(opened) {
            table.reopen(trees, dictionaries);
        }
        // What was visible and not yet durable is gone: whoever saw it must look again, now that there is something to see.
        self.0.hub.renew(epoch);
        // What was removed may be back.
        self.sweep_again();
        tables.iter().try_for_each(|table| self.start_pump(table))
    }
}
