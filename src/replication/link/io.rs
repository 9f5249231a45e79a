//! The reader and writer tasks of a link. They run beside the session, so that reading never waits for writing.

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

/// A keep-alive is sent if nothing else was sent for this long.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Sends the messages it is given, with keep-alives between them, until the channel closes. Then it closes the link.
/// Reports a failed link to `failed`.
pub async fn write(
    mut sender: LinkSender,
    mut messages: mpsc::Receiver<Message>,
    failed: oneshot::Sender<Error>,
) {
    // A keep-alive does not depend on the session, which may be busy.
    while let Some(message) = timeout(ALIVE_EVERY, messages.recv()).await.unwrap_or(Some(Message::Alive)) {
        if let Err(error) = sender.send(&message).await {
            // Nobody listens if the link is ending for another reason.
            let _ = failed.send(Error::Io(error.to_string()));
            return;
        }
    }
    sender.close().await;
}

/// Passes on every message that arrives. The last one is the error that ended the link.
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
