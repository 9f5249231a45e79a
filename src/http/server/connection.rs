//! The bytes of an HTTP/1 connection, above TLS: how long it may stay idle between two requests and how long a head may take, which
//! hyper has one limit for; and hyper's own answers to what is no request, which become problems with a request id like all others.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tracing::debug;

use crate::{
    error::Error,
    http::{HEAD_BYTES_MAX, request::connection_state::ConnectionState, response},
};

/// No answer of hyper's own is longer: a status line and three headers.
const HYPER_RESPONSE_BYTES_MAX: usize = 256;

/// A connection on which requests and their answers take turns.
pub struct Http1Stream<S> {
    stream: S,
    connection: Arc<ConnectionState>,
    phase: Phase,
    /// Since when; `None` before anybody waited.
    since: Option<Instant>,
    /// Requests that were begun before.
    requests: usize,
    timer: Option<Pin<Box<Sleep>>>,
    replacement: Option<Replacement>,
}

/// What is waited for while no request is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
}

/// What is written instead of an answer of hyper's.
struct Replacement {
    bytes: Vec<u8>,
    written: usize,
    /// Bytes that hyper is told were written, once all of these are.
    replaced_bytes: usize,
}

impl<S> Http1Stream<S> {
    /// The connection of `connection`, whose first bytes are there.
    pub fn new(stream: S, connection: Arc<ConnectionState>) -> Self {
        Self {
            stream,
            connection,
            phase: Phase::Head,
            since: Some(Instant::now()),
            requests: 0,
            timer: None,
            replacement: None,
        }
    }

    /// Notes that bytes came in. The clock is looked at once they turn out not to be a whole head.
    fn received(&mut self) {
        let requests = self.connection.requests_begun();
        if self.phase == Phase::Idle || self.requests != requests {
            (self.phase, self.since, self.requests) = (Phase::Head, None, requests);
        }
    }

    /// Ready once the client has let its time pass.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.connection.is_event_stream() || self.connection.is_upgraded() {
            self.timer = None;
            return Poll::Pending;
        }
        if self.connection.is_busy() {
            return Poll::Pending;
        }
        if self.has_answered() {
            (self.phase, self.since, self.requests) = (Phase::Idle, None, self.connection.requests_begun());
        }
        let options = &self.connection.options;
        let since = *self.since.get_or_insert_with(Instant::now);
        let deadline = match self.phase {
            Phase::Idle => since + options.idle_timeout,
            Phase::Head => since + options.header_timeout,
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        // One that rings before its time is set anew then, and not with every request.
        while timer.as_mut().poll(context).is_ready() {
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Whether a request was begun since what is waited for was said.
    fn has_answered(&self) -> bool {
        self.requests != self.connection.requests_begun()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http1Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_ready() {
            this.received();
            return read;
        }
        ready!(this.poll_timeout(context));
        debug!(remote = %this.connection.remote, waited_for = ?this.phase, "closed: the client's time is over");
        // As if the client had hung up.
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Http1Stream<S> {
    /// Writes what replaces an answer of hyper's; `None` where nothing does.
    fn poll_replacement(&mut self, context: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let Self { stream, replacement, .. } = self;
        let current = replacement.as_mut()?;
        while current.written < current.bytes.len() {
            let rest = &current.bytes[current.written..];
            match Pin::new(&mut *stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => current.written += written,
                other => return Some(other),
            }
        }
        let replaced_bytes = current.replaced_bytes;
        *replacement = None;
        Some(Poll::Ready(Ok(replaced_bytes)))
    }

    fn replace(&mut self, bytes: &[u8]) {
        if self.replacement.is_none()
            && !self.connection.has_open_requests()
            && !self.connection.is_upgraded()
        {
            let replacement = replacement_for(bytes);
            self.replacement =
                replacement.map(|new| Replacement { bytes: new, written: 0, replaced_bytes: bytes.len() });
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http1Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.replace(bytes);
        match self.poll_replacement(context) {
            Some(written) => written,
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper writes a head only once all before it is gone, so that its own, which has no body, stands alone.
        if let [alone] = slices {
            self.replace(alone);
        }
        match self.poll_replacement(context) {
            Some(written) => written,
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // hyper reads no more once it has answered, until it is woken: by bytes that come, or by this timer. What that says is asked
        // for by the read which follows.
        if flushed.is_ready() && self.has_answered() {
            let _ = self.poll_timeout(context);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What to write instead of these bytes, where they end in an answer of hyper's own: a head of status 4xx without a body, and
/// without the request id that all of ours have.
fn replacement_for(bytes: &[u8]) -> Option<Vec<u8>> {
    const BEGINNING: &[u8] = b"HTTP/1.1 4";
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let tail = &bytes[bytes.len().saturating_sub(HYPER_RESPONSE_BYTES_MAX)..];
    let start = tail.windows(BEGINNING.len()).rposition(|window| window == BEGINNING)?;
    let head = std::str::from_utf8(&tail[start..]).ok()?;
    if head.contains("x-request-id:") || !head.contains("content-length: 0\r\n") {
        return None;
    }
    let error = match head.get(9..12)? {
        "431" | "414" => Error::HeadTooLarge { limit: HEAD_BYTES_MAX as u64 },
        _ => Error::BadRequest(
            "what came in is no request of HTTP/1.1: a line of its head is not well-formed".into(),
        ),
    };
    let before = &bytes[..bytes.len() - head.len()];
    Some([before, response::plain_response(&error).as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";

    fn text(bytes: &[u8]) -> Option<String> {
        replacement_for(bytes).map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn an_answer_of_hypers_own_becomes_a_problem_and_what_is_before_it_stays() {
        let before = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: 1\r\n\r\n{}";
        let new = text(format!("{before}{OWN}").as_bytes()).expect("replaced");
        let problem = new.strip_prefix(before).expect("what is before it");
        assert!(problem.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{problem}");
        assert!(
            problem.contains("application/problem+json") && problem.contains("x-request-id: "),
            "{problem}"
        );
        let too_large = text(OWN.replace("400 Bad Request", "431 x").as_bytes()).expect("replaced");
        assert!(too_large.starts_with("HTTP/1.1 431 ") && too_large.contains("65536"), "{too_large}");
    }

    #[test]
    fn no_other_answer_is_touched() {
        let ours = OWN.replace("connection: close", "x-request-id: 7");
        for other in [
            ours.as_str(),
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nx-request-id: 7\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n",
            "\r\n\r\n",
            "",
            "{\"value\":1}",
        ] {
            assert_eq!(text(other.as_bytes()), None, "{other}");
        }
    }
}
