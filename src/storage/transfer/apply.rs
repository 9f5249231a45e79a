//! Applies rows that a peer sent, and removes rows that a peer proved to be deleted. See `core::protocol::agreement`.

use std::cell::Cell;

use crate::{
    core::{
        name::{Key, TableName},
        protocol::{message::Row, replica::Accepted},
        register::{Marker, Payload, Register},
    },
    error::{Error, Result},
    storage::{
        Store,
        changes::change::Gone,
        table::{Table, record::Head, row::row_of},
    },
};

/// A row that is absent here is refused, because it is proven that it was removed: the sender is to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Removed;

impl Store {
    /// Merges rows that a peer sent; see `core::protocol::replica::Replica::accept`. Not durable before `acknowledge`.
    ///
    /// # Errors
    /// `Corrupt` if a payload does not match its marker, and `BadJson` if it is not a value: then nothing was merged. `TooMany` if the
    /// table has no room here; else as `merge`. Then some rows may have been merged.
    pub fn accept(
        &self,
        name: &TableName,
        rows: Vec<Row>,
        proven_ms: u64,
        announced_ms: u64,
    ) -> Result<Accepted> {
        self.0.context.floors.announced(announced_ms);
        let mut registers = rows.into_iter().map(|row| sound(name, row)).collect::<Result<Vec<_>>>()?;
        // Ordered like the rows on disk, which is faster.
        registers.sort_by_cached_key(|(key, _)| row_of(key));
        let mut table = self.table(name);
        let mut accepted = Accepted::default();
        for (key, register) in registers {
            let marker = register.marker();
            let is_unproven = Cell::new(false);
            let refuse = |register: &Register| {
                let written_ms = register.timestamp().unix_ms();
                let is_old = written_ms <= self.swept().latest_ms();
                is_unproven.set(is_old && *register.payload() != Payload::Deleted);
                (written_ms <= proven_ms).then_some(Removed)
            };
            let taken = loop {
                if table.is_none() && refuse(&register).is_none() {
                    table = Some(self.table_of_peer(name)?);
                }
                let Some(found) = &table else { break Err(Removed) };
                // It became strong just now, and its rows come through its log.
                if found.is_strong() {
                    return Ok(accepted);
                }
                match found.merge_unless(&key, register.clone(), refuse) {
                    Err(_) if found.is_removed() => table = self.table(name),
                    taken => break taken?,
                }
            };
            match taken {
                Ok(merged) => {
                    accepted.latest = accepted.latest.max(Some(marker.timestamp));
                    accepted.unproven += u64::from(is_unproven.get());
                    if merged.changed {
                        accepted.changed += 1;
                        self.counters().rows_accepted.increment();
                    }
                }
                Err(Removed) => {
                    self.counters().rows_refused.increment();
                    accepted.deleted.push((key, marker));
                }
            }
        }
        Ok(accepted)
    }

    /// Removes rows that a peer proved to be deleted, if they still have their marker; subscribers are told. Returns how many. Not durable
    /// before `acknowledge`. It waits for the change stream: do not call it from an async task.
    ///
    /// # Errors
    /// As `merge`; some rows may have been removed.
    pub fn remove(&self, rows: Vec<(TableName, Key, Marker)>) -> Result<u64> {
        let mut removed = 0;
        let mut caught_up = None;
        for (name, key, marker) in rows {
            let Some(table) = self.table(&name) else { continue };
            // Nothing may follow the end of a value, so publish its beginning first.
            if caught_up.as_ref() != Some(&name)
                && let Ok(progress) = table.with_trees(|trees| Ok(trees.progress.clone()))
            {
                progress.wait_until_caught_up();
                caught_up = Some(name.clone());
            }
            let gone = |head: &Head| self.0.hub.publish_gone(&name, key.clone(), head, Gone::Deleted);
            match table.remove_marked(&key, marker, gone) {
                // It had no rows left.
                Err(_) if table.is_removed() => {}
                is_removed => removed += u64::from(is_removed?),
            }
        }
        Ok(removed)
    }
}

fn sound(table: &TableName, row: Row) -> Result<(Key, Register)> {
    let key = row.key.clone();
    if let Payload::Live { value, .. } = &row.payload
        && !value.is_valid()
    {
        let key = key.as_str();
        return Err(Error::BadJson(format!(
            "a peer sent an invalid value for the key {key:?} of table {table}"
        )));
    }
    row.into_register().ok_or_else(|| {
        Error::corrupt_record(
            table,
            key.as_str().as_bytes(),
            "a peer sent a value that does not match its marker",
        )
    })
}

