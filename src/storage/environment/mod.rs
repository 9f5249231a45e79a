//! What a node takes of the machine it runs on, beside disk and network: the time, randomness, and threads for what takes long.
//! A simulation gives it others, so that all it does follows from a seed.
//!
//! The system's clock is believed only as far as it can be true; a clock that a test or a simulation gives is taken at its word.

pub mod wall_clock;

use std::{fmt, sync::Arc};

use self::wall_clock::CheckedClock;
use crate::{
    core::{clock::NodeId, wall_clock::Contradiction},
    error::{Error, Result},
};

/// A wall clock: Unix milliseconds.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;
/// Fills a buffer with random bytes.
pub type Randomness = Arc<dyn Fn(&mut [u8]) -> Result<()> + Send + Sync>;

/// Where what takes long is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On threads beside those that serve.
    Many,
    /// In its place, by the one thread that does everything. The storage's own work is done when `Store::work` is called, and a
    /// disk that failed is not tried again.
    One,
}

/// A machine.
#[derive(Clone)]
pub struct Machine {
    now_ms: WallClock,
    checked: Option<Arc<CheckedClock>>,
    random: Randomness,
    threads: Threads,
}

impl Machine {
    /// This machine, by its own clock as far as that is to be believed. Clocks of nodes may be `drift_max_ms` apart.
    pub fn of_system(drift_max_ms: u64) -> Self {
        let clock = Arc::new(CheckedClock::of_system(drift_max_ms));
        let checked = Some(clock.clone());
        Self { checked, ..Self::new(Arc::new(move || clock.now_ms())) }
    }

    /// This machine, by this clock.
    pub fn new(now_ms: WallClock) -> Self {
        Self { now_ms, checked: None, random: Arc::new(system_randomness), threads: Threads::Many }
    }

    /// A machine of which everything is known: by this clock and this randomness, all done by the thread that runs it.
    pub fn simulated(now_ms: WallClock, random: Randomness) -> Self {
        Self { now_ms, checked: None, random, threads: Threads::One }
    }

    /// Its wall clock.
    pub fn clock(&self) -> &WallClock {
        &self.now_ms
    }

    /// Unix milliseconds by its wall clock.
    pub fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    /// Notes what another node's clock showed `ago_ms` ago, in Unix milliseconds, and by how much that may be wrong.
    pub fn observe(&self, node: NodeId, theirs_ms: u64, slack_ms: u64, ago_ms: u64) {
        if let Some(checked) = &self.checked {
            checked.observe(node, theirs_ms, slack_ms, ago_ms);
        }
    }

    /// What most other nodes have against its time; nothing where its clock is not checked.
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.checked.as_ref()?.contradiction()
    }

    /// Whether every other node that was heard of lately is too far apart from its time to take part in anything here. Not where none was
    /// heard of, or its clock is not checked.
    pub fn is_alone(&self) -> bool {
        self.contradiction().is_some_and(|contradiction| contradiction.disagreeing == contradiction.of)
    }

    /// How far the system's clock is ahead of its time, in milliseconds, where that has leapt and is not believed.
    pub fn jumped_ms(&self) -> Option<i64> {
        self.checked.as_ref()?.jumped_ms()
    }

    /// Where it does what takes long.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// Fills a buffer with random bytes.
    ///
    /// # Errors
    /// `Io` where the system has none.
    pub fn fill_random(&self, bytes: &mut [u8]) -> Result<()> {
        (self.random)(bytes)
    }

    /// A random number.
    ///
    /// # Errors
    /// As `fill_random`.
    pub fn random(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// An epoch that no other stream of changes had, as good as surely.
    ///
    /// # Errors
    /// As `fill_random`.
    pub fn fresh_epoch(&self) -> Result<u32> {
        // Any half is as random.
        self.random().map(|number| number as u32)
    }

    /// Runs what may wait for a disk, or takes long, where that holds up nothing else.
    ///
    /// # Errors
    /// Those of `run`; `Io` where it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.threads {
            Threads::One => run(),
            Threads::Many => match tokio::task::spawn_blocking(run).await {
                Ok(result) => result,
                Err(stopped) => Err(Error::Io(format!("a task stopped: {stopped}"))),
            },
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({:?})", self.threads)
    }
}

fn system_randomness(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::Io(format!("asking the system for randomness: {error}")))
}
