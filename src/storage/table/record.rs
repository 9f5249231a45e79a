//! Records: the byte format of a register in a row.
//!
//! ```text
//! 0       format version, 1
//! 1       type, 1: register
//! 2       flags: live, expires, chunked, quiet, expired
//! 3       codec of the payload (see `codec`)
//! 4..8    crc32 over the row's key and all other bytes of the record
//! 8..16   timestamp: hlc
//! 16..24  timestamp: node
//! 24..32  fingerprint of the plain payload
//! 32..40  expiry in Unix milliseconds, if the flag is set
//! ..      payload as coded; if chunked, its length as u32
//! ```
//!
//! Numbers are big-endian. Every read checks the crc, so that a flipped byte, or a record under the wrong key, gives an error and never a
//! value. It costs a tenth of the fingerprint, which is checked only if the payload is stored elsewhere.

use super::codec::Codec;
use crate::core::{
    clock::{NodeId, Timestamp},
    register::{Fingerprint, Marker},
};

const FORMAT: u8 = 1;
const TYPE_REGISTER: u8 = 1;
const HEAD_BYTES: usize = 32;

const FLAG_LIVE: u8 = 1;
const FLAG_EXPIRES: u8 = 1 << 1;
const FLAG_CHUNKED: u8 = 1 << 2;
const FLAG_QUIET: u8 = 1 << 3;
const FLAG_EXPIRED: u8 = 1 << 4;
const FLAGS_KNOWN: u8 = FLAG_LIVE | FLAG_EXPIRES | FLAG_CHUNKED | FLAG_QUIET | FLAG_EXPIRED;

/// Most bytes that `encode` adds to a payload.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + 8;

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What orders it.
    pub marker: Marker,
    /// A value; false for a tombstone.
    pub live: bool,
    /// When the value expires, in Unix milliseconds.
    pub expires_at_ms: Option<u64>,
    /// A tombstone that replaced nothing visible, so that nobody is told.
    pub quiet: bool,
    /// A tombstone that ends a value of a strong table whose time had come, for those who are told.
    pub expired: bool,
    /// Length of the payload as coded. It follows from the record, and is not written.
    pub coded_bytes: u32,
}

impl Head {
    /// Whether it is a value that is visible at `now_ms`.
    pub fn visible_at(&self, now_ms: u64) -> bool {
        self.live && self.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms)
    }

    /// Whether nobody is told of it, if it is set at `now_ms`: it ends nothing visible, or is a value that has expired already.
    pub fn is_quiet_at(&self, now_ms: u64) -> bool {
        if self.live { !self.visible_at(now_ms) } else { self.quiet }
    }
}

/// Where a record's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Here, as coded.
    Inline(&'a [u8]),
    /// In chunks, this many bytes as coded.
    Chunked(u32),
}

/// A parsed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Everything but the payload.
    pub head: Head,
    /// How the payload is coded.
    pub codec: Codec,
    /// The payload.
    pub body: Body<'a>,
}

impl Record<'_> {
    /// Approximate length of the decoded payload.
    pub fn plain_bytes(&self) -> usize {
        match self.body {
            Body::Inline(coded) => self.codec.plain_bytes(coded),
            // Long payloads compress to about a quarter.
            Body::Chunked(length) => 4 * length as usize,
        }
    }
}

/// The bytes of a record, for the row `key`.
pub fn encode(key: &[u8], record: &Record<'_>) -> Vec<u8> {
    let Record { head, codec, body } = record;
    let chunked = matches!(body, Body::Chunked(_));
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let mut bytes =
        Vec::with_capacity(OVERHEAD_BYTES + if let Body::Inline(payload) = body { payload.len() } else { 4 });
    bytes.extend_from_slice(&[
        FORMAT,
        TYPE_REGISTER,
        flag(head.live, FLAG_LIVE)
            | flag(head.expires_at_ms.is_some(), FLAG_EXPIRES)
            | flag(chunked, FLAG_CHUNKED)
            | flag(head.quiet, FLAG_QUIET)
            | flag(head.expired, FLAG_EXPIRED),
        codec.0,
    ]);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&head.marker.timestamp.hlc.to_be_bytes());
    bytes.extend_from_slice(&head.marker.timestamp.node.0.to_be_bytes());
    bytes.extend_from_slice(&head.marker.fingerprint.0);
    if let Some(at_ms) = head.expires_at_ms {
        bytes.extend_from_slice(&at_ms.to_be_bytes());
    }
    match body {
        Body::Inline(payload) => bytes.extend_from_slice(payload),
        Body::Chunked(length) => bytes.extend_from_slice(&length.to_be_bytes()),
    }
    let check = checksum(key, &bytes);
    bytes[4..8].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// Parses a record.
