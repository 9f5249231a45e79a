//! Generations: which of several trees with one name is in use.
//!
//! sled can neither read nor remove a damaged page, so a tree with such a page is not repaired in place. It is copied into a new tree, its
//! next generation. When the copy is complete it takes over the name, by one entry in the tree of generations, which follows the whole copy
//! in the log. Above this module a tree has one name and is one tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use tracing::debug;

use super::{Engine, SEGMENT_BYTES, Tree, translate, tree};
use crate::error::{Error, Result};

/// The tree that maps a name to its generation, in 8 bytes, big-endian; a missing name means generation 0.
const GENERATIONS: &str = "generations";
/// Most bytes that the list of trees may have, which sled keeps as one page: those of the longest page that is synced, without some for trees that
/// have to be made.
const LIST_BYTES_MAX: usize = SEGMENT_BYTES / 4 - 64 * 1024;
/// Most bytes that a tree takes in it beside its name: the name's length and the page's number.
const LISTED_BYTES: usize = 8;
/// Separates name and generation in the names of sled's trees; no name contains it.
const MARK: char = '#';

/// The generations in use other than 0, and the open trees, so that all users of a tree share one handle.
pub(super) struct Generations {
    used: RwLock<BTreeMap<String, u64>>,
    trees: RwLock<BTreeMap<String, Tree>>,
}

impl Generations {
    /// Reads them from the store.
    pub(super) fn read(db: &sled::Db) -> Result<Self> {
        let mut used = BTreeMap::new();
        if db.tree_names().iter().any(|name| name == GENERATIONS.as_bytes()) {
            for item in open(db, GENERATIONS)?.range(&[], None) {
                let (name, generation) = item.map_err(unreadable)?;
                let name = String::from_utf8(name.to_vec()).map_err(unreadable)?;
                let generation = generation.as_ref().try_into().map_err(unreadable)?;
                used.insert(name, u64::from_be_bytes(generation));
            }
        }
        Ok(Self { used: RwLock::new(used), trees: RwLock::default() })
    }

    fn used(&self) -> RwLockReadGuard<'_, BTreeMap<String, u64>> {
        self.used.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, name: &str) -> String {
        name_of(name, self.used().get(name).copied().unwrap_or(0))
    }
}

/// A new generation of a tree, not in use yet.
pub struct Successor {
    name: String,
    generation: u64,
    /// The tree.
    pub tree: Tree,
}

impl Engine {
    /// Opens or creates a tree.
    pub fn tree(&self, name: &str) -> Result<Tree> {
        assert!(!name.contains(MARK), "a tree named {name}");
        self.open_tree(self.generations.name(name))
    }

