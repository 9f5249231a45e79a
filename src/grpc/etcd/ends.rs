//! When a call ends that could go on: its token ends, or there is no leader and the client has said that it wants one.

use std::{future::pending, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::sleep;
use tonic::{Code, Request, Status};

use super::{Api, access, access::Client, error};
use crate::http::access::lease::{HeldLease, Lease};

/// How often a stream whose client wants a leader looks whether there is one.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so many looks without one it ends: an election takes less.
const LEADERLESS_LOOKS: u32 = 4;

/// What ends a stream.
pub struct Ends {
    token: HeldLease,
    leaderless: BoxFuture<'static, ()>,
}

impl Ends {
    /// What ends the stream of this request.
    pub fn of<T>(api: &Api, request: &Request<T>, token: Option<Lease>) -> Self {
        let leaderless = match wants_leader(request) {
            true => without_leader(api.clone()).boxed(),
            false => pending().boxed(),
        };
        Self { token: HeldLease::new(token), leaderless }
    }

    /// Completes when the stream ends, with what its client is told.
    pub async fn ended(&mut self) -> Status {
        tokio::select! {
            _ = self.token.ended() => error::etcd(Code::Unauthenticated, "invalid auth token"),
            () = &mut self.leaderless => no_leader(),
        }
    }
}

impl Api {
    /// Who makes a call.
    ///
    /// # Errors
    /// The status for whoever has no valid token, where the node asks for one, and for whoever wants a leader where there is none.
    pub fn client<T>(&self, request: &Request<T>) -> Result<Client, Status> {
        let client = access::client(request)?;
        if wants_leader(request) && self.is_leaderless() { Err(no_leader()) } else { Ok(client) }
    }

    fn is_leaderless(&self) -> bool {
        self.node.etcd_identity().is_leaderless()
    }
}

/// Whether the client has said, as those of etcd do, that it is no use to it where there is no leader.
fn wants_leader<T>(request: &Request<T>) -> bool {
    request.metadata().get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

fn no_leader() -> Status {
    error::etcd(Code::Unavailable, "no leader")
}

/// Returns when there has been no leader for a while.
async fn without_leader(api: Api) {
    let mut looks = 0;
    while looks < LEADERLESS_LOOKS {
        sleep(LOOK_EVERY).await;
        looks = if api.is_leaderless() { looks + 1 } else { 0 };
    }
}
