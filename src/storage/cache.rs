//! Decoded values of hot keys, so that a read of one does not decompress it again: that is most of what a read costs beyond its
//! system calls.
//!
//! A value is found by its marker, which names one payload for ever. So nothing here is ever stale, and no write has to know
//! of it: a reader takes the record from the engine as always, and spares itself the decoding only.

use quick_cache::{Weighter, sync::Cache};

use crate::core::{json::Value, register::Marker};

/// About how many bytes of values are held, for all tables together.
const BYTES: u64 = 16 * 1024 * 1024;
/// What an entry costs beside its text.
const ENTRY_OVERHEAD_BYTES: u64 = 96;
/// Longer values are not held: few of them would fit.
const VALUE_BYTES_MAX: usize = 16 * 1024;
/// How many values the cache expects to hold: a few hundred bytes each.
const ENTRIES: usize = 32 * 1024;

/// The cache of a store.
pub struct DecodedValues(Cache<Marker, Value, ByLength>);

#[derive(Clone)]
struct ByLength;

impl Weighter<Marker, Value> for ByLength {
    fn weight(&self, _: &Marker, value: &Value) -> u64 {
        value.as_str().len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

impl Default for DecodedValues {
    fn default() -> Self {
        Self(Cache::with_weighter(ENTRIES, BYTES, ByLength))
    }
}

impl DecodedValues {
    /// The value of a marker, if it is held.
    pub fn get(&self, marker: &Marker) -> Option<Value> {
        self.0.get(marker)
    }

    /// Holds a value, if it is not too long.
    pub fn insert(&self, marker: Marker, value: &Value) {
        if value.as_str().len() <= VALUE_BYTES_MAX {
            self.0.insert(marker, value.clone());
        }
    }
}
