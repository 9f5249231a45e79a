//! What one node says to another over a link, and what it does with what it hears: the protocol of replication, without a
//! socket, a clock or a thread.
//!
//! Three things happen side by side. *Push*: what the journal has after the peer's cursor goes out in batches, as many as the
//! window lets. *Rounds*: each tells the other how it stands; equal roots raise the floor. *Comparison*: roots that stay
//! different, with nothing on its way that would explain it, open a conversation (`reconcile`), and what it finds goes out in
//! batches like those of the journal, after them.
//!
//! Batches are acknowledged in order, when they are durable at the receiver. What is not acknowledged when a link ends is sent
//! again from the cursor, over the next.
//!
//! Whoever drives this calls `handle` for each message, `round` each round, and `poll` until it has nothing more; and does
//! what the outputs say.

mod compare;
mod figures;
mod push;

use std::collections::VecDeque;

pub use self::figures::Figures;
use self::push::InFlight;
use super::{
    comparison::{self, Answer},
    floor::Comparing,
    journal::JournalEntry,
    message::{Flags, Message, Round, Row, Rows},
    progress::{Acked, Shared},
    repairs::Repairs,
    replica::{Replica, Swept},
};
use crate::{
    core::{clock::NodeId, register::Payload},
    error::{Error, Result},
};

/// Instants of roots are multiples of this, so that those of several peers are the same and need be taken once.
const INSTANT_STEP_MS: u64 = 500;
/// How many places of the journal are remembered, one a round: more than the settle time has rounds.
const ROUND_MARKS_MAX: usize = 64;

/// How peers are spoken to.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long ago the instant is at which roots are compared: longer than any message is on its way.
    pub settle_ms: u64,
    /// How far ahead a timestamp or a clock may be.
    pub clock_drift_max_ms: u64,
}

impl Options {
    /// The latest that a row may be dated. What one node took from another whose clock is ahead, as far as may be, is as far ahead of it
    /// as that one.
    fn latest_ms(&self, now_ms: u64) -> u64 {
        now_ms + 2 * self.clock_drift_max_ms
    }
}

/// What a peer works on.
pub struct Context<'a, R> {
    /// The rows.
    pub replica: &'a R,
    /// What it shares with the other peers.
    pub shared: &'a Shared,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send this.
    Send(Message),
    /// Make durable what was merged so far, then do this. In order.
    AfterSync(Then),
}

/// What is to be done after a sync.
#[derive(Debug, PartialEq)]
pub enum Then {
    /// Send this.
    Send(Message),
    /// Call `Peer::equal`.
    Equal(Equal),
}

/// Two roots were equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equal {
    /// The comparison.
    pub compared: Comparing,
    /// How far both had swept.
    pub swept: Swept,
    /// What the peer is, if the root shows all that it had when the link came up.
    pub covered: Option<Flags>,
}

/// One peer, for the life of a link.
#[derive(Debug)]
pub struct Peer {
    local: NodeId,
    remote: NodeId,
    options: Options,
    random: u64,
    /// When the link came up, and how far the journal went then.
    linked_ms: u64,
    linked_entry: u64,
    /// How far the journal was looked at, and what of it was not sent yet.
    cursor: u64,
    unsent: VecDeque<JournalEntry>,
    acked: u64,
    gap: bool,
    round_marks: VecDeque<(u64, u64)>,
    repairs: Repairs,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    last_batch: u64,
    pushes_in_a_row: u32,
    last_round: Option<(Round, u64)>,
    /// Rounds in a row that showed another root.
    differing: u32,
    /// The last instant (Unix milliseconds) at which roots were equal, since the link came up or the journal had a gap.
    equal_ms: Option<u64>,
    open_comparison: Option<OpenComparison>,
    comparison_active_ms: u64,
    /// How many rounds in a row differed just after a sweep.
    sweep_excuses: u32,
    /// How far others had swept when the peer was sent what dies here by that.
    garbage_sent: Swept,
    /// How far both have swept, and since when both have.
    swept: (Swept, u64),
    figures: Figures,
}

#[derive(Debug)]
struct OpenComparison {
    moved_before: u64,
}

