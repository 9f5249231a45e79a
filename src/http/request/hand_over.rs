//! How a connection of HTTP/1.1 passes from hyper to somebody else. A handler attaches a [`Successor`] to its response. hyper writes the head
//! of that response and nothing more; then the server takes the connection apart and gives its bytes to the successor. So an event stream,
//! which lasts for hours, keeps none of hyper's buffers, and its events are framed once for all.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use warp::reply::Response;

use super::{connection_state::OpenRequest, upgrade::Upgraded};
use crate::http::events::stream::EventStream;

/// Who gets the connection.
pub enum Successor {
    /// A stream of events: the chunks of the response's body.
    Events(Box<Events>),
    /// A protocol other than HTTP, after a response that says so.
    Protocol(Box<dyn FnOnce(Upgraded) + Send>),
}

/// A stream of events, as the response to a request.
pub struct Events {
    /// The events.
    pub stream: EventStream,
    /// Whether the client wants the connection closed after it.
    pub is_last: bool,
}

impl Successor {
    /// Makes this the successor of hyper once the head of `response` is written. The body must never be ready, or be empty.
    pub fn attach(self, response: &mut Response) {
        response.extensions_mut().insert(Attached(Arc::new(Mutex::new(Some(self)))));
    }

    /// The successor that is attached to a response.
    pub fn detach(response: &mut Response) -> Option<Self> {
        let attached = response.extensions_mut().remove::<Attached>()?;
        attached.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Extensions have to be `Clone`.
#[derive(Clone)]
struct Attached(Arc<Mutex<Option<Successor>>>);

/// How far a connection is with its next hand-over. All of it happens in the task of the connection.
#[derive(Default)]
pub struct HandOver {
    next: Mutex<Option<(Successor, OpenRequest)>>,
    is_begun: AtomicBool,
    is_head_written: AtomicBool,
}

impl HandOver {
    /// hyper has the head of the response to `request`, after which `successor` follows.
    pub fn begin(&self, successor: Successor, request: OpenRequest) {
        *self.next() = Some((successor, request));
        self.is_begun.store(true, Ordering::Relaxed);
    }

    /// hyper has written everything that it had, and flushes. It has put the whole head into its buffer when it got it.
    pub fn flushed(&self) {
        if self.is_begun.load(Ordering::Relaxed) {
            self.is_head_written.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the successor may begin.
    pub fn is_head_written(&self) -> bool {
        self.is_head_written.load(Ordering::Relaxed)
    }

    /// The successor, if it may begin, and the request that it answers.
    pub fn take(&self) -> Option<(Successor, OpenRequest)> {
        self.is_begun.store(false, Ordering::Relaxed);
        let is_head_written = self.is_head_written.swap(false, Ordering::Relaxed);
        self.next().take().filter(|_| is_head_written)
    }

    fn next(&self) -> MutexGuard<'_, Option<(Successor, OpenRequest)>> {
        // It is replaced as a whole.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
