//! Reads rows for other replicas, unfiltered, tombstones and expired values included: by place in the digest tree, by key, or a partition
//! at a time. Nothing here locks a partition: the engine's scans see each row before or after a write.
//!
//! A damaged record is logged and skipped, as if the row did not exist: replicas that have it differ then, and restore it.

use tracing::error;

use crate::{
    core::{
        digest::{Digest, DigestKey, KeyHash, Path},
        name::{Key, TableName},
        protocol::{message::Row, replica::Scanned},
        register::{Marker, Payload},
    },
    error::{Error, Result},
    storage::{
        Store,
        engine::Slice,
        table::{
            Table,
            record::Record,
            row::{key_of, row_of},
            trees::Trees,
        },
    },
};

impl Store {
    /// Key, marker and leaf of all current rows below a node of the tree.
    ///
    /// # Errors
    /// `Corrupt` if the engine cannot read on, `NotReady` while the storage is being reopened.
    pub fn heads(&self, table: &TableName, path: Path) -> Result<Vec<(Key, Marker, Digest)>> {
        if !path.is_valid() {
            return Ok(Vec::new());
        }
        self.read_table(table, Vec::new(), |table| table.heads(path, &self.0.context.digest_key.now()))
    }

    /// The current row of a key; a tombstone or an expired value counts as one.
    ///
    /// # Errors
    /// `Corrupt` if its record is damaged, `NotReady` while the storage is being reopened.
    pub fn read_row(&self, table: &TableName, key: &Key) -> Result<Option<Row>> {
        let row = row_of(key);
        self.read_table(table, None, |table| {
            table.with_trees(|trees| match table.stored(trees, &row)? {
                Some(bytes) => table.read_row(trees, &row, bytes),
                None => Ok(None),
            })
        })
    }

    /// The same, where a row that is not there must not be one that was lost.
    ///
    /// # Errors
    /// As `read_row`; `Corrupt` for a row that is lost.
    pub fn read_known_row(&self, table: &TableName, key: &Key) -> Result<Option<Row>> {
        let row = row_of(key);
        self.read_table(table, None, |table| {
            table.with_trees(|trees| {
                let stored = table.stored(trees, &row)?;
                match table.known(&row, stored)? {
                    Some(bytes) => table.read_row(trees, &row, bytes),
                    None => Ok(None),
                }
            })
        })
    }

    /// Rows of one partition after a key, ordered by key, about `bytes_max` of them but at least one; and whether more follow.
    ///
    /// # Errors
    /// `Corrupt` if the engine cannot read on, `NotReady` while the storage is being reopened.
    pub fn scan_partition(
        &self,
        table: &TableName,
        partition: u8,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scanned> {
        self.read_table(table, Scanned::default(), |table| table.scan_partition(partition, after, bytes_max))
    }
}

impl Table {
    fn heads(&self, path: Path, digest_key: &DigestKey) -> Result<Vec<(Key, Marker, Digest)>> {
        let mut heads = Vec::new();
        self.with_trees(|trees| {
            for item in path.partitions().flat_map(|number| trees.partition(number)) {
                let Some((row, bytes)) = self.readable(item)? else { continue };
                // Check this first, as a deep node has few rows of its partition.
                if !path.covers(KeyHash::of(&row[1..])) {
                    continue;
                }
                let Some(record) = sound(self.decode(&row, &bytes))? else { continue };
                let (key, marker) = (key_of(&row)?, record.head.marker);
                let leaf = digest_key.leaf(self.name(), key.as_str().as_bytes(), &marker);
                heads.push((key, marker, leaf));
            }
            Ok(heads)
        })
    }

    fn scan_partition(&self, partition: u8, after: Option<&Key>, bytes_max: usize) -> Result<Scanned> {
        let mut scanned = Scanned::default();
        let mut from = vec![partition];
        if let Some(key) = after {
            // The least key above another is that key and a zero byte.
            from.extend_from_slice(key.as_str().as_bytes());
            from.push(0);
        }
        let to = partition.checked_add(1);
        self.with_trees(|trees| {
            let mut cost = 0;
            for item in trees.rows.range(&from, to.as_ref().map(std::slice::from_ref)) {
                let Some((row, bytes)) = self.readable(item)? else { continue };
                if cost >= bytes_max && !scanned.rows.is_empty() {
                    scanned.more = true;
                    break;
                }
                if let Some(row) = sound(self.read_row(trees, &row, bytes))?.flatten() {
                    cost += row.cost();
                    scanned.rows.push(row);
                }
            }
            Ok(scanned)
        })
    }

