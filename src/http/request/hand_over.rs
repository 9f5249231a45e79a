//! How a connection of HTTP/1.1 passes from hyper to somebody else. A handler attaches a [`Successor`] to its response. hyper writes the head
//! of that response and nothing more; then the server takes the connection apart and gives its bytes to the successor. So an event stream,
//! which lasts for hours, keeps none of hyper's buffers, and its events are framed once for all.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
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
    /// Makes this the successor of hyper once the head of `response` is written. The body of an event stream is not asked for
    /// anything.
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
    is_head_buffered: AtomicBool,
    is_head_written: AtomicBool,
}

impl HandOver {
    /// hyper gets the response to `request`, and `successor` the connection after it.
    pub fn begin(&self, successor: Successor, request: OpenRequest) {
        *self.next() = Some((successor, request));
    }

    /// hyper asks for the body: it has put the head into its buffer.
    pub fn head_buffered(&self) {
        self.is_head_buffered.store(true, Ordering::Relaxed);
    }

    /// hyper has written everything that was in its buffer.
    pub fn flushed(&self) {
        if self.is_head_buffered.load(Ordering::Relaxed) {
            self.is_head_written.store(true, Ordering::Relaxed);
        }
    }

    /// Whether nothing more is to come from hyper.
    pub fn is_head_written(&self) -> bool {
        self.is_head_written.load(Ordering::Relaxed)
    }

    /// Who follows hyper, which has done its part or ended, and the request that it answers. Nobody follows if hyper ended before the head
    /// of a response with a body was written.
    pub fn take(&self) -> Option<(Successor, OpenRequest)> {
        self.is_head_buffered.store(false, Ordering::Relaxed);
        let is_head_written = self.is_head_written.swap(false, Ordering::Relaxed);
        self.next().take().filter(|(successor, _)| match successor {
            Successor::Events(_) => is_head_written,
            Successor::Protocol(_) => true,
        })
    }

    fn next(&self) -> MutexGuard<'_, Option<(Successor, OpenRequest)>> {
        // It is replaced as a whole.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
