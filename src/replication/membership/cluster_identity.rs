//! Which cluster a node is in: how it switches to another node's cluster, and how a new cluster starts.

use std::sync::{Arc, atomic::Ordering};

use tracing::{debug, info, warn};

use super::events::named;
use crate::{
    core::protocol::{agreement::Agreement, floor::Floor, replica::Swept},
    error::{Error, Result},
    replication::{
        Inner, State,
        link::{
            Link,
            handshake::Verdict,
            registry::{Control, LinkState},
        },
    },
};

/// Rounds during which no node found has joined a cluster, before a new one starts.
const ROUNDS_BEFORE_BOOTSTRAP: u64 = 3;

/// Whether this link makes the node switch to another cluster.
pub fn switches_cluster(inner: &Inner, link: &Link) -> bool {
    link.verdict == Verdict::LocalAdopts && inner.state().cluster_record.cluster != link.remote.cluster.id
}

/// Whether the node has joined its cluster, as others see it: for good, or while it syncs from a complete member.
/// Without the second case, a node that is still waiting could pull it into another cluster.
pub fn has_joined(state: &State) -> bool {
    state.cluster_record.joined || state.registry.reaches_complete()
}

/// Switches to the other node's cluster, or confirms that the other switched to this node's. `sent_cluster` is what the
/// other was told.
pub async fn resolve_cluster(inner: &Arc<Inner>, link: &Link, sent_cluster: u64) -> Result<()> {
    let theirs = link.remote.cluster;
    let cluster_record = inner.state().cluster_record;
    match link.verdict {
        Verdict::Same | Verdict::RemoteAdopts => {
            if sent_cluster != cluster_record.cluster {
                return Err(Error::NotReady("this node has just joined another cluster; try again".into()));
            }
            // A cluster starts with its first link, but not if this node is itself waiting for a cluster.
            if cluster_record.joined || !inner.shared.progress().complete {
                return Ok(());
            }
            inner.state().cluster_record.joined = true;
        }
        Verdict::LocalAdopts => {
            if cluster_record.cluster == theirs.id {
                return Ok(());
            }
            if has_joined(&inner.state()) {
                return Err(Error::NotReady("this node has just joined another cluster; try again".into()));
            }
            let from = named(link.remote.address.as_deref().unwrap_or_default(), link.remote.node);
            info!("joining the cluster of {from}");
            let links: Vec<_> = inner.state().registry.links().cloned().collect();
            for link in links {
                link.send_control(Control::Close("this node switched to another cluster".into()));
            }
            let store = inner.store.clone();
            let rekeyed = inner.environment().run(move || {
                store.reset_swept(Swept::default())?;
                store.rekey(theirs.digest_key)
            });
            rekeyed.await?;
            drop_former_members(inner);
            // Save this before the switch: after a crash the former members must be gone.
            inner.save_state().await?;
            let mut state = inner.state();
            let mut progress = inner.shared.progress();
            // What was known in the former cluster does not hold in this one.
            progress.begin_syncing(inner.store.now_ms());
            progress.stop_returning();
            inner.store.reset_agreed();
            progress.agreement = Agreement::default();
            (state.cluster_record.cluster, state.cluster_record.forced) = (theirs.id, false);
        }
    }
    inner.save_state().await
}

fn drop_former_members(inner: &Inner) {
    let mut state = inner.state();
    state.members.switch_cluster();
    state.dialer.switch_cluster();
    let mut progress = inner.shared.progress();
    (progress.floor, progress.sync_source) = (Floor::default(), None);
    progress.acked.clear();
    inner.has_peers.store(false, Ordering::Release);
}

/// Makes a node complete without a complete member, if possible. Either it is alone; or all members were started
/// together and now hold the same rows; or all nodes found are waiting for a cluster, and this one has the lowest id,
/// so a cluster starts with it. The last case requires that every address to join has answered: otherwise the intended
/// cluster may just be down for a moment, and the two clusters would refuse each other for ever.
pub fn bootstrap(inner: &Inner) {
    let mut state = inner.state();
    let mut progress = inner.shared.progress();
    let now_ms = inner.store.now_ms();
    progress.lose(inner.store.lost_ms(), now_ms);
    if progress.complete {
        return;
    }
    let waits = |link: &Arc<LinkState>| {
        let figures = link.figures();
        figures.rounds >= ROUNDS_BEFORE_BOOTSTRAP
            && figures.is_complete == Some(false)
            && inner.node() < link.node
    };
    // There is nobody left to learn from, or nobody was ever met and none is being looked for.
    let only_itself = state.dialer.joins_only_itself();
    let is_sought = state.cluster_record.joined || inner.options.join.is_empty() || only_itself;
    if is_sought && state.members.member_ids().is_empty() {
        if only_itself {
            info!("told to join only itself ({}): starting alone", inner.options.join.join(", "));
        }
        progress.become_complete(now_ms);
        return;
    }
    if state.cluster_record.joined {
        let linked: Vec<_> = state.registry.links().map(|link| link.node).collect();
        if progress.agree(now_ms, linked) {
            // It has now held everything that is left of the lost rows.
            if let Err(error) = inner.store.restored(progress.lost_ms + 1) {
                debug!(%error, "the record of lost rows stays");
            }
            info!("all members hold the same data");
        }
        return;
    }
    let is_alone = state.registry.links().next().is_none();
    // Members of a cluster that were just restarted wait, too, and have its rows.
    let is_one_there = state.registry.links().any(|link| link.had_joined);
    if is_alone || is_one_there || !state.registry.links().all(waits) {
        return;
    }
    match describe_unanswered(&state) {
        None => {
            info!("none of the nodes belongs to a cluster yet: it begins with this node");
            progress.become_complete(now_ms);
        }
        Some(why) if !state.logged_waiting => {
            warn!("no cluster begins yet: {why}");
            state.logged_waiting = true;
        }
        Some(_) => (),
    }
}

/// The addresses to join that have not answered, and what to do about them.
pub fn describe_unanswered(state: &State) -> Option<String> {
    let with_reason = |address: &str| match state.dialer.reason(address) {
        Some(why) => format!("{address} ({why})"),
        None => address.to_owned(),
    };
    let unanswered: Vec<_> = state.dialer.unanswered().map(with_reason).collect();
    (!unanswered.is_empty()).then(|| {
        format!(
            "no answer yet from {}, which this node is told to join: start the node there, or start this one without it",
            unanswered.join(", ")
        )
    })
}
