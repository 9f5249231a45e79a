//! Opens a storage directory: locks it, checks that it is ours and sound, and reads the node's identity. Also the small records kept beside
//! the tables.

pub(super) mod examine;
mod permission;
pub(crate) mod recovery;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    Environment, META, Options,
    engine::{self, Engine, Tree},
    gc,
    table::{
        codec::{Dictionaries, Dictionary},
        intents,
    },
};
use crate::{
    core::{clock::NodeId, digest::DigestKey, name::TableName, protocol::replica::Swept},
    error::{Error, Result},
    storage::engine::{
        agreement_file, meta,
        suspected_loss::{self, Recorded},
    },
};

/// Format of everything in the directory. A newer one is refused; this version knows one.
const FORMAT: &str = "1";
const FORMAT_KEY: &[u8] = b"format";
const MARKER_FILE: &str = "dynarust.format";
/// What the marker says while the first start in a directory is not complete.
const NEW: &str = " new";
/// Prefix of the names of all dictionaries.
pub const DICTIONARY_PREFIX: &str = "dictionary/";
/// The file that keeps a second process out.
pub const LOCK_FILE: &str = "dynarust.lock";
/// How long to wait for a process that is about to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// What must fit on the disk before a store that ran out of space is reopened: opening writes a segment or two.
const PROBE_BYTES: usize = 8 * 1024 * 1024;

/// What a directory says about its node.
pub struct Identity {
    /// The node's id.
    pub node: NodeId,
    /// No timestamp at or above it was issued. 0 at the first start.
    pub clock_bound: u64,
    /// Key of the removal floors.
    pub swept: Swept,
    /// The key under which rows are hashed: the node's own, until a cluster gives it another.
    pub digest_key: DigestKey,
    /// Where the damaged directory was moved that this one replaces.
    pub set_aside: Option<PathBuf>,
    /// Why acknowledged writes may be missing.
    pub suspected_loss: Option<Recorded>,
    /// Up to when the node held the same rows as others.
    pub agreement: agreement_file::Found,
}

/// Locks and opens the directory.
pub fn open(options: &Options) -> Result<(Engine, File, Identity)> {
    engine::prepare();
    let lock = lock(&options.data)?;
    let ((engine, mut identity), lock, set_aside) = match examine::readable(options) {
        Ok(opened) => (opened, lock, None),
        Err(Error::StorageDamaged(why)) if options.set_aside_damaged => {
            let aside = set_aside(&options.data, options)?;
            warn!(%why, kept = %aside.display(), "the storage is damaged; it was moved aside, and the node starts empty");
            drop(lock);
            // Made here, so that `lock` moves no old store into its place.
            fs::create_dir_all(&options.data)
                .map_err(|e| Error::io(format_args!("creating {}", options.data.display()), &e))?;
            let lock = self::lock(&options.data)?;
            (examine::readable(options)?, lock, Some(aside))
        }
        Err(Error::StorageDamaged(why)) => {
            return Err(Error::StorageDamaged(format!("{why}. {}", examine::remedies(&options.data))));
        }
        Err(error) => return Err(error),
    };
    // The store opened, so it is complete: leftovers of a compaction that was interrupted at its end are only old.
    let before = before_compaction(&options.data);
    if before.exists() {
        fs::remove_dir_all(&before)
            .map_err(|e| Error::io(format_args!("removing {}", before.display()), &e))?;
    }
    restrict(&options.data);
    identity.set_aside = set_aside;
    identity.suspected_loss = suspected_loss::read(&options.data)?;
    identity.agreement = agreement_file::read(&options.data, identity.node)?;
    if let Some(Recorded { reason: why, .. }) = &identity.suspected_loss {
        warn!(%why, "acknowledged writes may be missing from the storage; in a cluster the other nodes restore them");
    }
    Ok((engine, lock, identity))
}

