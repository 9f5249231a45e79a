//! Expiry in strong tables: the leader deletes a value through the log once its time has come, so that it ends on all
//! replicas at the same place in the order of writes.

use super::{member::Member, proposer::Proposed};
use crate::{
    core::{
        strong::request::Request,
        write::{Action, Condition, Write},
    },
    error::Result,
    storage::Store,
};

/// Deletes the values that have expired, a page of them.
///
/// # Errors
/// Those of the storage.
pub async fn delete_expired(member: &Member, store: &Store) -> Result<()> {
    let now_ms = store.now_ms();
    for (table, key) in store.strong_expired(now_ms)? {
        let Some(entry) = store.get(&table, &key)? else { continue };
        if entry.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms) {
            continue;
        }
        // Not if it was replaced meanwhile.
        let condition = Condition::Version(vec![entry.timestamp]);
        let writes = vec![Write { key, action: Action::Delete { force: false }, condition }];
        match member.propose(Request::Write { table, writes }).await {
            Proposed::Decided(_) => {}
            Proposed::NotLeader => break,
        }
    }
    Ok(())
}
