//! A backup of this node, as lines for whoever stores them; and what the scheduled backups came to.
//!
//! What reads it decides how fast it is, and who writes meanwhile (`backup_pace`): the next page is read when it is asked for. So a backup takes
//! no more memory than a page, and the names of the rows that change meanwhile.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::{Instant, sleep};

use super::{Node, backup_pace::Pace};
use crate::{
    error::{Error, Result},
    replication::strong::backend::read_at_once,
    storage::backup::run::Run,
};

/// A backup that is being read. One at a time of a node.
pub struct BackupLines {
    node: Arc<Node>,
    run: Arc<Mutex<State>>,
    pace: Pace,
}

/// Where it is.
enum State {
    Reading(Box<Run>),
    Cut(Box<Run>),
    Over,
}

impl Node {
    /// Begins a backup of all tables.
    ///
    /// # Errors
    /// `Conflict` if one is running; `Corrupt` if rows cannot be read; `NotReady`.
    pub async fn backup(self: &Arc<Self>) -> Result<BackupLines> {
        let (store, cluster) = (self.store.clone(), format!("{:016x}", self.cluster().cluster));
        let run = self.environment().run(move || Run::begin(&store, cluster)).await?;
        let run = Arc::new(Mutex::new(State::Reading(Box::new(run))));
        Ok(BackupLines { node: self.clone(), run, pace: Pace::default() })
    }
}

impl BackupLines {
    /// The next lines, about a page; `None` after the last.
    ///
    /// # Errors
    /// Those of the storage: then the backup is over, and incomplete.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let run = self.run.clone();
            let began = Instant::now();
            let read = self.node.environment().run(move || lock(&run).read()).await?;
            match read {
                Read::Lines { lines, may_wait } => {
                    if may_wait {
                        self.pause(began).await;
                    }
                    if !lines.is_empty() {
                        return Ok(Some(lines));
                    }
                }
                Read::Cut => self.cut().await?,
                Read::Over => return Ok(None),
            }
        }
    }

    /// Leaves the machine to writers for a while, if there are some.
    async fn pause(&mut self, began: Instant) {
        let now = Instant::now();
        let (writes, in_progress) =
            (self.node.store.counters().writes.value(), self.node.write_tracker.in_progress());
        let pause = self.pace.pause(now.duration_since(began), now, writes, in_progress);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// Makes the cut, where no entry of the strong tables is being applied.
    async fn cut(&self) -> Result<()> {
        let cut = || {
            let run = self.run.clone();
            self.node.environment().run(move || lock(&run).cut())
        };
        match read_at_once(&*self.node.strong, cut).await? {
            Some(()) => Ok(()),
            None => Err(Error::NotReady(
                "the strong tables could not be read as they are at one instant, because the node is busy or takes no writes; try again"
                    .into(),
            )),
        }
    }
}

/// What a step of a backup came to.
enum Read {
    /// `may_wait`: the next ones need not be read at once.
    Lines {
        lines: Vec<u8>,
        may_wait: bool,
    },
    Cut,
    Over,
}

impl State {
    fn read(&mut self) -> Result<Read> {
        match mem::replace(self, Self::Over) {
            Self::Reading(mut run) => Ok(match run.next_page()? {
                Some(lines) => {
                    let may_wait = run.may_wait();
                    *self = Self::Reading(run);
                    Read::Lines { lines, may_wait }
                }
                None => {
                    *self = Self::Reading(run);
                    Read::Cut
                }
            }),
            Self::Cut(run) => run.end().map(|lines| Read::Lines { lines, may_wait: false }),
            Self::Over => Ok(Read::Over),
        }
    }

    /// May be repeated, if an entry was applied in between.
    fn cut(&mut self) -> Result<()> {
        match mem::replace(self, Self::Over) {
            Self::Reading(mut run) | Self::Cut(mut run) => {
                *self = if run.cut()? { Self::Cut(run) } else { Self::Reading(run) };
                Ok(())
            }
            Self::Over => Ok(()),
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    // A step that panicked leaves a backup that is over.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
