//! The supervisor: dials and accepts links, starts their sessions, and runs the housekeeping once a round.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Inner,
    housekeeping::run_housekeeping,
    link::crossing::{Initiated, Survivor, survivor},
    link::{
        BoxedDuplex, Link,
        admission::Admission,
        connect::{self, Network},
        error::{Cause, LinkError},
        establish,
        handshake::{Hello, Role, Verdict},
        registry::{CONTROLS_MAX, Control, LinkState},
    },
    membership::{
        self,
        cluster_identity::{resolve_cluster, switches_cluster},
        events::named,
        identity::Identity,
    },
    requests::channel::Channel,
    session::run_session,
};
use crate::{
    core::{clock::NodeId, protocol::message::Message},
    error::Error,
};

/// Longest sleep of the loop if no dial is due earlier. Members' timers wait for its end, so that timers due at about
/// the same time wake the node once. None of them is urgent.
const IDLE_WAIT_MAX: Duration = Duration::from_millis(250);
/// How long it may take to reach a node at its advertised address.
const DIAL_BACK_TIMEOUT: Duration = Duration::from_secs(3);
/// A link that stood this long counts as stable.
const LINK_STABLE_AFTER: Duration = Duration::from_secs(5);
/// How long a refused node may take to answer with its own refusal.
const REFUSAL_REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a link that was replaced still takes what the other node sends before the other link is up there.
const REPLACED_FOR: Duration = Duration::from_millis(200);
/// How long requests on a link that was replaced may take at most: as a strong write may.
const REPLACED_MAX: Duration = Duration::from_secs(5);

/// Runs until it is aborted.
pub async fn supervise(inner: Arc<Inner>) {
    let mut round_due = Instant::now();
    let mut rounds = 0;
    let mut is_behind = false;
    loop {
        let now_ms = inner.store.now_ms();
        let actions = inner.state().members.tick(now_ms);
        inner.perform(actions);
        dial_due(&inner, now_ms);
        if round_due <= Instant::now() {
            round_due = Instant::now() + inner.round();
            rounds += 1;
            let done = run_housekeeping(&inner, rounds).await;
            match &done {
                // Warn only about the first of several failures.
                Err(error) if !is_behind => {
                    warn!(%error, "the housekeeping of a round failed: nothing is saved or swept")
                }
                Err(error) => debug!(%error, "the housekeeping of a round failed"),
                Ok(()) => {}
            }
            is_behind = done.is_err();
        }
        let dial_ms = inner.state().dialer.next_ms().unwrap_or(u64::MAX);
        let wait = Duration::from_millis(dial_ms.saturating_sub(inner.store.now_ms()))
            .min(round_due.saturating_duration_since(Instant::now()))
            .clamp(Duration::from_millis(5), IDLE_WAIT_MAX);
        // It makes no difference whether it was woken or the time was up.
        let _ = timeout(wait, inner.dial_wakeup.notified()).await;
    }
}

/// Establishes a link over an incoming connection.
pub async fn accept(inner: Arc<Inner>, stream: BoxedDuplex, remote: SocketAddr, admission: Admission) {
    let local = inner.local().await;
    match establish::accept(stream, remote, admission, &local).await {
        Ok(link) => {
            if let Err(error) = admit(&inner, link, &local.hello, None).await {
                debug!(%remote, %error, "an incoming link was not accepted");
            }
        }
        Err(error) if error.is_itself() => debug!(%remote, "this node has dialed itself"),
        Err(error) => warn!("no link with a node at {remote}: {error}"),
    }
}

fn dial_due(inner: &Arc<Inner>, now_ms: u64) {
    if inner.is_stopping() {
        return;
    }
    let due = {
        let mut state = inner.state();
        let wanted = state.members.wanted(now_ms);
        let alone = state.registry.links().next().is_none();
        state.dialer.due(&wanted, alone, now_ms)
    };
    for address in due {
        tokio::spawn(dial(inner.clone(), address));
    }
}

