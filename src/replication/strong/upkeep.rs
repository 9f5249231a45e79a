//! What a member does now and then: it records how far it has applied, and the leader removes what has expired.

use std::{sync::Weak, time::Duration};

use openraft::error::Fatal;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    expiry,
    group::{Inner, REQUEST_MAX},
    log::SEGMENT_BYTES,
    member::{Member, Parts},
    rpc::{Call, CallAnswer},
};
use crate::{core::clock::NodeId, error::Result};

/// How often what was applied is made durable and recorded.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// A log that is longer, in bytes, is compacted before it has `LOG_ENTRIES`. An entry may have a MiB or more, and files go as a whole.
const LOG_BYTES_MAX: u64 = 4 * SEGMENT_BYTES;
/// How often the leader compares its rows with those of the other members.
const VERIFY_EVERY: Duration = Duration::from_secs(10);
/// How often the leader looks for values that have expired, and for tombstones.
const EXPIRY_EVERY: Duration = Duration::from_millis(250);

/// Records now and then how far was applied, and has the leader delete what has expired.
pub async fn upkeep(group: Weak<Inner>, member: Weak<Member>, parts: Parts) {
    let mut verify_due = Instant::now() + VERIFY_EVERY;
    let mut checkpoint_due = Instant::now() + CHECKPOINT_EVERY;
    loop {
        sleep(EXPIRY_EVERY).await;
        let Some(member) = member.upgrade() else { return };
        if let Err(error) = member.machine.restore().await {
            warn!(%error, "entries of strong tables that the storage lost are not applied again yet");
        }
        if Instant::now() >= checkpoint_due {
            checkpoint_due = Instant::now() + CHECKPOINT_EVERY;
            if let Err(error) = member.machine.checkpoint().await {
                warn!(%error, "how far the log of the strong tables was applied is not recorded");
            }
        }
        if member.machine.log_bytes() > LOG_BYTES_MAX
            && let Err(error) = compact(&member).await
        {
            warn!(%error, "the log of the strong tables cannot be compacted");
        }
        if member.is_leader()
            && Instant::now() >= verify_due
            && let Some(group) = group.upgrade()
        {
            verify_due = Instant::now() + VERIFY_EVERY;
            if let Err(error) = group.verify(&member).await {
                warn!(%error, "the rows of the strong tables cannot be compared with those of other members");
            }
        }
        if member.is_leader()
            && let Err(error) = expiry::collect(&member, &parts).await
        {
            warn!(%error, "expired values and tombstones of strong tables are not removed");
        }
    }
}

/// Has the log be purged up to the last snapshot, and a new one be made, which the next call purges by.
async fn compact(member: &Member) -> std::result::Result<(), Fatal<NodeId>> {
    let snapshot = member.metrics().borrow().snapshot;
    if let Some(snapshot) = snapshot {
        member.raft.trigger().purge_log(snapshot.index).await?;
    }
    member.raft.trigger().snapshot().await
}

impl Inner {
    /// Compares the rows of the strong tables with those of the other members, where both have applied the same.
    async fn verify(&self, member: &Member) -> Result<()> {
        for node in self.linked().collect::<Vec<_>>() {
            let answer = self.call(node, Call::Digest, REQUEST_MAX).await;
            if let Ok(CallAnswer::OtherGroup(_)) = answer {
                member.note_foreign(node, true);
            }
            let Ok(CallAnswer::Digest(Some(theirs))) = answer else { continue };
            member.note_foreign(node, false);
            let own = member.machine.digest().await?;
            if let Some((index, root)) = own.filter(|(index, _)| *index == theirs.0) {
                member.note_digest(node, root == theirs.1);
                debug!(%node, index, "compared the rows of the strong tables");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::{
        requests::tests::until,
        strong::group::tests::{Alone, name, put},
    };

    /// Entries of a MiB each: the log took some GiB before it was compacted.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_is_compacted_before_it_has_its_entries() {
        let node = Alone::start().await;
        assert_eq!(node.strong.create(name()).await, Ok(true));
        node.strong.submit(put("a")).await.expect("is written");
        let member = node.strong.member().expect("it is a member");
        let (snapshot, purged) =
            (|| member.metrics().borrow().snapshot, || member.machine.log_is_purged_to());
        assert_eq!((snapshot(), purged()), (None, None));
        compact(&member).await.expect("openraft runs");
        until("it has a snapshot", || snapshot().is_some()).await;
        compact(&member).await.expect("openraft runs");
        until("it is purged", || purged().is_some()).await;
        node.strong.submit(put("b")).await.expect("is written");
        drop(member);
        node.stop().await;
    }
}
