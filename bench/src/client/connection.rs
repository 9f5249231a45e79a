//! One HTTP/1.1 connection. It parses only what a benchmark needs of an answer, its status and where it ends, and makes one write
//! and one read call per request: a general client would cost more than the node that it loads.

use std::{io, net::SocketAddr};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::error::{Error, Result};

/// Read buffer: one read takes a whole answer with its value.
const READ_BYTES: usize = 16 << 10;
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Connects to an address, for bytes that are sent at once.
pub async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let opening = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    opening.await.map_err(|e: io::Error| Error::io(format_args!("connecting to {address}"), &e))
}

/// A connection that sends one request after another.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: BytesMut,
    body_at: usize,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = connect(address).await?;
        Ok(Self { stream, received: BytesMut::with_capacity(READ_BYTES), body_at: 0 })
    }

    /// Sends a request, reads its answer to the end, and returns its status.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        let head = self.send(request).await?;
        while !head.length.is_complete(&self.received[self.body_at..]) {
            self.read().await?;
        }
        Ok(head.status)
    }

    /// The body of the last answer, as it came: the gateway of etcd and the node give these a length.
    pub fn body(&self) -> &[u8] {
        &self.received[self.body_at..]
    }

    /// As `exchange`, but any answer other than 200 is an error that quotes it.
    pub async fn expect_ok(&mut self, request: &[u8]) -> Result<()> {
        match self.exchange(request).await? {
            200 => Ok(()),
            status => Err(self.unexpected(request, status)),
        }
    }

    /// Sends a request whose answer does not end. Returns the stream once the head has come, with the bytes that came after the
    /// head. Any status other than `status` is an error.
    pub async fn into_stream(mut self, request: &[u8], status: u16) -> Result<(TcpStream, Vec<u8>)> {
        let head = self.send(request).await?;
        if head.status != status {
            while !head.length.is_complete(&self.received[self.body_at..]) {
                self.read().await?;
            }
            return Err(self.unexpected(request, head.status));
        }
        Ok((self.stream, self.received[self.body_at..].to_vec()))
    }

    async fn send(&mut self, request: &[u8]) -> Result<Head> {
        self.received.clear();
        self.stream.write_all(request).await.map_err(|e| Error::io("sending a request", &e))?;
        loop {
            self.read().await?;
            if let Some((head, body_at)) = Head::parse(&self.received)? {
                self.body_at = body_at;
                return Ok(head);
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(Error::Failed("the target closed the connection in the middle of an answer".into())),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io("reading an answer", &error)),
        }
    }

    fn unexpected(&self, request: &[u8], status: u16) -> Error {
        let line = request.split(|&byte| byte == b'\r').next().unwrap_or(request);
        let body = String::from_utf8_lossy(&self.received[self.body_at..]);
        Error::Failed(format!("{} got {status}: {}", String::from_utf8_lossy(line), body.trim()))
    }
}

/// The parsed head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Length,
}

/// Where an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunked,
}

impl Head {
    /// The head and where the body begins, once the head is complete.
    fn parse(received: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut lines = Lines { rest: received };
        let Some(status_line) = lines.next() else { return incomplete(received) };
        let status = status_line.get(9..12).and_then(|digits| number(digits, 10));
        let Some(status) = status.filter(|_| status_line.starts_with(b"HTTP/1.1 ")) else {
            return Err(Error::Failed("the target does not speak HTTP/1.1".into()));
        };
        // Without either header there is no body, as with 304 and an upgrade.
        let mut length = Length::Bytes(0);
        while let Some(line) = lines.next() {
            match line.first().map(u8::to_ascii_lowercase) {
                None => {
                    let head = Self { status: status as u16, length };
                    return Ok(Some((head, received.len() - lines.rest.len())));
                }
                Some(b'c') if named(line, b"content-length:") => {
                    let bytes = number(line[15..].trim_ascii(), 10);
                    length = Length::Bytes(bytes.ok_or_else(|| {
                        Error::Failed("the content-length of an answer is not a number".into())
                    })?);
                }
                Some(b't') if named(line, b"transfer-encoding:") => length = Length::Chunked,
                Some(_) => {}
            }
        }
        incomplete(received)
    }
}

impl Length {
    fn is_complete(self, body: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => body.len() >= bytes,
            Self::Chunked => has_last_chunk(body),
        }
    }
}

/// Iterates over complete lines, without their line ends.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&byte| byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn incomplete(received: &[u8]) -> Result<Option<(Head, usize)>> {
    if received.len() > HEAD_BYTES_MAX {
        return Err(Error::Failed("the head of an answer is longer than 64 KiB".into()));
    }
    Ok(None)
}

fn named(line: &[u8], name: &[u8]) -> bool {
    line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name)
}

fn number(digits: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// Whether the last chunk of `body` has come. Trailers are not handled: no target sends any.
fn has_last_chunk(body: &[u8]) -> bool {
    let mut lines = Lines { rest: body };
    while let Some(size) = lines.next().and_then(|line| number(line, 16)) {
        if size == 0 {
            return lines.next().is_some();
        }
        match lines.rest.get(size + 2..) {
            Some(rest) => lines.rest = rest,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Option<(Head, usize)> {
        Head::parse(text.as_bytes()).expect("http")
    }

    #[test]
    fn a_head_gives_status_and_length() {
        let text = "HTTP/1.1 404 Not Found\r\netag: \"x\"\r\nContent-Length: 12\r\n\r\nbody";
        assert_eq!(head(text), Some((Head { status: 404, length: Length::Bytes(12) }, text.len() - 4)));
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(text), Some((Head { status: 200, length: Length::Chunked }, text.len())));
    }

    #[test]
    fn a_head_is_waited_for() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(head(&text[..end]), None);
        }
        assert!(Head::parse(b"SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn chunks_end_with_an_empty_one() {
        let text = b"4\r\nab\r\n\r\n1f\r\n0123456789012345678901234567890\r\n0\r\n\r\n";
        for end in 0..text.len() {
            assert!(!has_last_chunk(&text[..end]), "at {end}");
        }
        assert!(has_last_chunk(text));
    }
}