async fn dial(inner: Arc<Inner>, address: String) {
    let local = inner.local().await;
    let outcome = match establish::dial(&address, &local).await {
        Ok(link) => admit(&inner, link, &local.hello, Some(&address)).await,
        Err(error) => Err(error),
    };
    let now_ms = inner.store.now_ms();
    let mut state = inner.state();
    match outcome {
        Ok(()) => state.dialer.succeeded(&address, now_ms),
        Err(error) if error.is_itself() => {
            debug!(address, "this node's own address");
            state.dialer.reached_self(&address, now_ms);
        }
        Err(error) => {
            state.dialer.record_reason(&address, error.to_string());
            let should_log = match error.obstacle() {
                None => state.dialer.failed(&address, error.cause().unwrap_or(Cause::Other), now_ms),
                Some(obstacle) => {
                    state.refused = Some(error.to_string());
                    state.dialer.refused(&address, obstacle, now_ms)
                }
            };
            match (should_log, error.obstacle()) {
                (true, Some(_)) => warn!("no link with {address}: {error}"),
                (true, None) => warn!("waiting for {address}: {error}"),
                (false, _) => debug!("no link with {address}: {error}"),
            }
        }
    }
    drop(state);
    inner.notify_links();
    inner.dial_wakeup.notify_one();
}

/// Takes a link into use, or refuses it on both sides. `sent_hello`: this node's hello in the handshake. `dialed`: the
/// address that was dialed for it.
async fn admit(
    inner: &Arc<Inner>,
    mut link: Link,
    sent_hello: &Hello,
    dialed: Option<&str>,
) -> std::result::Result<(), LinkError> {
    let remote = &link.remote;
    let identity = Identity {
        node: remote.node,
        incarnation: remote.incarnation,
        address: remote.address.clone().unwrap_or_default(),
    };
    // What is known in the current cluster says nothing about a node of the cluster being switched to.
    let may_link =
        if switches_cluster(inner, &link) { Ok(()) } else { inner.state().members.may_link(&identity) };
    if let Err(refusal) = may_link {
        let text = refusal.to_string();
        warn!("no link with {}: {text}", named(&identity.address, identity.node));
        let reply = match refusal {
            membership::Refusal::Superseded { at_least, forgotten, .. } => {
                let forced = inner.state().cluster_record.forced;
                Message::Superseded { at_least, forgotten, forced }
            }
            membership::Refusal::OwnAddress
            | membership::Refusal::SameId(_)
            | membership::Refusal::Duplicate { .. } => Message::Refused(text.clone()),
        };
        // The refusal holds even if it does not arrive.
        let _ = link.sender.send(&reply).await;
        let their_reply = timeout(REFUSAL_REPLY_TIMEOUT, link.receiver.next()).await;
        if let Ok(Ok(Some(Message::Superseded { at_least, forgotten, forced }))) = their_reply
            && must_rejoin(inner, identity.node, &reply, forced)
        {
            inner.superseded(identity.node, at_least, forgotten, forced);
        }
        link.sender.close().await;
        return Err(LinkError::Lost(text));
    }
    if sent_hello.incarnation != inner.state().members.local().incarnation {
        // The other side considers the incarnation in that hello over, and would drop its current link for this one.
        link.sender.close().await;
        return Err(LinkError::Lost("this node has just taken a new incarnation; try again".into()));
    }
    let _one_at_a_time = inner.adoption.lock().await;
    if let Err(error) = resolve_cluster(inner, &link, sent_hello.cluster.id).await {
        // Closed without a refusal, which would keep the other node from retrying soon.
        link.sender.close().await;
        return Err(LinkError::Lost(error.to_string()));
    }
    learn_address(inner, &link);
    if dialed.is_none()
        && let Some(address) = link.remote.address.clone()
    {
        tokio::spawn(dial_back(inner.options.network.clone(), address));
    }
    install(inner, link, identity, dialed);
    Ok(())
}

/// Whether this node is the one to rejoin, if both refuse each other as superseded (`reply` is what this node sent).
/// The side that forgot the other by force gives way; otherwise the one with the higher id.
fn must_rejoin(inner: &Inner, other: NodeId, reply: &Message, other_forced: bool) -> bool {
    match reply {
        Message::Superseded { forced, .. } if *forced != other_forced => *forced,
        Message::Superseded { .. } => inner.node() > other,
        _ => true,
    }
}

/// Learns from a link at which address others reach this node.
fn learn_address(inner: &Inner, link: &Link) {
    let now_ms = inner.store.now_ms();
    let actions = {
        let mut state = inner.state();
        match link.role {
            Role::Responder => {
                state.advertised.reached_as(&link.remote.reached_as);
            }
            Role::Initiator => {
                if let Ok(local) = inner.options.network.local_towards(link.remote_address) {
                    state.advertised.reached_from(local.ip());
                }
            }
        }
        let address = state.advertised.current().or(state.advertised.candidate()).map(str::to_owned);
        address.map(|address| state.members.change_address(&address, now_ms)).unwrap_or_default()
    };
    inner.perform(actions);
}

