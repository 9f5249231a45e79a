//! What goes wrong on the wire, or is made to: rubbish, changed and repeated bytes, recordings, other versions. The link ends,
//! and the node goes on.

use dynarust::{
    core::{clock::NodeId, protocol::message::PROTOCOL},
    http,
    replication::link::{Link, connect::subprotocol, error::LinkError, establish},
};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest},
};

use super::{NEW, OLD, Server, local, rows};
use crate::harness::DEADLINE;

async fn server() -> Server {
    Server::start(&[OLD], http::Options::default()).await
}

async fn web_socket(server: &Server) -> WebSocketStream<tokio::net::TcpStream> {
    let mut request = format!("ws://{}/_/link", server.address).into_client_request().expect("a request");
    let protocol = subprotocol().parse().expect("a header value");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    client_async(request, server.connect().await).await.expect("a WebSocket").0
}

fn upgrade(headers: &str) -> String {
    format!(
        "GET /_/link HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// Between a node that dials and the one that it reaches: passes on what both say, piece by piece as it is written, after
/// `meddle` had a look at what the dialing one says. Counts from 0, the request.
async fn between(
    server: &Server,
    mut meddle: impl FnMut(usize, Vec<u8>) -> Vec<u8> + Send + 'static,
) -> DuplexStream {
    let (near, far) = duplex(1 << 20);
    let (mut from_server, mut to_server) = server.connect().await.into_split();
    let (mut from_near, mut to_near) = tokio::io::split(far);
    tokio::spawn(async move {
        // Both end when one side closes.
        let _ = tokio::io::copy(&mut from_server, &mut to_near).await;
        let _ = to_near.shutdown().await;
    });
    tokio::spawn(async move {
        let mut piece = vec![0; 1 << 20];
        for number in 0.. {
            let Ok(length @ 1..) = from_near.read(&mut piece).await else { return };
            if to_server.write_all(&meddle(number, piece[..length].to_vec())).await.is_err() {
                return;
            }
        }
    });
    near
}

#[tokio::test]
async fn rubbish_ends_the_attempt_and_nothing_else() {
    let server = server().await;
    let lengths = [vec![], vec![0], vec![0xff; 47], vec![0xff; 48], vec![7; 4096], vec![9; 200_000]];
    let frames = lengths.into_iter().map(Frame::binary);
    let longer_than_a_frame = Frame::binary(vec![0; 300_000]);
    for frame in frames.chain([Frame::text("{}"), longer_than_a_frame]) {
        let mut socket = web_socket(&server).await;
        socket.send_or_gone(frame).await;
        until_gone(socket).await;
    }
    // No WebSocket at all after the upgrade.
    let bytes = upgrade(&format!("sec-websocket-protocol: {}\r\n", subprotocol()))
        + "\u{7f}no frames here, just text";
    assert!(server.exchange(&bytes).await.starts_with("HTTP/1.1 101"));
    server.expect_serving().await;
    assert_eq!(server.others(), []);
}

/// Returns when the other side has ended the connection.
async fn until_gone(mut socket: WebSocketStream<tokio::net::TcpStream>) {
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(DEADLINE, ended).await.expect("the node ends it");
}

trait SendOrGone {
    /// Sends a frame that the other side may refuse while it is on its way.
    async fn send_or_gone(&mut self, frame: Frame);
}

impl SendOrGone for WebSocketStream<tokio::net::TcpStream> {
    async fn send_or_gone(&mut self, frame: Frame) {
        let _ = self.send(frame).await;
    }
}

#[tokio::test]
async fn a_handshake_with_a_bit_flipped_is_no_handshake() {
    // Piece 1 is the first message, piece 2 the confirmation.
    for flipped in [1, 2] {
        let server = server().await;
        let meddle = move |number, mut piece: Vec<u8>| {
            if number == flipped {
                *piece.last_mut().expect("not empty") ^= 1;
            }
            piece
        };
        let dialed = initiate(&server, between(&server, meddle).await).await;
        assert!(dialed.is_err(), "piece {flipped}");
        server.expect_serving().await;
        assert_eq!(server.others(), [], "piece {flipped}");
    }
}

async fn initiate(server: &Server, stream: DuplexStream) -> Result<Link, LinkError> {
    let local = local(1, &[OLD]);
    let key = local.secrets.link_keys()[0];
    establish::initiate(Box::new(stream), server.address, "a:1", &key, &local).await
}

#[tokio::test]
async fn a_recorded_handshake_makes_no_link() {
    let server = server().await;
    let (recorder, mut recording) = tokio::sync::mpsc::unbounded_channel();
    let meddle = move |_, piece: Vec<u8>| {
        recorder.send(piece.clone()).expect("the test listens");
        piece
    };
    let dialed = initiate(&server, between(&server, meddle).await).await.expect("linked");
    server.until_linked(NodeId(1)).await;
    drop(dialed);
    server.until_unlinked(NodeId(1)).await;

    let mut replayed = server.connect().await;
    let mut answer = [0; 4096];
    for what in ["request", "first message", "confirmation"] {
        let piece = recording.recv().await.expect("recorded");
        replayed.write_all(&piece).await.expect(what);
        if what != "confirmation" {
            // The node answers both: so much anyone can have.
            let read = timeout(DEADLINE, replayed.read(&mut answer)).await;
            assert!(read.expect("an answer in time").expect(what) > 0, "{what}");
        }
    }
    let mut rest = Vec::new();
    let ended = timeout(DEADLINE, replayed.read_to_end(&mut rest)).await;
    ended.expect("the node ends it").expect("readable");
    assert!(rest.len() < 200, "a farewell, and no round: {} bytes", rest.len());
    assert!(server.others().iter().all(|member| !member.linked));
    server.expect_serving().await;
}

#[tokio::test]
async fn frames_changed_repeated_cut_or_left_out_end_the_link() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let spoils: [(&str, Spoil); 4] = [
        ("changed", |mut piece| {
            *piece.last_mut().expect("not empty") ^= 0x40;
            piece
        }),
        ("repeated", |piece| [&piece[..], &piece[..]].concat()),
        ("left out", |_| Vec::new()),
        ("rubbish", |piece| vec![0x82; piece.len()]),
    ];
    for (what, spoil) in spoils {
        let server = server().await;
        // Pieces up to 2 are the handshake.
        let stream =
            between(&server, move |number, piece| if number == 3 { spoil(piece) } else { piece }).await;
        let Link { mut sender, mut receiver, .. } = initiate(&server, stream).await.expect("linked");
        server.until_linked(NodeId(1)).await;
        let ended = async { while let Ok(Some(_)) = receiver.next().await {} };
        let sending = async {
            // What is not understood ends it, and not that nothing is heard.
            loop {
                let _ = sender.send(&rows(10)).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = timeout(DEADLINE, ended) => assert!(ended.is_ok(), "{what}: the link stands"),
            () = sending => {}
        }
        server.until_unlinked(NodeId(1)).await;
        server.expect_serving().await;
    }
}

#[tokio::test]
async fn another_version_is_told_both_and_what_to_do() {
    let server = server().await;
    for other in ["dynarust.link.1", "dynarust.link.21", "chat"] {
        let answer = server.exchange(&upgrade(&format!("sec-websocket-protocol: {other}\r\n"))).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains(&format!("speaks version {PROTOCOL}")) && answer.contains(other), "{answer}");
        assert!(answer.contains("same version of DynaRust on both"), "{answer}");
        assert!(answer.contains(&format!("sec-websocket-protocol: {}", subprotocol())), "{answer}");
    }
    assert!(server.exchange(&upgrade("")).await.contains("a version it does not name"));
    assert_eq!(server.others(), []);
}

#[tokio::test]
async fn strangers_of_another_version_are_soon_told_to_wait_and_never_at_length() {
    let server = server().await;
    let header = format!("sec-websocket-protocol: {}\r\n", "x".repeat(4096));
    let first = server.exchange(&upgrade(&header)).await;
    assert!(first.starts_with("HTTP/1.1 400") && first.len() < 2048, "{} bytes", first.len());
    for _ in 0..200 {
        if server.exchange(&upgrade(&header)).await.starts_with("HTTP/1.1 429") {
            return;
        }
    }
    panic!("a stranger is answered, and logged, without end");
}

#[tokio::test]
async fn pages_in_a_browser_and_plain_requests_are_turned_away() {
    let server = server().await;
    let headers =
        format!("sec-websocket-protocol: {}\r\norigin: http://{}\r\n", subprotocol(), server.address);
    let answer = server.exchange(&upgrade(&headers)).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("pages"), "{answer}");
    let answer = server.get("/_/link").await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("not a valid WebSocket handshake"),
        "{answer}"
    );
    let post = "POST /_/link HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert!(server.exchange(post).await.starts_with("HTTP/1.1 405"));
    assert_eq!(server.others(), []);
}

#[tokio::test]
async fn whoever_answers_in_the_place_of_a_node_gets_no_link() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    for (answer, words) in [
        (
            "HTTP/1.1 400 Bad Request\r\nsec-websocket-protocol: dynarust.link.9\r\ncontent-length: 0\r\n\r\n",
            "version 9",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "HTTP status 200"),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not answer like a node"),
        ("", "connection was lost"),
    ] {
        let answering = async {
            let (mut stream, _) = listener.accept().await.expect("dialed");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.expect("a request");
            assert!(length > 0);
            stream.write_all(answer.as_bytes()).await.expect("answered");
        };
        let dialing = local(1, &[NEW]);
        let (dialed, ()) = tokio::join!(establish::dial(&address, &dialing), answering);
        let error = dialed.expect_err("no node").to_string();
        assert!(error.contains(words), "{answer:?}: {error}");
    }
}
