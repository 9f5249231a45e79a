//! What storage does beside requests, on one thread: at the instant a value expires it tells the subscribers and removes the
//! row, and it trains a table's dictionary when enough values have been seen.
//!
//! Which rows expire when is a tree of its own, in order of time, so that nothing is scanned and nothing held in memory. Its
//! entries go in before their rows; one whose row has been written again since is passed over.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use tracing::{error, info};

use super::{Store, codec::Samples};
use crate::{
    core::name::TableName,
    error::{Error, Result},
};

/// How long the thread sleeps at the most: the wall clock may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(1);
/// Rows swept before the thread looks for other work.
const SWEEP_ROWS_MAX: usize = 1000;

/// Work for the thread.
pub enum Chore {
    /// A value was written that expires at this Unix millisecond.
    Expiry(u64),
    /// A table has seen enough values to train a dictionary from.
    Train(TableName, Samples),
    /// The end.
    Stop,
}

/// Does chores until told to stop.
pub fn run(store: &Store, chores: &Receiver<Chore>) {
    loop {
        let nap = match sweep(store) {
            Ok(Some(next_ms)) => Duration::from_millis(next_ms.saturating_sub(store.now_ms())).min(NAP_MAX),
            Ok(None) => NAP_MAX,
            // Writes are refused until the disk has room: expired values are hidden all the same, and swept then.
            Err(Error::StorageFull(_) | Error::NotReady(_)) => NAP_MAX,
            Err(error) => {
                error!(%error, "sweeping expired values failed");
                NAP_MAX
            }
        };
        match chores.recv_timeout(nap) {
            Ok(Chore::Train(table, samples)) => train(store, &table, &samples),
            // The sweep above looks at what is due, whatever woke it.
            Ok(Chore::Expiry(_)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Chore::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Removes what has expired. Returns when the next value does, in Unix milliseconds.
fn sweep(store: &Store) -> Result<Option<u64>> {
    let expiry = store.expiry()?;
    for item in expiry.range(&[], None).take(SWEEP_ROWS_MAX) {
        let (entry, _) = item?;
        let Some((at_ms, table, row)) = parse_expiry_key(&entry) else {
            return Err(Error::Corrupt("an entry of the expiry tree is none".into()));
        };
        if at_ms > store.now_ms() {
            return Ok(Some(at_ms));
        }
        match store.expire(&table, row, at_ms) {
            // A damaged record stays for `check` to find; its entry would stop all others.
            Err(error @ Error::Corrupt(_)) => error!(%error, "an expired value cannot be removed"),
            other => other?,
        }
        expiry.remove(&entry)?;
    }
    Ok(None)
}

fn train(store: &Store, name: &TableName, samples: &Samples) {
    match store.train(name, samples) {
        Ok(()) => info!(table = %name, samples = samples.count(), "trained a dictionary"),
        // Values stay larger than they could be; the next start collects samples again.
        Err(error) => info!(table = %name, %error, "no dictionary"),
    }
}

/// The entry that says when a row expires: milliseconds as u64 big-endian ‖ length of the table's name ‖ name ‖ row.
pub fn expiry_key(at_ms: u64, table: &TableName, row: &[u8]) -> Vec<u8> {
    let name = table.as_str().as_bytes();
    let mut key = Vec::with_capacity(9 + name.len() + row.len());
    key.extend_from_slice(&at_ms.to_be_bytes());
    key.push(name.len() as u8);
    key.extend_from_slice(name);
    key.extend_from_slice(row);
    key
}

fn parse_expiry_key(entry: &[u8]) -> Option<(u64, TableName, &[u8])> {
    let (at_ms, rest) = entry.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first()?;
    let (name, row) = rest.split_at_checked(usize::from(*length))?;
    let name = TableName::parse(std::str::from_utf8(name).ok()?).ok()?;
    (!row.is_empty()).then_some((u64::from_be_bytes(*at_ms), name, row))
}
