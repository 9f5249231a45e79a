//! Values as they are read: decoded ones of hot keys, and long ones that somebody holds.
//!
//! Decoded values are kept so that a read of one does not decompress it again: that is most of what a read costs beyond its
//! system calls.
//!
//! A value is found by its marker, which names one payload for ever. So nothing here is ever stale, and no write has to know
//! of it: a reader takes the record from the engine as always, and spares itself the decoding only.
//!
//! A long value that many read at a time is in memory once, as long as one of them holds it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

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

/// Values from this length on are shared by those who read them at a time. Below it, looking costs more than it spares.
pub const LONG_BYTES_MIN: usize = 64 * 1024;
/// So many markers of long values are remembered before those are forgotten that nobody holds any more.
const SHARED_MIN: usize = 64;

/// Long values that are being read.
#[derive(Default)]
pub struct SharedValues(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    values: HashMap<Marker, Weak<str>>,
    /// How many there may be before the next clearing.
    clear_at: usize,
}

impl SharedValues {
    /// The value of a marker, if somebody holds it.
    pub fn get(&self, marker: &Marker) -> Option<Value> {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.values.get(marker)?.upgrade().map(Value::shared)
    }

    /// Shares a value that was just read; if somebody was faster, theirs.
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
