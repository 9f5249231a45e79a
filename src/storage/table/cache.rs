//! Caches of values: decoded values of hot keys, and long values that somebody is reading.
//!
//! Decoded values are kept so that a read does not decompress them again; that is most of what a read costs besides its system calls.
//!
//! A value is found by its marker, which identifies one payload for ever. So no entry is ever stale, and no write has to invalidate one: a
//! reader always takes the record from the engine, and only skips the decoding.
//!
//! A long value that many clients read at the same time is in memory once, for as long as one of them holds it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use quick_cache::{Weighter, sync::Cache};

use crate::core::{json::Value, register::Marker};

/// Bytes of cached values, approximately, for all tables together, unless options say otherwise.
const BYTES: u64 = 16 * 1024 * 1024;
/// Cost of an entry besides its text.
const ENTRY_OVERHEAD_BYTES: u64 = 96;
/// Longer values are not cached: few of them would fit.
const VALUE_BYTES_MAX: usize = 16 * 1024;
/// Expected length of a value.
const VALUE_BYTES: u64 = 512;

/// Values at least this long are shared by concurrent readers. Below it the lookup costs more than it saves.
pub const LONG_BYTES_MIN: usize = 64 * 1024;
/// When this many markers of long values are known, those that nobody holds are removed.
const SHARED_MIN: usize = 64;

/// Long values that are being read.
#[derive(Default)]
pub struct SharedValues(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    values: HashMap<Marker, Weak<str>>,
    /// How many there may be before the next removal.
    clear_at: usize,
}

impl SharedValues {
    /// The value of a marker, if somebody holds it.
    pub fn get(&self, marker: &Marker) -> Option<Value> {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.values.get(marker)?.upgrade().map(Value::shared)
    }

    /// Shares a value that was just read. If another reader was faster, returns that reader's value.
    pub fn share(&self, marker: Marker, value: Value) -> Value {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = shared.values.get(&marker).and_then(Weak::upgrade) {
            return Value::shared(theirs);
        }
        if shared.values.len() >= shared.clear_at.max(SHARED_MIN) {
            shared.values.retain(|_, value| value.strong_count() > 0);
            shared.clear_at = 2 * shared.values.len();
        }
        let text = Arc::<str>::from(value);
        shared.values.insert(marker, Arc::downgrade(&text));
        Value::shared(text)
    }
}

/// The cache of decoded values of a store.
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
        Self::new(BYTES)
    }
}

impl DecodedValues {
    /// A cache of about so many bytes, for all tables together.
    pub fn new(bytes: u64) -> Self {
        Self(Cache::with_weighter((bytes / VALUE_BYTES) as usize, bytes, ByLength))
    }

    /// The value of a marker, if it is cached.
    pub fn get(&self, marker: &Marker) -> Option<Value> {
        self.0.get(marker)
    }

    /// Caches a value, unless it is too long.
    pub fn insert(&self, marker: Marker, value: &Value) {
        if value.as_str().len() <= VALUE_BYTES_MAX {
            self.0.insert(marker, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        clock::{NodeId, Timestamp},
        register::Fingerprint,
    };

    fn marker(number: u64) -> Marker {
        Marker { timestamp: Timestamp { hlc: number, node: NodeId(1) }, fingerprint: Fingerprint([0; 8]) }
    }

    fn value(text: &str) -> Value {
        Value::trusted(text.into())
    }

    #[test]
    fn a_value_is_shared_as_long_as_somebody_holds_it() {
        let shared = SharedValues::default();
        let one = shared.share(marker(1), value("[1]"));
        let other = shared.share(marker(1), value("[1]"));
        assert!(std::ptr::eq(one.as_str(), other.as_str()) && shared.get(&marker(1)).is_some());
        drop((one, other));
        assert_eq!(shared.get(&marker(1)), None);
    }

    #[test]
    fn values_that_nobody_holds_are_removed() {
        let shared = SharedValues::default();
        let held = shared.share(marker(0), value("[0]"));
        for number in 1..10_000 {
            shared.share(marker(number), value("[]"));
        }
        assert!(shared.0.lock().expect("nobody panicked").values.len() <= 2 * SHARED_MIN);
        assert_eq!(shared.get(&marker(0)), Some(held));
    }
}
