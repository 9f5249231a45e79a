//! Table (skeleton): the types of the read side.
use crate::core::{clock::Timestamp, json::Value, name::Key};

/// A live value as a read finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// The version.
    pub timestamp: Timestamp,
    /// Unix milliseconds at which it expires, if it does.
    pub expires_at_ms: Option<u64>,
}

/// Which keys a listing takes, in order of their bytes.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Only keys that begin so; empty for all.
    pub prefix: String,
    /// Only keys at or above this one.
    pub start: Option<String>,
    /// Only keys below this one.
    pub end: Option<String>,
    /// Only keys that come after this one in the direction of the listing: where the page before ended.
    pub after: Option<Key>,
    /// From the highest key down.
    pub reverse: bool,
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows, in order.
    pub rows: Vec<T>,
    /// Whether more may follow after the last row.
    pub more: bool,
}

/// A live row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// What it holds.
    pub entry: Entry,
}
