//! The session of one link: a task that feeds incoming messages to the protocol (`core::protocol::peer`) and does what
//! it says. Two more tasks read and write the link (`link::io`).
//!
//! Incoming messages are always read, whatever is waiting to be sent: two nodes that wait for each other to read would
//! wait for ever. What can wait to be sent is limited by the window and by the size of a comparison.
//!
//! A peer that is silent for too long is dropped along with its link. Nothing else waits for it.

pub(super) mod blocking;
mod durability;
pub(super) mod pacing;
mod silence;
pub mod storage;
pub(super) mod sync;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::warn;

use self::{
    blocking::INLINE_ROWS_MAX,
    durability::Synced,
    pacing::{Pacing, Pause},
    silence::Silence,
};
use super::{
    Inner,
    link::{
        Link,
        error::sanitize,
        io::{self, Received},
        registry::{Control, LinkState},
    },
    requests::channel::EndOnDrop,
};
use crate::{
    core::protocol::{
        message::Message,
        peer::{Context, Output, Peer},
    },
    error::{Error, Result},
};

/// Bytes of unacknowledged rows in flight to a peer: how much of its memory they may use.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Messages queued for the writer of a link.
const QUEUE_MAX: usize = 8;
/// Batches prepared ahead of the link.
const AHEAD_MAX: usize = 2;
/// A peer that sends only keep-alives for this long hangs: its rounds should come every second.
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);
/// If the disk takes longer than this to sync, repairs go one batch at a time.
const SYNC_SLOW: Duration = Duration::from_millis(100);

