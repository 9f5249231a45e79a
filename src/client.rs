//! A client for the commands that talk to a running node: HTTP/1.1 over one connection, with or without TLS.
//!
//! It uses hyper's connection instead of hyper-util's pooled client over hyper-rustls: a command needs no pool, and that client reports an
//! address where nobody listens and an untrusted certificate as one error, "Connect", where a command says what to do.

mod tls;

use std::{fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use self::tls::Tls;
use crate::error::Result as Outcome;

/// The limit for connecting, for the TLS handshake, and for each GET.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest response body we read. The commands' responses are far shorter, so a longer one does not come from a node.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a node answers, and whether it speaks TLS. Displayed as typed on the command line: the address, with `https://` in front for TLS.
#[derive(Clone, Debug)]
pub struct Endpoint {
    address: String,
    tls: Option<Tls>,
}

impl Endpoint {
    /// The node at `address` (`host:port`), without TLS.
    pub fn http(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: None }
    }

    /// The node at `address` (`host:port`), with TLS. It must present one of the `trusted` certificates, whatever name is in it, or a
    /// certificate for `host` that one of them signed; if none are given, a certificate for `host` that the system trusts.
    ///
    /// # Errors
    /// `Config` if `host` is neither a name nor an address, or no certificates are given and the system has no roots.
    pub fn https(
        address: impl Into<String>,
        host: &str,
        trusted: Option<Vec<CertificateDer<'static>>>,
    ) -> Outcome<Self> {
        Ok(Self { address: address.into(), tls: Some(Tls::new(host, trusted)?) })
    }

    /// Whether the connection uses TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted() { "https://" } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}

/// A connection to a node.
pub struct Client {
    endpoint: Endpoint,
    /// The `Host` header we send: the address as typed, or the IP address and port if the node does not know itself by that name. A node
    /// checks the header to keep out web pages, which we are not.
    host: String,
    number: String,
    requests: http1::SendRequest<Full<Bytes>>,
}

/// A node's response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The complete body.
    pub body: Bytes,
}

/// Nobody answered at an address, or what answered is not a node.
#[derive(Clone, Debug)]
pub struct Unreachable(pub String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Client {
    /// Connects to a node. Needs a tokio runtime.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Unreachable> {
        let failed = |why: &dyn fmt::Display| Unreachable(format!("no node answers at {endpoint}: {why}"));
        let stream = match timeout(TIMEOUT, TcpStream::connect(&endpoint.address)).await {
            Ok(connected) => connected.map_err(|error| failed(&error))?,
            Err(_) => return Err(failed(&format_args!("no connection within {TIMEOUT:?}"))),
        };
        let number = stream.peer_addr().map(|number| number.to_string()).map_err(|error| failed(&error))?;
        let requests = match &endpoint.tls {
            None => begin(stream).await,
            Some(tls) => match timeout(TIMEOUT, tls.handshake(stream)).await {
                Ok(Ok(stream)) => begin(stream).await,
                Ok(Err(why)) => return Err(failed(&why)),
                Err(_) => return Err(failed(&format_args!("no TLS handshake within {TIMEOUT:?}"))),
            },
        };
        let requests = requests.map_err(|error| failed(&error))?;
        Ok(Self { endpoint: endpoint.clone(), host: endpoint.address.clone(), number, requests })
    }

    /// Sends a GET for `path`.
    pub async fn get(&mut self, path: &str) -> Result<Answer, Unreachable> {
        self.ask(Method::GET, path, Bytes::new(), None, TIMEOUT).await
    }

    /// Posts JSON to `path`, with an `Authorization` header if given, and waits up to `answer_timeout` for the response.
    pub async fn post(
        &mut self,
        path: &str,
        body: Bytes,
        authorization: Option<String>,
        answer_timeout: Duration,
    ) -> Result<Answer, Unreachable> {
        self.ask(Method::POST, path, body, authorization, answer_timeout).await
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        authorization: Option<String>,
        answer_timeout: Duration,
    ) -> Result<Answer, Unreachable> {
        let mut answer =
            self.ask_once(&method, path, &body, authorization.as_deref(), answer_timeout).await?;
        if answer.status == StatusCode::MISDIRECTED_REQUEST && self.host != self.number {
            self.host.clone_from(&self.number);
            answer = self.ask_once(&method, path, &body, authorization.as_deref(), answer_timeout).await?;
        }
        Ok(answer)
    }

    async fn ask_once(
        &mut self,
        method: &Method,
        path: &str,
        body: &Bytes,
        authorization: Option<&str>,
        answer_timeout: Duration,
    ) -> Result<Answer, Unreachable> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = timeout(answer_timeout, self.send(request.body(Full::new(body.clone())))).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {answer_timeout:?}")));
        answer
            .map_err(|why| Unreachable(format!("the node at {} did not answer {path}: {why}", self.endpoint)))
    }

    async fn send(&mut self, request: hyper::http::Result<Request<Full<Bytes>>>) -> Result<Answer, String> {
        let request = request.map_err(|error| error.to_string())?;
        let response = self.requests.send_request(request).await.map_err(|error| explain(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(Answer { status, body: body.map_err(|error| error.to_string())?.to_bytes() })
    }
}

async fn begin(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> hyper::Result<http1::SendRequest<Full<Bytes>>> {
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The task ends with the client, when nobody can send another request. Its errors also reach the request they end.
    tokio::spawn(connection);
    Ok(requests)
}

fn explain(error: &hyper::Error) -> String {
    if error.is_parse() { "what it sends is not HTTP".into() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Serves one connection: reads a request head, then answers with these bytes.
    async fn answer_with(bytes: &'static [u8]) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let endpoint = Endpoint::http(listener.local_addr().expect("bound").to_string());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            stream.write_all(bytes).await.expect("written");
        });
        endpoint
    }

    #[tokio::test]
    async fn a_response_has_a_status_and_a_body() {
        let endpoint = answer_with(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}").await;
        let answer =
            Client::connect(&endpoint).await.expect("connected").get("/readyz").await.expect("answered");
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (503, &b"{}"[..]));
    }

    /// A command asked a node on another machine by a name that the node did not know, and was refused.
    #[tokio::test]
    async fn a_node_that_refuses_the_host_name_is_asked_by_ip_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let number = listener.local_addr().expect("bound");
        let endpoint = Endpoint::http(format!("localhost:{}", number.port()));
        let node = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut hosts = Vec::new();
            for status in ["421 Misdirected Request", "200 OK", "200 OK"] {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a head"));
                }
                let head = String::from_utf8(head).expect("text");
                hosts.extend(head.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned));
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
            hosts
        });
        let mut client = Client::connect(&endpoint).await.expect("connected");
        for _ in 0..2 {
            assert_eq!(client.get("/readyz").await.expect("answered").status, StatusCode::OK);
        }
        let by_name = format!("localhost:{}", number.port());
        assert_eq!(node.await.expect("served"), [by_name, number.to_string(), number.to_string()]);
    }

    #[tokio::test]
    async fn what_is_not_a_node_is_unreachable_and_the_error_names_it() {
        let endpoint = answer_with(b"\x15\x03\x03\x00\x02\x02\x32").await;
        let unreachable = Client::connect(&endpoint).await.expect("connected").get("/readyz").await;
        let said = unreachable.expect_err("no HTTP").to_string();
        assert!(said.contains(&endpoint.to_string()) && said.contains("not HTTP"), "{said}");
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound");
        let closed = Endpoint::http(closed.to_string());
        let said = Client::connect(&closed).await.err().expect("nobody listens").to_string();
        assert!(said.contains(&closed.to_string()), "{said}");
    }
}
