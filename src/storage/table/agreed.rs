//! Cursors that are valid on every node: the agreed instant, up to which all members are known to have held the same rows.
//!
//! # The cursor
//! A position is `(epoch, sequence, agreed, cluster)`. On the node and in the epoch that issued it, the sequence decides: the subscriber
//! gets exactly what the ring holds after it. On any other node, and after a restart, `agreed` decides. It promises: whatever any member
//! held when it took its root digest at this instant (Unix milliseconds), the issuing node held too, or a later version of the same key;
//! and it had published all of it, including the expiry of values that had expired by then.
//!
//! So a node that receives a foreign cursor owes its bearer, among the keys of the topics:
//! 1. rows with a timestamp later than `agreed`;
//! 2. rows of any timestamp that arrived here after this node took its root at `agreed` (an import, or an old write of a node that was
//!    away): no root up to then shows them, so the other node may not have had them;
//! 3. values that expired after `agreed`.
//!
//! Each change in the ring has a label: the latest of its timestamp, its expiry, and the last instant at which this node had taken a root
//! when it published the change. Changes with a label at or above `agreed` are replayed. Some are delivered twice: delivery is at least
//! once, and the version with the highest `version` is the newest of its key. No wall clocks are compared; an instant is only the name of a
//! comparison.
//!
//! If the ring does not reach back (after a restart, or when nobody was subscribed), rows are read from the store by their timestamps
//! instead (`backlog`). That finds 1 and 3, but not 2. So late rows are recorded here, as spans of instants for which the store's
//! timestamps prove nothing; a cursor inside a span gets a `resync`.
//!
//! # Strong tables
//! Their rows are in no root, so equal roots say nothing about them. Where there are any, an agreed instant is only *offered*, and counts once
//! this node has applied all that the leader had committed after it was offered: by then all members had taken their roots at the instant,
//! and what any of them had applied before that was committed.
//!
//! # Which cursors are accepted
//! A node accepts a cursor only if it can have been among the members its instant speaks of:
//! - The cluster is the same.
//! - The instant is at or above `first_ms`, the first instant agreed since this node restarted after a crash, joined or came back. So a
//!   subscriber that saw a value which a crash then took away, before it was durable, gets a `resync` from the node that lost it.
//! - The instant is no later than the last root taken here: a node that the others forgot, and that does not know it, has taken none since.
//! - The instant is not much later than what this node has agreed itself, for the same reason.
//!
//! # Limits
//! A cursor older than `RESUME_MAX_MS` gets a `resync`. A subscriber may see a value just before it is durable. If that node then loses
//! power, and the subscriber resumes on *another* node, it keeps that value until the key is written again.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering, fence},
};

use tokio::sync::Notify;
use tracing::debug;

pub use super::spans::Spans;

use super::progress::Progress;
use crate::{
    error::Result,
    storage::{
        Store,
        engine::{Tree, notes},
        table::trees,
    },
};

/// Oldest instant of a cursor that can be resumed. Whoever was away longer takes a snapshot.
const RESUME_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// How far a cursor's instant may be ahead of what this node has agreed: members agree about once a second, not all at once. Far below the
/// shortest time after which a node is forgotten.
const AHEAD_MAX_MS: u64 = 15_000;

const LATE_KEY: &[u8] = b"late";
const AGREED_KEY: &[u8] = b"agreed";

/// What a store knows about agreed instants.
#[derive(Debug, Default)]
pub struct AgreedInstants {
    /// Instant of the last root taken of this store.
    rooted_ms: AtomicU64,
    /// The latest timestamp of all rows set since the store was opened.
    written_ms: AtomicU64,
    state: Mutex<State>,
    /// Wakes whoever confirms what is offered.
    offered: Arc<Notify>,
}

/// Whoever waits for an offer does not keep the store, and is to end with it.
impl Drop for AgreedInstants {
    fn drop(&mut self) {
        self.offered.notify_one();
    }
}

#[derive(Debug, Default)]
struct State {
    /// The first instant agreed since the last reset; `None` before it.
    first_ms: Option<u64>,
    /// The last one.
    latest_ms: u64,
    /// Whether it was agreed since the store was opened.
    is_current: bool,
    /// An instant that is agreed but for the strong tables; 0 for none.
    offered_ms: u64,
    pending: Option<Pending>,
    late: Spans,
}

