//! The state of one client connection, shared by all its requests.

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
    traffic::{Kind, OpenConnection, Traffic},
};
use crate::{error::Error, http::Options};

/// How long a client may take to send the rest of a head when the server stops; checked twice.
const PARTIAL_HEAD_TIMEOUT: Duration = Duration::from_millis(100);

/// The state of one connection, shared by all its requests.
#[derive(Debug)]
pub struct ConnectionState {
    /// The client's address.
    pub remote: SocketAddr,
    /// The server's limits.
    pub options: Arc<Options>,
    /// The memory for all request and response bodies.
    pub budget: Arc<Budget>,
    /// Its place within the limit of its address; `None` while it is being refused.
    slot: Option<AddressSlot>,
    event_stream: AtomicBool,
    /// Plain HTTP on a TLS port: only links are allowed.
    link_only: AtomicBool,
    upgraded: AtomicBool,
    /// Its place in the figures.
    counted: OpenConnection,
    /// Requests begun. The count may wrap.
    requests_begun: AtomicUsize,
    /// Requests whose response is not completely written to the socket.
    open_requests: AtomicUsize,
    /// Whether the socket has bytes that the client has not taken.
    write_blocked: AtomicBool,
    /// The name in the client's certificate, if it showed one.
    certificate: OnceLock<Box<str>>,
    /// A `Host` that we have found to be this server.
    confirmed_host: OnceLock<Box<[u8]>>,
}

impl ConnectionState {
    /// A connection from `remote`.
    pub fn new(
        remote: SocketAddr,
        options: Arc<Options>,
        budget: Arc<Budget>,
        traffic: &Arc<Traffic>,
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
            counted: traffic.connect(),
            requests_begun: AtomicUsize::new(0),
            open_requests: AtomicUsize::new(0),
            write_blocked: AtomicBool::new(false),
            certificate: OnceLock::new(),
            confirmed_host: OnceLock::new(),
        }
    }

    /// Counts a request until the result, which the response body holds, is dropped.
    pub fn begin_request(self: &Arc<Self>) -> OpenRequest {
        self.requests_begun.fetch_add(1, Ordering::Relaxed);
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest { connection: Arc::clone(self), in_flight: self.slot.as_ref().map(AddressSlot::request) }
    }

    /// Returns when the connection has been idle for a while. Anything the client has sent by then is a partial head.
    pub async fn wait_until_idle(&self) {
        let mut idle = false;
        loop {
            sleep(PARTIAL_HEAD_TIMEOUT).await;
            let is_busy = self.is_busy();
            if idle && !is_busy {
                return;
            }
            idle = !is_busy;
        }
    }

    /// How many requests were begun.
    pub fn requests_begun(&self) -> usize {
        self.requests_begun.load(Ordering::Relaxed)
    }

    /// Whether a response is not complete.
    pub fn has_open_requests(&self) -> bool {
        self.open_requests.load(Ordering::Relaxed) > 0
    }

    /// Whether there is something that the client has not taken yet.
    pub fn is_busy(&self) -> bool {
        self.has_open_requests() || self.write_blocked.load(Ordering::Relaxed)
    }

    /// Records whether the socket has bytes that the client has not taken.
    pub fn set_write_blocked(&self, is_blocked: bool) {
        self.write_blocked.store(is_blocked, Ordering::Relaxed);
    }

    /// The figures of all connections.
    pub fn traffic(&self) -> &Arc<Traffic> {
        self.counted.traffic()
    }

    /// Marks the connection as upgraded: it carries this and no more requests.
    pub fn upgrade(&self, kind: Kind) {
        self.counted.carries(kind);
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was upgraded.
    pub fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Whether events are sent on this connection.
    pub fn is_event_stream(&self) -> bool {
        self.event_stream.load(Ordering::Relaxed)
    }

    /// Restricts this connection to links.
    pub fn expect_link(&self) {
        self.link_only.store(true, Ordering::Relaxed);
    }

    /// Whether this connection is restricted to links.
    pub fn is_link_only(&self) -> bool {
        self.link_only.load(Ordering::Relaxed)
    }

    /// Remembers the name in the certificate that the client has shown.
    pub fn show_certificate(&self, name: Box<str>) {
        self.certificate.get_or_init(|| name);
    }

    /// The name in the client's certificate.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.get().map(|name| &**name)
    }

    /// Remembers that `host`, from a request, is this server.
    pub fn confirm_host(&self, host: &[u8]) {
        self.confirmed_host.get_or_init(|| host.into());
    }

    /// Whether `host` is known to be this server.
    pub fn is_confirmed_host(&self, host: &[u8]) -> bool {
        self.confirmed_host.get().is_some_and(|known| **known == *host)
    }

    /// Announces events: from the next write on, the kernel buffers little for this connection.
    pub fn expect_events(&self) {
        self.counted.carries(Kind::Events);
        self.event_stream.store(true, Ordering::Relaxed);
    }

    /// Announces requests again, after a stream of events.
    pub fn expect_requests(&self) {
        self.counted.carries(Kind::Http);
        self.event_stream.store(false, Ordering::Relaxed);
    }
}

/// A request without a complete response.
#[derive(Debug)]
pub struct OpenRequest {
    connection: Arc<ConnectionState>,
    in_flight: Option<InFlight>,
}

impl OpenRequest {
    /// Why the request is refused, if its address has too many in flight.
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
