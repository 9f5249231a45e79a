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
    pacing::{Pause, Rest},
};
use super::{
    Inner,
    link::{
        Link,
        error::legible,
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
pub(super) async fn converse(
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
    let mut conversation = Conversation {
        inner,
        state,
        peer: Some(peer),
        outgoing,
        waiting: VecDeque::new(),
        syncs: FuturesOrdered::new(),
        sync_time: Duration::ZERO,
        greeted: false,
        takes: true,
        gives: true,
        rest: Rest::over(Instant::now()),
        last_round: Instant::now(),
    };
    let error = match conversation.run(incoming, control, failure).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    if matches!(error, Error::ClockDrift { .. } | Error::BadJson(_)) {
        conversation.waiting.push_back(Message::Refused(error.to_string()));
    }
    conversation.flush().await;
    drop(conversation);
    // The writer ends when it has sent what was given to it.
    let _ = timeout(Duration::from_secs(1), tasks.join_next()).await;
    error
}

struct Conversation {
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
    greeted: bool,
    /// Whether rows that come are taken: not after the storage failed.
    takes: bool,
    /// Whether rows go out: not to a peer that takes none, nor after one could not be read.
    gives: bool,
    rest: Rest,
    /// When the peer's last round came.
    last_round: Instant,
}

enum Never {}

impl Conversation {
    async fn run(
        &mut self,
        mut incoming: mpsc::Receiver<Result<Message>>,
        mut control: mpsc::Receiver<Control>,
        mut failure: oneshot::Receiver<Error>,
    ) -> Result<Never> {
        let inner = self.inner.clone();
        // A member that a crash makes this node forget is waited for by nobody, and what it has may be swept: it is to be known for
        // good before anything is acknowledged to it.
        self.weather(inner.keep_notes().await)?;
        let mut rounds = interval(self.inner.round());
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut heard_bytes = 0;
        loop {
            // Made before the look at the journal, so that what is appended meanwhile is not missed.
            let appended = inner.appended.notified();
            let pause = self.fill().await?;
            tokio::select! {
                // What waits to be sent first, as it is bounded; silence last, as what was said may still lie unread.
                biased;
                place = self.outgoing.clone().reserve_owned(), if !self.waiting.is_empty() => match place {
                    Ok(place) => {
                        place.send(self.waiting.pop_front().expect("looked at above"));
                    }
                    Err(_) => return Err((&mut failure).await.unwrap_or_else(|_| gone())),
                },
                message = incoming.recv() => {
                    heard = Instant::now();
                    let message = message.unwrap_or_else(|| Err(gone()))?;
                    self.take(message).await?;
                }
                Some((result, took, then)) = self.syncs.next(), if !self.syncs.is_empty() => {
                    let synced = self.weather(result)?;
                    self.sync_time = (self.sync_time * 3 + took) / 4;
                    self.after_sync(then, synced.is_some());
                }
                _ = rounds.tick() => self.round().await?,
                order = control.recv() => self.obey(order).await?,
                error = &mut failure => return Err(error.unwrap_or_else(|_| gone())),
                () = sleep_until(self.rest.until()), if pause == Pause::Resting => {}
                // There may be no end of these, and a peer that is slow or hangs is not to be woken for by each of them.
                () = appended, if pause == Pause::Sent => {}
                () = sleep_until(heard + SILENCE_MAX) => heard = self.listen(&mut heard_bytes)?,
            }
        }
    }

    /// Gives up a peer that said nothing for a while. A long message may be on its way.
    fn listen(&self, heard_bytes: &mut u64) -> Result<Instant> {
        let bytes = self.state.traffic.received_bytes();
        if bytes == std::mem::replace(heard_bytes, bytes) {
            return Err(Error::Io(format!("the peer said nothing for {SILENCE_MAX:?}")));
        }
        Ok(Instant::now())
    }

    /// Makes batches for the link to take, as far as the window goes.
    async fn fill(&mut self) -> Result<Pause> {
        // The round comes first, by which the peer knows what to make of rows.
        while self.greeted && self.gives && self.waiting.len() < AHEAD_MAX {
            let window_bytes = if self.sync_time > SYNC_SLOW { 1 } else { WINDOW_BYTES };
            let peer = self.peer.as_mut().expect("it is here between messages");
            if !peer.has_room(window_bytes) {
                return Ok(Pause::Full);
            }
            if Instant::now() < self.rest.until() && !peer.has_repairs() {
                return Ok(Pause::Resting);
            }
            let backlog = peer.backlog(&self.inner.context());
            let batch = if peer.has_repairs() || backlog > INLINE_ROWS_MAX as u64 {
                self.elsewhere(move |peer, context| peer.poll(context, window_bytes)).await
            } else {
                peer.poll(&self.inner.context(), window_bytes)
            };
            let Some(batch) = self.weather(batch)? else {
                // The row that could not be read would be missing before those that follow.
                self.gives = false;
                return Ok(Pause::Full);
            };
            let Some(batch) = batch else { return Ok(Pause::Sent) };
            self.rest.begin(Instant::now(), &batch);
            self.waiting.push_back(batch);
            self.show();
        }
        Ok(Pause::Full)
    }

    async fn take(&mut self, message: Message) -> Result<()> {
        let node = self.state.node;
        self.inner.heard(node);
        match message {
            Message::Swim(packet) => self.inner.packet(node, &packet),
            Message::Forgotten(forgotten) => {
                self.inner.learn_forgotten(node, &forgotten);
                Ok(())
            }
            Message::Outlived { at_least, forgotten, forced } => {
                self.inner.outlived(node, at_least, forgotten, forced);
                Err(Error::NotReady(format!("this node is to come back as incarnation {at_least}")))
            }
            Message::Refused(why) => Err(Error::Forbidden(legible(&why))),
            Message::Leaving { forever } => {
                self.inner.left(node, forever);
                Err(Error::Draining)
            }
            Message::StorageFull(why) => {
                let why = legible(&why);
                warn!(peer = %node, why, "a peer takes no rows: it gets what it misses when it does again");
                self.gives = false;
                self.state.refuse(why);
                Ok(())
            }
            Message::Alive if self.last_round.elapsed() > ROUNDLESS_MAX => {
                Err(Error::Io(format!("the peer lives, and sent no round for {ROUNDLESS_MAX:?}")))
            }
            Message::Rows(_) if !self.takes => Ok(()),
            message => self.handle(message).await,
        }
    }

    async fn handle(&mut self, message: Message) -> Result<()> {
        if matches!(message, Message::Round(_)) {
            self.last_round = Instant::now();
        }
        let life = self.inner.store().life();
        let unproven = self.peer.as_ref().map_or(0, |peer| peer.figures().rows_unproven);
        let outputs = if blocking::is_long(&self.inner.store, &message) {
            self.elsewhere(move |peer, context| peer.handle(context, message)).await
        } else {
            let peer = self.peer.as_mut().expect("it is here between messages");
            peer.handle(&self.inner.context(), message)
        };
        let Some(outputs) = self.weather(outputs)? else { return Ok(()) };
        if self.inner.is_awaited() && self.peer.as_ref().is_some_and(Peer::is_acknowledged) {
            // Who waited for this writes on now, and waits again.
            self.rest = Rest::over(Instant::now());
        }
        if let Some(peer) = &self.peer
            && peer.figures().rows_unproven > unproven
        {
            let rows = peer.figures().rows_unproven - unproven;
            warn!(peer = %self.state.node, rows, "took rows as old as what was swept here: if they had been deleted, they are back");
        }
        self.inner.acknowledged();
        outputs.into_iter().for_each(|output| self.put_out(life, output));
        self.show();
        Ok(())
    }

    async fn round(&mut self) -> Result<()> {
        if !self.takes && self.could_take() {
            return Err(Error::Io(
                "the storage takes rows again, and is to be sent those it did not take".into(),
            ));
        }
        self.act(blocking::is_round_long(&self.inner.store), Peer::round).await
    }

    /// Does what the protocol says to do of itself. `long`: it may take long.
    async fn act(
        &mut self,
        long: bool,
        act: impl FnOnce(&mut Peer, &Context<'_, self::storage::Rows>) -> Result<Output> + Send + 'static,
    ) -> Result<()> {
        let life = self.inner.store().life();
        let output = if long {
            self.elsewhere(act).await
        } else {
            let peer = self.peer.as_mut().expect("it is here between messages");
            act(peer, &self.inner.context())
        };
        if let Some(output) = self.weather(output)? {
            self.put_out(life, output);
        }
        self.show();
        Ok(())
    }

    async fn obey(&mut self, order: Option<Control>) -> Result<()> {
        match order {
            Some(Control::Send(message)) => self.waiting.push_back(message),
            Some(Control::Compare) => self.act(true, Peer::compare_now).await?,
            Some(Control::Close(why)) => return Err(Error::Io(why)),
            None => return Err(Error::Draining),
        }
        Ok(())
    }

    /// Runs what may read or merge many rows on a thread of its own, so that it holds up no other task.
    async fn elsewhere<T: Send + 'static>(
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

    fn show(&self) {
        if let Some(peer) = &self.peer {
            self.state.show(peer.figures());
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

fn gone() -> Error {
    Error::Io("the link is gone".into())
}
