//! The engine: the few calls that use sled. Another engine would replace this folder and nothing else.
//!
//! Some things sled 0.34 does not do, and this module does. `flush` asks Linux to start writing (`sync_file_range`) and does not wait for
//! the disk, so `sync` calls `fdatasync` on the log after it. A page above a quarter of a segment goes to a file that is never synced at
//! all, so segments are 2 MiB, no item is longer than `ITEM_BYTES_MAX`, and the list of trees, which is one page, is bounded
//! (`has_room_for_names`). Opening can panic on damaged bytes; `open` turns that into an error. The lock on the log is released late; `open`
//! waits for it.
//!
//! sled also takes the first damaged byte after the last snapshot for the end of the log: it opens without an error, and everything after
//! that byte is gone. So the durable mark, a file beside the log, says how much of the log was durable. `log::walk` checks the log up to
//! there before sled opens it, and if the log still ends before its mark, `lost_bytes` says how much was lost.

pub mod agreement_file;
pub mod gaps;
mod generations;
pub mod log;
pub(super) mod mark;
pub(in crate::storage) mod meta;
pub mod notes;
pub(super) mod panics;
pub mod segment;
pub mod suspected_loss;
mod tree;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

pub use self::generations::{Successor, name_in_use};
pub use self::tree::{Feed, Items, Tree};
use self::{
    generations::Generations,
    log::{format, snapshot},
    mark::{ContentSum, Mark, MarkFile},
};
use crate::error::{Error, Result};

/// Bytes of the engine: shared, cheap to clone.
pub use sled::IVec as Slice;

/// Longest key and value together. A leaf of sled holds up to 16 items, and must stay below a quarter of a segment.
pub const ITEM_BYTES_MAX: usize = 16 * 1024;
/// sled's default of 512 KiB fails at values of 8 KB; 8 MiB doubles the disk of a small store.
pub const SEGMENT_BYTES: usize = format::SEGMENT_BYTES as usize;
/// How often sled writes what nobody waits for and empties one half-empty segment. It empties no more than one each time, so this limits
/// how fast space is reclaimed under load. Loading 100,000 short rows at full speed left 42 MiB at 500 ms, 35 MiB at 100 ms.
const FLUSH_EVERY_MS: u64 = 100;
/// How long an open waits for the lock of a store that was just closed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// An open sled database and its log file.
pub struct Engine {
    db: sled::Db,
    log: File,
    mark: MarkFile,
    lost_bytes: u64,
    content: Option<ContentSum>,
    path: PathBuf,
    generations: Generations,
}

impl Engine {
    /// Opens the directory, and creates it if it is missing.
    ///
    /// # Errors
    /// `StorageDamaged` if sled finds damage or panics on it, `StorageInUse` if another process holds it, else `StorageFull` or `Io`.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self> {
        let log_path = path.join("db");
        let existed = log_path.exists();
        let marked = mark::read(path)?.mark();
        snapshot::remove_unfinished(path)?;
        let db = open_with_retry(path, cache_bytes)?;
        let log = File::open(&log_path)
            .map_err(|e| Error::io(format_args!("opening {}", log_path.display()), &e))?;
        let mark = MarkFile::open(path)?;
        let found = db.context.pagecache.log.stable_offset();
        let lost_bytes =
            marked.map_or(0, |marked| marked.position.saturating_sub(found).max(0).unsigned_abs());
        let closed = marked.filter(|marked| marked.is_closed && lost_bytes == 0);
        let content = closed.and_then(|closed| closed.content);
        let generations = Generations::read(&db)?;
        let engine = Self { db, log, mark, lost_bytes, content, path: path.to_owned(), generations };
        engine.sync()?;
        if closed.is_some() {
            // The first write invalidates the row counts in the mark; a power cut must not bring them back.
            engine.mark.sync().map_err(|e| engine.not_synced(&e))?;
        }
        if !existed {
            // The directory entries must survive a power cut, as the log's bytes do.
            sync_directory(path)?;
            sync_directory(&parent(path))?;
        }
        Ok(engine)
    }

    /// Makes everything written so far durable: on return it survives a power cut.
    pub fn sync(&self) -> Result<()> {
        self.sync_and_mark(false, None)
    }

    /// Whether it still takes what is written.
    ///
    /// # Errors
    /// The first error of the disk: everything fails with it from then on.
    pub fn check(&self) -> Result<()> {
        self.db.context.global_error().map_err(translate)
    }

    /// Makes everything durable at the end and records the number of rows and the sum of their digests, if known: `content` returns them
    /// after the next opening. Nothing may be written after this.
    pub fn close(self, content: Option<ContentSum>) -> Result<()> {
        self.sync_and_mark(true, content)?;
        self.mark.sync().map_err(|e| self.not_synced(&e))
    }

    fn sync_and_mark(&self, is_closed: bool, content: Option<ContentSum>) -> Result<()> {
        tree::caught(|| self.db.flush()).map_err(translate)?;
        let position = self.db.context.pagecache.log.stable_offset();
        self.log.sync_data().map_err(|e| self.not_synced(&e))?;
        // A loss stays recorded until somebody accepts it.
        if self.lost_bytes == 0 {
            let mark = Mark { position, is_closed, content };
            self.mark.write(&mark).map_err(|e| self.not_synced(&e))?;
        }
        release();
        Ok(())
    }

    fn not_synced(&self, error: &io::Error) -> Error {
        Error::StorageFull(format!("syncing {}: {error}", self.path.display()))
    }

    /// The log, and its written length.
    ///
    /// # Errors
    /// `Io`.
    pub fn log(&self) -> Result<(File, u64)> {
        let log = self.log.try_clone().map_err(|e| Error::io("opening the log", &e))?;
        Ok((log, self.db.context.pagecache.log.stable_offset().max(0).unsigned_abs()))
    }

    /// Bytes that were durable in the log and were missing when it was opened.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// Continues with what is there, whatever was lost.
    pub fn accept_loss(&mut self) {
        self.lost_bytes = 0;
    }

    /// What the store held when it was closed, if that was known and nothing was written since.
    pub fn content(&self) -> Option<ContentSum> {
        self.content
    }

    /// Bytes of all files of the store.
    pub fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.path)
    }
}