/// Locks the directory against other processes; creates it if it is missing.
pub fn lock(data: &Path) -> Result<File> {
    let unusable =
        |doing: &str, error: &io::Error| Error::StorageUnusable(permission::explain(doing, data, error));
    if data.exists() && !data.is_dir() {
        return Err(Error::StorageUnusable(format!(
            "{} is a file, not a storage directory; choose another path with --data",
            data.display()
        )));
    }
    if !data.exists() {
        let before = before_compaction(data);
        if before.exists() {
            warn!(from = %before.display(), "a compaction was interrupted; the old store is moved back");
            fs::rename(&before, data).map_err(|e| unusable("restore", &e))?;
        }
    }
    fs::create_dir_all(data).map_err(|e| unusable("create", &e))?;
    let mut create = OpenOptions::new();
    let file = create.create(true).truncate(false).write(true).open(data.join(LOCK_FILE));
    let file = file.map_err(|e| unusable("write in", &e))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20))
            }
            Err(TryLockError::WouldBlock) => return Err(Error::StorageInUse(data.to_owned())),
            Err(TryLockError::Error(e)) => return Err(unusable("lock", &e)),
        }
    }
}

/// Makes everything in the directory readable by its owner only, also what an earlier version made. If the file system or another owner
/// does not allow it, it stays as it is.
fn restrict(data: &Path) {
    if let Err(error) = restrict_below(data) {
        warn!(%error, data = %data.display(), "others on this machine may be able to read the data: its permissions cannot be set");
    }
}

fn restrict_below(path: &Path) -> io::Result<()> {
    restrict_one(path, 0o700)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        match () {
            () if kind.is_dir() => restrict_below(&path)?,
            () if kind.is_file() => restrict_one(&path, 0o600)?,
            // A link, and what it leads to, is up to whoever made it.
            () => {}
        }
    }
    Ok(())
}

fn restrict_one(path: &Path, mode: u32) -> io::Result<()> {
    let before = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode(),
        // The engine removes files of its own meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if before & 0o7777 & !mode == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(before & mode)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        set => set,
    }
}

/// Where the old store is while a compaction moves the new one into its place.
pub fn before_compaction(data: &Path) -> PathBuf {
    sibling_path(data, "before-compact")
}

/// A path next to `data`, with the same name and a suffix.
pub fn sibling_path(data: &Path, ending: &str) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    data.with_file_name(name)
}

/// Opens the engine in a locked directory. Always open it here, as sled takes whatever it cannot read for an empty log.
///
/// A marker file beside the log says, before the engine touches anything, that the directory is ours and in which format; and, once the
/// first start is complete, that the log must not be empty.
///
/// # Errors
/// `StorageUnusable` for a directory of another program or another format, and those of `Engine::open`.
pub fn engine(data: &Path, cache_bytes: u64) -> Result<Engine> {
    let new = match check_marker(data)? {
        Some(is_new) => is_new,
        None => {
            fs::create_dir_all(data)
                .map_err(|e| Error::io(format_args!("creating {}", data.display()), &e))?;
            write_marker(data, NEW)?;
            true
        }
    };
    let engine = Engine::open(data, cache_bytes)?;
    let meta = engine.tree(META)?;
    if meta.get(FORMAT_KEY)?.is_none() {
        if !new {
            return Err(Error::StorageDamaged(format!("{} has lost its log", data.display())));
        }
        meta.insert(FORMAT_KEY, FORMAT.as_bytes())?;
        engine.sync()?;
    }
    if new {
        write_marker(data, "")?;
    }
    intents::redo(&engine)?;
    Ok(engine)
}

/// Refuses a directory of another program or another format. Returns whether the first start in it is incomplete; `None` if there was none.
pub fn check_marker(data: &Path) -> Result<Option<bool>> {
    match read_marker(data)? {
        Some(marker) => check_format(data, &marker).map(Some),
        None if data.join("db").exists() => Err(Error::StorageUnusable(format!(
            "{} holds a file named db and no {MARKER_FILE}: it is not a storage directory of DynaRust; choose another path with --data",
            data.display()
        ))),
        None => Ok(None),
    }
}

fn read_marker(data: &Path) -> Result<Option<String>> {
    let path = data.join(MARKER_FILE);
    match fs::read(&path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format_args!("reading {}", path.display()), &e)),
    }
}

