//! The environment of a node, besides storage and network: time, randomness, and threads for long work. A simulation replaces it, so that
//! everything a node does follows from a seed.
//!
//! The system's clock is checked before it is trusted; a clock given by a test or a simulation is taken as it is.

pub mod disk;
pub mod wall_clock;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{block_in_place, spawn_blocking},
};

use self::{
    disk::{Disk, SystemDisk},
    wall_clock::{CheckedClock, Clocks},
};
use crate::{
    core::{clock::NodeId, wall_clock::Contradiction},
    error::{Error, Result},
};

/// A wall clock: Unix milliseconds.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;
/// Fills a buffer with random bytes.
pub type Randomness = Arc<dyn Fn(&mut [u8]) -> Result<()> + Send + Sync>;

/// Where long work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On threads besides those that serve requests.
    Many,
    /// In place, by the one thread that does everything. The storage's own work is done when `Store::work` is called, and a failed disk is
    /// not retried.
    One,
}

/// The environment of a node.
#[derive(Clone)]
pub struct Environment {
    now_ms: WallClock,
    checked: Option<Arc<CheckedClock>>,
    random: Randomness,
    threads: Threads,
    disk: Arc<dyn Disk>,
}

impl Environment {
    /// The real system, with a checked clock. The clocks of nodes may be `drift_max_ms` apart.
    pub fn of_system(drift_max_ms: u64) -> Self {
        let clock = Arc::new(CheckedClock::of_system(drift_max_ms));
        let checked = Some(clock.clone());
        Self { checked, ..Self::new(Arc::new(move || clock.now_ms())) }
    }

    /// The real system with another clock.
    pub fn new(now_ms: WallClock) -> Self {
        let random = Arc::new(system_randomness);
        Self { now_ms, checked: None, random, threads: Threads::Many, disk: Arc::new(SystemDisk) }
    }

    /// A simulated environment: these clocks, checked as the system's are, this randomness, and all work done by the calling thread.
    pub fn simulated(clocks: Clocks, drift_max_ms: u64, random: Randomness) -> Self {
        let clock = Arc::new(CheckedClock::new(drift_max_ms, clocks));
        let (checked, now_ms) = (Some(clock.clone()), Arc::new(move || clock.now_ms()));
        Self { now_ms, checked, random, threads: Threads::One, disk: Arc::new(SystemDisk) }
    }

    /// The same with another disk for the log of the strong tables.
    pub fn with_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    /// The disk of the log of the strong tables.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// The wall clock.
    pub fn clock(&self) -> &WallClock {
        &self.now_ms
    }

    /// The wall clock's time in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    /// Records what another node's clock showed `ago_ms` ago, in Unix milliseconds, and how wrong that reading may be.
    pub fn observe_peer_clock(&self, node: NodeId, theirs_ms: u64, slack_ms: u64, ago_ms: u64) {
        if let Some(checked) = &self.checked {
            checked.observe_peer_clock(node, theirs_ms, slack_ms, ago_ms);
        }
    }

    /// The disagreement of most other nodes with this clock; `None` if there is none or the clock is not checked.
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.checked.as_ref()?.contradiction()
    }

    /// Whether every other node heard of lately is too far from this clock to work with this node. False if none was heard of, or the clock
    /// is not checked.
    pub fn is_alone(&self) -> bool {
        self.contradiction().is_some_and(|contradiction| contradiction.disagreeing == contradiction.of)
    }

    /// How far the system's clock is ahead of the trusted time, in milliseconds, if it jumped and is not trusted.
    pub fn jumped_ms(&self) -> Option<i64> {
        self.checked.as_ref()?.jumped_ms()
    }

    /// Where long work is done.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// Fills a buffer with random bytes.
    ///
    /// # Errors
    /// `Io` if the system has none.
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

    /// A random epoch, almost certainly different from every other.
    ///
    /// # Errors
    /// As `fill_random`.
    pub fn fresh_epoch(&self) -> Result<u32> {
        // Either half is as random.
        self.random().map(|number| number as u32)
    }

    /// Runs work that may block or take long, where it delays nothing else.
    ///
    /// # Errors
    /// Those of `run`; `Io` if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.threads {
            Threads::One => run(),
            Threads::Many => match spawn_blocking(run).await {
                Ok(result) => result,
                Err(stopped) => Err(Error::Io(format!("a task stopped: {stopped}"))),
            },
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({:?})", self.threads)
    }
}

/// Runs what may take long, or wait. If this thread serves requests, another takes its place meanwhile.
pub fn run_aside<T>(run: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(run),
        Ok(_) | Err(_) => run(),
    }
}

/// Most requests of a store that wait aside: the runtime has 512 threads for all that blocks, and serves nobody once they are used up.
pub const WAITING_MAX: usize = 256;

/// Requests of a store that wait aside.
#[derive(Default)]
pub struct Waiting(AtomicUsize);

impl Waiting {
    /// As `run_aside`, for what many clients can wait for at a time. `for_what` they wait is for the error.
    ///
    /// # Errors
    /// `Overloaded` if many requests wait already.
    pub fn wait_if_few<T>(&self, for_what: &str, wait: impl FnOnce() -> T) -> Result<T> {
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let waiting = self.0.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.0);
        if waiting >= WAITING_MAX {
            return Err(Error::Overloaded(format!(
                "{WAITING_MAX} requests wait for {for_what} already: try again, or another node"
            )));
        }
        Ok(run_aside(wait))
    }
}

/// Bytes of the system that nobody can predict, for secrets.
///
/// # Errors
/// `Io` if the system has none.
pub fn random_bytes<const BYTES: usize>() -> Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    system_randomness(&mut bytes)?;
    Ok(bytes)
}

fn system_randomness(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::Io(format!("asking the system for randomness: {error}")))
}
