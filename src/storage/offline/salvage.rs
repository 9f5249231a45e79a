//! `DynaRust salvage`: copies everything readable of a damaged store into a new one. It reads the engine's log itself, so it works where
//! the engine does not open, panics, or would discard what it cannot read.
//!
//! It takes two steps. First, all records with a correct checksum go unchanged into a raw store: the latest version of each row, by its
//! timestamp, and what older pages hold of rows whose page is lost. Then every row of the raw store goes through the same merge as all
//! writes, into the new store. A row whose value cannot be reassembled is named and left out.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, TryLockError},
    path::Path,
};

use super::compact::{CACHE_BYTES, Copy, SYNC_ROWS, remove};
use crate::{
    core::{clock::NodeId, digest::DigestKey, name::TableName},
    error::{Error, Result},
    storage::{
        META, WallClock,
        engine::{
            self, Engine, Tree, agreement_file,
            log::pages::{self, Pages},
            meta, notes, panics, suspected_loss,
        },
        offline::compact::{copy_log, reached_ms},
        open::{self, examine},
        table::{
            mode::{RAFT_LOG, SALVAGED_LOG},
            record,
            row::key_bytes,
            trees::{CHUNKS, ROWS},
        },
    },
};

/// Most damaged rows of a table that are named; more are only counted.
pub const NAMED_MAX: usize = 100;

/// Records that a store keeps of its node from the first start on: key, length, and what happens if it is lost.
const NODE_RECORDS: &[(&[u8], usize, &str)] = &[
    (meta::NODE_KEY, size_of::<NodeId>(), "the id of the node: it gets another"),
    (meta::DIGEST_KEY, size_of::<DigestKey>(), "the key of the node's digests: it gets another"),
];

/// Progress of a salvage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes of the old log read.
    Read(u64),
    /// Rows written to the new store.
    Written(u64),
}

/// What was salvaged, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The tables, by name.
    pub tables: Vec<SalvagedTable>,
    /// Damage of the log, one line each.
    pub damaged: Vec<String>,
    /// Records of the node that are lost, one line each.
    pub forgotten: Vec<String>,
    /// Rows of an unknown table: nothing that names it is left.
    pub orphans: u64,
}

/// What was salvaged of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvagedTable {
    /// Its name.
    pub name: TableName,
    /// Rows salvaged, tombstones included.
    pub rows: u64,
    /// Lost rows, with the reason, one line each; at most `NAMED_MAX`.
    pub lost: Vec<String>,
    /// Further lost rows.
    pub lost_more: u64,
    /// Lost pages. What older pages hold of their rows was salvaged; how many rows there were is unknown.
    pub pages_lost: usize,
    /// Pages older than their last version: their rows may be too.
    pub pages_outdated: usize,
}

impl Salvaged {
    /// Rows salvaged, tombstones included.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Whether everything in the store was salvaged.
    pub fn is_complete(&self) -> bool {
        let is_complete = |table: &SalvagedTable| {
            table.lost.is_empty() && table.pages_lost == 0 && table.pages_outdated == 0
        };
        self.damaged.is_empty()
            && self.forgotten.is_empty()
            && self.orphans == 0
            && self.tables.iter().all(is_complete)
    }

    fn reason(&self) -> String {
        let first = self.damaged.first().map_or("pages or rows could not be read", String::as_str);
        format!("it was salvaged from a damaged one ({first}): {}", suspected_loss::MEANING)
    }
}

/// For the command line.
impl fmt::Display for SalvagedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, rows, lost, lost_more, pages_lost, pages_outdated } = self;
        writeln!(f, "{name}: {rows} rows")?;
        for line in lost {
            writeln!(f, "  lost: {line}")?;
        }
        if *lost_more > 0 {
            writeln!(f, "  lost: {lost_more} more rows")?;
        }
        if *pages_lost > 0 {
            writeln!(f, "  {pages_lost} gaps of lost pages: only rows found on older pages were saved")?;
        }
        if *pages_outdated > 0 {
            writeln!(f, "  {pages_outdated} pages are in an older version: so may be their values")?;
        }
        Ok(())
    }
}

/// Salvages the store in `data` into a new one, `into`, which must not exist yet. Nothing in `data` is changed. Needs twice the space of
/// the new store.
///
/// # Errors
/// `StorageInUse`, `StorageUnusable` (no store, or `into` exists), `StorageDamaged` if nothing can be read, `StorageFull`.
pub fn salvage(data: &Path, into: &Path, now_ms: &WallClock, progress: impl FnMut(Step)) -> Result<Salvaged> {
    if !data.is_dir() {
        return Err(Error::StorageUnusable(format!("there is no storage directory {}", data.display())));
    }
    if into.exists() {
        return Err(Error::StorageUnusable(format!(
            "{} exists already; name a directory that does not exist, on a disk with room",
            into.display()
        )));
    }
    let _lock = lock_unchanged(data)?;
    salvage_locked(data, into, now_ms, progress)
}

