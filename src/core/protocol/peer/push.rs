//! Sends batches to a peer (first from the journal, then what a comparison found) and handles their acknowledgements.

use super::{Context, Peer};
use crate::{
    core::{
        name::{Key, TableName},
        protocol::{
            message::{MESSAGE_BYTES, Message, Row, Rows},
            progress::Acked,
            replica::Replica,
        },
        register::Marker,
    },
    error::Result,
};

/// Journal entries read for one batch.
const ENTRIES_PER_BATCH: usize = 1024;
/// Most batches in flight: enough that the receiver can merge one while it syncs another.
const BATCHES_MAX: usize = 8;
/// Journal batches sent before one batch of repairs, if both wait.
const PUSHES_PER_REPAIR: u32 = 4;

#[derive(Debug)]
pub struct InFlight {
    pub batch: u64,
    bytes: usize,
    /// The journal position that is acknowledged with it.
    cursor: Option<u64>,
    repair: bool,
}

impl Peer {
    /// The next message to send, if there is one and the window of `window_bytes` has room: a batch, or first that this
    /// node now claims less than it said. One batch may always be in flight. Repairs come last.
    pub fn poll<R: Replica>(
        &mut self,
        context: &Context<'_, R>,
        window_bytes: usize,
    ) -> Result<Option<Message>> {
        if !self.has_room(window_bytes) {
            return Ok(None);
        }
        // The peer must not take a row that came in late for one that all members had, nor one that may have been deleted
        // for a complete member's.
        if self.claims_less(context) {
            return Ok(Some(self.state(context, self.settled_ms(context.now_ms), None, false)));
        }
        // A node that is written to continuously must still be repaired.
        let is_repairs_turn = self.pushes_in_a_row >= PUSHES_PER_REPAIR && !self.repairs.is_empty();
        if !is_repairs_turn && let Some(batch) = self.next_of_journal(context)? {
            self.pushes_in_a_row += 1;
            return Ok(Some(batch));
        }
        self.pushes_in_a_row = 0;
        if self.repairs.is_empty() {
            return Ok(None);
        }
        let rows = self.repairs.next(context.replica, MESSAGE_BYTES)?;
        self.comparison_active_ms = context.now_ms;
        self.figures.rows_repaired += rows.len() as u64;
        let batch = self.batch(rows, None, true);
        self.figures.count_step(&batch);
        Ok(Some(batch))
    }

    /// Whether this node now claims less than the peer was last told: it agrees with the peer on less, or is not complete any
    /// more.
    fn claims_less<R: Replica>(&self, context: &Context<'_, R>) -> bool {
        let progress = context.shared.progress();
        progress.agreement.with_ms(self.remote) < self.announced_ms
            || self.announced_complete && !progress.complete
    }

    /// Whether a window of `window_bytes` has room for a batch.
    pub fn has_room(&self, window_bytes: usize) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < BATCHES_MAX && self.in_flight_bytes < window_bytes)
    }

    /// Whether everything sent is acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether repairs are in flight.
    pub(in crate::core::protocol::peer) fn is_repairing(&self) -> bool {
        self.in_flight.iter().any(|batch| batch.repair)
    }

    pub(in crate::core::protocol::peer) fn take_applied<R: Replica>(
        &mut self,
        context: &Context<'_, R>,
        batch: u64,
        mut deleted: Vec<(TableName, Key, Marker)>,
    ) -> Result<()> {
        let mut progress = context.shared.progress();
        while self.in_flight.front().is_some_and(|first| first.batch <= batch) {
            let applied = self.in_flight.pop_front().expect("just looked at");
            self.in_flight_bytes -= applied.bytes;
            let acked = progress.acked.entry(self.remote).or_default();
            if let Some(cursor) = applied.cursor.filter(|cursor| *cursor > self.acked) {
                self.acked = cursor;
                // The link that this one replaced may still have acknowledged something.
                acked.upto = acked.upto.max(cursor);
            }
        }
        // Nobody proves anything to a complete node, or about rows that this node does not believe every member had.
        let agreed_ms = if progress.complete { 0 } else { progress.agreement.with_ms(self.remote) };
        drop(progress);
        deleted.retain(|(_, _, marker)| marker.timestamp.unix_ms() <= agreed_ms);
        if !deleted.is_empty() {
            self.figures.rows_removed += context.replica.remove(deleted)?;
        }
        Ok(())
    }

    fn next_of_journal<R: Replica>(&mut self, context: &Context<'_, R>) -> Result<Option<Message>> {
        if self.unsent.is_empty() {
            let following =
                context.shared.journal().following(self.cursor, self.linked_entry, ENTRIES_PER_BATCH);
            let Some(following) = following else {
                self.skip_gap(context);
                return Ok(None);
            };
            if following.writes.is_empty() {
                return Ok(None);
            }
            self.cursor = following.cursor;
            self.unsent = following.writes.into();
        }
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES
            && let Some(entry) = self.unsent.pop_front()
        {
            let row = match entry.row {
                Some(row) => Some(row),
                None => context.replica.read(&entry.table, &entry.key)?,
            };
            if let Some(row) = row {
                bytes += row.cost();
                rows.push((entry.table, row));
            }
        }
        self.figures.rows_pushed += rows.len() as u64;
        let cursor = self.unsent.is_empty().then_some(self.cursor);
        Ok(Some(self.batch(rows, cursor, false)))
    }

    /// The peer was too slow for the journal. A comparison finds what it missed.
    fn skip_gap<R: Replica>(&mut self, context: &Context<'_, R>) {
        let mut progress = context.shared.progress();
        let last = context.shared.journal().last();
        progress.acked.insert(self.remote, Acked::nothing_before(last));
        (self.cursor, self.acked) = (last, last);
        (self.gap, self.equal_ms) = (true, None);
    }

    fn batch(&mut self, rows: Vec<(TableName, Row)>, cursor: Option<u64>, repair: bool) -> Message {
        self.last_batch += 1;
        let bytes = rows.iter().map(|(_, row)| row.cost()).sum();
        self.in_flight_bytes += bytes;
        self.in_flight.push_back(InFlight { batch: self.last_batch, bytes, cursor, repair });
        let mut tables: Vec<(TableName, Vec<Row>)> = Vec::new();
        for (table, row) in rows {
            match tables.last_mut() {
                Some((last, rows)) if *last == table => rows.push(row),
                Some(_) | None => tables.push((table, vec![row])),
            }
        }
        Message::Rows(Rows { batch: self.last_batch, repair, tables })
    }
}
