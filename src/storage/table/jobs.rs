//! Jobs that a table gives to the threads that work beside requests: garbage collection and repair.

use super::codec::Samples;
use crate::core::name::TableName;

/// A job for the garbage collection thread.
pub enum GcJob {
    /// Something may be due now, or sooner than the worker thinks.
    Wake,
    /// A table has seen enough values to train a dictionary from.
    Train(TableName, Samples),
    /// The end.
    Stop,
}

/// A job for the repair thread.
#[derive(Clone, Debug)]
pub enum RepairJob {
    /// A page of this table, or one of what is kept beside the tables, could not be read.
    Inspect(Option<TableName>),
    /// Damage was found in the log: of which table, if any, nobody knows.
    InspectAll,
    /// A table may have trees that are of no use: it has what it had lost, or was just opened.
    RemoveUnusedTrees(TableName),
    /// The end.
    Stop,
}
