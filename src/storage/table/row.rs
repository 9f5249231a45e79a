//! Row names: partition byte ‖ key, where the partition is the first byte of blake3(key). A partition is a contiguous range of row names,
//! so it can be counted, compared and one day moved as a unit.

use crate::{
    core::name::Key,
    error::{Error, Result},
};

/// Number of partitions of a table: one byte of hash.
pub const PARTITIONS: usize = 256;

/// The row name of a key.
pub fn row_of(key: &Key) -> Vec<u8> {
    let key = key.as_str().as_bytes();
    let mut row = Vec::with_capacity(1 + key.len());
    row.push(blake3::hash(key).as_bytes()[0]);
    row.extend_from_slice(key);
    row
}

/// The bytes of the key in a row name.
pub fn key_bytes(row: &[u8]) -> &[u8] {
    row.get(1..).unwrap_or_default()
}

/// The key of a row name.
///
/// # Errors
/// `Corrupt` if the row name contains no valid key.
pub fn key_of(row: &[u8]) -> Result<Key> {
    let text = std::str::from_utf8(key_bytes(row)).ok();
    text.and_then(|text| Key::parse(text).ok()).ok_or_else(|| {
        Error::Corrupt(format!("the row name {:?} is not a valid key", String::from_utf8_lossy(row)))
    })
}
