//! Which tables are strong: their rows come through the log of the Raft group (`replication::strong`) and from nowhere
//! else. The list is a note beside the tables. It is written before the first row of a table, so a table's mode never
//! changes.
//!
//! A value of a strong table is there until a delete comes through the log, whatever the clock says. So its expiry and
//! its tombstones are indexed in trees of their own, which the garbage collector leaves alone. The digests of strong
//! tables are in no root: replicas are not compared, as the log makes them equal.

use std::{
    collections::BTreeSet,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::error;

use crate::{
    core::{
        name::{Key, TABLE_BYTES_MAX, TableName},
        protocol::message::Row,
    },
    error::{Error, Result},
    storage::{
        META, Store,
        engine::{Engine, notes},
        table::{Table, due_index, row::key_of, trees},
    },
};

/// The directory of the log of the strong tables, in that of the store.
pub const RAFT_LOG: &str = "raft";
/// A copy of it, in the directory of a salvaged store, which takes no part in its group with it.
pub const SALVAGED_LOG: &str = "raft.salvaged";
/// The note that lists the strong tables.
pub(in crate::storage) const NOTE: &str = "strong/tables";
/// The note of the instant up to which tombstones were removed.
pub(in crate::storage) const SWEPT_NOTE: &str = "strong/swept";
/// The note of a store that was restored from a backup: the log of its former self is in none.
pub const RESTORED_NOTE: &str = "strong/restored";
/// Rows removed or listed under one lock.
const PAGE_ROWS: usize = 1000;
/// Bytes of rows moved at a time.
const PAGE_BYTES: usize = 256 * 1024;
/// What the name of a table ends with that has the rows of an eventual table whose name became that of a strong one.
const ASIDE: &str = ".eventual";

/// The names of the strong tables.
#[derive(Debug, Default)]
pub struct StrongTables {
    names: RwLock<BTreeSet<TableName>>,
    /// Whether there are any: most nodes have none, and each read asks.
    any: AtomicBool,
    /// Held by who reads an index of theirs, and alone by who replaces one.
    index: RwLock<()>,
}

impl StrongTables {
    /// Reads the list of a store.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn read(engine: &Engine) -> Result<Self> {
        let meta = engine.tree(META)?;
        let names = names(|key| Ok(meta.get(key)?.map(|kept| kept.to_vec())))?;
        let any = AtomicBool::new(!names.is_empty());
        Ok(Self { any, names: RwLock::new(names), index: RwLock::default() })
    }

    /// Nobody reads their index until the result is dropped. Take it before any lock of a table.
    pub(in crate::storage) fn replacing_index(&self) -> RwLockWriteGuard<'_, ()> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading_index(&self) -> RwLockReadGuard<'_, ()> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Whether a table is strong.
    pub fn contains(&self, table: &TableName) -> bool {
        self.any.load(Ordering::Acquire)
            && self.names.read().unwrap_or_else(PoisonError::into_inner).contains(table)
    }
}

/// The names of the strong tables, by what `get` finds under a key of the store's records.
///
/// # Errors
/// `Corrupt`; those of `get`.
pub(in crate::storage) fn names(
    get: impl Fn(&[u8]) -> Result<Option<Vec<u8>>>,
) -> Result<BTreeSet<TableName>> {
    let note = notes::read(get, NOTE)?;
    let names = note.map(|note| postcard::from_bytes(&note)).transpose();
    let names = names.map_err(|_| Error::Corrupt("the list of strong tables cannot be read".into()))?;
    Ok(names.unwrap_or_default())
}

fn encode(names: &BTreeSet<TableName>) -> Vec<u8> {
    postcard::to_stdvec(names).expect("names can be encoded")
}

impl Store {
    /// Whether a table is strong.
    pub fn is_strong(&self, table: &TableName) -> bool {
        self.0.context.strong.contains(table)
    }

