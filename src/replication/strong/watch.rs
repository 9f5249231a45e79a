//! Watches this node's part in the group: logs who leads, and starts it again after the disk failed.

use std::{
    pin::pin,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::{group::Inner, member::Member};

/// Without a leader for this long something is wrong: an election takes less than a second.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);
/// The pause before the log is opened again. Longer than an election takes: a leader whose disk takes nothing must be replaced first.
const REOPEN_EVERY: Duration = Duration::from_secs(3);

/// Watches until the node stops.
pub async fn watch(group: Weak<Inner>, member: Weak<Member>) {
    let Some(why) = failure(&member).await else { return };
    // Not where it was stopped so that the node takes part in another group.
    if let Some(group) = group.upgrade().filter(|group| !group.is_stopping() && group.has(&member)) {
        error!(error = %why, "the log of the strong tables failed: it is opened again when the disk takes writes");
        reopen(group).await;
    }
}

/// Logs who leads until openraft or the log fails: why. `None` if the member is gone before.
pub(super) async fn failure(member: &Weak<Member>) -> Option<String> {
    let (mut metrics, machine) = {
        let member = member.upgrade()?;
        (member.metrics(), member.machine.clone())
    };
    let mut log_fails = pin!(machine.until_log_fails());
    let mut leader = None;
    let mut leaderless_since = Some(Instant::now());
    loop {
        let now = metrics.borrow_and_update().clone();
        if let Err(fatal) = &now.running_state {
            return Some(fatal.to_string());
        }
        match now.current_leader {
            Some(node) => {
                if leader != Some((node, now.current_term)) {
                    info!(leader = %node, term = now.current_term, "the strong tables have a leader");
                }
                (leader, leaderless_since) = (Some((node, now.current_term)), None);
            }
            None => {
                let since = *leaderless_since.get_or_insert_with(Instant::now);
                if leader.is_some() && since.elapsed() > LEADERLESS_MAX {
                    warn!("the strong tables have no leader: no majority of their voters can be reached");
                    leader = None;
                }
            }
        }
        tokio::select! {
            // Metrics stay as they are while there is no leader.
            changed = timeout(LEADERLESS_MAX, metrics.changed()) => {
                if let Ok(Err(_)) = changed {
                    return None;
                }
            }
            // A leader has told openraft of entries before they were durable, and it may notice nothing.
            why = &mut log_fails => return Some(why.to_string()),
        }
    }
}

/// Opens the log again, as soon as that works.
pub(super) async fn reopen(group: Arc<Inner>) {
    // So that requests are refused at once, and do not wait for what it would apply.
    group.failed.store(true, Ordering::Release);
    group.close().await;
    let group = Arc::downgrade(&group);
    let mut said = String::new();
    loop {
        sleep(REOPEN_EVERY).await;
        let Some(group) = group.upgrade() else { return };
        match group.reopen().await {
            Ok(()) => {
                group.failed.store(false, Ordering::Release);
                return;
            }
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    warn!(%error, "the log of the strong tables cannot be opened yet");
                    said = why;
                }
            }
        }
    }
}
