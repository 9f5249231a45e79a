//! `DynaRust check`: reads every record of a store that no node has open, and reports what is damaged.

use std::{fs::File, path::Path};

use crate::{
    core::{digest::tree::RECENTS_MAX, name::TableName, protocol::replica::Swept},
    error::{Error, Result},
    storage::{
        META, WallClock,
        commit::{Committer, Durability},
        engine::{self, Engine, notes, panics, suspected_loss},
        gc::{self, Floors},
        open::{self, examine},
        table::{
            Table,
            context::TableContext,
            due_index,
            mode::{RAFT_LOG, StrongTables},
            partition::Counts,
            trees::{INDEXES, ROWS, Trees},
        },
    },
};

/// Memory for pages: each is read once.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The tables, by name.
    pub tables: Vec<TableReport>,
    /// Damage outside the tables, one line each.
    pub damaged: Vec<String>,
    /// Bytes of the directory.
    pub disk_bytes: u64,
    /// Why acknowledged writes may be missing although every record is sound.
    pub suspected_loss: Option<String>,
}

/// The result for one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableReport {
    /// Its name.
    pub name: TableName,
    /// Sound rows.
    pub rows: Counts,
    /// Damage, one line each, with the key.
    pub damaged: Vec<String>,
}

impl Report {
    /// Whether every record is sound.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.tables.iter().all(|table| table.damaged.is_empty())
    }
}

/// Checks the store in `data`; calls `progress` with the number of records read, once per thousand. A damaged log is not opened, as the
/// engine would discard what it cannot read: the report then says where the damage is, and has no tables.
///
/// # Errors
/// `StorageInUse`, `StorageUnusable`, `Io`.
pub fn check(data: &Path, now_ms: &WallClock, mut progress: impl FnMut(u64)) -> Result<Report> {
    let _lock = lock_existing(data)?;
    let mut report = Report { disk_bytes: engine::disk_bytes(data), ..Report::default() };
    if examine::find_damage(data)?.is_some() {
        report.damaged.extend(examine::walk_damage(data)?.iter().map(ToString::to_string));
        report.damaged.push(suspected_loss::MEANING.to_owned());
        return Ok(report);
    }
    let checked = panics::caught(|| check_records(data, now_ms, &mut report, &mut progress));
    match checked.unwrap_or_else(|said| Err(Error::StorageDamaged(panicked(&said)))) {
        Err(Error::StorageDamaged(why) | Error::Corrupt(why)) => report.damaged.push(why),
        other => other?,
    }
    report.tables.sort_by(|a, b| a.name.cmp(&b.name));
    report.suspected_loss = suspected_loss::read(data)?.map(|recorded| recorded.reason);
    Ok(report)
}

fn check_records(
    data: &Path,
    now_ms: &WallClock,
    report: &mut Report,
    progress: &mut impl FnMut(u64),
) -> Result<()> {
    let engine = open::engine(data, CACHE_BYTES)?;
    examine::check_end(data, &engine)?;
    report.damaged = check_metadata(&engine)?;
    if !StrongTables::read(&engine)?.is_empty() && !data.join(RAFT_LOG).is_dir() {
        report.damaged.push(format!("the log of the strong tables is missing: {RAFT_LOG}/"));
    }
    let mut records = 0;
    for name in engine.tree_names(ROWS) {
        let table = open_unwatched(&engine, TableName::parse(&name)?, now_ms)?;
        let mut found =
            TableReport { name: table.name().clone(), rows: Counts::default(), damaged: Vec::new() };
        table.lost.read(&engine.tree(META)?, table.name())?;
        let lost = table.lost.all().into_iter();
        found
            .damaged
            .extend(lost.map(|gap| format!("table {}: the keys from {gap} were lost", table.name())));
        // By partition, as the engine does not read on behind a damaged page.
        for number in 0..=u8::MAX {
            let mut items = table.with_trees(|trees| Ok(trees.partition(number)))?;
            loop {
                let checked = panics::caught(|| {
                    let item = items.next()?;
                    Some(item.and_then(|(row, bytes)| table.verify(&row, &bytes).map(|head| (row, head))))
                });
                match checked {
                    Ok(None) => break,
                    Ok(Some(Ok((row, head)))) => found.rows.add(&row, &head),
                    Ok(Some(Err(error))) => found.damaged.push(error.to_string()),
                    Err(said) => {
                        found.damaged.push(panicked(&said));
                        break;
                    }
                }
                // Partitions on the same page have the same damage.
                found.damaged.dedup();
                records += 1;
                if records % 1000 == 0 {
                    progress(records);
                }
            }
        }
        report.tables.push(found);
    }
    Ok(())
}

