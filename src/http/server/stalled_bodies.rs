//! Response bodies of HTTP/2 that their client does not take. It opens a window for each stream and need not: then hyper waits, for ever, as
//! the connection is alive otherwise. TCP's timeouts see nothing of it, and what the body holds would be held as long: its bytes, its part of
//! the memory budget, its place among the open requests. So where memory for bodies runs short, a body is dropped whose client has taken no
//! further piece of it for `--stall-timeout`. Its stream is reset once the client asks for more. Where there is memory, a slow client may take
//! its time.
//!
//! hyper keeps the bytes that it took from a body until they are written. So it gets them piece by piece, in copies that hold nothing else.
//! A client that leaves even these for another `--stall-timeout` loses its connection, if memory is short still.
//!
//! Over HTTP/1.1 hyper takes all of a frame at once, and there is nothing else on the connection. So there the rule is for its bytes: where
//! memory runs short, a client loses its connection that has taken less than a piece of its answers for `--stall-timeout`.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::driver::BoxError;
use crate::http::request::budget::{Budget, UNCOUNTED_BYTES_MAX, attach};

/// What hyper gets of a body at a time: as much as a frame of HTTP/2 has, unless the client allows longer ones.
const PIECE_BYTES: usize = 16 * 1024;
/// What hyper takes of each body ahead of a client that does not read.
pub(super) const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Why a connection ends.
pub(super) const READS_TOO_SLOWLY: &str =
    "the client reads its answers too slowly, and memory for bodies is short";

/// The bodies of one connection.
pub(super) struct Bodies {
    budget: Arc<Budget>,
    registered: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    bodies: Vec<Weak<dyn MayStall>>,
    /// When to look which of them are gone: once there are so many.
    tidy_at: usize,
}

trait MayStall: Send + Sync {
    /// Drops the body if the client has taken nothing of it for so long. Returns whether it was dropped that long ago, and the client has not
    /// asked for more since.
    fn drop_if_stalled(&self, for_longer_than: Duration) -> bool;
}

impl Bodies {
    /// None yet, of a connection whose bodies have this budget.
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, registered: Mutex::default() }
    }

    /// A body, to be dropped when its client does not take it.
    pub(super) fn add<B>(&self, body: B) -> MayStallBody<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let state =
            State { body: Some(Box::pin(body)), frame: Bytes::new(), asks_since: Some(Instant::now()) };
        let shared = Arc::new(Shared(Mutex::new(state)));
        let weak = Arc::downgrade(&shared);
        let mut registered = self.lock();
        if registered.bodies.len() >= registered.tidy_at {
            registered.tidy();
        }
        registered.bodies.push(weak);
        MayStallBody { shared, budget: Arc::clone(&self.budget) }
    }

    /// Drops bodies as long as it is polled. Ends when a client has not even asked for more of one that was dropped.
    pub(super) async fn drop_stalled(&self, stall_timeout: Duration) {
        let mut shortage = Shortage::new(Arc::clone(&self.budget));
        loop {
            sleep(stall_timeout / 2).await;
            let bodies = self.lock().tidy().to_vec();
            if !shortage.is_short() {
                continue;
            }
            // All of them are looked at.
            let abandoned = bodies.iter().filter_map(Weak::upgrade);
            if abandoned.filter(|body| body.drop_if_stalled(stall_timeout)).count() > 0 {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// Those that are not gone.
    fn tidy(&mut self) -> &[Weak<dyn MayStall>] {
        self.bodies.retain(|body| body.strong_count() > 0);
        self.tidy_at = 2 * self.bodies.len() + 8;
        &self.bodies
    }
}

/// Tells whether memory for bodies is short.
struct Shortage {
    budget: Arc<Budget>,
    /// How often it was refused, up to the last look.
    refused: u64,
}

impl Shortage {
    fn new(budget: Arc<Budget>) -> Self {
        let refused = budget.refused();
        Self { budget, refused }
    }

    /// Whether more than half of it is used, or some was refused since the last look.
    fn is_short(&mut self) -> bool {
        let before = std::mem::replace(&mut self.refused, self.budget.refused());
        self.budget.used() > self.budget.total() / 2 || self.refused != before
    }
}

/// A client of HTTP/1.1 that has not taken all of its answers.
pub(super) struct SlowClient {
    shortage: Shortage,
    stall_timeout: Duration,
    /// Since when it has taken less than a piece.
    since: Instant,
    /// What it has taken since then.
    taken_bytes: usize,
    next_look: Pin<Box<Sleep>>,
}

impl SlowClient {
    /// A client that takes nothing more just now.
    pub(super) fn new(budget: Arc<Budget>, stall_timeout: Duration) -> Self {
        Self {
            shortage: Shortage::new(budget),
            stall_timeout,
            since: Instant::now(),
            taken_bytes: 0,
            next_look: Box::pin(sleep(stall_timeout / 2)),
        }
    }

    /// Records that it has taken so many bytes.
    pub(super) fn took(&mut self, bytes: usize) {
        self.taken_bytes += bytes;
        if self.taken_bytes >= PIECE_BYTES {
            (self.since, self.taken_bytes) = (Instant::now(), 0);
        }
    }

    /// Ready with why its connection ends, if it takes too little.
    pub(super) fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.next_look.as_mut().poll(context));
            self.next_look.as_mut().reset(Instant::now() + self.stall_timeout / 2);
            if self.shortage.is_short() && self.since.elapsed() > self.stall_timeout {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, READS_TOO_SLOWLY));
            }
        }
    }
}