impl Peer {
    /// A peer to which a link has just come up. `seed` must be one that nobody can foretell.
    pub fn new<R: Replica>(
        context: &Context<'_, R>,
        (local, remote): (NodeId, NodeId),
        options: Options,
        seed: u64,
    ) -> Self {
        let mut progress = context.shared.progress();
        let journal = context.shared.journal();
        let known = progress.acked.get(&remote).copied();
        let acked = match known.unwrap_or_default() {
            acked if journal.reaches(acked.upto) => acked,
            _ => Acked::nothing_before(journal.last()),
        };
        progress.acked.insert(remote, acked);
        let cursor = acked.upto;
        Self {
            local,
            remote,
            options,
            random: seed,
            linked_ms: context.now_ms,
            linked_entry: journal.last(),
            cursor,
            unsent: VecDeque::new(),
            acked: cursor,
            // Of a peer that is new to this process nobody knows what it has.
            gap: known != Some(acked),
            round_marks: VecDeque::new(),
            repairs: Repairs::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            last_batch: 0,
            pushes_in_a_row: 0,
            last_round: None,
            differing: 0,
            equal_ms: None,
            open_comparison: None,
            comparison_active_ms: 0,
            sweep_excuses: 0,
            garbage_sent: Swept::default(),
            swept: (Swept::default(), 0),
            figures: Figures::default(),
        }
    }

    /// The node at the other end.
    pub fn remote(&self) -> NodeId {
        self.remote
    }

    /// Figures of this link.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// How many entries of the journal were not looked at yet.
    pub fn backlog<R: Replica>(&self, context: &Context<'_, R>) -> u64 {
        context.shared.journal().last().saturating_sub(self.cursor)
    }

    /// Whether rows that a comparison found wait to be sent.
    pub fn has_repairs(&self) -> bool {
        !self.repairs.is_empty()
    }

    /// Whether the peer is whole, as far as it said.
    pub fn is_complete(&self) -> bool {
        self.last_round.as_ref().is_some_and(|(round, _)| round.flags.complete)
    }

    /// The round to send: at once when the link has come up, then each time the interval has passed.
    ///
    /// # Errors
    /// As the replica's, and so for all that takes a context. The link is to be closed then.
    pub fn round<R: Replica>(&mut self, context: &Context<'_, R>) -> Result<Output> {
        let now_ms = context.now_ms;
        let at_ms = self.settled_ms(now_ms);
        if self.round_marks.len() == ROUND_MARKS_MAX {
            self.round_marks.pop_front();
        }
        self.round_marks.push_back((now_ms, context.shared.journal().last()));
        context.replica.raise_clock(at_ms);
        let root = context.replica.root(at_ms)?;
        let is_syncing = !self.is_complete() || !context.shared.progress().complete;
        let is_all =
            is_syncing && root.is_some() && context.replica.root(self.options.latest_ms(now_ms))? == root;
        let swept = context.replica.swept();
        let pushing = self.is_pushing(at_ms);
        let mut progress = context.shared.progress();
        // After the root was taken, which lacks what was lost.
        progress.lose(context.replica.lost_ms(), now_ms);
        let flags = Flags {
            complete: progress.complete,
            intact: progress.intact,
            is_all,
            pushing,
            gap: self.gap,
            leaving: progress.leaving,
            detached: progress.agreement.is_detached(self.remote),
        };
        let (guarantee_ms, agreed_ms) =
            (progress.guarantee_ms(at_ms), progress.agreement.with_ms(self.remote));
        drop(progress);
        let since = |before_ms: u64| u32::try_from(now_ms.saturating_sub(before_ms)).unwrap_or(u32::MAX);
        let round = Round {
            now_ms,
            echo: self.last_round.as_ref().map(|(round, received_ms)| (round.now_ms, since(*received_ms))),
            behind_ms: since(at_ms),
            root,
            rows: context.replica.count(),
            guarantee_ms,
            agreed_ms,
            swept_ms: swept.tombstones_ms,
            expired_ms: swept.expired_ms,
            flags,
        };
        // What the root stands for must be durable before anybody draws a conclusion from it.
        Ok(Output::AfterSync(Then::Send(Message::Round(round))))
    }

    /// What follows from a message. Those of membership are not for this.
    ///
    /// # Errors
    /// `ClockDrift` for a timestamp or a clock too far ahead, `Corrupt` for a row that is not what its marker says.
    pub fn handle<R: Replica>(&mut self, context: &Context<'_, R>, message: Message) -> Result<Vec<Output>> {
        self.figures.count_step(&message);
        let answer = match message {
            Message::Round(round) => return self.take_round(context, round),
            Message::Rows(rows) => return Ok(vec![self.take_rows(context, rows)?]),
            Message::Applied { batch, deleted } => {
                self.take_applied(context, batch, deleted)?;
                return Ok(Vec::new());
            }
            Message::Open(comparison) => comparison::answer_open(context.replica, &comparison)?,
            Message::Digests(comparison) => comparison::answer_digests(context.replica, &comparison)?,
            Message::RowFingerprints(comparison) => {
                comparison::answer_row_fingerprints(context.replica, &comparison)?
            }
            Message::Names(comparison) => comparison::answer_names(context.replica, &comparison)?,
            Message::Want(rows) => Answer { rows, ..Answer::default() },
            Message::Pull(streams) => Answer { streams, ..Answer::default() },
            Message::Alive
            | Message::Swim(_)
            | Message::Forgotten(_)
            | Message::Superseded { .. }
            | Message::Refused(_)
            | Message::Leaving { .. }
            | Message::StorageFull(_) => {
                return Ok(Vec::new());
            }
        };
        self.comparison_active_ms = context.now_ms;
        self.repairs.add(answer.rows, answer.streams);
        answer.messages.iter().for_each(|message| self.figures.count_sent(message));
        Ok(answer.messages.into_iter().map(Output::Send).collect())
    }

