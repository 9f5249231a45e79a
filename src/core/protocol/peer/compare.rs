//! Handles a peer's round: follows its sweeps, compares roots, and decides when to open a comparison.

use super::{Context, Equal, Output, Peer, Then};
use crate::{
    core::{
        clock::NodeId,
        protocol::{
            message::Round,
            replica::{Replica, Swept},
        },
    },
    error::{Error, Result},
};

/// A comparison with no messages for this long is over.
const COMPARISON_QUIET_MS: u64 = 4_000;
/// If a row was overwritten just before it was swept on one side and just after on the other, earlier instants differ.
/// A row that is overwritten continuously keeps them different for this long.
const SWEEP_MS: u64 = 1_000;
/// After this many differing rounds, that is no longer taken as the reason.
const SWEEP_EXCUSES_MAX: u32 = 4;
/// A node in its first sync looks for another source after this much silence.
const SOURCE_SILENCE_MS: u64 = 5_000;

impl Peer {
    pub(in crate::core::protocol::peer) fn take_round<R: Replica>(
        &mut self,
        context: &Context<'_, R>,
        round: Round,
    ) -> Result<Vec<Output>> {
        self.measure(context.now_ms, &round)?;
        // The clock is raised to this instant, so it must not be too far ahead.
        let latest_ms = context.now_ms + self.options.clock_drift_max_ms;
        if round.at_ms() > latest_ms {
            let ahead_ms = round.at_ms() - context.now_ms;
            return Err(Error::ClockDrift { ahead_ms, allowed_ms: self.options.clock_drift_max_ms });
        }
        self.figures.rounds += 1;
        self.figures.rows_there = Some(round.rows);
        self.figures.is_complete = Some(round.flags.complete);
        self.figures.is_leaving = round.flags.leaving;
        self.figures.last_round_ms = Some(context.now_ms);
        let swept = Swept { tombstones_ms: round.swept_ms, expired_ms: round.expired_ms };
        self.follow_sweep(context, &round, swept)?;
        let outputs = self.compare_roots(context, &round, swept);
        self.last_round = Some((round, context.now_ms));
        outputs
    }

    /// Follows how far others have swept. A syncing node first sends the peer what that would remove. If others swept
    /// further than this node ever guaranteed, they do not count on it: then it is not complete, whatever its own state says.
    fn follow_sweep<R: Replica>(
        &mut self,
        context: &Context<'_, R>,
        round: &Round,
        swept: Swept,
    ) -> Result<()> {
        let latest_ms = context.now_ms + self.options.clock_drift_max_ms;
        if swept.latest_ms() > latest_ms {
            let ahead_ms = swept.latest_ms() - context.now_ms;
            return Err(Error::ClockDrift { ahead_ms, allowed_ms: self.options.clock_drift_max_ms });
        }
        let mut progress = context.shared.progress();
        progress.floor.announced(self.remote, round.guarantee_ms);
        if round.flags.detached {
            progress.hear_detached(self.remote);
        }
        if round.flags.complete {
            progress.complete_seen_ms = context.now_ms;
            if round.flags.detached {
                progress.hear_went_on(self.remote);
            }
            if progress.complete && swept.latest_ms() > progress.guaranteed_ms {
                progress.begin_syncing(context.now_ms);
            }
        } else if progress.complete || !progress.hears_no_complete_member(context.now_ms) {
            return Ok(());
        }
        let is_complete = progress.complete;
        drop(progress);
        if !is_complete && !self.has_sent_garbage(context, swept)? {
            return Ok(());
        }
        let own = context.replica.swept();
        if !is_complete && round.flags.complete && own.max(swept) != swept {
            // It swept this on its own, so the others may still have it.
            return context.replica.reset_swept(swept);
        }
        context.replica.sweep_to(swept);
        Ok(())
    }

    /// Sends the peer the tombstones and expired values that are about to be removed here. Returns whether it has them.
    /// They end rows that the members still hold if this node deleted or expired them while it was not a member.
    fn has_sent_garbage<R: Replica>(&mut self, context: &Context<'_, R>, swept: Swept) -> Result<bool> {
        if !self.repairs.is_empty() || self.is_repairing() {
            return Ok(false);
        }
        // Others may have swept further in the meantime.
        if self.garbage_sent.max(swept) != self.garbage_sent {
            self.repairs.add_all(context.replica.garbage(swept)?);
            self.garbage_sent = self.garbage_sent.max(swept);
        }
        Ok(self.repairs.is_empty())
    }

