//! Payloads too long for one item of the engine, cut into chunks in a tree of their own. Nothing above storage sees them.
//!
//! Chunk key = first 16 bytes of blake3(row ‖ marker) ‖ index as u16. Every version of a row has its own chunks, so a write never touches
//! what a reader of the version before still needs.

use super::record::{Body, Head, Record};
use crate::{
    error::Result,
    storage::engine::{ITEM_BYTES_MAX, Tree},
};

const ID_BYTES: usize = 16;
/// Length of a chunk's key.
pub const KEY_BYTES: usize = ID_BYTES + 2;
const CHUNK_BYTES: usize = ITEM_BYTES_MAX - KEY_BYTES;

/// Stores a coded payload. Set the row that refers to it after this.
pub fn insert(chunks: &Tree, row: &[u8], head: &Head, coded: &[u8]) -> Result<()> {
    let id = id(row, head);
    for (index, chunk) in coded.chunks(CHUNK_BYTES).enumerate() {
        chunks.insert(&chunk_key(&id, index), chunk)?;
    }
    Ok(())
}

/// Reads a coded payload of `length` bytes. `None` if a chunk is missing: a later write of the row removed it, or it is lost.
pub fn read(chunks: &Tree, row: &[u8], head: &Head, length: u32) -> Result<Option<Vec<u8>>> {
    let id = id(row, head);
    let length = length as usize;
    let mut coded = Vec::new();
    for index in 0..length.div_ceil(CHUNK_BYTES) {
        match chunks.get(&chunk_key(&id, index))? {
            Some(chunk) => coded.extend_from_slice(&chunk),
            None => return Ok(None),
        }
    }
    Ok((coded.len() == length).then_some(coded))
}

/// Removes the chunks of a record that was replaced, if it has any.
pub fn remove(chunks: &Tree, row: &[u8], record: &Record<'_>) -> Result<()> {
    let Body::Chunked(length) = record.body else { return Ok(()) };
    let id = id(row, &record.head);
    (0..(length as usize).div_ceil(CHUNK_BYTES)).try_for_each(|index| chunks.remove(&chunk_key(&id, index)))
}

fn id(row: &[u8], head: &Head) -> [u8; ID_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(row);
    hasher.update(&head.marker.timestamp.hlc.to_be_bytes());
    hasher.update(&head.marker.timestamp.node.0.to_be_bytes());
    hasher.update(&head.marker.fingerprint.0);
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..ID_BYTES]);
    id
}

fn chunk_key(id: &[u8; ID_BYTES], index: usize) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..ID_BYTES].copy_from_slice(id);
    key[ID_BYTES..].copy_from_slice(&(index as u16).to_be_bytes());
    key
}
