//! Memory accounting for incoming WebSocket messages: a message in progress is in memory, whether or not it ever ends, so its bytes count
//! against the memory for all bodies, and it has to arrive as fast as a body.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    core::memory_pressure::Level,
    http::{
        Options, keep_alive,
        request::{
            body::BODY_GRACE,
            budget::{Budget, Reservation, UNCOUNTED_BYTES_MAX},
        },
    },
};

/// What a control frame of a client has before its payload (RFC 6455, section 5.2): two bytes, and the mask.
const CONTROL_HEAD_BYTES: usize = 2 + 4;

/// A connection keeps the buffer of its longest message, as long as it lives. From this length on it is closed while it idles, where memory is scarce.
const LONG_BYTES: usize = 64 * 1024;

/// How the message in progress has come on between two keep-alives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is none, or nothing more of it came.
    Nothing,
    /// More of it came.
    More,
    /// It holds memory for all bodies, and has stood still for `--body-timeout` or comes below `--min-body-rate`.
    TooSlow,
}

/// What was seen of the message in progress, at the keep-alives since it began.
#[derive(Default)]
struct Seen {
    bytes: usize,
    looks: u32,
    /// Looks since the last that found more.
    still: u32,
}

/// A connection whose unfinished messages are counted.
pub struct Metered<T> {
    io: T,
    budget: Arc<Budget>,
    options: Arc<Options>,
    /// Bytes read since the last message.
    read: usize,
    reservation: Reservation,
    /// Bytes of the longest message so far.
    longest: usize,
    /// Only while a keep-alive has found a message in progress.
    seen: Option<Box<Seen>>,
}

impl<T> Metered<T> {
    /// Counts what is read from `io`.
    pub fn new(io: T, budget: Arc<Budget>, options: Arc<Options>) -> Self {
        let reservation = budget.empty_reservation();
        Self { io, budget, options, read: 0, reservation, longest: 0, seen: None }
    }

    /// Called at each keep-alive at which messages are read.
    pub fn look(&mut self) -> Progress {
        if self.read == 0 {
            self.seen = None;
            return Progress::Nothing;
        }
        let seen = self.seen.get_or_insert_default();
        let is_more = seen.bytes != self.read;
        seen.bytes = self.read;
        seen.looks += 1;
        seen.still = if is_more { 0 } else { seen.still + 1 };
        let waited = keep_alive::PERIOD * (seen.looks - 1);
        let least = self.options.body_rate_min as f64 * waited.as_secs_f64();
        let is_slow = waited > BODY_GRACE && (self.read as f64) < least;
        // Once may be our own doing: nothing is read while a write waits for the client.
        let is_stuck = seen.still >= 2 && keep_alive::PERIOD * seen.still >= self.options.body_timeout;
        match self.reservation.bytes() > 0 && (is_slow || is_stuck) {
            true => Progress::TooSlow,
            false if is_more => Progress::More,
            false => Progress::Nothing,
        }
    }

    /// Whether it is better closed than kept, if nothing goes on there: it holds the buffer of a long message, and memory is scarce.
    pub fn wastes_memory(&self) -> bool {
        self.longest >= LONG_BYTES && self.budget.level() != Level::Low
    }

    /// Called for a control frame with a payload of so many bytes, which is no part of the message in progress: there may be one between any
    /// two fragments, and on a connection that only follows events there is nothing else.
    pub fn forget_control_frame(&mut self, payload_bytes: usize) {
        self.read = self.read.saturating_sub(CONTROL_HEAD_BYTES + payload_bytes);
        if self.read <= UNCOUNTED_BYTES_MAX && self.reservation.bytes() > 0 {
            self.reservation = self.budget.empty_reservation();
        }
    }

