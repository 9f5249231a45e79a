//! WebSocket: the handshake, and what is spoken after it. `/_/ws` carries many subscriptions and requests on one
//! connection (api.md section 5); the paths of event streams carry one subscription and no requests.
//!
//! The upgrade is done by hand: warp's own gives each connection a read buffer of 128 KiB that cannot be set, and does not
//! check the key. Which pages may connect is `guard`'s to say. HTTP/1.1 only; over HTTP/2 a client is told so.

mod metered;
pub mod request;
mod session;

use std::sync::Arc;

use hyper::{
    Method, StatusCode,
    header::{self, HeaderName, HeaderValue},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use tracing::debug;
use warp::{filters::BoxedFilter, reply::Response};

use self::{metered::Metered, session::Session};
use super::{
    request::Call,
    response,
    routes::{self, Route},
    server::keep_alive::{self, Pulse},
};
use crate::{
    error::{Error, Result},
    node::{Node, Start, Topic},
};

const PATH: &str = "/_/ws";
const ALLOW: &str = "GET, HEAD, OPTIONS";
/// The only version of the protocol that there is (RFC 6455).
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Held by every connection for its whole life, so small; a long message takes several reads.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Messages that are ready together go into one write up to this size.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// What a message has around its value: the key escaped (six bytes for each of 1024), labels, conditions.
const MESSAGE_SLACK_BYTES: usize = 16 * 1024;

/// A connection after the handshake.
type Socket = WebSocketStream<Metered<TokioIo<Upgraded>>>;

/// `GET /_/ws`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    let pulse = Pulse::start(keep_alive::PERIOD);
    routes::route(Route::WebSocket, routes::exactly(PATH), move |call, ()| {
        let (node, pulse) = (Arc::clone(&node), Arc::clone(&pulse));
        async move { conversation(&node, &pulse, &call).await }
    })
}

async fn conversation(node: &Arc<Node>, pulse: &Pulse, call: &Call) -> Result<Response> {
    if call.method != Method::GET && call.method != Method::HEAD {
        return response::other_method(call, ALLOW);
    }
    open(node, call, async { Ok(Session::conversation(node, pulse, call)) }).await
}

/// Whether the request asks to become a WebSocket.
pub fn is_wanted(call: &Call) -> bool {
    has_token(call, header::UPGRADE, "websocket")
}

/// Sends the events of `topics` as text frames.
///
/// # Errors
/// As `Node::watch`. A bad handshake is answered, not an error.
pub async fn stream(
    node: &Arc<Node>,
    pulse: &Pulse,
    call: &Call,
    topics: Vec<Topic>,
    start: Start,
) -> Result<Response> {
    open(node, call, Session::events(node, pulse, call, topics, start)).await
}

/// Answers the handshake, and leaves the connection to what `session` makes.
async fn open(node: &Node, call: &Call, session: impl Future<Output = Result<Session>>) -> Result<Response> {
    let (upgrade, accept) = match handshake(call) {
        Ok(accepted) => accepted,
        Err(error) => {
            let mut response = response::problem(&error, call);
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, VERSION);
            return Ok(response);
        }
    };
    let session = session.await?;
    call.peer.expect_events();
    let (config, budget) = (config(node.value_bytes_max()), Arc::clone(&call.peer.budget));
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                let connection = Metered::new(TokioIo::new(connection), budget);
                let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
                session.run(socket).await;
            }
            Err(error) => debug!(%error, "connection lost before it became a WebSocket"),
        }
    });
    Ok(switching(&accept))
}

fn config(value_bytes_max: u64) -> WebSocketConfig {
    let message_bytes_max =
        usize::try_from(value_bytes_max).unwrap_or(usize::MAX).saturating_add(MESSAGE_SLACK_BYTES);
    // The write buffer needs no limit of its own: the session gives a message only to a socket that is ready, so it never
    // holds more than its size and one message.
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
}

/// The answer after which the connection is a WebSocket.
pub(super) fn switching(accept: &str) -> Response {
    let mut response = response::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, response::plain(accept.to_owned().into()));
    response
}

/// Checks the client's half of the handshake; the connection to come, and the key's answer.
pub(super) fn handshake(call: &Call) -> Result<(OnUpgrade, String)> {
    let bad = |why: &str| Err(Error::BadRequest(format!("this is no WebSocket handshake (RFC 6455): {why}")));
    if !is_wanted(call) {
        return bad("send GET over HTTP/1.1 with Connection: Upgrade and Upgrade: websocket");
    }
    if !has_token(call, header::CONNECTION, "upgrade") {
        return bad("the header Connection does not say Upgrade");
    }
    if call.headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return bad("Sec-WebSocket-Version is not 13");
    }
    let Some(key) = call.header(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
        return bad("Sec-WebSocket-Key is not 16 bytes in base64");
    };
    match call.take_upgrade() {
        Some(upgrade) => Ok((upgrade, derive_accept_key(key.as_bytes()))),
        None => bad("it takes GET over HTTP/1.1; other methods and HTTP/2 cannot be upgraded"),
    }
}

/// Whether a header that is a list holds a word, in whatever case.
pub(super) fn has_token(call: &Call, name: HeaderName, token: &str) -> bool {
    let values = call.headers.get_all(name);
    let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Sixteen bytes in base64: 22 digits and two of padding.
fn is_key(key: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix("==").is_some_and(|digits| digits.len() == 22 && digits.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for key in
            ["", "==", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZ!==", "dGhlIHNhbXBsZSBub25jZQAA=="]
        {
            assert!(!is_key(key), "{key}");
        }
    }
}
