//! The life of one link: a task that feeds the protocol (`core::peer`) what comes in, and does what it says. Two others read and
//! write beside it.
//!
//! What comes in is always taken, whatever waits to go out: two nodes that both wait for the other to read would wait for ever.
//! What can wait to go out is bounded by the window, and by the size of a comparison.
//!
//! A peer that says nothing for a while is given up, and its link with it. Nothing else waits for it.

pub(super) mod blocking;
mod durability;
pub(super) mod pacing;
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
};
use super::{
    Inner,
    link::{
        Link,
        error::sanitize,
        io,
        registry::{Control, LinkState},
    },
};
use crate::{
    core::protocol::{
        message::Message,
        peer::{Context, Output, Peer},
    },
    error::{Error, Result},
};

/// Bytes of rows on their way to a peer, unacknowledged: what a peer may hold in memory of this node's.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Messages that wait between the tasks of a link.
const QUEUE_MAX: usize = 8;
/// Batches made ahead of what the link takes.
const AHEAD_MAX: usize = 2;
/// A peer that says nothing for so long is given up. It says something each round.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// A peer that lives and says nothing new for so long hangs: its rounds come each second.
const ROUNDLESS_MAX: Duration = Duration::from_secs(120);
/// A disk that takes longer than this to sync has enough to do: repairs then go one batch at a time.
const SYNC_SLOW: Duration = Duration::from_millis(100);

