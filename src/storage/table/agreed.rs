//! What makes a cursor of one node good on another: the instant up to which both are known to have held the same.
//!
//! # The cursor
//! A position is `(epoch, sequence, agreed, cluster)`. On the node and in the epoch that gave it, the sequence decides: what the ring has
//! after it is told, exactly. Anywhere else, and after a restart, `agreed` decides. It says: whatever any member held when it took its
//! root at this instant (Unix milliseconds), the node that gave the cursor held too, or something later of the same key; and it had
//! told all of it, ends of values that expired by then included.
//!
//! So a node that gets a cursor from elsewhere owes its bearer, of what the topics cover:
//! 1. rows with a later timestamp than `agreed`;
//! 2. rows of any timestamp that came here after this node took its root at `agreed` (an import, an old write of a node that was away):
//!    no root up to there shows them, so the other node may not have had them;
//! 3. values that expired after `agreed`.
//!
//! Each change in the ring carries a label, the latest of its timestamp, its expiry, and the last instant at which this node had taken a root
//! when it was published. What has a label at or above `agreed` is told. This may be told twice: delivery is at least once, and the newest
//! version of a key is the one with the highest `version`. No wall clocks are compared: an instant is nothing but the name of a comparison.
//!
//! Where the ring does not reach back (after a restart, or where nobody had watched), rows are read from the store instead, by their
//! timestamps (`backlog`). That finds 1 and 3, but not 2. So rows that come late are noted here, as spans of instants for which the
//! store's timestamps prove nothing; a cursor in one of them gets a `resync`.
//!
//! # Who is trusted
//! A cursor is taken only if this node can have been among those that its instant speaks of:
//! - of the same cluster.
//! - at or above `first_ms`, the first instant agreed upon since this node started after a crash, joined or came back. So who saw
//!   a value that a crash took away, before it was durable, is sent a `resync` by the node that lost it.
//! - no later than the last root taken here: a node that was given up by the others, and does not know, has taken none since.
//! - not much later than what this node itself agrees to, for the same reason.
//!
//! # Limits
//! Everything before `RESUME_MAX_MS` is a `resync`. A subscriber may have seen a value a moment before it was durable; if the node that
//! showed it loses its power then, and the subscriber resumes on *another* node, it keeps that value until the key is written again.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering, fence},
};

use tracing::debug;

use super::progress::Progress;
use crate::{
    error::Result,
    storage::{
        Store,
        engine::{Tree, notes},
        table::trees,
    },
};

/// How old the instant of a cursor may be. Who was away for longer takes a snapshot.
const RESUME_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// How far a cursor's instant may lie above what this node agrees to: nodes agree every second or so, and not all at once. Far below the
/// shortest time after which a node is given up.
const AHEAD_MAX_MS: u64 = 15_000;
/// Spans of late rows that are kept; beyond that the two nearest become one.
const SPANS_MAX: usize = 64;
/// Spans begin at a multiple of this, so that rows that come late in any order are few notes.
const SPAN_STEP_MS: u64 = 500;

const LATE_KEY: &[u8] = b"late";
const AGREED_KEY: &[u8] = b"agreed";

/// What a store knows of instants.
#[derive(Debug, Default)]
pub struct AgreedInstants {
    /// The last instant at which a root of this store was taken.
    rooted_ms: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first instant that was agreed upon without a doubt since; `None` where none was yet.
    first_ms: Option<u64>,
    /// The last one.
    latest_ms: u64,
    /// Whether that was since the store was opened.
    is_current: bool,
    pending: Option<Pending>,
    late: Spans,
}

/// An instant that was agreed upon, until all that was held then is with the subscribers.
#[derive(Debug)]
struct Pending {
    at_ms: u64,
    pumps: Vec<(Arc<Progress>, u64)>,
}

