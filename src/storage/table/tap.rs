//! Which rows change while a backup runs. The engine has no snapshots, so a backup reads the rows that changed meanwhile again.
//!
//! The tap is in the one place that every change of a row passes, `Table::update_digests`, under the lock of the row's partition and after
//! the row is set. While no backup runs it costs one load of a flag.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    core::name::TableName,
    error::{Error, Result},
};

/// Most bytes of row names that wait to be read again: about two million rows. Only a client that reads the backup far too slowly, or
/// hundreds of thousands of writes per second, gets there.
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// What a row name takes beside its bytes.
pub(super) const ROW_OVERHEAD_BYTES: usize = 64;

/// The names of rows, by table.
pub type Rows = BTreeMap<TableName, BTreeSet<Vec<u8>>>;

/// Collects the changed rows of all tables of a store.
#[derive(Debug, Default)]
pub struct Tap {
    is_on: AtomicBool,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    rows: Rows,
    count: usize,
    bytes: usize,
    /// Whether rows were left out for lack of room.
    is_incomplete: bool,
}

impl Tap {
    /// Begins to collect. Returns false if somebody does already: there is one backup at a time.
    pub(in crate::storage) fn begin(&self) -> bool {
        let began = self.is_on.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if began {
            *self.taken() = Taken::default();
        }
        began
    }

    /// Ends it.
    pub(in crate::storage) fn end(&self) {
        *self.taken() = Taken::default();
        self.is_on.store(false, Ordering::Release);
    }

    /// Records that a row changed.
    pub fn note(&self, table: &TableName, row: &[u8]) {
        if self.is_on.load(Ordering::Acquire) {
            self.taken().add(table, row, BYTES_MAX);
        }
    }

    /// How many rows changed since they were last taken.
    pub(in crate::storage) fn count(&self) -> usize {
        self.taken().count
    }

    /// Whether an eighth of the names that can be remembered are.
    pub(in crate::storage) fn is_filling(&self) -> bool {
        self.taken().bytes > BYTES_MAX / 8
    }

    /// Takes the rows that changed since they were last taken.
    ///
    /// # Errors
    /// `TooMany` if they were too many to remember.
    pub(in crate::storage) fn take(&self) -> Result<Rows> {
        let taken = mem::take(&mut *self.taken());
        if taken.is_incomplete {
            return Err(Error::TooMany(format!(
                "more rows changed during the backup than the {} MiB of names that a node remembers: back up at a quieter time, and read the \
                 backup as fast as the node sends it",
                BYTES_MAX >> 20
            )));
        }
        Ok(taken.rows)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Whoever panics in between leaves one row too many at most.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn add(&mut self, table: &TableName, row: &[u8], bytes_max: usize) {
        let bytes = row.len() + ROW_OVERHEAD_BYTES;
        if self.bytes + bytes > bytes_max {
            self.is_incomplete = true;
            return;
        }
        if !self.rows.contains_key(table) {
            self.rows.insert(table.clone(), BTreeSet::new());
        }
        let is_new = self.rows.get_mut(table).is_some_and(|rows| rows.insert(row.to_vec()));
        if is_new {
            self.count += 1;
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName::parse(name).expect("a name")
    }

    #[test]
    fn changed_rows_are_collected_once_and_only_while_a_backup_runs() {
        let tap = Tap::default();
        tap.note(&table("t"), b"early");
        assert!(tap.begin());
        assert!(!tap.begin(), "one at a time");
        for row in [b"a", b"b", b"a"] {
            tap.note(&table("t"), row);
        }
        tap.note(&table("u"), b"a");
        assert_eq!(tap.count(), 3);
        let rows = tap.take().expect("has room");
        assert_eq!(rows[&table("t")].iter().collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!((rows.len(), tap.count()), (2, 0));
        tap.note(&table("t"), b"late");
        tap.end();
        tap.note(&table("t"), b"later");
        assert_eq!(tap.take(), Ok(Rows::new()));
        assert!(tap.begin());
    }

    #[test]
    fn too_many_changed_rows_fail_the_backup_and_not_the_writers() {
        let mut taken = Taken::default();
        for number in 0..10_u8 {
            taken.add(&table("t"), &[number; 36], 500);
        }
        assert!(taken.is_incomplete);
        assert_eq!((taken.count, taken.bytes), (5, 500));
        let tap = Tap::default();
        *tap.taken() = taken;
        assert!(!tap.is_filling());
        tap.taken().bytes = BYTES_MAX / 8 + 1;
        assert!(tap.is_filling());
        assert!(matches!(tap.take(), Err(Error::TooMany(_))));
    }
}
