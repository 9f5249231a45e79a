//! Caches of values: those of hot keys, and long values that somebody is reading.
//!
//! The value of a hot key is kept decoded, with its version and expiry, so that a read neither asks the engine nor decompresses; that is most
//! of what a read costs besides its system calls.
//!
//! No reader may see an old value once a write of its key has returned. So keys share a fixed number of *stamps*: a stamp counts the writes
//! of its keys that are under way, and those that are over. A reader takes the stamp before it asks the engine, and what it finds is good
//! only as long as the stamp is the same. A write that begins or ends changes it, so nothing has to be looked up and removed. Two keys of one
//! stamp cost each other a read of the engine now and then.
//!
//! A long value that many clients read at the same time is in memory once, for as long as one of them holds it.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{DefaultHashBuilder, Equivalent, Weighter, sync::Cache};
use smallvec::SmallVec;

use super::Entry;
use crate::core::{json::Value, register::Marker};

/// Bytes of cached values, approximately, for all tables together, unless options say otherwise.
const BYTES: u64 = 16 * 1024 * 1024;
/// Cost of an entry besides its key and text.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// Number of stamps: 128 KiB of them. A write invalidates one in so many of the cached values of other keys.
const STAMPS: usize = 16 * 1024;
/// The bits of a stamp that count the writes under way; the others count those that are over.
const UNDER_WAY_BITS: u32 = 16;
/// Longer values are not cached: few of them would fit.
const VALUE_BYTES_MAX: usize = 16 * 1024;
/// Keys up to this long are kept in place.
const KEY_IN_PLACE_BYTES: usize = 24;
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

/// The values of hot keys, of all tables of a store.
pub struct HotValues {
    values: Cache<Name, Stamped, ByLength>,
    stamps: Box<[AtomicU64]>,
    hasher: DefaultHashBuilder,
    tables: AtomicU64,
}

/// A table and a key of it.
#[derive(Clone, PartialEq, Eq)]
struct Name {
    table: TableId,
    /// In place if it is short: a read then misses the processor's cache once less.
    key: SmallVec<[u8; KEY_IN_PLACE_BYTES]>,
}

/// The same, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct NameRef<'a> {
    table: TableId,
    key: &'a [u8],
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        NameRef { table: self.table, key: &self.key }.hash(hasher);
    }
}

impl Equivalent<Name> for NameRef<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        self.table == name.table && *self.key == *name.key
    }
}

/// A table of a store, as the cache tells them apart: a new one even if its name was in use before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableId(u64);

/// A value, and the stamp of its key when it was read.
#[derive(Clone)]
struct Stamped {
    stamp: Stamp,
    entry: Entry,
}

/// The state of a stamp at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    fn is_quiet(self) -> bool {
        self.0.is_multiple_of(1 << UNDER_WAY_BITS)
    }
}

#[derive(Clone)]
struct ByLength;

impl Weighter<Name, Stamped> for ByLength {
    fn weight(&self, name: &Name, stamped: &Stamped) -> u64 {
        (name.key.len() + stamped.entry.value.as_str().len()) as u64 + ENTRY_OVERHEAD_BYTES
    }
}

impl Default for HotValues {
    fn default() -> Self {
        Self::new(BYTES)
    }
}

impl HotValues {
    /// A cache of about so many bytes, for all tables together.
    pub fn new(bytes: u64) -> Self {
        Self {
            values: Cache::with_weighter((bytes / VALUE_BYTES) as usize, bytes, ByLength),
            stamps: (0..STAMPS).map(|_| AtomicU64::new(0)).collect(),
            hasher: DefaultHashBuilder::default(),
            tables: AtomicU64::new(0),
        }
    }

    /// The id of one more table.
    pub fn add_table(&self) -> TableId {
        TableId(self.tables.fetch_add(1, Ordering::Relaxed))
    }

    /// The cached value of a key, and the stamp with which to cache what the engine has, if it is read after this.
    pub fn get(&self, table: TableId, key: &[u8]) -> (Option<Entry>, Stamp) {
        let name = NameRef { table, key };
        let stamp = Stamp(self.stamp(name).load(Ordering::Acquire));
        let is_valid = |found: &Stamped| found.stamp == stamp && stamp.is_quiet();
        let entry = self.values.get(&name).filter(is_valid).map(|found| found.entry);
        (entry, stamp)
    }

    /// Caches what the engine had for a key after `stamp` was taken, unless a write of it was under way then, or the value is too long.
    pub fn insert(&self, table: TableId, key: &[u8], stamp: Stamp, entry: &Entry) {
        if stamp.is_quiet() && entry.value.as_str().len() <= VALUE_BYTES_MAX {
            let entry = entry.clone();
            self.values.insert(Name { table, key: key.into() }, Stamped { stamp, entry });
        }
    }

    /// Calls `write`, which changes a key's row in the engine. Until it returns, readers of the key ask the engine.
    pub fn change<T>(&self, table: TableId, key: &[u8], write: impl FnOnce() -> T) -> T {
        let stamp = self.stamp(NameRef { table, key });
        stamp.fetch_add(1, Ordering::AcqRel);
        let written = write();
        stamp.fetch_add((1 << UNDER_WAY_BITS) - 1, Ordering::AcqRel);
        written
    }

    /// Forgets every value: the engine may have others now.
    pub fn clear(&self) {
        for stamp in &self.stamps {
            stamp.fetch_add(1 << UNDER_WAY_BITS, Ordering::AcqRel);
        }
        self.values.clear();
    }

    fn stamp(&self, name: NameRef<'_>) -> &AtomicU64 {
        &self.stamps[self.hasher.hash_one(name) as usize % STAMPS]
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

    fn entry(text: &str) -> Entry {
        Entry { value: value(text), timestamp: marker(1).timestamp, expires_at_ms: None }
    }

    #[test]
    fn a_value_is_cached_until_its_row_is_written() {
        let hot = HotValues::default();
        let table = hot.add_table();
        let (found, stamp) = hot.get(table, b"key");
        assert_eq!(found, None);
        hot.insert(table, b"key", stamp, &entry("1"));
        assert_eq!(hot.get(table, b"key").0, Some(entry("1")));
        assert_eq!(hot.get(hot.add_table(), b"key").0, None, "another table");
        hot.change(table, b"key", || {
            assert_eq!(hot.get(table, b"key").0, None, "while it is written");
        });
        assert_eq!(hot.get(table, b"key").0, None, "after it was written");
    }

    /// What a reader took from the engine before, or while, a row was written must not answer later readers.
    #[test]
    fn what_was_read_before_a_write_ended_is_not_used_after_it() {
        let hot = HotValues::default();
        let table = hot.add_table();
        let (_, before) = hot.get(table, b"key");
        let within = hot.change(table, b"key", || hot.get(table, b"key").1);
        for stamp in [before, within] {
            hot.insert(table, b"key", stamp, &entry("old"));
            assert_eq!(hot.get(table, b"key").0, None);
        }
        let (_, after) = hot.get(table, b"key");
        hot.insert(table, b"key", after, &entry("new"));
        assert_eq!(hot.get(table, b"key").0, Some(entry("new")));
        hot.clear();
        assert_eq!(hot.get(table, b"key").0, None, "nothing is known of a reopened engine");
    }

    #[test]
    fn a_long_value_is_not_cached() {
        let hot = HotValues::default();
        let table = hot.add_table();
        let (_, stamp) = hot.get(table, b"key");
        hot.insert(table, b"key", stamp, &entry(&"x".repeat(VALUE_BYTES_MAX + 1)));
        assert_eq!(hot.get(table, b"key").0, None);
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
