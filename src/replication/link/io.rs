//! The reader and writer tasks of a link. They run beside the session, so that reading never waits for writing, and
//! requests (`replication::requests`) wait neither for the session nor for its messages.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{LinkReceiver, LinkSender};
use crate::{
    core::protocol::message::Message,
    error::{Error, Result},
    replication::requests::channel::{Channel, body_bytes},
};

/// A keep-alive is sent if the session sent nothing for this long. It does not depend on the session, which may be
/// busy, nor on requests, which the session of the other node does not see.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// After this many bytes of requests and responses in a row, a message of the session goes, so that requests cannot
/// keep rounds and rows from their link.
const REQUESTS_RUN_BYTES: usize = 1024 * 1024;
/// What a message adds to that besides its body.
const REQUEST_COST_BYTES: usize = 64;
/// Bytes of messages read ahead of a session: those of a full window of rows and of a comparison. Beyond, the link is
/// not read, and requests wait.
const READ_AHEAD_BYTES: u32 = 2 * 1024 * 1024;
/// Messages read ahead of a session.
pub(in crate::replication) const READ_AHEAD_MAX: usize = 256;

/// A message for the session, and its part of what may be read ahead.
pub(in crate::replication) struct Received {
    pub message: Message,
    pub room: OwnedSemaphorePermit,
}

/// Sends the session's messages, with keep-alives between them, and requests before them, until the session's channel
/// closes. Then it sends the responses that there are and closes the link. Reports a failed link to `failed`.
pub(in crate::replication) async fn write(
    mut sender: LinkSender,
    messages: mpsc::Receiver<Message>,
    requests: Arc<Channel>,
    failed: oneshot::Sender<Error>,
) {
    let alive_at = Instant::now() + ALIVE_EVERY;
    let mut outgoing = Outgoing { messages, requests, alive_at, run_bytes: 0 };
    while let Some(message) = outgoing.next().await {
        if let Err(error) = sender.send(&message).await {
            // Nobody listens if the link is ending for another reason.
            let _ = failed.send(Error::Io(error.to_string()));
            return;
        }
    }
    sender.close().await;
}

/// What a link sends next.
struct Outgoing {
    messages: mpsc::Receiver<Message>,
    requests: Arc<Channel>,
    /// When a keep-alive is due.
    alive_at: Instant,
    /// Bytes of requests and responses since the last message of the session.
    run_bytes: usize,
}

impl Outgoing {
    /// The next message, or `None` after the last.
    async fn next(&mut self) -> Option<Message> {
        if self.run_bytes >= REQUESTS_RUN_BYTES {
            self.run_bytes = 0;
            if let Ok(message) = self.messages.try_recv() {
                return Some(self.after_session(message));
            }
        }
        tokio::select! {
            biased;
            message = self.requests.next() => Some(self.after_request(message)),
            message = self.messages.recv() => match message {
                Some(message) => Some(self.after_session(message)),
                None => self.requests.take(),
            },
            () = sleep_until(self.alive_at) => Some(self.after_session(Message::Alive)),
        }
    }

    fn after_session(&mut self, message: Message) -> Message {
        self.run_bytes = 0;
        self.alive_at = Instant::now() + ALIVE_EVERY;
        message
    }

    fn after_request(&mut self, message: Message) -> Message {
        self.run_bytes += REQUEST_COST_BYTES + body_bytes(&message);
        message
    }
}

/// Hands requests and responses over as they arrive, and passes on every other message to the session. The last one is
/// the error that ended the link.
pub(in crate::replication) async fn read(
    mut receiver: LinkReceiver,
    taken: mpsc::Sender<Result<Received>>,
    requests: Arc<Channel>,
) {
    let room = Arc::new(Semaphore::new(READ_AHEAD_BYTES as usize));
    loop {
        let message = match receiver.next().await {
            Ok(Some(message)) => requests.receive(message),
            Ok(None) => Err(Error::Io("the peer closed the link".into())),
            Err(error) => Err(Error::Io(error.to_string())),
        };
        let received = match message {
            Ok(None) => continue,
            Ok(Some(message)) => {
                // A long message counts as half, so that it need not wait until the session has nothing else.
                let bytes = u32::try_from(receiver.message_bytes()).unwrap_or(u32::MAX);
                let room = room.clone().acquire_many_owned(bytes.min(READ_AHEAD_BYTES / 2)).await;
                Ok(Received { message, room: room.expect("the semaphore is never closed") })
            }
            Err(error) => Err(error),
        };
        let last = received.is_err();
        if taken.send(received).await.is_err() || last {
            return;
        }
    }
}
