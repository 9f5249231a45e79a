//! The client at the other end of a connection, as all of its requests know it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

use super::{
    address_limits::{AddressSlot, InFlight},
    budget::Budget,
};
use crate::{error::Error, http::Options};

/// How long a client may take, at the server's end, to send the rest of a head; looked at twice.
const PARTIAL_HEAD_TIMEOUT: Duration = Duration::from_millis(100);

/// The client at the other end, known to all its requests.
#[derive(Debug)]
pub struct ConnectionState {
    /// Its address.
    pub remote: SocketAddr,
    /// The limits that this server runs with.
    pub options: Arc<Options>,
    /// The memory for all bodies and answers.
    pub budget: Arc<Budget>,
    /// Its place in the share of its address; none while it is told that there is no place.
    slot: Option<AddressSlot>,
    event_stream: AtomicBool,
    /// It speaks plainly to a port that speaks TLS: only nodes that link may.
    link_only: AtomicBool,
    upgraded: AtomicBool,
    /// Requests that were begun; the count may wrap.
    requests_begun: AtomicUsize,
    /// Requests whose answer is not all with the socket yet.
    open_requests: AtomicUsize,
    /// Whether the socket has bytes that the client did not take yet.
    write_blocked: AtomicBool,
    /// A host that requests were for, once it was found to be this server.
    confirmed_host: OnceLock<Box<[u8]>>,
}

impl ConnectionState {
    /// A client at `remote`.
    pub fn new(
        remote: SocketAddr,
        options: Arc<Options>,
        budget: Arc<Budget>,
        slot: Option<AddressSlot>,
    ) -> Self {
        Self {
            remote,
            options,
            budget,
            slot,
            event_stream: AtomicBool::new(false),
            link_only: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            requests_begun: AtomicUsize::new(0),
            open_requests: AtomicUsize::new(0),
            write_blocked: AtomicBool::new(false),
            confirmed_host: OnceLock::new(),
        }
    }

    /// Counts a request until what is returned is dropped, with the answer's body.
    pub fn begin_request(self: &Arc<Self>) -> OpenRequest {
        self.requests_begun.fetch_add(1, Ordering::Relaxed);
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest { connection: Arc::clone(self), in_flight: self.slot.as_ref().map(AddressSlot::request) }
    }

    /// Returns when nothing is owed to the client, and was not for a while either: what it may have sent is half a head.
    pub async fn wait_until_idle(&self) {
        let mut idle = false;
        loop {
            sleep(PARTIAL_HEAD_TIMEOUT).await;
            let owed = self.is_busy();
            if idle && !owed {
                return;
            }
            idle = !owed;
        }
    }

    /// How many requests were begun.
    pub fn requests_begun(&self) -> usize {
        self.requests_begun.load(Ordering::Relaxed)
    }

    /// Whether a request has no whole answer yet.
    pub fn has_open_requests(&self) -> bool {
        self.open_requests.load(Ordering::Relaxed) > 0
    }

    /// Whether there is something to send that the client did not take yet.
    pub fn is_busy(&self) -> bool {
        self.has_open_requests() || self.write_blocked.load(Ordering::Relaxed)
    }

    /// Says whether the socket has bytes that the client did not take yet.
    pub fn set_write_blocked(&self, waits: bool) {
        self.write_blocked.store(waits, Ordering::Relaxed);
    }

    /// Says that requests are over on this connection, which becomes something else.
    pub fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Whether requests are over on this connection.
    pub fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Whether events are sent on this connection.
    pub fn is_event_stream(&self) -> bool {
        self.event_stream.load(Ordering::Relaxed)
    }

    /// Says that this connection may be for nothing but a link.
    pub fn expect_link(&self) {
        self.link_only.store(true, Ordering::Relaxed);
    }

    /// Whether this connection may be for nothing but a link.
    pub fn is_link_only(&self) -> bool {
        self.link_only.load(Ordering::Relaxed)
    }

    /// Notes that `host`, which a request was for, is this server.
    pub fn confirm_host(&self, host: &[u8]) {
        self.confirmed_host.get_or_init(|| host.into());
    }

    /// Whether `host` was found to be this server.
    pub fn is_confirmed_host(&self, host: &[u8]) -> bool {
        self.confirmed_host.get().is_some_and(|known| **known == *host)
    }

    /// Says that events are to follow on this connection: from the next write on the kernel holds little for it.
    pub fn expect_events(&self) {
        self.event_stream.store(true, Ordering::Relaxed);
    }
}

/// A request that has no whole answer yet.
#[derive(Debug)]
pub struct OpenRequest {
    connection: Arc<ConnectionState>,
    in_flight: Option<InFlight>,
}

impl OpenRequest {
    /// Why it is not to be answered, where its address has its share of requests in flight.
    pub fn refusal(&self) -> Option<Error> {
        let is_too_many = self.in_flight.as_ref().is_some_and(|in_flight| in_flight.is_too_many);
        self.connection.slot.as_ref().filter(|_| is_too_many).map(AddressSlot::too_many_requests)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.connection.open_requests.fetch_sub(1, Ordering::Relaxed);
    }
}
