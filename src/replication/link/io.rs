//! The two tasks beside a conversation: one reads its link and one writes it, so that neither waits for the other.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{LinkReceiver, LinkSender};
use crate::{
    core::protocol::message::Message,
    error::{Error, Result},
};

/// A link over which nothing was sent for so long carries a sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Sends what it is given, and a sign of life where that is nothing for a while, until no more is to come; then it closes the link. Tells
/// `failed` where the link fails.
pub async fn write(
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

/// Takes all that comes in. The last is why nothing more does.
pub async fn read(mut receiver: LinkReceiver, taken: mpsc::Sender<Result<Message>>) {
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
