//! Replay from the store, for a subscriber whose cursor the ring does not reach: a cursor of another node, or from before a restart. It
//! finds the rows with a timestamp later than the cursor's instant, tombstones included, and the values that expired since. `table::agreed`
//! explains why that is enough, and where it is not.
//!
//! Topics for one key are looked up. For prefixes, all rows of the table are read once and shared: after a restart many subscribers come
//! back, with cursors of about the same instant. The result is kept for as long as the ring holds every change since.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    change::{Cursor, Gone, Topic},
    entry::{LoggedChange, NewChange, change_bytes},
    hub::REPLAY_MAX,
};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    storage::{
        Store,
        engine::Slice,
        table::{
            Table,
            agreed::Spans,
            record::Record,
            row::{key_of, row_of},
            scan::Range,
        },
    },
};

/// Most rows of a table that are kept, and about how many bytes: the newest.
const ROWS_MAX: usize = REPLAY_MAX;
const ROWS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most tables whose backlog is kept.
const TABLES_MAX: usize = 4;
/// How much further back than the cursor a backlog reaches, so that it also serves the next subscribers.
const MARGIN_MS: u64 = 30_000;

/// Backlogs already read, by table.
pub type Backlogs = Arc<tokio::sync::Mutex<HashMap<TableName, Arc<Backlog>>>>;

/// The newest rows of a table.
pub struct Backlog {
    /// All changes after this instant are here.
    since_ms: u64,
    /// Whether the limits cut it off.
    is_full: bool,
    /// The stream position before the rows were read.
    place: Cursor,
    late: Spans,
    /// Ordered by label.
    rows: Vec<Arc<LoggedChange>>,
}

impl Store {
    /// Returns what changed in `topics` after a cursor's instant: from the store, then from the ring up to the position `until` of this
    /// epoch. Returns `None` if that cannot be told, or if there is so much that a snapshot costs no more. Some changes may be later than
    /// `until`.
    ///
    /// # Errors
    /// Those of a read.
    pub(in crate::storage) async fn backlog(
        &self,
        topics: &[Topic],
        at_ms: u64,
        until: Cursor,
    ) -> Result<Option<VecDeque<Arc<LoggedChange>>>> {
        // Nobody knows how an unreadable row changed.
        if topics.iter().any(|topic| self.has_unreadable_rows(topic)) {
            return Ok(None);
        }
        match self.read_topics(topics, at_ms, until).await {
            Err(Error::Corrupt(_)) => Ok(None),
            backlog => backlog,
        }
    }

    fn has_unreadable_rows(&self, topic: &Topic) -> bool {
        if let Some((table, prefix)) = topic.as_prefix() {
            return self.has_unreadable(table, &Range { prefix: prefix.to_owned(), ..Range::default() });
        }
        let is_unreadable = |(table, key)| self.may_be_unreadable(table, key);
        topic.as_key().is_some_and(is_unreadable) || (*topic == Topic::All && self.unreadable_ranges() > 0)
    }

    async fn read_topics(
        &self,
        topics: &[Topic],
        at_ms: u64,
        until: Cursor,
    ) -> Result<Option<VecDeque<Arc<LoggedChange>>>> {
        let mut found = VecDeque::new();
        let mut since = None;
        let mut bytes = 0;
        let mut may_lack_table = topics.contains(&Topic::All);
        for name in &self.tables_to_read(topics) {
            let Some(table) = self.table(name) else {
                may_lack_table = true;
                continue;
            };
            let Some(backlog) = self.backlog_of(&table, at_ms).await? else { return Ok(None) };
            let later = backlog.rows.partition_point(|row| row.label_ms <= at_ms);
            let of_prefix = |row: &&Arc<LoggedChange>| {
                topics.iter().any(|topic| topic.as_key().is_none() && topic.covers(name, &row.key))
            };
            let rows = backlog.rows[later..].iter().filter(of_prefix);
            found.extend(rows.inspect(|row| bytes += row.bytes).cloned());
            // Here too, since there may be very many tables.
            if found.len() > REPLAY_MAX || bytes > ROWS_BYTES_MAX {
                return Ok(None);
            }
            let is_earlier = |since: &Cursor| backlog.place.sequence < since.sequence;
            if since.as_ref().is_none_or(is_earlier) {
                since = Some(backlog.place);
            }
        }
        // A table that is gone was removed with its last tombstone: nobody knows which keys were deleted.
        if may_lack_table && self.swept_ms()? > at_ms {
            return Ok(None);
        }
        let keys: Vec<_> =
            topics.iter().filter_map(Topic::as_key).map(|(t, k)| (t.clone(), k.clone())).collect();
        if !keys.is_empty() {
            let store = self.clone();
            let Some(rows) = self.environment().run(move || store.keys_after(&keys, at_ms)).await? else {
                return Ok(None);
            };
            found.extend(rows);
        }
        if let Some(since) = since {
            let Some(ring_is_active) = self.0.hub.missed_after(since, topics) else { return Ok(None) };
            let is_before = |logged: &Arc<LoggedChange>| {
                logged.cursor.is_none_or(|cursor| cursor.sequence <= until.sequence)
            };
            found.extend(ring_is_active.into_iter().filter(is_before));
        }
        Ok((found.len() <= REPLAY_MAX).then_some(found))
    }

