//! Expiry in strong tables: the leader deletes a value through the log once its time has come, so that it ends on all
//! replicas at the same place in the order of writes. It removes tombstones through the log too, some time after.

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    group::REQUEST_MAX,
    member::{Member, Parts},
};
use crate::{
    core::{
        strong::request::Request,
        write::{Action, Condition, Write},
    },
    error::Result,
    storage::Store,
};

/// Tombstones are removed in steps of this many milliseconds: each step is an entry of the log.
const SWEEP_STEP_MS: u64 = 10_000;

/// Deletes the values that have expired, a page of them, and removes old tombstones.
///
/// # Errors
/// Those of the storage.
pub async fn collect(member: &Member, parts: &Parts) -> Result<()> {
    let now_ms = parts.store.now_ms();
    let deletes = due(&parts.store, now_ms)?.into_iter().map(|request| member.propose(request));
    // Whatever fails, or takes too long, is found again.
    let _ = timeout(REQUEST_MAX, join_all(deletes)).await;
    let old_ms = old_ms(parts, now_ms);
    // It would end a repair.
    if !member.others.repairs() && parts.store.has_strong_tombstones(old_ms)? {
        let _ = timeout(REQUEST_MAX, member.propose(Request::Sweep(old_ms))).await;
    }
    Ok(())
}

/// Requests that delete the values that have expired, a page of them.
///
/// # Errors
/// Those of the storage.
pub fn due(store: &Store, now_ms: u64) -> Result<Vec<Request>> {
    let mut deletes = Vec::new();
    for (table, key) in store.strong_expired(now_ms)? {
        let Some(entry) = store.get(&table, &key)? else { continue };
        if entry.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms) {
            continue;
        }
        // Not if it was replaced meanwhile.
        let condition = Condition::Version(vec![entry.timestamp]);
        let writes = vec![Write { key, action: Action::Delete { force: false }, condition }];
        deletes.push(Request::Write { table, writes });
    }
    Ok(deletes)
}

/// Tombstones that were written at or before this instant (Unix milliseconds) may go.
pub fn old_ms(parts: &Parts, now_ms: u64) -> u64 {
    let grace_ms = parts.replication.0.options.tombstone_grace_ms;
    now_ms.saturating_sub(grace_ms) / SWEEP_STEP_MS * SWEEP_STEP_MS
}
