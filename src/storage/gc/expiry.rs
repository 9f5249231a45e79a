//! Expiry: subscribers are told once, at the instant a value expires.

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

/// Most expiries announced in one turn.
pub const ANNOUNCED_MAX: usize = 256;
/// How long the announcement waits for a subscriber that has not read the earlier ones.
const PACE_MS: u64 = 1;
/// An expiry this late waits for nobody: a subscriber that reads too slowly gets a `resync`, as with too many writes.
const LATE_MAX_MS: u64 = 30_000;

/// Announces the values that have expired, as fast as subscribers read. Asks for another turn if there is more.
///
/// The pump decides the order of a key's changes, and may be behind: no expiry is announced before everything set by the time it was due is
/// published. A row rewritten meanwhile is left for the next turn.
pub fn announce(store: &Store) -> Result<Turn> {
    let now_ms = store.now_ms();
    let expiry = store.index_of_garbage(trees::EXPIRY)?;
    let due: Vec<(Slice, Slice)> =
        store.due_entries(&expiry, now_ms).take(ANNOUNCED_MAX).collect::<Result<_>>()?;
    let mut ends = Vec::new();
    for (entry, value) in &due {
        let Some((at_ms, name, row)) = due_index::parse(entry) else {
            return Err(Error::Corrupt(
                "the tree expiry has an invalid entry; DynaRust compact rebuilds it".into(),
            ));
        };
        match (store.table(&name), key_of(row)) {
            (Some(table), Ok(key)) => {
                let marker = table.marker(row)?;
                ends.push(Expiration {
                    at_ms,
                    late_due_ms: due_index::instant(value),
                    table,
                    key,
                    row,
                    marker,
                });
            }
            (Some(_), Err(error)) => {
                error!(%error, "the expiry of a value cannot be announced");
                expiry.remove(entry)?;
            }
            (None, _) => expiry.remove(entry)?,
        }
    }
    let late_ms = ends.first().map_or(0, |end| now_ms.saturating_sub(end.at_ms));
    // After a failed set a pump never catches up.
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

/// Waits until everything these tables hold now is published. Returns false on timeout.
fn have_pumps_caught_up(ends: &[Expiration<'_>]) -> Result<bool> {
    let mut waited = HashSet::new();
    for end in ends.iter().filter(|end| waited.insert(end.table.name())) {
        if !end.table.with_trees(|trees| Ok(trees.progress.clone()))?.wait_until_caught_up() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A value that has expired.
struct Expiration<'a> {
    at_ms: u64,
    /// The floor of expired values that may remove it, if it came late.
    late_due_ms: Option<u64>,
    table: Arc<Table>,
    key: Key,
    row: &'a [u8],
    /// The row's marker before the wait for the pumps; `None` if the row is damaged or gone.
    marker: Option<Marker>,
}

impl Expiration<'_> {
    /// Announces it. Returns a turn if that must wait, for a subscriber or for the row's change.
    fn tell(&self, store: &Store) -> Result<Option<Turn>> {
        let (name, now_ms) = (self.table.name(), store.now_ms());
        let is_ahead_of_clock = now_ms.saturating_sub(self.at_ms) >= LATE_MAX_MS;
        if !is_ahead_of_clock && !store.0.hub.has_room(name, &self.key) {
            return Ok(Some(Turn::At(now_ms + PACE_MS)));
        }
        let tell = |head: &Head| store.publish_expired(name, self.key.clone(), head);
        let announced = self.table.announce(self, tell);
        match announced {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(Turn::Now)),
            // A damaged record is for `check` to find; its entry would block all others.
            Err(error @ Error::Corrupt(_)) => {
                error!(%error, "the expiry of a value cannot be announced");
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
    /// The marker of a row's record; `None` if no readable record is there.
    fn marker(&self, row: &[u8]) -> Result<Option<Marker>> {
        let bytes = match self.with_trees(|trees| self.stored(trees, row)) {
            Err(Error::Corrupt(_)) => None,
            bytes => bytes?,
        };
        Ok(bytes.and_then(|bytes| self.decode(row, &bytes).ok().map(|record| record.head.marker)))
    }

    /// Calls `tell` for a row whose value expired, if it is still the one that expired, and moves its entry on. Returns false, and does nothing,
    /// if the row has that expiry but another marker.
    fn announce(&self, end: &Expiration<'_>, tell: impl FnOnce(&Head)) -> Result<bool> {
        let &Expiration { at_ms, late_due_ms, row, marker, .. } = end;
        self.writing(|trees| {
            // Hold the lock to the end: a concurrent write with the same expiry would lose its entry.
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
                        let due_ms = late_due_ms.unwrap_or(removal_floor_ms);
                        due_index::insert_garbage(
                            &trees.expired,
                            (self.name(), row),
                            removal_floor_ms,
                            due_ms,
                        )?;
                        let floors = &self.context.floors;
                        if due_ms <= floors.swept().expired_ms {
                            // Not late, only announced late: the other members have removed it.
                            floors.renew();
                        }
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
