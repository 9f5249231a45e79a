//! The tables of a store: found, made by the first write, opened with their pumps.

use std::sync::{Arc, PoisonError};

use super::{
    META, Store, open,
    table::Table,
    trees::{ROWS, Trees},
    watch,
};
use crate::{
    core::name::TableName,
    error::{Error, Result},
};

impl Store {
    pub(super) fn table(&self, name: &TableName) -> Option<Arc<Table>> {
        self.read_tables().get(name).cloned()
    }

    pub(super) fn table_or_new(&self, name: &TableName) -> Result<Arc<Table>> {
        self.table_or_else(name, |tables_max| {
            format!("this node has its {tables_max} tables: use one of them, or raise --max-tables")
        })
    }

    /// As `table_or_new`, for rows that another node has taken.
    pub(super) fn table_of_peer(&self, name: &TableName) -> Result<Arc<Table>> {
        self.table_or_else(name, |tables_max| {
            format!(
                "this node has its {tables_max} tables, and peers have rows of one more, {name}: it takes no rows of peers until there is \
                 room. Raise --max-tables on it, to what the other nodes have"
            )
        })
    }

    /// Whether one more table may be made.
    pub fn has_room_for_tables(&self) -> bool {
        self.read_tables().len() < self.0.options.tables_max
    }

    fn table_or_else(&self, name: &TableName, full: impl FnOnce(usize) -> String) -> Result<Arc<Table>> {
        if let Some(table) = self.table(name) {
            return Ok(table);
        }
        let mut tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(name) {
            return Ok(table.clone());
        }
        // The store may be about to be opened again, with the tables that there are.
        if let Some(reason) = self.failure() {
            return Err(Error::StorageFull(reason));
        }
        let tables_max = self.0.options.tables_max;
        if tables.len() >= tables_max {
            return Err(Error::TooMany(full(tables_max)));
        }
        let table = self.open_table(name.clone())?;
        table.count()?;
        tables.insert(name.clone(), table.clone());
        Ok(table)
    }

    pub(super) fn open_tables(&self) -> Result<()> {
        let names = self.with_engine(|engine| Ok(engine.tree_names(ROWS)))?;
        let mut tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let name = TableName::parse(&name)?;
            let table = self.open_table(name.clone())?;
            tables.insert(name, table);
        }
        Ok(())
    }

    fn open_table(&self, name: TableName) -> Result<Arc<Table>> {
        let (trees, dictionaries) = self.with_engine(|engine| {
            Ok((Trees::open(engine, &name)?, open::read_dictionaries(&engine.tree(META)?, &name)?))
        })?;
        let table = Arc::new(Table::new(name, self.0.around.clone(), trees, dictionaries));
        self.start_pump(&table)?;
        Ok(table)
    }

    pub(super) fn start_pump(&self, table: &Arc<Table>) -> Result<()> {
        let (feed, progress) =
            table.with_trees(|trees| Ok((trees.rows.subscribe(), trees.progress.clone())))?;
        let (table, hub, now_ms) =
            (table.clone(), self.0.hub.clone(), self.0.options.machine.clock().clone());
        self.spawn("pump", move || watch::pump(feed, &table, &progress, &hub, &now_ms))
    }
}