    /// The names of all trees that start with `prefix`, without it.
    pub fn tree_names(&self, prefix: &str) -> Vec<String> {
        let names = self
            .names()
            .into_iter()
            .filter_map(|name| name_in_use(&name).strip_prefix(prefix).map(str::to_owned));
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Makes an empty next generation of a tree.
    pub fn successor(&self, name: &str) -> Result<Successor> {
        let present: Vec<u64> =
            self.generations_of(name).into_iter().map(|(generation, _)| generation).collect();
        let generation = present.into_iter().max().unwrap_or(0) + 1;
        let tree = self.open_tree(name_of(name, generation))?;
        Ok(Successor { name: name.to_owned(), generation, tree })
    }

    /// Puts new generations into use, all or none after the next sync. Open handles of the old ones stay valid.
    pub fn succeed(&self, successors: &[&Successor]) -> Result<()> {
        let entries: Vec<_> = successors
            .iter()
            .map(|successor| (&successor.name, successor.generation.to_be_bytes()))
            .collect();
        self.open_tree(GENERATIONS.to_owned())?
            .insert_all(entries.iter().map(|(name, generation)| (name.as_bytes(), &generation[..])))?;
        let mut used = self.generations.used.write().unwrap_or_else(PoisonError::into_inner);
        used.extend(successors.iter().map(|successor| (successor.name.clone(), successor.generation)));
        Ok(())
    }

    /// Removes the generations that are no longer in use, and new ones that never were. What sled cannot read of them stays in the log
    /// until it is compacted.
    pub fn remove_predecessors(&self, name: &str) {
        let used = self.generations.used().get(name).copied().unwrap_or(0);
        self.remove_generations(name, |generation| generation != used);
    }

    /// Removes new generations of a tree that were never put into use.
    pub fn remove_unfinished(&self, name: &str) {
        let used = self.generations.used().get(name).copied().unwrap_or(0);
        // If the write that puts one into use failed, that one may be in use after the next opening.
        let Ok(kept) = self.open_tree(GENERATIONS.to_owned()).and_then(|tree| tree.get(name.as_bytes()))
        else {
            return;
        };
        let is_kept = |generation: u64| kept.as_deref() == Some(&generation.to_be_bytes());
        self.remove_generations(name, |generation| generation > used && !is_kept(generation));
    }

    /// Whether a tree has generations besides the one in use.
    pub fn has_others(&self, name: &str) -> bool {
        self.generations_of(name).len() > 1
    }

    fn remove_generations(&self, name: &str, is_to_go: impl Fn(u64) -> bool) {
        for (_, tree) in self.generations_of(name).into_iter().filter(|(generation, _)| is_to_go(*generation))
        {
            self.generations.trees.write().unwrap_or_else(PoisonError::into_inner).remove(&tree);
            if let Err(error) = tree::caught(|| self.db.drop_tree(&tree)) {
                debug!(tree, %error, "a tree that is no longer in use could not be removed completely");
            }
        }
    }

    /// Removes a tree with everything in it. Nobody may use an open handle of it any more.
    pub fn remove_tree(&self, name: &str) -> Result<()> {
        self.remove_predecessors(name);
        let tree = self.generations.name(name);
        self.generations.trees.write().unwrap_or_else(PoisonError::into_inner).remove(&tree);
        tree::caught(|| self.db.drop_tree(&tree)).map(drop).map_err(translate)
    }

    fn generations_of(&self, name: &str) -> Vec<(u64, String)> {
        let generation = |tree: &str| match tree.split_once(MARK) {
            Some((of, generation)) if of == name => generation.parse().ok(),
            Some(_) => None,
            None => (tree == name).then_some(0),
        };
        self.names().into_iter().filter_map(|tree| Some((generation(&tree)?, tree))).collect()
    }

    /// The names of all trees, of every generation.
    pub fn names(&self) -> Vec<String> {
        self.db.tree_names().into_iter().filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect()
    }

    /// Whether as many more trees may be made, whose names have so many bytes together. With more, what the list is kept in would not survive a power
    /// cut, nor any tree.
    pub fn has_room_for_names(&self, trees: usize, bytes: usize) -> bool {
        let listed: usize = self.db.tree_names().iter().map(|name| name.len() + LISTED_BYTES).sum();
        listed + bytes + trees * LISTED_BYTES <= LIST_BYTES_MAX
    }

    fn open_tree(&self, name: String) -> Result<Tree> {
        let trees = self.generations.trees.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = trees.get(&name) {
            return Ok(tree.clone());
        }
        drop(trees);
        let mut trees = self.generations.trees.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = trees.get(&name) {
            return Ok(tree.clone());
        }
        let tree = open(&self.db, &name)?;
        trees.insert(name, tree.clone());
        Ok(tree)
    }
}

fn open(db: &sled::Db, name: &str) -> Result<Tree> {
    let tree = tree::caught(|| db.open_tree(name)).map_err(translate)?;
    Ok(Tree::new(tree, db, Arc::default()))
}

/// The name under which one of sled's trees is used.
pub fn name_in_use(tree: &str) -> &str {
    tree.split_once(MARK).map_or(tree, |(name, _)| name)
}

fn name_of(name: &str, generation: u64) -> String {
    if generation == 0 { name.to_owned() } else { format!("{name}{MARK}{generation}") }
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::StorageDamaged(format!("the generations of trees cannot be read: {error}"))
}
