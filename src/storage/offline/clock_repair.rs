//! `DynaRust clock`: shows and repairs what a wrong wall clock left in a store that no node has open.
//!
//! A node whose clock was ahead has rows with timestamps in the future. Its peers refuse them, and whatever it writes must be later still.
//! The repair gives each of these rows a timestamp of now, in the order of the old ones; no other node has seen the old ones, unless its
//! clock was ahead too. It also lowers what the node made durable about its clock: the bound and the removal floors.
//!
//! Each row is rewritten in one step, and the bound is lowered last: a repair that was interrupted is run again. No row is removed. A
//! repaired row counts as written now, so it wins over what other nodes wrote to its key meanwhile: nobody knows when it was really
//! written.

use std::{collections::BTreeSet, path::Path};

use super::check;
use crate::{
    core::{
        clock::{NodeId, Timestamp, last_reading, unix_ms},
        name::{Key, TableName},
        protocol::replica::Swept,
        wall_clock::UNSET_BEFORE_MS,
    },
    error::{Error, Result},
    storage::{
        META, WallClock,
        commit::timestamps::BOUND_LEAD_MS,
        engine::{Engine, meta, panics},
        gc,
        open::{self, examine},
        table::{Table, row::key_of, trees::ROWS},
    },
};

/// Memory for pages: each is read once or twice.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Most rows of a table that are named.
const EXAMPLES_MAX: usize = 5;
/// Rows between two syncs, and between two calls of `progress`.
const SYNC_ROWS: u64 = 10_000;

/// What a store says about its node's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The node; `None` if it was never started.
    pub node: Option<NodeId>,
    /// The wall clock, in Unix milliseconds.
    pub now_ms: u64,
    /// More than this many milliseconds later counts as ahead.
    pub allowed_ms: u64,
    /// A clock reading: no timestamp at or above it was issued.
    pub bound: u64,
    /// The removal floors.
    pub swept: Swept,
    /// The earliest and the latest timestamp of a row.
    pub span: Option<(Timestamp, Timestamp)>,
    /// Tables with rows ahead, by name.
    pub tables: Vec<TableAhead>,
    /// Unreadable rows. `DynaRust check` names them.
    pub damaged: u64,
    /// The timestamps ahead, in order: at most about 30 bytes per row.
    ahead: BTreeSet<Timestamp>,
    /// A clock reading: the latest timestamp that is not ahead.
    last: u64,
}

/// The rows of one table that are ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableAhead {
    /// The table.
    pub table: TableName,
    /// Rows written by this node, tombstones included.
    pub own: u64,
    /// Rows written by other nodes, accepted only because this node's clock was ahead too.
    pub foreign: u64,
    /// Some of them.
    pub examples: Vec<(Key, Timestamp)>,
}

impl Found {
    /// How far an instant is ahead of the wall clock, in milliseconds.
    pub fn ahead_ms(&self, at_ms: u64) -> u64 {
        at_ms.saturating_sub(self.now_ms)
    }

    /// The number of rows ahead.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.own + table.foreign).sum()
    }

    /// Whether anything is further ahead than allowed.
    pub fn is_ahead(&self) -> bool {
        // A node that was not stopped cleanly leaves a bound that is a little ahead.
        let bound_ms = unix_ms(self.bound).saturating_sub(BOUND_LEAD_MS);
        !self.ahead.is_empty()
            || self.is_ahead_of_clock(bound_ms)
            || self.is_ahead_of_clock(self.swept.latest_ms())
    }

    /// Why the wall clock may be wrong rather than the rows; `None` if nothing suggests that.
    pub fn suspicion(&self) -> Option<String> {
        let (oldest, _) = self.span?;
        self.is_ahead_of_clock(oldest.unix_ms()).then(|| {
            format!(
                "every row in the store is ahead of the wall clock, the oldest by {} ms: either the node never ran with a right \
                 clock, or the clock is wrong now. Compare `date -u` with another machine; if it is right, add --force",
                self.ahead_ms(oldest.unix_ms())
            )
        })
    }

    fn is_ahead_of_clock(&self, at_ms: u64) -> bool {
        self.ahead_ms(at_ms) > self.allowed_ms
    }
}

/// Finds everything in the store in `data` that is ahead of the wall clock by more than `allowed_ms`; calls `progress` with the number of
/// rows read.
///
/// # Errors
/// `StorageInUse`, `StorageUnusable`, `StorageDamaged` if the store does not open.
pub fn find(data: &Path, now_ms: &WallClock, allowed_ms: u64, progress: impl FnMut(u64)) -> Result<Found> {
    on_sound(data, |engine| find_in(engine, now_ms, allowed_ms, progress))
}

