//! Noise (`NNpsk0`, revision 34 of the framework). The handshake proves to both sides that the other has the secret and
//! makes keys that only they know; the frames are encrypted under those keys.
//!
//! A message is split into *pieces* of at most 65,535 bytes, the limit of Noise. The first byte of each piece, inside
//! the encryption, says whether it is the last. Up to four pieces are sent as one frame. Frame boundaries carry no
//! meaning: pieces that were cut, joined, changed, repeated or dropped do not decrypt, because each piece counts in its
//! nonce.
//!
//! Keys are not renewed: no link lives long enough to send 2^60 messages.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use snow::{Builder, HandshakeState, StatelessTransportState};

use super::error::LinkError;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Mixed into the keys, so that another protocol under the same secret does not decrypt.
const PROLOGUE: &[u8] = b"dynarust.link";

/// Longest piece, encrypted: the limit of Noise.
const PIECE_BYTES_MAX: usize = 65_535;
/// Length of a piece's authentication tag.
const TAG_BYTES: usize = 16;
/// Data in a piece, without its tag and its marker byte.
const DATA_BYTES_MAX: usize = PIECE_BYTES_MAX - TAG_BYTES - 1;
/// Most pieces in a frame.
const FRAME_PIECES_MAX: usize = 4;
/// Longest frame: just below 256 KiB, so that a short message does not wait long behind part of a long one.
pub const FRAME_BYTES_MAX: usize = FRAME_PIECES_MAX * PIECE_BYTES_MAX;
/// Shortest first message: a public key and a tag.
const FIRST_BYTES_MIN: usize = 32 + TAG_BYTES;
/// A larger buffer is freed after its message.
const BUFFER_KEPT_BYTES: usize = 1024 * 1024;

/// The marker byte of a piece.
const MORE: u8 = 0;
const LAST: u8 = 1;

fn builder(key: &[u8; 32]) -> Result<Builder<'_>, snow::Error> {
    Builder::new(PATTERN.parse()?).prologue(PROLOGUE)?.psk(0, key)
}

fn broken(error: snow::Error) -> LinkError {
    LinkError::Broken(format!("encryption failed: {error}"))
}

/// The side that sends first.
pub struct Initiator(HandshakeState);

impl Initiator {
    /// With the key of a secret.
    pub fn new(key: &[u8; 32]) -> Result<Self, LinkError> {
        builder(key).and_then(Builder::build_initiator).map(Self).map_err(broken)
    }

    /// The first message. Anyone who learns the secret later can read it, so it must contain nothing secret.
    pub fn first(&mut self, payload: &[u8]) -> Result<Vec<u8>, LinkError> {
        write(&mut self.0, payload)
    }

    /// Reads the answer.
    pub fn second(mut self, message: &[u8]) -> Result<(Vec<u8>, Sealer, Opener), LinkError> {
        let payload = read(&mut self.0, message).map_err(broken)?;
        let (sealer, opener) = transport(self.0)?;
        Ok((payload, sealer, opener))
    }
}

/// The side that answers, after it has read the first message.
pub struct Responder(HandshakeState);

impl Responder {
    /// Reads a first message with whichever of these keys it was written.
    ///
    /// # Errors
    /// `SecretDiffers` if it was none of them. All keys are always tried, so the time reveals nothing.
    pub fn new(keys: &[[u8; 32]], first: &[u8]) -> Result<(Vec<u8>, Self), LinkError> {
        if first.len() < FIRST_BYTES_MIN {
            return Err(LinkError::Broken("the first message is too short".into()));
        }
        let mut read_under = None;
        for key in keys {
            let mut state = builder(key).and_then(Builder::build_responder).map_err(broken)?;
            if let Ok(payload) = read(&mut state, first) {
                read_under = Some((payload, Self(state)));
            }
        }
        read_under.ok_or(LinkError::SecretDiffers)
    }

