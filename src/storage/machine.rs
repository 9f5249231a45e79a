//! What a node takes of the machine it runs on, beside disk and network: the time, randomness, and threads for what takes long.
//! A simulation gives it others, so that all it does follows from a seed.

use std::{fmt, sync::Arc};

use crate::error::{Error, Result};

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
    random: Randomness,
    threads: Threads,
}

impl Machine {
    /// This machine, by this clock.
    pub fn new(now_ms: WallClock) -> Self {
        Self { now_ms, random: Arc::new(system_randomness), threads: Threads::Many }
    }

    /// A machine of which everything is known: by this clock and this randomness, all done by the thread that runs it.
    pub fn simulated(now_ms: WallClock, random: Randomness) -> Self {
        Self { now_ms, random, threads: Threads::One }
    }

    /// Its wall clock.
    pub fn clock(&self) -> &WallClock {
        &self.now_ms
    }

    /// Unix milliseconds by its wall clock.
    pub fn now_ms(&self) -> u64 {
        (self.now_ms)()
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
