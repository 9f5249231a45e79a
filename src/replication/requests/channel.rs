//! The requests of one link, in both directions: those of this node that wait for a response, those of the other node
//! that are being served, and the messages that wait for the link's writer.
//!
//! A request of the other node counts against its limit until its response has gone to the writer. So the limit also
//! bounds the responses that wait because the other node does not read. At both ends a request stops counting no later
//! than at the requester, so a requester that keeps to the limits is never refused.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::timeout,
};
use tracing::error;

use super::{
    FiguresByKind, REQUEST_BYTES_MAX, RequestError, RequestFigures, RequestService,
    state::{Answer, Asked, ByKind, Served, State},
};
use crate::{
    core::{
        clock::NodeId,
        protocol::message::{Message, RequestFailure, RequestKind},
    },
    error::{Error, Result},
};

/// What serves the requests of other nodes, by kind, once the node has said so.
pub type Services = Arc<ByKind<OnceLock<Arc<dyn RequestService>>>>;

/// The requests of one link.
pub struct Channel {
    remote: NodeId,
    services: Services,
    state: Mutex<State>,
    /// Wakes the writer: there is a message for it.
    queued: Notify,
    /// Wakes who waits until no request is under way.
    idle: Notify,
}

impl Channel {
    /// Of a link with `remote`.
    pub fn new(remote: NodeId, services: Services) -> Self {
        Self { remote, services, state: Mutex::default(), queued: Notify::new(), idle: Notify::new() }
    }

    /// Sends a request and waits for the response. Dropping the future cancels the request.
    ///
    /// # Errors
    /// All of [`RequestError`].
    pub async fn request(
        &self,
        kind: RequestKind,
        body: Vec<u8>,
        deadline: Duration,
    ) -> std::result::Result<Vec<u8>, RequestError> {
        let (mut waiting, mut answer) = self.ask(kind, body)?;
        if let Ok(answered) = timeout(deadline, &mut answer).await {
            let answered =
                answered.unwrap_or_else(|_| Err(RequestError::LinkEnded("the link is gone".into())));
            return answered.map(Vec::from);
        }
        match (waiting.withdraw(), answer.try_recv()) {
            // It came just now.
            (_, Ok(answered)) => answered.map(Vec::from),
            (Withdrawn::Unsent, Err(_)) => Err(RequestError::NotSentInTime(deadline)),
            (Withdrawn::Sent | Withdrawn::Over, Err(_)) => Err(RequestError::TimedOut(deadline)),
        }
    }

