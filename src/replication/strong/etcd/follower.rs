//! Follows the commits in etcd by a watch, and applies them. Before each watch it compares the head with the node's place; whoever missed
//! commits that etcd no longer keeps reads all rows instead (`resync`).

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::{
    gateway::{Broken, Channel, Etcd, Failure},
    layout::{Head, Layout},
    messages::{Number, Range, Ranged, Watch, WatchFrom, WatchLine},
    replica::{NotApplied, Replica},
    resync::resync,
};
use crate::{
    error::Error,
    replication::{Replication, view::SyncStatus},
};

/// The pause before a new try.
const RETRY: Duration = Duration::from_millis(200);
/// How often the follower looks whether it is behind.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A watch that does not show for this long what is known to be there is replaced by one at another member of etcd.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// Watches in a row that show nothing, before all rows are read instead: etcd may have more to show than it can at once.
const BEHIND_RESYNC: u32 = 2;
/// How long etcd may take to answer.
pub const CALL_MAX: Duration = Duration::from_secs(5);

/// Why a watch ended.
#[derive(Debug)]
pub enum Ended {
    /// It is tried again.
    Again(String),
    /// The watch does not show what is there.
    Behind(String),
    /// It is tried again, and somebody must do something about it.
    Failed(String),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(why) | Failure::Unknown(why) => Self::Again(why),
            // While its pages were being read.
            Failure::Refused(why) if why.contains("compacted") => Self::Again(why),
            Failure::Refused(why) => Self::Failed(format!("etcd refuses: {why}")),
        }
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Follows until the backend is gone.
pub async fn follow(replica: Weak<Replica>, replication: Replication, etcd: Etcd) {
    let mut behind = 0;
    loop {
        let Some(replica) = replica.upgrade() else { return };
        match cluster(&replica, &replication) {
            Err(why) => replica.note_following(Err(why)),
            Ok(None) => replica.note_following(Ok(None)),
            Ok(Some(cluster)) => {
                let place = replica.place();
                let ended = watch(&replica, &replication, &etcd, cluster, behind >= BEHIND_RESYNC).await;
                behind = if replica.place() == place { behind } else { 0 };
                match ended {
                    Ended::Again(why) => debug!(why, "the commits to strong tables are followed anew"),
                    Ended::Behind(why) => {
                        debug!(why, "the commits to strong tables are followed anew");
                        // It may hang at one member of etcd that is cut off from the others.
                        etcd.turn();
                        behind += 1;
                    }
                    Ended::Failed(why) => replica.note_following(Err(why)),
                }
            }
        }
        drop(replica);
        sleep(RETRY).await;
    }
}

/// The cluster whose commits to follow; `None` while this node is looking for its cluster.
pub fn cluster(replica: &Replica, replication: &Replication) -> Result<Option<u64>, String> {
    let membership = replication.membership();
    let is_joining = matches!(membership.sync_status, SyncStatus::Joining(_) | SyncStatus::Refused(_));
    match replica.place().cluster {
        Some(own) if own != membership.cluster => Err(format!(
            "the strong tables of this node belong to cluster {own:016x}, and it is in cluster {:016x} now, which has others: export \
             them with ?read=stale, delete this node's storage directory, and import them into the cluster",
            membership.cluster
        )),
        Some(own) => Ok(Some(own)),
        None => Ok((!is_joining).then_some(membership.cluster)),
    }
}

/// Follows the commits of a cluster as long as that works.
async fn watch(
    replica: &Arc<Replica>,
    replication: &Replication,
    etcd: &Etcd,
    own: u64,
    reads_all: bool,
) -> Ended {
    let layout = Layout::new(own);
    let mut channel = Channel::new(etcd);
    let from = match catch_up(replica, &layout, &mut channel, own, reads_all).await {
        Ok(from) => from,
        Err(ended) => return ended,
    };
    replica.note_following(Ok(Some(own)));
    let (key, range_end) = layout.all();
    let request = Watch { create_request: WatchFrom { key, range_end, start_revision: Number(from) } };
    let mut lines = match Channel::new(etcd).watch(&request, Instant::now() + CALL_MAX).await {
        Ok(lines) => lines,
        Err(failure) => return failure.into(),
    };
    debug!(from, "following the commits to strong tables");
    let mut behind_since = None;
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = sleep(LOOK_EVERY) => {
                if let Some(ended) = look(replica, replication, own, &mut behind_since) {
                    return ended;
                }
                continue;
            }
        };
        let taken = match line {
            Ok(line) => take(replica, &layout, &mut channel, own, line).await,
            Err(Broken::Ended(why)) => Err(Ended::Again(why)),
            Err(Broken::TooLong) => Err(Ended::Behind("the missed commits are too many for a watch".into())),
        };
        if let Err(ended) = taken {
            return ended;
        }
    }
}

