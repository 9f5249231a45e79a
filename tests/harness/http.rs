//! An HTTP/1.1 client for tests that hides nothing: requests are sent as given, even if they are not HTTP, and responses come back whole or
//! piece by piece. Blocking, over std, with a deadline on every read.

use std::{
    fmt::Write as _,
    io,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    DEADLINE,
    wire::{BodyReader, Head, Wire, header},
};

/// The error codes of the contract, with their statuses.
const CODES: &[(&str, u16)] = &[
    ("bad-json", 400),
    ("missing-value", 400),
    ("bad-key", 400),
    ("bad-request", 400),
    ("unauthorized", 401),
    ("forbidden", 403),
    ("not-found", 404),
    ("method-not-allowed", 405),
    ("request-timeout", 408),
    ("conflict", 409),
    ("wrong-mode", 409),
    ("misdirected", 421),
    ("head-too-large", 431),
    ("precondition-failed", 412),
    ("too-large", 413),
    ("unsupported-type", 415),
    ("bad-name", 422),
    ("too-many", 429),
    ("clock-drift", 503),
    ("overloaded", 503),
    ("not-ready", 503),
    ("no-quorum", 503),
    ("draining", 503),
    ("not-enough-replicas", 504),
    ("outcome-unknown", 504),
    ("storage-full", 507),
];

/// A request. The target is sent as given: percent-encode it yourself, or leave it wrong on purpose.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Clone)]
enum Body {
    None,
    Whole(Vec<u8>),
    Chunks(Vec<Vec<u8>>),
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: Body::None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body with a declared length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// A body of unknown length, in these chunks.
    pub fn chunks(mut self, chunks: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.body = Body::Chunks(chunks.into_iter().map(Into::into).collect());
        self
    }

    /// The request as sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("writing to a string");
        }
        match &self.body {
            Body::None => {}
            Body::Whole(body) => {
                write!(head, "Content-Length: {}\r\n", body.len()).expect("writing to a string")
            }
            Body::Chunks(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        match &self.body {
            Body::None => {}
            Body::Whole(body) => bytes.extend_from_slice(body),
            Body::Chunks(chunks) => {
                for chunk in chunks {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

/// A complete response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that may occur once.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The value of a header that must be there.
    pub fn expect_header(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no header {name} in {self}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self}"))
    }

    /// Panics unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Panics unless this is a 200 with exactly this body, except for a line end after it: `contract::edges` proves which responses have
    /// one.
    #[track_caller]
    pub fn expect_body(self, body: &str) -> Self {
        let response = self.expect(200);
        if response.text().strip_suffix('\n') != Some(body) {
            assert_eq!(response.text(), body);
        }
        response
    }

    /// Panics unless this is a problem with this status and code. Returns its `detail`.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> String {
        let response = self.expect(status);
        let problem = response.problem();
        assert_eq!(problem["error"], code, "{response}");
        problem["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Panics unless this refuses an invalid request: 400 if it cannot be parsed, 422 if it breaks a rule.
    #[track_caller]
    pub fn expect_refused(self, what: &str) {
        assert!(matches!(self.status, 400 | 422), "{what}: {self}");
        self.problem();
    }

    /// The problem (RFC 9457) in this response. Panics unless it is complete and consistent, and its code is in the contract.
    #[track_caller]
    fn problem(&self) -> Value {
        assert_eq!(self.expect_header("content-type"), "application/problem+json", "{self}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self}");
        assert_eq!(problem["request_id"], self.expect_header("x-request-id"), "{self}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no {member} in {self}");
        }
        let code = problem["error"].as_str().unwrap_or_default();
        assert!(CODES.contains(&(code, self.status)), "not a code of the contract: {self}");
        problem
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(600)]);
        write!(f, "{} {:?} {body}", self.status, self.headers)
    }
}

/// A connection that is kept alive.
pub struct Connection {
    wire: Wire,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self { wire: Wire::open(address) }
    }

    /// A connection over an open stream.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        Ok(Self { wire: Wire::over(stream)? })
    }

    /// Sends a request and reads its response; panics if there is none.
    pub fn send(&mut self, request: &Request) -> Response {
        self.try_send(request)
            .unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.target))
    }

    /// Sends a request and reads its response, which may come before the body is sent.
    pub fn try_send(&mut self, request: &Request) -> io::Result<Response> {
        let sent = self.wire.write(&request.to_bytes());
        match self.receive(&request.method) {
            Err(_) if sent.is_err() => Err(sent.expect_err("looked at just now")),
            received => received,
        }
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write(bytes)
    }

    /// Reads the response to a request with this method.
    pub fn receive(&mut self, method: &str) -> io::Result<Response> {
        let deadline = Instant::now() + DEADLINE;
        let mut head = Head::read(&mut self.wire, deadline)?;
        while (100..200).contains(&head.status) && head.status != 101 {
            head = Head::read(&mut self.wire, deadline)?;
        }
        let mut body = Vec::new();
        let mut reader = BodyReader::new(method, &head);
        while let Some(piece) = reader.read(&mut self.wire, deadline)? {
            body.extend_from_slice(&piece);
        }
        Ok(Response { status: head.status, headers: head.headers, body })
    }

    /// Reads until the other side closes or resets, and returns the bytes. Panics after `deadline`.
    pub fn read_to_close(&mut self, deadline: Duration) -> Vec<u8> {
        let deadline = Instant::now() + deadline;
        loop {
            match self.wire.fill(deadline) {
                Ok(0) => return self.wire.take(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    panic!("not closed in time; it sent {:?}", String::from_utf8_lossy(&self.wire.take()))
                }
                Err(_) => return self.wire.take(),
            }
        }
    }

    /// Whether the other side closes or resets within this time. What it sends meanwhile is kept for `receive`.
    pub fn is_closed(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            match self.wire.fill(deadline) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::TimedOut,
            }
        }
    }

    /// Whether a response starts to arrive within this time. It is kept for `receive`.
    pub fn has_answer(&mut self, within: Duration) -> bool {
        self.wire.fill(Instant::now() + within).is_ok_and(|length| length > 0)
    }

    /// Closes our side: nothing more will be sent.
    pub fn finish(&self) {
        self.wire.finish();
    }
}
