//! Sends a snapshot as the difference to what the receiver has.
//!
//! The leader compares its strong tables with the receiver's, by the comparison that replicas of eventual tables use
//! ([`core::protocol::comparison`](crate::core::protocol::comparison)), and sends the rows that differ. So a receiver
//! that missed d of n rows costs about d rows. Rows may change meanwhile: the log that follows the snapshot's index
//! makes good for that. So they are compared until they differ in nothing but what was written since the beginning.
//!
//! Each step is *fenced*. openraft (0.9) lets a leader that was deposed send on, and what it lacks may have been committed since. So the
//! receiver takes a step only while it has promised its vote to no later leader, has applied nothing else and its store was not reopened since
//! the snapshot began (`state_machine::receiving`). And the sender sends only while its own rows are whole: what damage took from it, it would take
//! from the receiver.
//!
//! The leader repairs the rows of a member in the same way ([`row_repair`](super::row_repair)), which applies the log meanwhile.

use std::collections::VecDeque;

use super::{
    catalogue::make_strong,
    member::Member,
    rpc::{ConsensusAnswer, Name, SnapshotStep},
    state_machine::receiving::Purpose,
    types::Vote,
};
use crate::{
    core::{
        clock::Timestamp,
        digest::{Digest, DigestKey, PARTITION_BITS, Path, RootDigest, Sum},
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
/// Most bytes of names in one answer. If there are more, the next comparison finds them.
const NAMES_BYTES_MAX: usize = 1024 * 1024;
/// What a name takes beside its key.
const NAME_BYTES: usize = 64;
/// Comparisons of one snapshot: each but the last removes some MiB of names, or sends all rows that differ.
const COMPARISONS_MAX: u64 = 10_000;

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
        let sums = self.0.sums(table, path, below, at_ms)?;
        // Whoever does not know what it holds would be taken for equal.
        if sums.is_none() && path.bits + below <= PARTITION_BITS {
            return Err(Error::NotReady(format!("the rows of the strong table {table} are being counted")));
        }
        Ok(sums)
    }

    fn depth(&self, table: &TableName, path: Path) -> Result<u8> {
        self.0.depth(table, path)
    }

    fn heads(&self, table: &TableName, path: Path) -> Result<Vec<(Key, Marker, Digest)>> {
        self.0.heads(table, path)
    }

    fn read(&self, table: &TableName, key: &Key) -> Result<Option<Row>> {
        self.0.read_known_row(table, key)
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

/// The receiver's side: takes a step.
///
/// # Errors
/// `Conflict` if the sender leads no more, or what this node holds has changed since the snapshot began; `NotReady` while rows are being counted;
/// `Corrupt` for a message that is no step of a comparison; those of the storage.
pub async fn receive(
    member: &Member,
    store: &Store,
    purpose: Purpose,
    vote: Vote,
    step: SnapshotStep,
) -> Result<ConsensusAnswer> {
    let machine = &member.machine;
    match step {
        SnapshotStep::Tables(tables) => {
            machine.begin_receiving(purpose, &vote, member.own_vote().await?)?;
            tables.iter().try_for_each(|table| make_strong(store, table))?;
        }
        SnapshotStep::Compare(message) => {
            machine.check_receiving(purpose, &vote, member.own_vote().await?)?;
            let (store, environment) = (store.clone(), store.environment().clone());
            return environment.run(move || compare(&store, &message)).await;
        }
        SnapshotStep::Rows(rows) => {
            // Nothing is applied between the check and the change.
            let applying = machine.applying().await;
            machine.check_receiving(purpose, &vote, member.own_vote().await?)?;
            applying.merge(rows).await?;
        }
        SnapshotStep::Remove(names) => {
            let applying = machine.applying().await;
            machine.check_receiving(purpose, &vote, member.own_vote().await?)?;
            applying.remove(names).await?;
        }
    }
    Ok(ConsensusAnswer::Done)
}

fn compare(store: &Store, message: &Message) -> Result<ConsensusAnswer> {
    let replica = Rows(store);
    let Answer { messages, rows, streams } = answer(&replica, message)?;
    let mut own = Repairs::default();
    own.add(rows, streams);
    let (mut names, mut bytes) = (Vec::new(), 0);
    while !own.is_empty() && bytes < NAMES_BYTES_MAX {
        let rows = own.next(&replica, MESSAGE_BYTES)?;
        bytes += rows.iter().map(|(_, row)| NAME_BYTES + row.key.as_str().len()).sum::<usize>();
        names.extend(rows.into_iter().map(|(table, row)| (table, row.key, row.marker)));
    }
    Ok(ConsensusAnswer::Compared(messages, names, !own.is_empty()))
}

type TableRows = Vec<(TableName, Row)>;

/// The sender's side: which of the receiver's rows to remove, and which to replace. A later version than the sender's is none of the group's; but in
/// a repair, what is later than `latest` may have been applied there first.
fn sort_out(
    store: &Store,
    purpose: Purpose,
    latest: Timestamp,
    names: Vec<Name>,
) -> Result<(Vec<Name>, TableRows)> {
    let (mut removed, mut replaced) = (Vec::new(), Vec::new());
    for (table, key, marker) in names {
        let row = store.read_known_row(&table, &key)?;
        let may_be_ahead = purpose == Purpose::Repair && marker.timestamp > latest;
        if !may_be_ahead && row.as_ref().is_none_or(|row| row.marker < marker) {
            removed.push((table.clone(), key, marker));
        }
        replaced.extend(row.filter(|row| row.marker != marker).map(|row| (table, row)));
    }
    Ok((removed, replaced))
}

/// Sends the difference between this node's strong tables and the receiver's, through `send`. `latest`: all rows of the snapshot were written by
/// then; in a repair, all that was written by then is applied here.
///
/// # Errors
/// Those of the storage and of `send`; `NotReady` while rows are being counted; `Conflict` if the two do not become equal.
pub async fn send<F>(
    store: &Store,
    purpose: Purpose,
    nonce: u64,
    latest: Timestamp,
    mut send: impl FnMut(SnapshotStep) -> F,
) -> Result<Figures>
where
    F: Future<Output = Result<ConsensusAnswer>>,
{
    send(SnapshotStep::Tables(store.strong_tables().into_iter().collect())).await?;
    let mut figures = Figures::default();
    for round in 0..COMPARISONS_MAX {
        let before = (figures.removed, figures.old_rows);
        let mut is_cut = false;
        let mut steps = VecDeque::from([comparison::open(&Rows(store), nonce.wrapping_add(round), ALL_MS)?]);
        while let Some(step) = steps.pop_front() {
            let ConsensusAnswer::Compared(messages, names, has_more) =
                send(SnapshotStep::Compare(step)).await?
            else {
                return Err(Error::Corrupt("another answer than the next steps of a comparison".into()));
            };
            is_cut |= has_more;
            let (removed, mut rows) = sort_out(store, purpose, latest, names)?;
            figures.removed += removed.len() as u64;
            if !removed.is_empty() {
                send(SnapshotStep::Remove(removed)).await?;
            }
            let mut repairs = Repairs::default();
            for message in messages {
                let answer = answer(&Rows(store), &message)?;
                repairs.add(answer.rows, answer.streams);
                steps.extend(answer.messages);
            }
            while !rows.is_empty() || !repairs.is_empty() {
                figures.rows += rows.len() as u64;
                figures.old_rows +=
                    rows.iter().filter(|(_, row)| row.marker.timestamp <= latest).count() as u64;
                if !rows.is_empty() {
                    send(SnapshotStep::Rows(std::mem::take(&mut rows))).await?;
                }
                rows = repairs.next(&Rows(store), MESSAGE_BYTES)?;
            }
        }
        if (figures.removed, figures.old_rows) == before && !is_cut {
            return Ok(figures);
        }
    }
    Err(Error::Conflict(format!("the replicas still differed after {COMPARISONS_MAX} comparisons")))
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Rows.
    pub rows: u64,
    /// Those of them that the snapshot is of. The others came since, and the log brings them too.
    pub old_rows: u64,
    /// Names of rows that were removed.
    pub removed: u64,
}

#[cfg(test)]
mod tests;