    /// Writes the answer.
    pub fn second(mut self, payload: &[u8]) -> Result<(Vec<u8>, Sealer, Opener), LinkError> {
        let message = write(&mut self.0, payload)?;
        let (sealer, opener) = transport(self.0)?;
        Ok((message, sealer, opener))
    }
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, LinkError> {
    let mut message = vec![0; FIRST_BYTES_MIN + payload.len()];
    let length = state.write_message(payload, &mut message).map_err(broken)?;
    message.truncate(length);
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, snow::Error> {
    let mut payload = vec![0; message.len()];
    let length = state.read_message(message, &mut payload)?;
    payload.truncate(length);
    Ok(payload)
}

fn transport(state: HandshakeState) -> Result<(Sealer, Opener), LinkError> {
    let transport = Arc::new(state.into_stateless_transport_mode().map_err(broken)?);
    let sealer = Sealer { transport: Arc::clone(&transport), nonce: 0, sealed: BytesMut::new() };
    Ok((sealer, Opener { transport, nonce: 0, plain: vec![0] }))
}

/// Encrypts one direction.
pub struct Sealer {
    transport: Arc<StatelessTransportState>,
    nonce: u64,
    sealed: BytesMut,
}

impl Sealer {
    /// Encrypts the next frame of a message. Returns it and where in `plain` the following frame starts; `None` after
    /// the last.
    ///
    /// The message stands in `plain` after one free byte, and is destroyed: the marker of each piece is written over
    /// the last byte of the piece before. That saves a copy.
    pub fn seal(&mut self, plain: &mut [u8], from: usize) -> Result<(Bytes, Option<usize>), LinkError> {
        assert!(from < plain.len(), "a piece needs room for its marker: {from} of {}", plain.len());
        let pieces = (plain.len() - from).div_ceil(DATA_BYTES_MAX).min(FRAME_PIECES_MAX);
        self.sealed.reserve(plain.len().saturating_sub(from).min(FRAME_BYTES_MAX) + pieces * (TAG_BYTES + 1));
        let mut at = from;
        let mut last = false;
        for _ in 0..FRAME_PIECES_MAX {
            let end = plain.len().min(at + 1 + DATA_BYTES_MAX);
            last = end == plain.len();
            plain[at] = if last { LAST } else { MORE };
            let start = self.sealed.len();
            self.sealed.resize(start + (end - at) + TAG_BYTES, 0);
            let sealed = &mut self.sealed[start..];
            let length = self.transport.write_message(self.nonce, &plain[at..end], sealed).map_err(broken)?;
            assert_eq!(length, sealed.len(), "encryption adds only a tag");
            self.nonce += 1;
            at = end - 1;
            if last {
                break;
            }
        }
        Ok((self.sealed.split().freeze(), (!last).then_some(at)))
    }
}

/// Decrypts the other direction.
pub struct Opener {
    transport: Arc<StatelessTransportState>,
    nonce: u64,
    /// One free byte, and the message so far.
    plain: Vec<u8>,
}

impl Opener {
    /// Decrypts a frame. Returns the message if the frame ends it.
    ///
    /// # Errors
    /// `Broken` for anything the other side did not send now; `TooLarge` for a message longer than `message_bytes_max`.
    /// Nothing can be read after either.
    pub fn open(&mut self, frame: &[u8], message_bytes_max: usize) -> Result<Option<Opened<'_>>, LinkError> {
        let mut last = false;
        if frame.is_empty() {
            return Err(LinkError::Broken("an empty frame arrived".into()));
        }
        for piece in frame.chunks(PIECE_BYTES_MAX) {
            if last {
                return Err(LinkError::Broken("a frame continues after the end of its message".into()));
            }
            last = self.open_piece(piece)?;
            if self.plain.len() - 1 > message_bytes_max {
                return Err(LinkError::TooLarge { limit: message_bytes_max });
            }
        }
        // Created only at the end, because dropping it empties the buffer.
        Ok(if last { Some(Opened(self)) } else { None })
    }

    fn open_piece(&mut self, piece: &[u8]) -> Result<bool, LinkError> {
        let Some(length) = piece.len().checked_sub(TAG_BYTES).filter(|length| *length > 0) else {
            return Err(LinkError::Broken("a frame arrived that is too short".into()));
        };
        // The marker is decrypted over the byte before it, so that byte is put back.
        let at = self.plain.len() - 1;
        let before = self.plain[at];
        self.plain.resize(at + length, 0);
        self.transport.read_message(self.nonce, piece, &mut self.plain[at..]).map_err(|_| {
            LinkError::Broken(
                "a frame arrived that does not decrypt: it was changed or repeated, or one before it is missing"
                    .into(),
            )
        })?;
        self.nonce += 1;
        match std::mem::replace(&mut self.plain[at], before) {
            MORE => Ok(false),
            LAST => Ok(true),
            other => Err(LinkError::Broken(format!("a frame has the unknown marker {other}"))),
        }
    }
}

/// A decrypted message. Dropping it frees the buffer for the next one.
pub struct Opened<'a>(&'a mut Opener);

impl Opened<'_> {
    /// The message.
    pub fn bytes(&self) -> &[u8] {
        &self.0.plain[1..]
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        recycle(&mut self.0.plain);
        self.0.plain.push(0);
    }
}