/// Repairs what `find` finds, and returns what that was. `force`: also if the wall clock may be wrong. `progress`: as for `find`, then with
/// the number of rows rewritten.
///
/// # Errors
/// As `find`; `Forbidden` if the wall clock is wrong, or may be wrong and `force` is not set, and then nothing was changed; `StorageFull`,
/// and then only some rows may be repaired.
pub fn repair(
    data: &Path,
    now_ms: &WallClock,
    allowed_ms: u64,
    force: bool,
    mut progress: impl FnMut(u64),
) -> Result<Found> {
    on_sound(data, |engine| repair_in(engine, now_ms, allowed_ms, force, &mut progress))
}

fn repair_in(
    engine: &Engine,
    now_ms: &WallClock,
    allowed_ms: u64,
    force: bool,
    progress: &mut impl FnMut(u64),
) -> Result<Found> {
    let found = find_in(engine, now_ms, allowed_ms, &mut *progress)?;
    if found.now_ms < UNSET_BEFORE_MS {
        return Err(Error::Forbidden(format!(
            "the wall clock shows {} s after 1970: it was never set. Set it, and run this again",
            found.now_ms / 1_000
        )));
    }
    if !found.is_ahead() {
        return Ok(found);
    }
    if !force && let Some(suspicion) = found.suspicion() {
        return Err(Error::Forbidden(suspicion));
    }
    let node = found.node.ok_or_else(|| Error::StorageDamaged("the store has rows but no node id".into()))?;
    let timestamps = RepairTimestamps {
        node,
        base: found.last.max(last_reading(found.now_ms)),
        ahead: found.ahead.iter().copied().collect(),
    };
    let mut rewritten = 0;
    for table in &found.tables {
        let table = check::open_unwatched(engine, table.table.clone(), now_ms)?;
        for number in 0..=u8::MAX {
            rewrite(&table, number, &timestamps, &mut || {
                rewritten += 1;
                if rewritten % SYNC_ROWS == 0 {
                    engine.sync()?;
                    progress(rewritten);
                }
                Ok(())
            })?;
        }
    }
    engine.sync()?;
    let swept = Swept {
        tombstones_ms: found.swept.tombstones_ms.min(found.now_ms),
        expired_ms: found.swept.expired_ms.min(found.now_ms),
    };
    if swept != found.swept {
        gc::write_floors(engine, swept)?;
    }
    meta::write_clock_bound(&engine.tree(META)?, timestamps.bound())?;
    engine.sync()?;
    Ok(found)
}

/// Calls `run` on the locked store in `data`, if nothing in it is damaged: the engine would discard what it cannot read.
fn on_sound<T>(data: &Path, run: impl FnOnce(&Engine) -> Result<T>) -> Result<T> {
    let _lock = check::lock_existing(data)?;
    if let Some(why) = examine::find_damage(data)? {
        return Err(Error::StorageDamaged(format!("{why}. {}", examine::remedies(data))));
    }
    let ran = panics::caught(|| {
        let engine = open::engine(data, CACHE_BYTES)?;
        examine::check_end(data, &engine)?;
        run(&engine)
    });
    ran.unwrap_or_else(|said| {
        Err(Error::StorageDamaged(format!(
            "{}: sled panicked: {said}. {}",
            data.display(),
            examine::remedies(data)
        )))
    })
}

fn find_in(
    engine: &Engine,
    now_ms: &WallClock,
    allowed_ms: u64,
    mut progress: impl FnMut(u64),
) -> Result<Found> {
    let meta = engine.tree(META)?;
    let mut found = Found {
        node: meta::read_node(&meta)?,
        now_ms: now_ms(),
        allowed_ms,
        bound: meta::read_clock_bound(&meta)?,
        swept: gc::read_swept(&meta)?,
        span: None,
        tables: Vec::new(),
        damaged: 0,
        ahead: BTreeSet::new(),
        last: 0,
    };
    let mut rows = 0;
    for name in engine.tree_names(ROWS) {
        let table = check::open_unwatched(engine, TableName::parse(&name)?, now_ms)?;
        found.scan_table(&table, &mut || {
            rows += 1;
            if rows % SYNC_ROWS == 0 {
                progress(rows);
            }
        })?;
    }
    found.tables.sort_by(|a, b| a.table.cmp(&b.table));
    Ok(found)
}