    /// The tables whose backlogs these topics need, in order.
    fn tables_to_read(&self, topics: &[Topic]) -> BTreeSet<TableName> {
        if topics.contains(&Topic::All) {
            return self.all_tables().iter().map(|table| table.name().clone()).collect();
        }
        topics.iter().filter_map(Topic::as_prefix).map(|(table, _)| table.clone()).collect()
    }

    /// Returns the backlog of a table, from the cache if possible. `None` if it cannot reach back that far.
    async fn backlog_of(&self, table: &Arc<Table>, at_ms: u64) -> Result<Option<Arc<Backlog>>> {
        // One task reads; the others wait for its result.
        let mut backlogs = Arc::clone(&self.0.backlogs).lock_owned().await;
        if let Some(backlog) = backlogs.get(table.name())
            && self.0.hub.missed_after(backlog.place, &[]).is_some()
        {
            if backlog.since_ms <= at_ms {
                return Ok((!backlog.late.cover(at_ms)).then(|| backlog.clone()));
            }
            if backlog.is_full {
                return Ok(None);
            }
        }
        let (store, of) = (self.clone(), table.clone());
        let since_ms = at_ms.saturating_sub(MARGIN_MS);
        // It goes on if who asks goes away: whoever asks next finds the result, and there is never more than one that reads.
        let reading = tokio::spawn(async move {
            let (reading, name) = (store.clone(), of.name().clone());
            let read = store.environment().run(move || reading.read_backlog(&of, since_ms));
            let backlog = Arc::new(read.await?);
            if backlogs.len() >= TABLES_MAX && !backlogs.contains_key(&name) {
                let oldest =
                    backlogs.iter().min_by_key(|(_, backlog)| backlog.since_ms).map(|(name, _)| name.clone());
                oldest.map(|name| backlogs.remove(&name));
            }
            backlogs.insert(name, backlog.clone());
            Ok::<_, Error>(backlog)
        });
        let backlog = reading.await.map_err(|stopped| Error::Io(format!("a task stopped: {stopped}")))??;
        Ok((backlog.since_ms <= at_ms && !backlog.late.cover(at_ms)).then_some(backlog))
    }

    /// Reads the newest rows of a table.
    fn read_backlog(&self, table: &Arc<Table>, since_ms: u64) -> Result<Backlog> {
        let place = self.0.hub.cursor();
        let mut newest = Newest { since_ms, bytes: 0, rows: BinaryHeap::new(), is_full: false };
        table.with_trees(|trees| {
            for item in trees.rows.range(&[], None) {
                let Some((row, bytes)) = table.readable(item)? else {
                    return Err(Error::Corrupt(format!("a page of table {} cannot be read", table.name())));
                };
                // `check` reports damaged rows; subscribers cannot be told of them.
                let Ok(record) = table.decode(&row, &bytes) else { continue };
                if let Some(new_change) = self.new_change(table, (&row, &bytes), &record, newest.since_ms)? {
                    newest.add(new_change);
                }
            }
            Ok(())
        })?;
        // Read the floor afterwards: rows removed meanwhile were not seen.
        let since_ms = newest.since_ms.max(self.swept_ms()?);
        let is_full = newest.is_full || since_ms > newest.since_ms;
        let rows = newest.rows.into_sorted_vec().into_iter().rev().map(|Reverse(row)| row.0).collect();
        Ok(Backlog { since_ms, is_full, place, late: self.0.context.agreed.late(), rows })
    }

