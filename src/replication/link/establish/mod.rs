//! Establishes a link: the exchange of `handshake` over a WebSocket, encrypted by Noise. It ends with a link on both
//! sides, or with the reason on both sides as far as the other may know it. Limited in time and in bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Frame,
        protocol::{CloseFrame, Role as SocketRole, frame::coding::CloseCode},
    },
};

use super::{
    BoxedDuplex, CLOSE_TIMEOUT, Link, Socket, Traffic,
    admission::Admission,
    connect::{self, Network},
    error::{LinkError, sanitize},
    handshake::{
        HANDSHAKE_TIMEOUT, HandshakeMessage, Hello, Offset, Refusal, Role, Verdict, WireHello, decide,
    },
    noise::{Initiator, Opener, Responder, Sealer},
    secret::Secrets,
    socket_error,
};
use crate::{core::clock::NodeId, replication::link, storage::Environment};

/// Longest handshake message, in bytes.
const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// WebSocket close codes, from the range for applications. No secret in common.
const CLOSE_SECRET: u16 = 4401;
/// What arrived is not a handshake.
const CLOSE_BROKEN: u16 = 4400;

/// This node's side of all its links.
#[derive(Clone)]
pub struct Local {
    /// Its hello. `reached_as` and `now_ms` are filled in for each link.
    pub hello: Hello,
    /// Its secrets.
    pub secrets: Secrets,
    /// How far clocks may differ, in milliseconds.
    pub drift_max_ms: u64,
    /// Its clock, which also records the clocks of other nodes.
    pub environment: Environment,
    /// How it reaches the others.
    pub network: Arc<dyn Network>,
}

/// Links with the node at `address`. The name is resolved on every call. If it has several addresses, the first that
/// can be reached and is not this node itself is used.
///
/// # Errors
/// Why there is no link. "This is the node itself" only if no other address can be reached.
pub async fn dial(address: &str, local: &Local) -> Result<Link, LinkError> {
    let mut failed = None;
    for remote in connect::look_up(local.network.as_ref(), address).await? {
        match dial_at(remote, address, local).await {
            Err(error @ LinkError::Unreachable { .. }) => failed = Some(error),
            Err(error) if error.is_itself() => failed = failed.or(Some(error)),
            outcome => return outcome,
        }
    }
    Err(failed.expect("a name has one address at least"))
}

async fn dial_at(remote: SocketAddr, address: &str, local: &Local) -> Result<Link, LinkError> {
    let mut outcome = Err(LinkError::SecretDiffers);
    for key in local.secrets.link_keys() {
        let stream = connect::connect(local.network.as_ref(), address, remote).await?;
        outcome = initiate(stream, remote, address, &key, local).await;
        if !matches!(outcome, Err(LinkError::SecretDiffers)) {
            break;
        }
    }
    outcome
}

/// Establishes a link over a new connection to `address`, with one key of a secret.
///
/// # Errors
/// Why there is no link.
pub async fn initiate(
    stream: BoxedDuplex,
    remote: SocketAddr,
    address: &str,
    key: &[u8; 32],
    local: &Local,
) -> Result<Link, LinkError> {
    if !local.secrets.allow(remote.ip()) {
        return Err(LinkError::NeedsSecret);
    }
    let linking = async {
        let (stream, traffic) = link::counted(stream);
        let socket = connect::upgrade(stream, address).await?;
        Handshake { socket, traffic, remote, local, role: Role::Initiator }.initiate(address, key).await
    };
    timeout(HANDSHAKE_TIMEOUT, linking).await.unwrap_or(Err(LinkError::TimedOut))
}

/// Establishes a link over an incoming connection that was upgraded to a WebSocket.
///
/// # Errors
/// Why there is no link. The other side has been told, as far as it may know.
pub async fn accept(
    stream: BoxedDuplex,
    remote: SocketAddr,
    admission: Admission,
    local: &Local,
) -> Result<Link, LinkError> {
    let linking = async {
        let (stream, traffic) = link::counted(stream);
        let socket = WebSocketStream::from_raw_socket(stream, SocketRole::Server, Some(link::config())).await;
        Handshake { socket, traffic, remote, local, role: Role::Responder }.respond().await
    };
    let outcome = tokio::select! {
        outcome = timeout(HANDSHAKE_TIMEOUT, linking) => outcome.unwrap_or(Err(LinkError::TimedOut)),
        () = admission.evicted() => Err(LinkError::Lost("the handshake took too long and made room for others".into())),
    };
    if outcome.as_ref().is_err_and(LinkError::is_failed_attempt) {
        admission.fail();
    }
    outcome
}

