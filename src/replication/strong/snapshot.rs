//! Sends a snapshot as the difference to what the receiver has.
//!
//! The leader compares its strong tables with the receiver's, by the comparison that replicas of eventual tables use
//! ([`core::protocol::comparison`](crate::core::protocol::comparison)), and sends the rows that differ. So a receiver
//! that missed d of n rows costs about d rows. Rows may change meanwhile: the log that follows the snapshot's index
//! makes good for that.

use std::collections::VecDeque;

use super::{
    catalogue::make_strong,
    rpc::{Consensus, ConsensusAnswer, Name},
    state_machine::StateMachine,
};
use crate::{
    core::{
        digest::{Digest, DigestKey, Path, RootDigest, Sum},
        name::{Key, TableName},
        protocol::{
            comparison::{self, Answer},
            message::{MESSAGE_BYTES, Message, Row},
            repairs::Repairs,
            replica::{Accepted, Replica, Scanned, Swept},
        },
        register::Marker,
    },
    error::{Error, Result},
    storage::Store,
};

/// The instant of the comparison: all there is.
const ALL_MS: u64 = u64::MAX;
/// Most names in one answer. If there are more, the next comparison finds them.
const NAMES_MAX: usize = 2_000;
/// Comparisons of one snapshot. Rows that are written all the while differ each time; the log brings those.
const COMPARISONS_MAX: usize = 4;

/// The strong tables of a store as the comparison sees them.
struct Rows<'a>(&'a Store);