///
/// # Errors
/// Why the bytes are not a record of this key.
pub fn decode<'a>(key: &[u8], bytes: &'a [u8]) -> Result<Record<'a>, &'static str> {
    if bytes.len() < HEAD_BYTES {
        return Err("the record is too short");
    }
    if checksum(key, bytes) != u32::from_be_bytes(array(&bytes[4..8])) {
        return Err("the checksum does not match");
    }
    // The checksum is right, so these bytes were written on purpose: by a newer version, if we do not know them.
    if bytes[0] != FORMAT || bytes[1] != TYPE_REGISTER || bytes[2] & !FLAGS_KNOWN != 0 {
        return Err("the record is of a format that this version does not know");
    }
    let flags = bytes[2];
    let mut rest = &bytes[HEAD_BYTES..];
    let mut expires_at_ms = None;
    if flags & FLAG_EXPIRES != 0 {
        let (at_ms, after) = rest.split_at_checked(8).ok_or("the record is too short for its expiry")?;
        expires_at_ms = Some(u64::from_be_bytes(array(at_ms)));
        rest = after;
    }
    let body = if flags & FLAG_CHUNKED == 0 {
        Body::Inline(rest)
    } else if rest.len() == 4 {
        Body::Chunked(u32::from_be_bytes(array(rest)))
    } else {
        return Err("the record is too short for its length");
    };
    let timestamp = Timestamp {
        hlc: u64::from_be_bytes(array(&bytes[8..16])),
        node: NodeId(u64::from_be_bytes(array(&bytes[16..24]))),
    };
    let head = Head {
        marker: Marker { timestamp, fingerprint: Fingerprint(array(&bytes[24..32])) },
        live: flags & FLAG_LIVE != 0,
        expires_at_ms,
        quiet: flags & FLAG_QUIET != 0,
        expired: flags & FLAG_EXPIRED != 0,
        coded_bytes: match body {
            Body::Inline(coded) => coded.len() as u32,
            Body::Chunked(length) => length,
        },
    };
    Ok(Record { head, codec: Codec(bytes[3]), body })
}

fn checksum(key: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&bytes[..4]);
    hasher.update(&bytes[8..]);
    hasher.finalize()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller cut it to length")
}

/// Gives the bytes of a record a matching checksum.
#[cfg(test)]
pub(in crate::storage) fn resealed(key: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let check = checksum(key, &bytes);
    bytes[4..8].copy_from_slice(&check.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            marker: Marker {
                timestamp: Timestamp { hlc: 0x0102_0304_0506_0708, node: NodeId(0x1112_1314_1516_1718) },
                fingerprint: Fingerprint(*b"fingerpr"),
            },
            live: true,
            expires_at_ms: Some(0x2122_2324_2526_2728),
            quiet: false,
            expired: false,
            coded_bytes: 0,
        }
    }

    #[test]
    fn the_format_on_disk_stays() {
        let bytes = encode(b"key", &Record { head: head(), codec: Codec::RAW, body: Body::Inline(b"42") });
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "01010300a596a12801020304050607081112131415161718\
             66696e676572707221222324252627283432"
        );
    }

    #[test]
    fn each_flag_has_a_bit_of_its_own() {
        let heads = [(true, false, false), (false, true, false), (false, false, true), (false, true, true)];
        for (live, quiet, expired) in heads {
            let head = Head { live, quiet, expired, expires_at_ms: None, ..head() };
            let bytes = encode(b"key", &Record { head, codec: Codec::RAW, body: Body::Inline(b"") });
            assert_eq!(decode(b"key", &bytes).map(|record| record.head), Ok(head));
        }
    }

    #[test]
    fn a_record_under_another_key_is_an_error() {
        let bytes = encode(b"key", &Record { head: head(), codec: Codec::RAW, body: Body::Inline(b"42") });
        assert!(decode(b"key", &bytes).is_ok());
        assert!(decode(b"kex", &bytes).is_err());
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let bytes = encode(b"key", &Record { head: head(), codec: Codec::RAW, body: Body::Inline(b"42") });
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(b"key", &flipped).is_err(), "bit {bit}");
        }
    }
}
