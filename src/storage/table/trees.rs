//! The trees of the engine that hold a table.

use std::sync::{Arc, RwLockReadGuard};

use super::progress::Progress;
use crate::{
    core::name::TableName,
    error::{Error, Result},
    storage::{
        META,
        engine::{Engine, Items, Tree},
    },
};

/// What the names of the trees of rows begin with.
pub const ROWS: &str = "rows/";
/// What the names of the trees of chunks begin with.
pub const CHUNKS: &str = "chunks/";
/// The tree of what expires when.
pub const EXPIRY: &str = "expiry";
/// The tree of expired values that subscribers were told of.
pub const EXPIRED: &str = "expired";
/// The tree of batches that are being set.
pub const BATCHES: &str = "batches";
/// The tree of tombstones by when they were written.
pub const TOMBSTONES: &str = "tombstones";

/// The trees of a table in an open engine.
pub struct Trees {
    /// Rows.
    pub rows: Tree,
    /// Chunks of long payloads.
    pub chunks: Tree,
    /// When rows of all tables expire.
    pub expiry: Tree,
    /// Expired values of all tables that subscribers were told of, by when they may go.
    pub expired: Tree,
    /// Tombstones of all tables, by when they were written.
    pub tombstones: Tree,
    /// Batches of all tables that are being set.
    pub batches: Tree,
    /// What is kept beside the tables.
    pub meta: Tree,
    /// How far the pump of the rows is.
    pub progress: Arc<Progress>,
}

impl Trees {
    /// Opens a table's trees, making those that are missing.
    pub fn open(engine: &Engine, name: &TableName) -> Result<Self> {
        Ok(Self {
            rows: engine.tree(&format!("{ROWS}{name}"))?,
            chunks: engine.tree(&format!("{CHUNKS}{name}"))?,
            expiry: engine.tree(EXPIRY)?,
            expired: engine.tree(EXPIRED)?,
            tombstones: engine.tree(TOMBSTONES)?,
            batches: engine.tree(BATCHES)?,
            meta: engine.tree(META)?,
            progress: Arc::new(Progress::new()),
        })
    }

    /// Removes a table's trees. Nobody may have them open.
    pub fn remove(engine: &Engine, name: &TableName) -> Result<()> {
        // The rows last: as long as they are there, so is the table.
        engine.remove_tree(&format!("{CHUNKS}{name}"))?;
        engine.remove_tree(&format!("{ROWS}{name}"))
    }

    /// The rows of one partition, in the order of their keys.
    pub fn partition(&self, number: u8) -> Items {
        self.rows.range(&[number], number.checked_add(1).as_ref().map(std::slice::from_ref))
    }
}

/// The trees, if the storage is not just being opened again.
pub fn of<'a>(open: &'a RwLockReadGuard<'_, Option<Trees>>) -> Result<&'a Trees> {
    open.as_ref()
        .ok_or_else(|| Error::NotReady("the storage is being opened again; try again in a moment".into()))
}
