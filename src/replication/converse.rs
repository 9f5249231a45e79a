//! The life of one link: a task that feeds the protocol (`core::peer`) what comes in, and does what it says. One task reads and
//! one writes beside it, so that neither waits for the other.
//!
//! What comes in is always taken, whatever waits to go out: two nodes that both wait for the other to read would wait for ever.
//! What can wait to go out is bounded by the window, and by the size of a comparison.
//!
//! A peer that says nothing for a while is given up, and its link with it. Nothing else waits for it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::debug;

use super::{
    Inner,
    effort::{self, INLINE_ROWS_MAX},
    link::{Link, LinkReceiver, LinkSender},
    registry::{Control, LinkState},
    rest::{Pause, Rest},
};
use crate::{
    core::{
        message::Message,
        peer::{Context, Output, Peer, Then},
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
/// A link over which nothing was sent for so long carries a sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// A peer that lives and says nothing new for so long hangs: its rounds come each second.
const ROUNDLESS_MAX: Duration = Duration::from_secs(120);
/// A disk that takes longer than this to sync has enough to do: repairs then go one batch at a time.
const SYNC_SLOW: Duration = Duration::from_millis(100);

/// Talks over a link until it ends. Returns why it did.
pub async fn converse(
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
    tasks.spawn(write(sender, to_send, failed));
    tasks.spawn(read(receiver, to_take));
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
        rest: Rest::over(Instant::now()),
        last_round: Instant::now(),
    };
    let error = match conversation.run(incoming, control, failure).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    if matches!(error, Error::ClockDrift { .. }) {
        conversation.waiting.push_back(Message::Refused(error.to_string()));
    }
    conversation.flush().await;
    drop(conversation);
    // The writer ends when it has sent what was given to it.
    let _ = timeout(Duration::from_secs(1), tasks.join_next()).await;
    error
}

type Synced = (Result<()>, Duration, Then);

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
                    result?;
                    self.sync_time = (self.sync_time * 3 + took) / 4;
                    self.after_sync(then);
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
        while self.greeted && self.waiting.len() < AHEAD_MAX {
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
                self.elsewhere(move |peer, context| peer.poll(context, window_bytes)).await?
            } else {
                peer.poll(&self.inner.context(), window_bytes)?
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
        let outputs = match message {
            Message::Swim(packet) => return self.inner.packet(node, &packet),
            Message::Forgotten(forgotten) => {
                self.inner.learn_forgotten(node, &forgotten);
                return Ok(());
            }
            Message::Outlived { at_least, forgotten } => {
                self.inner.outlived(node, at_least, forgotten);
                return Err(Error::NotReady(format!("this node is to come back as incarnation {at_least}")));
            }
            Message::Refused(why) => return Err(Error::Forbidden(why)),
            Message::Leaving { forever } => {
                self.inner.left(node, forever);
                return Err(Error::Draining);
            }
            Message::Alive if self.last_round.elapsed() > ROUNDLESS_MAX => {
                return Err(Error::Io(format!("the peer lives, and sent no round for {ROUNDLESS_MAX:?}")));
            }
            message => {
                if matches!(message, Message::Round(_)) {
                    self.last_round = Instant::now();
                }
                let rewrites = matches!(&message, Message::Applied { zombies, .. } if !zombies.is_empty());
                if rewrites {
                    self.inner.stamps.before_writing().await?;
                }
                let life = self.inner.store().life();
                let outputs = if effort::is_long(&self.inner.store, &message) {
                    self.elsewhere(move |peer, context| peer.handle(context, message)).await?
                } else {
                    let peer = self.peer.as_mut().expect("it is here between messages");
                    peer.handle(&self.inner.context(), message)?
                };
                if self.inner.is_awaited() && self.peer.as_ref().is_some_and(Peer::is_acknowledged) {
                    // Who waited for this writes on now, and waits again.
                    self.rest = Rest::over(Instant::now());
                }
                self.inner.acknowledged();
                if rewrites {
                    self.inner.announce_writes();
                }
                (life, outputs)
            }
        };
        let (life, outputs) = outputs;
        outputs.into_iter().for_each(|output| self.put_out(life, output));
        self.show();
        Ok(())
    }

    async fn round(&mut self) -> Result<()> {
        let life = self.inner.store().life();
        let output = if effort::is_round_long(&self.inner.store) {
            self.elsewhere(Peer::round).await?
        } else {
            self.peer.as_mut().expect("it is here between messages").round(&self.inner.context())?
        };
        self.put_out(life, output);
        self.show();
        Ok(())
    }

    async fn obey(&mut self, order: Option<Control>) -> Result<()> {
        match order {
            Some(Control::Send(message)) => self.waiting.push_back(message),
            Some(Control::Compare) => {
                let life = self.inner.store().life();
                let output = self.elsewhere(Peer::compare_now).await?;
                self.put_out(life, output);
            }
            Some(Control::Close(why)) => return Err(Error::Io(why)),
            None => return Err(Error::Draining),
        }
        Ok(())
    }

    fn put_out(&mut self, life: crate::storage::commit::Life, output: Output) {
        match output {
            Output::Send(message) => self.waiting.push_back(message),
            Output::AfterSync(then) => {
                let inner = self.inner.clone();
                self.syncs.push_back(
                    async move {
                        let begun = Instant::now();
                        let result = inner.sync(life).await;
                        (result, begun.elapsed(), then)
                    }
                    .boxed(),
                );
            }
        }
    }

    fn after_sync(&mut self, then: Then) {
        match then {
            Then::Send(message) => {
                self.greeted |= matches!(message, Message::Round(_));
                self.waiting.push_back(message);
            }
            Then::Equal { at_ms, swept, whole } => {
                let peer = self.peer.as_mut().expect("it is here between messages");
                peer.equal(&self.inner.context(), at_ms, swept, whole);
                debug!(peer = %self.state.node, at_ms, "equal");
            }
        }
    }

    /// Runs what may read or merge many rows on a thread of its own, so that it holds up no other task.
    async fn elsewhere<T: Send + 'static>(
        &mut self,
        run: impl FnOnce(&mut Peer, &Context<'_, super::rows::Rows>) -> Result<T> + Send + 'static,
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

async fn write(
    mut sender: LinkSender,
    mut messages: mpsc::Receiver<Message>,
    failed: oneshot::Sender<Error>,
) {
    // What is said here does not wait for what the peer's own task has to do.
    while let Some(message) = timeout(ALIVE_EVERY, messages.recv()).await.unwrap_or(Some(Message::Alive)) {
        if let Err(error) = sender.send(&message).await {
            // Nobody listens any more where the link ends for another reason.
            let _ = failed.send(Error::Io(error.to_string()));
            return;
        }
    }
    sender.close().await;
}

async fn read(mut receiver: LinkReceiver, taken: mpsc::Sender<Result<Message>>) {
    loop {
        let message = match receiver.next().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Error::Io("the peer closed the link".into())),
            Err(error) => Err(Error::Io(error.to_string())),
        };
        let last = message.is_err();
        if taken.send(message).await.is_err() || last {
            return;
        }
    }
}

fn gone() -> Error {
    Error::Io("the link is gone".into())
}
