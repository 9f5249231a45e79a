//! One HTTP/2 connection with unary gRPC calls, several at a time. As in [`super::connection`], it reads only what a benchmark needs of an
//! answer: that there is a message, and that the call has ended. A call that fails has no message. All that begins at one time is one write.

use std::{collections::HashMap, net::SocketAddr};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::connection::connect;
use crate::error::{Error, Result};

/// Read buffer: one read takes the answers of many calls.
const READ_BYTES: usize = 64 << 10;
/// What a client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that each side may send at first, on each stream and on all together (section 6.9.2).
const WINDOW_BYTES: i64 = 65_535;
/// What the target may send instead: no answer ever waits.
const OWN_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// After so many bytes the target may send as many more.
const RENEWED_BYTES: u32 = 1 << 30;
/// The largest frame that every target takes (section 6.5.2).
const FRAME_BYTES_MAX: usize = 16_384;
/// The length of what comes before each frame.
const HEAD_BYTES: usize = 9;
/// The length of what comes before each message of gRPC.
pub const PREFIX_BYTES: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A connection that makes calls.
#[derive(Debug)]
pub struct Calls {
    address: SocketAddr,
    stream: TcpStream,
    received: BytesMut,
    /// What is to be sent.
    out: Vec<u8>,
    next_stream: u32,
    /// The calls that are not answered yet, by their streams.
    open: HashMap<u32, Open>,
    /// The streams of messages, and whether one has come.
    streams: HashMap<u32, bool>,
    /// Bytes of messages that the target takes now.
    window: i64,
    /// Bytes of messages that came since the target was told that it may send more.
    taken: u32,
}

/// A call that is not answered yet.
#[derive(Debug)]
struct Open {
    whose: usize,
    /// The beginning of the answer, with the length of the message.
    prefix: Vec<u8>,
    /// Bytes of the answer that have come.
    bytes: usize,
}

impl Open {
    fn take(&mut self, data: &[u8]) {
        let missing = PREFIX_BYTES - self.prefix.len();
        self.prefix.extend_from_slice(&data[..missing.min(data.len())]);
        self.bytes += data.len();
    }

    /// Whether the answer is one message, which is not compressed. What is no gRPC answers with other bytes.
    fn is_answered(&self) -> bool {
        match self.prefix[..] {
            [0, a, b, c, d] => self.bytes == PREFIX_BYTES + u32::from_be_bytes([a, b, c, d]) as usize,
            _ => false,
        }
    }
}

