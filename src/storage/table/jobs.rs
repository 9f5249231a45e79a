//! Jobs that a table gives to the background threads: garbage collection and repair.

use super::codec::Samples;
use crate::core::name::TableName;

/// A job for the garbage collection thread.
pub enum GcJob {
    /// Something may be due now, or earlier than the worker expects.
    Wake,
    /// A table has collected enough values to train a dictionary.
    Train(TableName, Samples),
    /// Stop.
    Stop,
}

/// A job for the repair thread.
#[derive(Clone, Debug)]
pub enum RepairJob {
    /// A page of this table, or of a tree beside the tables, could not be read.
    Inspect(Option<TableName>),
    /// Damage was found in the log, in an unknown table.
    InspectAll,
    /// A table may have unused trees: its lost rows are back, or it was just opened.
    RemoveUnusedTrees(TableName),
    /// Stop.
    Stop,
}
