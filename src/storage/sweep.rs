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
    for (swept, item) in expiry.range(&[], None).enumerate() {
        let (entry, _) = item?;
        let Some((at_ms, table, row)) = parse_expiry_key(&entry) else {
            return Err(Error::Corrupt("an entry of the expiry tree is none".into()));
        };
        if at_ms > store.now_ms() || swept == SWEEP_ROWS_MAX {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::{
        row::row_of,
        tests::{Scene, close, key, put, table},
    };

    /// What was due beyond the first thousand waited out a nap of a second for every thousand.
    #[test]
    fn a_sweep_that_stops_early_goes_on_at_once() {
        let scene = Scene::new();
        let store = scene.open();
        store.0.around.chores.send(Chore::Stop).expect("the thread runs");
        let at_ms = store.now_ms() + 1000;
        for number in 0..=SWEEP_ROWS_MAX {
            let register = put("1", Some(at_ms), 1);
            store.merge(&table(), &key(&number.to_string()), |_| Ok(register)).expect("merges");
        }
        assert_eq!(sweep(&store), Ok(Some(at_ms)));
        scene.now_ms.store(at_ms, Ordering::SeqCst);
        assert_eq!(sweep(&store), Ok(Some(at_ms)));
        assert_eq!(store.counters().expired.value(), SWEEP_ROWS_MAX as u64);
        assert_eq!(sweep(&store), Ok(None));
        assert_eq!(store.counters().expired.value(), SWEEP_ROWS_MAX as u64 + 1);
        close(store);
    }

    proptest! {
        #[test]
        fn an_expiry_key_says_what_it_was_made_of(at_ms: u64, table in "[a-z0-9][a-z]{0,63}", name in ".{1,100}") {
            prop_assume!(table != "key");
            let (table, row) = (TableName::parse(&table).expect("a name"), row_of(&key(&name)));
            let entry = expiry_key(at_ms, &table, &row);
            prop_assert_eq!(parse_expiry_key(&entry), Some((at_ms, table.clone(), row.as_slice())));
            prop_assert!(expiry_key(at_ms.saturating_sub(1), &table, &row) <= entry);
        }

        #[test]
        fn no_bytes_panic_the_sweep(entry in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some((at_ms, table, row)) = parse_expiry_key(&entry) {
                prop_assert_eq!(expiry_key(at_ms, &table, row), entry);
            }
        }
    }
}
