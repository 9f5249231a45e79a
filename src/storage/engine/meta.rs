//! What a store keeps of its node in the tree `meta`: its id, the bound of its clock, the key of its digests, and how far tombstones
//! were removed.

use super::Tree;
use crate::{
    core::{clock::NodeId, digest::DigestKey},
    error::{Error, Result},
};

/// The id of the node.
pub const NODE_KEY: &[u8] = b"node";
const CLOCK_KEY: &[u8] = b"clock";
/// The key of the digests of rows.
pub const DIGEST_KEY: &[u8] = b"digest_key";
/// How far dead rows were removed.
pub const SWEPT: &[u8] = b"swept";

/// Sets the key under which rows are hashed.
pub fn write_digest_key(meta: &Tree, key: &DigestKey) -> Result<()> {
    meta.insert(DIGEST_KEY, &key.0)
}

/// The clock's bound; 0 where there is none yet.
///
/// # Errors
/// `StorageDamaged`.
pub fn read_clock_bound(meta: &Tree) -> Result<u64> {
    Ok(read_number(meta, CLOCK_KEY)?.unwrap_or(0))
}

/// The node's id; `None` where the node was never started.
///
/// # Errors
/// `StorageDamaged`.
pub fn read_node(meta: &Tree) -> Result<Option<NodeId>> {
    Ok(read_number(meta, NODE_KEY)?.map(NodeId))
}

fn read_number(meta: &Tree, key: &[u8]) -> Result<Option<u64>> {
    let Some(bytes) = meta.get(key)? else { return Ok(None) };
    let number = bytes.as_ref().try_into().map(u64::from_be_bytes);
    number.map(Some).map_err(|_| Error::StorageDamaged("the node's identity is not readable".into()))
}

/// Sets the clock's bound.
pub fn write_clock_bound(meta: &Tree, bound: u64) -> Result<()> {
    meta.insert(CLOCK_KEY, &bound.to_be_bytes())
}

/// Raises the clock's bound to this, if it is lower.
pub fn raise_clock_bound(meta: &Tree, bound: u64) -> Result<()> {
    let known = meta.get(CLOCK_KEY)?.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_be_bytes));
    if known.is_some_and(|known| known >= bound) { Ok(()) } else { write_clock_bound(meta, bound) }
}
