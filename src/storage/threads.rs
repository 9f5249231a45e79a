//! The threads of a store: started here, and reported if one panics, since its work then stops.

use std::{
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, MutexGuard, PoisonError, mpsc},
    thread,
};

use tracing::error;

use super::{Store, Threads, gc, repair::scrub::Scrub, table::jobs::RepairJob};
use crate::error::{Error, Result};

/// Stack of a pump: there may be a thousand of them.
const PUMP_STACK_BYTES: usize = 256 * 1024;

impl Store {
    /// Does the work of the store's threads, in an environment without them: commits for waiting writers, and collects garbage.
    pub fn work(&self) {
        let waiters = self.0.context.committer.waiters();
        if !waiters.is_empty() {
            self.commit(waiters);
        }
        if let Some(sweeper) = self.sweeper().as_mut() {
            sweeper.run_due(self);
        }
        let damage = self.repairer().as_ref().and_then(|damage| damage.try_recv().ok());
        if let Some(damage) = damage {
            self.repair(damage, &mut BTreeSet::new());
        }
    }

    /// Which thread of the storage ended without being told to, if one did.
    pub fn stopped_thread(&self) -> Option<String> {
        let stopped = self.0.stopped.get()?;
        Some(format!(
            "the {stopped} thread of the storage has stopped: start the node again, and report what its log says"
        ))
    }

    /// Starts the threads that commit, collect garbage, scrub and repair, or keeps their work for [`Store::work`].
    pub(super) fn start_threads(&self, sweeper: gc::Worker, damage: mpsc::Receiver<RepairJob>) -> Result<()> {
        match self.environment().threads() {
            Threads::Many => {
                let (committing, sweeping, repairing) = (self.clone(), self.clone(), self.clone());
                self.spawn("commit", move || committing.run_commits())?;
                self.spawn("sweep", move || sweeper.run(&sweeping))?;
                self.start_scrub()?;
                self.spawn("repair", move || repairing.run_repairs(&damage))
            }
            Threads::One => {
                *self.sweeper() = Some(sweeper);
                *self.repairer() = Some(damage);
                Ok(())
            }
        }
    }

    fn start_scrub(&self) -> Result<()> {
        let rate = self.0.options.scrub_bytes_per_second;
        if rate == 0 {
            return Ok(());
        }
        let (stop, stopped) = mpsc::channel();
        *self.0.scrub.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
        let scrubbing = self.clone();
        self.spawn("scrub", move || Scrub::new(rate).run(&scrubbing, &stopped))
    }

    pub(super) fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let (name, inner) = (name.to_owned(), Arc::downgrade(&self.0));
        let run = {
            let name = name.clone();
            move || {
                if panic::catch_unwind(AssertUnwindSafe(run)).is_err()
                    && let Some(inner) = inner.upgrade()
                {
                    error!(thread = name, "a thread of the storage panicked");
                    let _ = inner.stopped.set(name);
                }
            }
        };
        let thread = thread::Builder::new().name(name.clone()).stack_size(PUMP_STACK_BYTES).spawn(run);
        let thread = thread.map_err(|e| Error::io(format_args!("starting the {name} thread"), &e))?;
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    pub(super) fn sweeper(&self) -> MutexGuard<'_, Option<gc::Worker>> {
        // A turn that panicked is started again.
        self.0.sweeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn repairer(&self) -> MutexGuard<'_, Option<mpsc::Receiver<RepairJob>>> {
        // Nothing is changed under it.
        self.0.repairer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
