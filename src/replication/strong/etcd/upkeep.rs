//! What a node does now and then: it records how far it has applied, asks etcd for the last commit, so that a watch that hangs is found out,
//! deletes what has expired, removes old tombstones, and looks whether the other nodes have the same backend.

use std::{collections::BTreeSet, sync::Weak, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    gateway::{Channel, Etcd},
    messages::Ranged,
    proposer::Proposer,
    replica::Replica,
};
use crate::{
    core::{clock::NodeId, protocol::message::RequestKind},
    error::Result,
    replication::{
        Replication,
        strong::{
            expiry,
            member::Parts,
            rpc::{self, Call, CallAnswer, Envelope, GroupId},
            start::KNOWN_MAX,
        },
    },
};

/// The pause before etcd is asked again.
pub const RETRY: Duration = Duration::from_millis(50);
/// How often values that have expired are looked for.
const EXPIRY_EVERY: Duration = Duration::from_millis(250);
/// How often etcd is asked for the last commit.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const ASK_MAX: Duration = Duration::from_secs(2);
/// How often what was applied is made durable and recorded.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// An etcd that does not answer for this long is a failure, and no longer a hiccup.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often the other nodes are asked whether they have the same backend.
const COMPARE_EVERY: Duration = Duration::from_secs(10);

/// Does what is due, until the backend is gone.
pub async fn upkeep(replica: Weak<Replica>, proposer: Weak<Proposer>, parts: Parts, etcd: Etcd) {
    let mut channel = Channel::new(&etcd);
    let (mut ask_due, mut checkpoint_due) = (Instant::now(), Instant::now() + CHECKPOINT_EVERY);
    let (mut compare_due, mut warned) = (Instant::now() + COMPARE_EVERY, BTreeSet::new());
    loop {
        sleep(EXPIRY_EVERY).await;
        let (Some(replica), Some(proposer)) = (replica.upgrade(), proposer.upgrade()) else { return };
        if Instant::now() >= ask_due {
            ask_due = Instant::now() + ASK_EVERY;
            ask(&replica, &mut channel).await;
        }
        if Instant::now() >= checkpoint_due {
            checkpoint_due = Instant::now() + CHECKPOINT_EVERY;
            if let Err(error) = replica.checkpoint().await {
                warn!(%error, "how far the commits to strong tables were applied is not recorded");
            }
        }
        if Instant::now() >= compare_due {
            compare_due = Instant::now() + COMPARE_EVERY;
            let others = of_another_backend(&parts.replication, &linked(&parts.replication)).await;
            for node in others.into_iter().filter(|node| warned.insert(*node)) {
                warn!(%node, "this node keeps strong tables in etcd, and another one does not: start all with the same --strong-backend");
            }
        }
        if replica.following().is_some()
            && let Err(error) = collect(&proposer, &parts).await
        {
            warn!(%error, "expired values and tombstones of strong tables are not removed");
        }
    }
}

/// Asks etcd for the last commit.
async fn ask(replica: &Replica, channel: &mut Channel) {
    let Some(layout) = replica.layout() else { return };
    let until = Instant::now() + ASK_MAX;
    // The gateway notes whether it answers.
    if let Ok(Ranged { kvs, .. }) = channel.call("/v3/kv/range", &layout.read_head(true), until).await {
        replica.note_known(kvs.first().map_or(0, |head| head.mod_revision.0));
    }
}

/// Has the values that have expired deleted, if no other node does, and removes old tombstones. Each node removes its own.
async fn collect(proposer: &Proposer, parts: &Parts) -> Result<()> {
    let (store, now_ms) = (&parts.store, parts.store.now_ms());
    let due = expiry::due(store, now_ms)?;
    if !due.is_empty() && is_lowest(parts) {
        // Whatever fails is found again.
        join_all(due.into_iter().map(|request| proposer.submit(request))).await;
    }
    let old_ms = expiry::old_ms(parts, now_ms);
    if store.has_strong_tombstones(old_ms)? {
        store.sweep_strong(old_ms)?;
    }
    Ok(())
}

/// Whether this node has the lowest id of those that it has links with: one is enough to delete what has expired.
fn is_lowest(parts: &Parts) -> bool {
    let peers = parts.replication.membership().peers;
    peers.iter().filter(|peer| peer.linked).all(|peer| parts.store.node() < peer.member.node)
}

/// The members that there is a link with.
pub fn linked(replication: &Replication) -> Vec<NodeId> {
    let peers = replication.membership().peers.into_iter();
    let linked = peers.filter(|peer| peer.linked && !peer.member.state.is_forgotten());
    linked.map(|peer| peer.member.node).collect()
}

/// Those of these nodes whose strong tables are not in etcd.
pub async fn of_another_backend(replication: &Replication, nodes: &[NodeId]) -> Vec<NodeId> {
    let answers = join_all(nodes.iter().map(|node| call(replication, *node, Call::Group))).await;
    let differs = |answer: &Option<CallAnswer>| matches!(answer, Some(CallAnswer::Group(_)));
    nodes.iter().zip(answers).filter(|(_, answer)| differs(answer)).map(|(node, _)| *node).collect()
}

/// Asks another node.
pub async fn call(replication: &Replication, to: NodeId, call: Call) -> Option<CallAnswer> {
    let body = rpc::encode(&Envelope { group: GroupId(0), body: call });
    let answer = replication.request(to, RequestKind::Client, body, KNOWN_MAX).await.ok()?;
    rpc::decode(&answer).ok()
}

/// What an etcd is that has not answered for a while.
pub fn silence(etcd: &Etcd) -> Option<String> {
    let (silent, why) = etcd.silence()?;
    let seconds = silent.as_secs();
    (silent > SILENCE_MAX).then(|| {
        format!(
            "etcd has not answered for {seconds} s ({why}); reads with ?read=stale are answered from here"
        )
    })
}
