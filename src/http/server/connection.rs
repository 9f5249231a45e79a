//! The byte stream of an HTTP/1 connection, above TLS. It enforces two timeouts, one for idle time between requests and one for a request's
//! head, because hyper has only one for both. It ends the connection of a client that reads too slowly while memory is short. It also replaces
//! hyper's own responses to invalid requests by problems with a request id.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tracing::debug;

use super::stalled_bodies::SlowClient;
use crate::{
    error::Error,
    http::{
        HEAD_BYTES_MAX,
        request::{connection_state::ConnectionState, hand_over::HandOver, upgrade::read_again},
        response,
    },
};

/// hyper's own responses are no longer than this: a status line and three headers.
const HYPER_RESPONSE_BYTES_MAX: usize = 256;

/// An HTTP/1 connection: requests and responses take turns.
pub struct Http1Stream<S> {
    stream: S,
    /// What was read too early: the beginning of the next request.
    unread: Bytes,
    connection: Arc<ConnectionState>,
    hand_over: Arc<HandOver>,
    phase: Phase,
    /// Start of the wait; `None` until somebody waits.
    since: Option<Instant>,
    /// Requests begun before this wait.
    requests: usize,
    timer: Option<Pin<Box<Sleep>>>,
    /// Requests begun when hyper had last written all that it had, and none of them was open.
    written_requests: usize,
    replacement: Option<Replacement>,
    /// The client, while it has not taken all that hyper has written.
    slow_client: Option<Box<SlowClient>>,
}

/// What we wait for while no request is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
}

/// What we write instead of a response of hyper's own.
struct Replacement {
    bytes: Vec<u8>,
    written: usize,
    /// Bytes to report to hyper as written, once the replacement is.
    replaced_bytes: usize,
}

impl<S> Http1Stream<S> {
    /// The stream of `connection`, whose first bytes have arrived.
    pub fn new(stream: S, connection: Arc<ConnectionState>, hand_over: Arc<HandOver>) -> Self {
        Self {
            stream,
            unread: Bytes::new(),
            connection,
            hand_over,
            phase: Phase::Head,
            since: Some(Instant::now()),
            requests: 0,
            timer: None,
            written_requests: 0,
            replacement: None,
            slow_client: None,
        }
    }

    /// The stream of `connection` after something else than hyper has answered a request on it. `unread` came behind that request.
    pub fn resume(
        stream: S,
        unread: Bytes,
        connection: Arc<ConnectionState>,
        hand_over: Arc<HandOver>,
    ) -> Self {
        let requests = connection.requests_begun();
        let new = Self::new(stream, connection, hand_over);
        Self { unread, phase: Phase::Idle, since: None, requests, written_requests: requests, ..new }
    }

