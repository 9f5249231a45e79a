//! Open connections by what they carry, the bytes on them, and the requests that came on them. For the metrics and the reports.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

use super::latencies::RequestCounters;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Requests, or none yet.
    Http,
    /// An event stream, or a change feed that waits.
    Events,
    /// A WebSocket.
    WebSocket,
    /// A link that another node opened.
    Link,
}

impl Kind {
    /// All of them, each at its number.
    pub const ALL: [Self; 4] = [Self::Http, Self::Events, Self::WebSocket, Self::Link];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Events => "events",
            Self::WebSocket => "websocket",
            Self::Link => "link",
        }
    }
}

/// The figures of all connections that a server accepted.
#[derive(Debug, Default)]
pub struct Traffic {
    open: [AtomicU64; Kind::ALL.len()],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    requests: Arc<RequestCounters>,
}

impl Traffic {
    /// The requests on all connections.
    pub fn requests(&self) -> &Arc<RequestCounters> {
        &self.requests
    }

    /// Connections of a kind that are open now.
    pub fn open(&self, kind: Kind) -> u64 {
        self.open[kind as usize].load(Ordering::Relaxed)
    }

    /// Bytes received, as they came over the wire.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes sent, as they went over the wire.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes received.
    pub fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes sent.
    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a connection, which carries requests at first, until the result is dropped.
    pub fn connect(self: &Arc<Self>) -> OpenConnection {
        self.open[Kind::Http as usize].fetch_add(1, Ordering::Relaxed);
        OpenConnection { traffic: Arc::clone(self), kind: AtomicU8::new(Kind::Http as u8) }
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct OpenConnection {
    traffic: Arc<Traffic>,
    kind: AtomicU8,
}

impl OpenConnection {
    /// The figures that it counts in.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Counts it as of another kind from here on.
    pub fn carries(&self, kind: Kind) {
        let before = self.kind.swap(kind as u8, Ordering::Relaxed);
        self.traffic.open[usize::from(before)].fetch_sub(1, Ordering::Relaxed);
        self.traffic.open[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let kind = usize::from(self.kind.load(Ordering::Relaxed));
        self.traffic.open[kind].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_as_what_it_carries_until_it_is_closed() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        let traffic = Arc::new(Traffic::default());
        let open = |traffic: &Traffic| Kind::ALL.map(|kind| traffic.open(kind));
        let (one, other) = (traffic.connect(), traffic.connect());
        assert_eq!(open(&traffic), [2, 0, 0, 0]);
        one.carries(Kind::WebSocket);
        other.carries(Kind::Events);
        other.carries(Kind::Events);
        assert_eq!(open(&traffic), [0, 1, 1, 0]);
        drop((one, other));
        assert_eq!(open(&traffic), [0; 4]);
    }
}