    /// Returns the row that the engine gave these bytes for, or its newer version.
    pub(in crate::storage) fn read_row(
        &self,
        trees: &Trees,
        row: &[u8],
        mut bytes: Slice,
    ) -> Result<Option<Row>> {
        loop {
            let record = self.decode(row, &bytes)?;
            if let Some(payload) = self.payload(trees, row, &record)? {
                return Ok(Some(Row { key: key_of(row)?, marker: record.head.marker, payload }));
            }
            self.check_replaced(trees, row, &bytes)?;
            match self.stored(trees, row)? {
                Some(now) => bytes = now,
                None => return Ok(None),
            }
        }
    }

    /// The payload of a record; `None` if a later write removed its chunks.
    fn payload(&self, trees: &Trees, row: &[u8], record: &Record<'_>) -> Result<Option<Payload>> {
        if !record.head.live {
            return Ok(Some(Payload::Deleted));
        }
        let expires_at_ms = record.head.expires_at_ms;
        Ok(self.load(trees, row, record)?.map(|value| Payload::Live { value, expires_at_ms }))
    }
}

/// The result of a read, if it is sound; damage is logged.
fn sound<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error @ Error::Corrupt(_)) => {
            error!(%error, "a damaged row is skipped; replicas that have it will restore it");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::register::Register,
        storage::{
            table::jobs::GcJob,
            tests::{Fixture, close, key, put, table},
        },
    };

    fn merge(store: &Store, name: &str, register: &Register) {
        store.merge(&table(), &key(name), |_| Ok(register.clone())).expect("merges");
    }

    fn long() -> String {
        let noise: String =
            (0..2000_u32).map(|number| blake3::hash(&number.to_be_bytes()).to_hex().to_string()).collect();
        format!("\"{noise}\"")
    }

    #[test]
    fn a_row_is_read_whatever_it_holds() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let registers = [
            ("live", put("1", None, 1)),
            ("expired", put("2", Some(1), 2)),
            ("deleted", Register::deleted(put("0", None, 3).timestamp())),
            ("long", put(&long(), Some(store.now_ms() + 60_000), 4)),
        ];
        // The worker would remove the expired one.
        store.0.context.jobs.send(GcJob::Stop).expect("the thread runs");
        for (name, register) in registers {
            merge(&store, name, &register);
            let row = store.read_row(&table(), &key(name)).expect("reads").expect("is there");
            assert_eq!(row, Row::new(key(name), register.clone()));
            assert_eq!(row.into_register(), Some((key(name), register)));
        }
        assert_eq!(store.read_row(&table(), &key("absent")), Ok(None));
        let absent = TableName::parse("absent").expect("a name");
        assert_eq!(store.read_row(&absent, &key("live")), Ok(None));
        close(store);
    }

    #[test]
    fn pages_of_all_partitions_hold_every_row_once() {
        let fixture = Fixture::new();
        let store = fixture.open();
        for number in 0..1500 {
            merge(&store, &number.to_string(), &put(&number.to_string(), None, number));
        }
        merge(&store, "7", &Register::deleted(put("0", None, 9000).timestamp()));
        merge(&store, "long", &put(&long(), None, 1));
        let heads = store.heads(&table(), Path::ROOT).expect("reads");
        for bytes_max in [0, 200, 1_000_000] {
            let (mut rows, mut pages): (Vec<Row>, _) = (Vec::new(), 0);
            for partition in 0..=u8::MAX {
                let mut after = None;
                loop {
                    let page =
                        store.scan_partition(&table(), partition, after.as_ref(), bytes_max).expect("reads");
                    assert!(page.rows.is_sorted_by(|a, b| a.key.as_str() < b.key.as_str()));
                    assert!(bytes_max > 0 || page.rows.len() <= 1);
                    pages += 1;
                    after = page.rows.last().map(|row| row.key.clone());
                    rows.extend(page.rows);
                    if !page.more {
                        break;
                    }
                }
            }
            assert!(if bytes_max == 1_000_000 { pages == 256 } else { pages > 256 }, "{pages} pages");
            let named: Vec<_> = rows.iter().map(|row| (row.key.clone(), row.marker)).collect();
            let headed: Vec<_> = heads.iter().map(|(key, marker, _)| (key.clone(), *marker)).collect();
            assert_eq!(named, headed);
            assert!(rows.into_iter().all(|row| row.into_register().is_some()));
        }
        close(store);
    }

    #[test]
    fn a_damaged_row_is_skipped_by_scans_and_an_error_by_key() {
        let fixture = Fixture::new();
        let store = fixture.open();
        merge(&store, "k", &put("1", None, 1));
        let (row, here) = (row_of(&key("k")), store.table(&table()).expect("is there"));
        here.with_trees(|trees| trees.rows.insert(&row, b"no record")).expect("writes");
        assert_eq!(store.heads(&table(), Path::ROOT), Ok(vec![]));
        assert_eq!(store.scan_partition(&table(), row[0], None, 1000), Ok(Scanned::default()));
        assert!(matches!(store.read_row(&table(), &key("k")), Err(Error::Corrupt(_))));
        close(store);
    }
}
