//! The receiver's side of a snapshot or a repair: which steps are taken, and changing rows in them.

use std::{
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Inner, StateMachine};
use crate::{
    core::{name::TableName, protocol::message::Row},
    error::{Error, Result},
    replication::strong::{
        rpc::Name,
        types::{LogId, Vote},
    },
    storage::commit::Incarnation,
};

/// A snapshot of which no step has come for this long has ended.
const STEP_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What rows are received for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For a snapshot, which the log goes on from: nothing is applied meanwhile.
    Snapshot,
    /// To repair what was applied: entries are applied meanwhile.
    Repair,
}

/// What must not happen here while rows are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    /// That entries are applied: this one was the last.
    Applied(Option<LogId>),
    /// That tombstones are removed: a row that was read before would come back. So often they were.
    Sweeps(u64),
}

/// A snapshot or a repair that is being received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receiving {
    /// The vote of the leader that sends it.
    vote: Vote,
    fence: Fence,
    /// The store's incarnation when it began.
    incarnation: Incarnation,
    /// When it began, in Unix milliseconds.
    began_ms: u64,
    /// When its last step came.
    stepped: Instant,
}

impl Receiving {
    /// Checks that a step belongs to what began. `now`: the same of now, with the receiver's own vote.
    ///
    /// # Errors
    /// `Conflict`.
    fn check(began: Option<&Self>, vote: &Vote, now: &Self) -> Result<()> {
        let why = match began {
            _ if *vote < now.vote => "the sender leads no more",
            Some(began) if began.vote != *vote => "another leader has begun one since",
            Some(began) if began.fence != now.fence => match (began.fence, now.fence) {
                (Fence::Applied(_), Fence::Applied(_)) => "entries of the log were applied since it began",
                (Fence::Sweeps(_), Fence::Sweeps(_)) => "tombstones were removed since it began",
                _ => "it is of another kind than what began",
            },
            Some(began) if began.incarnation != now.incarnation => "the storage was reopened since it began",
            Some(_) => return Ok(()),
            None => "it has not begun",
        };
        Err(Error::Conflict(format!("a step of a snapshot or a repair is refused: {why}")))
    }
}

/// While it is there, no entry is applied.
pub struct Applying<'a> {
    machine: &'a StateMachine,
    _one: tokio::sync::MutexGuard<'a, ()>,
}

impl Applying<'_> {
    /// Merges rows of the sender. One that is here already, or newer here, changes nothing.
    ///
    /// # Errors
    /// Those of the storage; `WrongMode` for rows of a table that is not strong here.
    pub async fn merge(&self, rows: Vec<(TableName, Row)>) -> Result<()> {
        self.change(|inner| {
            rows.into_iter().try_for_each(|(table, row)| match inner.store.is_strong(&table) {
                true => {
                    inner.effects.rows_arrive(&table)?;
                    inner.effects.merge(&table, row)
                }
                false => Err(Error::WrongMode(format!("table {table} is not strong here"))),
            })
        })
        .await
    }

    /// Removes rows that the sender does not have.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn remove(&self, names: Vec<Name>) -> Result<()> {
        self.change(|inner| {
            names.iter().try_for_each(|(table, ..)| inner.effects.rows_arrive(table))?;
            inner.store.remove(names).map(drop)
        })
        .await
    }

    /// Changes rows in a step of its own, on a blocking thread.
    async fn change(&self, change: impl FnOnce(&Inner) -> Result<()> + Send + 'static) -> Result<()> {
        let _step = self.machine.0.steps.begin().await;
        let inner = self.machine.0.clone();
        let environment = inner.store.environment().clone();
        environment.run(move || change(&inner)).await
    }
}

