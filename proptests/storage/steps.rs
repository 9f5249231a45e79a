//! What is done to a store: one step at a time, any order.

use dynarust::storage::table::scan::Range;
use proptest::{collection::vec, option, prelude::*};

/// Names that share prefixes and partitions as it happens; listings must sort them by their bytes.
const KEYS: &[&str] = &["a", "a/b", "a/c", "ab", "b", "b\u{0}", "é", "🦀", "~", "zz"];
/// How many tables there are.
pub const TABLES: usize = 2;

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// One write.
    Write(usize, Write),
    /// The write that a key has comes again.
    Again(usize, &'static str),
    /// Writes of one table, all or none; where `fails`, one more follows that is refused.
    Batch(usize, Vec<Write>, bool),
    /// A merge patch of what is there, as a node does it.
    Patch(usize, &'static str, Text),
    /// A page of a listing after another, to the end.
    List(usize, Range, usize),
    /// The number of keys that begin so.
    Count(usize, String),
    /// The clock's bound is raised.
    Bound(u64),
    /// Time passes, in milliseconds.
    Advance(u64),
    /// Everything so far is made durable.
    Durable,
    /// The same is begun, and nobody waits for it.
    DurableBehind,
    /// The process is killed and another opens what it left.
    Crash,
    /// The store is closed and opened again.
    Close,
    /// The store is closed, compacted and opened again.
    Compact,
}

/// One write of one key.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: &'static str,
    /// The value, and in how many milliseconds it expires; `None` for a tombstone.
    pub value: Option<(Text, Option<u64>)>,
    /// How many writes ago its timestamp was handed out: 0 for a new one.
    pub age: u64,
}

/// A JSON string of so many bytes.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    seed: u8,
    bytes: usize,
    noisy: bool,
}

impl Text {
    /// The JSON text.
    pub fn json(self) -> String {
        let mut text = format!("\"{}", self.seed);
        let mut hash = blake3::hash(&[self.seed]);
        while text.len() < self.bytes {
            text.push_str(&hash.to_hex());
            if self.noisy {
                hash = blake3::hash(hash.as_bytes());
            }
        }
        text + "\""
    }
}

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let table = || 0..TABLES;
    prop_oneof![
        10 => (table(), write()).prop_map(|(table, write)| Step::Write(table, write)),
        2 => (table(), key()).prop_map(|(table, key)| Step::Again(table, key)),
        4 => (table(), vec(write(), 1..6), any::<bool>()).prop_map(|(table, writes, fails)| Step::Batch(table, writes, fails)),
        3 => (table(), key(), text()).prop_map(|(table, key, text)| Step::Patch(table, key, text)),
        3 => (table(), range(), 1..5usize).prop_map(|(table, range, rows_max)| Step::List(table, range, rows_max)),
        1 => (table(), prefix()).prop_map(|(table, prefix)| Step::Count(table, prefix)),
        1 => (1..1_000u64).prop_map(Step::Bound),
        2 => (1..3_000u64).prop_map(Step::Advance),
        3 => Just(Step::Durable),
        3 => Just(Step::DurableBehind),
        3 => Just(Step::Crash),
        1 => Just(Step::Close),
        1 => Just(Step::Compact),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let expiry = prop_oneof![3 => Just(None), 1 => Just(Some(0)), 2 => (1..4_000u64).prop_map(Some)];
    let value = prop_oneof![1 => Just(None), 4 => (text(), expiry).prop_map(Some)];
    let age = prop_oneof![5 => Just(0), 1 => 1..6u64];
    (key(), value, age).prop_map(|(key, value, age)| Write { key, value, age })
}

fn key() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(KEYS)
}

/// Up to 60 KB, so in a row, or in one to four chunks; compressible or not.
fn text() -> impl Strategy<Value = Text> {
    let bytes = prop_oneof![3 => 0..400usize, 2 => 8_000..60_000usize];
    (any::<u8>(), bytes, any::<bool>()).prop_map(|(seed, bytes, noisy)| Text { seed, bytes, noisy })
}

fn prefix() -> impl Strategy<Value = String> {
    prop_oneof![Just(""), Just("a"), Just("a/"), Just("b"), Just("🦀"), Just("none")].prop_map(str::to_owned)
}

fn range() -> impl Strategy<Value = Range> {
    let bound = || option::of(key().prop_map(str::to_owned));
    (prefix(), bound(), bound(), any::<bool>()).prop_map(|(prefix, start, end, reverse)| Range {
        prefix,
        start,
        end,
        after: None,
        reverse,
    })
}
