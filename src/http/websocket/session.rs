//! One WebSocket connection after its handshake: a loop over the client's messages, the notices of its subscriptions, finished requests,
//! and keep-alive ticks. Requests run concurrently with each other and with events, and results go out as they are ready.
//!
//! A slow client slows down only itself. While a write waits for it, we read nothing from it, and its subscriptions stay within their
//! bounded queues. The socket below fails a write that waits too long, without a close frame, which would not get through either.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    future::{self, BoxFuture},
    stream::{AbortHandle, Abortable},
};
use tokio::time::{Instant, Interval, timeout};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message, protocol::frame::coding::CloseCode};

use super::{
    Socket,
    client::{self, Client},
    end::{self, End, Step},
    in_progress::RequestsInProgress,
    metered::Progress,
    operation::Operation,
    request::{self, Label, ReplyTo, Request},
    subscription::{LabelledSubscription, Subscriptions},
};
use crate::{
    error::{Error, Result},
    http::{
        access::lease::{Lease, LeaseEnd},
        events, keep_alive,
        request::{Call, budget::Reservation, permission},
    },
    node::{Cursor, Node, Notice, Start, Subscription, Topic, with_request_id},
};

/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: usize = 1000;
/// Requests of one connection in progress. At this many, we read no more.
const REQUESTS_MAX: usize = 64;
/// Pings without any answer before we consider the client dead: a little over two keep-alive periods.
const UNANSWERED_PINGS_MAX: u32 = 2;
/// How long a client may take to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What one client does on one connection.
pub struct Session {
    node: Arc<Node>,
    client: Client,
    /// Completes when the client may do nothing any more.
    lease: Option<Lease>,
    /// The id of the request that opened the connection; in every problem.
    request_id: Arc<str>,
    kind: Kind,
    subscriptions: Subscriptions,
    labels: HashMap<Label, AbortHandle>,
    requests: RequestsInProgress,
    ticks: Interval,
    unanswered_pings: u32,
    drained: BoxFuture<'static, ()>,
}

/// What a connection is for.
#[derive(Clone, Copy)]
enum Kind {
    /// Requests and subscriptions, as the client asks.
    Requests,
    /// The events of the topics it was opened for.
    Events,
}

/// What happened next.
enum Event {
    Received(Option<std::result::Result<Message, SocketError>>),
    Notified(Option<Label>, Notice),
    Finished(String),
    Unauthorized(LeaseEnd),
    Ping,
    Drained,
}

impl Session {
    /// A session that takes requests.
    ///
    /// # Errors
    /// `Unauthenticated` if the token is no longer valid.
    pub fn for_requests(node: &Arc<Node>, call: &Call) -> Result<Self> {
        Self::new(node, call, Kind::Requests)
    }

    /// A session that sends the events of `topics` and takes no requests.
    ///
    /// # Errors
    /// As `Node::watch`.
    pub async fn for_events(node: &Arc<Node>, call: &Call, topics: Vec<Topic>, start: Start) -> Result<Self> {
        let mut session = Self::new(node, call, Kind::Events)?;
        session.follow(None, topics, start).await?;
        Ok(session)
    }

    fn new(node: &Arc<Node>, call: &Call, kind: Kind) -> Result<Self> {
        let draining = Arc::clone(node);
        Ok(Self {
            node: Arc::clone(node),
            client: Client::of(call),
            lease: permission::lease(call)?,
            request_id: call.request_id.to_str().unwrap_or_default().into(),
            kind,
            subscriptions: Subscriptions::None,
            labels: HashMap::new(),
            requests: RequestsInProgress::default(),
            ticks: keep_alive::timer(),
            unanswered_pings: 0,
            drained: Box::pin(async move { draining.drained().await }),
        })
    }

    /// Serves the client until one side closes the connection. What a connection that waits has no use for is boxed when it comes: there may be
    /// very many of them.
    pub async fn run(&mut self, socket: &mut Socket) {
        if let (Kind::Events, Some(position)) = (self.kind, self.position()) {
            let sent = send(socket, events::message(&Notice::Position(position), None)).await;
            if sent.is_err() {
                return;
            }
        }
        let end = loop {
            if let Err(end) = self.step(socket).await {
                break end;
            }
        };
        if let End::Close(code, reason) = end {
            // Drop a client that does not close its side in time; nothing is lost.
            let _ = timeout(CLOSE_TIMEOUT, Box::pin(end::close(socket, code, reason))).await;
        }
    }