impl Found {
    fn scan_table(&mut self, table: &Table, count: &mut impl FnMut()) -> Result<()> {
        let mut ahead = TableAhead { table: table.name().clone(), own: 0, foreign: 0, examples: Vec::new() };
        for number in 0..=u8::MAX {
            for item in table.with_trees(|trees| Ok(trees.partition(number)))? {
                count();
                let read =
                    item.and_then(|(row, bytes)| Ok((key_of(&row)?, table.decode(&row, &bytes)?.head)));
                let Ok((key, head)) = read else {
                    self.damaged += 1;
                    continue;
                };
                self.take(&mut ahead, key, head.marker.timestamp);
            }
        }
        if ahead.own + ahead.foreign > 0 {
            self.tables.push(ahead);
        }
        Ok(())
    }

    fn take(&mut self, ahead: &mut TableAhead, key: Key, timestamp: Timestamp) {
        let (first, last) = self.span.unwrap_or((timestamp, timestamp));
        self.span = Some((first.min(timestamp), last.max(timestamp)));
        if !self.is_ahead_of_clock(timestamp.unix_ms()) {
            self.last = self.last.max(timestamp.hlc);
            return;
        }
        self.ahead.insert(timestamp);
        match Some(timestamp.node) == self.node {
            true => ahead.own += 1,
            false => ahead.foreign += 1,
        }
        if ahead.examples.len() < EXAMPLES_MAX {
            ahead.examples.push((key, timestamp));
        }
    }
}

/// The new timestamps of a repair.
struct RepairTimestamps {
    node: NodeId,
    /// The last clock reading below all of them.
    base: u64,
    /// The timestamps that they replace, in order.
    ahead: Vec<Timestamp>,
}

impl RepairTimestamps {
    /// The replacement of a timestamp; `None` if it is not ahead.
    fn of(&self, timestamp: Timestamp) -> Option<Timestamp> {
        let rank = self.ahead.binary_search(&timestamp).ok()?;
        Some(Timestamp { hlc: self.base + 1 + rank as u64, node: self.node })
    }

    /// A clock reading above all of them.
    fn bound(&self) -> u64 {
        self.base + 1 + self.ahead.len() as u64
    }
}

