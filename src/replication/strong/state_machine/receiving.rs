//! The receiver's side of a snapshot: which steps are taken, and changing rows in them.

use std::sync::{MutexGuard, PoisonError};

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

/// A snapshot that is being received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiving {
    /// The vote of the leader that sends it.
    pub vote: Vote,
    /// The last entry that was applied when it began.
    pub applied: Option<LogId>,
    /// The store's incarnation then.
    pub incarnation: Incarnation,
}

impl Receiving {
    /// Checks that a step belongs to what began. `now`: the same of now, with the receiver's own vote.
    ///
    /// # Errors
    /// `Conflict`.
    pub fn check(began: Option<&Self>, vote: &Vote, now: &Self) -> Result<()> {
        let why = match began {
            _ if *vote < now.vote => "the sender leads no more",
            Some(began) if began.vote != *vote => "another leader has begun one since",
            Some(began) if began.applied != now.applied => "entries of the log were applied since it began",
            Some(began) if began.incarnation != now.incarnation => "the storage was reopened since it began",
            Some(_) => return Ok(()),
            None => "it has not begun",
        };
        Err(Error::Conflict(format!("a step of a snapshot is refused: {why}")))
    }
}

/// While it is there, no entry is applied.
pub struct Applying<'a> {
    machine: &'a StateMachine,
    _one: tokio::sync::MutexGuard<'a, ()>,
}

impl Applying<'_> {
    /// Merges rows of a snapshot. One that is here already, or newer here, changes nothing.
    ///
    /// # Errors
    /// Those of the storage; `WrongMode` for rows of a table that is not strong here.
    pub async fn merge(&self, rows: Vec<(TableName, Row)>) -> Result<()> {
        self.change(|inner| {
            rows.into_iter().try_for_each(|(table, row)| match inner.store.is_strong(&table) {
                true => inner.effects.merge(&table, row),
                false => Err(Error::WrongMode(format!("table {table} is not strong here"))),
            })
        })
        .await
    }

    /// Removes rows that a snapshot does not have.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn remove(&self, names: Vec<Name>) -> Result<()> {
        self.change(|inner| inner.store.remove(names).map(drop)).await
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
    /// Notes that a snapshot of the leader with this vote begins to arrive.
    ///
    /// # Errors
    /// `Conflict` if it leads no more.
    pub fn begin_receiving(&self, vote: &Vote, own_vote: Vote) -> Result<()> {
        let began = self.0.receiving_now(*vote);
        Receiving::check(Some(&began), vote, &self.0.receiving_now(own_vote))?;
        *self.0.receiving() = Some(began);
        Ok(())
    }

    /// Checks that a step belongs to the snapshot that is arriving.
    ///
    /// # Errors
    /// `Conflict` if it does not, or other things happened since that began.
    pub fn check_receiving(&self, vote: &Vote, own_vote: Vote) -> Result<()> {
        let now = self.0.receiving_now(own_vote);
        Receiving::check(self.0.receiving().as_ref(), vote, &now)
    }

    /// Returns when no entry is being applied. None is as long as what it returns is there.
    pub async fn applying(&self) -> Applying<'_> {
        Applying { machine: self, _one: self.0.applying.lock().await }
    }
}

impl Inner {
    /// What a snapshot that begins now goes by.
    fn receiving_now(&self, vote: Vote) -> Receiving {
        Receiving { vote, applied: self.state().applied, incarnation: self.store.incarnation() }
    }

    fn receiving(&self) -> MutexGuard<'_, Option<Receiving>> {
        // Replaced as a whole.
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