    fn compare_roots<R: Replica>(
        &mut self,
        context: &Context<'_, R>,
        round: &Round,
        swept: Swept,
    ) -> Result<Vec<Output>> {
        let Some(theirs) = round.root else { return Ok(Vec::new()) };
        context.replica.raise_clock(round.at_ms());
        if context.replica.swept() != swept {
            return Ok(Vec::new());
        }
        if self.swept.0 != swept {
            self.swept = (swept, context.now_ms);
        }
        let compared = context.shared.progress().floor.compare(round.at_ms());
        let Some(own) = context.replica.root(round.at_ms())? else { return Ok(Vec::new()) };
        if own == theirs {
            (self.differing, self.sweep_excuses) = (0, 0);
            self.end_comparison();
            // Rows written just before the link came up may be missing here, and an earlier instant does not show them.
            let is_all = round.flags.is_all || round.at_ms() >= self.options.latest_ms(self.linked_ms);
            let covered = is_all.then_some(round.flags);
            let equal = Equal { compared, swept, covered };
            return Ok(vec![Output::AfterSync(Then::Equal(equal))]);
        }
        let (is_complete, may_agree) = {
            let progress = context.shared.progress();
            let hears_no_complete_member = progress.hears_no_complete_member(context.now_ms);
            (progress.complete, hears_no_complete_member && progress.may_agree_with(self.remote))
        };
        let is_due = match (is_complete, round.flags.complete) {
            (true, true) => self.is_due(round),
            // A syncing node learns from a complete one, and from one at a time.
            (false, true) => self.is_source(context),
            // All nodes were started together.
            (false, false) if may_agree => self.is_due(round),
            // The syncing side opens the comparison.
            (true, false) | (false, false) => false,
        };
        if !is_due || self.is_comparing(context.now_ms) {
            return Ok(Vec::new());
        }
        Ok(vec![self.compare_now(context)?])
    }

    /// Whether the roots have differed for long enough, and nothing in flight explains it.
    fn is_due(&mut self, round: &Round) -> bool {
        if round.flags.pushing || self.is_pushing(round.at_ms()) {
            return false;
        }
        if round.at_ms() < self.swept.1 + SWEEP_MS && self.sweep_excuses < SWEEP_EXCUSES_MAX {
            self.sweep_excuses += 1;
            return false;
        }
        self.differing += 1;
        self.differing >= self.rounds_before_opening(round)
    }

    /// Whether this peer is the source of the first sync.
    fn is_source<R: Replica>(&self, context: &Context<'_, R>) -> bool {
        let mut progress = context.shared.progress();
        let is_taken = |(sync_source, seen_ms): (NodeId, u64)| {
            sync_source != self.remote && context.now_ms.saturating_sub(seen_ms) < SOURCE_SILENCE_MS
        };
        if progress.sync_source.is_some_and(is_taken) {
            return false;
        }
        progress.sync_source = Some((self.remote, context.now_ms));
        true
    }

    /// How many rounds in a row must differ before this side opens a comparison. One side opens first, and the other
    /// only if it does not. After a gap the difference is certain.
    fn rounds_before_opening(&self, round: &Round) -> u32 {
        let sure = self.equal_ms.is_none() && (self.gap || round.flags.gap);
        match (sure, self.local < self.remote) {
            (true, true) => 1,
            (true, false) => 2,
            (false, true) => 3,
            (false, false) => 5,
        }
    }

    fn is_comparing(&self, now_ms: u64) -> bool {
        !self.repairs.is_empty() || now_ms.saturating_sub(self.comparison_active_ms) < COMPARISON_QUIET_MS
    }

    pub(in crate::core::protocol::peer) fn end_comparison(&mut self) {
        if let Some(open_comparison) = self.open_comparison.take()
            && open_comparison.moved_before == self.moved()
        {
            self.figures.false_sessions += 1;
        }
    }

    pub(in crate::core::protocol::peer) fn moved(&self) -> u64 {
        self.figures.rows_repaired + self.figures.rows_changed
    }

    /// Whether something this node wrote at or before an instant is not acknowledged yet.
    pub(in crate::core::protocol::peer) fn is_pushing(&self, at_ms: u64) -> bool {
        let mark = self.round_marks.iter().find(|(marked_ms, _)| *marked_ms >= at_ms);
        mark.is_some_and(|(_, last)| self.acked < *last)
    }

    fn measure(&mut self, now_ms: u64, round: &Round) -> Result<()> {
        let Some((sent_ms, held_ms)) = round.echo else { return Ok(()) };
        let round_trip_ms = now_ms.saturating_sub(sent_ms).saturating_sub(u64::from(held_ms));
        let there_ms = round.now_ms.saturating_add(round_trip_ms / 2);
        self.figures.round_trip_ms = Some(round_trip_ms);
        self.figures.clock_offset_ms = Some(difference(there_ms, now_ms));
        // The message's travel time does not count against the clock.
        let ahead_ms = round.now_ms.saturating_sub(now_ms);
        if ahead_ms > self.options.clock_drift_max_ms {
            return Err(Error::ClockDrift { ahead_ms, allowed_ms: self.options.clock_drift_max_ms });
        }
        Ok(())
    }
}

/// How far one instant lies after another, saturating.
fn difference(later_ms: u64, earlier_ms: u64) -> i64 {
    let amount = i64::try_from(later_ms.abs_diff(earlier_ms)).unwrap_or(i64::MAX);
    if later_ms >= earlier_ms { amount } else { -amount }
}
