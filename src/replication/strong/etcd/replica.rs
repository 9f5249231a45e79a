//! What this node has applied of the commits in etcd, and what it knows of those to come.
//!
//! Commits are applied in order, each after the one that it names. Merging is idempotent, so the *place*, the last commit whose effects are
//! durable, is recorded now and then; after a crash, commits are applied again from there.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::layout::{Commit, Head, Layout};
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        strong::entry::Effect,
    },
    error::{Error, Result},
    replication::strong::{backend::ETCD_NOTE, effects::Effects, rpc, steps::Steps},
    storage::{
        Store,
        commit::{Incarnation, timestamps::Timestamps},
        counters::Counter,
    },
};

/// Commits that are remembered by id, so that a node finds out whether one of its own is among them.
const RECENT_MAX: usize = 4_096;
/// Another node that waits is let go first for this long after it said so.
const YIELD_FOR: Duration = Duration::from_secs(1);

/// A commit, as a place in the order of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The cluster whose tables these are; `None` before the first commit.
    pub cluster: Option<u64>,
    /// The revision of etcd; 0 before the first commit.
    pub revision: u64,
    /// The commit's id.
    pub id: u64,
    /// The latest reading of the clock up to here.
    pub latest_hlc: u64,
}

/// Why a commit is not applied.
#[derive(Debug)]
pub enum NotApplied {
    /// It is not the next one.
    Gap,
    /// The store lost what it had not synced, and the place is an earlier one now.
    Rewound,
    /// The store cannot take it.
    Failed(Error),
}

/// The commits that came last.
#[derive(Default)]
struct Recent {
    /// All that came after this revision are here.
    after: u64,
    commits: VecDeque<(u64, u64)>,
}

impl Recent {
    fn add(&mut self, revision: u64, id: u64) {
        self.commits.push_back((revision, id));
        if self.commits.len() > RECENT_MAX
            && let Some((revision, _)) = self.commits.pop_front()
        {
            self.after = revision;
        }
    }
}

/// This node's copy of the strong tables, and its place.
pub struct Replica {
    /// The rows.
    pub store: Store,
    /// The clock.
    pub timestamps: Arc<Timestamps>,
    /// Makes changes to the store.
    pub effects: Effects,
    place: Mutex<Place>,
    /// The last durable place, and the incarnation of the store that the commits after it were applied to.
    durable: Mutex<(Place, Incarnation)>,
    applied: watch::Sender<Option<u64>>,
    /// The latest revision of the head that this node has heard of.
    known: watch::Sender<u64>,
    recent: Mutex<Recent>,
    /// The cluster whose commits are being followed.
    following: Mutex<Option<u64>>,
    /// Why they are not, if there is something to be done about it.
    failure: Mutex<Option<String>>,
    /// When another node last said that it waits.
    waiting: Mutex<Option<Instant>>,
    /// Held while commits are applied.
    pub applying: tokio::sync::Mutex<()>,
    /// Held while a checkpoint is made.
    checkpointing: tokio::sync::Mutex<()>,
    /// Whether it has applied everything that there was when it first looked.
    caught_up: watch::Sender<bool>,
    /// Each commit is a step.
    pub steps: Arc<Steps>,
    /// How often all rows were read.
    pub resyncs: Counter,
}

impl Replica {
    /// The copy in a store, as it was at the last durable place.
    ///
    /// # Errors
    /// `Corrupt` if the place cannot be read.
    pub fn open(store: Store, timestamps: Arc<Timestamps>) -> Result<Self> {
        let note = store.note(ETCD_NOTE)?;
        let place: Place = note.map(|note| rpc::decode(&note)).transpose()?.unwrap_or_default();
        let incarnation = store.incarnation();
        Ok(Self {
            effects: Effects::new(store.clone(), timestamps.clone(), Arc::default()),
            store,
            timestamps,
            place: Mutex::new(place),
            durable: Mutex::new((place, incarnation)),
            applied: watch::Sender::new(place.cluster.map(|_| place.revision)),
            known: watch::Sender::new(place.revision),
            recent: Mutex::new(Recent { after: place.revision, ..Recent::default() }),
            following: Mutex::default(),
            failure: Mutex::default(),
            waiting: Mutex::default(),
            applying: tokio::sync::Mutex::default(),
            checkpointing: tokio::sync::Mutex::default(),
            caught_up: watch::Sender::new(false),
            steps: Arc::default(),
            resyncs: Counter::default(),
        })
    }

    /// The last commit applied.
    pub fn place(&self) -> Place {
        *lock(&self.place)
    }

