//! What the server reports about itself, and its protocols: HTTP/1.1, HTTP/2, TLS, CORS.

use std::{net::SocketAddr, path::Path, sync::Arc};

use http_body_util::{BodyExt, Full};
use hyper::{Request as HyperRequest, body::Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::harness::{DEADLINE, Node, Setup, http::Request, wait_until};

#[test]
fn membership_of_a_single_node_is_its_own_address() {
    let node = Node::start();
    node.get("/membership").expect_body(&format!(r#"["{}"]"#, node.address()));
}

#[test]
fn membership_reports_the_advertised_address() {
    let node = Setup::new().flag("--advertise", "db.example:6660").start();
    node.get("/membership").expect_body(r#"["db.example:6660"]"#);
}

#[test]
fn a_node_is_healthy_and_ready_as_soon_as_it_listens() {
    let node = Node::start();
    node.get("/healthz").expect(200);
    node.get("/readyz").expect(200);
    for path in ["/healthz", "/readyz"] {
        assert!(node.send(&Request::new("HEAD", path)).expect(200).body.is_empty());
    }
}

#[test]
fn the_version_is_the_crate_version() {
    let node = Node::start();
    let version = node.get("/version").expect(200);
    assert_eq!(version.json()["version"], env!("CARGO_PKG_VERSION"), "{version}");
}

#[test]
fn tables_are_listed_with_their_figures() {
    let node = Node::start();
    node.put("/users/key/a", r#"{"value":1}"#).expect(200);
    node.put("/users/key/b", r#"{"value":1}"#).expect(200);
    node.put("/orders/key/a", r#"{"value":1}"#).expect(200);
    let tables = node.get("/_/tables").expect(200).json();
    let text = tables.to_string();
    let (orders, users) = (text.find("orders").expect("orders"), text.find("users").expect("users"));
    assert!(orders < users, "by name: {text}");
    assert!(text[users..].contains('2'), "users has two keys: {text}");
}

/// A backup right after a start must not miss what is still being counted.
#[test]
fn a_node_reports_all_its_rows_as_soon_as_it_listens() {
    let mut node = Node::start();
    for table in ["one", "two"] {
        let rows: Vec<String> =
            (0..10_000).map(|row| format!(r#"{{"op":"put","key":"k{row}","value":{row}}}"#)).collect();
        node.post(&format!("/{table}/batch"), rows.join("\n")).expect(200);
    }
    for read in ["/_/export", "/_/tables", "/one/count", "/two/keys"] {
        node = node.kill().start();
        let answer = node.get(read).expect(200);
        match read {
            "/_/export" => assert_eq!(answer.text().lines().count(), 20_002),
            "/_/tables" => {
                assert!(answer.text().contains("one") && answer.text().contains("two"), "{answer}")
            }
            "/one/count" => assert_eq!(answer.text(), "{\"count\":10000}\n"),
            _ => assert_eq!(answer.json().as_array().map(Vec::len), Some(10_000)),
        }
    }
}

#[test]
fn stats_are_json_and_count() {
    let node = Node::start();
    assert!(node.get("/stats").expect(200).json().is_object());
    for value in 0..3 {
        node.put("/t/key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
    }
    let stats = node.get("/stats").expect(200).json();
    assert_eq!(stats["writes"], 3, "{stats}");
    assert_eq!(stats["subscriptions"], 0, "{stats}");
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let node = Node::start();
    node.put("/t/key/secret-key", r#"{"value":"secret-value"}"#).expect(200);
    node.get("/t/key/secret-key").expect(200);
    let metrics = node.get("/metrics").expect(200);
    let content_type = metrics.expect_header("content-type");
    assert!(
        content_type.starts_with("application/openmetrics-text") || content_type.starts_with("text/plain"),
        "{content_type}"
    );
    let mut samples = 0;
    for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
        assert!(value.parse::<f64>().is_ok(), "not a number: {line:?}");
        samples += 1;
    }
    assert!(samples > 5, "{metrics}");
    assert!(metrics.text().contains("# TYPE"), "{metrics}");
    assert!(!metrics.text().contains("secret"), "no keys, no values");
}

#[test]
fn only_allowed_origins_may_read_across_origins() {
    let node = Setup::new().flag("--cors-origin", "https://app.example").start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let from = |origin: &str| node.send(&Request::new("GET", "/t/key/a").header("Origin", origin));

    let allowed = from("https://app.example").expect(200);
    assert_eq!(allowed.expect_header("access-control-allow-origin"), "https://app.example");
    assert!(allowed.expect_header("vary").to_ascii_lowercase().contains("origin"), "{allowed}");
    assert!(
        allowed.expect_header("access-control-expose-headers").to_ascii_lowercase().contains("etag"),
        "{allowed}"
    );
    assert_eq!(from("https://evil.example").expect(403).header("access-control-allow-origin"), None);
    assert_eq!(node.get("/t/key/a").header("access-control-allow-origin"), None);

    // An error must be readable too, or the page cannot say what was wrong.
    let absent = Request::new("GET", "/t/key/absent").header("Origin", "https://app.example");
    assert_eq!(
        node.send(&absent).expect(404).expect_header("access-control-allow-origin"),
        "https://app.example"
    );
}

#[test]
fn a_preflight_is_answered_for_allowed_origins() {
    let node = Setup::new().flag("--cors-origin", "https://app.example").start();
    let preflight = |origin: &str| {
        let request = Request::new("OPTIONS", "/t/key/a").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "PUT");
        node.send(&request.header("Access-Control-Request-Headers", "content-type,if-match"))
    };
    let allowed = preflight("https://app.example");
    assert!(matches!(allowed.status, 200 | 204), "{allowed}");
    assert_eq!(allowed.expect_header("access-control-allow-origin"), "https://app.example");
    assert!(allowed.expect_header("access-control-allow-methods").contains("PUT"), "{allowed}");
    let headers = allowed.expect_header("access-control-allow-headers").to_ascii_lowercase();
    assert!(headers.contains("content-type") && headers.contains("if-match"), "{allowed}");
    assert_eq!(preflight("https://evil.example").expect(403).header("access-control-allow-origin"), None);
}

#[test]
fn without_allowed_origins_there_are_no_cors_headers() {
    let node = Node::start();
    let answer = node.send(&Request::new("GET", "/healthz").header("Origin", "https://app.example"));
    assert!(!answer.headers.iter().any(|(name, _)| name.starts_with("access-control-")), "{answer}");
}

#[test]
fn a_client_may_start_with_http_2() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let text = block_on(async {
        let stream = TcpStream::connect(node.address()).await.expect("the node accepts connections");
        get_http_2(stream, &format!("http://{}/t/key/a", node.address())).await
    });
    assert_eq!(text, r#"{"value":1}"#);
}

#[test]
fn a_certificate_turns_tls_on() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let certificate = fixtures.join("certificate.pem");
    let node =
        Setup::new().flag("--tls-cert", &certificate).flag("--tls-key", fixtures.join("key.pem")).start();
    for protocol in ["h2", "http/1.1"] {
        let text = block_on(async {
            let stream = connect_tls(node.address(), &certificate, protocol).await;
            match protocol {
                "h2" => get_http_2(stream, "https://localhost/t/keys").await,
                _ => get_http_1(stream, "/t/keys").await,
            }
        });
        assert_eq!(text, "[]", "over {protocol}");
    }
    // A client without TLS does no harm.
    let mut plain = node.connect();
    plain.write(&Request::new("GET", "/t/keys").to_bytes()).expect("bytes can be sent");
    plain.read_to_close(crate::harness::DEADLINE);
    let text = block_on(async {
        get_http_1(connect_tls(node.address(), &certificate, "http/1.1").await, "/t/keys").await
    });
    assert_eq!(text, "[]");
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(crate::harness::DEADLINE, future).await.expect("an answer within the deadline")
    })
}

async fn get_http_2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, url: &str) -> String {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = HyperRequest::get(url).body(Full::<Bytes>::default()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.into()).expect("the body is UTF-8")
}

async fn get_http_1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, path: &str) -> String {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    let request = HyperRequest::get(path).header("Host", "localhost").body(Full::<Bytes>::default());
    let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.into()).expect("the body is UTF-8")
}

pub(super) async fn connect_tls(
    address: SocketAddr,
    certificate: &Path,
    protocol: &str,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.expect("the node accepts connections");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    stream
}

/// A probe that asked every second filled the log with one warning each time, for as long as the node was not ready.
#[test]
fn a_node_logs_once_that_it_is_not_ready_however_often_it_is_probed() {
    // Nobody listens there.
    let node = Setup::new().join("127.0.0.1:1").start();
    let asked = || node.get("/readyz").expect(503).json()["phase"] == "joining";
    wait_until("it says for whom it waits", DEADLINE, || {
        asked() && node.log().contains("waiting for 127.0.0.1:1")
    });
    for _ in 0..5 {
        assert!(asked());
    }
    let log = node.log();
    assert!(!log.contains("/readyz"), "{log}");
    assert_eq!(log.matches("waiting for").count(), 1, "{log}");
}