/// Empties a buffer for the next message. A large buffer is freed.
pub fn recycle(buffer: &mut Vec<u8>) {
    if buffer.capacity() > BUFFER_KEPT_BYTES {
        *buffer = Vec::new();
    }
    buffer.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [3; 32];

    fn pair() -> ((Sealer, Opener), (Sealer, Opener)) {
        let mut initiator = Initiator::new(&KEY).expect("starts");
        let first = initiator.first(b"hello").expect("writes");
        let (payload, responder) = Responder::new(&[[9; 32], KEY], &first).expect("reads");
        assert_eq!(payload, b"hello");
        let (second, sealer, opener) = responder.second(b"well met").expect("writes");
        let (payload, own_sealer, own_opener) = initiator.second(&second).expect("reads");
        assert_eq!(payload, b"well met");
        ((own_sealer, own_opener), (sealer, opener))
    }

    fn frames(sealer: &mut Sealer, message: &[u8]) -> Vec<Bytes> {
        let mut plain = [&[0], message].concat();
        let (mut frames, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let (frame, after) = sealer.seal(&mut plain, from).expect("seals");
            assert!(frame.len() <= FRAME_BYTES_MAX);
            frames.push(frame);
            next = after;
        }
        frames
    }

    fn opened(opener: &mut Opener, frames: &[Bytes]) -> Result<Option<Vec<u8>>, LinkError> {
        let mut message = None;
        for frame in frames {
            message = opener.open(frame, 8 << 20)?.map(|opened| opened.bytes().to_vec());
        }
        Ok(message)
    }

    #[test]
    fn messages_of_any_length_come_out_as_they_went_in() {
        let ((mut sealer, _), (_, mut opener)) = pair();
        let data = DATA_BYTES_MAX;
        for length in [0, 1, 100, data - 1, data, data + 1, 4 * data - 1, 4 * data, 4 * data + 1, 5 << 20] {
            let message: Vec<u8> = (0..length).map(|at| (at * 7 + at / 251) as u8).collect();
            let sealed = frames(&mut sealer, &message);
            assert_eq!(sealed.len(), length.div_ceil(4 * data).max(1), "{length}");
            assert!(opened(&mut opener, &sealed) == Ok(Some(message)), "{length}");
        }
    }

    #[test]
    fn a_first_message_under_another_key_is_told_apart_from_garbage() {
        let mut initiator = Initiator::new(&[1; 32]).expect("starts");
        let first = initiator.first(b"hello").expect("writes");
        assert_eq!(Responder::new(&[KEY], &first).err(), Some(LinkError::SecretDiffers));
        assert!(matches!(Responder::new(&[KEY], &first[..40]).err(), Some(LinkError::Broken(_))));
    }

    #[test]
    fn changed_cut_repeated_or_missing_frames_do_not_decrypt() {
        let long = vec![5; 2 * FRAME_BYTES_MAX];
        type Spoil = fn(&mut Vec<Bytes>);
        let spoil: [(&str, Spoil); 8] = [
            ("a bit", |frames| {
                let mut frame = frames[1].to_vec();
                frame[70_000] ^= 4;
                frames[1] = frame.into();
            }),
            ("the end cut off", |frames| frames[0] = frames[0].slice(..FRAME_BYTES_MAX - 1)),
            ("a whole piece cut off", |frames| frames[0] = frames[0].slice(..2 * PIECE_BYTES_MAX)),
            ("repeated", |frames| frames.insert(1, frames[0].clone())),
            ("a frame missing", |frames| drop(frames.remove(0))),
            ("in another order", |frames| frames.swap(0, 1)),
            ("nothing", |frames| frames[0] = Bytes::new()),
            ("extra bytes at the end", |frames| {
                let last = frames.pop().expect("a frame");
                frames.push([&last[..], b"more than a tag of bytes"].concat().into());
            }),
        ];
        for (what, spoil) in spoil {
            let ((mut sealer, _), (_, mut opener)) = pair();
            let mut sealed = frames(&mut sealer, &long);
            spoil(&mut sealed);
            assert!(matches!(opened(&mut opener, &sealed), Err(LinkError::Broken(_))), "{what}");
        }
    }

    #[test]
    fn pieces_regrouped_into_other_frames_still_decrypt() {
        let ((mut sealer, _), (_, mut opener)) = pair();
        let message = vec![5; 3 * DATA_BYTES_MAX];
        let sealed = frames(&mut sealer, &message);
        let pieces: Vec<_> = sealed[0].chunks(PIECE_BYTES_MAX).map(Bytes::copy_from_slice).collect();
        assert!(opened(&mut opener, &pieces) == Ok(Some(message)));
    }

    #[test]
    fn messages_cannot_be_reflected_to_their_sender() {
        let ((mut sealer, mut opener), _) = pair();
        let sealed = frames(&mut sealer, b"hello");
        assert!(opened(&mut opener, &sealed).is_err());
    }

    #[test]
    fn a_message_longer_than_the_limit_is_refused_early() {
        let ((mut sealer, _), (_, mut opener)) = pair();
        let sealed = frames(&mut sealer, &vec![0; 9 << 20]);
        assert!(opened(&mut opener, &sealed) == Err(LinkError::TooLarge { limit: 8 << 20 }));
    }

    #[test]
    fn a_long_message_does_not_keep_its_buffer() {
        let ((mut sealer, _), (_, mut opener)) = pair();
        let sealed = frames(&mut sealer, &vec![0; 5 << 20]);
        opened(&mut opener, &sealed).expect("opens");
        assert!(opener.plain.capacity() <= BUFFER_KEPT_BYTES);
    }
}
