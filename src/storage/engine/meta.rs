//! The node's records in the tree `meta`: its id, its clock's bound, the digest key, and the removal floors.

use super::Tree;
use crate::{
    core::{clock::NodeId, digest::DigestKey},
    error::{Error, Result},
};

/// Key of the node's id.
pub const NODE_KEY: &[u8] = b"node";
const CLOCK_KEY: &[u8] = b"clock";
/// Key of the digest key.
pub const DIGEST_KEY: &[u8] = b"digest_key";
/// The removal floors.
pub const SWEPT: &[u8] = b"swept";

/// Stores the key under which rows are hashed.
pub fn write_digest_key(meta: &Tree, key: &DigestKey) -> Result<()> {
    meta.insert(DIGEST_KEY, &key.0)
}

/// The clock's bound; 0 if there is none yet.
///
/// # Errors
/// `StorageDamaged`.
pub fn read_clock_bound(meta: &Tree) -> Result<u64> {
    Ok(read_number(meta, CLOCK_KEY)?.unwrap_or(0))
}

/// The node's id; `None` if the node was never started.
///
/// # Errors
/// `StorageDamaged`.
pub fn read_node(meta: &Tree) -> Result<Option<NodeId>> {
    Ok(read_number(meta, NODE_KEY)?.map(NodeId))
}

fn read_number(meta: &Tree, key: &[u8]) -> Result<Option<u64>> {
    let Some(bytes) = meta.get(key)? else { return Ok(None) };
    let number = bytes.as_ref().try_into().map(u64::from_be_bytes);
    number.map(Some).map_err(|_| Error::StorageDamaged("the node's identity cannot be read".into()))
}

/// Stores the clock's bound.
pub fn write_clock_bound(meta: &Tree, bound: u64) -> Result<()> {
    meta.insert(CLOCK_KEY, &bound.to_be_bytes())
}

/// Raises the clock's bound to this one, if it is lower.
pub fn raise_clock_bound(meta: &Tree, bound: u64) -> Result<()> {
    let known = meta.get(CLOCK_KEY)?.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_be_bytes));
    if known.is_some_and(|known| known >= bound) { Ok(()) } else { write_clock_bound(meta, bound) }
}