/// Checks that a node is reachable at the address it advertises, because it may have to be dialed later.
async fn dial_back(network: Arc<dyn Network>, address: String) {
    let reaching = async {
        for target in connect::look_up(network.as_ref(), &address).await.unwrap_or_default() {
            if connect::connect(network.as_ref(), &address, target).await.is_ok() {
                return true;
            }
        }
        false
    };
    if !timeout(DIAL_BACK_TIMEOUT, reaching).await.unwrap_or(false) {
        warn!("a node advertises {address}, which cannot be reached from here: set --advertise on that node");
    }
}

/// Registers a link and starts its session. `dialed`: the address that was dialed for it.
fn install(inner: &Arc<Inner>, link: Link, identity: Identity, dialed: Option<&str>) {
    let addresses: Vec<String> =
        dialed.into_iter().chain(link.remote.address.as_deref()).map(str::to_owned).collect();
    let (control_sender, control_receiver) = mpsc::channel(CONTROLS_MAX);
    let initiator = match link.role {
        Role::Initiator => inner.node(),
        Role::Responder => identity.node,
    };
    let now_ms = inner.store.now_ms();
    let fresh = Arc::new(LinkState::new(
        (identity.node, identity.incarnation),
        // A node that switches to this cluster is no longer complete.
        (link.remote.complete && link.verdict != Verdict::RemoteAdopts, link.remote.cluster.linked),
        Initiated { by: initiator, at_ms: now_ms },
        link.traffic.clone(),
        Arc::new(Channel::new(identity.node, inner.services.clone())),
        control_sender,
    ));
    let actions = {
        let mut state = inner.state();
        if let Some(existing) = state.registry.link(identity.node) {
            let stays = existing.incarnation > identity.incarnation
                || existing.incarnation == identity.incarnation
                    && survivor(existing.initiated, fresh.initiated) == Survivor::Existing;
            if stays {
                debug!(peer = %identity.node, "there is already a link with this node");
                return;
            }
            tokio::spawn(close_replaced(existing.clone(), identity.incarnation));
        }
        state.registry.insert(fresh.clone());
        state.members.linked(identity, now_ms)
    };
    let name = named(link.remote.address.as_deref().unwrap_or_default(), fresh.node);
    info!("linked with {name}");
    inner.perform(actions);
    inner.notify_links();
    inner.has_peers.store(true, Ordering::Release);
    let inner = inner.clone();
    tokio::spawn(async move {
        let begun = Instant::now();
        let why = run_session(inner.clone(), link, fresh.clone(), control_receiver).await;
        if is_lasting_refusal(&why) {
            warn!("no link with {name}: {why}");
        } else {
            info!("link with {name} ended: {why}");
        }
        uninstall(&inner, &fresh, &addresses, begun, &why);
    });
}

/// Ends a link that another has replaced: once the requests on it are answered, if the other node is the same. Both nodes send new ones over
/// the other link as soon as it is up at both.
async fn close_replaced(replaced: Arc<LinkState>, incarnation: u64) {
    if replaced.incarnation == incarnation {
        let draining = async {
            sleep(REPLACED_FOR).await;
            replaced.requests.until_idle().await;
        };
        // What takes longer ends with the link.
        let _ = timeout(REPLACED_MAX, draining).await;
    }
    replaced.send_control(Control::Close("replaced by another link".into()));
}

/// Takes note of the end of a link that had begun at an instant, and of what it says about the addresses of its node.
fn uninstall(inner: &Inner, ended: &Arc<LinkState>, addresses: &[String], begun: Instant, why: &Error) {
    let now_ms = inner.store.now_ms();
    let is_refusal = is_lasting_refusal(why);
    let actions = {
        let mut state = inner.state();
        if is_refusal {
            state.refused = Some(why.to_string());
        } else if ended.figures().rounds > 0 {
            (state.refused, state.linked_at) = (None, Instant::now());
        }
        for address in addresses {
            if is_refusal {
                state.dialer.refused_after_link(address, now_ms);
            } else if begun.elapsed() >= LINK_STABLE_AFTER {
                state.dialer.link_lasted(address);
            }
        }
        match state.registry.remove(ended) {
            true => state.members.unlinked(ended.node, now_ms),
            false => Vec::new(),
        }
    };
    inner.perform(actions);
    inner.notify_links();
    inner.dial_wakeup.notify_one();
}

/// Whether the reason for a link's end will not go away by itself, so that the next link would end as soon.
fn is_lasting_refusal(why: &Error) -> bool {
    matches!(why, Error::Forbidden(_) | Error::ClockDrift { .. } | Error::BadJson(_))
}
