//! What a member does now and then: it records how far it has applied, and the leader removes what has expired.

use std::{sync::Weak, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    expiry,
    group::{Inner, REQUEST_MAX},
    member::{Member, Parts},
    rpc::{Call, CallAnswer},
};
use crate::error::Result;

/// How often what was applied is made durable and recorded.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
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
