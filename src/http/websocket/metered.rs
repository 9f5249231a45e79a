//! Memory accounting for incoming WebSocket messages: a message in progress is in memory, whether or not it ever ends, so its bytes count
//! against the memory for all bodies.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::request::budget::{Budget, Reservation, UNCOUNTED_BYTES_MAX};

/// What a control frame of a client has before its payload (RFC 6455, section 5.2): two bytes, and the mask.
const CONTROL_HEAD_BYTES: usize = 2 + 4;

/// A connection whose unfinished messages are counted.
pub struct Metered<T> {
    io: T,
    budget: Arc<Budget>,
    /// Bytes read since the last message.
    read: usize,
    reservation: Reservation,
}

impl<T> Metered<T> {
    /// Counts what is read from `io`.
    pub fn new(io: T, budget: Arc<Budget>) -> Self {
        let reservation = budget.empty_reservation();
        Self { io, budget, read: 0, reservation }
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
        self.read = 0;
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

    #[tokio::test]
    async fn a_message_in_progress_reserves_its_bytes_and_fails_without_memory() {
        let budget = Budget::new(150_000, Default::default());
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut metered = Metered::new(server, budget.clone());
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

    /// Pongs counted for ever: after three hours of nothing else, an event stream held 64 KiB of the memory for bodies.
    #[tokio::test]
    async fn control_frames_are_no_part_of_a_message() {
        let budget = Budget::new(1 << 20, Default::default());
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut metered = Metered::new(server, budget.clone());
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
