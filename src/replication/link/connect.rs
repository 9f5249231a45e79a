//! Connects to an address: resolves the name, opens a connection, and upgrades it to a WebSocket of the link protocol.

use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error as SocketError,
        client::IntoClientRequest,
        error::ProtocolError,
        http::{HeaderValue, Response, header},
    },
};

use super::{
    BoxedDuplex,
    error::{Cause, LinkError, sanitize},
};
use crate::{core::protocol::message::PROTOCOL, replication::link};

/// The path of the link endpoint.
pub const PATH: &str = "/_/link";
/// The subprotocol's name before the version.
const PROTOCOL_NAME: &str = "dynarust.link.";

/// For the name lookup, and for each address it returns.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a silent connection is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long sent data may stay unacknowledged before the system drops the connection.
#[cfg(target_os = "linux")]
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The WebSocket subprotocol of links.
pub fn subprotocol() -> String {
    format!("{PROTOCOL_NAME}{PROTOCOL}")
}

/// The network, as nodes see it.
pub trait Network: Send + Sync {
    /// Resolves a name or an IP address, with its port.
    fn look_up<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;

    /// Connects, with the socket options of a link.
    fn connect(&self, target: SocketAddr) -> BoxFuture<'_, io::Result<BoxedDuplex>>;

    /// The local address used to reach another. Sends nothing.
    ///
    /// # Errors
    /// If there is no route.
    fn local_towards(&self, remote: SocketAddr) -> io::Result<SocketAddr>;
}

/// The operating system's network.
#[derive(Clone, Copy, Debug)]
pub struct SystemNetwork;

impl Network for SystemNetwork {
    fn look_up<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(lookup_host(address).await?.collect()) }.boxed()
    }

    fn connect(&self, target: SocketAddr) -> BoxFuture<'_, io::Result<BoxedDuplex>> {
        async move {
            let stream = TcpStream::connect(target).await?;
            set_options(&stream)?;
            Ok(Box::new(stream) as BoxedDuplex)
        }
        .boxed()
    }

    fn local_towards(&self, remote: SocketAddr) -> io::Result<SocketAddr> {
        let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(remote)?;
        socket.local_addr()
    }
}

/// Resolves an address to at least one socket address.
pub(in crate::replication) async fn look_up(
    network: &dyn Network,
    address: &str,
) -> Result<Vec<SocketAddr>, LinkError> {
    match timeout(CONNECT_TIMEOUT, network.look_up(address)).await {
        Ok(Ok(addresses)) if addresses.is_empty() => {
            Err(unreachable(Cause::UnknownName, address, "the name has no address"))
        }
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => {
            let why = format_args!(
                "the name is unknown ({error}): check the spelling, and that this machine can resolve it"
            );
            Err(unreachable(Cause::UnknownName, address, why))
        }
        Err(_) => {
            let why = format_args!("the name is unknown: no name server answers within {CONNECT_TIMEOUT:?}");
            Err(unreachable(Cause::UnknownName, address, why))
        }
    }
}

/// Connects to one of the socket addresses of `address`.
pub(in crate::replication) async fn connect(
    network: &dyn Network,
    address: &str,
    target: SocketAddr,
) -> Result<BoxedDuplex, LinkError> {
    match timeout(CONNECT_TIMEOUT, network.connect(target)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let why = format_args!("{target} refuses the connection: no node listens there");
            Err(unreachable(Cause::Refused, address, why))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(no_answer(address, target)),
        Ok(Err(error)) => Err(unreachable(Cause::Other, address, format_args!("{target}: {error}"))),
        Err(_) => Err(no_answer(address, target)),
    }
}

fn no_answer(address: &str, target: SocketAddr) -> LinkError {
    let why = format_args!(
        "{target} does not answer within {CONNECT_TIMEOUT:?}: the machine is down, or a firewall drops what is sent there"
    );
    unreachable(Cause::Silent, address, why)
}