impl Table {
    /// Removes a row that still has this marker, and returns whether it did. Calls `gone` first if subscribers see the row as present.
    fn remove_marked(&self, key: &Key, marker: Marker, gone: impl FnOnce(&Head)) -> Result<bool> {
        self.writing(|trees| {
            let row = row_of(key);
            let mut partition = self.lock_row(&row);
            let Some(bytes) = self.stored(trees, &row)? else { return Ok(false) };
            // A damaged row has no marker: it is another row, and for `check` to find.
            let record = self.decode(&row, &bytes).ok().filter(|record| record.head.marker == marker);
            let Some(record) = record else { return Ok(false) };
            // A subscriber that comes later finds nothing of it.
            self.context.agreed.record_removal(&trees.meta)?;
            if self.is_shown_to_subscribers(trees, &row, &record.head)? {
                gone(&record.head);
            }
            self.remove_row(trees, &mut partition, &row, &record)?;
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::{clock::Timestamp, protocol::replica::Swept};
    use crate::storage::{
        changes::{
            change::{Effect, Topic},
            subscription::{Notice, Start},
        },
        table::partition::Counts,
        tests::{
            Fixture, NOW_MS, close, effect, key, next, put, table, timestamp, wait_until, within_the_deadline,
        },
    };

    fn row(name: &str, register: Register) -> Row {
        Row::new(key(name), register)
    }

    fn at(unix_ms: u64, register: &Register) -> Register {
        Register::new(register.payload().clone(), Timestamp { hlc: unix_ms << 16, ..register.timestamp() })
    }

    fn swept_store(fixture: &Fixture) -> Store {
        let store = fixture.open();
        store.sweep_to(Swept { tombstones_ms: NOW_MS, expired_ms: NOW_MS });
        wait_until("the sweep is over", || !store.is_sweeping());
        store
    }

    fn live_and_deleted(store: &Store) -> (u64, u64) {
        let counts = store.tables()[0].1;
        (counts.live, counts.tombstones)
    }

    fn value(store: &Store, name: &str) -> Option<String> {
        store.get(&table(), &key(name)).expect("reads").map(|entry| entry.value.as_str().to_owned())
    }

    #[test]
    fn a_row_proven_deleted_is_refused_and_a_newer_one_accepted() {
        let fixture = Fixture::new();
        let store = swept_store(&fixture);
        let (old, new) = (at(NOW_MS, &put("1", None, 0)), at(NOW_MS + 1, &put("2", None, 0)));
        let rows = vec![row("deleted", old.clone()), row("new", new.clone())];
        let accepted = store.accept(&table(), rows, NOW_MS, 0).expect("accepts");
        assert_eq!(accepted.deleted, [(key("deleted"), old.marker())]);
        assert_eq!((accepted.changed, accepted.latest), (1, Some(new.timestamp())));
        assert_eq!((value(&store, "deleted"), value(&store, "new")), (None, Some("2".into())));
        let counters = store.counters();
        assert_eq!((counters.rows_refused.value(), counters.rows_accepted.value()), (1, 1));
        close(store);
    }

    /// One flipped byte on one disk removed good rows from all nodes: rows lost with it were taken for deleted.
    #[test]
    fn an_old_row_is_accepted_without_a_proof_of_its_deletion() {
        let fixture = Fixture::new();
        let store = swept_store(&fixture);
        let rows = vec![row("k", at(NOW_MS, &put("1", None, 0)))];
        let accepted = store.accept(&table(), rows, 0, 0).expect("accepts");
        assert_eq!((accepted.changed, accepted.deleted.len(), accepted.unproven), (1, 0, 1));
        assert_eq!(value(&store, "k"), Some("1".into()));
        close(store);
    }

    #[test]
    fn garbage_that_was_agreed_is_refused_and_makes_no_table() {
        let fixture = Fixture::new();
        let store = swept_store(&fixture);
        let rows = vec![
            row("deleted", at(NOW_MS, &Register::deleted(timestamp(0)))),
            row("expired", at(NOW_MS, &put("1", Some(NOW_MS), 0))),
        ];
        let accepted = store.accept(&table(), rows.clone(), NOW_MS, 0).expect("accepts");
        assert_eq!((accepted.changed, accepted.deleted.len()), (0, 2));
        assert!(!store.has_table(&table()));
        assert_eq!(store.accept(&table(), rows, NOW_MS - 1, 0).map(|it| it.changed), Ok(2));
        close(store);
    }

    /// A forgotten node came back and handed its deletes to one member, which swept them at once. The deleted keys came back from the
    /// other members.
    #[test]
    fn late_garbage_stays_until_the_floors_rise_again() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.merge(&table(), &key("k"), |_| Ok(at(NOW_MS - 9, &put("1", None, 0)))).expect("merges");
        store.sweep_to(Swept { tombstones_ms: NOW_MS, expired_ms: NOW_MS });
        wait_until("the sweep is over", || !store.is_sweeping());
        let newer = row("k", at(NOW_MS - 8, &put("2", None, 0)));
        assert_eq!(store.accept(&table(), vec![newer], 0, 0).map(|it| it.changed), Ok(1));
        let deleted = row("k", at(NOW_MS - 7, &Register::deleted(timestamp(0))));
        assert_eq!(store.accept(&table(), vec![deleted], 0, 0).map(|it| it.changed), Ok(1));
        store.sweep_to(Swept { tombstones_ms: NOW_MS, expired_ms: NOW_MS });
        assert_eq!(live_and_deleted(&store), (0, 1));
        store.advance_floors(NOW_MS + 9_999).expect("passes");
        assert_eq!(live_and_deleted(&store), (0, 1), "they rise in steps");
        assert_eq!(store.next_sweep_ms(), Ok(Some(NOW_MS + 10_000)));
        store.advance_floors(NOW_MS + 10_000).expect("passes");
        wait_until("the tombstone is gone", || {
            store.tables().iter().all(|table| table.1 == Counts::default())
        });
        close(store);
    }

    /// A restart swept what had come late. So did a floor that others had taken from what this node announced before. The
    /// deleted keys came back from the other members.
    #[test]
    fn late_garbage_outlasts_restarts_and_floors_of_earlier_announcements() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let rows = vec![
            row("deleted", at(NOW_MS - 7, &Register::deleted(timestamp(0)))),
            row("expired", at(NOW_MS - 9, &put("1", Some(NOW_MS - 7), 0))),
        ];
        assert_eq!(store.accept(&table(), rows, 0, NOW_MS).map(|it| it.changed), Ok(2));
        let has_both = |store: &Store| {
            wait_until("the sweep is over", || !store.is_sweeping());
            live_and_deleted(store) == (1, 1)
        };
        store.sweep_to(Swept { tombstones_ms: NOW_MS, expired_ms: NOW_MS });
        assert!(has_both(&store));
        close(store);
        let store = fixture.open();
        store.count_rows().expect("counts");
        assert!(has_both(&store), "a restart sweeps nothing of it");
        assert_eq!(store.garbage(Swept { tombstones_ms: NOW_MS, expired_ms: NOW_MS }), Ok(Vec::new()));
        store.sweep_to(Swept { tombstones_ms: NOW_MS + 1, expired_ms: NOW_MS + 1 });
        wait_until("both are gone", || store.tables().iter().all(|table| table.1 == Counts::default()));
        close(store);
    }

    #[test]
    fn a_register_that_is_here_already_changes_nothing_and_counts_as_no_loss() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let same = row("k", put("1", None, 1));
        for changed in [1, 0] {
            let accepted = store.accept(&table(), vec![same.clone()], 0, 0).expect("accepts");
            assert_eq!((accepted.changed, accepted.latest), (changed, Some(timestamp(1))));
        }
        assert_eq!(store.counters().writes_superseded.value(), 0);
        assert_eq!(
            store.accept(&table(), vec![row("k", put("0", None, 0))], 0, 0).map(|it| it.changed),
            Ok(0)
        );
        assert_eq!(store.counters().writes_superseded.value(), 1);
        close(store);
    }

