//! Writing and syncing a segment: counted, and in tests made to fail.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::storage::environment::disk;

/// The disk as the log uses it.
#[derive(Debug)]
pub struct Disk {
    disk: Arc<dyn disk::Disk>,
    syncs: AtomicU64,
    #[cfg(test)]
    pub faults: std::sync::Mutex<Faults>,
}

/// What fails, in a test.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Faults {
    /// The longest write that there is room for.
    pub room: Option<usize>,
    /// Whether syncs fail.
    pub syncs_fail: bool,
    /// The next sync waits for this.
    pub sync_waits: Option<std::sync::mpsc::Receiver<()>>,
}

impl Disk {
    /// Counts what goes to a disk.
    pub fn new(disk: Arc<dyn disk::Disk>) -> Self {
        Self {
            disk,
            syncs: AtomicU64::new(0),
            #[cfg(test)]
            faults: Default::default(),
        }
    }

    /// How many times the log was synced since it was opened.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Writes all of `bytes`, or a part of them and fails.
    ///
    /// # Errors
    /// That of the system.
    pub fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(room) = self.faults().room.filter(|room| *room < bytes.len()) {
            self.disk.write(file, &bytes[..room], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.write(file, bytes, at)
    }

    /// What fails, and what does not.
    #[cfg(test)]
    pub fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().expect("no test panics here")
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// That of the system.
    pub async fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        #[cfg(test)]
        {
            let gate = self.faults().sync_waits.take();
            // It opens when the other end is dropped.
            let _ = gate.map(|gate| gate.recv());
            if self.faults().syncs_fail {
                return Err(io::Error::other("the test says so"));
            }
        }
        self.disk.sync(file).await
    }
}