fn unreachable(cause: Cause, address: &str, why: impl fmt::Display) -> LinkError {
    LinkError::Unreachable { cause, text: format!("{address} cannot be reached: {why}") }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(KEEPALIVE_INTERVAL / 3),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(STALL_TIMEOUT))?;
    Ok(())
}

/// Asks the node at the other end to upgrade the connection to a WebSocket for a link.
pub(in crate::replication) async fn upgrade(
    stream: BoxedDuplex,
    address: &str,
) -> Result<WebSocketStream<BoxedDuplex>, LinkError> {
    let mut request = format!("ws://{address}{PATH}").into_client_request().map_err(|error| {
        unreachable(Cause::UnknownName, address, format_args!("it is not an address: {error}"))
    })?;
    let protocol =
        HeaderValue::try_from(subprotocol()).expect("letters, dots and digits are a valid header value");
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    match client_async_with_config(request, stream, Some(link::config())).await {
        Ok((socket, _)) => Ok(socket),
        Err(SocketError::Http(response)) => Err(upgrade_refused(address, &response)),
        Err(SocketError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_))) => {
            Err(LinkError::OtherProtocol { remote: "none or another".into() })
        }
        Err(SocketError::Io(error)) => Err(LinkError::lost(error)),
        Err(error @ SocketError::Protocol(ProtocolError::HandshakeIncomplete)) => Err(LinkError::lost(error)),
        Err(error) => Err(LinkError::NotANode(format!("{address} does not answer like a node: {error}"))),
    }
}

/// Reads an answer other than "switching protocols".
fn upgrade_refused(address: &str, response: &Response<Option<Vec<u8>>>) -> LinkError {
    let text = |value: &HeaderValue| value.to_str().map(sanitize).ok();
    if let Some(remote) = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(text) {
        let version = remote.strip_prefix(PROTOCOL_NAME).map(|version| format!("version {version}"));
        return LinkError::OtherProtocol { remote: version.unwrap_or(remote) };
    }
    let body = response.body().as_deref().unwrap_or_default();
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    let status = response.status().as_u16();
    match detail {
        Some(detail) => LinkError::Answered { status, detail: sanitize(detail) },
        None => LinkError::NotANode(format!(
            "{address} does not answer like a node: it refuses the link with HTTP status {status} and gives no reason"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, protocol: Option<&str>, body: &str) -> LinkError {
        let mut response = Response::builder().status(status);
        if let Some(protocol) = protocol {
            response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        upgrade_refused("a:1", &response.body(Some(body.as_bytes().to_vec())).expect("a response"))
    }

    #[test]
    fn a_node_of_another_version_is_told_apart_from_one_that_refuses_links() {
        let other = answer(400, Some("dynarust.link.7"), "").to_string();
        assert!(
            other.contains(&format!("speaks version {PROTOCOL}")) && other.contains("other speaks version 7"),
            "{other}"
        );
        assert!(other.contains("same version of DynaRust on both"), "{other}");
        let alone = answer(503, None, r#"{"detail":"it serves\nalone"}"#);
        assert_eq!(alone, LinkError::Answered { status: 503, detail: "it serves alone".into() });
        for nothing in ["", "<html>", "[]", "7"] {
            assert!(answer(404, None, nothing).to_string().contains("404"), "{nothing}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_address_is_named_with_the_reason() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = listener.local_addr().expect("an address").to_string();
        drop(listener);
        for (address, cause) in [
            (closed.as_str(), Cause::Refused),
            ("no-such-name.invalid:1", Cause::UnknownName),
            ("no port", Cause::UnknownName),
        ] {
            let reaching = async {
                let targets = look_up(&SystemNetwork, address).await?;
                connect(&SystemNetwork, address, targets[0]).await
            };
            let error = reaching.await.err().expect("nobody");
            assert_eq!(error.cause(), Some(cause), "{error}");
            let error = error.to_string();
            assert!(error.contains(address) && error.contains("cannot be reached"), "{error}");
        }
    }
}