    /// Returns the changes of single keys after an instant. `None` if that cannot be told.
    fn keys_after(&self, keys: &[(TableName, Key)], at_ms: u64) -> Result<Option<Vec<Arc<LoggedChange>>>> {
        let mut found = Vec::new();
        for (name, key) in keys {
            let Some(table) = self.table(name) else { continue };
            let row = row_of(key);
            let Some(bytes) = table.with_trees(|trees| trees.rows.get(&row))? else { continue };
            let record = table.decode(&row, &bytes)?;
            if let Some(new_change) =
                self.new_change(&table, (&Slice::from(row.as_slice()), &bytes), &record, at_ms)?
            {
                found.push(Arc::new(LoggedChange::new(None, new_change)));
            }
        }
        let is_known = self.swept_ms()? <= at_ms && !self.0.context.agreed.late().cover(at_ms);
        Ok(is_known.then_some(found))
    }

    /// Tombstones up to this instant may have been removed.
    fn swept_ms(&self) -> Result<u64> {
        let swept = self.swept();
        Ok(swept.tombstones_ms.max(swept.expired_ms).max(self.strong_swept_ms()?))
    }

    /// Makes a change of a row, if the row changed after an instant.
    fn new_change(
        &self,
        table: &Arc<Table>,
        (row, bytes): (&Slice, &Slice),
        record: &Record<'_>,
        at_ms: u64,
    ) -> Result<Option<NewChange>> {
        let head = record.head;
        let is_expired = head.live && !head.visible_at(self.now_ms());
        let label_ms = if is_expired { head.expires_at_ms } else { None };
        if head.marker.timestamp.unix_ms().max(label_ms.unwrap_or(0)) <= at_ms {
            return Ok(None);
        }
        let key = key_of(row)?;
        Ok(Some(if is_expired {
            NewChange::of_end(table.name(), key, &head, Gone::Expired, true)
        } else {
            let cost = change_bytes(row, bytes, record);
            NewChange::of_row(table, key, &head, cost, (row.clone(), bytes.clone()))
        }))
    }
}

/// The rows with the highest labels, within the limits.
struct Newest {
    since_ms: u64,
    bytes: usize,
    rows: BinaryHeap<Reverse<ByLabel>>,
    is_full: bool,
}

impl Newest {
    fn add(&mut self, new_change: NewChange) {
        self.bytes += new_change.bytes;
        self.rows.push(Reverse(ByLabel(Arc::new(LoggedChange::new(None, new_change)))));
        while self.rows.len() > ROWS_MAX || self.bytes > ROWS_BYTES_MAX {
            let Some(Reverse(ByLabel(oldest))) = self.rows.pop() else { return };
            self.bytes -= oldest.bytes;
            self.since_ms = self.since_ms.max(oldest.label_ms);
            self.is_full = true;
        }
    }
}

struct ByLabel(Arc<LoggedChange>);

impl PartialEq for ByLabel {
    fn eq(&self, other: &Self) -> bool {
        self.0.label_ms == other.0.label_ms
    }
}

impl Eq for ByLabel {}

impl PartialOrd for ByLabel {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByLabel {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.label_ms.cmp(&other.0.label_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Fixture, close, merge, put, table, within_the_deadline};

    /// Each client that came back and went away again before a long table was read began to read it once more, and none ever had the result.
    #[test]
    fn what_is_read_for_one_that_goes_away_is_there_for_the_next() {
        let fixture = Fixture::new();
        let store = fixture.open();
        merge(&store, "1", put("1", None, 1));
        let until = store.0.hub.cursor();
        within_the_deadline(async {
            let topics = [Topic::Prefix(table(), String::new())];
            let mut asked = Box::pin(store.backlog(&topics, 0, until));
            // It begins to read.
            assert!(futures_util::poll!(&mut asked).is_pending());
            drop(asked);
            let backlogs = store.0.backlogs.lock().await;
            assert!(backlogs.contains_key(&table()), "the next finds the result");
        });
        close(store);
    }
}