/// A body that is dropped when its client does not take it.
pub(super) struct MayStallBody<B> {
    shared: Arc<Shared<B>>,
    budget: Arc<Budget>,
}

struct Shared<B>(Mutex<State<B>>);

struct State<B> {
    /// `None` once it was dropped.
    body: Option<Pin<Box<B>>>,
    /// What hyper has not had of a frame.
    frame: Bytes,
    /// Since when hyper waits for the client, and not for the body; once it was dropped, since then.
    asks_since: Option<Instant>,
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Send> MayStall for Shared<B> {
    fn drop_if_stalled(&self, for_longer_than: Duration) -> bool {
        let mut state = self.lock();
        if state.asks_since.is_none_or(|since| since.elapsed() <= for_longer_than) {
            return false;
        }
        let Some(body) = state.body.take() else { return true };
        state.asks_since = Some(Instant::now());
        let dropped = (body, std::mem::take(&mut state.frame));
        drop(state);
        drop(dropped);
        false
    }
}

impl<B> Body for MayStallBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let state = &mut *self.shared.lock();
        let Some(body) = &mut state.body else { return Poll::Ready(Some(Err(Stalled.into()))) };
        if state.frame.is_empty() {
            let polled = body.as_mut().poll_frame(context);
            state.asks_since = polled.is_ready().then(Instant::now);
            match polled {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => state.frame = bytes,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return other.map_err(Into::into),
            }
        } else {
            state.asks_since = Some(Instant::now());
        }
        // Also of a short frame: it may be a part of what is long, and has the reservation of all.
        let piece = state.frame.split_to(state.frame.len().min(PIECE_BYTES));
        let copy = Bytes::copy_from_slice(&piece);
        if copy.len() <= UNCOUNTED_BYTES_MAX {
            return Poll::Ready(Some(Ok(Frame::data(copy))));
        }
        let reservation = self.budget.force_reserve(copy.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(attach(copy, reservation)))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        state.frame.is_empty() && state.body.as_ref().is_some_and(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.lock();
        let Some(body) = &state.body else { return SizeHint::default() };
        let (rest, of_body) = (state.frame.len() as u64, body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// Why a stream is reset.
#[derive(Debug)]
struct Stalled;

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the client took no more of the response for --stall-timeout, and memory for bodies is short",
        )
    }
}

impl std::error::Error for Stalled {}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use tokio::time::timeout;

    use super::*;
    use crate::{core::memory_pressure::MemoryPressure, http::request::budget::Reservation};

    const STALL: Duration = Duration::from_secs(10);

    struct Fixture {
        bodies: Bodies,
        body: MayStallBody<Full<Bytes>>,
        _others: Reservation,
    }

    impl Fixture {
        /// A body of ten pieces, where others hold so much of a budget of 1,000,000 bytes.
        fn new(held: u64) -> Self {
            let budget = Budget::new(1_000_000, MemoryPressure::default());
            let _others = budget.reserve(held).expect("there is room");
            let bodies = Bodies::new(budget);
            let body = bodies.add(Full::new(Bytes::from(vec![b'x'; 10 * PIECE_BYTES])));
            Self { bodies, body, _others }
        }

        /// The length of the next piece; `None` at the end.
        async fn next(&mut self) -> Option<Result<usize, BoxError>> {
            let frame = self.body.frame().await?;
            Some(frame.map(|frame| frame.into_data().expect("no trailers").len()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_memory_is_short_a_client_that_takes_nothing_loses_the_body_and_then_the_connection() {
        let fixture = Fixture::new(600_000);
        let begun = Instant::now();
        fixture.bodies.drop_stalled(STALL).await;
        assert!(begun.elapsed() > 2 * STALL && begun.elapsed() <= 3 * STALL, "{:?}", begun.elapsed());
        let mut fixture = Fixture::new(600_000);
        assert!(timeout(2 * STALL, fixture.bodies.drop_stalled(STALL)).await.is_err());
        assert!(fixture.next().await.expect("tells").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_memory_a_client_may_take_its_time() {
        let mut fixture = Fixture::new(400_000);
        assert!(timeout(10 * STALL, fixture.bodies.drop_stalled(STALL)).await.is_err());
        assert_eq!(fixture.next().await.expect("goes on").expect("is there"), PIECE_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_piece_after_piece_gets_all() {
        let mut fixture = Fixture::new(600_000);
        let mut pieces = 0;
        while let Some(piece) = fixture.next().await {
            assert_eq!(piece.expect("is there"), PIECE_BYTES);
            pieces += 1;
            assert!(timeout(STALL * 9 / 10, fixture.bodies.drop_stalled(STALL)).await.is_err());
        }
        assert_eq!(pieces, 10);
    }
}
