//! The guard before all routes: whatever the path, a request for a host that is not this node, or from a foreign page, is neither carried
//! out nor answered.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use dynarust::{http::request::route::Route, replication::link::connect::subprotocol};
use hyper::Request as HyperRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use super::{
    errors::ALLOWED,
    server::{block_on, connect_tls},
};
use crate::harness::{DEADLINE, Node, Setup};

/// The page allowed by `--cors-origin` in these tests.
const APP: &str = "https://app.example";
const EVIL: &str = "https://evil.example";

/// Paths that only open a WebSocket, in addition to `ALLOWED`.
const SOCKETS: [&str; 2] = ["/_/ws", "/_/link"];

/// A response: its head, and its body if it has a length.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    #[track_caller]
    fn expect_problem(&self, what: &str, status: u16, code: &str) -> String {
        let problem = self.json();
        assert_eq!((self.status, problem["error"].as_str()), (status, Some(code)), "{what}: {}", self.head);
        assert!(self.head.contains("x-request-id: "), "{what}: {}", self.head);
        assert!(!self.head.contains("access-control-allow-origin"), "{what}: {}", self.head);
        problem["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether the guard let the request pass, whatever its result.
    fn passed(&self) -> bool {
        let problem = self.json();
        let code = problem["error"].as_str().unwrap_or_default();
        let about_host = problem["detail"].as_str().is_some_and(|detail| detail.contains("Host"));
        !matches!(code, "forbidden" | "misdirected") && !about_host
    }
}

/// Sends these bytes, and reads a head and the body it announces.
fn exchange(node: &Node, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect_timeout(&node.address(), DEADLINE).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout can be set");
    stream.write_all(request).expect("bytes can be sent");
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
            if body.len() >= length {
                let status = head[9..12].parse().expect("a status");
                return Answer { status, head, body: body.to_owned() };
            }
        }
        let read = stream.read(&mut piece).expect("an answer within the deadline");
        assert!(read > 0, "incomplete response: {text:?}");
        bytes.extend_from_slice(&piece[..read]);
    }
}

/// A valid body for each path, so that the request would succeed without the guard.
fn body(path: &str, method: &str) -> &'static str {
    match (path.rsplit('/').next().unwrap_or_default(), method) {
        ("keys", "POST") => r#"["a"]"#,
        ("batch", _) => r#"[{"op":"put","key":"b","value":1}]"#,
        ("import", _) => "{\"table\":\"t\",\"key\":\"c\",\"value\":1}\n",
        ("forget" | "promote" | "demote" | "transfer", _) => r#"{"node":"127.0.0.1:1"}"#,
        (_, "PUT" | "PATCH") => r#"{"value":1}"#,
        _ => "",
    }
}

