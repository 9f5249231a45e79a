//! Strong tables: a table's mode is decided here and nowhere above. Writes of a strong table go through the backend that
//! agrees on their order (`replication::strong::backend`), and reads wait until this node has applied what was answered
//! before.

use std::{path::Path, sync::Arc};

use futures_util::future::join_all;

use super::{Action, Condition, Expiry, Import, Imported, Mode, Node, Options, Write, Written};
pub use crate::{
    core::strong::request::{Compare, Expected, Got, Operation, OperationResult, Outcome, Transaction},
    replication::strong::{init::Started, rpc::RoleChange},
};
use crate::{
    core::{clock::NodeId, digest::RootDigest, name::TableName, strong::request::Request},
    error::{Error, Result},
    replication::{
        Replication,
        strong::{log, member::Parts, revisions::Revisions},
    },
    storage::{Store, commit::timestamps::Timestamps, table::mode::RAFT_LOG},
};

/// Rows of an import that become one request, and about how many bytes of values: what every backend takes in one step.
const IMPORT_ROWS: usize = 256;
const IMPORT_BYTES: usize = 256 * 1024;
/// Most operations of a transaction, and most comparisons.
pub const OPERATIONS_MAX: usize = 128;

/// Checks that a transaction has not too many comparisons and operations, by how many there are in each of its lists.
///
/// # Errors
/// `BadRequest`.
pub fn check_operations(compare: usize, success: usize, failure: usize) -> Result<()> {
    let lists =
        [("comparisons", compare), ("operations in success", success), ("operations in failure", failure)];
    match lists.into_iter().find(|(_, count)| *count > OPERATIONS_MAX) {
        None => Ok(()),
        Some((what, count)) => Err(Error::BadRequest(format!(
            "{count} {what}: a transaction has at most {OPERATIONS_MAX}; nothing was done"
        ))),
    }
}

/// What a read of a strong table may show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was answered before the read began.
    #[default]
    Linearizable,
    /// What this node has, which may be old.
    Stale,
}

/// What the group needs of a node.
pub(super) fn parts(
    replication: &Replication,
    store: &Store,
    timestamps: &Arc<Timestamps>,
    options: &Options,
) -> Parts {
    Parts {
        replication: replication.clone(),
        store: store.clone(),
        timestamps: timestamps.clone(),
        value_bytes_max: options.value_bytes_max,
        counters: Arc::default(),
        revisions: Arc::new(Revisions::new(options.etcd_api)),
    }
}

/// Opens the log of the strong tables of a stopped node as a start does, if there is one. Returns what is damaged in it.
///
/// # Errors
/// Those of the log that are no damage.
pub fn check_log(data: &Path) -> Result<Option<String>> {
    log::check(&data.join(RAFT_LOG))
}

impl Node {
    /// Whether a table is strong.
    pub fn is_strong(&self, table: &TableName) -> bool {
        self.store.is_strong(table)
    }

    /// Whether a table is strong, or may turn out to be.
    pub fn may_be_strong(&self, table: &TableName) -> bool {
        self.is_strong(table) || !self.strong.knows_tables() && !self.store.has_table(table)
    }

    /// Whether a table is strong. If the node does not have it and may not know yet, waits a moment until it does.
    pub async fn turns_out_strong(&self, table: &TableName) -> bool {
        if !self.is_strong(table) && !self.store.has_table(table) {
            self.strong.until_tables_are_known().await;
        }
        self.is_strong(table)
    }

    /// The mode of a table; `None` if there is none. Waits as `turns_out_strong`.
    pub async fn mode_of(&self, table: &TableName) -> Option<Mode> {
        match self.turns_out_strong(table).await {
            true => Some(Mode::Strong),
            false => self.store.has_table(table).then_some(Mode::Eventual),
        }
    }

    /// Whether writes to a table are agreed on by a majority: it is strong, or will be once one of them makes it. `new`: the mode in which they
    /// make it, if they ask for one.
    pub async fn writes_strong(&self, table: &TableName, new: Option<Mode>) -> bool {
        self.turns_out_strong(table).await || self.makes_strong(table, new)
    }

    /// Whether a write that makes this table makes a strong one.
    pub(super) fn makes_strong(&self, table: &TableName, new: Option<Mode>) -> bool {
        new.unwrap_or(self.options.new_tables) == Mode::Strong && !self.store.has_table(table)
    }