/// Why the watch must be made anew, if it must.
fn look(
    replica: &Replica,
    replication: &Replication,
    own: u64,
    behind_since: &mut Option<Instant>,
) -> Option<Ended> {
    match cluster(replica, replication) {
        Ok(Some(cluster)) if cluster == own => {}
        Ok(_) => return Some(Ended::Again("this node has joined another cluster".into())),
        Err(why) => return Some(Ended::Failed(why)),
    }
    if !replica.is_intact() {
        return Some(Ended::Again("the storage was reopened".into()));
    }
    if replica.known() <= replica.place().revision {
        *behind_since = None;
        return None;
    }
    let is_long = behind_since.get_or_insert_with(Instant::now).elapsed() > BEHIND_MAX;
    is_long.then(|| Ended::Behind("the watch does not show commits that are there".into()))
}

/// Takes a line of the watch.
async fn take(
    replica: &Arc<Replica>,
    layout: &Layout,
    channel: &mut Channel,
    own: u64,
    line: WatchLine,
) -> Result<(), Ended> {
    let Some(watched) = line.result else {
        let why = line.error.map_or_else(|| "an empty line".into(), |error| error.to_string());
        return Err(Ended::Again(why));
    };
    if watched.canceled || watched.compact_revision.0 > 0 {
        if watched.compact_revision.0 > 0 {
            info!("etcd no longer keeps commits that this node has missed: reading all rows");
            resync(replica, layout, channel, own).await?;
        }
        return Err(Ended::Again("etcd ended the watch".into()));
    }
    let (commits, waiting) = layout.commits(&watched.events)?;
    waiting.into_iter().for_each(|node| replica.note_waiting(node));
    for commit in commits {
        match replica.apply(own, &commit).await {
            Ok(()) => {}
            Err(NotApplied::Gap) => {
                info!(revision = commit.revision, "commits were missed: reading all rows");
                resync(replica, layout, channel, own).await?;
            }
            Err(NotApplied::Rewound) => return Err(Ended::Again("the storage was reopened".into())),
            Err(NotApplied::Failed(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Compares the head with this node's place. Returns the revision to watch from.
async fn catch_up(
    replica: &Arc<Replica>,
    layout: &Layout,
    channel: &mut Channel,
    own: u64,
    reads_all: bool,
) -> Result<u64, Ended> {
    {
        let _one = replica.applying.lock().await;
        replica.rewind();
    }
    let place = replica.place();
    let (now, head) = read_head(layout, channel).await?;
    let Some((revision, head)) = head else {
        if place.revision > 0 {
            return Err(Ended::Failed(lost()));
        }
        replica.note_empty();
        return Ok(now + 1);
    };
    replica.note_known(revision);
    // What this node commits meanwhile comes after.
    if revision < place.revision || revision == place.revision && head.id != place.id {
        return Err(Ended::Failed(lost()));
    }
    // Damage of the disk may have taken rows that were applied.
    let has_lost = replica.store.suspects_strong_loss() || replica.store.has_unreadable_strong();
    if revision == place.revision && !has_lost {
        return Ok(now + 1);
    }
    if place.revision == 0 || reads_all || has_lost {
        resync(replica, layout, channel, own).await?;
    }
    Ok(replica.place().revision + 1)
}

/// The revision of etcd, and the head with its own.
///
/// # Errors
/// Those of etcd; `Failed` if the head cannot be read.
pub async fn read_head(layout: &Layout, channel: &mut Channel) -> Result<(u64, Option<(u64, Head)>), Ended> {
    let read = range(channel, &layout.read_head(false)).await?;
    Ok((read.header.revision.0, layout.head(&read.kvs)?))
}

/// Reads.
///
/// # Errors
/// The failure.
pub async fn range(channel: &mut Channel, range: &Range) -> Result<Ranged, Failure> {
    channel.call("/v3/kv/range", range, Instant::now() + CALL_MAX).await
}

/// What an etcd is that has lost commits.
pub fn lost() -> String {
    "etcd holds an older state of the strong tables than this node has applied: it was restored from a backup, or it is another etcd. \
     Nothing is changed here. Give --strong-backend the etcd that has them; or, to go on with its older state, stop this node, delete its \
     storage directory, and start it as a new member"
        .into()
}
