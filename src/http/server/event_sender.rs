//! An event stream on a connection that hyper has given up: the chunks of a response's body, from behind its head to its last. A stream that
//! waits has a task, its subscription and its socket, and no buffer.
//!
//! Towards the client it does what hyper does: it gathers the events that are ready into one write, takes nothing more from the subscription
//! while the client does not read, considers a client gone that closes its side, and leaves what the client sends meanwhile for the time
//! after the stream. The socket below ends a connection whose client does not read for too long.
//!
//! While the stream waits, the thread that delivers a change writes it to the socket itself (`storage::changes::delivery`). Both write under
//! one lock, and only whole chunks; what the socket does not take of a chunk goes out before anything else, by the task.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;

use super::socket::{CHUNKS_MAX, Transport, gathered};
use crate::{
    http::events::{self, stream::EventStream},
    node::{Change, Offered, Sink},
};

/// The bytes from which on no more events are added to a write: what waits beyond is in the subscription's queue.
const GATHERED_BYTES_MAX: usize = 64 * 1024;
/// The chunk that ends a body.
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");
/// Most that is read of what the client sends during its stream.
const UNREAD_BYTES_MAX: usize = 4 * 1024;

/// Sends the events up to the last. Returns the connection, and what the client has sent meanwhile, for its next request.
///
/// # Errors
/// Those of the connection; `UnexpectedEof` if the client leaves.
pub async fn send<S: Transport>(stream: EventStream, io: S, unread: Bytes) -> io::Result<(S, Bytes)> {
    let can_try_write = io.can_try_write();
    let outlet = Arc::new(Outlet(Mutex::new(Output { io: Some(io), unsent: VecDeque::new() })));
    if can_try_write {
        stream.deliver_to(|| Arc::clone(&outlet) as Arc<dyn Sink>);
    }
    let mut sender = Sender { stream, outlet, unread, is_ended: false };
    poll_fn(|context| sender.poll(context)).await?;
    let io = sender.outlet.lock().io.take().expect("only here it is taken");
    Ok((io, sender.unread))
}

struct Sender<S> {
    stream: EventStream,
    outlet: Arc<Outlet<S>>,
    /// What the client has sent.
    unread: Bytes,
    /// Whether the last event is sent, or among the unsent.
    is_ended: bool,
}

