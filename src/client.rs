//! A client of a node, for the commands that ask a running one: HTTP/1.1 over one connection, plain or in TLS.

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

/// How long a node may take to accept the connection, to agree on TLS, and to answer a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer that is read. What the commands ask for is far below it, so that a longer one is no node's.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a node answers, and how it is spoken to. Shown as it is typed on a command line: the address, and `https://` before it
/// where that is what is spoken.
#[derive(Clone, Debug)]
pub struct Endpoint {
    address: String,
    tls: Option<Tls>,
}

impl Endpoint {
    /// The node at `address`, `host:port`, without TLS.
    pub fn http(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: None }
    }

    /// The node at `address`, `host:port`, in TLS. It has to show one of the `trusted` certificates, whatever name stands in it, or
    /// one for `host` that they sign.
    ///
    /// # Errors
    /// `Config` for a host that is no name and no address.
    pub fn https(
        address: impl Into<String>,
        host: &str,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Outcome<Self> {
        Ok(Self { address: address.into(), tls: Some(Tls::new(host, trusted)?) })
    }

    /// Whether it is spoken to in TLS.
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
    /// What the node is asked as: the address as it was typed, or its number where the node does not know itself by that name. Against
    /// that is only what a browser sends on behalf of others.
    host: String,
    number: String,
    requests: http1::SendRequest<Full<Bytes>>,
}

/// What a node answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its body, whole.
    pub body: Bytes,
}

/// Nobody answered at an address, or not as a node does.
#[derive(Clone, Debug)]
pub struct Unreachable(pub String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Client {
    /// Connects to a node. To be called within a tokio runtime.
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
                Err(_) => return Err(failed(&format_args!("no TLS within {TIMEOUT:?}"))),
            },
        };
        let requests = requests.map_err(|error| failed(&error))?;
        Ok(Self { endpoint: endpoint.clone(), host: endpoint.address.clone(), number, requests })
    }

    /// Asks for `path`.
    pub async fn get(&mut self, path: &str) -> Result<Answer, Unreachable> {
        self.ask(Method::GET, path, Bytes::new(), None, TIMEOUT).await
    }

    /// Sends JSON to `path`, with an `Authorization` header where there is one, and waits so long for the answer.
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
        answer.map_err(|why| {
            Unreachable(format!("the node at {} does not answer {path}: {why}", self.endpoint))
        })
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
    // Ends with the client: the connection is done when nobody can send another request. Its errors are also those of the
    // request that they end.
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

    /// Serves one connection: reads a head, then answers with these bytes.
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
    async fn an_answer_is_its_status_and_body() {
        let endpoint = answer_with(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}").await;
        let answer =
            Client::connect(&endpoint).await.expect("connected").get("/readyz").await.expect("answered");
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (503, &b"{}"[..]));
    }

    /// A node on another machine was asked by a name that it does not know.
    #[tokio::test]
    async fn a_node_that_does_not_know_its_name_is_asked_by_its_number() {
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
    async fn what_is_no_node_is_unreachable_and_named() {
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