/// Talks over a link until it ends. Returns why it did.
pub(super) async fn run_session(
    inner: Arc<Inner>,
    link: Link,
    state: Arc<LinkState>,
    control: mpsc::Receiver<Control>,
) -> Error {
    let Link { remote, sender, receiver, .. } = link;
    let (outgoing, to_send) = mpsc::channel(QUEUE_MAX);
    let (to_take, incoming) = mpsc::channel(QUEUE_MAX);
    let (failed, failure) = oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(io::write(sender, to_send, failed));
    tasks.spawn(io::read(receiver, to_take));
    let seed = match inner.machine().random() {
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
    if matches!(error, Error::ClockDrift { .. } | Error::BadJson(_)) {
        session.waiting.push_back(Message::Refused(error.to_string()));
    }
    session.flush().await;
    drop(session);
    // The writer ends when it has sent what was given to it.
    let _ = timeout(Duration::from_secs(1), tasks.join_next()).await;
    error
}

struct Session {
    inner: Arc<Inner>,
    state: Arc<LinkState>,
    /// Elsewhere while a message is dealt with that takes long.
    peer: Option<Peer>,
    outgoing: mpsc::Sender<Message>,
    waiting: VecDeque<Message>,
    /// What is to be done when the disk has synced, in order.
    syncs: FuturesOrdered<BoxFuture<'static, Synced>>,
    sync_time: Duration,
    /// Whether the first round was sent.
    sent_first_round: bool,
    /// Whether rows that come are taken: not after the storage failed.
    accepts_rows: bool,
    /// Whether rows go out: not to a peer that takes none, nor after one could not be read.
    sends_rows: bool,
    pacing: Pacing,
    /// When the peer's last round came.
    last_round: Instant,
}

enum Never {}

impl Session {
    async fn run(
        &mut self,
        mut incoming: mpsc::Receiver<Result<Message>>,
        mut control: mpsc::Receiver<Control>,
        mut failure: oneshot::Receiver<Error>,
    ) -> Result<Never> {
        let inner = self.inner.clone();
        // A member that a crash makes this node forget is waited for by nobody, and what it has may be swept: it is to be known for
        // good before anything is acknowledged to it.
        self.tolerate_storage_failure(inner.save_state().await)?;
        let mut rounds = interval(self.inner.round());
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut heard_bytes = 0;
        loop {
            // Made before the look at the journal, so that what is appended meanwhile is not missed.
            let appended = inner.appended.notified();
            let pause = self.fill_window().await?;
            tokio::select! {
                // What waits to be sent first, as it is bounded; silence last, as what was said may still lie unread.
                biased;
                place = self.outgoing.clone().reserve_owned(), if !self.waiting.is_empty() => match place {
                    Ok(place) => {
                        place.send(self.waiting.pop_front().expect("looked at above"));
                    }
                    Err(_) => return Err((&mut failure).await.unwrap_or_else(|_| link_closed())),
                },
                message = incoming.recv() => {
                    heard = Instant::now();
                    let message = message.unwrap_or_else(|| Err(link_closed()))?;
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
                // There may be no end of these, and a peer that is slow or hangs is not to be woken for by each of them.
                () = appended, if pause == Pause::Sent => {}
                () = sleep_until(heard + SILENCE_MAX) => heard = self.check_silence(&mut heard_bytes)?,
            }
        }
    }

    /// Gives up a peer that said nothing for a while. A long message may be on its way.
    fn check_silence(&self, heard_bytes: &mut u64) -> Result<Instant> {
        let bytes = self.state.traffic.received_bytes();
        if bytes == std::mem::replace(heard_bytes, bytes) {
            return Err(Error::Io(format!("the peer said nothing for {SILENCE_MAX:?}")));
        }
        Ok(Instant::now())
    }

    /// Makes batches for the link to take, as far as the window goes.
    async fn fill_window(&mut self) -> Result<Pause> {
        // The round comes first, by which the peer knows what to make of rows.
        while self.sent_first_round && self.sends_rows && self.waiting.len() < AHEAD_MAX {
            let window_bytes = if self.sync_time > SYNC_SLOW { 1 } else { WINDOW_BYTES };
            let peer = self.peer.as_mut().expect("it is here between messages");
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
                // The row that could not be read would be missing before those that follow.
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
                Err(Error::NotReady(format!("this node is to come back as incarnation {at_least}")))
            }
            Message::Refused(why) => Err(Error::Forbidden(sanitize(&why))),
            Message::Leaving { permanent } => {
                self.inner.left(node, permanent);
                Err(Error::Draining)
            }
            Message::StorageFull(why) => {
                let why = sanitize(&why);
                warn!(peer = %node, why, "a peer takes no rows: it gets what it misses when it does again");
                self.sends_rows = false;
                self.state.set_storage_full(why);
                Ok(())
            }
            Message::Alive if self.last_round.elapsed() > ROUNDLESS_MAX => {
                Err(Error::Io(format!("the peer lives, and sent no round for {ROUNDLESS_MAX:?}")))
            }
            Message::Rows(_) if !self.accepts_rows => Ok(()),
            message => self.handle(message).await,
        }
    }

    async fn handle(&mut self, message: Message) -> Result<()> {
        if matches!(message, Message::Round(_)) {
            self.last_round = Instant::now();
        }
        let life = self.inner.store().life();
        let unproven = self.peer.as_ref().map_or(0, |peer| peer.figures().rows_unproven);
        let outputs = if blocking::may_block(&self.inner.store, &message) {
            self.run_blocking(move |peer, context| peer.handle(context, message)).await
        } else {
            let peer = self.peer.as_mut().expect("it is here between messages");
            peer.handle(&self.inner.context(), message)
        };
        let Some(outputs) = self.tolerate_storage_failure(outputs)? else { return Ok(()) };
        if self.inner.has_waiters() && self.peer.as_ref().is_some_and(Peer::is_acknowledged) {
            // Who waited for this writes on now, and waits again.
            self.pacing = Pacing::none(Instant::now());
        }
        if let Some(peer) = &self.peer
            && peer.figures().rows_unproven > unproven
        {
            let rows = peer.figures().rows_unproven - unproven;
            warn!(peer = %self.state.node, rows, "took rows as old as what was swept here: if they had been deleted, they are back");
        }
        self.inner.notify_progress();
        outputs.into_iter().for_each(|output| self.queue_output(life, output));
        self.publish_figures();
        Ok(())
    }

    async fn round(&mut self) -> Result<()> {
        if !self.accepts_rows && self.can_accept_again() {
            return Err(Error::Io(
                "the storage takes rows again, and is to be sent those it did not take".into(),
            ));
        }
        self.run_peer(blocking::round_may_block(&self.inner.store), Peer::round).await
    }

    /// Does what the protocol says to do of itself. `long`: it may take long.
    async fn run_peer(
        &mut self,
        blocking: bool,
        run_peer: impl FnOnce(&mut Peer, &Context<'_, self::storage::Rows>) -> Result<Output> + Send + 'static,
    ) -> Result<()> {
        let life = self.inner.store().life();
        let output = if blocking {
            self.run_blocking(run_peer).await
        } else {
            let peer = self.peer.as_mut().expect("it is here between messages");
            run_peer(peer, &self.inner.context())
        };
        if let Some(output) = self.tolerate_storage_failure(output)? {
            self.queue_output(life, output);
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

    /// Runs what may read or merge many rows on a thread of its own, so that it holds up no other task.
    async fn run_blocking<T: Send + 'static>(
        &mut self,
        run: impl FnOnce(&mut Peer, &Context<'_, self::storage::Rows>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut peer = self.peer.take().expect("it is here between messages");
        let inner = self.inner.clone();
        let machine = inner.machine().clone();
        let ran = machine.run(move || {
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

    /// Gives the writer what was still to be said.
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
    Error::Io("the link is gone".into())
}