impl<S: Transport> Sender<S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch_client(context)?;
        loop {
            ready!(self.outlet.lock().poll_send(context))?;
            if self.is_ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_gather(context));
        }
    }

    /// An error if the client is gone. What it sends is read once, and no more of it, so that it cannot fill our memory.
    fn watch_client(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.unread.is_empty() {
            return Ok(());
        }
        let mut scratch = [0; UNREAD_BYTES_MAX];
        let mut buffer = ReadBuf::new(&mut scratch);
        match self.outlet.lock().poll_read(context, &mut buffer) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client left its event stream"))
            }
            Poll::Ready(Ok(())) => {
                self.unread = Bytes::copy_from_slice(buffer.filled());
                Ok(())
            }
        }
    }

    /// Adds what is ready to the unsent; ready if there is any.
    fn poll_gather(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (mut gathered, mut bytes) = (0, 0);
        while gathered < CHUNKS_MAX && bytes < GATHERED_BYTES_MAX && !self.is_ended {
            let chunk = match self.stream.poll_frame(context) {
                Poll::Ready(Some(frame)) => frame.into_chunk(),
                Poll::Ready(None) => {
                    self.is_ended = true;
                    LAST_CHUNK
                }
                Poll::Pending => break,
            };
            gathered += 1;
            bytes += chunk.len();
            // At once: from the next poll on, changes may come past us, and these must be ahead of them.
            self.outlet.lock().unsent.push_back(chunk);
        }
        if gathered == 0 { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// Where the chunks go.
struct Outlet<S>(Mutex<Output<S>>);

impl<S> Outlet<S> {
    fn lock(&self) -> MutexGuard<'_, Output<S>> {
        // Nobody panics between a write and its record.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Transport> Sink for Outlet<S> {
    fn offer(&self, changes: &[Arc<Change>]) -> Offered {
        let chunks: Vec<Bytes> = changes.iter().map(|change| events::frame_of(change).into_chunk()).collect();
        self.lock().offer(chunks)
    }
}

struct Output<S> {
    /// `None` after the stream.
    io: Option<S>,
    /// What the client has not taken, the rest of a chunk first.
    unsent: VecDeque<Bytes>,
}

impl<S: Transport> Output<S> {
    fn offer(&mut self, chunks: Vec<Bytes>) -> Offered {
        let Some(io) = self.io.as_mut().filter(|_| self.unsent.is_empty()) else { return Offered::Refused };
        match io.try_write(&chunks) {
            Ok(written) if written == chunks.iter().map(Bytes::len).sum::<usize>() => Offered::Taken,
            // Full, or broken, which the task finds out when it writes.
            Ok(0) | Err(_) => Offered::Refused,
            Ok(written) => {
                self.unsent.extend(chunks);
                take_sent(&mut self.unsent, written);
                Offered::TakenForReader
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Pending };
        Pin::new(io).poll_read(context, buffer)
    }

    /// Ready when everything is sent.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(())) };
        while !self.unsent.is_empty() {
            let mut slices = [IoSlice::new(&[]); CHUNKS_MAX];
            let slices = gathered(&self.unsent, &mut slices);
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(context, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            take_sent(&mut self.unsent, written);
        }
        Pin::new(io).poll_flush(context)
    }
}

/// Removes what was written.
fn take_sent(unsent: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = unsent.front_mut() {
        if written < first.len() {
            first.advance(written);
            return;
        }
        written -= first.len();
        unsent.pop_front();
    }
    // A stream that waits keeps no buffer: there may be very many of them.
    *unsent = VecDeque::new();
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncRead, AsyncWrite};

    use super::*;

    /// A socket with room for so many bytes.
    #[derive(Default)]
    struct Narrow {
        room: usize,
        is_broken: bool,
        written: Vec<u8>,
    }

    impl Transport for Narrow {
        fn can_try_write(&self) -> bool {
            true
        }

        fn try_write(&mut self, chunks: &[Bytes]) -> io::Result<usize> {
            let bytes = chunks.concat();
            if self.is_broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let written = bytes.len().min(self.room);
            if written == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= written;
            self.written.extend_from_slice(&bytes[..written]);
            Ok(written)
        }
    }

    impl AsyncRead for Narrow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.try_write(&[Bytes::copy_from_slice(bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                outcome => Poll::Ready(outcome),
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn output(room: usize) -> Output<Narrow> {
        Output { io: Some(Narrow { room, ..Narrow::default() }), unsent: VecDeque::new() }
    }

    fn chunks(chunks: &[&'static [u8]]) -> Vec<Bytes> {
        chunks.iter().copied().map(Bytes::from_static).collect()
    }

    fn socket(output: &mut Output<Narrow>) -> &mut Narrow {
        output.io.as_mut().expect("nobody takes it")
    }

    #[test]
    fn the_rest_of_a_chunk_goes_out_before_the_next_chunk() {
        let mut context = Context::from_waker(Waker::noop());
        let mut output = output(10);
        assert_eq!(output.offer(chunks(&[b"ab", b"cdef"])), Offered::Taken);
        assert_eq!(output.offer(chunks(&[b"ghi", b"jk", b"l"])), Offered::TakenForReader);
        socket(&mut output).room = 1;
        assert_eq!(output.offer(chunks(&[b"mnop"])), Offered::Refused);
        assert!(output.poll_send(&mut context).is_pending());
        socket(&mut output).room = 100;
        assert_eq!(output.offer(chunks(&[b"mnop"])), Offered::Refused);
        output.unsent.push_back(Bytes::from_static(b"mnop"));
        assert!(output.poll_send(&mut context).is_ready());
        assert_eq!(output.offer(chunks(&[b"qr"])), Offered::Taken);
        assert_eq!(socket(&mut output).written, b"abcdefghijklmnopqr");
    }

    #[test]
    fn what_a_socket_cannot_take_at_once_is_left_to_the_task() {
        let mut context = Context::from_waker(Waker::noop());
        let mut output = output(0);
        assert_eq!(output.offer(chunks(&[b"a"])), Offered::Refused);
        socket(&mut output).is_broken = true;
        assert_eq!(output.offer(chunks(&[b"a"])), Offered::Refused);
        output.unsent.push_back(Bytes::from_static(b"a"));
        assert!(matches!(output.poll_send(&mut context), Poll::Ready(Err(_))));
        output.io = None;
        output.unsent.clear();
        assert_eq!(output.offer(chunks(&[b"a"])), Offered::Refused);
    }

    #[test]
    fn any_number_of_chunks_goes_out_in_order_whatever_the_room() {
        let mut context = Context::from_waker(Waker::noop());
        let chunks: Vec<Bytes> =
            (0..3 * CHUNKS_MAX).map(|number| Bytes::from(format!("{number};"))).collect();
        for room in 1..20 {
            let mut output = output(0);
            output.unsent.extend(chunks.iter().cloned());
            while output.poll_send(&mut context).is_pending() {
                socket(&mut output).room = room;
            }
            assert_eq!(socket(&mut output).written, chunks.concat());
            assert_eq!(output.unsent.capacity(), 0, "a stream that waits keeps no buffer");
        }
    }
}
