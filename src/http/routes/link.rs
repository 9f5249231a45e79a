//! `GET /_/link`: where other nodes connect. The connection becomes a WebSocket and then belongs to the node. The handshake on the link
//! proves who is on the other side, not this route.

use std::sync::Arc;

use hyper::{
    Method,
    header::{self, HeaderValue},
};
use tracing::{debug, warn};
use warp::{filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    error::{Error, Result},
    http::{
        request::{Call, hand_over::Successor, route::Route, upgrade},
        response,
    },
    node::{LINK_PATH, Node, other_protocol, subprotocol},
};

/// Headers that only a proxy sends.
const FORWARDING_HEADERS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// `GET /_/link`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Link, exactly(LINK_PATH), move |call, ()| {
        let node = Arc::clone(&node);
        async move { link(&node, &call) }
    })
}

fn link(node: &Node, call: &Call) -> Result<Response> {
    if call.method != Method::GET && call.method != Method::HEAD {
        return response::other_method(call);
    }
    // A page in a browser on this machine would count as a local node. Nodes never send an Origin, browsers always do.
    if call.headers.contains_key(header::ORIGIN) {
        return Err(Error::Forbidden("this path is for other nodes, not for pages in a browser".into()));
    }
    let accept = upgrade::handshake(call)?;
    // Check before we answer or log anything, so that strangers cannot fill the log.
    let incoming = node.admit_link(call.remote, is_forwarded(call)).inspect_err(|error| {
        debug!(remote = %call.remote, %error, "link refused");
    })?;
    let protocol = response::plain(subprotocol().into());
    if !upgrade::has_token(call, header::SEC_WEBSOCKET_PROTOCOL, &subprotocol()) {
        incoming.reject();
        return Ok(refuse_protocol(call, protocol));
    }
    let mut response = response::switching_protocols(&accept);
    Successor::Protocol(Box::new(|connection| incoming.accept(connection))).attach(&mut response);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(response)
}

/// Whether a proxy forwarded the request, so that it was not made on the machine it comes from.
fn is_forwarded(call: &Call) -> bool {
    FORWARDING_HEADERS.iter().any(|name| call.headers.contains_key(*name))
}

/// The response to a node of another version. The header tells it our protocol, whatever happens to the text.
fn refuse_protocol(call: &Call, protocol: HeaderValue) -> Response {
    let theirs = call.header(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or("a version it does not name");
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
    fn a_request_forwarded_by_a_proxy_is_recognized() {
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