    /// Notes that both roots were equal at an instant, and that all of it is durable here.
    pub fn equal<R: Replica>(&mut self, context: &Context<'_, R>, equal: Equal) {
        let mut progress = context.shared.progress();
        progress.lose(context.replica.lost_ms(), context.now_ms);
        if let Some(flags) = equal.covered {
            progress.cover(self.remote, flags, equal.compared.at_ms);
        }
        progress.floor.equal(self.remote, equal.compared);
        drop(progress);
        self.equal_ms = self.equal_ms.max(Some(equal.compared.at_ms));
        self.gap = false;
    }

    /// Opens a comparison now, whatever the roots say.
    pub fn compare_now<R: Replica>(&mut self, context: &Context<'_, R>) -> Result<Output> {
        self.end_comparison();
        self.open_comparison = Some(OpenComparison { moved_before: self.moved() });
        self.figures.sessions += 1;
        self.comparison_active_ms = context.now_ms;
        let nonce = self.next_random();
        let opening = comparison::open(context.replica, nonce, self.settled_ms(context.now_ms))?;
        self.figures.count_sent(&opening);
        Ok(Output::Send(opening))
    }

    fn take_rows<R: Replica>(&mut self, context: &Context<'_, R>, rows: Rows) -> Result<Output> {
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
        let proven_ms = self.proven_ms(context);
        let is_complete = context.shared.progress().complete;
        let mut deleted = Vec::new();
        for (table, rows) in rows.tables {
            self.figures.rows_received += rows.len() as u64;
            self.lower_claims(context, &rows, proven_ms)?;
            let accepted = context.replica.accept(&table, rows, proven_ms)?;
            self.figures.rows_changed += accepted.changed;
            self.figures.rows_refused += accepted.deleted.len() as u64;
            // One that is not whole has yet to come to know what was swept.
            self.figures.rows_unproven += if is_complete { accepted.unproven } else { 0 };
            deleted.extend(accepted.deleted.into_iter().map(|(key, marker)| (table.clone(), key, marker)));
        }
        Ok(Output::AfterSync(Then::Send(Message::Applied { batch: rows.batch, deleted })))
    }

    /// Takes back what is claimed of the instants before the oldest row that may come in: others may not have it.
    fn lower_claims<R: Replica>(&self, context: &Context<'_, R>, rows: &[Row], proven_ms: u64) -> Result<()> {
        let (deleted, live): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.payload == Payload::Deleted);
        let written = |row: &Row| row.marker.timestamp.unix_ms();
        let mut progress = context.shared.progress();
        if let Some(oldest_ms) = deleted.into_iter().map(written).min() {
            progress.lower_floor(oldest_ms);
        }
        let Some(oldest_ms) =
            live.into_iter().map(written).filter(|written_ms| *written_ms > proven_ms).min()
        else {
            return Ok(());
        };
        if progress.lower_claims(oldest_ms) {
            let agreement = progress.agreement.clone();
            drop(progress);
            context.replica.save_agreement(&agreement)?;
        }
        Ok(())
    }

    /// Up to when (Unix milliseconds) it is proved of the peer's rows that they were deleted where there is none here; 0 where nothing is.
    fn proven_ms<R: Replica>(&self, context: &Context<'_, R>) -> u64 {
        let Some((round, _)) = &self.last_round else { return 0 };
        let progress = context.shared.progress();
        if progress.complete && !round.flags.complete {
            round.agreed_ms.min(progress.agreement.with_ms(self.remote))
        } else {
            0
        }
    }

    fn settled_ms(&self, now_ms: u64) -> u64 {
        let settled_ms = now_ms.saturating_sub(self.options.settle_ms);
        settled_ms - settled_ms % INSTANT_STEP_MS
    }

    /// The next number of a sequence that nobody can foretell who does not know the seed (Steele et al., "Fast Splittable
    /// Pseudorandom Number Generators", 2014: SplitMix64).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