    /// Called when a message is complete: returns its reservation.
    pub fn take_message(&mut self) -> Reservation {
        self.longest = self.longest.max(self.read);
        self.read = 0;
        self.seen = None;
        std::mem::replace(&mut self.reservation, self.budget.empty_reservation())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let this = &mut *self;
        this.read += buffer.filled().len() - before;
        let reservation = this.reservation.reserve_at_least(this.read);
        Poll::Ready(reservation.map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error)))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::core::memory_pressure::MemoryPressure;

    #[tokio::test]
    async fn a_message_in_progress_reserves_its_bytes_and_fails_without_memory() {
        let budget = Budget::new(150_000, Default::default());
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut metered = Metered::new(server, budget.clone(), Arc::default());
        client.write_all(&[0; 100_000]).await.expect("writes");
        let mut buffer = vec![0; 100_000];
        metered.read_exact(&mut buffer).await.expect("the budget has room");
        assert!(budget.used() >= 100_000);
        let reservation = metered.take_message();
        assert!(budget.used() >= 100_000, "the message is being handled");
        drop(reservation);
        assert_eq!(budget.used(), 0);
        client.write_all(&[0; 200_000]).await.expect("writes");
        let error = metered.read_exact(&mut vec![0; 200_000]).await.expect_err("the budget is used up");
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    }

    #[tokio::test]
    async fn a_message_that_holds_memory_has_to_come_on_as_a_body_has() {
        let budget = Budget::new(1 << 30, Default::default());
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let options = Options { body_rate_min: 1000, ..Options::default() };
        let body_timeout_looks = options.body_timeout.div_duration_f64(keep_alive::PERIOD).ceil() as usize;
        let mut metered = Metered::new(server, budget.clone(), Arc::new(options));
        let mut read = async |metered: &mut Metered<_>, bytes: usize| {
            client.write_all(&vec![0; bytes]).await.expect("writes");
            metered.read_exact(&mut vec![0; bytes]).await.expect("the budget has room");
        };
        assert_eq!(metered.look(), Progress::Nothing);
        // A short one holds nothing.
        read(&mut metered, 100).await;
        assert_eq!(metered.look(), Progress::More);
        assert!((0..100).all(|_| metered.look() == Progress::Nothing));
        // One that stands still.
        drop(metered.take_message());
        read(&mut metered, 1_000_000).await;
        assert_eq!(metered.look(), Progress::More);
        assert!((1..body_timeout_looks).all(|_| metered.look() == Progress::Nothing));
        assert_eq!(metered.look(), Progress::TooSlow);
        read(&mut metered, 1).await;
        assert_eq!(metered.look(), Progress::More, "1 MB are enough for a long time");
        // One that comes slowly: the first look begins to count.
        drop(metered.take_message());
        read(&mut metered, 2 * UNCOUNTED_BYTES_MAX).await;
        let enough = 1 + 2 * UNCOUNTED_BYTES_MAX / (1000 * keep_alive::PERIOD.as_secs() as usize);
        for _ in 0..enough {
            assert_eq!(metered.look(), Progress::More);
            read(&mut metered, 1).await;
        }
        assert_eq!(metered.look(), Progress::TooSlow);
        drop(metered.take_message());
        assert_eq!((metered.look(), budget.used()), (Progress::Nothing, 0));
    }

    #[tokio::test]
    async fn where_memory_is_scarce_a_connection_wastes_it_that_holds_the_buffer_of_a_long_message() {
        let pressure = MemoryPressure::default();
        let budget = Budget::new(1 << 30, pressure.clone());
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut metered = Metered::new(server, budget, Arc::default());
        pressure.set(Level::High);
        for (bytes, wastes) in [(LONG_BYTES - 1, false), (LONG_BYTES, true), (1, true)] {
            client.write_all(&vec![0; bytes]).await.expect("writes");
            metered.read_exact(&mut vec![0; bytes]).await.expect("the budget has room");
            drop(metered.take_message());
            assert_eq!(metered.wastes_memory(), wastes, "{bytes}");
        }
        pressure.set(Level::Low);
        assert!(!metered.wastes_memory());
    }

    /// Pongs counted for ever: after three hours of nothing else, an event stream held 64 KiB of the memory for bodies.
    #[tokio::test]
    async fn control_frames_are_no_part_of_a_message() {
        let budget = Budget::new(1 << 20, Default::default());
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut metered = Metered::new(server, budget.clone(), Arc::default());
        let mut read = async |metered: &mut Metered<_>, bytes: usize| {
            client.write_all(&vec![0; bytes]).await.expect("writes");
            metered.read_exact(&mut vec![0; bytes]).await.expect("the budget has room");
        };
        for _ in 0..2000 {
            read(&mut metered, CONTROL_HEAD_BYTES + 10).await;
            metered.forget_control_frame(10);
        }
        assert_eq!(budget.used(), 0);
        // Between the fragments of a message they change nothing.
        for _ in 0..2000 {
            read(&mut metered, 100).await;
            read(&mut metered, CONTROL_HEAD_BYTES).await;
            metered.forget_control_frame(0);
        }
        assert!(budget.used() >= 200_000);
        drop(metered.take_message());
        // Many at once go over what is not counted, and come back.
        read(&mut metered, 2 * UNCOUNTED_BYTES_MAX).await;
        assert!(budget.used() > 0);
        metered.forget_control_frame(2 * UNCOUNTED_BYTES_MAX);
        assert_eq!(budget.used(), 0);
    }
}
