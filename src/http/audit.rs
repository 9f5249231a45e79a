//! Two logs with a target of their own. `audit`: what operators do, and what is refused to those who try; on by default. `access`: one line
//! for each request; off unless the log filter names it, as in `info,access=info`.
//!
//! Neither has the query of a request, where a token may be.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use hyper::StatusCode;
use tracing::{info, warn};

use crate::http::{access::Principal, request::Call};

/// Refused actions logged in each window. Anyone can send them, so more are only counted, and cannot fill the disk.
const REFUSALS_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(60);

/// An operator's action is allowed and begins.
pub fn begun(call: &Call) {
    let (method, path, by) = (&call.method, call.path(), &*by(call.principal(), call.remote));
    info!(target: "audit", %method, path, by, certificate = certificate(call), remote = %call.remote, id = id(call), "admin action begins");
}

/// An operator's action has ended, or was refused.
pub fn ended(call: &Call, status: StatusCode) {
    let (method, path, by) = (&call.method, call.path(), &*by(call.principal(), call.remote));
    let (remote, id, status, certificate) = (call.remote, id(call), status.as_u16(), certificate(call));
    if !matches!(status, 401 | 403 | 429) {
        info!(target: "audit", %method, path, by, certificate, %remote, id, status, "admin action ended");
        return;
    }
    static REFUSALS: Mutex<Option<Refusals>> = Mutex::new(None);
    let mut refusals = REFUSALS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match refusals.get_or_insert_with(|| Refusals::new(Instant::now())).count(Instant::now()) {
        Refused::Logged { unlogged: 0 } => {
            warn!(target: "audit", %method, path, by, certificate, %remote, id, status, "admin action refused");
        }
        Refused::Logged { unlogged } => {
            warn!(target: "audit", %method, path, by, certificate, %remote, id, status, unlogged, "admin action refused; so were others, not logged");
        }
        Refused::Unlogged => {}
    }
}

/// A request was answered.
pub fn answered(call: &Call, status: StatusCode, took: Duration) {
    let (method, path, route, by) =
        (&call.method, call.path(), call.route().name(), &*by(call.principal(), call.remote));
    let (remote, id, micros, certificate) =
        (call.remote, id(call), took.as_micros() as u64, certificate(call));
    info!(target: "access", %method, path, route, status = status.as_u16(), micros, by, certificate, %remote, id, "request");
}

/// Who sent a request: a principal or, of a request that was refused before anybody asked for a token, its address.
pub fn by(principal: &Principal, remote: SocketAddr) -> Cow<'_, str> {
    match principal {
        Principal::Nobody => Cow::Owned(format!("address:{}", remote.ip().to_canonical())),
        known => Cow::Borrowed(known.name()),
    }
}

fn id(call: &Call) -> &str {
    call.request_id.to_str().unwrap_or_default()
}

/// The name in the client's certificate; lines of clients without one have no such field.
fn certificate(call: &Call) -> Option<&str> {
    call.connection.certificate()
}

/// The refused actions of a window.
struct Refusals {
    since: Instant,
    count: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// To be logged, with how many were not before it.
    Logged {
        unlogged: u32,
    },
    Unlogged,
}

impl Refusals {
    fn new(now: Instant) -> Self {
        Self { since: now, count: 0 }
    }

    fn count(&mut self, now: Instant) -> Refused {
        let mut unlogged = 0;
        if now.duration_since(self.since) >= WINDOW {
            unlogged = self.count.saturating_sub(REFUSALS_MAX);
            *self = Self::new(now);
        }
        self.count = self.count.saturating_add(1);
        if self.count <= REFUSALS_MAX { Refused::Logged { unlogged } } else { Refused::Unlogged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_actions_cannot_fill_the_log() {
        let begin = Instant::now();
        let mut refusals = Refusals::new(begin);
        for _ in 0..REFUSALS_MAX {
            assert_eq!(refusals.count(begin), Refused::Logged { unlogged: 0 });
        }
        assert_eq!(refusals.count(begin), Refused::Unlogged);
        assert_eq!(refusals.count(begin), Refused::Unlogged);
        assert_eq!(refusals.count(begin + WINDOW), Refused::Logged { unlogged: 2 });
        assert_eq!(refusals.count(begin + 2 * WINDOW), Refused::Logged { unlogged: 0 });
    }
}
