//! The rows that a comparison found a peer to lack, waiting to be sent. Keys are read when they are sent; whole
//! subtrees are kept only as a position. Bounded: what does not fit is found again by the next comparison. Rows that no
//! comparison would find again always fit.

use std::{collections::VecDeque, ops::RangeInclusive};

use super::{message::Row, replica::Replica};
use crate::{
    core::{
        digest::{PARTITION_BITS, Path},
        name::{Key, TableName},
    },
    error::Result,
};

/// Most keys waiting, of those that a comparison found.
const KEYS_MAX: usize = 131_072;
/// Most subtrees waiting: what one comparison of a few tables finds.
const STREAMS_MAX: usize = 4_096;

/// Rows to send.
#[derive(Debug, Default)]
pub struct Repairs {
    keys: VecDeque<(TableName, Key)>,
    streams: VecDeque<Stream>,
}

/// The rows of some partitions, from a key on.
#[derive(Debug)]
struct Stream {
    table: TableName,
    partitions: RangeInclusive<u8>,
    after: Option<Key>,
}

impl Repairs {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.streams.is_empty()
    }

    /// Adds keys, and nodes whose rows are all to be sent.
    pub fn add(&mut self, rows: Vec<(TableName, Vec<Key>)>, streams: Vec<(TableName, Path)>) {
        for (table, keys) in rows {
            let room = KEYS_MAX.saturating_sub(self.keys.len());
            self.keys.extend(keys.into_iter().take(room).map(|key| (table.clone(), key)));
        }
        for (table, path) in streams {
            // Nobody pulls less than a partition: such rows are named one by one.
            if self.streams.len() < STREAMS_MAX && path.is_valid() && path.bits <= PARTITION_BITS {
                self.streams.push_back(Stream { table, partitions: path.partitions(), after: None });
            }
        }
    }

    /// Adds any number of keys that no comparison would find again.
    pub fn add_all(&mut self, rows: Vec<(TableName, Vec<Key>)>) {
        for (table, keys) in rows {
            self.keys.extend(keys.into_iter().map(|key| (table.clone(), key)));
        }
    }

    /// The next rows, about `bytes_max`. May be empty even if something waited: rows can be gone by now.
    pub fn next(&mut self, replica: &impl Replica, bytes_max: usize) -> Result<Vec<(TableName, Row)>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some((table, key)) = self.keys.pop_front()
        {
            if let Some(row) = replica.read(&table, &key)? {
                bytes += row.cost();
                rows.push((table, row));
            }
        }
        while bytes < bytes_max
            && let Some(stream) = self.streams.front_mut()
        {
            let number = *stream.partitions.start();
            let scanned = replica.scan(&stream.table, number, stream.after.as_ref(), bytes_max - bytes)?;
            bytes += scanned.rows.iter().map(Row::cost).sum::<usize>();
            stream.after = scanned.rows.last().map(|row| row.key.clone());
            rows.extend(scanned.rows.into_iter().map(|row| (stream.table.clone(), row)));
            if !scanned.more {
                stream.after = None;
                stream.partitions.next();
                if stream.partitions.is_empty() {
                    self.streams.pop_front();
                }
            }
        }
        Ok(rows)
    }
}
