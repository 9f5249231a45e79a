//! The state machine: applying an entry is merging its registers into the store.
//!
//! Merging is idempotent, so nothing needs to be atomic with the index applied. The *checkpoint*, an index whose effects
//! are durable, is written now and then beside the tables; after a crash, entries are applied again from there. A
//! snapshot is no copy either: it is a checkpoint, and the rows are read from the store when it is sent. They may be
//! newer than its index; the log that follows changes nothing then.

mod digest;
mod logged;
pub mod receiving;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    EntryPayload, RaftLogReader, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageIOError,
    StoredMembership, storage::RaftStateMachine,
};
use tokio::{sync::watch, time::timeout};
use tracing::{error, warn};

use self::receiving::Receiving;
use super::{
    checkpoint::Checkpoint,
    effects::{Effects, replaced_heads},
    log::LogReader,
    revisions::Revisions,
    row_repair,
    steps::Steps,
    types::{Group, LogEntry, LogId, Node, SnapshotData, StorageError},
};
use crate::{
    core::{
        clock::NodeId,
        strong::entry::{Applied, Effect, Entry},
    },
    error::{Error, Result},
    storage::{
        Store,
        commit::{Incarnation, timestamps::Timestamps},
    },
};

/// How long a request waits until what the storage lost is applied again: less than it may take in all, so that its client is told.
const RESTORE_MAX: Duration = Duration::from_secs(2);

/// Why the leader decides nothing for now.
pub fn not_restored() -> Error {
    Error::NotReady(
        "the storage was opened again, and what was written to the strong tables last is being applied to it: try again in a moment".into(),
    )
}

/// The state machine. Clones share it.
#[derive(Clone)]
pub struct StateMachine(Arc<Inner>);

struct Inner {
    store: Store,
    effects: Effects,
    state: Mutex<Checkpoint>,
    /// The last durable checkpoint, and the incarnation of the store that the entries after it were applied to.
    durable: Mutex<(Checkpoint, Incarnation)>,
    applied: watch::Sender<Option<u64>>,
    /// What was applied is read again from here if the store loses it.
    log: LogReader,
    /// The last entry that the durable checkpoint covers.
    covered: watch::Sender<Option<LogId>>,
    /// Held while a checkpoint is made.
    checkpointing: tokio::sync::Mutex<()>,
    /// Held while entries are applied.
    applying: tokio::sync::Mutex<()>,
    /// The snapshot or the repair that is arriving.
    receiving: Mutex<Option<Receiving>>,
    /// How often entries have removed tombstones.
    sweeps: AtomicU64,
    steps: Arc<Steps>,
}

impl StateMachine {
    /// The state machine of a store, as it was at the last checkpoint.
    ///
    /// # Errors
    /// `Corrupt` if the checkpoint cannot be read.
    pub fn open(
        store: Store,
        timestamps: Arc<Timestamps>,
        log: LogReader,
        revisions: Arc<Revisions>,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::read(&store)?;
        revisions.open(&store)?;
        Ok(Self::after(checkpoint, store, timestamps, log, revisions))
    }

    /// The state machine of a store that holds all up to a checkpoint.
    pub fn after(
        checkpoint: Checkpoint,
        store: Store,
        timestamps: Arc<Timestamps>,
        log: LogReader,
        revisions: Arc<Revisions>,
    ) -> Self {
        let applied = watch::Sender::new(checkpoint.applied.map(|applied| applied.index));
        let covered = watch::Sender::new(checkpoint.applied);
        let incarnation = store.incarnation();
        let durable = Mutex::new((checkpoint.clone(), incarnation));
        Self(Arc::new(Inner {
            effects: Effects::new(store.clone(), timestamps, revisions),
            store,
            state: Mutex::new(checkpoint),
            durable,
            applied,
            log,
            covered,
            checkpointing: tokio::sync::Mutex::default(),
            applying: tokio::sync::Mutex::default(),
            receiving: Mutex::default(),
            sweeps: AtomicU64::new(0),
            steps: Arc::default(),
        }))
    }

