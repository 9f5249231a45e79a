//! `GET /_/link`: other nodes come in here. The connection becomes a WebSocket and is the node's from then on; who is on the
//! other side is proven on it, not before.

use std::sync::Arc;

use hyper::{
    Method,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tracing::{debug, warn};
use warp::{filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    error::{Error, Result},
    http::{
        request::{Call, route::Route, upgrade},
        response,
    },
    node::{LINK_PATH, Node, other_protocol, subprotocol},
};

/// What only a proxy sends.
const FORWARDING_HEADERS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
const ALLOW: &str = "GET, HEAD, OPTIONS";

/// `GET /_/link`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Link, exactly(LINK_PATH), move |call, ()| {
        let node = Arc::clone(&node);
        async move { link(&node, &call) }
    })
}

fn link(node: &Node, call: &Call) -> Result<Response> {
    if call.method != Method::GET && call.method != Method::HEAD {
        return response::other_method(call, ALLOW);
    }
    // A page in a browser on this machine would count as a neighbour. Nodes send no origin, browsers always do.
    if call.headers.contains_key(header::ORIGIN) {
        return Err(Error::Forbidden("this path is for other nodes, and not for pages in a browser".into()));
    }
    let (upgrade, accept) = upgrade::handshake(call)?;
    // Before anything is said or logged: a stranger is not to fill the log.
    let incoming = node.admit_link(call.remote, is_forwarded(call)).inspect_err(|error| {
        debug!(remote = %call.remote, %error, "link refused");
    })?;
    let protocol = response::plain(subprotocol().into());
    if !upgrade::has_token(call, header::SEC_WEBSOCKET_PROTOCOL, &subprotocol()) {
        incoming.reject();
        return Ok(refuse_protocol(call, protocol));
    }
    let remote = call.remote;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => incoming.accept(TokioIo::new(connection)),
            Err(error) => debug!(%remote, %error, "connection lost before it became a link"),
        }
    });
    let mut response = response::switching_protocols(&accept);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(response)
}

/// Whether a proxy says that it passed the request on: it was not made on the machine that it comes from.
fn is_forwarded(call: &Call) -> bool {
    FORWARDING_HEADERS.iter().any(|name| call.headers.contains_key(*name))
}

/// The answer to a node of another version. The header tells it what is spoken here, whatever becomes of the text.
fn refuse_protocol(call: &Call, protocol: HeaderValue) -> Response {
    let theirs = call.header(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or("none that it names");
    let why = other_protocol(theirs);
    warn!(remote = %call.remote, "link refused: {why}");
    let mut response = response::problem(&Error::BadRequest(why), call);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_passes_on_is_told_apart() {
        let passed_on = |name: &str| {
            let request = hyper::Request::get(LINK_PATH).header(name, "192.0.2.1");
            is_forwarded(&Call::of(request.body(()).expect("a request")))
        };
        assert!(!passed_on("accept"));
        for name in FORWARDING_HEADERS {
            assert!(passed_on(name), "{name}");
        }
    }
}