fn request(method: &str, path: &str, lines: &str) -> Vec<u8> {
    let body = body(path, method);
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\n{lines}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// All methods of all paths.
fn all_requests() -> Vec<(&'static str, String)> {
    let mut requests = Vec::new();
    for (path, methods) in ALLOWED {
        let path = if path.starts_with('/') { (*path).to_owned() } else { format!("/t/{path}") };
        requests.extend(methods.iter().map(|method| (*method, path.clone())));
        requests.push(("OPTIONS", path));
    }
    requests.extend(SOCKETS.map(|path| ("GET", path.to_owned())));
    requests.push(("GET", "/nothing".into()));
    requests
}

/// A description of the host and page, their header lines, and the status, code and words of the refusal.
type Refused = (&'static str, String, u16, &'static str, &'static str);

/// Everything a node must refuse, whatever the route.
fn refused(node: &Node) -> Vec<Refused> {
    let own = format!("http://{}", node.address());
    let host = format!("Host: {}\r\n", node.address());
    let page = |origin: &str| format!("{host}Origin: {origin}\r\n");
    vec![
        ("no host", String::new(), 400, "bad-request", "Host"),
        ("an empty host", "Host:\r\n".into(), 400, "bad-request", "Host"),
        ("two hosts", format!("{host}{host}"), 400, "bad-request", "more than one Host"),
        ("an invalid host", "Host: a b\r\n".into(), 400, "bad-request", "Host"),
        (
            "a foreign host",
            "Host: evil.example\r\n".into(),
            421,
            "misdirected",
            "--allowed-host evil.example",
        ),
        (
            "a rebound page",
            "Host: evil.example:6660\r\nOrigin: http://evil.example:6660\r\nSec-Fetch-Site: same-origin\r\n"
                .into(),
            421,
            "misdirected",
            "--allowed-host evil.example",
        ),
        ("a foreign page", page(EVIL), 403, "forbidden", "--cors-origin https://evil.example"),
        ("a page without an origin", page("null"), 403, "forbidden", "--cors-origin"),
        ("two origins", page(&format!("{APP}\r\nOrigin: {EVIL}")), 403, "forbidden", "--cors-origin"),
        ("another port", page("http://127.0.0.1:1"), 403, "forbidden", "--cors-origin"),
        ("another scheme", page(&own.replace("http:", "https:")), 403, "forbidden", "--cors-origin"),
        ("another site", format!("{host}Sec-Fetch-Site: cross-site\r\n"), 403, "forbidden", "--cors-origin"),
        (
            "a foreign page that says it is the node's own",
            format!("{}Sec-Fetch-Site: same-origin\r\n", page(EVIL)),
            403,
            "forbidden",
            "--cors-origin",
        ),
    ]
}

#[test]
fn no_route_answers_another_host_or_a_foreign_page() {
    let node = Setup::new().flag("--cors-origin", APP).start();
    let own = format!("http://{}", node.address());
    let host = format!("Host: {}\r\n", node.address());
    let page = |origin: &str| format!("{host}Origin: {origin}\r\n");
    let refused = refused(&node);
    for (method, path) in all_requests() {
        for (what, lines, status, code, words) in &refused {
            let what = format!("{method} {path}: {what}");
            let detail = exchange(&node, &request(method, &path, lines)).expect_problem(&what, *status, code);
            assert!(detail.contains(words), "{what}: {detail}");
        }
    }
    let export = node.get("/_/export").expect(200);
    assert!(export.text().contains(r#""rows":0"#), "something was written: {export}");

    for (method, path) in all_requests() {
        for (what, lines) in [
            ("no page", host.clone()),
            ("its own page", page(&own)),
            (
                "its own page, in a browser that says so",
                format!("{}Sec-Fetch-Site: same-origin\r\n", page(&own)),
            ),
            ("an allowed page", format!("{}Sec-Fetch-Site: cross-site\r\n", page(APP))),
            ("an address the reader typed", format!("{host}Sec-Fetch-Site: none\r\n")),
        ] {
            let answer = exchange(&node, &request(method, &path, &lines));
            // Links are for nodes, and a page is not one.
            let is_page_at_link = path == "/_/link" && lines.contains("Origin");
            assert!(
                answer.passed() || is_page_at_link,
                "{method} {path}: {what}: {} {}",
                answer.head,
                answer.body
            );
            assert!(
                answer.head.contains("x-content-type-options: nosniff"),
                "{method} {path}: {}",
                answer.head
            );
        }
    }
    assert_eq!(node.get("/t/keys").text(), r#"["b","c"]"#, "the last DELETE came after the last PUT");

    // No route is missing above.
    let metrics = node.get("/metrics").expect(200);
    for route in Route::ALL {
        let series = format!("http_requests_total{{route=\"{}\"", route.name());
        let seen = metrics.text().lines().any(|line| line.contains(&series) && !line.ends_with(" 0"));
        assert!(seen, "{} is in no list of paths: {series}", route.name());
    }
}

#[test]
fn websockets_and_event_streams_follow_the_same_page_rules() {
    let node = Setup::new().flag("--cors-origin", APP).start();
    let own = format!("http://{}", node.address());
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let open = |path: &str, host: &str, origin: &str, upgrade: &str| {
        let origin = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
        exchange(&node, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{origin}{upgrade}\r\n").as_bytes())
    };
    let paths = [
        ("/_/ws", upgrade),
        ("/t/subscribe/a", upgrade),
        ("/t/subscribe/a", ""),
        ("/_/subscribe?topic=t/*", ""),
    ];
    for (path, upgrade) in paths {
        let opened = if upgrade.is_empty() { 200 } else { 101 };
        for (origin, status) in [("", opened), (&own, opened), (APP, opened), (EVIL, 403), ("null", 403)] {
            assert_eq!(
                open(path, "127.0.0.1", origin, upgrade).status,
                if origin == own { 403 } else { status }
            );
            let host = node.address().to_string();
            assert_eq!(open(path, &host, origin, upgrade).status, status, "{path} from {origin:?}");
        }
        open(path, "evil.example", "http://evil.example", upgrade).expect_problem(path, 421, "misdirected");
    }
    // Nodes dial each other by names that only they may know. A page cannot leave its origin out.
    let link = format!("{upgrade}Sec-WebSocket-Protocol: {}\r\n", subprotocol());
    assert_eq!(open("/_/link", "dynarust-node1:6660", "", &link).status, 101);
    for origin in [&own, APP, EVIL] {
        assert_eq!(open("/_/link", "127.0.0.1", origin, &link).status, 403, "{origin}");
    }
}

#[test]
fn a_node_answers_under_its_own_names() {
    let node = Setup::new()
        .flag("--advertise", "Db.Internal:6660")
        .flag("--allowed-host", "proxy.example")
        .flag("--allowed-host", "*.svc.cluster.local")
        .start();
    for host in [
        "127.0.0.1",
        "127.0.0.1:1",
        "192.0.2.1:6660",
        "[::1]:6660",
        "[2001:db8::1]",
        "localhost",
        "LOCALHOST:80",
        "localhost.",
        "db.internal",
        "db.internal:6660",
        "proxy.example:443",
        "Proxy.Example",
        "dynarust.svc.cluster.local",
    ] {
        let get = format!("GET /version HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(exchange(&node, get.as_bytes()).status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "proxy.example.evil.example",
        "notproxy.example",
        "svc.cluster.local",
        "a.b.svc.cluster.local",
        ".svc.cluster.local",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "internal",
        "2130706433",
    ] {
        let get = format!("GET /version HTTP/1.1\r\nHost: {host}\r\n\r\n");
        exchange(&node, get.as_bytes()).expect_problem(host, 421, "misdirected");
    }
    for host in ["[::1", "a@b", "a:b", "a:99999", "a/b", "[1.2.3.4]"] {
        let get = format!("GET /version HTTP/1.1\r\nHost: {host}\r\n\r\n");
        exchange(&node, get.as_bytes()).expect_problem(host, 400, "bad-request");
    }
    // A full URL names its host too, and HTTP/1.0 need not name any.
    for (request, status) in [
        ("GET http://localhost/version HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET http://evil.example/version HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET http://evil.example/version HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET http://localhost/version HTTP/1.1\r\n\r\n", 400),
        ("GET /version HTTP/1.0\r\n\r\n", 200),
        ("GET /version HTTP/1.0\r\nHost: evil.example\r\n\r\n", 421),
    ] {
        assert_eq!(exchange(&node, request.as_bytes()).status, status, "{request}");
    }
}

/// A TLS proxy in front of a node without TLS: the page's scheme differs from the node's, and its host may differ from the one the proxy
/// asks for. The browser has compared both.
#[test]
fn a_page_behind_a_proxy_is_own_under_a_known_name() {
    let node = Setup::new().flag("--allowed-host", "db.example.com").start();
    let put = |host: &str, origin: &str, site: &str| {
        let lines = format!("Host: {host}\r\nOrigin: {origin}\r\nSec-Fetch-Site: {site}\r\n");
        exchange(&node, &request("PUT", "/t/key/a", &lines)).status
    };
    let page = "https://db.example.com";
    assert_eq!(put("db.example.com", page, "same-origin"), 200);
    assert_eq!(put("127.0.0.1:6660", page, "same-origin"), 200);
    assert_eq!(put("127.0.0.1:6660", page, "same-site"), 403);
    assert_eq!(put("127.0.0.1:6660", "https://evil.example", "same-origin"), 403);
}

#[test]
fn a_reader_may_follow_a_link_to_a_node_but_a_page_may_not_frame_it() {
    let node = Node::start();
    let visit = |method: &str, dest: &str| {
        let lines = format!(
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: {dest}\r\n"
        );
        exchange(&node, &request(method, "/t/batch", &lines)).status
    };
    assert_eq!(visit("GET", "document"), 405, "it passed, and there is nothing to see");
    assert_eq!((visit("GET", "iframe"), visit("POST", "document")), (403, 403));
}

#[test]
fn the_names_of_the_certificate_are_the_nodes_own() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let certificate = fixtures.join("named.pem");
    let node = Setup::new()
        .flag("--tls-cert", &certificate)
        .flag("--tls-key", fixtures.join("named-key.pem"))
        .start();
    for (host, origin, status) in [
        ("db.example.com", "", 200),
        ("a.apps.example.com:443", "", 200),
        ("localhost", "", 200),
        ("apps.example.com", "", 421),
        ("a.b.apps.example.com", "", 421),
        ("evil.example", "", 421),
        ("db.example.com", "https://db.example.com", 200),
        ("db.example.com", "http://db.example.com", 403),
        ("db.example.com:8443", "https://db.example.com", 403),
    ] {
        for protocol in ["h2", "http/1.1"] {
            let answered = block_on(async {
                let stream = connect_tls(node.address(), &certificate, protocol).await;
                let mut request = HyperRequest::get(match protocol {
                    "h2" => format!("https://{host}/version"),
                    _ => "/version".into(),
                });
                if protocol != "h2" {
                    request = request.header("Host", host);
                }
                if !origin.is_empty() {
                    request = request.header("Origin", origin);
                }
                let request = request.body(String::new()).expect("a request");
                if protocol == "h2" {
                    let io = TokioIo::new(stream);
                    let (mut sender, connection) =
                        hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                            .await
                            .expect("HTTP/2");
                    tokio::spawn(connection);
                    sender.send_request(request).await.expect("an answer").status()
                } else {
                    let (mut sender, connection) =
                        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
                    tokio::spawn(connection);
                    sender.send_request(request).await.expect("an answer").status()
                }
            });
            assert_eq!(answered, status, "{host} from {origin:?} over {protocol}");
        }
    }
}