/// Like `salvage`, for a directory that is locked already.
pub(in crate::storage) fn salvage_locked(
    data: &Path,
    into: &Path,
    now_ms: &WallClock,
    mut progress: impl FnMut(Step),
) -> Result<Salvaged> {
    let (raw, target) = (open::sibling_path(into, "salvaging-raw"), open::sibling_path(into, "salvaging"));
    let clean = || remove(&raw).and_then(|()| remove(&target));
    clean()?;
    let mut salvaged = Salvaged { damaged: damage(data)?, ..Salvaged::default() };
    let written = panics::caught(|| -> Result<()> {
        read_raw(data, &raw, &mut salvaged, &mut progress)?;
        write_new(&raw, reached_ms(data)?, &target, now_ms, &mut salvaged, &mut progress)
    });
    written
        .unwrap_or_else(|said| Err(Error::Io(format!("writing {}: {said}", target.display()))))
        .inspect_err(|_| {
            // The error that stopped it is the one to report.
            let _ = clean();
        })?;
    match salvaged.is_complete() {
        true => suspected_loss::copy(data, &target)?,
        false => suspected_loss::write(&target, &salvaged.reason())?,
    }
    agreement_file::copy(data, &target)?;
    // Its newest entries may be in no row yet. A node whose rows may be missing must not vote, so it is not the log of the new store.
    copy_log(&data.join(RAFT_LOG), &target.join(SALVAGED_LOG))?;
    remove(&raw)?;
    fs::rename(&target, into)
        .map_err(|e| Error::io(format_args!("renaming {} to {}", target.display(), into.display()), &e))?;
    engine::sync_directory(&engine::parent(into))?;
    Ok(salvaged)
}

/// Keeps nodes from opening a store, without changing it.
fn lock_unchanged(data: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(data.join(open::LOCK_FILE)) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::StorageInUse(data.to_owned())),
        // On a file system without locks nobody holds one.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

fn damage(data: &Path) -> Result<Vec<String>> {
    Ok(examine::walk_damage(data)?.iter().map(ToString::to_string).collect())
}

/// Copies every record with a correct checksum, unchanged, into a store of its own.
fn read_raw(data: &Path, raw: &Path, salvaged: &mut Salvaged, progress: &mut impl FnMut(Step)) -> Result<()> {
    let pages = Pages::read(data, |bytes| progress(Step::Read(bytes)))?;
    let trees = pages.trees();
    if trees.is_empty() {
        return Err(Error::StorageDamaged(format!(
            "nothing in {} says which tables there were: no row can be saved. Restore a backup",
            data.display()
        )));
    }
    let is_copied = trees
        .iter()
        .any(|tree| tree.name != engine::name_in_use(&String::from_utf8_lossy(&tree.name)).as_bytes());
    let mut engine = Raw { engine: Engine::open(raw, CACHE_BYTES)?, unsynced: 0 };
    for tree in &trees {
        let Ok(name) = str::from_utf8(&tree.name) else { continue };
        let name = engine::name_in_use(name);
        if name == META || name.starts_with(CHUNKS) {
            if name == META && !tree.gaps.is_empty() {
                salvaged.forgotten.push("a part of the records beside the tables".into());
            }
            let target = engine.engine.tree(name)?;
            pages.items_in_gaps(
                tree,
                |key, _| is_chunk(name, key),
                |key, value| engine.insert(&target, key, value),
            )?;
            pages.items(tree, |key, value| engine.insert(&target, key, value))?;
        } else if let Some(table) = name.strip_prefix(ROWS) {
            let mut found = salvaged.take_table(TableName::parse(table)?, tree);
            let target = engine.engine.tree(name)?;
            pages.items(tree, |row, bytes| match record::decode(row, bytes) {
                // Leftovers of a tree that was copied because of damage are as good as the copy.
                Ok(_) if is_copied => engine.insert_later(&target, row, bytes),
                Ok(_) => engine.insert(&target, row, bytes),
                Err(why) => {
                    let key = key_bytes(row);
                    found.add_lost(Error::corrupt_record(&found.name, key, why));
                    Ok(())
                }
            })?;
            let is_row = |row: &[u8], bytes: &[u8]| record::decode(row, bytes).is_ok();
            pages.items_in_gaps(tree, is_row, |row, bytes| engine.insert_later(&target, row, bytes))?;
            salvaged.tables.push(found);
        }
    }
    attribute_orphans(&pages, &trees, &mut engine, salvaged)?;
    salvaged.tables.sort_by(|a, b| a.name.cmp(&b.name));
    engine.engine.close(None)
}

/// Rows on pages that nothing leads to: they belong to the table that lacks pages, if only one does.
fn attribute_orphans(
    pages: &Pages,
    trees: &[pages::Tree],
    engine: &mut Raw,
    salvaged: &mut Salvaged,
) -> Result<()> {
    let lacking = trees.iter().filter(|tree| !tree.gaps.is_empty() && tree.name.starts_with(ROWS.as_bytes()));
    let lacking: Vec<_> = lacking.collect();
    let target = match lacking[..] {
        [] => return Ok(()),
        [tree] => {
            Some((tree, engine.engine.tree(engine::name_in_use(&String::from_utf8_lossy(&tree.name)))?))
        }
        _ => None,
    };
    pages.orphans(trees, |row, bytes| {
        let is_row = record::decode(row, bytes).is_ok();
        let is_lacking = lacking.iter().any(|tree| tree.gaps.iter().any(|gap| pages::is_in(gap, row)));
        match &target {
            _ if !is_row || !is_lacking => Ok(()),
            Some((_, target)) => engine.insert_later(target, row, bytes),
            None => {
                salvaged.orphans += 1;
                Ok(())
            }
        }
    })
}