impl Calls {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = connect(address).await?;
        let mut out = PREFACE.to_vec();
        let settings = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &OWN_WINDOW_BYTES.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &settings, &mut out);
        frame(WINDOW_UPDATE, 0, 0, &(OWN_WINDOW_BYTES - WINDOW_BYTES as u32).to_be_bytes(), &mut out);
        Ok(Self {
            address,
            stream,
            received: BytesMut::with_capacity(READ_BYTES),
            out,
            next_stream: 1,
            open: HashMap::new(),
            streams: HashMap::new(),
            window: WINDOW_BYTES,
            taken: 0,
        })
    }

    /// Begins a call of `path`, such as `/package.Service/Method`, with a message that has its prefix. It is sent by the next [`Self::answered`],
    /// which names it by `whose`.
    ///
    /// # Errors
    /// `Usage` for a message that does not fit one frame, or the window together with the others.
    pub fn begin(&mut self, path: &str, message: &[u8], whose: usize) -> Result<()> {
        let stream = self.send(path, message, END_STREAM)?;
        self.open.insert(stream, Open { whose, prefix: Vec::with_capacity(PREFIX_BYTES), bytes: 0 });
        Ok(())
    }

    /// Opens a stream of messages in both directions, with one message. Whatever comes there is taken without a look.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_stream(&mut self, path: &str, message: &[u8]) -> Result<()> {
        let stream = self.send(path, message, 0)?;
        self.streams.insert(stream, false);
        Ok(())
    }

    fn send(&mut self, path: &str, message: &[u8], flags: u8) -> Result<u32> {
        self.window -= message.len() as i64;
        if message.len() > FRAME_BYTES_MAX || self.window < 0 {
            return Err(Error::Usage(format!(
                "{} calls of {} bytes at a time on one connection are more than it takes: use more connections, or a smaller --value-bytes",
                self.open.len() + 1,
                message.len()
            )));
        }
        let head = self.request_head(path);
        frame(HEADERS, END_HEADERS, self.next_stream, &head, &mut self.out);
        frame(DATA, flags, self.next_stream, message, &mut self.out);
        self.next_stream += 2;
        Ok(self.next_stream - 2)
    }

    /// The header of a request (RFC 7541). The first one has the target remember what all have, as every client does.
    fn request_head(&self, path: &str) -> Vec<u8> {
        // :method POST, :scheme http
        let mut head = vec![0x83, 0x86];
        let text = |text: &[u8], head: &mut Vec<u8>| {
            head.push(u8::try_from(text.len()).expect("names of methods are short"));
            head.extend_from_slice(text);
        };
        head.push(0x04);
        text(path.as_bytes(), &mut head);
        if self.next_stream > 1 {
            // :authority, te, content-type
            head.extend([0xc0, 0xbf, 0xbe]);
            return head;
        }
        head.push(0x41);
        text(self.address.to_string().as_bytes(), &mut head);
        head.push(0x40);
        text(b"te", &mut head);
        text(b"trailers", &mut head);
        head.push(0x5f);
        text(b"application/grpc", &mut head);
        head
    }

    /// Sends all that has begun, and adds to `answered` whose calls have ended, which is one at least.
    ///
    /// # Errors
    /// `Failed` for a call that the target does not answer with a message.
    pub async fn answered(&mut self, answered: &mut Vec<usize>) -> Result<()> {
        self.flush().await?;
        while answered.is_empty() {
            self.receive(answered).await?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends all that has begun, and returns once a message has come on each stream.
    ///
    /// # Errors
    /// As [`Self::answered`].
    pub async fn streaming(&mut self) -> Result<()> {
        self.flush().await?;
        while self.streams.values().any(|has_begun| !has_begun) {
            self.receive(&mut Vec::new()).await?;
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await.map_err(|e| Error::io("sending a call", &e))?;
            self.out.clear();
        }
        Ok(())
    }

    async fn receive(&mut self, answered: &mut Vec<usize>) -> Result<()> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => {
                return Err(Error::Failed("the target closed the connection in the middle of a call".into()));
            }
            Ok(_) => {}
            Err(error) => return Err(Error::io("reading an answer", &error)),
        }
        while let Some(head) = Head::parse(&self.received) {
            self.received.advance(HEAD_BYTES);
            self.take(head, answered)?;
            self.received.advance(head.length);
        }
        Ok(())
    }

    /// Takes a frame, whose payload has been received.
    fn take(&mut self, head: Head, answered: &mut Vec<usize>) -> Result<()> {
        let payload = &self.received[..head.length];
        let number = |at: usize| {
            payload
                .get(at..at + 4)
                .map_or(0, |bytes| bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)))
        };
        match head.kind {
            DATA => {
                if let Some(open) = self.open.get_mut(&head.stream) {
                    open.take(payload);
                }
                if let Some(has_begun) = self.streams.get_mut(&head.stream) {
                    *has_begun = true;
                }
                self.taken += head.length as u32;
                if self.taken > RENEWED_BYTES {
                    frame(WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes(), &mut self.out);
                    self.taken = 0;
                }
            }
            SETTINGS if head.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], &mut self.out),
            PING if head.flags & ACK == 0 => frame(PING, ACK, 0, payload, &mut self.out),
            // Those of a stream are for longer messages than any here.
            WINDOW_UPDATE if head.stream == 0 => self.window += i64::from(number(0)),
            RST_STREAM | GOAWAY => {
                let code = if head.kind == GOAWAY { number(4) } else { number(0) };
                return Err(Error::Failed(format!("the target ended a call, with HTTP/2's error {code}")));
            }
            _ => {}
        }
        let ends = matches!(head.kind, DATA | HEADERS) && head.flags & END_STREAM != 0;
        if let Some(open) = ends.then(|| self.open.remove(&head.stream)).flatten() {
            if !open.is_answered() {
                let why = "a call got an error in place of an answer: try the same with etcdctl, and with the address of the etcd API";
                return Err(Error::Failed(why.into()));
            }
            answered.push(open.whose);
        }
        if ends && self.streams.remove(&head.stream).is_some() {
            return Err(Error::Failed("the target ended a stream".into()));
        }
        Ok(())
    }
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    /// That of the next frame, if all of it has been received.
    fn parse(received: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *received.first_chunk::<HEAD_BYTES>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let head = Self { length, kind, flags, stream: u32::from_be_bytes(stream) };
        (received.len() >= HEAD_BYTES + length).then_some(head)
    }
}