    fn ask(
        &self,
        kind: RequestKind,
        body: Vec<u8>,
    ) -> std::result::Result<(Waiting<'_>, oneshot::Receiver<Answer>), RequestError> {
        let bytes = body.len();
        let mut state = self.state();
        let figures = &mut state.figures[kind.index()];
        figures.requests += 1;
        // Taken back once the request is accepted.
        figures.failed += 1;
        if bytes > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge { bytes });
        }
        if let Some(why) = &state.ended {
            return Err(RequestError::NoLink(why.clone()));
        }
        if !state.loads[kind.index()].asked.add(kind, bytes) {
            return Err(RequestError::TooMany(kind));
        }
        state.figures[kind.index()].failed -= 1;
        state.last_id += 1;
        let id = state.last_id;
        let (answer, answered) = oneshot::channel();
        state.asked.insert(id, Asked { kind, bytes, is_sent: false, answer });
        self.queue(&mut state, kind, Message::Request { id, kind, body: body.into() });
        Ok((Waiting { channel: self, id }, answered))
    }

    /// The next message for the writer: those of consensus first. Cancel-safe.
    pub async fn next(&self) -> Message {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.queued.notified().await;
        }
    }

    /// The next message for the writer, if there is one.
    pub fn take(&self) -> Option<Message> {
        let mut state = self.state();
        let kind = RequestKind::ALL.into_iter().find(|kind| !state.queues[kind.index()].is_empty())?;
        let message = state.queues[kind.index()].pop_front()?;
        match &message {
            Message::Request { id, .. } => {
                if let Some(asked) = state.asked.get_mut(id) {
                    asked.is_sent = true;
                }
            }
            Message::Response { id, .. } => {
                drop(state.take_served(*id));
                self.note_idle(&state);
            }
            _ => {}
        }
        state.figures[kind.index()].sent_bytes += body_bytes(&message) as u64;
        Some(message)
    }

    /// Takes a message that arrived. Returns it if it belongs to the session.
    ///
    /// # Errors
    /// `BadRequest` for something that the other node must not send. End the link then.
    pub fn receive(self: &Arc<Self>, message: Message) -> Result<Option<Message>> {
        match message {
            Message::Request { id, kind, body } => self.serve(id, kind, body)?,
            Message::Response { id, body } => self.answered(id, body),
            Message::Cancel { id } => self.cancelled(id),
            message => return Ok(Some(message)),
        }
        Ok(None)
    }

    /// Returns when no request of either node is under way, or the link has ended.
    pub async fn until_idle(&self) {
        loop {
            // It is woken by what comes after this, polled or not.
            let woken = self.idle.notified();
            {
                let state = self.state();
                if state.ended.is_some() || state.is_idle() {
                    return;
                }
            }
            woken.await;
        }
    }

    /// The figures of this link.
    pub fn figures(&self) -> FiguresByKind {
        let state = self.state();
        let (figures, loads) = (state.figures, state.loads);
        std::array::from_fn(|kind| RequestFigures {
            in_flight: loads[kind].asked.count as u64,
            ..figures[kind]
        })
    }

    /// The link ends, for this reason: nothing more is sent but the responses that are queued, and nothing more is
    /// served.
    pub fn end(&self, why: &str) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(why.to_owned());
        while let Some((&id, _)) = state.asked.first_key_value() {
            let Some(asked) = state.take_asked(id) else { return };
            state.figures[asked.kind.index()].failed += 1;
            let error = match asked.is_sent {
                true => RequestError::LinkEnded(why.to_owned()),
                false => RequestError::NoLink(why.to_owned()),
            };
            // Whoever does not listen any more needs no reason.
            let _ = asked.answer.send(Err(error));
        }
        for queue in &mut state.queues {
            queue.retain(|message| matches!(message, Message::Response { .. }));
        }
        self.idle.notify_waiters();
        // The tasks that have answered are over.
        state.served.values().filter_map(|served| served.task.as_ref()).for_each(AbortHandle::abort);
    }

    fn serve(self: &Arc<Self>, id: u64, kind: RequestKind, body: Bytes) -> Result<()> {
        let bytes = body.len();
        let mut state = self.state();
        if state.ended.is_some() {
            return Ok(());
        }
        let figures = &mut state.figures[kind.index()];
        figures.received += 1;
        figures.received_bytes += bytes as u64;
        if state.served.contains_key(&id) || state.refused.contains_key(&id) {
            return Err(Error::BadRequest(format!("the peer sent two requests with the number {id}")));
        }
        let Some(service) = self.services[kind.index()].get().cloned() else {
            return self.refuse(&mut state, id, kind, RequestFailure::NotServed);
        };
        if !state.loads[kind.index()].served.add(kind, bytes) {
            return self.refuse(&mut state, id, kind, RequestFailure::Busy);
        }
        // It cannot answer before it is registered, because that needs the lock.
        let task = tokio::spawn(self.clone().work(service, id, kind, body)).abort_handle();
        state.served.insert(id, Served { kind, bytes, task: Some(task) });
        Ok(())
    }

    /// Works on a request of the other node and queues the response.
    async fn work(
        self: Arc<Self>,
        service: Arc<dyn RequestService>,
        id: u64,
        kind: RequestKind,
        body: Bytes,
    ) {
        let remote = self.remote;
        let calling = async move { service.call(remote, kind, body.into()).await };
        let body = match AssertUnwindSafe(calling).catch_unwind().await {
            Ok(Ok(body)) if body.len() > REQUEST_BYTES_MAX => Err(RequestFailure::NoAnswer(format!(
                "the response has {} bytes, and at most {REQUEST_BYTES_MAX} are sent to a node",
                body.len()
            ))),
            Ok(Ok(body)) => Ok(Bytes::from(body)),
            Ok(Err(why)) => Err(RequestFailure::Failed(why)),
            Err(_) => {
                error!(peer = %remote, kind = kind.name(), "a request of a peer ended in a panic");
                Err(RequestFailure::NoAnswer("it ended in a panic there".into()))
            }
        };
        let mut state = self.state();
        if state.served.contains_key(&id) {
            self.queue(&mut state, kind, Message::Response { id, body });
        }
    }

    fn refuse(&self, state: &mut State, id: u64, kind: RequestKind, failure: RequestFailure) -> Result<()> {
        if !state.loads[kind.index()].refused.add(kind, 0) {
            return Err(Error::BadRequest(format!(
                "the peer sent twice as many {} requests as may wait, and read no response",
                kind.name()
            )));
        }
        state.refused.insert(id, Served { kind, bytes: 0, task: None });
        self.queue(state, kind, Message::Response { id, body: Err(failure) });
        Ok(())
    }

    fn answered(&self, id: u64, body: std::result::Result<Bytes, RequestFailure>) {
        let mut state = self.state();
        // If it is not there, nobody waits any more: the cancellation crossed the response.
        let Some(Asked { kind, answer, .. }) = state.take_asked(id) else { return };
        let figures = &mut state.figures[kind.index()];
        figures.received_bytes += body.as_ref().map_or(0, Bytes::len) as u64;
        figures.failed += u64::from(body.is_err());
        // Dropped in this instant.
        let _ = answer.send(body.map_err(|failure| RequestError::of(failure, kind)));
        self.note_idle(&state);
    }

    fn cancelled(&self, id: u64) {
        let mut state = self.state();
        let Some(served) = state.take_served(id) else { return };
        if let Some(task) = &served.task {
            task.abort();
        }
        // The response may be queued already.
        state.queues[served.kind.index()]
            .retain(|message| !matches!(message, Message::Response { id: queued, .. } if *queued == id));
        self.note_idle(&state);
    }

    /// Nobody waits for a request of this node any more.
    fn withdraw(&self, id: u64) -> Withdrawn {
        let mut state = self.state();
        let Some(asked) = state.take_asked(id) else { return Withdrawn::Over };
        state.figures[asked.kind.index()].failed += 1;
        self.note_idle(&state);
        if asked.is_sent {
            self.queue(&mut state, asked.kind, Message::Cancel { id });
            return Withdrawn::Sent;
        }
        state.queues[asked.kind.index()]
            .retain(|message| !matches!(message, Message::Request { id: queued, .. } if *queued == id));
        Withdrawn::Unsent
    }

    fn queue(&self, state: &mut State, kind: RequestKind, message: Message) {
        state.queues[kind.index()].push_back(message);
        self.queued.notify_one();
    }

    /// After each request that is over.
    fn note_idle(&self, state: &State) {
        if state.is_idle() {
            self.idle.notify_waiters();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by short steps that do not panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the requests of a link when it is dropped.
pub struct EndOnDrop(pub Arc<Channel>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end("the link ended");
    }
}

/// A request of this node that somebody waits for.
struct Waiting<'a> {
    channel: &'a Channel,
    id: u64,
}

/// What a request was when it was withdrawn.
enum Withdrawn {
    /// Still in the queue, and never sent now.
    Unsent,
    /// Sent. The other node is told.
    Sent,
    /// Answered, or ended with the link.
    Over,
}

impl Waiting<'_> {
    fn withdraw(&mut self) -> Withdrawn {
        self.channel.withdraw(self.id)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// The length of a request's or response's body.
pub fn body_bytes(message: &Message) -> usize {
    match message {
        Message::Request { body, .. } | Message::Response { body: Ok(body), .. } => body.len(),
        _ => 0,
    }
}

/// The sum of two links' figures.
pub fn sum(one: FiguresByKind, other: FiguresByKind) -> FiguresByKind {
    std::array::from_fn(|index| RequestFigures::and(one[index], other[index]))
}