fn is_chunk(tree: &str, key: &[u8]) -> bool {
    tree != META && key.len() == crate::storage::table::chunks::KEY_BYTES
}

/// The raw store, and how much was inserted since its last sync.
struct Raw {
    engine: Engine,
    unsynced: u64,
}

impl Raw {
    fn insert(&mut self, tree: &Tree, key: &[u8], value: &[u8]) -> Result<()> {
        tree.insert(key, value)?;
        self.unsynced += 1;
        if self.unsynced.is_multiple_of(SYNC_ROWS) {
            self.engine.sync()?;
        }
        Ok(())
    }

    /// Sets a row, unless a later version is there.
    fn insert_later(&mut self, tree: &Tree, row: &[u8], bytes: &[u8]) -> Result<()> {
        let Ok(new) = record::decode(row, bytes) else { return Ok(()) };
        let known = tree.get(row)?;
        let known = known.as_ref().and_then(|bytes| record::decode(row, bytes).ok());
        match known {
            Some(known) if known.head.marker >= new.head.marker => Ok(()),
            Some(_) | None => self.insert(tree, row, bytes),
        }
    }
}

impl Salvaged {
    /// Merges what other trees of this table had with the pages that this tree lacks.
    fn take_table(&mut self, name: TableName, tree: &pages::Tree) -> SalvagedTable {
        match self.tables.iter().position(|known| known.name == name) {
            Some(at) => {
                let mut known = self.tables.swap_remove(at);
                known.pages_lost += tree.gaps.len();
                known.pages_outdated += tree.outdated;
                known
            }
            None => SalvagedTable::new(name, tree),
        }
    }
}

impl SalvagedTable {
    fn new(name: TableName, tree: &pages::Tree) -> Self {
        let (pages_lost, pages_outdated) = (tree.gaps.len(), tree.outdated);
        Self { name, rows: 0, lost: Vec::new(), lost_more: 0, pages_lost, pages_outdated }
    }

    fn add_lost(&mut self, error: Error) {
        match self.lost.len() < NAMED_MAX {
            true => self.lost.push(error.to_string()),
            false => self.lost_more += 1,
        }
    }
}

/// Writes the rows of the raw store, and the records the node needs, into a new store.
fn write_new(
    raw: &Path,
    reached_ms: u64,
    target: &Path,
    now_ms: &WallClock,
    salvaged: &mut Salvaged,
    progress: &mut impl FnMut(Step),
) -> Result<()> {
    let old = Engine::open(raw, CACHE_BYTES)?;
    salvaged.forgotten.extend(repair_meta(&old.tree(META)?)?);
    let mut copy = Copy::start(&old, reached_ms, target, now_ms, |rows| progress(Step::Written(rows)))?;
    for table in &mut salvaged.tables {
        let name = table.name.clone();
        table.rows = copy.table(&name, &mut |error| {
            table.add_lost(error);
            Ok(())
        })?;
    }
    // No timestamp may be issued twice, whatever the bound was.
    let latest = copy.latest.map_or(0, |latest| latest.hlc.saturating_add(1));
    meta::raise_clock_bound(&copy.new_store().tree(META)?, latest)?;
    let rows = copy.finish()?;
    progress(Step::Written(rows));
    Ok(())
}

/// Removes damaged records of the node, so that the store opens. Returns what they were, one line each.
fn repair_meta(meta: &Tree) -> Result<Vec<String>> {
    let mut forgotten = Vec::new();
    let mut damaged = Vec::new();
    let mut items = BTreeMap::new();
    for item in meta.range(&[], None) {
        let (key, value) = item?;
        items.insert(key.to_vec(), value.to_vec());
    }
    for (key, bytes, what) in NODE_RECORDS {
        let is_sound = items.get(*key).is_some_and(|value| value.len() == *bytes);
        if is_sound {
            continue;
        }
        forgotten.push((*what).to_owned());
        damaged.push(key.to_vec());
    }
    for (key, value) in &items {
        if key.starts_with(notes::NOTE_PREFIX.as_bytes()) && notes::unseal(value).is_none() {
            forgotten.push(format!("{}, which was damaged", key.escape_ascii()));
            damaged.push(key.clone());
        }
    }
    if let Some(swept) = items.get(meta::SWEPT)
        && notes::unseal(swept).is_none()
    {
        forgotten.push("how far garbage was removed".into());
        damaged.push(meta::SWEPT.to_vec());
    }
    damaged.iter().try_for_each(|key| meta.remove(key))?;
    Ok(forgotten)
}