    /// Handles the next event. Everything that is ready goes into one write, which is flushed when nothing more is ready.
    async fn step(&mut self, socket: &mut Socket) -> Step {
        let event = match self.next(socket).now_or_never() {
            Some(event) => event,
            None => {
                socket.flush().await?;
                self.next(socket).await
            }
        };
        match event {
            Event::Received(message) => Box::pin(self.receive(socket, message)).await,
            Event::Drained | Event::Notified(_, Notice::Shutdown) => {
                Err(Box::pin(self.shut_down(socket)).await?)
            }
            Event::Notified(label, notice @ Notice::Failed(_)) => {
                Box::pin(self.end_subscription(socket, label, &notice)).await
            }
            Event::Notified(label, notice) => {
                send(socket, events::message(&notice, label.as_ref().map(Label::as_json))).await
            }
            Event::Finished(answer) => send(socket, answer).await,
            Event::Unauthorized(end) => {
                send(socket, events::unauthorized(end.reason())).await?;
                Err(End::Close(CloseCode::Policy, end.reason()))
            }
            Event::Ping => self.ping(socket).await,
        }
    }

    /// Waits for the next event. Safe to drop at any point.
    async fn next(&mut self, socket: &mut Socket) -> Event {
        tokio::select! {
            message = socket.next(), if self.reads() => Event::Received(message),
            Some((label, notice)) = self.subscriptions.next() => Event::Notified(label, notice),
            Some(answer) = self.requests.next() => Event::Finished(answer),
            end = lease_end(&mut self.lease) => Event::Unauthorized(end),
            _ = self.ticks.tick() => Event::Ping,
            () = &mut self.drained => Event::Drained,
        }
    }

    /// Whether there is room for another request.
    fn reads(&self) -> bool {
        self.requests.len() < REQUESTS_MAX
    }

    /// Reports a failed subscription and frees its id. Closes a connection that has no other.
    async fn end_subscription(&mut self, socket: &mut Socket, label: Option<Label>, notice: &Notice) -> Step {
        send(socket, events::message(notice, label.as_ref().map(Label::as_json))).await?;
        let Some(label) = label else { return Err(End::Close(CloseCode::Error, "the event stream failed")) };
        self.labels.remove(&label);
        Ok(())
    }

    async fn receive(
        &mut self,
        socket: &mut Socket,
        message: Option<std::result::Result<Message, SocketError>>,
    ) -> Step {
        self.unanswered_pings = 0;
        match message.ok_or(End::Gone)?? {
            Message::Text(text) => self.handle(socket, &text).await,
            Message::Binary(_) => {
                drop(socket.get_mut().take_message());
                let error = Error::BadRequest("send text frames, each with one JSON object".into());
                send(socket, ReplyTo::default().problem(&error, &self.request_id)).await
            }
            Message::Ping(payload) | Message::Pong(payload) => {
                socket.get_mut().forget_control_frame(payload.len());
                Ok(())
            }
            // Only what is written may be a frame.
            Message::Frame(_) => Ok(()),
            Message::Close(_) => {
                // The reply is in the socket's buffer.
                socket.flush().await?;
                Err(End::Gone)
            }
        }
    }

    async fn handle(&mut self, socket: &mut Socket, text: &str) -> Step {
        let began = Instant::now();
        let (reply_to, request) = self.parse(text);
        let reservation = socket.get_mut().take_message();
        let answer = match self.client.admit(request) {
            Ok(Request::Subscribe { id, topic, start }) => {
                self.subscribe(id, topic, start).await.map(|at| reply_to.done("subscribed", at))
            }
            Ok(Request::Unsubscribe { id }) => {
                self.unsubscribe(&id).map(|()| reply_to.done("unsubscribed", None))
            }
            Ok(Request::Call(operation)) => return self.call(socket, reply_to, operation, reservation).await,
            Err(error) => Err(error),
        };
        self.client.counters().count(client::status_of(&answer), Some(began.elapsed()));
        send(socket, answer.unwrap_or_else(|error| reply_to.problem(&error, &self.request_id))).await
    }

    fn parse(&self, text: &str) -> (ReplyTo, Result<Request>) {
        match self.kind {
            Kind::Requests => request::parse(text, self.node.value_bytes_max(), self.node.now_ms()),
            Kind::Events => {
                let error =
                    Error::BadRequest("this connection only sends events; use /_/ws for requests".into());
                (ReplyTo::default(), Err(error))
            }
        }
    }

    async fn subscribe(&mut self, id: Label, topic: Topic, start: Start) -> Result<Option<Cursor>> {
        if self.labels.contains_key(&id) {
            let id = id.as_json();
            return Err(Error::BadRequest(format!(
                "the id {id} is in use on this connection: unsub it first"
            )));
        }
        if self.labels.len() >= SUBSCRIPTIONS_MAX {
            return Err(Error::TooMany(format!(
                "this connection already has {SUBSCRIPTIONS_MAX} subscriptions, the most allowed"
            )));
        }
        let (stop, position) = self.follow(Some(id.clone()), vec![topic], start).await?;
        self.labels.insert(id, stop);
        Ok(position)
    }

