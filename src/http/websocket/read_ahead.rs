//! Reads more from a socket than it is asked for, and keeps what is over for the next read. So whoever reads into a small buffer makes few
//! system calls, and a connection that waits, of which there may be very many, holds no large one.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};

use crate::http::request::budget::UNCOUNTED_BYTES_MAX;

/// Most bytes of one read, and most that are kept. They are counted only once they are taken.
const READ_BYTES_MAX: usize = UNCOUNTED_BYTES_MAX;

/// A connection that is read ahead.
pub struct ReadAhead<T> {
    io: T,
    /// What was read and nobody has taken yet. Without memory of its own while it is empty.
    ahead: Bytes,
}

impl<T> ReadAhead<T> {
    /// Reads ahead from `io`.
    pub fn new(io: T) -> Self {
        Self { io, ahead: Bytes::new() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            let mut room = [MaybeUninit::uninit(); READ_BYTES_MAX];
            let mut room = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut this.io).poll_read(context, &mut room))?;
            let read = room.filled();
            let (wanted, over) = read.split_at(read.len().min(buffer.remaining()));
            buffer.put_slice(wanted);
            this.ahead = Bytes::copy_from_slice(over);
        } else {
            // As a read of the connection does: so that a client that sends very much lets others have their turn.
            let turn = ready!(coop::poll_proceed(context));
            turn.made_progress();
            let wanted = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead.split_to(wanted));
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
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

    /// Counts the reads of the connection below.
    struct Counted<T> {
        io: T,
        reads: usize,
    }

    impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            Pin::new(&mut self.io).poll_read(context, buffer)
        }
    }

    #[tokio::test]
    async fn small_reads_take_few_of_the_connection_and_leave_nothing_behind() {
        let sent: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
        let (mut client, server) = tokio::io::duplex(sent.len());
        client.write_all(&sent).await.expect("writes");
        drop(client);
        let mut ahead = ReadAhead::new(Counted { io: server, reads: 0 });
        let mut read = Vec::new();
        let mut small = [0; 7];
        loop {
            match ahead.read(&mut small).await.expect("reads") {
                0 => break,
                bytes => read.extend_from_slice(&small[..bytes]),
            }
        }
        assert!(read == sent);
        assert_eq!(ahead.io.reads, sent.len().div_ceil(READ_BYTES_MAX) + 1, "the last one finds the end");
        assert!(ahead.ahead.is_empty());
    }
}