    /// The index applied last, and its changes.
    pub fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.0.applied.subscribe()
    }

    /// The last entry that the durable checkpoint covers, and its changes.
    pub fn covered(&self) -> watch::Receiver<Option<LogId>> {
        self.0.covered.subscribe()
    }

    /// Whether the store holds all that was applied: not after it failed and lost what it had not synced, and not while rows may be missing.
    pub fn is_intact(&self) -> bool {
        self.0.durable().1 == self.0.store.incarnation() && !self.0.store.suspects_strong_loss()
    }

    /// Whether rows may be missing or cannot be read, so that the leader has to repair them.
    pub fn needs_repair(&self) -> bool {
        self.0.store.suspects_strong_loss() || self.0.store.has_unreadable_strong()
    }

    /// Applies again what the store lost, if it was reopened after a failure of the disk.
    ///
    /// # Errors
    /// Those of the log and of `apply`.
    pub async fn restore(&self) -> std::result::Result<(), StorageError> {
        let _one = self.0.applying.lock().await;
        self.0.restore().await
    }

    /// The incarnation of the store in which it holds all that was applied. Applies again first what it lost.
    ///
    /// # Errors
    /// `StorageFull` while the storage takes no writes; `NotReady` if it does not hold all that was applied yet.
    pub async fn intact(&self) -> Result<Incarnation> {
        if let Some(why) = self.0.store.failure() {
            return Err(Error::StorageFull(why));
        }
        if self.0.store.suspects_strong_loss() {
            return Err(row_repair::not_repaired());
        }
        if !self.is_intact() {
            match timeout(RESTORE_MAX, self.restore()).await {
                Ok(restored) => restored.map_err(|error| Error::NotReady(error.to_string()))?,
                Err(_) => return Err(not_restored()),
            }
        }
        let incarnation = self.0.durable().1;
        if incarnation == self.0.store.incarnation() { Ok(incarnation) } else { Err(not_restored()) }
    }

    /// Holds up applying, while it is there.
    #[cfg(test)]
    pub async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.applying.lock().await
    }

    /// Makes durable what was applied, and records how far. Returns the checkpoint.
    ///
    /// # Errors
    /// `StorageFull`; `NotReady` if the store lost what it had not synced.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        let inner = &self.0;
        // One after the other, so that none is replaced by an older one.
        let _checkpointing = inner.checkpointing.lock().await;
        let (state, incarnation) = {
            let _one = inner.applying.lock().await;
            inner.restore().await.map_err(|error| Error::NotReady(error.to_string()))?;
            (inner.state().clone(), inner.durable().1)
        };
        if inner.durable().0 == state {
            return Ok(state);
        }
        // Everything merged before this call is durable on return, unless the store was reopened. Whatever --durability promises to clients, the
        // log is purged by it.
        inner.store.durable(incarnation).await?;
        state.write(&inner.store)?;
        inner.store.durable(incarnation).await?;
        *inner.durable() = (state.clone(), incarnation);
        inner.covered.send_replace(state.applied);
        Ok(state)
    }

    /// Applies all entries that the log has, committed or not: only where nobody else will say which are.
    ///
    /// # Errors
    /// Those of the log and of the storage.
    pub async fn apply_rest(&self) -> Result<()> {
        let failed =
            |error: StorageError| Error::Io(format!("the rest of the log of the strong tables: {error}"));
        let _one = self.0.applying.lock().await;
        self.0.restore().await.map_err(failed)?;
        loop {
            let from = self.0.state().applied.map_or(0, |applied| applied.index + 1);
            let entries = self.0.log.clone().limited_get_log_entries(from, u64::MAX).await.map_err(failed)?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                self.0.apply(entry).await.map_err(failed)?;
            }
        }
    }

    /// The steps in which entries are applied.
    pub fn steps(&self) -> Arc<Steps> {
        self.0.steps.clone()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, Checkpoint> {
        // Replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable(&self) -> MutexGuard<'_, (Checkpoint, Incarnation)> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies again what comes after the checkpoint, if the store was reopened since.
    async fn restore(&self) -> std::result::Result<(), StorageError> {
        let (checkpoint, incarnation) = self.durable().clone();
        let current = self.store.incarnation();
        if current == incarnation {
            return Ok(());
        }
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index + 1);
        let (from, to) = (index(&checkpoint.applied), index(&self.state().applied));
        warn!(
            entries = to.saturating_sub(from),
            "the storage was reopened: entries of strong tables are applied again"
        );
        for entry in self.log.clone().try_get_log_entries(from..to).await? {
            self.apply(entry).await?;
        }
        self.durable().1 = current;
        Ok(())
    }

    /// Applies an entry. Waits while the storage takes no writes.
    async fn apply(&self, entry: LogEntry) -> std::result::Result<Applied, StorageError> {
        let term = entry.log_id.leader_id.term;
        let applied = match entry.payload {
            EntryPayload::Blank => Applied::Done,
            EntryPayload::Normal(Entry { term: evaluated_in, .. }) if evaluated_in != term => Applied::Void,
            EntryPayload::Normal(Entry { effects, .. }) => {
                // It should not have to wait in the middle, where no read of several keys may begin.
                self.effects.until_storage_takes_writes(entry.log_id.index).await;
                let _step = self.steps.begin().await;
                let replaced = replaced_heads(&effects);
                for (place, effect) in effects.iter().enumerate() {
                    self.take_effect(effect, entry.log_id, place < replaced).await?;
                }
                Applied::Done
            }
            EntryPayload::Membership(membership) => {
                self.state().membership = StoredMembership::new(Some(entry.log_id), membership);
                Applied::Done
            }
        };
        let mut state = self.state();
        state.applied = state.applied.max(Some(entry.log_id));
        drop(state);
        Ok(applied)
    }

    async fn take_effect(
        &self,
        effect: &Effect,
        at: LogId,
        is_replaced: bool,
    ) -> std::result::Result<(), StorageError> {
        if matches!(effect, Effect::Sweep(at_ms) if *at_ms > 0) {
            self.sweeps.fetch_add(1, Ordering::AcqRel);
        }
        self.effects.take(effect, at.index, is_replaced).await.map_err(|error| {
            error!(%error, index = at.index, "an entry of the strong tables cannot be applied");
            StorageIOError::apply(at, openraft::AnyError::new(&error)).into()
        })
    }
}

