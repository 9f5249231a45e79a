//! The end of values: told to subscribers at the instant it comes, once.

use tracing::error;

use super::{SWEEP_ROWS_MAX, Turn, index};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    storage::{Store, change::Gone, record::Head, row::key_of, table::Table, trees},
};

/// Tells of the values whose time has come. Wants its turn when the next one's does.
pub fn announce(store: &Store) -> Result<Turn> {
    let expiry = store.with_engine(|engine| engine.tree(trees::EXPIRY))?;
    for (told, item) in expiry.range(&[], None).enumerate() {
        let (entry, _) = item?;
        let Some((at_ms, name, row)) = index::parse(&entry) else {
            return Err(Error::Corrupt(
                "an entry of the tree expiry is none; DynaRust compact makes it anew".into(),
            ));
        };
        if at_ms > store.now_ms() {
            return Ok(Turn::At(at_ms));
        }
        if told == SWEEP_ROWS_MAX {
            return Ok(Turn::Now);
        }
        let Some(table) = store.table(&name) else {
            expiry.remove(&entry)?;
            continue;
        };
        match table.announce(row, at_ms, |key, head| store.tell_expired(&name, key, head)) {
            // A damaged record stays for `check` to find; its entry would stop all others.
            Err(error @ Error::Corrupt(_)) => error!(%error, "nobody can be told of an expired value"),
            other => other?,
        }
    }
    Ok(Turn::Later)
}

impl Store {
    fn tell_expired(&self, name: &TableName, key: Key, head: &Head) {
        self.counters().expired.increment();
        self.0.hub.publish_gone(name, key, head, Gone::Expired);
    }
}

impl Table {
    /// Calls `tell` of a row whose value expired, if it is still the one that expires at `at_ms`, and moves its entry on.
    fn announce(&self, row: &[u8], at_ms: u64, tell: impl FnOnce(Key, &Head)) -> Result<()> {
        self.writing(|trees| {
            // To the end: a write of the same expiry, made meanwhile, would lose its entry else.
            let _partition = self.lock_row(row);
            let bytes = trees.rows.get(row)?;
            let told = bytes.map_or(Ok(()), |bytes| {
                let head = self.decode(row, &bytes)?.head;
                if let Some(over_ms) = index::over_ms(&head)
                    && head.expires_at_ms == Some(at_ms)
                {
                    tell(key_of(row)?, &head);
                    trees.expired.insert(&index::entry(over_ms, self.name(), row), &[])?;
                }
                Ok(())
            });
            match told {
                Ok(()) | Err(Error::Corrupt(_)) => {
                    trees.expiry.remove(&index::entry(at_ms, self.name(), row))?;
                    told
                }
                Err(error) => Err(error),
            }
        })
    }
}
