//! What a member does now and then: it records how far it has applied, and the leader removes what has expired.

use std::{sync::Weak, time::Duration};

use futures_util::future::join_all;
use openraft::error::Fatal;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    expiry,
    group::{Inner, REQUEST_MAX},
    log::SEGMENT_BYTES,
    member::{Member, Parts},
    rpc::{Call, CallAnswer},
    types::Metrics,
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
        let kept = parts.replication.0.options.strong_log_entries / 2;
        if let Err(error) = compact(&member, kept, LOG_BYTES_MAX).await {
            warn!(%error, "the log of the strong tables cannot be compacted");
        }
        if member.is_leader()
            && Instant::now() >= verify_due
            && let Some(group) = group.upgrade()
        {
            verify_due = Instant::now() + VERIFY_EVERY;
            let member = member.clone();
            // Beside the rest: a member that is stuck answers late or never, and values expire meanwhile.
            tokio::spawn(async move {
                if let Err(error) = group.verify(&member).await {
                    warn!(%error, "the rows of the strong tables cannot be compared with those of other members");
                }
            });
        }
        if member.is_leader()
            && let Err(error) = expiry::collect(&member, &parts).await
        {
            warn!(%error, "expired values and tombstones of strong tables are not removed");
        }
    }
}

/// Purges what the last snapshot has from the log, but for `kept` entries before it, for members that are a little behind. Of a log of more bytes
/// than `bytes_max` half of these stay, as far as the snapshot goes; a new one is begun, which the next call purges by.
async fn compact(member: &Member, kept: u64, bytes_max: u64) -> std::result::Result<(), Fatal<NodeId>> {
    let Metrics { snapshot, purged, last_applied, .. } = member.metrics().borrow().clone();
    let is_long = member.machine.log_bytes() > bytes_max;
    if let Some(snapshot) = snapshot {
        let upto = match is_long {
            true => member.machine.log_begins_with(bytes_max / 2).min(snapshot.index + 1),
            false => (snapshot.index + 1).saturating_sub(kept),
        };
        // In steps: a purge writes to the disk.
        let next = purged.map_or(0, |purged| purged.index + 1);
        if upto > next && (is_long || upto - next >= kept) {
            member.raft.trigger().purge_log(upto - 1).await?;
        }
    }
    if is_long && snapshot != last_applied {
        member.raft.trigger().snapshot().await?;
    }
    Ok(())
}

impl Inner {
    /// Compares the rows of the strong tables with those of the other members, where both have applied the same.
    async fn verify(&self, member: &Member) -> Result<()> {
        let linked: Vec<_> = self.linked().collect();
        join_all(linked.into_iter().map(|node| self.verify_with(node, member))).await.into_iter().collect()
    }

    async fn verify_with(&self, node: NodeId, member: &Member) -> Result<()> {
        let answer = self.call(node, Call::Digest, REQUEST_MAX).await;
        if let Ok(CallAnswer::OtherGroup(_)) = answer {
            member.others.note_foreign(node, true);
        }
        let Ok(CallAnswer::Digest(Some(theirs))) = answer else { return Ok(()) };
        member.others.note_foreign(node, false);
        let own = member.machine.digest().await?;
        if let Some((index, root)) = own.filter(|(index, _)| *index == theirs.0) {
            member.others.note_digest(node, root == theirs.1);
            debug!(%node, index, "compared the rows of the strong tables");
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
        let (snapshot, purged) = (|| member.metrics().borrow().snapshot, || member.machine.log().purged());
        assert_eq!((snapshot(), purged()), (None, None));
        compact(&member, 1_000, u64::MAX).await.expect("openraft runs");
        assert_eq!(snapshot(), None, "it is short");
        compact(&member, 1_000, 0).await.expect("openraft runs");
        until("it has a snapshot", || snapshot().is_some()).await;
        compact(&member, 1_000, u64::MAX).await.expect("openraft runs");
        assert_eq!(purged(), None, "it has few entries");
        compact(&member, 0, u64::MAX).await.expect("openraft runs");
        until("it is purged", || purged().is_some()).await;
        node.strong.submit(put("b")).await.expect("is written");
        drop(member);
        node.stop().await;
    }
}
