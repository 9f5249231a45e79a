//! The bytes of a connection: a buffered socket, the head of a response, and a body with any kind of framing.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Instant,
};

use super::DEADLINE;

/// Status and headers of a response.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn read(wire: &mut Wire, deadline: Instant) -> io::Result<Self> {
        let line = wire.line(deadline)?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not an HTTP response: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = wire.line(deadline)?;
            if line.is_empty() {
                return Ok(Self { status, headers });
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| io::Error::other(format!("not a header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// Reads a body piece by piece, whatever its framing.
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
                    .map_err(|_| io::Error::other(format!("not a chunk size: {line:?}")))?;
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
                Ok(Some(wire.take()))
            }
        }
    }
}

/// A socket, and what was read from it but not used yet.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Something to open a connection to: an address, or a node wherever it is.
pub trait Reachable {
    fn stream(self) -> io::Result<TcpStream>;
}

impl Reachable for SocketAddr {
    fn stream(self) -> io::Result<TcpStream> {
        TcpStream::connect_timeout(&self, DEADLINE)
    }
}

impl Wire {
    pub(super) fn open(to: impl Reachable) -> Self {
        let stream = to.stream().expect("the node accepts connections");
        Self::over(stream).expect("an open socket takes options")
    }

    pub(super) fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Closes our side: nothing more will be sent.
    pub(super) fn finish(&self) {
        // An error means that the other side has already closed.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Everything read and not used yet.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Reads what is available, waiting for some; 0 at the end of the stream, `TimedOut` at the deadline.
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
            // A read timeout is `WouldBlock` on Unix and `TimedOut` elsewhere.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }

    /// A line without its end, CR LF or LF.
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

/// The value of a header, if present.
pub(super) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