fn panicked(said: &str) -> String {
    format!("the engine panicked on what it read: {said}")
}

/// Damage of the indexes of garbage and of `meta`.
fn check_metadata(engine: &Engine) -> Result<Vec<String>> {
    let mut damaged = Vec::new();
    for name in INDEXES {
        let items = engine.tree(name)?.range(&[], None);
        let unsound = items.filter_map(|item| match item {
            Ok((entry, _)) if due_index::parse(&entry).is_some() => None,
            Ok((entry, _)) => Some(format!("the tree {name} has an invalid entry: {}", entry.escape_ascii())),
            Err(error) => Some(format!("the tree {name}: {error}")),
        });
        damaged.extend(unsound);
    }
    let meta = engine.tree(META)?;
    if let Err(error) = gc::read_swept(&meta) {
        damaged.push(error.to_string());
    }
    for item in meta.range(notes::NOTE_PREFIX.as_bytes(), Some(notes::NOTES_END.as_bytes())) {
        let (key, kept) = item?;
        if notes::unseal(&kept).is_none() {
            damaged.push(format!("{} is damaged", key.escape_ascii()));
        }
    }
    Ok(damaged)
}

/// Locks a directory that must exist: a wrong path must not become an empty store.
pub(in crate::storage) fn lock_existing(data: &Path) -> Result<File> {
    if !data.is_dir() && !open::before_compaction(data).is_dir() {
        return Err(Error::StorageUnusable(format!("there is no storage directory {}", data.display())));
    }
    open::lock(data)
}

/// A table without the threads of an open store: no commits, no garbage collection, no subscribers.
pub(in crate::storage) fn open_unwatched(
    engine: &Engine,
    name: TableName,
    now_ms: &WallClock,
) -> Result<Table> {
    open_with_floors(engine, name, Floors::new(Swept::default(), 0), now_ms)
}

/// Like `open_unwatched`, for the rows of another store. Garbage that came late there does here: it is above the floors, and above what the node
/// may have announced (`reached_ms`, Unix milliseconds).
pub(in crate::storage) fn open_target(
    engine: &Engine,
    name: TableName,
    reached_ms: u64,
    now_ms: &WallClock,
) -> Result<Table> {
    let swept = gc::read_swept(&engine.tree(META)?)?;
    open_with_floors(engine, name, Floors::new(swept, reached_ms), now_ms)
}

fn open_with_floors(engine: &Engine, name: TableName, floors: Floors, now_ms: &WallClock) -> Result<Table> {
    let strong = StrongTables::read(engine)?;
    let trees = Trees::open(engine, &name, strong.contains(&name))?;
    let dictionaries = open::read_dictionaries(&engine.tree(META)?, &name)?;
    let context = TableContext {
        now_ms: now_ms.clone(),
        counters: Default::default(),
        committer: Committer::new(Durability::None).into(),
        hot: Default::default(),
        shared: Default::default(),
        recents_max: RECENTS_MAX,
        digest_key: Default::default(),
        jobs: std::sync::mpsc::channel().0,
        floors: floors.into(),
        close_comparison: Default::default(),
        agreed: crate::storage::table::agreed::AgreedInstants::default().into(),
        repairs: std::sync::mpsc::channel().0,
        strong: strong.into(),
        reindex: Default::default(),
        tap: Default::default(),
        waiting: Default::default(),
    };
    Ok(Table::new(name, context, trees, dictionaries))
}
