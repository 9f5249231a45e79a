//! Applying what was agreed: each effect is a merge into the store, or a change of the catalogue. Both backends do it here.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::warn;

use super::{catalogue::make_strong, revisions::Revisions};
use crate::{
    core::{etcd, name::TableName, protocol::message::Row, strong::entry::Effect},
    error::{Error, Result},
    storage::{Store, commit::timestamps::Timestamps},
};

/// How long to wait before an effect is applied again that the storage did not take.
const RETRY: Duration = Duration::from_millis(200);

/// Requests of the etcd API each write the head of its table, and only the last one of an entry is to stay: before this place, heads are replaced.
pub fn replaced_heads(effects: &[Effect]) -> usize {
    let is_head = |effect: &Effect| matches!(effect, Effect::Merge(table, row) if table == etcd::table() && row.key.as_str() == etcd::row::HEAD);
    effects.iter().rposition(is_head).unwrap_or(0)
}

/// Applies effects to a store.
pub struct Effects {
    store: Store,
    timestamps: Arc<Timestamps>,
    revisions: Arc<Revisions>,
}

impl Effects {
    /// Applies effects to this store, and shows their timestamps to this clock, and those on the table of the etcd API to `revisions`.
    pub fn new(store: Store, timestamps: Arc<Timestamps>, revisions: Arc<Revisions>) -> Self {
        Self { store, timestamps, revisions }
    }

    /// Tells that the rows are others now, by no effect.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn rows_were_replaced(&self) -> Result<()> {
        self.revisions.begin(&self.store)
    }

    /// Tells that rows were lost and are here again.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn rows_were_repaired(&self) -> Result<()> {
        self.revisions.begin_anew(&self.store)
    }

    /// Returns when the storage takes writes: effects that belong together should not have to wait in the middle, where no read of several
    /// keys may begin.
    pub async fn until_storage_takes_writes(&self, index: u64) {
        let mut waits = false;
        while let Some(why) = self.store.failure() {
            if !std::mem::replace(&mut waits, true) {
                warn!(index, why, "the storage takes no entries of strong tables: they wait");
            }
            sleep(RETRY).await;
        }
    }

    /// Applies an effect. Waits while the storage takes no writes. `index` is its place in the order of writes, for the log. `is_replaced`: a later
    /// effect of the same entry replaces the row.
    ///
    /// # Errors
    /// `Corrupt` and `Io`: this node cannot go on.
    pub async fn take(&self, effect: &Effect, index: u64, is_replaced: bool) -> Result<()> {
        let mut waits = false;
        loop {
            let incarnation = self.store.incarnation();
            let taken = match self.try_take(effect, is_replaced) {
                // Durable at once: a node that starts without knowing would take writes into an eventual table.
                Ok(()) if matches!(effect, Effect::Create(_)) => self.store.durable(incarnation).await,
                taken => taken,
            };
            match taken {
                // Nobody else can take its place: it is applied when the disk takes writes again.
                Err(
                    Error::StorageFull(why)
                    | Error::NotReady(why)
                    | Error::TooMany(why)
                    | Error::Overloaded(why),
                ) => {
                    if !std::mem::replace(&mut waits, true) {
                        warn!(index, why, "the storage takes no entries of strong tables: they wait");
                    }
                    sleep(RETRY).await;
                }
                taken => return taken,
            }
        }
    }

    /// Tells that rows of a table are going to be others by what another member sends: between the first of them and the last they are no state of
    /// the log.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn rows_arrive(&self, table: &TableName) -> Result<()> {
        if table == etcd::table() { self.revisions.arrivals.begin(&self.store) } else { Ok(()) }
    }

    /// Merges a row. One that is here already, or newer here, changes nothing.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn merge(&self, table: &TableName, row: Row) -> Result<()> {
        // Whoever decides next stamps later than all that it has applied.
        self.timestamps.observe_stored(row.marker.timestamp);
        let Some((key, register)) = row.into_register() else {
            return Err(Error::Corrupt(format!("a row of table {table} does not match its marker")));
        };
        self.store.merge(table, &key, |_| Ok(register)).map(drop)
    }

    fn try_take(&self, effect: &Effect, is_replaced: bool) -> Result<()> {
        match effect {
            Effect::Create(table) => make_strong(&self.store, table),
            Effect::Merge(table, row) if table == etcd::table() => {
                self.timestamps.observe_stored(row.marker.timestamp);
                self.revisions.merge(&self.store, row.clone(), is_replaced)
            }
            Effect::Merge(table, row) => self.merge(table, row.clone()),
            Effect::Sweep(at_ms) => self.store.sweep_strong(*at_ms),
        }
    }
}