    fn unsubscribe(&mut self, id: &Label) -> Result<()> {
        let stop = self.labels.remove(id);
        stop.map(|stop| stop.abort())
            .ok_or_else(|| Error::NotFound(format!("this connection has no subscription {}", id.as_json())))
    }

    async fn follow(
        &mut self,
        label: Option<Label>,
        topics: Vec<Topic>,
        start: Start,
    ) -> Result<(AbortHandle, Option<Cursor>)> {
        let (stop, stopped) = AbortHandle::new_pair();
        let subscription = self.node.watch(topics, start).await?;
        let position = subscription.position();
        let stopped = Abortable::new(future::pending(), stopped);
        self.subscriptions.push(LabelledSubscription { label, subscription, stopped });
        Ok((stop, position))
    }

    /// Where all subscriptions of this connection can be resumed, if all of them have sent everything so far.
    fn position(&self) -> Option<Cursor> {
        let positions = self.subscriptions.running().map(Subscription::position);
        let positions: Option<Vec<Cursor>> = positions.collect();
        positions?.into_iter().min_by_key(|cursor| cursor.sequence)
    }

    /// Starts an operation. Sends the results that are ready now; others follow when they are.
    async fn call(
        &mut self,
        socket: &mut Socket,
        reply_to: ReplyTo,
        operation: Operation,
        mut reservation: Reservation,
    ) -> Step {
        let (node, request_id) = (Arc::clone(&self.node), Arc::clone(&self.request_id));
        let (counters, began) =
            (operation.is_counted().then(|| Arc::clone(self.client.counters())), Instant::now());
        let principal = self.client.principal().clone();
        self.requests.push(async move {
            let admitted = if operation.is_write() { reservation.budget().admit_write() } else { Ok(()) };
            let body = match admitted {
                Ok(()) => with_request_id(&request_id, operation.run(&node, &principal)).await,
                Err(error) => Err(error),
            };
            // A response is briefly in memory twice.
            let body = body.and_then(|body| reservation.reserve_at_least(2 * body.len()).map(|()| body));
            if let Some(counters) = counters {
                counters.count(client::status_of(&body), Some(began.elapsed()));
            }
            match body {
                Ok(body) => reply_to.result(&body),
                Err(error) => reply_to.problem(&error, &request_id),
            }
        });
        // Poll before reading the next message, so that requests start in order: a get after a put sees it.
        while let Some(Some(answer)) = self.requests.next().now_or_never() {
            send(socket, answer).await?;
        }
        Ok(())
    }

    async fn ping(&mut self, socket: &mut Socket) -> Step {
        if self.unanswered_pings >= UNANSWERED_PINGS_MAX {
            return Err(End::Gone);
        }
        // While nothing is read, no answer is.
        if self.reads() {
            self.unanswered_pings += 1;
            match socket.get_mut().look() {
                Progress::Nothing if self.requests.len() == 0 && socket.get_ref().wastes_memory() => {
                    return Err(End::Close(
                        CloseCode::Again,
                        "memory is scarce, and this connection holds that of a long message: connect again",
                    ));
                }
                Progress::Nothing => {}
                // It can answer no ping in the middle of a frame.
                Progress::More => self.unanswered_pings = 0,
                Progress::TooSlow => {
                    return Err(End::Close(
                        CloseCode::Policy,
                        "a message arrives too slowly (--body-timeout, --min-body-rate)",
                    ));
                }
            }
        }
        if let Some(position) = self.position() {
            send(socket, events::message(&Notice::Position(position), None)).await?;
        }
        Ok(socket.feed(Message::Ping(Bytes::new())).await?)
    }

    /// The node stops: finish the requests in flight, then tell the client.
    async fn shut_down(&mut self, socket: &mut Socket) -> std::result::Result<End, End> {
        while let Some(answer) = self.requests.next().await {
            send(socket, answer).await?;
        }
        send(socket, events::message(&Notice::Shutdown, None)).await?;
        Ok(End::Close(CloseCode::Away, "this node is shutting down"))
    }
}

/// Waits for the end of a lease; for ever where there is none.
async fn lease_end(lease: &mut Option<Lease>) -> LeaseEnd {
    match lease {
        Some(lease) => lease.await,
        None => future::pending().await,
    }
}

/// Hands a message to the socket once it has room. The message may stay in the socket's buffer until the next flush.
async fn send(socket: &mut Socket, text: String) -> Step {
    Ok(socket.feed(Message::Text(text.into())).await?)
}