fn write_marker(data: &Path, state: &str) -> Result<()> {
    let path = data.join(MARKER_FILE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(format!("{FORMAT}{state}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| match e.kind() {
        io::ErrorKind::StorageFull => Error::StorageFull(format!("writing {}: {e}", path.display())),
        _ => Error::io(format_args!("writing {}", path.display()), &e),
    })?;
    engine::sync_directory(data)
}

/// Refuses another format. Returns whether the first start of this one is incomplete.
fn check_format(data: &Path, marker: &str) -> Result<bool> {
    let marker = marker.trim_end();
    // A marker cut short by a power failure counts as none: nothing was acknowledged before it was complete.
    match marker.strip_suffix(NEW).unwrap_or(marker) {
        FORMAT | "" => Ok(marker != FORMAT),
        other => Err(Error::StorageUnusable(format!(
            "{data} has storage format {other:?}, this version knows {FORMAT}: run the version that wrote it; if there is none, \
             the file {MARKER_FILE} is damaged, and DynaRust salvage {data} --into NEW saves the rest",
            data = data.display()
        ))),
    }
}

fn set_aside(data: &Path, options: &Options) -> Result<PathBuf> {
    let aside = sibling_path(data, &format!("damaged-{}", options.environment.now_ms() / 1000));
    fs::rename(data, &aside).map_err(|e| Error::io(format_args!("moving {} aside", data.display()), &e))?;
    engine::sync_directory(&engine::parent(data))?;
    Ok(aside)
}

fn identity(engine: &Engine, environment: &Environment) -> Result<Identity> {
    let meta = engine.tree(META)?;
    let node = match meta::read_node(&meta)? {
        Some(node) => node,
        None => {
            let node = environment.random()?;
            meta.insert(meta::NODE_KEY, &node.to_be_bytes())?;
            engine.sync()?;
            NodeId(node)
        }
    };
    Ok(Identity {
        node,
        clock_bound: meta::read_clock_bound(&meta)?,
        swept: gc::read_swept(&meta)?,
        digest_key: digest_key(engine, &meta, environment)?,
        set_aside: None,
        suspected_loss: None,
        agreement: agreement_file::Found::Absent,
    })
}

/// The key under which rows are hashed; made if there is none, as in stores older than the digests.
fn digest_key(engine: &Engine, meta: &Tree, environment: &Environment) -> Result<DigestKey> {
    if let Some(bytes) = meta.get(meta::DIGEST_KEY)? {
        let key = bytes.as_ref().try_into().map(DigestKey);
        return key.map_err(|_| Error::StorageDamaged("the key of the node's digests cannot be read".into()));
    }
    let mut key = DigestKey([0; 32]);
    environment.fill_random(&mut key.0)?;
    meta::write_digest_key(meta, &key)?;
    engine.sync()?;
    Ok(key)
}

/// The dictionaries of a table, by number.
pub fn read_dictionaries(meta: &Tree, table: &TableName) -> Result<Dictionaries> {
    let mut dictionaries = Dictionaries::default();
    while let Some(bytes) = meta.get(&dictionary_key(table, dictionaries.count()))? {
        let sound =
            bytes.split_at_checked(8).filter(|(check, bytes)| *check == &blake3::hash(bytes).as_bytes()[..8]);
        let Some((_, dictionary)) = sound else {
            return Err(Error::StorageDamaged(format!("a dictionary of table {table} is damaged")));
        };
        dictionaries.push(Dictionary::new(dictionary));
    }
    Ok(dictionaries)
}

/// Stores a dictionary of a table, preceded by eight bytes of its hash.
pub fn write_dictionary(meta: &Tree, table: &TableName, number: usize, bytes: &[u8]) -> Result<()> {
    let kept = [&blake3::hash(bytes).as_bytes()[..8], bytes].concat();
    meta.insert(&dictionary_key(table, number), &kept)
}

/// Removes the dictionaries of a table without rows.
pub fn remove_dictionaries(meta: &Tree, table: &TableName, count: usize) -> Result<()> {
    // The last one first: reading stops at the first missing number.
    (0..count).rev().try_for_each(|number| meta.remove(&dictionary_key(table, number)))
}

fn dictionary_key(table: &TableName, number: usize) -> Vec<u8> {
    format!("{DICTIONARY_PREFIX}{table}/{number:03}").into_bytes()
}

/// Whether the disk takes data: writes a little and removes it.
pub fn probe(data: &Path) -> io::Result<()> {
    let path = data.join("dynarust.probe");
    let result = File::create(&path).and_then(|mut file| {
        let block = [0x5a; 64 * 1024];
        for _ in 0..PROBE_BYTES / block.len() {
            file.write_all(&block)?;
        }
        file.sync_all()
    });
    fs::remove_file(&path)?;
    result
}