    /// The strong tables.
    pub fn strong_tables(&self) -> BTreeSet<TableName> {
        self.0.context.strong.names.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a table strong. Durable by the next commit. Does nothing if it is.
    ///
    /// # Errors
    /// `WrongMode` if the table has rows already, tombstones included; those of the storage.
    pub fn make_strong(&self, table: &TableName) -> Result<()> {
        let tables = self.0.tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut names = self.0.context.strong.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.contains(table) {
            return Ok(());
        }
        if tables.contains_key(table) {
            return Err(Error::WrongMode(format!(
                "table {table} has rows of an eventual table on this node"
            )));
        }
        let mut more = names.clone();
        more.insert(table.clone());
        self.set_note(NOTE, &encode(&more))?;
        *names = more;
        self.0.context.strong.any.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes the list to a storage that was reopened, as the failed one may have lost it: who made a table strong before need not do it again.
    /// Durable on return.
    ///
    /// # Errors
    /// `StorageFull`, `NotReady`.
    pub(in crate::storage) fn rewrite_strong_tables(&self) -> Result<()> {
        let names = self.0.context.strong.names.read().unwrap_or_else(PoisonError::into_inner);
        if names.is_empty() {
            return Ok(());
        }
        self.write_note(NOTE, &encode(&names))?;
        self.with_engine(Engine::sync)
    }

    /// Moves the rows of an eventual table to another one, and removes the table. Returns the other's name, and how many rows it got.
    ///
    /// # Errors
    /// Those of the storage; then some rows may have moved.
    pub fn set_eventual_rows_aside(&self, table: &TableName) -> Result<(TableName, u64)> {
        let base: String = table.as_str().chars().take(TABLE_BYTES_MAX - ASIDE.len()).collect();
        let aside = TableName::parse(&format!("{base}{ASIDE}"))?;
        let mut moved = 0;
        for partition in 0..=u8::MAX {
            loop {
                let page = self.scan_partition(table, partition, None, PAGE_BYTES)?;
                let Some(names) = self.move_rows(table, &aside, page.rows)? else { break };
                moved += names;
            }
        }
        self.remove_empty_tables()?;
        Ok((aside, moved))
    }

    /// Moves rows to another table. Returns how many; `None` if there were none.
    fn move_rows(&self, table: &TableName, aside: &TableName, rows: Vec<Row>) -> Result<Option<u64>> {
        let mut moved = Vec::new();
        for row in rows {
            let (key, marker) = (row.key.clone(), row.marker);
            if let Some((_, register)) = row.into_register() {
                self.merge(aside, &key, |_| Ok(register))?;
            }
            moved.push((table.clone(), key, marker));
        }
        if moved.is_empty() { Ok(None) } else { self.remove(moved).map(Some) }
    }

    /// The keys of strong tables whose values expire at or before an instant (Unix milliseconds), a page of them.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn strong_expired(&self, at_ms: u64) -> Result<Vec<(TableName, Key)>> {
        let _index = self.0.context.strong.reading_index();
        let tree = self.with_engine(|engine| engine.tree(trees::STRONG_EXPIRY))?;
        let mut due = Vec::new();
        for item in self.due_entries(&tree, at_ms).take(PAGE_ROWS) {
            let (entry, _) = item?;
            let Some((_, table, row)) = due_index::parse(&entry) else { continue };
            due.extend(key_of(row).ok().map(|key| (table, key)));
        }
        Ok(due)
    }

    /// Whether strong tables have tombstones written at or before an instant (Unix milliseconds).
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn has_strong_tombstones(&self, at_ms: u64) -> Result<bool> {
        let _index = self.0.context.strong.reading_index();
        let tree = self.with_engine(|engine| engine.tree(trees::STRONG_TOMBSTONES))?;
        Ok(self.due_entries(&tree, at_ms).next().transpose()?.is_some())
    }

    /// Tombstones of strong tables up to this instant (Unix milliseconds) may have been removed.
    ///
    /// # Errors
    /// `Corrupt`, `NotReady`.
    pub fn strong_swept_ms(&self) -> Result<u64> {
        let note = self.note(SWEPT_NOTE)?;
        Ok(note.and_then(|note| note.try_into().ok()).map_or(0, u64::from_be_bytes))
    }

    /// Removes the tombstones of strong tables that were written at or before an instant (Unix milliseconds). One that cannot be read stays, with
    /// its entry or until it is indexed again, for a later sweep.
    ///
    /// # Errors
    /// `StorageFull`, `NotReady`; `Corrupt` if it is not known how far they were removed before.
    pub fn sweep_strong(&self, at_ms: u64) -> Result<()> {
        let _index = self.0.context.strong.reading_index();
        let tree = self.with_engine(|engine| engine.tree(trees::STRONG_TOMBSTONES))?;
        // First, so that nobody takes what is gone for what never was.
        self.set_note(SWEPT_NOTE, &at_ms.max(self.strong_swept_ms()?).to_be_bytes())?;
        for item in self.due_entries(&tree, at_ms) {
            let (entry, _) = item?;
            let Some((written_ms, name, row)) = due_index::parse(&entry) else { continue };
            let Some(table) = self.table(&name) else {
                tree.remove(&entry)?;
                continue;
            };
            match table.sweep_tombstone(row, written_ms, (&tree, &entry)) {
                Err(error @ Error::Corrupt(_)) => error!(%error, "a tombstone cannot be removed"),
                swept => drop(swept?),
            }
        }
        Ok(())
    }
}

impl Table {
    /// Whether it is strong.
    pub fn is_strong(&self) -> bool {
        self.strong
    }
}
