//! A key's register: a value or a tombstone, where the last write wins. Built on `crdts::LWWReg`.
//!
//! `LWWReg` keeps two registers with equal markers but different values apart for ever. So the marker is more than the
//! timestamp: it ends in eight bytes of the payload's hash. If two writes carry the same timestamp (a cloned disk),
//! every replica still orders them the same way, and equal markers mean equal payloads.

use crdts::{CvRDT, LWWReg};
use serde::{Deserialize, Serialize};

use super::{clock::Timestamp, json::Value};

/// The first eight bytes of blake3 over a payload. The final tie-break of a merge, a checksum on disk, and the value's
/// part of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 8]);

/// Orders two registers of one key: the later timestamp wins; if they are equal, the larger fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Marker {
    /// When and by whom it was written.
    pub timestamp: Timestamp,
    /// The payload's fingerprint.
    pub fingerprint: Fingerprint,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A value, and the Unix millisecond from which on no node shows it.
    Live {
        /// The value.
        value: Value,
        /// When it expires, if it does.
        expires_at_ms: Option<u64>,
    },
    /// A tombstone: the key was deleted. Older values lose against it.
    Deleted,
}

impl Payload {
    /// The payload's fingerprint: blake3 over its kind, expiry and text.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Live { value, expires_at_ms } => {
                fingerprint(Some(value.as_str().as_bytes()), *expires_at_ms)
            }
            Self::Deleted => fingerprint(None, None),
        }
    }
}

/// The fingerprint of a live value's text and expiry, or of a tombstone (`None`).
pub fn fingerprint(text: Option<&[u8]>, expires_at_ms: Option<u64>) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[u8::from(text.is_some()) | u8::from(expires_at_ms.is_some()) << 1]);
    hasher.update(&expires_at_ms.unwrap_or(0).to_le_bytes());
    hasher.update(text.unwrap_or(&[]));
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    Fingerprint(first)
}

/// A key's register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register(LWWReg<Payload, Marker>);

impl Register {
    /// A register written at `timestamp`.
    pub fn new(payload: Payload, timestamp: Timestamp) -> Self {
        let marker = Marker { timestamp, fingerprint: payload.fingerprint() };
        Self(LWWReg { val: payload, marker })
    }

    /// A live value.
    pub fn live(value: Value, expires_at_ms: Option<u64>, timestamp: Timestamp) -> Self {
        Self::new(Payload::Live { value, expires_at_ms }, timestamp)
    }

    /// A tombstone.
    pub fn deleted(timestamp: Timestamp) -> Self {
        Self::new(Payload::Deleted, timestamp)
    }

    /// The payload.
    pub fn payload(&self) -> &Payload {
        &self.0.val
    }

    /// The payload.
    pub fn into_payload(self) -> Payload {
        self.0.val
    }

    /// The marker, which orders it.
    pub fn marker(&self) -> Marker {
        self.0.marker
    }

    /// When and by whom it was written.
    pub fn timestamp(&self) -> Timestamp {
        self.0.marker.timestamp
    }

    /// Takes over `other` if it was written later. Commutative, associative, idempotent.
    pub fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    /// The value and its expiry, if it is live at `now_ms`.
    pub fn value_at(&self, now_ms: u64) -> Option<(&Value, Option<u64>)> {
        match self.payload() {
            Payload::Live { expires_at_ms: Some(at_ms), .. } if *at_ms <= now_ms => None,
            Payload::Live { value, expires_at_ms } => Some((value, *expires_at_ms)),
            Payload::Deleted => None,
        }
    }
}
