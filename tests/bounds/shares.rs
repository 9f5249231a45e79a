//! What one address may have: none shuts all others out, by connections, by requests, by bodies that drip, by handshakes that hang, or by counts
//! of long tables.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::threads;
use crate::harness::{
    DEADLINE, Node, Setup,
    http::{Connection, Request},
    wait_until,
};

/// A connection to the node from another address of this machine.
fn connect_from(source: [u8; 4], node: &Node) -> Connection {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("every address of 127/8 is this machine's");
    socket.connect(&node.address().into()).expect("connects");
    Connection::over(TcpStream::from(socket)).expect("a connection")
}

fn healthz(connection: &mut Connection) -> Option<u16> {
    connection.try_send(&Request::new("GET", "/healthz")).ok().map(|answer| answer.status)
}

/// 16,384 idle connections of one address shut all others out: of 40 here, 10 are one address's share. By default addresses of this
/// machine have none, which are the ones that a test has.
#[test]
fn connections_of_one_address_leave_room_for_others() {
    let setup = Setup::new().flag("--max-connections", "40").flag("--max-connections-per-address", "10");
    let node = setup.start();
    let mut held = Vec::new();
    wait_until("the address has its share", DEADLINE, || {
        let mut connection = node.connect();
        match healthz(&mut connection) {
            Some(200) => {
                held.push(connection);
                false
            }
            _ => held.len() >= 9,
        }
    });
    assert!(held.len() <= 10, "{} connections of one address", held.len());
    let mut one_more = node.connect();
    let answer = one_more.receive("GET").expect("an answer before anything was asked");
    assert_eq!(answer.expect_header("retry-after"), "1");
    let detail = answer.expect_problem(429, "too-many");
    assert!(detail.contains("127.0.0.1") && detail.contains("--max-connections-per-address"), "{detail}");
    let mut others: Vec<_> = (2..5).map(|last| connect_from([127, 0, 0, last], &node)).collect();
    for other in &mut others {
        assert_eq!(healthz(other), Some(200), "another address is served");
    }
    for connection in &mut held {
        assert_eq!(healthz(connection), Some(200), "those who were there go on");
    }
    held.pop();
    wait_until("a place that was left is free", DEADLINE, || healthz(&mut node.connect()) == Some(200));
}

/// Behind a proxy everybody has one address.
#[test]
fn the_share_is_a_setting() {
    let node = Setup::new().flag("--max-connections", "40").start();
    let mut held: Vec<_> = (0..30).map(|_| node.connect()).collect();
    assert!(held.iter_mut().all(|connection| healthz(connection) == Some(200)));
    let refused = Setup::new().flag("--max-connections-per-address", "0").try_start().err().expect("refused");
    assert!(refused.log.contains("max-connections-per-address"), "{}", refused.log);
}

/// A byte every two seconds kept a body open for ever, as it was never silent for long.
#[test]
fn a_body_that_drips_is_cut_off_and_one_that_flows_is_not() {
    let node = Setup::new().flag("--body-timeout", "400ms").flag("--min-body-rate", "1KiB").start();
    let mut dripping = node.connect();
    let head = b"PUT /t/key/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n";
    dripping.write(head).expect("a head can be sent");
    let begun = Instant::now();
    wait_until("it is answered", DEADLINE, || {
        let _ = dripping.write(b" ");
        dripping.has_answer(Duration::from_millis(50))
    });
    let detail = dripping.receive("PUT").expect("an answer").expect_problem(408, "request-timeout");
    assert!(detail.contains("1024 bytes a second"), "{detail}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Slow, but above the rate: a KiB every tenth of a second.
    let mut flowing = node.connect();
    flowing
        .write(b"PUT /t/key/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12288\r\n\r\n")
        .expect("a head can be sent");
    let body = format!("{{\"value\":\"{}\"}}", "v".repeat(12_288 - 12));
    for piece in body.as_bytes().chunks(1024) {
        flowing.write(piece).expect("it is taken");
        assert!(
            !flowing.has_answer(Duration::from_millis(100))
                || piece.len() < 1024
                || body.ends_with(std::str::from_utf8(piece).expect("text"))
        );
    }
    flowing.receive("PUT").expect("an answer").expect(200);
}

/// Requests in flight have a share too: over HTTP/2 a connection has many.
#[test]
fn a_connection_of_http2_has_at_most_32_streams() {
    let node = Node::start();
    let address = node.address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake::<
            _,
            _,
            http_body_util::Empty<bytes::Bytes>,
        >(hyper_util::rt::TokioExecutor::new(), io)
        .await
        .expect("speaks HTTP/2");
        tokio::spawn(connection);
        let mut streams = Vec::new();
        let subscribe = |number: usize| {
            hyper::Request::get(format!("http://{address}/t/subscribe/{number}"))
                .body(http_body_util::Empty::new())
                .expect("a request")
        };
        for number in 0..32 {
            let answer = tokio::time::timeout(DEADLINE, sender.send_request(subscribe(number))).await;
            streams.push(answer.expect("in time").expect("an answer"));
        }
        let one_more =
            tokio::time::timeout(Duration::from_millis(300), sender.send_request(subscribe(32))).await;
        assert!(one_more.is_err(), "the 33rd stream waits for one of the others");
        streams.pop();
    });
}