    /// The revision applied last, and its changes. `None` before this node has looked what there is.
    pub fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.applied.subscribe()
    }

    /// The latest revision of the head that this node has heard of.
    pub fn known(&self) -> u64 {
        *self.known.borrow()
    }

    /// Notes a revision of the head.
    pub fn note_known(&self, revision: u64) {
        self.known.send_if_modified(|known| {
            let is_news = *known < revision;
            *known = revision.max(*known);
            is_news
        });
    }

    /// Returns whether everything up to a revision is applied before `until`.
    pub async fn has_applied(&self, revision: u64, until: Instant) -> bool {
        self.note_known(revision);
        let mut applied = self.applied();
        let caught_up = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= revision));
        matches!(timeout_at(until, caught_up).await, Ok(Ok(_)))
    }

    /// Whether the store holds all that was applied: not after it failed and lost what it had not synced, and not while rows may be missing.
    pub fn is_intact(&self) -> bool {
        lock(&self.durable).1 == self.store.incarnation() && !self.store.suspects_strong_loss()
    }

    /// The cluster whose commits are being followed, and the place of this moment.
    pub fn following(&self) -> Option<(u64, Place)> {
        lock(&self.following).map(|cluster| (cluster, self.place()))
    }

    /// Notes which cluster's commits are being followed, and why none are if there is something to be done about it.
    pub fn note_following(&self, cluster: std::result::Result<Option<u64>, String>) {
        let (cluster, failure) = match cluster {
            Ok(cluster) => (cluster, None),
            Err(why) => (None, Some(why)),
        };
        *lock(&self.following) = cluster;
        let mut known = lock(&self.failure);
        if let Some(why) = failure.as_ref().filter(|_| *known != failure) {
            warn!(why, "this node serves no strong tables");
        }
        *known = failure;
        drop(known);
        self.note_caught_up();
    }

    /// Whether it knows which tables are strong. It stays so.
    pub fn knows_tables(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Returns when it knows which tables are strong.
    pub async fn until_tables_are_known(&self) {
        // The sender is here.
        let _ = self.caught_up.subscribe().wait_for(|caught_up| *caught_up).await;
    }

    fn note_caught_up(&self) {
        if lock(&self.following).is_some() && self.place().revision >= self.known() {
            self.caught_up.send_if_modified(|caught_up| !std::mem::replace(caught_up, true));
        }
    }

    /// Why no commits are followed, if there is something to be done about it.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Another node says that its commits come too late again and again.
    pub fn note_waiting(&self, node: NodeId) {
        if node != self.store.node() {
            *lock(&self.waiting) = Some(Instant::now());
        }
    }

    /// Whether to let other nodes go first.
    pub fn yields(&self) -> bool {
        lock(&self.waiting).is_some_and(|since| since.elapsed() < YIELD_FOR)
    }

    /// The revision of the commit of this id, if it came after another. `None` if this node has not seen all commits since.
    pub fn came_after(&self, revision: u64, id: u64) -> Option<Option<u64>> {
        let recent = lock(&self.recent);
        let found = || recent.commits.iter().find(|commit| commit.1 == id).map(|commit| commit.0);
        (recent.after <= revision).then(found)
    }

    /// Applies a commit of a cluster, if it is the next one. One that was applied before changes nothing.
    ///
    /// # Errors
    /// Why it is not applied.
    pub async fn apply(&self, cluster: u64, commit: &Commit) -> std::result::Result<(), NotApplied> {
        let _one = self.applying.lock().await;
        if self.rewind() {
            return Err(NotApplied::Rewound);
        }
        let place = self.place();
        if commit.revision <= place.revision {
            return Ok(());
        }
        if commit.head.previous != place.id {
            return Err(NotApplied::Gap);
        }
        // It should not have to wait in the middle, where no read of several keys may begin.
        self.effects.until_storage_takes_writes(commit.revision).await;
        let _step = self.steps.begin().await;
        for effect in commit.effects() {
            self.take(&effect, commit.revision).await.map_err(NotApplied::Failed)?;
        }
        // Before it is announced: who waits for it looks here.
        lock(&self.recent).add(commit.revision, commit.head.id);
        self.move_to(cluster, commit.revision, &commit.head);
        Ok(())
    }

    /// Makes one change. The caller holds `applying`.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn take(&self, effect: &Effect, revision: u64) -> Result<()> {
        self.effects.take(effect, revision, false).await
    }

    /// All rows are as of this commit. The caller holds `applying`.
    pub fn jump_to(&self, cluster: u64, revision: u64, head: &Head) {
        *lock(&self.recent) = Recent { after: revision, ..Recent::default() };
        self.move_to(cluster, revision, head);
    }

    /// Nothing was committed yet: what there is, is applied.
    pub fn note_empty(&self) {
        self.applied.send_if_modified(|applied| applied.is_none().then(|| *applied = Some(0)).is_some());
    }

    fn move_to(&self, cluster: u64, revision: u64, head: &Head) {
        // Whatever this node commits next is later than all that came before.
        self.timestamps.observe_stored(Timestamp { hlc: head.latest_hlc, node: head.node });
        let place = Place { cluster: Some(cluster), revision, id: head.id, latest_hlc: head.latest_hlc };
        *lock(&self.place) = place;
        self.note_known(revision);
        self.applied.send_replace(Some(revision));
        self.note_caught_up();
    }

    /// Goes back to the durable place, if the store was reopened since. Returns whether it did. The caller holds `applying`.
    pub fn rewind(&self) -> bool {
        let current = self.store.incarnation();
        let (place, incarnation) = *lock(&self.durable);
        if incarnation == current {
            return false;
        }
        warn!("the storage was reopened: commits to strong tables are applied again");
        *lock(&self.place) = place;
        *lock(&self.recent) = Recent { after: place.revision, ..Recent::default() };
        self.applied.send_replace(Some(place.revision));
        // Last: from now on what is applied counts.
        lock(&self.durable).1 = current;
        true
    }

    /// Makes durable what was applied, and records the place.
    ///
    /// # Errors
    /// `StorageFull`; `NotReady` if the store lost what it had not synced.
    pub async fn checkpoint(&self) -> Result<()> {
        // One after the other, so that none is replaced by an older one.
        let _checkpointing = self.checkpointing.lock().await;
        let (place, incarnation) = {
            let _one = self.applying.lock().await;
            self.rewind();
            (self.place(), lock(&self.durable).1)
        };
        if lock(&self.durable).0 == place {
            return Ok(());
        }
        // Everything merged before this call is durable on return, unless the store was reopened.
        self.store.durable(incarnation).await?;
        self.store.set_note(ETCD_NOTE, &rpc::encode(&place))?;
        self.store.durable(incarnation).await?;
        *lock(&self.durable) = (place, incarnation);
        Ok(())
    }

    /// The names of this cluster's keys, once this node follows its commits.
    pub fn layout(&self) -> Option<Layout> {
        self.following().map(|(cluster, _)| Layout::new(cluster))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests;
