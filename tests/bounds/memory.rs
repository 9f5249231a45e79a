//! The budget of bodies and answers.

use std::time::Duration;

use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::{peak_bytes, resident_bytes, status_bytes};
use crate::harness::{
    DEADLINE, Node, Setup,
    http::Connection,
    wait_until,
    ws::{Incoming, Socket},
};

fn put_value(node: &Node, path: &str, bytes: usize) {
    // Noise, so that it is as long on the disk.
    let noise: String = (0..bytes as u64)
        .map(|at| char::from(b'a' + (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 % 26))
        .collect();
    node.put(path, format!(r#"{{"value":"{noise}"}}"#)).expect(200);
}

/// A body of `declared` bytes of which all but the last were sent.
pub(super) fn half_body(node: &Node, bytes: usize) -> Connection {
    let mut connection = node.connect();
    let head = format!("POST /t/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n[", bytes + 1);
    let body = vec![b' '; bytes - 1];
    // The node may answer before it has all of it.
    let _ = connection.write(head.as_bytes()).and_then(|()| connection.write(&body));
    connection
}

/// 40 open bodies of 61 MB held 2.4 GB.
#[test]
fn open_bodies_keep_to_the_budget_and_more_get_503() {
    let node = Setup::new().flag("--max-body", "8MiB").flag("--body-memory", "32MiB").start();
    node.put("/t/key/kept", r#"{"value":1}"#).expect(200);
    let before = resident_bytes(&node);
    let mut held: Vec<Connection> = (0..20).map(|_| half_body(&node, 6 << 20)).collect();
    let mut refused = 0;
    wait_until("some are refused", DEADLINE, || {
        held.retain_mut(|connection| {
            let is_answered = connection.has_answer(Duration::from_millis(5));
            if is_answered {
                let answer = connection.receive("POST").expect("an answer");
                assert_eq!(answer.expect_header("retry-after"), "1");
                answer.expect_problem(503, "overloaded");
                refused += 1;
            }
            !is_answered
        });
        refused >= 10
    });
    let grown = resident_bytes(&node).saturating_sub(before);
    assert!(grown < 80 << 20, "{grown} bytes for a budget of 32 MiB");
    // What is short goes on, and what was held comes back.
    node.put("/t/key/kept", r#"{"value":2}"#).expect(200);
    let metrics = node.get("/metrics").expect(200);
    assert!(metrics.text().contains("dynarust_body_memory_bytes 33554432"), "{}", metrics.text());
    drop(held);
    let batch = format!("[{}]", " ".repeat(6 << 20));
    wait_until("there is room again", DEADLINE, || node.post("/t/batch", batch.as_str()).status == 200);
}

/// A node in a container of 128 MiB sized everything by the memory of its machine, and the system killed it in the middle of a load.
#[test]
fn everything_is_sized_by_the_limit_and_a_body_that_does_not_fit_is_refused_plainly() {
    let node = Setup::new().flag("--memory-budget", "128MiB").start();
    assert!(node.log().contains("memory=128 MiB (--memory-budget)"), "{}", node.log());
    let metrics = node.get("/metrics").expect(200);
    for line in [
        "dynarust_memory_budget_bytes 134217728",
        "dynarust_memory_pressure 0",
        "dynarust_body_memory_bytes 33554432",
    ] {
        assert!(metrics.text().contains(line), "{line}: {}", metrics.text());
    }
    let batch = |bytes: usize| node.post("/t/batch", format!("[{}]", " ".repeat(bytes)));
    batch(15 << 20).expect(200);
    batch(41_000_000).expect_problem(413, "too-large");
}

#[test]
fn a_budget_that_holds_no_batch_is_refused_at_the_start() {
    let refused = Setup::new().flag("--body-memory", "255MiB").try_start().err().expect("it does not start");
    assert!(refused.log.contains("body-memory") && refused.log.contains("max-body"), "{}", refused.log);
}

/// Ten HTTP/2 connections with 250 unread streams each of one value of 1 MB held 2.4 GB.
#[test]
fn answers_that_nobody_reads_share_their_bytes_and_keep_to_the_budget() {
    let node = Setup::new().flag("--max-body", "8MiB").flag("--body-memory", "40MiB").start();
    put_value(&node, "/t/key/big", 1_000_000);
    let before = resident_bytes(&node);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = node.address();
    runtime.block_on(async {
        let mut connections = Vec::new();
        let (mut served, mut refused) = (0, 0);
        for _ in 0..4 {
            let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(
                    executor, io,
                )
                .await
                .expect("speaks HTTP/2");
            tokio::spawn(connection);
            for _ in 0..30 {
                let request = hyper::Request::get(format!("http://{address}/t/key/big"));
                let request = request.body(http_body_util::Empty::new()).expect("a request");
                let answer = tokio::time::timeout(DEADLINE, sender.send_request(request)).await;
                let answer = answer.expect("in time").expect("an answer");
                match answer.status().as_u16() {
                    200 => served += 1,
                    503 => refused += 1,
                    other => panic!("status {other}"),
                }
                // Never read, and not given up.
                connections.push(answer);
            }
        }
        assert!(served >= 30 && refused >= 60, "{served} served, {refused} refused");
        let grown = resident_bytes(&node).saturating_sub(before);
        assert!(grown < 48 << 20, "{grown} bytes for {served} answers of 1 MB");
    });
    drop(runtime);
    // Those who left have given back what they held.
    wait_until("there is room again", DEADLINE, || node.get("/t/key/big").status == 200);
}

/// A client that never opened its window held what it was answered for as long as it liked; so did one that left out the last byte.
#[test]
fn answers_that_nobody_reads_are_dropped_in_time() {
    let limits = ["--max-body", "4MiB", "--body-memory", "16MiB", "--stall-timeout", "2s"];
    let node = limits.chunks(2).fold(Setup::new(), |setup, pair| setup.flag(pair[0], pair[1])).start();
    put_value(&node, "/t/key/big", 1_000_000);
    let whole = u32::try_from(node.get("/t/key/big").expect(200).body.len()).expect("it is short");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    for window in [1, whole - 1] {
        let (mut sender, unread) = runtime.block_on(fill_the_budget(node.address(), window));
        assert!(unread.len() >= 8, "{} answers of 1 MB in 16 MiB", unread.len());
        wait_until("what is not read is given back", DEADLINE, || {
            let metrics = node.get("/metrics").expect(200);
            let used = metrics
                .text()
                .lines()
                .find_map(|line| line.strip_prefix("dynarust_body_memory_used_bytes ")?.parse::<f64>().ok());
            used.expect("it is told") < 500_000.0
        });
        // Not by closing the connection.
        let answer = runtime.block_on(sender.send_request(request_for_big(node.address())));
        assert_eq!(answer.expect("it is open").status(), 200);
        // Who reads on learns that it is not whole.
        for answer in unread {
            let read = runtime.block_on(async {
                let body = http_body_util::BodyExt::collect(answer.into_body());
                tokio::time::timeout(DEADLINE, body).await.expect("in time")
            });
            assert!(read.is_err(), "{} bytes of {whole}", read.expect("it is whole").to_bytes().len());
        }
    }
}

type Unread = Vec<hyper::Response<hyper::body::Incoming>>;
type Sender = hyper::client::conn::http2::SendRequest<http_body_util::Empty<bytes::Bytes>>;

fn request_for_big(address: std::net::SocketAddr) -> hyper::Request<http_body_util::Empty<bytes::Bytes>> {
    let request = hyper::Request::get(format!("http://{address}/t/key/big"));
    request.body(http_body_util::Empty::new()).expect("a request")
}

/// Asks over one connection until there is no memory for one more answer.
async fn fill_the_budget(address: std::net::SocketAddr, window: u32) -> (Sender, Unread) {
    let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(executor)
        .initial_stream_window_size(window)
        .initial_connection_window_size(64 << 20)
        .handshake(hyper_util::rt::TokioIo::new(stream))
        .await
        .expect("speaks HTTP/2");
    // Goes on to answer what asks whether it is alive.
    tokio::spawn(connection);
    let mut unread = Vec::new();
    loop {
        let answer = tokio::time::timeout(DEADLINE, sender.send_request(request_for_big(address))).await;
        let answer = answer.expect("in time").expect("an answer");
        match answer.status().as_u16() {
            200 => unread.push(answer),
            503 => return (sender, unread),
            other => panic!("status {other}"),
        }
    }
}

/// The same over a WebSocket, whose messages are bodies too: those that are on their way as well as those that are dealt with.
#[test]
fn messages_on_their_way_keep_to_the_budget() {
    let node = Setup::new().flag("--max-body", "1MiB").flag("--body-memory", "4MiB").start();
    let before = resident_bytes(&node);
    let open = || {
        let mut connection = node.connect();
        let handshake = "GET /_/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        connection.write(handshake.as_bytes()).expect("a head can be sent");
        assert_eq!(connection.receive("GET").expect("an answer").status, 101);
        // A text frame of 1,000,000 bytes, masked by zeros, of which the last never comes.
        let frame = [&[0x81, 0xff][..], &1_000_000_u64.to_be_bytes(), &[0; 4], &vec![b' '; 999_999]].concat();
        let _ = connection.write(&frame);
        connection
    };
    let mut held: Vec<Connection> = (0..20).map(|_| open()).collect();
    wait_until("most are closed", DEADLINE, || {
        held.retain_mut(|connection| !connection.is_closed(Duration::from_millis(2)));
        held.len() <= 4
    });
    let grown = resident_bytes(&node).saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes for a budget of 4 MiB");
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
}

/// Fragments without an end held their part of the budget for as long as their client answered pings.
#[test]
fn a_message_that_does_not_come_on_ends_its_connection() {
    let node = Setup::new().flag("--min-body-rate", "1MiB").start();
    let open = || Socket::open(node.address(), "/_/ws");
    // The keep-alives, at which a node looks, are dealt out over a period: the first one of the last of so many is a second away, not fifteen.
    let _others: Vec<_> = (0..24).map(|_| open()).collect();
    let mut socket = open();
    socket.send_message(Message::Frame(Frame::message(vec![b' '; 100_000], OpCode::Data(Data::Text), false)));
    assert_eq!(socket.next_within(Duration::from_secs(60)), Incoming::Close(1008));
}

/// Histograms that nobody uses took 21 MB of each node.
#[test]
fn a_node_without_rows_takes_little() {
    let node = Node::start();
    node.get("/healthz").expect(200);
    let own = status_bytes(&node, "RssAnon:");
    assert!(own < 16 << 20, "{own} bytes");
}

/// A batch of a million deletes, 41 MB, took 3.3 GB.
#[test]
fn a_batch_takes_less_than_four_times_its_body() {
    let node = Setup::new().flag("--max-batch-ops", "1000000").start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let lines: String =
        (0..40_000).map(|row| format!("{{\"op\":\"delete\",\"key\":\"k{row:010}\"}}\n")).collect();
    let before = peak_bytes(&node);
    node.post("/t/batch", lines.as_str()).expect(200);
    let grown = peak_bytes(&node).saturating_sub(before);
    // And what a process takes for whatever it does.
    let limit = 4 * lines.len() as u64 + (24 << 20);
    assert!(grown < limit, "{grown} bytes for a body of {}", lines.len());
}

#[test]
fn an_import_takes_no_more_memory_however_long_it_is() {
    let node = Node::start();
    let rows = |from: u32| -> String {
        (from..from + 20_000)
            .map(|row| format!("{{\"table\":\"t\",\"key\":\"k{row}\",\"value\":\"{}\"}}\n", "v".repeat(200)))
            .collect()
    };
    node.post("/_/import", rows(0)).expect(200);
    let before = peak_bytes(&node);
    node.post("/_/import", rows(20_000) + &rows(40_000)).expect(200);
    let grown = peak_bytes(&node).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more for twice as many rows");
}
