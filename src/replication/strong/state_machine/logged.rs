//! What others ask of the log that the state machine applies: its length, its last entry, and how far it is durable.

use openraft::StorageIOError;

use super::StateMachine;
#[cfg(test)]
use crate::replication::strong::log::LogReader;
use crate::{
    error::Error,
    replication::strong::types::{LogId, StorageError},
};

impl StateMachine {
    /// The log.
    #[cfg(test)]
    pub fn log(&self) -> &LogReader {
        &self.0.log
    }

    /// Length of the log's files, in bytes.
    pub fn log_bytes(&self) -> u64 {
        self.0.log.figures().disk_bytes
    }

    /// The first entry of the files at the log's end that have so many bytes, or more.
    pub fn log_begins_with(&self, bytes: u64) -> u64 {
        self.0.log.begins_with(bytes)
    }

    /// Returns when an entry is durable in the log here. One that openraft takes for committed, on the leader, may not be.
    ///
    /// # Errors
    /// The log's: this node cannot go on.
    pub async fn until_logged(&self, entry: LogId) -> std::result::Result<(), StorageError> {
        let synced = self.0.log.synced().until(entry.index).await;
        synced.map_err(|error| StorageIOError::write_log_entry(entry, openraft::AnyError::new(&error)).into())
    }

    /// Returns when nothing more will be durable in the log until it is opened again: why. Never returns if it is closed before.
    pub async fn until_log_fails(&self) -> Error {
        self.0.log.synced().until_failed().await
    }

    /// The last entry of the log, committed or not.
    pub fn last_entry(&self) -> Option<LogId> {
        self.0.log.last()
    }
}
