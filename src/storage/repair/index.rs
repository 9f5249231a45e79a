//! Rebuilds the index trees of the garbage collector if a page of one cannot be read: everything in them follows from the rows.

use std::sync::atomic::Ordering;

use tracing::warn;

use super::Store;
use crate::{
    error::Result,
    storage::{
        engine::{Engine, Successor},
        gc::INDEXED_KEY,
        table::{
            due_index,
            trees::{EXPIRED, INDEXES, Trees, index_names},
        },
    },
};

impl Store {
    /// Replaces each damaged index tree with an empty one, and requests a new index of all rows.
    pub(super) fn renew_indexes(&self) -> Result<()> {
        let damaged: Vec<&str> = self.with_engine(|engine| {
            let is_damaged = |name: &&str| {
                engine.tree(name).map(|tree| {
                    tree.range(&[], None)
                        .any(|item| item.map_or(true, |(entry, _)| due_index::parse(&entry).is_none()))
                })
            };
            INDEXES
                .into_iter()
                .filter_map(|name| is_damaged(&name).map(|damaged| damaged.then_some(name)).transpose())
                .collect()
        })?;
        for name in damaged {
            warn!(tree = name, "a part of an index of garbage cannot be read; it is rebuilt");
            let new = self.with_engine(|engine| engine.successor(name))?;
            // Who reads an index of strong tables would find it removed.
            let _unread = self.0.context.strong.replacing_index();
            // Before the new tree is in use: if a crash comes in between, rows are only indexed twice.
            self.meta()?.remove(INDEXED_KEY)?;
            self.with_engine(|engine| engine.succeed(&[&new]))?;
            self.take_index(name, &new)?;
            self.0.context.floors.renew();
            self.0.context.reindex.store(true, Ordering::Release);
            self.with_engine(|engine| {
                engine.remove_predecessors(name);
                Engine::sync(engine)
            })?;
            self.sweep_again();
        }
        Ok(())
    }

    /// Has the tables use it whose rows it indexes.
    fn take_index(&self, name: &str, new: &Successor) -> Result<()> {
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        for table in tables {
            let (expiry, tombstones) = index_names(table.is_strong());
            if ![expiry, EXPIRED, tombstones].contains(&name) {
                continue;
            }
            table.replace_trees(|trees: &mut Trees| {
                match name {
                    EXPIRED => trees.expired = new.tree.clone(),
                    name if name == expiry => trees.expiry = new.tree.clone(),
                    _ => trees.tombstones = new.tree.clone(),
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