    /// The bytes under HTTP, and of what was read too early the part that nobody has taken from here.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.unread)
    }

    /// Records that bytes arrived. We read the clock only once they turn out not to be a complete head.
    fn received(&mut self) {
        let requests = self.connection.requests_begun();
        if self.phase == Phase::Idle || self.requests != requests {
            (self.phase, self.since, self.requests) = (Phase::Head, None, requests);
        }
    }

    /// Ready when the client has used up its time.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.connection.is_upgraded() {
            self.timer = None;
            return Poll::Pending;
        }
        if self.connection.is_busy() {
            // A stream may go on for hours, and there are thousands: they carry no timers. Some end, and further requests follow.
            if self.connection.is_event_stream() {
                self.timer = None;
            }
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
        // The timer is not reset on every request, so it may fire early and is then reset here.
        while timer.as_mut().poll(context).is_ready() {
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Whether a request was begun since the wait started.
    fn has_answered(&self) -> bool {
        self.requests != self.connection.requests_begun()
    }

    /// Returns the outcome of a write, or an error once the client takes too little while memory is short. A stream of events holds little,
    /// and may be slow.
    fn watch_client(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(outcome) = outcome {
            if let (Some(slow_client), Ok(written)) = (&mut self.slow_client, &outcome) {
                slow_client.took(*written);
            }
            return Poll::Ready(outcome);
        }
        let connection = &self.connection;
        if connection.is_event_stream() {
            return Poll::Pending;
        }
        let slow_client = self.slow_client.get_or_insert_with(|| {
            let budget = Arc::clone(&connection.budget);
            Box::new(SlowClient::new(budget, connection.options.stall_timeout))
        });
        slow_client.poll_stalled(context).map(Err)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http1Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.unread.is_empty() {
            read_again(&mut this.unread, buffer);
            this.received();
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_ready() {
            this.received();
            return read;
        }
        ready!(this.poll_timeout(context));
        debug!(remote = %this.connection.remote, waited_for = ?this.phase, "closed: the client took too long");
        // To hyper this looks as if the client had hung up.
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Http1Stream<S> {
    /// Writes the replacement for a response of hyper's own; `None` if there is none.
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

    /// Looks for a response of hyper's own: where nothing is left to write of any other. A request alone does not tell, as it is no longer
    /// open once hyper has the last bytes of its body.
    fn replace(&mut self, bytes: &[u8]) {
        if self.replacement.is_none()
            && self.written_requests == self.connection.requests_begun()
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
        let outcome = match self.poll_replacement(context) {
            Some(written) => written,
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        };
        self.watch_client(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper's own response has no body, so it comes in one slice.
        if let [alone] = slices {
            self.replace(alone);
        }
        let outcome = match self.poll_replacement(context) {
            Some(written) => written,
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        };
        self.watch_client(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once everything that it had is written.
        self.slow_client = None;
        if !self.connection.has_open_requests() {
            self.written_requests = self.connection.requests_begun();
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // After a response hyper reads no more until it is woken, by arriving bytes or by this timer. The read that follows handles the
        // timeout.
        if flushed.is_ready() && self.has_answered() {
            let _ = self.poll_timeout(context);
        }
        if flushed.is_ready() {
            self.hand_over.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The replacement for these bytes, if they are a response of hyper's own: a head with status 4xx, without a body and without the request id
/// that ours have.
fn replacement_for(bytes: &[u8]) -> Option<Vec<u8>> {
    const BEGINNING: &[u8] = b"HTTP/1.1 4";
    const END: &[u8] = b"\r\n\r\n";
    if bytes.len() > HYPER_RESPONSE_BYTES_MAX || !bytes.starts_with(BEGINNING) || !bytes.ends_with(END) {
        return None;
    }
    let head = std::str::from_utf8(bytes).ok()?;
    if head.contains("x-request-id:") || !head.contains("content-length: 0\r\n") {
        return None;
    }
    let error = match head.get(9..12)? {
        "431" | "414" => Error::HeadTooLarge { limit: HEAD_BYTES_MAX as u64 },
        _ => {
            Error::BadRequest("this is not a valid HTTP/1.1 request: a line of its head is malformed".into())
        }
    };
    Some(response::plain_response(&error).into_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;
    use crate::http::{Options, request::budget::Budget};

    fn connection() -> Arc<ConnectionState> {
        let options = Arc::new(Options::default());
        let budget = Budget::new(options.body_memory_bytes, Default::default());
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(ConnectionState::new(remote, options, budget, &Arc::default(), None))
    }

    /// Whatever hyper had not read of it yet was lost with the next hand-over.
    #[tokio::test]
    async fn what_was_read_too_early_goes_on_with_the_connection() {
        let unread = Bytes::from_static(b"GET / HTTP/1.1");
        let mut stream = Http1Stream::resume(tokio::io::empty(), unread, connection(), Arc::default());
        stream.read_exact(&mut [0; 4]).await.expect("there is more");
        assert_eq!(stream.into_parts().1, "/ HTTP/1.1");
    }

    const OWN: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";

    fn text(bytes: &[u8]) -> Option<String> {
        replacement_for(bytes).map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn hypers_own_response_becomes_a_problem() {
        let problem = text(OWN.as_bytes()).expect("replaced");
        assert!(problem.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{problem}");
        assert!(
            problem.contains("application/problem+json") && problem.contains("x-request-id: "),
            "{problem}"
        );
        let too_large = text(OWN.replace("400 Bad Request", "431 x").as_bytes()).expect("replaced");
        assert!(too_large.starts_with("HTTP/1.1 431 ") && too_large.contains("65536"), "{too_large}");
    }

    /// Writes a response of head and body as hyper does, to a client with a window of so many bytes. hyper has given up the request by then.
    /// Returns what the client gets, up to the end of a response of hyper's own that follows.
    async fn written(window: usize, head: &str, body: &str) -> String {
        let (mut client, io) = tokio::io::duplex(window);
        let connection = connection();
        let mut stream = Http1Stream::new(io, Arc::clone(&connection), Arc::default());
        let reading = tokio::spawn(async move {
            let mut read = String::new();
            client.read_to_string(&mut read).await.expect("text");
            read
        });
        drop(connection.begin_request());
        let (mut head, mut body) = (head.as_bytes(), body.as_bytes());
        while !head.is_empty() || !body.is_empty() {
            let slices = [io::IoSlice::new(head), io::IoSlice::new(body)];
            let left: Vec<_> = slices.into_iter().filter(|slice| !slice.is_empty()).collect();
            let written = stream.write_vectored(&left).await.expect("the client reads");
            body = &body[written.saturating_sub(head.len())..];
            head = &head[written.min(head.len())..];
        }
        stream.flush().await.expect("the client reads");
        stream.write_all(OWN.as_bytes()).await.expect("the client reads");
        drop(stream);
        reading.await.expect("reads")
    }

    /// hyper is done with a request when it has the last of its response. What a client had not taken of a value was looked through for a
    /// response of hyper's own, and a value that ended like one got another end: longer than the head had said.
    #[tokio::test]
    async fn no_value_is_taken_for_a_response_of_hypers_own() {
        let head = "HTTP/1.1 200 OK\r\nx-request-id: 1\r\n\r\n";
        for value in [format!("value{OWN}"), OWN.to_owned()] {
            for window in 1..head.len() + 2 * value.len() {
                let read = written(window, head, &value).await;
                let after = read.strip_prefix(head).and_then(|rest| rest.strip_prefix(value.as_str()));
                let own = after.unwrap_or_else(|| panic!("{window}: {read}"));
                assert!(own.starts_with("HTTP/1.1 400 ") && own.contains("problem+json"), "{window}: {own}");
            }
            // As hyper writes a body of several parts.
            let read = written(1000, "", &value).await;
            assert!(read.starts_with(&value), "{read}");
        }
    }

    #[test]
    fn no_other_response_is_replaced() {
        let ours = OWN.replace("connection: close", "x-request-id: 7");
        for other in [
            ours.as_str(),
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nx-request-id: 7\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n",
            &format!("HTTP/1.1 204 No Content\r\n\r\n{OWN}"),
            "\r\n\r\n",
            "",
            "{\"value\":1}",
        ] {
            assert_eq!(text(other.as_bytes()), None, "{other}");
        }
    }

    /// Writes an answer of `bytes` to a client that takes `pace` of it whenever nine tenths of a stall timeout are over, where others hold so
    /// much of the memory for bodies.
    async fn write_slowly(held: u64, bytes: usize, pace: usize) -> io::Result<()> {
        let connection = connection();
        let (budget, stall_timeout) = (&connection.budget, connection.options.stall_timeout);
        let _others = budget.reserve(held).expect("there is room");
        let (mut client, io) = tokio::io::duplex(pace);
        let mut stream = Http1Stream::new(io, Arc::clone(&connection), Arc::default());
        let (answer, mut taken) = (vec![b'x'; bytes], vec![0; pace]);
        let mut left = &answer[..];
        while !left.is_empty() {
            match timeout(stall_timeout * 9 / 10, stream.write(left)).await {
                Ok(written) => left = &left[written?..],
                Err(_) => _ = client.read_exact(&mut taken).await?,
            }
        }
        stream.flush().await
    }

    /// Any byte that was taken counted, so thirty clients that took one now and then held all memory for as long as they liked.
    #[tokio::test(start_paused = true)]
    async fn where_memory_is_short_a_client_that_takes_little_loses_its_connection() {
        const PIECE: usize = 16 * 1024;
        let total = connection().budget.total();
        let (short, enough) = (total / 2 + 1, total / 2);
        let begun = Instant::now();
        let ended = write_slowly(short, 40 * PIECE, PIECE / 2).await.expect_err("it takes too little");
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        let stall_timeout = Options::default().stall_timeout;
        assert!(
            begun.elapsed() > stall_timeout && begun.elapsed() <= 2 * stall_timeout,
            "{:?}",
            begun.elapsed()
        );
        write_slowly(short, 40 * PIECE, PIECE).await.expect("it takes enough");
        write_slowly(enough, 40 * PIECE, PIECE / 2).await.expect("there is memory");
    }
}