/// A handshake in progress.
struct Handshake<'a> {
    socket: Socket,
    traffic: Arc<Traffic>,
    remote: SocketAddr,
    local: &'a Local,
    role: Role,
}

impl Handshake<'_> {
    async fn initiate(mut self, address: &str, key: &[u8; 32]) -> Result<Link, LinkError> {
        let mut noise = Initiator::new(key)?;
        let sent = Instant::now();
        let hello = WireHello::of(&self.local.hello, address, self.local.environment.now_ms());
        let first = noise.first(&HandshakeMessage::Hello(hello).encode()?)?;
        self.send(first.into()).await?;
        let second = self.receive().await?;
        let (round_trip, received_ms) = (sent.elapsed(), self.local.environment.now_ms());
        let (payload, mut sealer, mut opener) = noise.second(&second)?;
        let message = HandshakeMessage::decode(&payload)?;
        self.observe_clock(&message, round_trip);
        let remote = expect_hello(message)?;
        let offset = Offset::of_round_trip(remote.now_ms, received_ms, round_trip);
        let verdict = match self.decide(&remote, offset) {
            Ok(verdict) => verdict,
            Err(refusal) => {
                self.send_sealed(&mut sealer, &self.refusal(&refusal)).await?;
                self.close_with(CloseCode::Normal, "refused").await;
                return Err(LinkError::Refusing(refusal));
            }
        };
        self.send_sealed(&mut sealer, &HandshakeMessage::Agreed(self.local.hello.cluster.digest_key)).await?;
        let message = self.receive_sealed(&mut opener).await?;
        self.finish(message, remote, verdict, offset, (sealer, opener))
    }

    async fn respond(mut self) -> Result<Link, LinkError> {
        let first = self.receive().await?;
        let received_ms = self.local.environment.now_ms();
        let (payload, noise) = match Responder::new(&self.local.secrets.link_keys(), &first) {
            Ok(read) => read,
            Err(error) => {
                let (code, reason) = match error {
                    LinkError::SecretDiffers => (CLOSE_SECRET, "secret differs: see CLUSTER_SECRET"),
                    _ => (CLOSE_BROKEN, "not a handshake of a link"),
                };
                self.close_with(code.into(), reason).await;
                return Err(error);
            }
        };
        let remote = expect_hello(HandshakeMessage::decode(&payload)?)?;
        let offset = Offset::of_arrival(remote.now_ms, received_ms);
        let decision = self.decide(&remote, offset);
        let answer = match &decision {
            Ok(_) => {
                HandshakeMessage::Hello(WireHello::of(&self.local.hello, "", self.local.environment.now_ms()))
            }
            Err(refusal) => self.refusal(refusal),
        };
        let (second, mut sealer, mut opener) = noise.second(&answer.encode()?)?;
        self.send(second.into()).await?;
        let verdict = match decision {
            Ok(verdict) => verdict,
            Err(refusal) => {
                self.close_with(CloseCode::Normal, "refused").await;
                return Err(LinkError::Refusing(refusal));
            }
        };
        // Everything so far may have been a replayed recording.
        let message = self.receive_sealed(&mut opener).await?;
        if matches!(message, HandshakeMessage::Agreed(_)) {
            self.send_sealed(&mut sealer, &HandshakeMessage::Agreed(self.local.hello.cluster.digest_key))
                .await?;
        }
        self.finish(message, remote, verdict, offset, (sealer, opener))
    }

    fn decide(&self, remote: &Hello, offset: Offset) -> Result<Verdict, Refusal> {
        decide(&self.local.hello, remote, self.role, offset, self.local.drift_max_ms)
    }

    fn refusal(&self, refusal: &Refusal) -> HandshakeMessage {
        HandshakeMessage::Refusal(refusal.clone(), self.local.hello.node, self.local.environment.now_ms())
    }

    /// Records the clock of the node that answered, even if it refuses. Only an answer counts: it cannot be a
    /// recording.
    fn observe_clock(&self, answer: &HandshakeMessage, round_trip: Duration) {
        let (node, theirs_ms): (NodeId, u64) = match answer {
            HandshakeMessage::Hello(hello) => hello.clock(),
            HandshakeMessage::Refusal(_, node, theirs_ms) => (*node, *theirs_ms),
            HandshakeMessage::Agreed(_) => return,
        };
        if node != self.local.hello.node {
            let round_trip_ms = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
            self.local.environment.observe_peer_clock(node, theirs_ms, round_trip_ms, 0);
        }
    }

    /// Completes the handshake with the other side's last message.
    fn finish(
        self,
        message: HandshakeMessage,
        mut remote: Hello,
        verdict: Verdict,
        offset: Offset,
        (sealer, opener): (Sealer, Opener),
    ) -> Result<Link, LinkError> {
        remote.cluster.digest_key = match message {
            HandshakeMessage::Agreed(digest_key) => digest_key,
            HandshakeMessage::Refusal(refusal, ..) => return Err(refused(refusal)),
            HandshakeMessage::Hello(_) => return Err(unexpected_message()),
        };
        let (role, remote_address) = (self.role, self.remote);
        let traffic = self.traffic;
        let (sender, receiver) = link::halves(self.socket, sealer, opener, &traffic);
        Ok(Link { remote, remote_address, role, verdict, offset, sender, receiver, traffic })
    }

    async fn send_sealed(
        &mut self,
        sealer: &mut Sealer,
        message: &HandshakeMessage,
    ) -> Result<(), LinkError> {
        let mut plain = vec![0];
        plain.extend(message.encode()?);
        let (frame, more) = sealer.seal(&mut plain, 0)?;
        assert!(more.is_none(), "a handshake message fits a frame");
        self.send(frame).await
    }

    async fn receive_sealed(&mut self, opener: &mut Opener) -> Result<HandshakeMessage, LinkError> {
        let frame = self.receive().await?;
        let opened = opener.open(&frame, HANDSHAKE_BYTES_MAX)?;
        HandshakeMessage::decode(opened.ok_or_else(unexpected_message)?.bytes())
    }

    async fn send(&mut self, frame: Bytes) -> Result<(), LinkError> {
        self.socket.send(Frame::Binary(frame)).await.map_err(LinkError::lost)
    }

    async fn receive(&mut self) -> Result<bytes::Bytes, LinkError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Frame::Binary(frame))) => return Ok(frame),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                Some(Ok(Frame::Close(close))) => return Err(closed(close)),
                Some(Ok(Frame::Text(_) | Frame::Frame(_))) => {
                    return Err(LinkError::Broken("not a handshake: the frame is not binary".into()));
                }
                Some(Err(error)) => return Err(socket_error(error)),
                None => return Err(closed(None)),
            }
        }
    }

    /// Closes with a reason, and waits a moment so that it arrives.
    async fn close_with(&mut self, code: CloseCode, reason: &'static str) {
        let closing = async {
            let close = CloseFrame { code, reason: reason.into() };
            if self.socket.close(Some(close)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // A peer that does not read was told as far as possible.
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

fn expect_hello(message: HandshakeMessage) -> Result<Hello, LinkError> {
    match message {
        HandshakeMessage::Hello(hello) => Ok(hello.into_hello()),
        HandshakeMessage::Refusal(refusal, ..) => Err(refused(refusal)),
        HandshakeMessage::Agreed(_) => Err(unexpected_message()),
    }
}

fn refused(refusal: Refusal) -> LinkError {
    LinkError::Refused(Refusal { kind: refusal.kind, text: sanitize(&refusal.text) })
}

fn unexpected_message() -> LinkError {
    LinkError::Broken("the other side sent an unexpected handshake message".into())
}

/// Why the other side closed during the handshake.
fn closed(close: Option<CloseFrame>) -> LinkError {
    match close {
        Some(close) if close.code == CloseCode::from(CLOSE_SECRET) => LinkError::SecretDiffers,
        Some(close) => LinkError::Lost(format!("closed by the other side: {}", sanitize(&close.reason))),
        None => LinkError::Lost("closed by the other side during the handshake".into()),
    }
}

#[cfg(test)]
mod tests;
