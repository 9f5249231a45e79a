//! WebSocket: the upgrade, and the sessions after it. `/_/ws` carries many subscriptions and requests on one connection
//! (docs/websocket.md); the paths of event streams carry one subscription and no requests.
//!
//! We do the upgrade ourselves: warp's gives each connection a fixed read buffer of 128 KiB and does not check the key. `server::guard`
//! decides which pages may connect. HTTP/1.1 only; a client on HTTP/2 gets an error that says so.

mod client;
mod end;
mod in_progress;
mod metered;
mod operation;
pub mod request;
mod session;
mod subscription;

use std::sync::Arc;

use hyper::{Method, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};
use warp::reply::Response;

use self::{metered::Metered, session::Session};
use super::{request::Call, response};
use crate::{
    error::Result,
    http::request::{
        hand_over::Successor,
        upgrade::{self, Upgraded},
    },
    node::{Node, Start, Topic},
};

/// Every connection holds one for its whole life, or one for its longest message, so it is small. No system call reads so little: see `Upgraded`.
const READ_BUFFER_BYTES: usize = 256;
/// Messages that are ready together go into one write, up to this size.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// What a message has around its value: the escaped key (six bytes for each of 1024), labels, conditions.
const MESSAGE_SLACK_BYTES: usize = 16 * 1024;

/// A connection after the handshake.
type Socket = WebSocketStream<Metered<Upgraded>>;

/// Serves one client that may send requests and subscribe.
///
/// # Errors
/// As `response::other_method`. A bad handshake gets a response and is not an error.
pub async fn serve(node: &Arc<Node>, call: &Call) -> Result<Response> {
    if call.method != Method::GET && call.method != Method::HEAD {
        return response::other_method(call);
    }
    open(node, call, async { Session::for_requests(node, call) }).await
}

/// Sends the events of `topics` as text frames.
///
/// # Errors
/// As `Node::watch`. A bad handshake gets a response and is not an error.
pub async fn stream(node: &Arc<Node>, call: &Call, topics: Vec<Topic>, start: Start) -> Result<Response> {
    open(node, call, Session::for_events(node, call, topics, start)).await
}

/// Answers the handshake, and runs the session that `session` makes on the connection.
async fn open(node: &Node, call: &Call, session: impl Future<Output = Result<Session>>) -> Result<Response> {
    let accept = match upgrade::handshake(call) {
        Ok(accept) => accept,
        Err(error) => {
            let mut response = response::problem(&error, call);
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, upgrade::VERSION);
            return Ok(response);
        }
    };
    let mut session = session.await?;
    call.connection.expect_events();
    let config = config(node.value_bytes_max());
    let (budget, options) = (Arc::clone(&call.connection.budget), Arc::clone(&call.connection.options));
    let mut response = response::switching_protocols(&accept);
    let run = move |connection| {
        tokio::spawn(async move {
            let connection = Metered::new(connection, budget, options);
            let mut socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
            session.run(&mut socket).await;
        });
    };
    Successor::Protocol(Box::new(run)).attach(&mut response);
    Ok(response)
}

fn config(value_bytes_max: u64) -> WebSocketConfig {
    let message_bytes_max =
        usize::try_from(value_bytes_max).unwrap_or(usize::MAX).saturating_add(MESSAGE_SLACK_BYTES);
    // The write buffer needs no limit of its own: the session hands a message only to a socket that is ready, so the buffer never holds
    // more than its size and one message.
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
}