    /// Makes the table of these writes strong, if it is not there and new tables are strong, or this one is to be by `new`. Writes of which none
    /// would make a table make none here either.
    pub(super) async fn make_table<'a>(
        &self,
        table: &TableName,
        new: Option<Mode>,
        writes: impl IntoIterator<Item = &'a Write>,
    ) -> Result<()> {
        let makes = self.makes_strong(table, new) && !self.turns_out_strong(table).await;
        if makes && writes.into_iter().any(|write| write.check_new_table(table).is_ok()) {
            self.create_strong(table.clone()).await?;
        }
        Ok(())
    }

    /// Makes a strong table. Returns whether it was made; `false` if it was strong before.
    ///
    /// # Errors
    /// `WrongMode` if the table has rows; `NoQuorum`; `OutcomeUnknown`.
    pub async fn create_strong(&self, table: TableName) -> Result<bool> {
        self.strong.create(table).await
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// `WrongMode` for a table that is not strong; `NoQuorum`; `OutcomeUnknown`; as `write` for its operations, and then
    /// none of them took effect.
    pub async fn transact(&self, transaction: Transaction) -> Result<(bool, Vec<OperationResult>)> {
        match self.strong.submit(Request::Transaction(transaction)).await? {
            Outcome::Transaction { succeeded, results } => Ok((succeeded, results)),
            other => Err(unexpected(&other)),
        }
    }

    /// The last entry of the strong tables' log that this node has applied, and the digest of their rows as of there.
    /// As [`Strong::digest`](crate::replication::strong::Strong::digest).
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn strong_digest(&self) -> Result<Option<(u64, RootDigest)>> {
        self.strong.digest().await
    }

    /// Starts the group of the strong tables here, because it cannot start by itself. With `force`, without a majority.
    ///
    /// # Errors
    /// `Conflict` where it need not or must not be started here, or only by `force`; `NoQuorum`; those of the storage.
    pub async fn init_strong(&self, force: bool) -> Result<Started> {
        self.strong.init(force).await
    }

    /// Makes a member of the group a voter, a learner or the leader. Returns whether anything had to be changed.
    ///
    /// # Errors
    /// `NotFound` if the node is not in the group; `Conflict` if the change would do harm, or cannot be made now; `NoQuorum`;
    /// `OutcomeUnknown`.
    pub async fn change_role(&self, change: RoleChange, node: NodeId) -> Result<bool> {
        self.strong.change_role(change, node).await
    }

    /// Returns when this node may serve a read of a table. An eventual table is always read from here.
    ///
    /// # Errors
    /// `NoQuorum`; `NotReady` if this node is behind.
    pub async fn before_read(&self, table: &TableName, consistency: Consistency) -> Result<()> {
        if consistency == Consistency::Stale || !self.turns_out_strong(table).await {
            return Ok(());
        }
        self.strong.barrier().await
    }

    pub(super) async fn write_strong(&self, table: &TableName, write: Write) -> Result<Written> {
        let written = self.write_all_strong(table, vec![write]).await?;
        written.into_iter().next().ok_or_else(|| Error::Corrupt("no answer to a write".into()))
    }

    pub(super) async fn batch_strong(
        &self,
        table: &TableName,
        writes: Vec<Write>,
        atomic: bool,
    ) -> Result<Vec<Result<Written>>> {
        if atomic {
            return Ok(self.write_all_strong(table, writes).await?.into_iter().map(Ok).collect());
        }
        // They share entries of the log.
        Ok(join_all(writes.into_iter().map(|write| self.write_strong(table, write))).await)
    }

    async fn write_all_strong(&self, table: &TableName, writes: Vec<Write>) -> Result<Vec<Written>> {
        let _permit = self.write_tracker.begin()?;
        match self.strong.submit(Request::Write { table: table.clone(), writes }).await? {
            Outcome::Written(written) => Ok(written),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes rows of strong tables anew.
    pub(super) async fn import_strong(&self, rows: Vec<Import>) -> Result<Imported> {
        if let Some(row) = rows.iter().find(|row| row.timestamp.is_some()) {
            return Err(Error::BadRequest(format!(
                "table {} is strong, and its versions come from its log: import its rows without \"version\" and \"timestamp\"",
                row.table
            )));
        }
        let rows_max = IMPORT_ROWS.min(self.strong.writes_max());
        let mut imported = Imported::default();
        let mut rows = rows.into_iter().peekable();
        while let Some(table) = rows.peek().map(|row| row.table.clone()) {
            let (mut writes, mut bytes) = (Vec::new(), 0);
            while writes.len() < rows_max
                && bytes < IMPORT_BYTES
                && let Some(row) = rows.next_if(|row| row.table == table)
            {
                bytes += row.value.as_str().len();
                let action = Action::Put { value: row.value, expiry: row.expires_at_ms.map(Expiry::At) };
                writes.push(Write { key: row.key, action, condition: Condition::Always });
            }
            for written in self.write_all_strong(&table, writes).await? {
                imported.written += 1;
                imported.latest = imported.latest.max(Some(written.timestamp));
            }
        }
        Ok(imported)
    }
}

fn unexpected(outcome: &Outcome) -> Error {
    Error::Corrupt(format!("the answer to another request: {outcome:?}"))
}