impl RaftStateMachine<Group> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> std::result::Result<(Option<LogId>, StoredMembership<NodeId, Node>), StorageError> {
        let state = self.0.state().clone();
        Ok((state.applied, state.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> std::result::Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        if let Some(last) = entries.last() {
            self.until_logged(last.log_id).await?;
        }
        let _one = self.0.applying.lock().await;
        self.0.restore().await?;
        let mut results = Vec::new();
        for entry in entries {
            results.push(self.0.apply(entry).await?);
        }
        let applied = self.0.state().applied.map(|applied| applied.index);
        self.0.applied.send_replace(applied);
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> std::result::Result<Box<SnapshotData>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, Node>,
        _snapshot: Box<SnapshotData>,
    ) -> std::result::Result<(), StorageError> {
        let failed = |error: Error| {
            StorageIOError::write_snapshot(Some(meta.signature()), openraft::AnyError::new(&error))
        };
        // Its rows are here: they came before.
        let state = Checkpoint { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        {
            let _one = self.0.applying.lock().await;
            // Before the state says so: the log need not have what these rows came from.
            self.keep_received().await.map_err(failed)?;
            *self.0.state() = state;
            self.0.effects.rows_were_replaced().map_err(failed)?;
        }
        self.checkpoint().await.map_err(failed)?;
        self.0.applied.send_replace(meta.last_log_id.map(|applied| applied.index));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> std::result::Result<Option<Snapshot<Group>>, StorageError> {
        let checkpoint = self.0.durable().0.clone();
        let is_empty = checkpoint.applied.is_none();
        Ok((!is_empty).then(|| Snapshot { meta: checkpoint.meta(), snapshot: Box::default() }))
    }
}

impl RaftSnapshotBuilder<Group> for StateMachine {
    async fn build_snapshot(&mut self) -> std::result::Result<Snapshot<Group>, StorageError> {
        let checkpoint = self.checkpoint().await;
        let checkpoint = checkpoint
            .map_err(|error| StorageIOError::write_snapshot(None, openraft::AnyError::new(&error)))?;
        Ok(Snapshot { meta: checkpoint.meta(), snapshot: Box::default() })
    }
}
