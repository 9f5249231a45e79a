//! The value of a row: read from its chunks if it is long, decompressed, and checked against its fingerprint.

use super::{
    PAYLOAD_BYTES_MAX, Table,
    cache::LONG_BYTES_MIN,
    chunks,
    codec::Codec,
    record::{Body, Record},
    trees::Trees,
};
use crate::{
    core::{json::Value, register::fingerprint},
    error::Result,
};

impl Table {
    /// Like `load`, but a long value is shared with everybody who is reading it.
    pub(super) fn load_shared(
        &self,
        trees: &Trees,
        row: &[u8],
        record: &Record<'_>,
    ) -> Result<Option<Value>> {
        let marker = record.head.marker;
        let is_chunked = matches!(record.body, Body::Chunked(_));
        // A chunked value is long when coded, and longer when decoded.
        if !is_chunked && (record.codec == Codec::RAW || record.plain_bytes() < LONG_BYTES_MIN) {
            return self.load(trees, row, record);
        }
        if let Some(value) = self.context.shared.get(&marker) {
            return Ok(Some(value));
        }
        let value = self.load(trees, row, record)?;
        Ok(value.map(|value| self.context.shared.share(marker, value)))
    }

    /// The value of a live record; `None` if its chunks are missing.
    pub(in crate::storage) fn load(
        &self,
        trees: &Trees,
        row: &[u8],
        record: &Record<'_>,
    ) -> Result<Option<Value>> {
        let Body::Chunked(length) = record.body else { return self.load_inline(row, record) };
        let read = chunks::read(&trees.chunks, row, &record.head, length);
        let Some(coded) = read.map_err(|error| self.unreadable(row, error))? else { return Ok(None) };
        self.plain(row, record, &coded).map(Some)
    }

    /// The value of a live record, if it is not chunked.
    pub(super) fn load_inline(&self, row: &[u8], record: &Record<'_>) -> Result<Option<Value>> {
        match record.body {
            Body::Inline(coded) => self.plain(row, record, coded).map(Some),
            Body::Chunked(_) => Ok(None),
        }
    }

    fn plain(&self, row: &[u8], record: &Record<'_>, coded: &[u8]) -> Result<Value> {
        let plain = self.dictionaries().decode(record.codec, coded, PAYLOAD_BYTES_MAX).and_then(|plain| {
            // The record's checksum covers an inline raw payload.
            let whole = record.codec == Codec::RAW && matches!(record.body, Body::Inline(_));
            let sound = whole
                || fingerprint(Some(&plain), record.head.expires_at_ms) == record.head.marker.fingerprint;
            if sound { Ok(plain) } else { Err("the value does not match its fingerprint") }
        });
        let text = plain.and_then(|plain| String::from_utf8(plain).map_err(|_| "the value is not UTF-8"));
        text.map(Value::trusted).map_err(|why| self.damaged(row, why))
    }
}
