//! Content codings, gzip and zstd, in both directions: responses by `Accept-Encoding` where it pays off, request bodies by
//! `Content-Encoding`.
//!
//! Both work in bounded steps. A large frame does not block its thread for long, and a compressed body, however dense, never produces more
//! bytes at once than its reader asks for.

use std::io::{self, BufRead, Read, Write};

use bytes::{Buf, Bytes};
use flate2::{bufread::MultiGzDecoder, write::GzEncoder};
use hyper::{HeaderMap, header};

use super::Head;
use crate::error::{Error, Result};

/// Responses up to this length are sent as they are: encoding them saves no packet.
pub const PLAIN_BYTES_MAX: u64 = 1024;
/// Bytes encoded or decoded in one step: takes less than a millisecond.
pub const STEP_BYTES: usize = 64 * 1024;
/// The gzip level. Higher levels double the time for a few percent.
const GZIP_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// The zstd window of a response, as a power of two. An encoder's memory grows with it.
const ENCODER_WINDOW_LOG: u32 = 18;
/// The largest zstd window we accept for a body, as a power of two: 8 MiB, the most that RFC 9659 allows a sender.
const DECODER_WINDOW_LOG: u32 = 23;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// Its name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            Some(Self::Gzip)
        } else {
            name.eq_ignore_ascii_case("zstd").then_some(Self::Zstd)
        }
    }

    /// About how much memory encoding a response takes.
    pub fn encoder_bytes(self) -> u64 {
        match self {
            Self::Gzip => 512 * 1024,
            Self::Zstd => 2 * 1024 * 1024,
        }
    }

    /// How much memory decoding a body may take.
    pub fn decoder_bytes(self) -> u64 {
        match self {
            Self::Gzip => 128 * 1024,
            Self::Zstd => (1 << DECODER_WINDOW_LOG) + 512 * 1024,
        }
    }

    /// The coding the client prefers over none (RFC 9110, section 12.5.3). Without a preference zstd goes before gzip.
    pub fn negotiate(headers: &HeaderMap) -> Option<Self> {
        let (mut zstd, mut gzip, mut any) = (None, None, None);
        let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
        for entry in lists.flat_map(|list| list.split(',')) {
            let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
            let weight = weight.trim().strip_prefix("q=").or(weight.trim().strip_prefix("Q="));
            // An invalid weight does not invalidate the coding next to it.
            let weight = weight.and_then(|text| text.trim().parse::<f32>().ok()).unwrap_or(1.0);
            match (Self::parse(name.trim()), name.trim()) {
                (Some(Self::Zstd), _) => zstd = Some(weight),
                (Some(Self::Gzip), _) => gzip = Some(weight),
                (None, "*") => any = Some(weight),
                (None, _) => {}
            }
        }
        let (zstd, gzip) = (zstd.or(any).unwrap_or(0.0), gzip.or(any).unwrap_or(0.0));
        match () {
            () if zstd > 0.0 && zstd >= gzip => Some(Self::Zstd),
            () if gzip > 0.0 => Some(Self::Gzip),
            () => None,
        }
    }

    /// The declared coding of a request body.
    ///
    /// # Errors
    /// `UnsupportedType`, with the supported codings.
    pub fn of_body(head: &Head) -> Result<Option<Self>> {
        let Some(declared) = head.headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
        let text = declared.to_str().unwrap_or_default().trim();
        if text.is_empty() || text.eq_ignore_ascii_case("identity") {
            return Ok(None);
        }
        let known =
            Self::parse(text).filter(|_| head.headers.get_all(header::CONTENT_ENCODING).iter().count() == 1);
        known.map(Some).ok_or_else(|| {
            let quoted: String = text.chars().take(80).collect();
            Error::UnsupportedType(format!(
                "the body is encoded as {quoted:?}: send it plain, or encoded once with gzip or zstd"
            ))
        })
    }
}

/// Encodes a response.
pub enum Encoder {
    /// As gzip.
    Gzip(GzEncoder<Vec<u8>>),
    /// As zstd.
    Zstd(zstd::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// A new decoder.
    ///
    /// # Errors
    /// `Io` if there is no memory for it.
    pub fn new(coding: Coding) -> Result<Self> {
        match coding {
            Coding::Gzip => Ok(Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL)))),
            Coding::Zstd => {
                let encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).and_then(|mut encoder| {
                    encoder.window_log(ENCODER_WINDOW_LOG)?;
                    Ok(encoder)
                });
                encoder.map(Self::Zstd).map_err(|error| Error::io("encoding a response", &error))
            }
        }
    }

    /// Takes in plain bytes and returns what is encoded so far.
    pub fn write(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(plain).map(|()| std::mem::take(encoder.get_mut())),
            Self::Zstd(encoder) => encoder.write_all(plain).map(|()| std::mem::take(encoder.get_mut())),
        }
    }

    /// Ends the encoding and returns the rest.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// Decodes a body as its bytes arrive.
pub struct Decoder {
    coding: Coding,
    reader: Reader,
    plain: Vec<u8>,
}

