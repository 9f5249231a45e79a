//! The connection, in a thread of its own: commands in, messages out. Both queues are bounded: where the window does not read on, streams wait,
//! and the node tells later that changes were missed.

mod calls;
mod convert;
mod link;
pub mod proto;
mod stream;

use std::{io, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};

use self::link::{Kv, Linked};
use crate::message::{Command, Message};

/// Commands that may wait. A frame makes a few.
const COMMANDS_MAX: usize = 64;
/// Messages that may wait: those of some frames while much is going on.
const MESSAGES_MAX: usize = 1024;
/// Bytes of messages that may wait. A longer one waits alone.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Calls at once: a person makes one at a time.
const CALLS_MAX: usize = 32;

/// The window's end of the connection. Dropping it ends the thread.
pub struct Client {
    commands: mpsc::Sender<Command>,
    messages: mpsc::Receiver<(Message, OwnedSemaphorePermit)>,
}

impl Client {
    /// Starts the thread. `wake` is called whenever a message waits.
    ///
    /// # Errors
    /// That there is no thread to be had.
    pub fn start(wake: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (told, messages) = mpsc::channel(MESSAGES_MAX);
        let room = Arc::new(Semaphore::new(MESSAGE_BYTES_MAX));
        let teller = Teller { messages: told, room, wake: Arc::new(wake) };
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("client".into()).spawn(move || {
            runtime.block_on(run(received, teller));
            // What still runs is of no use to anybody.
            runtime.shutdown_background();
        })?;
        Ok(Self { commands, messages })
    }

    /// Gives the thread a command; back if it has no room for it now. It never waits.
    ///
    /// # Errors
    /// The command.
    pub fn send(&self, command: Command) -> Result<(), Box<Command>> {
        self.commands.try_send(command).map_err(|error| Box::new(error.into_inner()))
    }

    /// The next message, if there is one. It never waits.
    pub fn receive(&mut self) -> Option<Message> {
        self.messages.try_recv().ok().map(|(message, _)| message)
    }

    /// Whether the thread has ended, which only a bug can do.
    pub fn is_gone(&self) -> bool {
        self.commands.is_closed()
    }
}

/// Tells the window.
#[derive(Clone)]
struct Teller {
    messages: mpsc::Sender<(Message, OwnedSemaphorePermit)>,
    /// The room for messages that wait.
    room: Arc<Semaphore>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Teller {
    /// Waits while the window has as much to read as is kept for it.
    async fn tell(&self, message: Message) {
        // Without a window nobody is to be told, and the thread is about to end.
        let bytes = u32::try_from(message.bytes().min(MESSAGE_BYTES_MAX)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(bytes).await else { return };
        if self.messages.send((message, room)).await.is_ok() {
            (self.wake)();
        }
    }
}

/// The thread's work, until the window is gone.
async fn run(mut commands: mpsc::Receiver<Command>, teller: Teller) {
    let (_, links) = mpsc::channel(1);
    let mut worker = Worker {
        teller,
        kv: None,
        links,
        keeper: None,
        listing: None,
        nudge: Arc::new(Notify::new()),
        calls: Arc::new(Semaphore::new(CALLS_MAX)),
    };
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => worker.run(command).await,
                None => return,
            },
            Some(linked) = worker.links.recv() => worker.linked(linked).await,
        }
    }
}

struct Worker {
    teller: Teller,
    /// The connection, if there is one.
    kv: Option<Kv>,
    /// What becomes of the connection.
    links: mpsc::Receiver<Linked>,
    /// Keeps the connection.
    keeper: Option<JoinHandle<()>>,
    /// The listing and the watch that run.
    listing: Option<JoinHandle<()>>,
    /// Ends a pause of the keeper.
    nudge: Arc<Notify>,
    calls: Arc<Semaphore>,
}

impl Worker {
    async fn run(&mut self, command: Command) {
        match command {
            Command::Connect(connection) => {
                self.stop();
                let (links, received) = mpsc::channel(16);
                self.links = received;
                self.keeper = Some(tokio::spawn(link::keep(connection, links, Arc::clone(&self.nudge))));
            }
            Command::Retry | Command::Refresh => self.nudge.notify_one(),
            Command::Open { generation, table, prefix, attempt, goes_on } => {
                self.end_listing();
                if let Some(kv) = self.kv.clone() {
                    let nudge = Arc::clone(&self.nudge);
                    let open = stream::Opened { generation, table, prefix, attempt, goes_on, nudge };
                    self.listing = Some(tokio::spawn(open.run(kv, self.teller.clone())));
                }
            }
            command => self.call(command).await,
        }
    }

    /// Runs a call beside the others.
    async fn call(&self, command: Command) {
        let permit = Arc::clone(&self.calls).try_acquire_owned();
        let (Some(kv), Ok(permit)) = (self.kv.clone(), permit) else {
            let why =
                if self.kv.is_none() { "there is no connection" } else { "too much is going on: try again" };
            if let Some(message) = calls::failed(&command, why) {
                self.teller.tell(message).await;
            }
            return;
        };
        let teller = self.teller.clone();
        tokio::spawn(async move {
            if let Some(message) = calls::run(kv, command).await {
                teller.tell(message).await;
            }
            drop(permit);
        });
    }

    async fn linked(&mut self, linked: Linked) {
        let message = match linked {
            Linked::Up { address, kv } => {
                self.kv = Some(kv);
                Message::Connected { address }
            }
            Linked::Told(message) => {
                if matches!(message, Message::Lost { .. } | Message::Refused { .. }) {
                    self.kv = None;
                    self.end_listing();
                }
                message
            }
        };
        self.teller.tell(message).await;
    }

    fn end_listing(&mut self) {
        if let Some(listing) = self.listing.take() {
            listing.abort();
        }
    }

    fn stop(&mut self) {
        self.end_listing();
        self.kv = None;
        if let Some(keeper) = self.keeper.take() {
            keeper.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::message::{Entry, Value};

    fn message(bytes: usize) -> Message {
        let entry = Entry {
            key: "k".into(),
            value: Value::Bytes(vec![0; bytes]),
            version: "v".into(),
            timestamp_ms: 1,
            expires_at_ms: None,
        };
        Message::Got { request: 1, entry: Some(entry) }
    }

    /// A thousand messages were kept however long their values were.
    #[test]
    fn long_messages_wait_until_there_is_room() {
        let (told, mut messages) = mpsc::channel(8);
        let room = Arc::new(Semaphore::new(MESSAGE_BYTES_MAX));
        let teller = Teller { messages: told, room, wake: Arc::new(|| {}) };
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(teller.tell(message(MESSAGE_BYTES_MAX + 1)));
        assert!(first.as_mut().poll(&mut context).is_ready(), "alone it goes");
        let mut second = Box::pin(teller.tell(message(1)));
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(messages.try_recv().expect("the first"));
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
