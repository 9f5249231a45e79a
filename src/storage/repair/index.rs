//! The trees that say which row is due when, made anew where a page of one cannot be read: nothing is in them that the rows do not
//! say.

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
            trees::{EXPIRED, EXPIRY, TOMBSTONES, Trees},
        },
    },
};

impl Store {
    /// Puts an empty tree in the place of each that cannot be read to its end, and has all rows entered again.
    pub(super) fn renew_indexes(&self) -> Result<()> {
        let damaged: Vec<&str> = self.with_engine(|engine| {
            let is_damaged = |name: &&str| {
                engine.tree(name).map(|tree| {
                    tree.range(&[], None)
                        .any(|item| item.map_or(true, |(entry, _)| due_index::parse(&entry).is_none()))
                })
            };
            let names = [EXPIRY, EXPIRED, TOMBSTONES].into_iter();
            names
                .filter_map(|name| is_damaged(&name).map(|damaged| damaged.then_some(name)).transpose())
                .collect()
        })?;
        for name in damaged {
            warn!(tree = name, "a part of what is due when cannot be read: it is made anew");
            let new = self.with_engine(|engine| engine.successor(name))?;
            // Before it is in use: a crash in between has rows entered that are entered already.
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

    fn take_index(&self, name: &str, new: &Successor) -> Result<()> {
        let tables: Vec<_> = self.read_tables().values().cloned().collect();
        for table in tables {
            table.replace_trees(|trees: &mut Trees| {
                match name {
                    EXPIRY => trees.expiry = new.tree.clone(),
                    EXPIRED => trees.expired = new.tree.clone(),
                    _ => trees.tombstones = new.tree.clone(),
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
