//! An HTTP/1.1 client that hides nothing: requests go out as the bytes given, whether or not they are HTTP, and responses come
//! back whole or piece by piece. Blocking, over std, with a deadline on every read.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::DEADLINE;

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

    /// A body with its length declared.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// A body of unknown length, in these chunks.
    pub fn chunks(mut self, chunks: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.body = Body::Chunks(chunks.into_iter().map(Into::into).collect());
        self
    }

    /// The request as it goes over the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: test\r\n", self.method, self.target);
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

/// A response, whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that may be there once.
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

    /// Panics unless this is 200 with exactly this body.
    #[track_caller]
    pub fn expect_body(self, body: &str) -> Self {
        let response = self.expect(200);
        assert_eq!(response.text(), body);
        response
    }

    /// Panics unless this is an RFC 9457 problem with this status and code, whole and consistent. Its `detail`.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> String {
        let response = self.expect(status);
        assert_eq!(response.expect_header("content-type"), "application/problem+json", "{response}");
        let problem = response.json();
        assert_eq!(problem["error"], code, "{response}");
        assert_eq!(problem["status"], status, "{response}");
        assert_eq!(problem["request_id"], response.expect_header("x-request-id"), "{response}");
        for member in ["type", "title", "detail"] {
            assert!(
                problem[member].as_str().is_some_and(|text| !text.is_empty()),
                "no {member} in {response}"
            );
        }
        problem["detail"].as_str().unwrap_or_default().to_owned()
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

    /// Sends a request and reads its response; panics where there is none.
    pub fn send(&mut self, request: &Request) -> Response {
        self.try_send(request)
            .unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.target))
    }

    /// Sends a request and reads its response. An answer that comes before the body has gone out is an answer.
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

    /// Reads the response to a request of that method.
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

    /// Reads until the other side closes or resets; the bytes up to there. Panics where it does neither within `deadline`.
    pub fn read_to_close(&mut self, deadline: Duration) -> Vec<u8> {
        let deadline = Instant::now() + deadline;
        loop {
            match self.wire.fill(deadline) {
                Ok(0) => return std::mem::take(&mut self.wire.buffer),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    panic!("not closed in time; it sent {:?}", String::from_utf8_lossy(&self.wire.buffer))
                }
                Err(_) => return std::mem::take(&mut self.wire.buffer),
            }
        }
    }

    /// Whether the other side closes or resets within that time; what it sends meanwhile is kept for `receive`.
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

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        // An error means that the other side closed already.
        let _ = self.wire.stream.shutdown(Shutdown::Write);
    }
}

/// Status line and headers of a response.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn read(wire: &mut Wire, deadline: Instant) -> io::Result<Self> {
        let line = wire.line(deadline)?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no HTTP response: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = wire.line(deadline)?;
            if line.is_empty() {
                return Ok(Self { status, headers });
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| io::Error::other(format!("no header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// Takes a body off the wire piece by piece, whichever way its end is told.
pub(super) enum BodyReader {
    Length(usize),
    Chunked,
    ToClose,
    Ended,
}

impl BodyReader {
    pub(super) fn new(method: &str, head: &Head) -> Self {
        if method == "HEAD" || matches!(head.status, 101 | 204 | 304) {
            return Self::Ended;
        }
        if header(&head.headers, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            return Self::Chunked;
        }
        match header(&head.headers, "content-length") {
            Some(length) => Self::Length(length.parse().expect("a length is a number")),
            None => Self::ToClose,
        }
    }

    /// The next piece; `None` at the end.
    pub(super) fn read(&mut self, wire: &mut Wire, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Ended => Ok(None),
            Self::Length(length) => {
                let body = wire.exactly(*length, deadline)?;
                *self = Self::Ended;
                Ok(Some(body))
            }
            Self::Chunked => {
                let line = wire.line(deadline)?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
                    .map_err(|_| io::Error::other(format!("no chunk size: {line:?}")))?;
                let chunk = wire.exactly(size, deadline)?;
                wire.line(deadline)?;
                if size == 0 {
                    *self = Self::Ended;
                    return Ok(None);
                }
                Ok(Some(chunk))
            }
            Self::ToClose => {
                if wire.buffer.is_empty() && wire.fill(deadline)? == 0 {
                    *self = Self::Ended;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut wire.buffer)))
            }
        }
    }
}

/// A socket and what has been read from it ahead of need.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(super) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the node accepts connections");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout can be set");
        Self { stream, buffer: Vec::new() }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads what there is, waiting for some; 0 at the end of the stream, `TimedOut` at the deadline.
    pub(super) fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(length) => {
                self.buffer.extend_from_slice(&piece[..length]);
                Ok(length)
            }
            // A read timeout is this on Unix, the other elsewhere.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }

    /// A line without its end, be that CR LF or LF.
    fn line(&mut self, deadline: Instant) -> io::Result<String> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.buffer[seen..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=seen + at).collect();
                line.truncate(line.trim_ascii_end().len());
                return String::from_utf8(line).map_err(io::Error::other);
            }
            seen = self.buffer.len();
            if self.fill(deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn exactly(&mut self, length: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill(deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