    /// A value with a line break in it ended the line of an event and began another that nobody had sent.
    #[test]
    fn an_invalid_value_rejects_the_whole_batch() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let forged = crate::core::json::Value::trusted("1}\n\ndata: {\"event\":\"Deleted\"}".into());
        let forged = Register::live(forged, None, timestamp(1));
        let refused = store.accept(&table(), vec![row("k", put("1", None, 1)), row("forged", forged)], 0, 0);
        let Err(Error::BadJson(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("table t") && why.contains("forged") && !why.contains("data:"), "{why}");
        assert_eq!(value(&store, "k"), None);
        close(store);
    }

    /// The tables of peers were made here without a limit.
    #[test]
    fn a_peer_makes_no_table_beyond_the_limit_and_existing_ones_take_its_rows() {
        let fixture = Fixture::new();
        let store = fixture.open();
        // Nine of the ten that the fixture allows.
        for number in 1..10 {
            let name = TableName::parse(&format!("t{number}")).expect("a name");
            store.merge(&name, &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        }
        assert_eq!(
            store.accept(&table(), vec![row("k", put("1", None, 1))], 0, 0).map(|it| it.changed),
            Ok(1)
        );
        let other = TableName::parse("other").expect("a name");
        let refused = store.accept(&other, vec![row("k", put("1", None, 1))], 0, 0);
        let Err(Error::TooMany(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("--max-tables") && why.contains("other"), "{why}");
        assert!(!store.has_room_for_tables() && !store.has_table(&other));
        assert_eq!(
            store.accept(&table(), vec![row("l", put("1", None, 1))], 0, 0).map(|it| it.changed),
            Ok(1)
        );
        close(store);
    }

    #[test]
    fn a_row_that_does_not_match_its_marker_rejects_the_whole_batch() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let mut wrong = row("wrong", put("1", None, 1));
        wrong.payload = Payload::Deleted;
        let refused = store.accept(&table(), vec![row("k", put("1", None, 1)), wrong], 0, 0);
        let Err(Error::Corrupt(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("table t") && why.contains("wrong"), "{why}");
        assert_eq!(value(&store, "k"), None);
        close(store);
    }

    /// A damaged row was here, and the good copy of a peer was refused as deleted.
    #[test]
    fn a_sound_row_replaces_a_damaged_one_however_old() {
        let fixture = Fixture::new();
        let store = swept_store(&fixture);
        let good = at(NOW_MS - 1, &put("1", None, 0));
        store.merge(&table(), &key("k"), |_| Ok(good.clone())).expect("merges");
        let damage =
            |trees: &crate::storage::table::trees::Trees| trees.rows.insert(&row_of(&key("k")), b"damage");
        store.table(&table()).expect("is there").with_trees(damage).expect("inserts");
        let accepted = store.accept(&table(), vec![row("k", good)], NOW_MS, 0).expect("accepts");
        assert_eq!((accepted.changed, accepted.deleted.len()), (1, 0));
        assert_eq!(value(&store, "k"), Some("1".into()));
        close(store);
    }

    #[test]
    fn a_proven_deletion_removes_an_unchanged_row_and_is_announced() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let topics = vec![Topic::Prefix(table(), String::new())];
        let mut subscription = within_the_deadline(store.watch(topics, Start::Now)).expect("watches");
        let (refused, newer) = (put("1", None, 1), put("2", None, 2));
        for (name, register) in [("gone", &refused), ("changed", &newer)] {
            store.merge(&table(), &key(name), |_| Ok(register.clone())).expect("merges");
            assert!(matches!(effect(next(&mut subscription)), Effect::Updated { .. }));
        }
        let deleted = ["gone", "changed", "absent"].map(|name| (table(), key(name), refused.marker()));
        assert_eq!(store.remove(deleted.into()), Ok(1));
        assert_eq!(effect(next(&mut subscription)), Effect::Deleted(Gone::Deleted));
        assert_eq!((value(&store, "gone"), value(&store, "changed")), (None, Some("2".into())));
        assert_eq!(live_and_deleted(&store), (1, 0));
        close(store);
    }

    /// If the beginning of a value were published last, subscribers would hold a value that is gone.
    #[test]
    fn the_end_of_a_removed_row_is_published_after_its_value() {
        const ROWS: usize = 8;
        let fixture = Fixture::new();
        let store = fixture.open();
        let topics = vec![Topic::Prefix(table(), String::new())];
        let mut subscription = within_the_deadline(store.watch(topics, Start::Now)).expect("watches");
        let refused = put("1", None, 1);
        let names: Vec<String> = (0..ROWS).map(|number| format!("k{number}")).collect();
        for name in &names {
            store.merge(&table(), &key(name), |_| Ok(refused.clone())).expect("merges");
        }
        let deleted = names.iter().map(|name| (table(), key(name), refused.marker())).collect();
        assert_eq!(store.remove(deleted), Ok(ROWS as u64));
        store.merge(&table(), &key("last"), |_| Ok(refused.clone())).expect("merges");
        let mut last = BTreeMap::new();
        while !last.contains_key(&key("last")) {
            let Notice::Change(change) = next(&mut subscription) else { continue };
            last.insert(change.key.clone(), change.effect.clone());
        }
        for name in names {
            assert_eq!(last[&key(&name)], Effect::Deleted(Gone::Deleted), "{name}");
        }
        close(store);
    }
}