/// Frees what this thread replaced as soon as no other thread can be reading it.
///
/// sled leaves that to each thread's bag of 64 objects, which is freed when it is full. A log buffer is one such object, as long as a
/// segment; a thread that mostly flushes would keep dozens.
fn release() {
    sled::pin().flush();
}

/// Bytes of all files below `path`, blobs included.
pub fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { disk_bytes(&entry.path()) } else { metadata.len() })
        })
        .sum()
}

/// Drops the log from the page cache, so that the next reads come from the disk. After a failed sync the system takes unwritten pages for
/// written, and would return them until the power goes.
pub fn forget_cached(path: &Path) -> Result<()> {
    let log = File::open(path.join("db"));
    let forgotten = log.and_then(|log| Ok(rustix::fs::fadvise(&log, 0, None, rustix::fs::Advice::DontNeed)?));
    forgotten.map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))
}

/// Makes a directory's entries durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|e| Error::io(format_args!("syncing {}", path.display()), &e))
}

/// Replaces a small file in a directory, or creates it: either all of the old content is there after a crash, or all of this. Durable on
/// return.
///
/// # Errors
/// `Io`, `StorageFull`.
pub fn replace_file(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    let unfinished = directory.join(format!("{name}.new"));
    let written = File::create(&unfinished).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&unfinished, directory.join(name))).map_err(|e| match e.kind() {
        io::ErrorKind::StorageFull => Error::StorageFull(format!("writing {}: {e}", unfinished.display())),
        _ => Error::io(format_args!("writing {}", unfinished.display()), &e),
    })?;
    sync_directory(directory)
}

/// The parent directory of `path`.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes what sled makes once in each process and never uses: 42 histograms of 512 KiB, for metrics that are off. As long as the process has freed
/// nothing of that size, they are memory that nobody has touched, and take none; 21 MB otherwise. Call it before a store is read.
pub fn prepare() {
    // A configuration that is dropped prints the metrics, which are nothing, and so makes them.
    drop(sled::Config::new().print_profile_on_drop(true));
}

fn open_with_retry(path: &Path, cache_bytes: u64) -> Result<sled::Db> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match open_caught(path, cache_bytes) {
            Err(sled::Error::Io(e)) if is_lock_refusal(&e) => {
                if Instant::now() >= deadline {
                    return Err(Error::StorageInUse(path.to_owned()));
                }
                thread::sleep(Duration::from_millis(20));
            }
            Err(sled::Error::Io(e)) if e.kind() == io::ErrorKind::StorageFull => {
                return Err(Error::StorageFull(format!("opening {}: {e}", path.display())));
            }
            Err(sled::Error::Io(e)) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::io(format_args!("opening {}", path.display()), &e));
            }
            // An error of the system says nothing about the directory's content; any other error of sled does.
            Err(sled::Error::Io(e)) if e.raw_os_error().is_some() => {
                return Err(Error::io(format_args!("opening {}", path.display()), &e));
            }
            Err(e) => return Err(Error::StorageDamaged(format!("{} does not open: {e}", path.display()))),
            Ok(db) => return Ok(db),
        }
    }
}

fn open_caught(path: &Path, cache_bytes: u64) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(cache_bytes)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    tree::caught(|| config.open())
}

fn is_lock_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// sled keeps its first input or output error for the life of its handle: whatever caused it, writes are over until the store is reopened.
fn translate(error: sled::Error) -> Error {
    match error {
        sled::Error::Io(e) => Error::StorageFull(e.to_string()),
        sled::Error::Corruption { .. } => Error::Corrupt("a page of the storage cannot be read".into()),
        sled::Error::ReportableBug(why) => Error::Corrupt(why),
        other => Error::Io(format!("storage: {other}")),
    }
}
