//! The tables of a store: looked up, made by their first write, opened with their pumps, and removed when they have no rows left, not even
//! tombstones.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, PoisonError, atomic::Ordering},
};

use tracing::info;

use super::table::{
    Table,
    progress::Progress,
    trees::{ROWS, Trees},
};
use crate::{
    core::name::TableName,
    error::{Error, Result},
    storage::{META, Store, WallClock, changes::pump, engine::Feed, open},
};

/// What keeps another table from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// There are so many, as many as there may be.
    Tables(usize),
    /// The engine's list of them is as long as it keeps safely.
    Names,
}

impl Limit {
    /// As an error for whoever asked for one.
    fn refuse(self) -> Error {
        Error::TooMany(match self {
            Self::Tables(tables_max) => {
                format!("this node is at its limit of {tables_max} tables: use one of them, or raise --max-tables")
            }
            Self::Names => "the names of this node's tables are together as long as its database keeps safely: use one of them, or empty \
                            tables. Shorter names leave room for more"
                .into(),
        })
    }

    /// As an error for rows that another node has accepted.
    fn refuse_peer(self, name: &TableName) -> Error {
        Error::TooMany(match self {
            Self::Tables(tables_max) => format!(
                "this node has its {tables_max} tables, and peers have rows of one more, {name}: it takes no rows of peers until there is \
                 room. Raise --max-tables on it, to what the other nodes have"
            ),
            Self::Names => format!(
                "the names of this node's tables are together as long as its database keeps safely, and peers have rows of one more, {name}: \
                 it takes no rows of peers until there is room. Empty tables; shorter names leave room for more"
            ),
        })
    }
}

impl Store {
    pub(in crate::storage) fn table(&self, name: &TableName) -> Option<Arc<Table>> {
        self.read_tables().get(name).cloned()
    }

    pub(in crate::storage) fn all_tables(&self) -> Vec<Arc<Table>> {
        self.read_tables().values().cloned().collect()
    }

    /// Reads a table; returns `empty` if there is none.
    pub(in crate::storage) fn read_table<T>(
        &self,
        name: &TableName,
        empty: T,
        read: impl Fn(&Table) -> Result<T>,
    ) -> Result<T> {
        while let Some(table) = self.table(name) {
            match read(&table) {
                // It was removed meanwhile: the next lookup waits for the end of that.
                Err(_) if table.is_removed() => {}
                outcome => return outcome,
            }
        }
        Ok(empty)
    }

    pub(in crate::storage) fn table_or_new(&self, name: &TableName) -> Result<Arc<Table>> {
        self.table_or_else(name, Limit::refuse)
    }

    /// Like `table_or_new`, for rows that another node has accepted.
    pub(in crate::storage) fn table_of_peer(&self, name: &TableName) -> Result<Arc<Table>> {
        self.table_or_else(name, |limit| limit.refuse_peer(name))
    }

    /// Checks that another strong table may be made, beside `more` that are about to be. Strong tables count before they have rows.
    ///
    /// # Errors
    /// `TooMany`; `NotReady` while the storage is reopened.
    pub fn check_room_for_strong(&self, more: usize) -> Result<()> {
        let (tables, empty) = self.counts(&self.read_tables());
        match self.limit(tables + empty + more, empty + more)? {
            None => Ok(()),
            Some(limit) => Err(limit.refuse()),
        }
    }

    /// Whether another table may be made.
    pub fn has_room_for_tables(&self) -> bool {
        let (tables, empty) = self.counts(&self.read_tables());
        matches!(self.limit(tables, empty), Ok(None))
    }

    /// How many tables there are, and how many strong ones that have no trees yet.
    fn counts(&self, tables: &BTreeMap<TableName, Arc<Table>>) -> (usize, usize) {
        let empty = self.strong_tables().iter().filter(|name| !tables.contains_key(name)).count();
        (tables.len(), empty)
    }

    /// What keeps another table from being made, where so many count and some of those are yet to get trees.
    fn limit(&self, tables: usize, without_trees: usize) -> Result<Option<Limit>> {
        let tables_max = self.0.options.tables_max;
        if tables >= tables_max {
            return Ok(Some(Limit::Tables(tables_max)));
        }
        let has_room = self.with_engine(|engine| Ok(Trees::have_room(engine, without_trees + 1)))?;
        Ok((!has_room).then_some(Limit::Names))
    }

