//! Expiry in strong tables: the leader deletes a value through the log once its time has come, so that it ends on all
//! replicas at the same place in the order of writes. It removes tombstones through the log too, some time after.

use futures_util::future::join_all;

use super::{
    member::{Member, Parts},
    proposer::Proposed,
};
use crate::{
    core::{
        strong::request::Request,
        write::{Action, Condition, Write},
    },
    error::Result,
};

/// Tombstones are removed in steps of this many milliseconds: each step is an entry of the log.
const SWEEP_STEP_MS: u64 = 10_000;

/// Deletes the values that have expired, a page of them, and removes old tombstones.
///
/// # Errors
/// Those of the storage.
pub async fn collect(member: &Member, parts: &Parts) -> Result<()> {
    let store = &parts.store;
    let now_ms = store.now_ms();
    let mut deletes = Vec::new();
    for (table, key) in store.strong_expired(now_ms)? {
        let Some(entry) = store.get(&table, &key)? else { continue };
        if entry.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms) {
            continue;
        }
        // Not if it was replaced meanwhile.
        let condition = Condition::Version(vec![entry.timestamp]);
        let writes = vec![Write { key, action: Action::Delete { force: false }, condition }];
        deletes.push(member.propose(Request::Write { table, writes }));
    }
    // Whatever fails is found again.
    let _: Vec<Proposed> = join_all(deletes).await;
    let grace_ms = parts.replication.0.options.tombstone_grace_ms;
    let old_ms = now_ms.saturating_sub(grace_ms) / SWEEP_STEP_MS * SWEEP_STEP_MS;
    if store.has_strong_tombstones(old_ms)? {
        member.propose(Request::Sweep(old_ms)).await;
    }
    Ok(())
}