impl AgreedInstants {
    /// As a store left it that was closed in order, and whose spans are these.
    fn restore(&self, kept: Option<SavedInstants>, late: Spans, clock_ms: u64) {
        // The clock was raised above an instant before a root was taken there.
        self.rooted_ms.store(clock_ms.max(kept.map_or(0, |kept| kept.rooted_ms)), Ordering::SeqCst);
        let mut state = self.lock();
        state.late = late;
        if let Some(kept) = kept {
            state.first_ms = Some(kept.first_ms);
            state.latest_ms = kept.latest_ms;
        }
    }

    /// Says that a root is about to be taken. Rows that are set from here on, with a timestamp up to there, are late.
    pub fn root(&self, at_ms: u64) {
        self.rooted_ms.fetch_max(at_ms, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The last instant at which a root was taken.
    pub fn rooted_ms(&self) -> u64 {
        self.rooted_ms.load(Ordering::SeqCst)
    }

    /// Notes a row of this timestamp that is about to be set, where it is late. Called under the lock of its partition, after what was
    /// remembered of the table's root stands no longer: so a root that is taken meanwhile either shows the row, or makes it late.
    ///
    /// # Errors
    /// As the engine's.
    pub fn record_late_row(&self, meta: &Tree, timestamp_ms: u64) -> Result<()> {
        fence(Ordering::SeqCst);
        let rooted_ms = self.rooted_ms.load(Ordering::SeqCst);
        if timestamp_ms > rooted_ms { Ok(()) } else { self.note(meta, timestamp_ms, rooted_ms) }
    }

    /// Notes that a row is removed without a tombstone: what its watchers missed, no row will tell.
    ///
    /// # Errors
    /// As the engine's.
    pub fn record_removal(&self, meta: &Tree) -> Result<()> {
        self.note(meta, 0, self.rooted_ms())
    }

    fn note(&self, meta: &Tree, from_ms: u64, to_ms: u64) -> Result<()> {
        let mut state = self.lock();
        if state.late.add(from_ms, to_ms) {
            meta.insert(LATE_KEY, &notes::seal(&state.late.to_bytes()))?;
        }
        Ok(())
    }

    /// The spans of instants for which timestamps prove nothing.
    pub fn late(&self) -> Spans {
        self.lock().late.clone()
    }

    /// Whether a cursor of this instant can be resumed from here.
    pub fn accepts_cursor(&self, at_ms: u64, now_ms: u64) -> bool {
        let state = self.lock();
        state.first_ms.is_some_and(|first_ms| first_ms <= at_ms)
            && at_ms <= self.rooted_ms()
            && at_ms <= state.latest_ms + AHEAD_MAX_MS
            && now_ms.saturating_sub(at_ms) <= RESUME_MAX_MS
    }

    /// Forgets what was agreed: the node's state is another.
    pub fn forget(&self) {
        let mut state = self.lock();
        state.first_ms = None;
        state.latest_ms = 0;
        state.is_current = false;
        state.pending = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers, each true whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Takes up what the store knew of instants when it was closed in order. What follows is not in order until `close`.
    pub(in crate::storage) fn restore_agreed(&self) -> Result<()> {
        let meta = self.meta()?;
        // Spans that cannot be read cover everything.
        let late = match meta.get(LATE_KEY)? {
            None => Some(Spans::default()),
            Some(bytes) => notes::unseal(&bytes).and_then(Spans::from_bytes),
        };
        let late = late.unwrap_or_else(|| Spans(vec![(0, self.now_ms())]));
        let kept = meta.get(AGREED_KEY)?;
        let sound = kept.as_ref().filter(|_| self.suspected_loss().is_none());
        self.0.context.agreed.restore(
            sound.and_then(|bytes| SavedInstants::from_bytes(notes::unseal(bytes)?)),
            late,
            self.clock_bound() >> 16,
        );
        if kept.is_some() {
            meta.remove(AGREED_KEY)?;
            self.with_engine(crate::storage::engine::Engine::sync)?;
        }
        Ok(())
    }

    /// Keeps what the store knows of instants, for a start after a close in order.
    pub(in crate::storage) fn save_agreed(&self) {
        if let Err(error) = self.write_agreed() {
            debug!(%error, "subscribers of before will take a snapshot");
        }
    }

    fn write_agreed(&self) -> Result<()> {
        if self.failure().is_some() || self.suspected_loss().is_some() {
            return Ok(());
        }
        let kept = {
            let state = self.0.context.agreed.lock();
            let Some(first_ms) = state.first_ms else { return Ok(()) };
            SavedInstants {
                first_ms,
                latest_ms: state.latest_ms,
                rooted_ms: self.0.context.agreed.rooted_ms(),
            }
        };
        self.meta()?.insert(AGREED_KEY, &notes::seal(&kept.to_bytes()))
    }

    /// Forgets what was agreed: others went on without this node, and cursors of before say nothing of what it holds.
    pub fn reset_agreed(&self) {
        self.0.context.agreed.forget();
    }

    /// Says that this node does not hold all that the cluster holds: what was agreed before is forgotten. At a start it stands until it
    /// turns out that the others went on without this node.
    pub fn invalidate_agreed(&self) {
        if self.0.context.agreed.lock().is_current {
            self.reset_agreed();
        }
    }

    /// Says that this node held at an instant (Unix milliseconds) what every other member held; alone, that writes at or before it
    /// are over. Durably, on all of them. Nothing is known at 0. Called once a second or so.
    ///
    /// # Errors
    /// `NotReady` while the storage is being opened again.
    pub fn agree(&self, at_ms: u64) -> Result<()> {
        let agreed = &self.0.context.agreed;
        if at_ms == 0 {
            return Ok(());
        }
        agreed.root(at_ms);
        let announced_ms = {
            let mut state = agreed.lock();
            state.first_ms.get_or_insert(at_ms);
            state.latest_ms = state.latest_ms.max(at_ms);
            state.is_current = true;
            state.pending.as_ref().filter(|pending| pending.is_published()).map(|pending| pending.at_ms)
        };
        let announced_ms = match announced_ms {
            // Of values that are over by then, an end that nobody was told of yet has its entry still.
            Some(announced_ms) if self.next_expiry_ms()?.is_none_or(|next_ms| next_ms > announced_ms) => {
                Some(announced_ms)
            }
            Some(_) | None => None,
        };
        if let Some(announced_ms) = announced_ms {
            self.0.hub.agree(announced_ms);
        }
        let pumps = self.pumps();
        let mut state = agreed.lock();
        if announced_ms.is_some() || state.pending.is_none() {
            state.pending = Some(Pending { at_ms, pumps });
        }
        Ok(())
    }

    /// When the next value expires of which nobody was told yet that it is over.
    ///
    /// # Errors
    /// `NotReady` while the storage is being opened again.
    pub fn next_expiry_ms(&self) -> Result<Option<u64>> {
        let expiry = self.with_engine(|engine| engine.tree(trees::EXPIRY))?;
        let Some(first) = expiry.range(&[], None).next().transpose()? else { return Ok(None) };
        Ok(first.0.first_chunk().map(|at_ms| u64::from_be_bytes(*at_ms)))
    }

    /// Every table's pump, and how far it must come to have told of all that is set now.
    fn pumps(&self) -> Vec<(Arc<Progress>, u64)> {
        let tables = self.all_tables();
        let pumps = tables.iter().filter_map(|table| {
            let progress = table.with_trees(|trees| Ok(trees.progress.clone())).ok()?;
            let begun = progress.begun();
            (!progress.is_past(begun)).then_some((progress, begun))
        });
        pumps.collect()
    }
}

impl Pending {
    fn is_published(&self) -> bool {
        self.pumps.iter().all(|(progress, begun)| progress.is_past(*begun))
    }
}

/// What is kept over a restart in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SavedInstants {
    first_ms: u64,
    latest_ms: u64,
    rooted_ms: u64,
}

impl SavedInstants {
    fn to_bytes(self) -> Vec<u8> {
        [self.first_ms, self.latest_ms, self.rooted_ms].map(u64::to_be_bytes).concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [first_ms, latest_ms, rooted_ms] = *numbers(bytes)?.as_slice() else { return None };
        Some(Self { first_ms, latest_ms, rooted_ms })
    }
}

/// Spans of instants, both ends included, in order and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// Whether an instant lies in one of them.
    pub fn cover(&self, at_ms: u64) -> bool {
        self.0.iter().any(|(from_ms, to_ms)| (from_ms..=to_ms).contains(&&at_ms))
    }

    /// Adds a span. False where it was covered.
    fn add(&mut self, from_ms: u64, to_ms: u64) -> bool {
        if self.0.iter().any(|(from, to)| *from <= from_ms && to_ms <= *to) {
            return false;
        }
        let (mut from_ms, mut to_ms) = (from_ms - from_ms % SPAN_STEP_MS, to_ms);
        self.0.retain(|(from, to)| {
            let apart = *to < from_ms || to_ms < *from;
            if !apart {
                (from_ms, to_ms) = (from_ms.min(*from), to_ms.max(*to));
            }
            apart
        });
        self.0.push((from_ms, to_ms));
        self.0.sort_unstable();
        if self.0.len() > SPANS_MAX {
            let gap = |at: &usize| self.0[at + 1].0 - self.0[*at].1;
            let at = (0..self.0.len() - 1).min_by_key(gap).expect("there are two at least");
            let (_, to_ms) = self.0.remove(at + 1);
            self.0[at].1 = to_ms;
        }
        true
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|(from_ms, to_ms)| [from_ms.to_be_bytes(), to_ms.to_be_bytes()].concat())
            .collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let numbers = numbers(bytes)?;
        numbers
            .len()
            .is_multiple_of(2)
            .then(|| Self(numbers.chunks(2).map(|span| (span[0], span[1])).collect()))
    }
}