impl Replica for Rows<'_> {
    fn digest_key(&self) -> DigestKey {
        self.0.digest_key()
    }

    fn tables(&self) -> Vec<TableName> {
        self.0.strong_tables().into_iter().filter(|table| self.0.has_table(table)).collect()
    }

    fn root(&self, _at_ms: u64) -> Result<Option<RootDigest>> {
        Ok(None)
    }

    fn count(&self) -> u64 {
        0
    }

    fn sums(&self, table: &TableName, path: Path, below: u8, at_ms: u64) -> Result<Option<Vec<Sum>>> {
        self.0.sums(table, path, below, at_ms)
    }

    fn depth(&self, table: &TableName, path: Path) -> Result<u8> {
        self.0.depth(table, path)
    }

    fn heads(&self, table: &TableName, path: Path) -> Result<Vec<(Key, Marker, Digest)>> {
        self.0.heads(table, path)
    }

    fn read(&self, table: &TableName, key: &Key) -> Result<Option<Row>> {
        self.0.read_row(table, key)
    }

    fn scan(
        &self,
        table: &TableName,
        partition: u8,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scanned> {
        self.0.scan_partition(table, partition, after, bytes_max)
    }

    fn accept(
        &self,
        table: &TableName,
        _rows: Vec<Row>,
        _proven_ms: u64,
        _announced_ms: u64,
    ) -> Result<Accepted> {
        Err(Error::WrongMode(format!("rows of the strong table {table} come through its log")))
    }

    fn lower_agreement(&self, _to_ms: u64) -> Result<()> {
        Ok(())
    }

    fn remove(&self, rows: Vec<(TableName, Key, Marker)>) -> Result<u64> {
        self.0.remove(rows)
    }

    fn raise_clock(&self, _at_ms: u64) {}

    fn swept(&self) -> Swept {
        Swept::default()
    }

    fn garbage(&self, _swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>> {
        Ok(Vec::new())
    }

    fn reset_swept(&self, _swept: Swept) -> Result<()> {
        Ok(())
    }

    fn sweep_to(&self, _swept: Swept) {}
}

fn answer(replica: &Rows<'_>, message: &Message) -> Result<Answer> {
    match message {
        Message::Open(comparison) => comparison::answer_open(replica, comparison),
        Message::Digests(comparison) => comparison::answer_digests(replica, comparison),
        Message::RowFingerprints(comparison) => comparison::answer_row_fingerprints(replica, comparison),
        Message::Names(comparison) => comparison::answer_names(replica, comparison),
        Message::Want(rows) => Ok(Answer { rows: rows.clone(), ..Answer::default() }),
        Message::Pull(streams) => Ok(Answer { streams: streams.clone(), ..Answer::default() }),
        other => Err(Error::Corrupt(format!("{other:?} is no step of a comparison"))),
    }
}

/// The receiver's side: makes the tables.
///
/// # Errors
/// Those of the storage.
pub fn make_tables(store: &Store, tables: &[TableName]) -> Result<()> {
    tables.iter().try_for_each(|table| make_strong(store, table))
}

/// The receiver's side of a step of the comparison.
///
/// # Errors
/// Those of the storage; `Corrupt` for a message that is no step.
pub fn compare(store: &Store, message: &Message) -> Result<ConsensusAnswer> {
    let replica = Rows(store);
    let Answer { messages, rows, streams } = answer(&replica, message)?;
    let mut own = Repairs::default();
    own.add(rows, streams);
    let mut names = Vec::new();
    while !own.is_empty() && names.len() < NAMES_MAX {
        let rows = own.next(&replica, MESSAGE_BYTES)?;
        names.extend(rows.into_iter().map(|(table, row)| (table, row.key, row.marker)));
    }
    Ok(ConsensusAnswer::Compared(messages, names))
}

/// The receiver's side: takes rows.
///
/// # Errors
/// Those of the storage; `WrongMode` for rows of a table that is not strong here.
pub fn take(store: &Store, machine: &StateMachine, rows: Vec<(TableName, Row)>) -> Result<()> {
    for (table, row) in rows {
        if !store.is_strong(&table) {
            return Err(Error::WrongMode(format!("table {table} is not strong here")));
        }
        machine.merge_row(&table, row)?;
    }
    Ok(())
}

type TableRows = Vec<(TableName, Row)>;

/// The sender's side: which of the receiver's rows to remove, and which to replace.
fn sort_out(store: &Store, names: Vec<Name>) -> Result<(Vec<Name>, TableRows)> {
    let (mut removed, mut replaced) = (Vec::new(), Vec::new());
    for (table, key, marker) in names {
        match store.read_row(&table, &key)? {
            None => removed.push((table, key, marker)),
            Some(row) if row.marker > marker => replaced.push((table, row)),
            Some(_) => {}
        }
    }
    Ok((removed, replaced))
}

/// Sends the difference between this node's strong tables and the receiver's, through `send`.
///
/// # Errors
/// Those of the storage and of `send`.
pub async fn send<F>(store: &Store, nonce: u64, mut send: impl FnMut(Consensus) -> F) -> Result<Figures>
where
    F: Future<Output = Result<ConsensusAnswer>>,
{
    send(Consensus::Tables(store.strong_tables().into_iter().collect())).await?;
    let mut figures = Figures::default();
    for round in 0..COMPARISONS_MAX {
        let before = figures.rows + figures.removed;
        let mut steps =
            VecDeque::from([comparison::open(&Rows(store), nonce.wrapping_add(round as u64), ALL_MS)?]);
        while let Some(step) = steps.pop_front() {
            let ConsensusAnswer::Compared(messages, names) = send(Consensus::Compare(step)).await? else {
                return Err(Error::Corrupt("another answer than the next steps of a comparison".into()));
            };
            let (removed, mut rows) = sort_out(store, names)?;
            figures.removed += removed.len() as u64;
            if !removed.is_empty() {
                send(Consensus::Remove(removed)).await?;
            }
            let mut repairs = Repairs::default();
            for message in messages {
                let answer = answer(&Rows(store), &message)?;
                repairs.add(answer.rows, answer.streams);
                steps.extend(answer.messages);
            }
            while !rows.is_empty() || !repairs.is_empty() {
                figures.rows += rows.len() as u64;
                if !rows.is_empty() {
                    send(Consensus::Rows(std::mem::take(&mut rows))).await?;
                }
                rows = repairs.next(&Rows(store), MESSAGE_BYTES)?;
            }
        }
        if figures.rows + figures.removed == before {
            break;
        }
    }
    Ok(figures)
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Rows.
    pub rows: u64,
    /// Names of rows that were removed.
    pub removed: u64,
}