/// Runs the session of a link until it ends. Returns the reason.
pub(super) async fn run_session(
    inner: Arc<Inner>,
    link: Link,
    state: Arc<LinkState>,
    control: mpsc::Receiver<Control>,
) -> Error {
    let Link { remote, sender, receiver, .. } = link;
    let (outgoing, to_send) = mpsc::channel(QUEUE_MAX);
    let (to_take, incoming) = mpsc::channel(io::READ_AHEAD_MAX);
    let (failed, failure) = oneshot::channel();
    let requests = EndOnDrop(state.requests.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(io::write(sender, to_send, requests.0.clone(), failed));
    tasks.spawn(io::read(receiver, to_take, requests.0.clone()));
    let seed = match inner.environment().random() {
        Ok(seed) => seed,
        Err(error) => return error,
    };
    let peer = {
        let context = inner.context();
        Peer::new(&context, (inner.node(), remote.node), inner.peer_options(), seed)
    };
    let mut session = Session {
        inner,
        state,
        peer: Some(peer),
        outgoing,
        waiting: VecDeque::new(),
        syncs: FuturesOrdered::new(),
        sync_time: Duration::ZERO,
        sent_first_round: false,
        accepts_rows: true,
        sends_rows: true,
        pacing: Pacing::none(Instant::now()),
        last_round: Instant::now(),
    };
    let error = match session.run(incoming, control, failure).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    requests.0.end(&error.to_string());
    if matches!(error, Error::ClockDrift { .. } | Error::BadJson(_)) {
        session.waiting.push_back(Message::Refused(error.to_string()));
    }
    session.flush().await;
    drop(session);
    // The writer ends after the last message.
    let _ = timeout(Duration::from_secs(1), tasks.join_next()).await;
    error
}

struct Session {
    inner: Arc<Inner>,
    state: Arc<LinkState>,
    /// Absent while a message is handled on a blocking thread.
    peer: Option<Peer>,
    outgoing: mpsc::Sender<Message>,
    waiting: VecDeque<Message>,
    /// What waits for a disk sync, in order.
    syncs: FuturesOrdered<BoxFuture<'static, Synced>>,
    sync_time: Duration,
    /// Whether the first round was sent.
    sent_first_round: bool,
    /// Whether incoming rows are accepted: not after the storage failed.
    accepts_rows: bool,
    /// Whether rows are sent: not to a peer that accepts none, nor after a row could not be read.
    sends_rows: bool,
    pacing: Pacing,
    /// When the peer's last round arrived.
    last_round: Instant,
}

enum Never {}

impl Session {
    async fn run(
        &mut self,
        mut incoming: mpsc::Receiver<Result<Received>>,
        mut control: mpsc::Receiver<Control>,
        mut failure: oneshot::Receiver<Error>,
    ) -> Result<Never> {
        let inner = self.inner.clone();
        // If a crash made this node forget a member, nobody waits for that member and its rows may be swept. This must
        // be durable before anything is acknowledged to it.
        self.tolerate_storage_failure(inner.save_state().await)?;
        let mut rounds = interval(self.inner.round());
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Silence::begin(Instant::now(), self.state.traffic.arrived_bytes());
        // The peer may not know yet that it was forgotten, and would send rows as a complete member does.
        while let Ok(control) = control.try_recv() {
            self.handle_control(Some(control)).await?;
        }
        loop {
            // Created before the journal is read, so that nothing appended in between is missed.
            let appended = inner.appended.notified();
            let pause = self.fill_window().await?;
            tokio::select! {
                // Sending comes first, because its queue is limited. Silence comes last, because messages may still be
                // unread.
                biased;
                place = self.outgoing.clone().reserve_owned(), if !self.waiting.is_empty() => match place {
                    Ok(place) => {
                        place.send(self.waiting.pop_front().expect("the queue is not empty"));
                    }
                    Err(_) => return Err((&mut failure).await.unwrap_or_else(|_| link_closed())),
                },
                message = incoming.recv() => {
                    silence.hear(Instant::now());
                    let Received { message, room: _held } = message.unwrap_or_else(|| Err(link_closed()))?;
                    self.receive(message).await?;
                }
                Some((result, took, then)) = self.syncs.next(), if !self.syncs.is_empty() => {
                    let durable = self.tolerate_storage_failure(result)?;
                    self.sync_time = (self.sync_time * 3 + took) / 4;
                    self.after_sync(then, durable.is_some());
                }
                _ = rounds.tick() => self.round().await?,
                control = control.recv() => self.handle_control(control).await?,
                error = &mut failure => return Err(error.unwrap_or_else(|_| link_closed())),
                () = sleep_until(self.pacing.until()), if pause == Pause::Pacing => {}
                // The journal may grow continuously, and a slow or hanging peer must not cause a wakeup each time.
                () = appended, if pause == Pause::Sent => {}
                () = sleep_until(silence.due()) => {
                    silence.check(Instant::now(), self.state.traffic.arrived_bytes())?;
                }
            }
        }
    }

    /// Prepares batches for the link, as far as the window allows.
    async fn fill_window(&mut self) -> Result<Pause> {
        // The first round tells the peer how to treat the rows.
        while self.sent_first_round && self.sends_rows && self.waiting.len() < AHEAD_MAX {
            let window_bytes = if self.sync_time > SYNC_SLOW { 1 } else { WINDOW_BYTES };
            let peer = self.peer.as_mut().expect("the peer is here between messages");
            if !peer.has_room(window_bytes) {
                return Ok(Pause::Full);
            }
            if Instant::now() < self.pacing.until() && !peer.has_repairs() {
                return Ok(Pause::Pacing);
            }
            let backlog = peer.backlog(&self.inner.context());
            let batch = if peer.has_repairs() || backlog > INLINE_ROWS_MAX as u64 {
                self.run_blocking(move |peer, context| peer.poll(context, window_bytes)).await
            } else {
                peer.poll(&self.inner.context(), window_bytes)
            };
            let Some(batch) = self.tolerate_storage_failure(batch)? else {
                // The unreadable row must not be skipped: the peer would acknowledge later ones without it.
                self.sends_rows = false;
                return Ok(Pause::Full);
            };
            let Some(batch) = batch else { return Ok(Pause::Sent) };
            self.pacing.after_batch(Instant::now(), &batch);
            self.waiting.push_back(batch);
            self.publish_figures();
        }
        Ok(Pause::Full)
    }

    async fn receive(&mut self, message: Message) -> Result<()> {
        let node = self.state.node;
        self.inner.heard(node);
        match message {
            Message::Swim(packet) => self.inner.packet(node, &packet),
            Message::Forgotten(forgotten) => {
                self.inner.learn_forgotten(node, &forgotten);
                Ok(())
            }
            Message::Superseded { at_least, forgotten, forced } => {
                self.inner.superseded(node, at_least, forgotten, forced);
                Err(Error::NotReady(format!("this node must come back as incarnation {at_least}")))
            }
            Message::Refused(why) => Err(Error::Forbidden(sanitize(&why))),
            Message::Leaving { permanent } => {
                self.inner.left(node, permanent);
                Err(Error::Draining)
            }
            Message::StorageFull(why) => {
                let why = sanitize(&why);
                warn!(peer = %node, why, "a peer accepts no rows: it gets them when it does again");
                self.sends_rows = false;
                self.state.set_storage_full(why);
                Ok(())
            }
            Message::Alive if self.last_round.elapsed() > ROUND_TIMEOUT => {
                Err(Error::Io(format!("the peer is alive but sent no round for {ROUND_TIMEOUT:?}")))
            }
            Message::Rows(_) if !self.accepts_rows => Ok(()),
            message => self.handle(message).await,
        }
    }

    async fn handle(&mut self, message: Message) -> Result<()> {
        if matches!(message, Message::Round(_)) {
            self.last_round = Instant::now();
        }
        let incarnation = self.inner.store().incarnation();
        let unproven = self.peer.as_ref().map_or(0, |peer| peer.figures().rows_unproven);
        let outputs = if blocking::may_block(&self.inner.store, &message) {
            self.run_blocking(move |peer, context| peer.handle(context, message)).await
        } else {
            let peer = self.peer.as_mut().expect("the peer is here between messages");
            peer.handle(&self.inner.context(), message)
        };
        let Some(outputs) = self.tolerate_storage_failure(outputs)? else { return Ok(()) };
        if self.inner.has_waiters() && self.peer.as_ref().is_some_and(Peer::is_acknowledged) {
            // Whoever waited for this can now write on, and waits again.
            self.pacing = Pacing::none(Instant::now());
        }
        if let Some(peer) = &self.peer
            && peer.figures().rows_unproven > unproven
        {
            let rows = peer.figures().rows_unproven - unproven;
            warn!(peer = %self.state.node, rows, "accepted rows older than what was swept here: keys that had been deleted may be back");
        }
        self.inner.notify_progress();
        outputs.into_iter().for_each(|output| self.queue_output(incarnation, output));
        self.publish_figures();
        Ok(())
    }

    async fn round(&mut self) -> Result<()> {
        if !self.accepts_rows && self.can_accept_again() {
            return Err(Error::Io(
                "the storage accepts rows again, and the peer must send those that were dropped".into(),
            ));
        }
        self.run_peer(blocking::round_may_block(&self.inner.store), Peer::round).await
    }

    /// Makes the protocol do something on its own. `blocking`: it may take long.
    async fn run_peer(
        &mut self,
        blocking: bool,
        run_peer: impl FnOnce(&mut Peer, &Context<'_, self::storage::Rows>) -> Result<Output> + Send + 'static,
    ) -> Result<()> {
        let incarnation = self.inner.store().incarnation();
        let output = if blocking {
            self.run_blocking(run_peer).await
        } else {
            let peer = self.peer.as_mut().expect("the peer is here between messages");
            run_peer(peer, &self.inner.context())
        };
        if let Some(output) = self.tolerate_storage_failure(output)? {
            self.queue_output(incarnation, output);
        }
        self.publish_figures();
        Ok(())
    }

    async fn handle_control(&mut self, control: Option<Control>) -> Result<()> {
        match control {
            Some(Control::Send(message)) => self.waiting.push_back(message),
            Some(Control::Compare) => self.run_peer(true, Peer::compare_now).await?,
            Some(Control::Close(why)) => return Err(Error::Io(why)),
            None => return Err(Error::Draining),
        }
        Ok(())
    }

    /// Runs something that may read or merge many rows on a blocking thread, so that it holds up no other task.
    async fn run_blocking<T: Send + 'static>(
        &mut self,
        run: impl FnOnce(&mut Peer, &Context<'_, self::storage::Rows>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut peer = self.peer.take().expect("the peer is here between messages");
        let inner = self.inner.clone();
        let environment = inner.environment().clone();
        let ran = environment.run(move || {
            let result = run(&mut peer, &inner.context());
            Ok((peer, result))
        });
        let (peer, result) = ran.await?;
        self.peer = Some(peer);
        result
    }

    fn publish_figures(&self) {
        if let Some(peer) = &self.peer {
            self.state.set_figures(peer.figures());
        }
    }

    /// Passes the remaining messages to the writer.
    async fn flush(&mut self) {
        for message in self.waiting.drain(..) {
            let sent = timeout(Duration::from_millis(500), self.outgoing.send(message)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }
}

fn link_closed() -> Error {
    Error::Io("the link is closed".into())
}
