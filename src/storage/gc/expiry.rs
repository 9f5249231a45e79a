//! The end of values: told to subscribers at the instant it comes, once.

use std::{collections::HashSet, sync::Arc};

use tracing::error;

use super::Turn;
use crate::{
    core::{
        name::{Key, TableName},
        register::Marker,
    },
    error::{Error, Result},
    storage::{
        Store,
        changes::change::Gone,
        engine::Slice,
        table::{Table, due_index, floors::above, record::Head, row::key_of, trees},
    },
};

/// Most ends that are told of in one turn.
pub const ANNOUNCED_MAX: usize = 256;
/// How long the announcement rests for a subscriber who has not read what it was told before.
const PACE_MS: u64 = 1;
/// An end that is late by so much waits for nobody: whoever reads too slowly is sent a `resync`, as by too many writes.
const LATE_MAX_MS: u64 = 30_000;

/// Tells of the values whose time has come, as fast as those who watch them read. Wants its turn when there is more to tell.
///
/// The order of a key's changes is that of its pump, which may be behind: nobody is told of an end before all that was set when it came
/// due is with the subscribers. A row that was written again meanwhile is for the next turn.
pub fn announce(store: &Store) -> Result<Turn> {
    let now_ms = store.now_ms();
    let expiry = store.with_engine(|engine| engine.tree(trees::EXPIRY))?;
    // What cannot be read makes way: the tree is made anew.
    let due = expiry.range(&[], Some(&above(now_ms))).filter(|item| match item {
        Err(Error::Corrupt(_)) => {
            store.report_damage();
            false
        }
        Ok(_) | Err(_) => true,
    });
    let due: Vec<Slice> = due.take(ANNOUNCED_MAX).map(|item| Ok(item?.0)).collect::<Result<_>>()?;
    let mut ends = Vec::new();
    for entry in &due {
        let Some((at_ms, name, row)) = due_index::parse(entry) else {
            return Err(Error::Corrupt(
                "an entry of the tree expiry is none; DynaRust compact makes it anew".into(),
            ));
        };
        match (store.table(&name), key_of(row)) {
            (Some(table), Ok(key)) => {
                let marker = table.marker(row)?;
                ends.push(Expiration { at_ms, table, key, row, marker });
            }
            (Some(_), Err(error)) => {
                error!(%error, "nobody can be told of an expired value");
                expiry.remove(entry)?;
            }
            (None, _) => expiry.remove(entry)?,
        }
    }
    let late_ms = ends.first().map_or(0, |end| now_ms.saturating_sub(end.at_ms));
    // Where a set failed a pump never seems to be there.
    if !have_pumps_caught_up(&ends)? && late_ms < LATE_MAX_MS {
        return Ok(Turn::Now);
    }
    for end in &ends {
        if let Some(turn) = end.tell(store)? {
            return Ok(turn);
        }
    }
    if due.len() == ANNOUNCED_MAX {
        return Ok(Turn::Now);
    }
    let next = expiry.range(&above(now_ms), None).next().transpose()?;
    Ok(next
        .and_then(|(entry, _)| due_index::parse(&entry).map(|(at_ms, ..)| at_ms))
        .map_or(Turn::Later, Turn::At))
}

/// Waits until all that these tables hold now is with the subscribers. False where that takes long.
fn have_pumps_caught_up(ends: &[Expiration<'_>]) -> Result<bool> {
    let mut waited = HashSet::new();
    for end in ends.iter().filter(|end| waited.insert(end.table.name())) {
        if !end.table.with_trees(|trees| Ok(trees.progress.clone()))?.wait_until_caught_up() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The end of a value that has come.
struct Expiration<'a> {
    at_ms: u64,
    table: Arc<Table>,
    key: Key,
    row: &'a [u8],
    /// What was there when the pumps were waited for; `None` for a damaged row or none at all.
    marker: Option<Marker>,
}

impl Expiration<'_> {
    /// Tells of it. A turn where it is to wait, for a subscriber or its row's change.
    fn tell(&self, store: &Store) -> Result<Option<Turn>> {
        let (name, now_ms) = (self.table.name(), store.now_ms());
        let is_ahead_of_clock = now_ms.saturating_sub(self.at_ms) >= LATE_MAX_MS;
        if !is_ahead_of_clock && !store.0.hub.has_room(name, &self.key) {
            return Ok(Some(Turn::At(now_ms + PACE_MS)));
        }
        let tell = |head: &Head| store.publish_expired(name, self.key.clone(), head);
        let announced = self.table.announce(self.row, self.at_ms, self.marker, tell);
        match announced {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(Turn::Now)),
            // A damaged record stays for `check` to find; its entry would stop all others.
            Err(error @ Error::Corrupt(_)) => {
                error!(%error, "nobody can be told of an expired value");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Store {
    fn publish_expired(&self, name: &TableName, key: Key, head: &Head) {
        self.counters().expired.increment();
        self.0.hub.publish_gone(name, key, head, Gone::Expired);
    }
}

impl Table {
    /// What orders a row's record now; `None` where there is none that can be read.
    fn marker(&self, row: &[u8]) -> Result<Option<Marker>> {
        let bytes = match self.with_trees(|trees| self.stored(trees, row)) {
            Err(Error::Corrupt(_)) => None,
            bytes => bytes?,
        };
        Ok(bytes.and_then(|bytes| self.decode(row, &bytes).ok().map(|record| record.head.marker)))
    }

    /// Calls `tell` of a row whose value expired, if it is still the one that expires at `at_ms`, and moves its entry on. False where
    /// it is, but not with that marker, and nothing was done.
    fn announce(
        &self,
        row: &[u8],
        at_ms: u64,
        marker: Option<Marker>,
        tell: impl FnOnce(&Head),
    ) -> Result<bool> {
        self.writing(|trees| {
            // To the end: a write of the same expiry, made meanwhile, would lose its entry else.
            let _partition = self.lock_row(row);
            let head =
                self.stored(trees, row)?.map(|bytes| self.decode(row, &bytes).map(|record| record.head));
            let announced = match head.transpose() {
                Ok(Some(head)) if head.expires_at_ms == Some(at_ms) => {
                    if Some(head.marker) != marker {
                        return Ok(false);
                    }
                    if let Some(removal_floor_ms) = due_index::removal_floor_ms(&head) {
                        tell(&head);
                        trees.expired.insert(&due_index::entry(removal_floor_ms, self.name(), row), &[])?;
                    }
                    Ok(true)
                }
                Ok(_) => Ok(true),
                Err(error) => Err(error),
            };
            if let Ok(_) | Err(Error::Corrupt(_)) = announced {
                trees.expiry.remove(&due_index::entry(at_ms, self.name(), row))?;
            }
            announced
        })
    }
}
