//! A simulated disk for the log of the strong tables: a sync takes simulated time, and what was not synced is gone after a crash.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use dynarust::storage::environment::disk::Disk;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, sleep_until};

use crate::random::Random;

/// Milliseconds that most syncs take.
const SYNC_MS: std::ops::Range<u64> = 0..8;
/// One of so many takes longer.
const SLOW_ONE_IN: u64 = 40;
const SLOW_SYNC_MS: std::ops::Range<u64> = 20..120;

/// The disk of one life of a node.
#[derive(Debug)]
pub struct SimulatedDisk {
    /// What files do not hold yet.
    unsynced: Mutex<Vec<Write>>,
    random: Mutex<Random>,
    is_slow: bool,
}

#[derive(Debug)]
struct Write {
    inode: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl SimulatedDisk {
    /// `is_slow`: each sync takes long, not only one now and then.
    pub fn new(seed: u64, is_slow: bool) -> Self {
        Self { unsynced: Mutex::default(), random: Mutex::new(Random::new(seed)), is_slow }
    }

    /// What a crash loses now, in bytes.
    pub fn unsynced_bytes(&self) -> usize {
        self.unsynced().iter().map(|write| write.bytes.len()).sum()
    }

    fn unsynced(&self) -> MutexGuard<'_, Vec<Write>> {
        self.unsynced.lock().expect("nobody panics with it")
    }

    fn sync_time(&self) -> Duration {
        let mut random = self.random.lock().expect("nobody panics with it");
        let range = if self.is_slow || random.one_in(SLOW_ONE_IN) { SLOW_SYNC_MS } else { SYNC_MS };
        Duration::from_millis(random.below(range))
    }
}

impl Disk for SimulatedDisk {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        self.unsynced().push(Write { inode, at, bytes: bytes.to_vec() });
        Ok(())
    }

    fn sync<'a>(&'a self, file: &'a File) -> BoxFuture<'a, io::Result<()>> {
        async move {
            sleep_until(Instant::now() + self.sync_time()).await;
            let inode = file.metadata()?.ino();
            let mut unsynced = self.unsynced();
            for write in unsynced.extract_if(.., |write| write.inode == inode) {
                file.write_all_at(&write.bytes, write.at)?;
            }
            Ok(())
        }
        .boxed()
    }
}
