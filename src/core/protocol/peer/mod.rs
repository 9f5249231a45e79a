//! The protocol of one link, without a socket, a clock or a thread.
//!
//! Three things happen side by side. *Push*: batches of the journal after the peer's cursor, as many as the window
//! allows. *Rounds*: each node sends its state; equal roots raise the floor. *Comparison*: roots that stay different,
//! with nothing in flight that explains it, start a comparison. The rows it finds are sent in batches too, after those
//! of the journal.
//!
//! Batches are acknowledged in order, once they are durable at the receiver. What is not acknowledged when a link ends
//! is sent again over the next link.
//!
//! The driver calls `handle` for each message, `round` each round, and `poll` until it returns nothing. It does what
//! the outputs say.

mod compare;
mod figures;
mod push;
mod receive;

use std::collections::VecDeque;

pub use self::figures::Figures;
use self::push::InFlight;
use super::{
    comparison::{self, Answer},
    floor::Comparing,
    journal::JournalEntry,
    message::{Flags, Message, Round},
    progress::{Acked, Shared},
    repairs::Repairs,
    replica::{Replica, Swept},
};
use crate::{
    core::{clock::NodeId, digest::RootDigest},
    error::Result,
};

/// Root instants are multiples of this, so that all peers use the same ones and each root is computed once.
const INSTANT_STEP_MS: u64 = 500;
/// Most journal positions remembered, one per round: more than there are rounds in the settle time.
const ROUND_MARKS_MAX: usize = 64;

/// The latest instant of which peers compare what they hold, where rows take `settle_ms` to arrive. Unix milliseconds.
pub fn settled_ms(now_ms: u64, settle_ms: u64) -> u64 {
    let settled_ms = now_ms.saturating_sub(settle_ms);
    settled_ms - settled_ms % INSTANT_STEP_MS
}

/// The settings of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How far back roots are compared: longer than any message takes.
    pub settle_ms: u64,
    /// How far ahead a timestamp or a clock may be, in milliseconds.
    pub clock_drift_max_ms: u64,
}

impl Options {
    /// The latest timestamp that a row may have. A node may pass on a row from a third node whose clock is ahead of its
    /// own by the limit.
    fn latest_ms(&self, now_ms: u64) -> u64 {
        now_ms + 2 * self.clock_drift_max_ms
    }
}

/// What a peer works on.
pub struct Context<'a, R> {
    /// The rows.
    pub replica: &'a R,
    /// What all peers share.
    pub shared: &'a Shared,
    /// The current time, in Unix milliseconds.
    pub now_ms: u64,
}

/// Something for the driver to do.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send this.
    Send(Message),
    /// Sync everything merged so far, then do this. In order.
    AfterSync(Then),
}

/// What to do after a sync.
#[derive(Debug, PartialEq)]
pub enum Then {
    /// Send this.
    Send(Message),
    /// Call `Peer::equal` with this.
    Equal(Equal),
}

/// The roots were equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equal {
    /// The comparison of roots.
    pub compared: Comparing,
    /// How far both nodes had swept.
    pub swept: Swept,
    /// The peer's flags, if the root covers everything it had when the link came up.
    pub covered: Option<Flags>,
}

/// The protocol state of one link.
#[derive(Debug)]
pub struct Peer {
    local: NodeId,
    remote: NodeId,
    options: Options,
    random: u64,
    /// When the link came up, and the end of the journal then.
    linked_ms: u64,
    linked_entry: u64,
    /// How far the journal was read, and what was read but not sent.
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
    /// Up to when the peer was last told that it agreed with this node (Unix milliseconds).
    announced_ms: u64,
    /// Whether the peer was last told that this node is complete.
    announced_complete: bool,
    /// Consecutive rounds with different roots.
    differing: u32,
    /// The last instant (Unix milliseconds) at which the roots were equal, since the link came up or the journal had a
    /// gap.
    equal_ms: Option<u64>,
    open_comparison: Option<OpenComparison>,
    comparison_active_ms: u64,
    /// Differing rounds in a row that a recent sweep explains.
    sweep_excuses: u32,
    /// The sweep for which the peer was sent what it would remove here.
    garbage_sent: Swept,
    /// How far both nodes have swept, and since when (Unix milliseconds).
    swept: (Swept, u64),
    figures: Figures,
}

#[derive(Debug)]
struct OpenComparison {
    moved_before: u64,
}

impl Peer {
    /// A peer on a link that just came up. `seed` must be unpredictable.
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
            // For a peer that is new to this process, nobody knows what it has.
            gap: known != Some(acked),
            round_marks: VecDeque::new(),
            repairs: Repairs::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            last_batch: 0,
            pushes_in_a_row: 0,
            last_round: None,
            announced_ms: 0,
            announced_complete: false,
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

    /// The figures of this link.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// The number of journal entries not yet read.
    pub fn backlog<R: Replica>(&self, context: &Context<'_, R>) -> u64 {
        context.shared.journal().last().saturating_sub(self.cursor)
    }

    /// Whether rows that a comparison found are waiting to be sent.
    pub fn has_repairs(&self) -> bool {
        !self.repairs.is_empty()
    }

    /// Whether the peer last said that it is complete.
    pub fn is_complete(&self) -> bool {
        self.last_round.as_ref().is_some_and(|(round, _)| round.flags.complete)
    }

    /// The round to send: once when the link comes up, then at every interval.
    ///
    /// # Errors
    /// As the replica's; so for everything that takes a context. Close the link then.
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
        // Everything the root covers must be durable before the peer draws a conclusion from it.
        Ok(Output::AfterSync(Then::Send(self.state(context, at_ms, root, is_all))))
    }

    /// The state of this node as a round, with the root of an instant.
    fn state<R: Replica>(
        &mut self,
        context: &Context<'_, R>,
        at_ms: u64,
        root: Option<RootDigest>,
        is_all: bool,
    ) -> Message {
        let now_ms = context.now_ms;
        let swept = context.replica.swept();
        let pushing = self.is_pushing(at_ms);
        let mut progress = context.shared.progress();
        // Only after the root was taken: it lacks the lost rows.
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
        (self.announced_ms, self.announced_complete) = (agreed_ms, flags.complete);
        let since = |before_ms: u64| u32::try_from(now_ms.saturating_sub(before_ms)).unwrap_or(u32::MAX);
        Message::Round(Round {
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
        })
    }

    /// Handles a message. Membership messages are handled elsewhere and ignored here.
    ///
    /// # Errors
    /// `ClockDrift` for a timestamp or clock too far ahead, `Corrupt` for a row that does not match its marker.
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
            | Message::StorageFull(_)
            | Message::Request { .. }
            | Message::Response { .. }
            | Message::Cancel { .. } => {
                return Ok(Vec::new());
            }
        };
        self.comparison_active_ms = context.now_ms;
        self.repairs.add(answer.rows, answer.streams);
        answer.messages.iter().for_each(|message| self.figures.count_sent(message));
        Ok(answer.messages.into_iter().map(Output::Send).collect())
    }

    /// Records that both roots were equal, and that everything they cover is durable here.
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

    /// Opens a comparison now, whatever the roots are.
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

    fn settled_ms(&self, now_ms: u64) -> u64 {
        settled_ms(now_ms, self.options.settle_ms)
    }

    /// The next random number. It is unpredictable without the seed (SplitMix64: Steele et al., "Fast Splittable
    /// Pseudorandom Number Generators", 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