/// Appends a frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a message with its prefix: fields of bytes, numbered from 1 on (protobuf).
pub fn message(fields: &[&[u8]], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; PREFIX_BYTES]);
    for (number, field) in (1_u8..).zip(fields) {
        out.push(number << 3 | 2);
        let mut length = field.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(field);
    }
    let length = (out.len() - start - PREFIX_BYTES) as u32;
    out[start + 1..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_message_has_its_fields_and_its_length() {
        let mut out = Vec::new();
        message(&[b"k", &[b'v'; 200]], &mut out);
        assert_eq!(out[..11], [0, 0, 0, 0, 206, 0x0a, 1, b'k', 0x12, 0xc8, 1]);
        assert_eq!(out.len(), PREFIX_BYTES + 206);
    }

    #[test]
    fn a_frame_is_waited_for() {
        let mut out = Vec::new();
        frame(DATA, END_STREAM, 3, b"abc", &mut out);
        for end in 0..out.len() {
            assert_eq!(Head::parse(&out[..end]), None);
        }
        assert_eq!(Head::parse(&out), Some(Head { length: 3, kind: DATA, flags: END_STREAM, stream: 3 }));
    }

    /// Answers a call with frames, and returns what the client makes of them.
    async fn answer(frames: &[u8]) -> Result<Vec<usize>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut calls = Calls::open(listener.local_addr().expect("bound")).await?;
        let (mut accepted, _) = listener.accept().await.expect("connects");
        accepted.write_all(frames).await.expect("is sent");
        calls.begin("/a.B/C", b"message", 7)?;
        let mut answered = Vec::new();
        calls.answered(&mut answered).await?;
        Ok(answered)
    }

    #[tokio::test]
    async fn a_stream_begins_with_a_message_and_does_not_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut calls = Calls::open(listener.local_addr().expect("bound")).await.expect("connects");
        let (mut accepted, _) = listener.accept().await.expect("connects");
        let mut frames = Vec::new();
        frame(DATA, 0, 1, &[0; 5], &mut frames);
        accepted.write_all(&frames).await.expect("is sent");
        calls.begin_stream("/a.B/C", b"message").expect("fits");
        assert_eq!(calls.streaming().await, Ok(()));
        frames.clear();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[], &mut frames);
        accepted.write_all(&frames).await.expect("is sent");
        let ended = calls.answered(&mut Vec::new()).await;
        assert_eq!(ended, Err(Error::Failed("the target ended a stream".into())));
    }

    #[tokio::test]
    async fn a_call_is_answered_by_a_message_and_nothing_else() {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        let mut other = Vec::new();
        for (out, message) in [(&mut with, &[0; 5][..]), (&mut without, &[]), (&mut other, b"{\"error\":1}")]
        {
            frame(SETTINGS, 0, 0, &[], out);
            frame(PING, 0, 0, &[0; 8], out);
            frame(HEADERS, END_HEADERS, 1, &[0x88], out);
            for part in message.chunks(3) {
                frame(DATA, 0, 1, part, out);
            }
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[], out);
        }
        assert_eq!(answer(&with).await, Ok(vec![7]));
        for frames in [&without, &other] {
            assert!(
                matches!(answer(frames).await, Err(Error::Failed(why)) if why.contains("error in place"))
            );
        }
        let mut reset = Vec::new();
        frame(RST_STREAM, 0, 1, &[0, 0, 0, 7], &mut reset);
        assert!(matches!(answer(&reset).await, Err(Error::Failed(why)) if why.ends_with('7')));
    }
}