/// An agreed instant whose changes are not all with the subscribers yet.
#[derive(Debug)]
struct Pending {
    at_ms: u64,
    pumps: Vec<(Arc<Progress>, u64)>,
}

impl AgreedInstants {
    /// Restores the state of a store that was closed cleanly.
    fn restore(&self, kept: Option<SavedInstants>, late: Spans, clock_ms: u64) {
        // The clock was raised above an instant before its root was taken.
        self.rooted_ms.store(clock_ms.max(kept.map_or(0, |kept| kept.rooted_ms)), Ordering::SeqCst);
        let mut state = self.lock();
        state.late = late;
        if let Some(kept) = kept {
            state.first_ms = Some(kept.first_ms);
            state.latest_ms = kept.latest_ms;
        }
    }

    /// Records that a root at this instant is about to be taken. Rows set from now on with a timestamp up to it are late.
    pub fn root(&self, at_ms: u64) {
        self.rooted_ms.fetch_max(at_ms, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Instant of the last root.
    pub fn rooted_ms(&self) -> u64 {
        self.rooted_ms.load(Ordering::SeqCst)
    }

    /// No row that was set before the call has a later label, if its partition was locked since.
    pub fn label_max_ms(&self) -> u64 {
        self.rooted_ms().max(self.written_ms.load(Ordering::Relaxed))
    }

    /// Records a row that is about to be set. Call it under the lock of the row's partition, after the table's cached root
    /// was invalidated: then a concurrent root either includes the row, or makes it late.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn record_row(&self, meta: &Tree, timestamp_ms: u64) -> Result<()> {
        // Most writes of one millisecond need no more than this look.
        if self.written_ms.load(Ordering::Relaxed) < timestamp_ms {
            self.written_ms.fetch_max(timestamp_ms, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        let rooted_ms = self.rooted_ms.load(Ordering::SeqCst);
        if timestamp_ms > rooted_ms { Ok(()) } else { self.note(meta, timestamp_ms, rooted_ms) }
    }

    /// Records that a row is removed without a tombstone: subscribers that missed it cannot learn it from any row.
    ///
    /// # Errors
    /// Those of the engine.
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

    /// Spans of instants for which timestamps prove nothing.
    pub fn late(&self) -> Spans {
        self.lock().late.clone()
    }

    /// Whether a cursor of this instant can be resumed here.
    pub fn accepts_cursor(&self, at_ms: u64, now_ms: u64) -> bool {
        let state = self.lock();
        state.first_ms.is_some_and(|first_ms| first_ms <= at_ms)
            && at_ms <= self.rooted_ms()
            && at_ms <= state.latest_ms + AHEAD_MAX_MS
            && now_ms.saturating_sub(at_ms) <= RESUME_MAX_MS
    }

    /// Forgets what was agreed, because the node's rows are others now.
    pub fn forget(&self) {
        let mut state = self.lock();
        state.first_ms = None;
        state.latest_ms = 0;
        state.is_current = false;
        state.offered_ms = 0;
        state.pending = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Plain numbers: valid even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Restores what the store knew when it was closed cleanly, and marks it as not cleanly closed until `close`.
    pub(in crate::storage) fn restore_agreed(&self) -> Result<()> {
        let meta = self.meta()?;
        // If the spans cannot be read, treat every instant as late.
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

    /// Saves the state for a start after a clean close.
    pub(in crate::storage) fn save_agreed(&self) {
        if let Err(error) = self.write_agreed() {
            debug!(%error, "agreed instants cannot be saved; resuming subscribers will take a snapshot");
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

    /// Forgets what was agreed: the others went on without this node, so older cursors say nothing about what it holds.
    pub fn reset_agreed(&self) {
        self.0.context.agreed.forget();
    }

    /// Records that this node does not hold everything the cluster holds, and forgets what was agreed. At a start the old state stays until
    /// the others are known to have gone on without this node.
    pub fn invalidate_agreed(&self) {
        self.0.context.agreed.lock().offered_ms = 0;
        if self.0.context.agreed.lock().is_current {
            self.reset_agreed();
        }
    }

    /// Records that at an instant (Unix milliseconds) this node held what every other member held; for a node alone, that all writes up to
    /// it are finished. The rows were durable on all of them. 0 means that nothing is known. Called about once a second. With strong tables the
    /// instant is offered only.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn agree(&self, at_ms: u64) -> Result<()> {
        if at_ms == 0 {
            return Ok(());
        }
        self.0.context.agreed.root(at_ms);
        if self.strong_tables().is_empty() {
            return self.conclude(at_ms);
        }
        self.0.context.agreed.lock().offered_ms = at_ms;
        self.0.context.agreed.offered.notify_one();
        Ok(())
    }

    /// The instant that was offered last and waits until the strong tables are as they were on the others; `None` if none does.
    pub fn offered_ms(&self) -> Option<u64> {
        Some(self.0.context.agreed.lock().offered_ms).filter(|at_ms| *at_ms > 0)
    }

    /// Tells the one who confirms them of each instant that is offered, and of the end of the store.
    pub fn offers(&self) -> Arc<Notify> {
        self.0.context.agreed.offered.clone()
    }

    /// Records that this node has applied all that was committed in strong tables when an instant was offered, or later.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn agree_strong(&self, at_ms: u64) -> Result<()> {
        {
            let mut state = self.0.context.agreed.lock();
            // It may have been withdrawn meanwhile.
            if state.offered_ms < at_ms {
                return Ok(());
            }
            if state.offered_ms == at_ms {
                state.offered_ms = 0;
            }
        }
        self.conclude(at_ms)
    }

    fn conclude(&self, at_ms: u64) -> Result<()> {
        let agreed = &self.0.context.agreed;
        let announced_ms = {
            let mut state = agreed.lock();
            state.first_ms.get_or_insert(at_ms);
            state.latest_ms = state.latest_ms.max(at_ms);
            state.is_current = true;
            state.pending.as_ref().filter(|pending| pending.is_published()).map(|pending| pending.at_ms)
        };
        let announced_ms = match announced_ms {
            // A value that has expired and was not announced yet still has its entry.
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

    /// When the next value expires whose expiry was not announced yet.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn next_expiry_ms(&self) -> Result<Option<u64>> {
        let expiry = self.with_engine(|engine| engine.tree(trees::EXPIRY))?;
        let Some(first) = expiry.range(&[], None).next().transpose()? else { return Ok(None) };
        Ok(first.0.first_chunk().map(|at_ms| u64::from_be_bytes(*at_ms)))
    }

    /// The pump of every table, and the count of rows it must have published to cover all rows set so far.
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

/// What is kept over a clean restart.
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

pub(super) fn numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| numbers.iter().map(|number| u64::from_be_bytes(*number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Fixture, close, table};

    /// The roots that members compare do not show strong tables. A node whose log was behind gave positions that were valid on every node, and
    /// whoever went on elsewhere with one missed what it had not applied.
    #[test]
    fn an_instant_counts_for_strong_tables_once_their_log_was_applied() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let agreed_ms = || store.0.hub.cursor().agreed_ms;
        let at_ms = store.now_ms();
        // Announced a round later, when all is published.
        (0..2).for_each(|_| store.agree(at_ms - 50).expect("agrees"));
        assert_eq!(agreed_ms(), at_ms - 50);
        store.make_strong(&table()).expect("made");
        (0..2).for_each(|_| store.agree(at_ms).expect("is offered"));
        assert_eq!((agreed_ms(), store.offered_ms()), (at_ms - 50, Some(at_ms)));
        for _ in 0..2 {
            store.agree(at_ms).expect("is offered");
            store.agree_strong(at_ms).expect("agrees");
        }
        assert_eq!((agreed_ms(), store.offered_ms()), (at_ms, None));
        store.agree(at_ms + 50).expect("is offered");
        store.invalidate_agreed();
        store.agree_strong(at_ms + 50).expect("was withdrawn");
        assert!(!store.0.context.agreed.accepts_cursor(at_ms + 50, at_ms + 50));
        close(store);
    }

    #[test]
    fn a_cursor_is_accepted_between_the_first_instant_and_the_last_root() {
        let agreed = AgreedInstants::default();
        agreed.root(100_000);
        assert!(!agreed.accepts_cursor(50_000, 101_000), "nothing is agreed");
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