/// Rewrites the rows of one partition that are ahead.
fn rewrite(
    table: &Table,
    number: u8,
    timestamps: &RepairTimestamps,
    count: &mut impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut ahead = Vec::new();
    for item in table.with_trees(|trees| Ok(trees.partition(number)))? {
        // Unreadable rows are left for `check` and the peers.
        let Ok((row, bytes)) = item else { break };
        let Ok(record) = table.decode(&row, &bytes) else { continue };
        if let Some(timestamp) = timestamps.of(record.head.marker.timestamp) {
            ahead.push((row, timestamp));
        }
    }
    for (row, timestamp) in ahead {
        if table.set_timestamp(&row, timestamp)? {
            count()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        core::register::Register,
        storage::{
            Store,
            table::due_index,
            tests::{Fixture, NOW_MS, close, key, put, table},
        },
    };

    const HOUR_MS: u64 = 3_600_000;
    const FOREIGN: NodeId = NodeId(99);

    fn at(unix_ms: u64, counter: u64, node: NodeId) -> Timestamp {
        Timestamp { hlc: (unix_ms << 16) + counter, node }
    }

    fn write(store: &Store, name: &str, register: &Register, timestamp: Timestamp) {
        let register = Register::new(register.payload().clone(), timestamp);
        store.merge(&table(), &key(name), |_| Ok(register)).expect("merges");
    }

    fn timestamp_of(store: &Store, name: &str) -> Timestamp {
        store.get(&table(), &key(name)).expect("reads").expect("is there").timestamp
    }

    fn wall_clock() -> WallClock {
        Arc::new(|| NOW_MS)
    }

    /// A store with rows one hour ahead, and one of now.
    fn ahead(fixture: &Fixture) -> NodeId {
        let store = fixture.open();
        let node = store.node();
        let long = format!("\"{}\"", "long ".repeat(20_000));
        write(&store, "true", &put("0", None, 0), at(NOW_MS + 400, 0, node));
        write(&store, "second", &put(&long, None, 0), at(NOW_MS + HOUR_MS, 2, node));
        write(&store, "first", &put("1", Some(NOW_MS + 2 * HOUR_MS), 0), at(NOW_MS + HOUR_MS, 1, FOREIGN));
        write(&store, "deleted", &put("1", None, 0), at(NOW_MS - 5, 0, node));
        write(&store, "deleted", &Register::deleted(at(0, 0, node)), at(NOW_MS + HOUR_MS + 7, 0, node));
        store.set_clock_bound((NOW_MS + HOUR_MS + 2_000) << 16).expect("writes");
        let swept = Swept { tombstones_ms: 0, expired_ms: NOW_MS + HOUR_MS };
        store.reset_swept(swept).expect("writes");
        close(store);
        node
    }

    #[test]
    fn rows_ahead_get_current_timestamps_in_order_and_none_is_lost() {
        let fixture = Fixture::new();
        let node = ahead(&fixture);
        let data = fixture.data();
        let found = find(&data, &wall_clock(), 500, |_| ()).expect("reads");
        assert_eq!((found.rows(), found.is_ahead(), found.suspicion()), (3, true, None));
        assert_eq!((found.tables[0].own, found.tables[0].foreign), (2, 1));
        assert_eq!(found.tables[0].examples.len(), 3);
        assert_eq!(repair(&data, &wall_clock(), 500, false, |_| ()).expect("repairs"), found);

        let after = find(&data, &wall_clock(), 500, |_| ()).expect("reads");
        assert!(!after.is_ahead(), "{after:?}");
        let store = fixture.open();
        let (first, second) = (timestamp_of(&store, "first"), timestamp_of(&store, "second"));
        assert_eq!(timestamp_of(&store, "true"), at(NOW_MS + 400, 0, node));
        assert!(timestamp_of(&store, "true") < first && first < second, "{first} {second}");
        assert_eq!((first.node, second.node), (node, node));
        assert!(store.clock_bound() > second.hlc && store.clock_bound() >> 16 <= NOW_MS + 401);
        assert_eq!(store.swept(), Swept { tombstones_ms: 0, expired_ms: NOW_MS });
        assert_eq!(store.get(&table(), &key("deleted")), Ok(None));
        assert!(
            store.get(&table(), &key("second")).expect("reads").expect("is there").value.as_str().len()
                > 90_000
        );
        let entry = store.get(&table(), &key("first")).expect("reads").expect("is there");
        assert_eq!((entry.value.as_str(), entry.expires_at_ms), ("1", Some(NOW_MS + 2 * HOUR_MS)));
        // The tombstone is due by its new timestamp, not by the old one.
        let garbage = store
            .with_engine(|engine| engine.tree(crate::storage::table::trees::TOMBSTONES))
            .expect("a tree");
        let due: Vec<u64> = garbage
            .range(&[], None)
            .map(|item| due_index::parse(&item.expect("reads").0).expect("an entry").0)
            .collect();
        assert_eq!(due, [NOW_MS + 400]);
        close(store);
    }

    #[test]
    fn with_a_suspect_wall_clock_nothing_is_repaired_without_force() {
        let fixture = Fixture::new();
        ahead(&fixture);
        let data = fixture.data();
        let early: WallClock = Arc::new(|| NOW_MS - 24 * HOUR_MS);
        let refused = repair(&data, &early, 500, false, |_| ()).expect_err("refused").to_string();
        assert!(refused.contains("--force") && refused.contains("date -u"), "{refused}");
        let unset: WallClock = Arc::new(|| 5_000);
        assert!(matches!(repair(&data, &unset, 500, true, |_| ()), Err(Error::Forbidden(_))));
        assert_eq!(find(&data, &wall_clock(), 500, |_| ()).expect("reads").rows(), 3);
        assert!(repair(&data, &early, 500, true, |_| ()).is_ok());
        assert!(!find(&data, &early, 500, |_| ()).expect("reads").is_ahead());
    }

    #[test]
    fn a_store_that_is_not_ahead_is_unchanged() {
        let fixture = Fixture::new();
        let store = fixture.open();
        write(&store, "k", &put("1", None, 0), at(NOW_MS + 500, 0, NodeId(1)));
        store.set_clock_bound((NOW_MS + 2_000) << 16).expect("writes");
        close(store);
        let data = fixture.data();
        let found = repair(&data, &wall_clock(), 500, false, |_| ()).expect("looks");
        assert!(!found.is_ahead());
        assert_eq!(find(&data, &wall_clock(), 500, |_| ()), Ok(found));
    }
}
