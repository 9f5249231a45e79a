//! The engine's trees that hold a table.

use std::sync::{Arc, RwLockReadGuard};

use super::progress::Progress;
use crate::{
    core::name::{TABLE_BYTES_MAX, TableName},
    error::{Error, Result},
    storage::{
        META,
        engine::{Engine, Items, Tree},
    },
};

/// Name prefix of trees of rows.
pub const ROWS: &str = "rows/";
/// Name prefix of trees of chunks.
pub const CHUNKS: &str = "chunks/";
/// Tree of values that will expire, by that instant.
pub const EXPIRY: &str = "expiry";
/// Tree of expired values that were announced.
pub const EXPIRED: &str = "expired";
/// Tree of batches that are being set.
pub const BATCHES: &str = "batches";
/// Tree of tombstones, by when they were written.
pub const TOMBSTONES: &str = "tombstones";
/// Tree of values of strong tables that will expire, by that instant.
pub const STRONG_EXPIRY: &str = "strong/expiry";
/// Tree of tombstones of strong tables, by when they were written.
pub const STRONG_TOMBSTONES: &str = "strong/tombstones";

/// The trees that tell what ends or may be removed when, of the tables of both modes.
pub const INDEXES: [&str; 5] = [EXPIRY, EXPIRED, TOMBSTONES, STRONG_EXPIRY, STRONG_TOMBSTONES];

/// The trees of the values of a table that will expire, and of its tombstones.
pub fn index_names(strong: bool) -> (&'static str, &'static str) {
    if strong { (STRONG_EXPIRY, STRONG_TOMBSTONES) } else { (EXPIRY, TOMBSTONES) }
}

/// The trees of a table in an open engine.
pub struct Trees {
    /// Rows.
    pub rows: Tree,
    /// Chunks of long payloads.
    pub chunks: Tree,
    /// Values of all tables that will expire.
    pub expiry: Tree,
    /// Expired values of all tables that were announced, by when they may be removed.
    pub expired: Tree,
    /// Tombstones of all tables, by when they were written.
    pub tombstones: Tree,
    /// Batches of all tables that are being set.
    pub batches: Tree,
    /// Records beside the tables.
    pub meta: Tree,
    /// Progress of the rows' pump.
    pub progress: Arc<Progress>,
}

impl Trees {
    /// Opens a table's trees; creates those that are missing.
    pub fn open(engine: &Engine, name: &TableName, strong: bool) -> Result<Self> {
        let (expiry, tombstones) = index_names(strong);
        Ok(Self {
            rows: engine.tree(&format!("{ROWS}{name}"))?,
            chunks: engine.tree(&format!("{CHUNKS}{name}"))?,
            expiry: engine.tree(expiry)?,
            expired: engine.tree(EXPIRED)?,
            tombstones: engine.tree(tombstones)?,
            batches: engine.tree(BATCHES)?,
            meta: engine.tree(META)?,
            progress: Arc::new(Progress::new()),
        })
    }

    /// Whether so many more tables may be made, whatever their names.
    pub fn have_room(engine: &Engine, tables: usize) -> bool {
        let bytes = [ROWS, CHUNKS].map(|prefix| prefix.len() + TABLE_BYTES_MAX);
        engine.has_room_for_names(tables * bytes.len(), tables * bytes.iter().sum::<usize>())
    }

    /// Removes a table's trees. Nobody may have them open.
    pub fn remove(engine: &Engine, name: &TableName) -> Result<()> {
        // The rows last: while they exist, so does the table.
        engine.remove_tree(&format!("{CHUNKS}{name}"))?;
        engine.remove_tree(&format!("{ROWS}{name}"))
    }

    /// The rows of one partition, ordered by key.
    pub fn partition(&self, number: u8) -> Items {
        self.rows.range(&[number], number.checked_add(1).as_ref().map(std::slice::from_ref))
    }
}

/// The trees; an error while the storage is reopened.
pub fn of<'a>(open: &'a RwLockReadGuard<'_, Option<Trees>>) -> Result<&'a Trees> {
    open.as_ref()
        .ok_or_else(|| Error::NotReady("the storage is being reopened; try again in a moment".into()))
}