enum Reader {
    Gzip(Box<MultiGzDecoder<Input>>),
    Zstd(Box<zstd::Decoder<'static, Input>>),
}

impl Decoder {
    /// A new decoder.
    ///
    /// # Errors
    /// `Io` if there is no memory for it.
    pub fn new(coding: Coding) -> Result<Self> {
        let reader = match coding {
            Coding::Gzip => Reader::Gzip(Box::new(MultiGzDecoder::new(Input::default()))),
            Coding::Zstd => {
                let decoder = zstd::Decoder::with_buffer(Input::default()).and_then(|mut decoder| {
                    decoder.window_log_max(DECODER_WINDOW_LOG)?;
                    Ok(decoder)
                });
                Reader::Zstd(Box::new(decoder.map_err(|error| Error::io("decoding a body", &error))?))
            }
        };
        Ok(Self { coding, reader, plain: vec![0; STEP_BYTES] })
    }

    /// Feeds it bytes of the body; `None` marks its end.
    pub fn feed(&mut self, bytes: Option<Bytes>) {
        let input = match &mut self.reader {
            Reader::Gzip(decoder) => decoder.get_mut(),
            Reader::Zstd(decoder) => decoder.get_mut(),
        };
        match bytes {
            Some(bytes) => input.bytes = bytes,
            None => input.ended = true,
        }
    }

    /// The next plain bytes, at most `STEP_BYTES`; empty at the end, `None` if it needs more input.
    ///
    /// # Errors
    /// `BadRequest` if the body does not decode, or ends too early.
    pub fn read(&mut self) -> Result<Option<Bytes>> {
        let read = match &mut self.reader {
            Reader::Gzip(decoder) => decoder.read(&mut self.plain),
            Reader::Zstd(decoder) => decoder.read(&mut self.plain),
        };
        match read {
            Ok(length) => Ok(Some(Bytes::copy_from_slice(&self.plain[..length]))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::BadRequest(format!(
                "the body is declared as {} and does not decode: {error}",
                self.coding.name()
            ))),
        }
    }
}

/// The part of a body that has arrived, as a decoder reads it.
#[derive(Default)]
struct Input {
    bytes: Bytes,
    ended: bool,
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, length: usize) {
        self.bytes.advance(length);
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    fn encoded(coding: Coding, plain: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(coding).expect("begins");
        let mut coded = Vec::new();
        for piece in plain.chunks(1000) {
            coded.extend(encoder.write(piece).expect("codes"));
        }
        coded.extend(encoder.finish().expect("ends"));
        coded
    }

    /// Decodes a body that arrives in pieces of `piece_bytes`, up to the end, an error, or a million bytes.
    fn decoded(coding: Coding, coded: &[u8], piece_bytes: usize) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new(coding).expect("begins");
        let mut pieces = coded.chunks(piece_bytes);
        let mut plain = Vec::new();
        while plain.len() < 1_000_000 {
            match decoder.read()? {
                None => decoder.feed(pieces.next().map(Bytes::copy_from_slice)),
                Some(bytes) if bytes.is_empty() => break,
                Some(bytes) => plain.extend_from_slice(&bytes),
            }
        }
        Ok(plain)
    }

    #[test]
    fn an_encoded_body_decodes_in_pieces_of_any_size() {
        let plain: Vec<u8> =
            (0..200_000_u32).map(|number| (number.wrapping_mul(number) / 7 % 251) as u8).collect();
        for coding in BOTH {
            let coded = encoded(coding, &plain);
            for piece_bytes in [1, 7, 1000, usize::MAX] {
                assert!(
                    decoded(coding, &coded, piece_bytes).expect("decodes") == plain,
                    "{coding:?} {piece_bytes}"
                );
            }
        }
    }

    #[test]
    fn a_truncated_or_foreign_body_is_refused() {
        for coding in BOTH {
            let coded = encoded(coding, &[7; 5000]);
            for wrong in
                [&coded[..coded.len() - 3], &coded[..10], b"plain text, and no coding at all", &coded[4..]]
            {
                assert!(
                    matches!(decoded(coding, wrong, 5), Err(Error::BadRequest(_))),
                    "{coding:?} {wrong:?}"
                );
            }
        }
    }

    #[test]
    fn a_decompression_bomb_is_decoded_in_steps() {
        for coding in BOTH {
            let coded = encoded(coding, &vec![0; 50 << 20]);
            assert!(coded.len() < 100_000, "{} bytes", coded.len());
            let mut decoder = Decoder::new(coding).expect("begins");
            decoder.feed(Some(coded.into()));
            for _ in 0..10 {
                let step = decoder.read().expect("decodes").expect("more is to come");
                assert!((1..=STEP_BYTES).contains(&step.len()));
            }
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("begins");
        encoder.window_log(DECODER_WINDOW_LOG + 1).expect("it is accepted");
        let noise: Vec<u8> =
            (0..1_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        encoder.write_all(&noise).expect("codes");
        let coded = encoder.finish().expect("ends");
        assert!(matches!(decoded(Coding::Zstd, &coded, usize::MAX), Err(Error::BadRequest(_))));
    }

    #[test]
    fn the_client_chooses_the_coding() {
        let negotiate = |list: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, list.parse().expect("a header"));
            Coding::negotiate(&headers)
        };
        for (list, coding) in [
            ("gzip", Some(Coding::Gzip)),
            ("gzip, deflate, br", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("GZIP;q=1.0, zstd;q=0.5", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *", Some(Coding::Gzip)),
            ("*;q=0", None),
            ("gzip;q=0", None),
            ("identity", None),
            ("br", None),
            ("", None),
        ] {
            assert_eq!(negotiate(list), coding, "{list}");
        }
        assert_eq!(Coding::negotiate(&HeaderMap::new()), None);
    }
}