#[test]
fn requests_in_flight_of_one_address_have_its_share() {
    let node = Setup::new().flag("--max-connections-per-address", "5").start();
    let address = node.address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    wait_until("whoever asked whether the node is up has left", DEADLINE, || {
        runtime.block_on(async {
            let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return false };
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            let Ok((mut sender, connection)) =
                hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(
                    executor, io,
                )
                .await
            else {
                return false;
            };
            tokio::spawn(connection);
            let mut streams = Vec::new();
            for number in 0..6 {
                let request = hyper::Request::get(format!("http://{address}/t/subscribe/{number}"));
                let request = request.body(http_body_util::Empty::new()).expect("a request");
                let Ok(answer) = sender.send_request(request).await else { return false };
                streams.push(answer);
            }
            let statuses: Vec<u16> = streams.iter().map(|answer| answer.status().as_u16()).collect();
            statuses == [200, 200, 200, 200, 200, 429]
        })
    });
}

/// Sixteen handshakes that hung gave honest nodes of the same address 429.
#[test]
fn handshakes_that_hang_keep_no_node_of_their_address_out() {
    let secret = "a secret that both know";
    let node = Setup::new().environment("CLUSTER_SECRET", secret).start();
    let protocol = protocol_of(&node);
    let hang = || {
        let mut connection = node.connect();
        let handshake = format!(
            "GET /_/link HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocol}\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        connection.write(handshake.as_bytes()).expect("a head can be sent");
        assert_eq!(connection.receive("GET").expect("an answer").status, 101);
        connection
    };
    let _hanging: Vec<_> = (0..40).map(|_| hang()).collect();
    let other = Setup::new().environment("CLUSTER_SECRET", secret).join(&node.address().to_string()).start();
    wait_until("an honest node joins", DEADLINE, || {
        node.get("/membership").expect(200).json().as_array().map(Vec::len) == Some(2)
    });
    drop(other);
}

/// Each had a thread, read the whole table, and went on if its client had left.
#[test]
fn counts_take_no_more_threads_than_there_are_processors() {
    let node = Node::start();
    for batch in 0..20 {
        let rows: Vec<String> =
            (0..5000).map(|row| format!(r#"{{"op":"put","key":"k{batch}-{row}","value":{row}}}"#)).collect();
        node.post("/t/batch", rows.join("\n")).expect(200);
    }
    let before = threads(&node);
    let mut counting: Vec<_> = (0..60).map(|_| node.connect()).collect();
    for connection in &mut counting {
        connection.write(b"GET /t/count HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a head can be sent");
    }
    for mut connection in counting {
        connection.receive("GET").expect("an answer").expect_body(r#"{"count":100000}"#);
    }
    let grown = threads(&node).saturating_sub(before);
    let processors = thread::available_parallelism().expect("it is known").get() as u64;
    assert!(grown < processors + 20, "{grown} more threads for 60 counts");
}

/// What a node says that it speaks.
fn protocol_of(node: &Node) -> String {
    let mut connection = node.connect();
    let handshake = "GET /_/link HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: other\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    connection.write(handshake.as_bytes()).expect("a head can be sent");
    let answer = connection.receive("GET").expect("an answer");
    answer.expect_header("sec-websocket-protocol").to_owned()
}
