//! Which cluster a node belongs to: how it goes over to another's, and how a cluster begins where nobody belongs to one.

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

/// Rounds in which none of those that were found belongs to a cluster before one begins.
const ROUNDS_BEFORE_BOOTSTRAP: u64 = 3;

/// Whether this link takes the node over to another cluster.
pub fn switches_cluster(inner: &Inner, link: &Link) -> bool {
    link.verdict == Verdict::LocalAdopts && inner.state().cluster_record.cluster != link.remote.cluster.id
}

/// Whether a node belongs to its cluster, for those it links with: for good, or as long as it is linked with one that has all that
/// the cluster has, and gets it from there. Else a node that others wait for would take it away again.
pub fn has_joined(state: &State) -> bool {
    state.cluster_record.joined || state.registry.reaches_complete()
}

/// Goes over to the other's cluster, or notes that the other came over to this node's, which was `quoted` to it.
pub async fn resolve_cluster(inner: &Arc<Inner>, link: &Link, sent_cluster: u64) -> Result<()> {
    let theirs = link.remote.cluster;
    let cluster_record = inner.state().cluster_record;
    match link.verdict {
        Verdict::Same | Verdict::RemoteAdopts => {
            if sent_cluster != cluster_record.cluster {
                return Err(Error::NotReady("this node has just joined another cluster; try again".into()));
            }
            // A cluster begins with its first link. One that waits itself for a cluster is not its beginning.
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
                link.send_control(Control::Close("this node went over to another cluster".into()));
            }
            let store = inner.store.clone();
            let rekeyed = inner.machine().run(move || {
                store.reset_swept(Swept::default())?;
                store.rekey(theirs.digest_key)
            });
            rekeyed.await?;
            drop_former_members(inner);
            // Before it is of the other cluster: after a crash none of them is there.
            inner.save_state().await?;
            let mut state = inner.state();
            let mut progress = inner.shared.progress();
            // Nothing that is known of another cluster holds in this one.
            progress.begin_syncing(inner.store.now_ms());
            inner.store.disagree();
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

/// Makes a node whole without a whole member, where that may be: it is alone; all members were started together and have come to hold the
/// same; or all wait for a cluster, and one begins with the lowest id of those that found each other, if that is this node's. That
/// only once each address that it is to join has answered: where one does not, the cluster that was meant may be down for a moment, and
/// the two would refuse each other for ever.
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
    // Nobody is left of whom it could learn what it missed, or was ever met and is looked for no longer.
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
            // Since then it has held all that is left of them.
            if let Err(error) = inner.store.restored(progress.lost_ms + 1) {
                debug!(%error, "what was lost stays noted as lost");
            }
            info!("all members hold the same data");
        }
        return;
    }
    let is_alone = state.registry.links().next().is_none();
    if is_alone || !state.registry.links().all(waits) {
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

/// Of which addresses to join this node waits for an answer, and what to do where none will come.
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
