//! Takes rows that a peer sent: withdraws claims that they contradict, and merges them or proves that they were removed.

use super::{Context, Output, Peer, Then};
use crate::{
    core::{
        protocol::{
            message::{Message, Row, Rows},
            replica::Replica,
        },
        register::Payload,
    },
    error::{Error, Result},
};

impl Peer {
    pub(in crate::core::protocol::peer) fn take_rows<R: Replica>(
        &mut self,
        context: &Context<'_, R>,
        rows: Rows,
    ) -> Result<Output> {
        if rows.repair {
            self.comparison_active_ms = context.now_ms;
        }
        let latest_ms = self.options.latest_ms(context.now_ms);
        let all = rows.tables.iter().flat_map(|(_, rows)| rows);
        if let Some(row) = all.max_by_key(|row| row.marker.timestamp)
            && row.marker.timestamp.unix_ms() > latest_ms
        {
            return Err(Error::ClockDrift {
                ahead_ms: row.marker.timestamp.unix_ms() - context.now_ms,
                allowed_ms: self.options.clock_drift_max_ms,
            });
        }
        let agreed_ms = self.agreed_ms(context);
        let is_complete = context.shared.progress().complete;
        // Only a complete node can tell that a row was deleted.
        let proven_ms = if is_complete { agreed_ms } else { 0 };
        let mut deleted = Vec::new();
        for (table, rows) in rows.tables {
            self.figures.rows_received += rows.len() as u64;
            let announced_ms = self.lower_claims(context, &rows, agreed_ms)?;
            let accepted = context.replica.accept(&table, rows, proven_ms, announced_ms)?;
            self.figures.rows_changed += accepted.changed;
            self.figures.rows_refused += accepted.deleted.len() as u64;
            // A syncing node does not know yet what was swept.
            self.figures.rows_unproven += if is_complete { accepted.unproven } else { 0 };
            deleted.extend(accepted.deleted.into_iter().map(|(key, marker)| (table.clone(), key, marker)));
        }
        Ok(Output::AfterSync(Then::Send(Message::Applied { batch: rows.batch, deleted })))
    }

    /// Withdraws claims about instants from the oldest of these rows on: others may lack it. Rows up to `agreed_ms` are
    /// known to them. Returns up to where the members have announced that all have everything (Unix milliseconds).
    fn lower_claims<R: Replica>(
        &self,
        context: &Context<'_, R>,
        rows: &[Row],
        agreed_ms: u64,
    ) -> Result<u64> {
        let (deleted, live): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.payload == Payload::Deleted);
        let written = |row: &Row| row.marker.timestamp.unix_ms();
        let mut progress = context.shared.progress();
        if let Some(oldest_ms) = deleted.into_iter().map(written).min() {
            progress.lower_floor(oldest_ms);
        }
        // What is announced from here on takes account of these rows.
        let announced_ms = progress.announced_ms();
        let Some(oldest_ms) =
            live.into_iter().map(written).filter(|written_ms| *written_ms > agreed_ms).min()
        else {
            return Ok(announced_ms);
        };
        progress.lower_claims(oldest_ms);
        drop(progress);
        // Whoever lowered it before may not have got so far yet.
        context.replica.lower_agreement(oldest_ms.saturating_sub(1))?;
        Ok(announced_ms)
    }

    /// Up to when (Unix milliseconds) this node and the peer held the same rows, as both say, if one of them is complete
    /// and the other is syncing; else 0. Of rows up to there, whatever the complete one lacks was deleted, and whatever
    /// the syncing one lacks it has lost.
    fn agreed_ms<R: Replica>(&self, context: &Context<'_, R>) -> u64 {
        let Some((round, _)) = &self.last_round else { return 0 };
        let progress = context.shared.progress();
        if progress.complete == round.flags.complete {
            return 0;
        }
        round.agreed_ms.min(progress.agreement.with_ms(self.remote))
    }
}