fn numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| numbers.iter().map(|number| u64::from_be_bytes(*number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_spans_merge_and_their_number_is_limited() {
        let mut spans = Spans::default();
        assert!(spans.add(10_100, 12_000));
        assert!(!spans.add(10_100, 11_000), "covered");
        assert_eq!(spans.0, [(10_000, 12_000)]);
        assert!(spans.add(20_000, 21_000) && spans.add(11_000, 20_500));
        assert_eq!(spans.0, [(10_000, 21_000)]);
        for number in 1..=200 {
            spans.add(number * 100_000, number * 100_000 + number);
        }
        assert_eq!(spans.0.len(), SPANS_MAX);
        assert!((1..=200).all(|number| spans.cover(number * 100_000)) && spans.cover(10_000));
        assert_eq!(Spans::from_bytes(&spans.to_bytes()), Some(spans));
        assert_eq!(Spans::from_bytes(&[0; 15]), None);
        assert_eq!(Spans::from_bytes(&[0; 8]), None);
    }

    #[test]
    fn a_cursor_is_accepted_between_the_first_instant_and_the_last_root() {
        let agreed = AgreedInstants::default();
        agreed.root(100_000);
        assert!(!agreed.accepts_cursor(50_000, 101_000), "nothing was agreed upon");
        {
            let mut state = agreed.lock();
            (state.first_ms, state.latest_ms) = (Some(50_000), 60_000);
        }
        assert!(!agreed.accepts_cursor(49_999, 101_000));
        assert!(
            agreed.accepts_cursor(50_000, 101_000) && agreed.accepts_cursor(60_000 + AHEAD_MAX_MS, 101_000)
        );
        assert!(
            !agreed.accepts_cursor(60_000 + AHEAD_MAX_MS + 1, 101_000),
            "others went on without this node"
        );
        assert!(!agreed.accepts_cursor(50_000, 50_001 + RESUME_MAX_MS), "long ago");
        agreed.lock().latest_ms = 100_000;
        assert!(agreed.accepts_cursor(100_000, 101_000) && !agreed.accepts_cursor(100_001, 101_000));
        agreed.forget();
        assert!(!agreed.accepts_cursor(100_000, 101_000));
    }
}