    fn table_or_else(&self, name: &TableName, refuse: impl FnOnce(Limit) -> Error) -> Result<Arc<Table>> {
        if let Some(table) = self.table(name) {
            return Ok(table);
        }
        // What is committed to a strong table has to be applied: its leader asked for room when it was made.
        let limit = |(tables, empty)| if self.is_strong(name) { Ok(None) } else { self.limit(tables, empty) };
        // First without keeping anybody from a table: whoever is refused may come again and again.
        let counts = self.counts(&self.read_tables());
        if let Some(limit) = limit(counts)? {
            return Err(refuse(limit));
        }
        let mut tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(name) {
            return Ok(table.clone());
        }
        // The store may be about to reopen, with the tables it has now.
        if let Some(reason) = self.failure() {
            return Err(Error::StorageFull(reason));
        }
        if let Some(limit) = limit(self.counts(&tables))? {
            return Err(refuse(limit));
        }
        let table = self.0.context.committer.noticed(self.open_table(name.clone()))?;
        table.count()?;
        tables.insert(name.clone(), table.clone());
        Ok(table)
    }

    /// Removes the tables that have no rows, not even tombstones. They no longer count or cost anything; the next write makes a new one.
    /// Subscribers stay subscribed, as they are found by name.
    pub(in crate::storage) fn remove_empty_tables(&self) -> Result<()> {
        // A table with lost rows may have some.
        let has_none =
            |table: &&Arc<Table>| table.rows() == 0 && table.is_counted() && table.unreadable_ranges() == 0;
        for table in self.all_tables().iter().filter(has_none) {
            self.remove_table(table)?;
        }
        Ok(())
    }

    fn remove_table(&self, table: &Arc<Table>) -> Result<()> {
        let mut tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        // The store may be about to reopen, with the tables it has now.
        if self.failure().is_some() {
            return Ok(());
        }
        let Some(trees) = table.remove_if_empty() else { return Ok(()) };
        tables.remove(table.name());
        let dictionaries = table.dictionaries().count();
        let removed = self.with_engine(|engine| {
            open::remove_dictionaries(&engine.tree(META)?, table.name(), dictionaries)?;
            Trees::remove(engine, table.name())
        });
        drop(tables);
        // Not earlier: the engine flushes its log when it releases a tree.
        drop(trees);
        info!(table = %table.name(), "removed a table without rows");
        removed
    }

