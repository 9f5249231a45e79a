//! What all responses and connections have in common: line ends, invalid requests, and how long an idle connection stays open.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::harness::{DEADLINE, Node, Setup, http::Request, ws::Socket};

/// The bodies of the oldest routes end with their last bracket, to the byte; all other JSON ends with a line break.
#[test]
fn only_the_oldest_routes_answer_without_a_line_end() {
    let node = Node::start();
    let put = node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    assert!(put.text().starts_with("{\"version\":") && put.text().ends_with('}'), "{put}");
    for (method, path, body, exact) in [
        ("GET", "/t/key/a", "", r#"{"value":1}"#.to_owned()),
        ("GET", "/t/keys", "", r#"["a"]"#.into()),
        ("POST", "/t/keys", r#"["a"]"#, r#"{"a":1}"#.into()),
        ("GET", "/t/store", "", r#"{"a":1}"#.into()),
        ("GET", "/membership", "", format!(r#"["{}"]"#, node.address())),
        ("DELETE", "/t/key/a", "", r#"{"deleted":true}"#.into()),
    ] {
        let answer = node.send(&Request::new(method, path).body(body)).expect(200);
        assert_eq!(answer.text(), exact, "{method} {path}");
    }
    for path in [
        "/t/count",
        "/_/tables",
        "/_/cluster",
        "/stats",
        "/healthz",
        "/readyz",
        "/version",
        "/nothing",
        "/_/ws",
    ] {
        let answer = node.get(path);
        assert!(answer.text().ends_with("}\n") || answer.text().ends_with("]\n"), "{path}: {answer}");
        answer.json();
    }
    let batch = node.post("/t/batch", "[]").expect(200);
    assert_eq!(batch.text(), "{\"results\":[]}\n");
}

/// hyper answers invalid requests by itself with a bare status, so clients that parse problems found none, and the log had no id.
#[test]
fn an_invalid_request_gets_a_problem_too() {
    let node = Node::start();
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    for (request, status, code) in [
        ("nonsense\r\n\r\n", 400, "bad-request"),
        ("GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "bad-request"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400, "bad-request"),
        (&long, 431, "head-too-large"),
    ] {
        let mut connection = node.connect();
        // The node may have answered before everything is sent.
        let _ = connection.write(request.as_bytes());
        let answer = connection.receive("GET").expect("an answer");
        assert_eq!(answer.expect_header("connection"), "close");
        answer.expect_problem(status, code);
    }
    // An invalid request after a good one on the same connection does not spoil the good one's response.
    let mut connection = node.connect();
    connection
        .write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nnonsense\r\n\r\n")
        .expect("bytes can be sent");
    connection.receive("GET").expect("an answer").expect_body(r#"{"status":"ok"}"#);
    connection.receive("GET").expect("an answer").expect_problem(400, "bad-request");
}

#[test]
fn an_idle_connection_stays_open_for_the_advertised_time() {
    let node = Setup::new().flag("--header-timeout", "200ms").flag("--idle-timeout", "1500ms").start();
    assert_eq!(Node::start().get("/healthz").expect_header("keep-alive"), "timeout=75");
    let get = Request::new("GET", "/healthz");
    let mut connection = node.connect();
    for _ in 0..2 {
        assert_eq!(connection.send(&get).expect(200).expect_header("keep-alive"), "timeout=1");
        assert!(
            !connection.is_closed(std::time::Duration::from_millis(600)),
            "closed after the timeout for a head"
        );
    }
    // The timeout for a head applies within a head, even after idle time.
    connection.write(b"GET /healthz HTTP/1.1\r\n").expect("bytes can be sent");
    let begun = std::time::Instant::now();
    connection.read_to_close(DEADLINE);
    assert!(begun.elapsed() < std::time::Duration::from_millis(1400), "{:?}", begun.elapsed());
    let mut idle = node.connect();
    idle.send(&get).expect(200);
    idle.read_to_close(DEADLINE);
    let closing = node.send(&get.clone().header("Connection", "close")).expect(200);
    assert_eq!(closing.header("keep-alive"), None);
}

#[test]
fn streams_and_websockets_do_not_count_as_idle() {
    let node = Setup::new().flag("--header-timeout", "200ms").flag("--idle-timeout", "1s").start();
    let mut socket = Socket::open(node.address(), "/_/ws");
    let mut events = TcpStream::connect(node.address()).expect("a connection");
    events.write_all(b"GET /t/subscribe/a HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("bytes can be sent");
    let mut idle = node.connect();
    idle.send(&Request::new("GET", "/healthz")).expect(200);
    idle.read_to_close(DEADLINE);
    idle = node.connect();
    idle.send(&Request::new("GET", "/healthz")).expect(200);
    idle.read_to_close(DEADLINE);
    // Twice as long as an idle connection lives.
    assert_eq!(socket.request(&serde_json::json!({"op": "ping", "rid": 1}))["status"], 200);
    node.put("/t/key/a", r#"{"value":"told"}"#).expect(200);
    events.set_read_timeout(Some(DEADLINE)).expect("a read timeout can be set");
    let mut told = String::new();
    let mut piece = [0; 4096];
    while !told.contains("told") {
        let length = events.read(&mut piece).expect("an event within the deadline");
        assert!(length > 0, "the stream was closed: {told}");
        told.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
}