impl StateMachine {
    /// Notes that rows of the leader with this vote begin to arrive.
    ///
    /// # Errors
    /// `Conflict` if it leads no more, or while a snapshot arrives that a repair would end; `StorageFull` while the storage takes no writes: it may
    /// be opened again without what comes.
    pub fn begin_receiving(&self, purpose: Purpose, vote: &Vote, own_vote: Vote) -> Result<()> {
        let began = self.0.receiving_now(purpose, *vote);
        Receiving::check(Some(&began), vote, &self.0.receiving_now(purpose, own_vote))?;
        if let Some(why) = self.0.store.failure() {
            return Err(Error::StorageFull(why));
        }
        let mut receiving = self.0.receiving();
        let is_snapshot =
            |arriving: &Receiving| matches!(arriving.fence, Fence::Applied(_)) && arriving.vote == *vote;
        let arrives =
            |arriving: &Receiving| is_snapshot(arriving) && arriving.stepped.elapsed() < STEP_PAUSE_MAX;
        if purpose == Purpose::Repair && receiving.as_ref().is_some_and(arrives) {
            return Err(Error::Conflict("a snapshot is arriving, which repairs the rows too".into()));
        }
        *receiving = Some(began);
        Ok(())
    }

    /// Checks that a step belongs to what is arriving.
    ///
    /// # Errors
    /// `Conflict` if it does not, or other things happened since that began.
    pub fn check_receiving(&self, purpose: Purpose, vote: &Vote, own_vote: Vote) -> Result<()> {
        let now = self.0.receiving_now(purpose, own_vote);
        let mut receiving = self.0.receiving();
        Receiving::check(receiving.as_ref(), vote, &now)?;
        if let Some(receiving) = receiving.as_mut() {
            receiving.stepped = now.stepped;
        }
        Ok(())
    }

    /// Ends a repair: what was missing or unreadable when it began is here now, durably.
    ///
    /// # Errors
    /// `Conflict` if it is not the one that is arriving; those of the storage.
    pub async fn end_repair(&self, vote: &Vote, own_vote: Vote) -> Result<()> {
        let _applying = self.applying().await;
        self.check_receiving(Purpose::Repair, vote, own_vote)?;
        let Some(Receiving { incarnation, began_ms, .. }) = self.0.receiving().take() else { return Ok(()) };
        self.0.store.durable(incarnation).await?;
        // Last, so that a repair that fails here is asked for again.
        self.0.effects.rows_were_repaired()?;
        self.0.store.restored_strong(began_ms)?;
        self.0.store.clear_strong_loss(incarnation);
        Ok(())
    }

    /// Makes what has arrived durable. Call it while no entry is applied.
    ///
    /// # Errors
    /// `NotReady` if the storage was opened again since it began, perhaps without some of it; those of the storage.
    pub(super) async fn keep_received(&self) -> Result<()> {
        let began_in = self.0.receiving().as_ref().map(|receiving| receiving.incarnation);
        let incarnation = self.0.store.incarnation();
        if began_in.is_some_and(|began_in| began_in != incarnation) {
            return Err(Error::NotReady("the storage was reopened since a snapshot began to arrive".into()));
        }
        self.0.store.durable(incarnation).await
    }

    /// Returns when no entry is being applied. None is as long as what it returns is there.
    pub async fn applying(&self) -> Applying<'_> {
        Applying { machine: self, _one: self.0.applying.lock().await }
    }
}

impl Inner {
    /// What rows that begin to arrive now go by.
    fn receiving_now(&self, purpose: Purpose, vote: Vote) -> Receiving {
        let fence = match purpose {
            Purpose::Snapshot => Fence::Applied(self.state().applied),
            Purpose::Repair => Fence::Sweeps(self.sweeps.load(Ordering::Acquire)),
        };
        let (incarnation, began_ms) = (self.store.incarnation(), self.store.now_ms());
        Receiving { vote, fence, incarnation, began_ms, stepped: Instant::now() }
    }

    fn receiving(&self) -> MutexGuard<'_, Option<Receiving>> {
        // Replaced as a whole.
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