    /// Opens the tables that are on the disk and not open.
    pub(in crate::storage) fn open_tables(&self) -> Result<()> {
        let names = self.with_engine(|engine| Ok(engine.tree_names(ROWS)))?;
        let mut tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let name = TableName::parse(&name)?;
            if let Entry::Vacant(place) = tables.entry(name) {
                let table = self.open_table(place.key().clone())?;
                place.insert(table);
            }
        }
        Ok(())
    }

    fn open_table(&self, name: TableName) -> Result<Arc<Table>> {
        let (trees, dictionaries) = self.with_engine(|engine| {
            let strong = self.is_strong(&name);
            Ok((Trees::open(engine, &name, strong)?, open::read_dictionaries(&engine.tree(META)?, &name)?))
        })?;
        let table = Arc::new(Table::new(name, self.0.context.clone(), trees, dictionaries));
        table.lost.read(&self.meta()?, table.name())?;
        self.start_pump(&table)?;
        Ok(table)
    }

    /// Has every table publish its changes from now on, if they do not yet. Without subscribers nobody needs them, and an insert that no feed
    /// reports costs the engine less.
    ///
    /// # Errors
    /// `Io` if no thread can be started.
    pub(in crate::storage) fn start_pumps(&self) -> Result<()> {
        let tables: Vec<Arc<Table>> = {
            // No table is made meanwhile; one that is made later gets its pump then.
            let tables = self.0.tables.write().unwrap_or_else(PoisonError::into_inner);
            // Before the tables are looked at: one that is being reopened gets its pump afterwards.
            self.0.is_followed.store(true, Ordering::Release);
            tables.values().cloned().collect()
        };
        // Requests go on: there may be very many tables.
        tables.iter().try_for_each(|table| self.start_pump(table))?;
        self.0.has_pumps.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether every change is published.
    pub(in crate::storage) fn has_pumps(&self) -> bool {
        self.0.has_pumps.load(Ordering::Acquire)
    }

    /// Starts the pump of a table, if changes are published and it has none. A table that is being reopened gets its pump after that.
    pub(in crate::storage) fn start_pump(&self, table: &Arc<Table>) -> Result<()> {
        let feed = table.open().as_ref().and_then(|trees| self.feed(table, trees));
        feed.map_or(Ok(()), |feed| self.pump(table, feed))
    }

    /// The feed of every row that is set in these trees from now on, with the count of those; `None` if nobody follows, or if it has a pump.
    pub(in crate::storage) fn feed(&self, table: &Table, trees: &Trees) -> Option<(Feed, Arc<Progress>)> {
        if !self.0.is_followed.load(Ordering::Acquire) {
            return None;
        }
        let _partitions = table.lock_all();
        trees.progress.add_pump().then(|| (trees.rows.subscribe(), trees.progress.clone()))
    }

    /// Runs the pump of a table.
    pub(in crate::storage) fn pump(
        &self,
        table: &Arc<Table>,
        (feed, progress): (Feed, Arc<Progress>),
    ) -> Result<()> {
        let (table, hub) = (table.clone(), self.0.hub.clone());
        let now_ms: WallClock = match table.is_strong() {
            // No clock ends its values.
            true => Arc::new(|| 0),
            false => self.0.options.environment.clock().clone(),
        };
        let (pumped, counted) = (table.clone(), progress.clone());
        self.spawn("pump", move || pump::run(feed, &pumped, &counted, &hub, &now_ms)).inspect_err(|_| {
            {
                let _partitions = table.lock_all();
                progress.remove_pump();
            }
            // The next subscriber tries again.
            self.0.has_pumps.store(false, Ordering::Release);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use crate::{
        core::{name::TableName, protocol::replica::Swept},
        error::Error,
        storage::{
            Store,
            changes::{
                change::{Effect, Gone, Topic},
                subscription::Start,
            },
            engine::Engine,
            table::trees::Trees,
            tests::{
                Fixture, NOW_MS, close, effect, key, next, put, timestamp, wait_until, within_the_deadline,
            },
        },
    };

    fn name(text: &str) -> TableName {
        TableName::parse(text).expect("a name")
    }

    /// Empties a table, like deletes followed by garbage collection.
    fn empty(store: &Store, table: &TableName, keys: &[&str]) {
        for (counter, name) in keys.iter().enumerate() {
            let deleted = crate::core::register::Register::deleted(timestamp(1000 + counter as u64));
            store.merge(table, &key(name), |_| Ok(deleted)).expect("merges");
        }
        let floor_ms = store.swept().latest_ms().max(NOW_MS) + 1;
        store.sweep_to(Swept { tombstones_ms: floor_ms, expired_ms: floor_ms });
    }

    /// Tables whose last row had expired or was deleted counted against `--max-tables` for ever: with one table a day, after some days no
    /// table could be made any more, even after a restart.
    #[test]
    fn an_emptied_and_swept_table_no_longer_counts() {
        let fixture = Fixture::new();
        let store = fixture.open();
        for day in 0..25 {
            let table = name(&format!("day{day}"));
            store
                .merge(&table, &key("k"), |_| Ok(put("1", None, 1)))
                .expect("there is room for another table");
            empty(&store, &table, &["k"]);
            wait_until("the table is gone", || !store.has_table(&table));
        }
        close(store);
        let store = fixture.open();
        assert_eq!(store.tables().len(), 0, "none is left on the disk");
        close(store);
    }

    /// The engine keeps its list of trees in one page, and a page that is too long goes to a file that is never synced: with 3,600 tables of long names
    /// a power cut would have taken all of them.
    #[test]
    fn no_table_is_made_whose_name_would_make_the_list_of_trees_too_long() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.merge(&name("first"), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        store.make_strong(&name("strong")).expect("makes");
        let fill = |engine: &Engine| {
            let mut number = 0..;
            let mut tree =
                |digits| engine.tree(&format!("{:0digits$}", number.next().expect("there is another")));
            while Trees::have_room(engine, 60) {
                tree(8000)?;
            }
            while Trees::have_room(engine, 2) {
                tree(100)?;
            }
            assert!(Trees::have_room(engine, 1), "for the strong table, which has no rows yet");
            Ok(())
        };
        store.with_engine(fill).expect("fills");
        let refused = store.merge(&name("second"), &key("k"), |_| Ok(put("1", None, 1)));
        assert!(matches!(&refused, Err(Error::TooMany(why)) if why.contains("names")), "{refused:?}");
        let refused = store.table_of_peer(&name("second")).map(drop);
        assert!(matches!(&refused, Err(Error::TooMany(why)) if why.contains("peers")), "{refused:?}");
        assert!(store.check_room_for_strong(0).is_err() && !store.has_room_for_tables());
        store.merge(&name("first"), &key("l"), |_| Ok(put("1", None, 1))).expect("it is there");
        store.merge(&name("strong"), &key("l"), |_| Ok(put("1", None, 1))).expect("its leader had it made");
        let blobs = fixture.data().join("blobs");
        let count = || std::fs::read_dir(&blobs).expect("sled makes it").count();
        assert_eq!(count(), 0, "all is synced");
        // The limit is that of the engine: it is not reached long before.
        let beyond = |engine: &Engine| {
            let trees = (0..16).map(|number| engine.tree(&format!("beyond{number:08000}")).map(drop));
            trees.collect::<crate::error::Result<Vec<()>>>()
        };
        store.with_engine(beyond).expect("sled takes them");
        assert!(count() > 0, "what this test is about happens no more");
        close(store);
    }

    /// An entry of the log could make more tables than there may be: applied, its rows had no place.
    #[test]
    fn strong_tables_count_before_they_have_rows() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.merge(&name("eventual"), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        for number in 0..7 {
            store.make_strong(&name(&format!("strong{number}"))).expect("makes");
        }
        // Eight of ten are there.
        assert!(store.check_room_for_strong(1).is_ok());
        assert!(store.check_room_for_strong(2).is_err());
        store.merge(&name("strong0"), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        assert!(store.check_room_for_strong(1).is_ok(), "a table with rows counts once");
        close(store);
    }

    #[test]
    fn a_table_emptied_before_a_restart_is_removed_after_it() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.merge(&name("full"), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        store.merge(&name("bare"), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        let trees = store.table(&name("bare")).expect("is there");
        trees
            .with_trees(|trees| trees.rows.remove(&crate::storage::table::row::row_of(&key("k"))))
            .expect("removes");
        drop(trees);
        close(store);
        let store = fixture.open();
        assert!(store.has_table(&name("bare")));
        store.count_rows().expect("counts");
        wait_until("the table without rows is gone", || !store.has_table(&name("bare")));
        assert!(store.has_table(&name("full")));
        close(store);
    }

    #[test]
    fn subscribers_of_a_table_survive_its_removal_and_return() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let table = name("t");
        store.merge(&table, &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        let topics = vec![Topic::Prefix(table.clone(), String::new())];
        let mut watching = within_the_deadline(store.watch(topics, Start::Now)).expect("watches");
        empty(&store, &table, &["k"]);
        wait_until("the table is gone", || !store.has_table(&table));
        assert_eq!(effect(next(&mut watching)), Effect::Deleted(Gone::Deleted));
        store.merge(&table, &key("k"), |_| Ok(put("2", None, 5000))).expect("merges");
        assert!(
            matches!(effect(next(&mut watching)), Effect::Updated { value, .. } if value.as_str() == "2")
        );
        close(store);
    }

    /// A write that arrives while its table is being removed goes to the table that replaces it.
    #[test]
    fn no_write_is_lost_while_its_table_is_removed() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let table = name("t");
        let over = Arc::new(AtomicBool::new(false));
        let remover = thread::spawn({
            let (store, over) = (store.clone(), over.clone());
            move || {
                while !over.load(Ordering::SeqCst) {
                    store.remove_empty_tables().expect("removes");
                }
            }
        });
        for round in 0..300_u64 {
            store.merge(&table, &key("k"), |_| Ok(put("1", None, 2 * round))).expect("merges");
            assert!(store.get(&table, &key("k")).expect("reads").is_some(), "round {round}");
            // Remove the row like the garbage collector, so that the table may go.
            let found = store.table(&table).expect("it has a row");
            let row = crate::storage::table::row::row_of(&key("k"));
            found
                .writing(|trees| {
                    let mut partition = found.lock_row(&row);
                    let bytes = trees.rows.get(&row)?.expect("it was set");
                    found.remove_row(trees, &mut partition, &row, &found.decode(&row, &bytes)?)
                })
                .expect("removes");
        }
        over.store(true, Ordering::SeqCst);
        remover.join().expect("no panic");
        close(store);
    }

    #[test]
    fn a_removed_table_does_not_change_the_root() {
        let (fixture, other) = (Fixture::new(), Fixture::new());
        let (store, other) = (fixture.open(), other.open());
        let digests = crate::core::digest::DigestKey([7; 32]);
        for store in [&store, &other] {
            store.rekey(digests).expect("takes the key");
            store.merge(&name("kept"), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        }
        store.merge(&name("gone"), &key("k"), |_| Ok(put("1", None, 2))).expect("merges");
        empty(&store, &name("gone"), &["k"]);
        wait_until("the table is gone", || !store.has_table(&name("gone")));
        let root = |store: &Store| store.root(store.now_ms() + 10_000).expect("does not fail");
        assert!(root(&store).is_some());
        assert_eq!(root(&store), root(&other));
        for store in [store, other] {
            close(store);
        }
    }
}
