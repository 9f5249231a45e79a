//! Load that remembers: writers that put, delete and batch, and for each key what the node acknowledged last and what it may
//! have kept besides. After whatever happened to the node, `verify` compares.
//!
//! Every writer has its own keys and waits for each answer, so for each key there is one order of writes, and it is known.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::Value;

use crate::harness::{
    DEADLINE, Node,
    http::{Connection, Request, Response},
    wait_until,
};

const TABLE: &str = "ledger";
const KEYS_PER_WRITER: usize = 24;
/// Refusals in a row after which a writer takes it that nothing more will be accepted.
const REFUSALS_MAX: u32 = 3;

/// Lengths of values in bytes, and of how many writes in a hundred.
pub type Sizes = &'static [(std::ops::Range<usize>, u64)];

/// Numbers from a seed, the same on every run.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`. SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// What a key holds, or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Absent,
    /// The value of that number and length: see `text`.
    Value {
        number: u64,
        length: usize,
    },
}

/// The text of a value: its number, and digits that no compression shortens by more than half.
pub fn text(number: u64, length: usize) -> String {
    let mut text = format!("{number}:");
    let mut bytes = vec![0; length.saturating_sub(text.len()).div_ceil(2)];
    blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut bytes);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string");
    }
    text.truncate(length);
    text
}

/// A key, and what is known of it.
struct Slot {
    key: String,
    /// What was acknowledged last; the version, where the answer had one.
    held: (Content, Option<String>),
    /// What was sent after that and not acknowledged: it may have been kept.
    possible: Vec<Content>,
}

/// One connection's worth of load.
struct Writer {
    chance: Chance,
    sizes: Sizes,
    slots: Vec<Slot>,
    /// The highest version acknowledged so far.
    last_version: String,
    /// Slots of an atomic batch whose answer never came, with what it set.
    torn: Vec<(usize, Content)>,
    next_number: u64,
}

/// How far a load is.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    disturbed: AtomicBool,
    given_up: AtomicBool,
}

/// Stops the writers when the test has failed: else they would write on, and the test wait for them.
struct GivenUp<'a>(&'a Progress);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.given_up.store(true, Ordering::Relaxed);
    }
}

/// All writers, and what they know.
pub struct Ledger {
    writers: Vec<Writer>,
}

impl Ledger {
    pub fn new(writers: u64, sizes: Sizes, seed: u64) -> Self {
        let writers = (0..writers).map(|writer| Writer::new(writer, sizes, seed)).collect();
        Self { writers }
    }

    /// Writes on all connections at once, and calls `disturb` as soon as so many writes have been acknowledged; returns when no
    /// more are. How many were.
    pub fn load(&mut self, address: SocketAddr, acknowledged: u64, disturb: impl FnOnce()) -> u64 {
        let progress = Progress::default();
        thread::scope(|scope| {
            let progress = &progress;
            let run = |writer| scope.spawn(move || Writer::run(writer, address, progress));
            let writers: Vec<_> = self.writers.iter_mut().map(run).collect();
            let given_up = GivenUp(progress);
            wait_until("enough writes are acknowledged", 2 * DEADLINE, || {
                progress.acknowledged.load(Ordering::Relaxed) >= acknowledged
                    || writers.iter().all(|writer| writer.is_finished())
            });
            disturb();
            progress.disturbed.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().expect("a writer saw nothing wrong");
            }
            drop(given_up);
        });
        progress.acknowledged.into_inner()
    }

    /// Compares all keys with what was acknowledged. What was found is what holds from then on.
    pub fn verify(&mut self, node: &Node) {
        let address = node.address();
        thread::scope(|scope| {
            for writer in &mut self.writers {
                scope.spawn(|| writer.verify(address));
            }
        });
        let listed = node.get(&format!("/{TABLE}/keys")).expect(200).json();
        let mut expected: Vec<&str> = self
            .slots()
            .filter(|slot| slot.held.0 != Content::Absent)
            .map(|slot| slot.key.as_str())
            .collect();
        expected.sort_unstable();
        assert_eq!(listed, Value::from(expected));
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.writers.iter().flat_map(|writer| &writer.slots)
    }
}

impl Writer {
    fn new(number: u64, sizes: Sizes, seed: u64) -> Self {
        let slot = |key| Slot {
            key: format!("w{number}-{key}"),
            held: (Content::Absent, None),
            possible: Vec::new(),
        };
        Self {
            chance: Chance::new(seed << 8 | number),
            sizes,
            slots: (0..KEYS_PER_WRITER).map(slot).collect(),
            last_version: String::new(),
            torn: Vec::new(),
            next_number: number << 32,
        }
    }

    /// Writes until the node is gone, or was disturbed and refuses.
    fn run(&mut self, address: SocketAddr, progress: &Progress) {
        let mut connection = Connection::open(address);
        let mut refusals = 0;
        while refusals < REFUSALS_MAX && !progress.given_up.load(Ordering::Relaxed) {
            let answer = match self.chance.below(100) {
                0..20 => self.delete(&mut connection),
                20..35 => self.batch(&mut connection),
                _ => self.put(&mut connection),
            };
            match answer {
                Ok(0) => refusals += u32::from(progress.disturbed.load(Ordering::Relaxed)),
                Ok(writes) => {
                    refusals = 0;
                    progress.acknowledged.fetch_add(writes, Ordering::Relaxed);
                }
                Err(_) => return,
            }
        }
    }

    fn put(&mut self, connection: &mut Connection) -> io::Result<u64> {
        let (slot, content) = (self.any_slot(), self.any_value());
        let body = format!(r#"{{"value":{}}}"#, json(content));
        self.attempt(slot, content);
        let path = format!("/{TABLE}/key/{}", self.slots[slot].key);
        let answer = connection.try_send(&Request::new("PUT", &path).body(body))?;
        Ok(match answer.status {
            200 => {
                let body = answer.json();
                let version = body["version"].as_str();
                self.observe(version);
                self.acknowledge(slot, content, version)
            }
            _ => refused(&answer),
        })
    }

    fn delete(&mut self, connection: &mut Connection) -> io::Result<u64> {
        let slot = self.any_slot();
        let may_be_absent = self.slots[slot].may_be(Content::Absent);
        self.attempt(slot, Content::Absent);
        let path = format!("/{TABLE}/key/{}", self.slots[slot].key);
        let answer = connection.try_send(&Request::new("DELETE", &path))?;
        Ok(match answer.status {
            200 => self.acknowledge(slot, Content::Absent, None),
            404 => {
                assert!(may_be_absent, "a key with an acknowledged value is absent: {answer}");
                0
            }
            _ => refused(&answer),
        })
    }

    fn batch(&mut self, connection: &mut Connection) -> io::Result<u64> {
        let atomic = self.chance.below(2) == 0;
        let first = self.any_slot();
        let count = 2 + self.chance.below(6) as usize;
        let writes: Vec<(usize, Content)> = (first..first + count)
            .map(|slot| {
                let content =
                    if self.chance.below(5) == 0 { Content::Absent } else { self.any_short_value() };
                (slot % KEYS_PER_WRITER, content)
            })
            .collect();
        let lines: Vec<String> =
            writes.iter().map(|(slot, content)| operation(&self.slots[*slot].key, *content)).collect();
        for (slot, content) in &writes {
            self.attempt(*slot, *content);
        }
        if atomic {
            self.torn.clone_from(&writes);
        }
        let path = format!("/{TABLE}/batch?atomic={atomic}");
        let answer = connection.try_send(&Request::new("POST", &path).body(lines.join("\n")))?;
        if answer.status != 200 {
            return Ok(refused(&answer));
        }
        self.torn.clear();
        let results = answer.json()["results"].as_array().cloned().unwrap_or_default();
        assert_eq!(results.len(), writes.len(), "{answer}");
        // A batch is written in an order of the node's own.
        let mut versions: Vec<_> = results.iter().map(|result| result["version"].as_str()).collect();
        versions.sort_unstable();
        versions.into_iter().for_each(|version| self.observe(version));
        for ((slot, content), result) in writes.iter().zip(&results) {
            assert_eq!(result["status"], 200, "{result}");
            self.acknowledge(*slot, *content, result["version"].as_str());
        }
        Ok(writes.len() as u64)
    }

    fn attempt(&mut self, slot: usize, content: Content) {
        self.slots[slot].possible.push(content);
        // Of a batch that was refused before, this key tells nothing any more.
        self.torn.retain(|(torn, _)| *torn != slot);
    }

    /// Versions of one writer, who waits for each answer, only ever grow.
    fn observe(&mut self, version: Option<&str>) {
        let version = version.expect("a write that was acknowledged has a version");
        assert!(*version > *self.last_version, "{version} after {}", self.last_version);
        version.clone_into(&mut self.last_version);
    }

    fn acknowledge(&mut self, slot: usize, content: Content, version: Option<&str>) -> u64 {
        let version = version.filter(|_| content != Content::Absent);
        self.slots[slot].held = (content, version.map(str::to_owned));
        self.slots[slot].possible.clear();
        1
    }

    fn verify(&mut self, address: SocketAddr) {
        let mut connection = Connection::open(address);
        for slot in &mut self.slots {
            slot.verify(&mut connection);
        }
        let kept = self.torn.iter().filter(|(slot, content)| self.slots[*slot].held.0 == *content);
        // Some of its deletes may have been of keys that were absent already.
        let kept: Vec<_> = kept.filter(|(_, content)| *content != Content::Absent).collect();
        let set = self.torn.iter().filter(|(_, content)| *content != Content::Absent).count();
        assert!(kept.is_empty() || kept.len() == set, "half of an atomic batch: {kept:?} of {:?}", self.torn);
        self.torn.clear();
    }

    fn any_slot(&mut self) -> usize {
        self.chance.below(KEYS_PER_WRITER as u64) as usize
    }

    fn any_value(&mut self) -> Content {
        let mut percent = self.chance.below(self.sizes.iter().map(|(_, weight)| weight).sum());
        let mut sizes = self.sizes.iter();
        let lengths = loop {
            let (lengths, weight) = sizes.next().expect("the weights were summed up");
            match percent.checked_sub(*weight) {
                Some(rest) => percent = rest,
                None => break lengths,
            }
        };
        self.value_of(lengths)
    }

    fn any_short_value(&mut self) -> Content {
        self.value_of(&self.sizes[0].0)
    }

    fn value_of(&mut self, lengths: &std::ops::Range<usize>) -> Content {
        self.next_number += 1;
        let length = lengths.start + self.chance.below(lengths.len() as u64) as usize;
        Content::Value { number: self.next_number, length }
    }
}

impl Slot {
    fn may_be(&self, content: Content) -> bool {
        self.held.0 == content || self.possible.contains(&content)
    }

    fn verify(&mut self, connection: &mut Connection) {
        let answer = connection.send(&Request::new("GET", &format!("/{TABLE}/key/{}", self.key)));
        let found = found(&answer);
        let version = answer.header("dynarust-version").map(str::to_owned);
        let (content, acknowledged) = &self.held;
        let key = &self.key;
        if found == *content {
            if acknowledged.is_some() {
                assert_eq!(version, *acknowledged, "{key} has another version than was acknowledged");
            }
        } else {
            assert!(
                self.possible.contains(&found),
                "{key} holds {found:?}; acknowledged was {content:?}, sent after that {:?}",
                self.possible
            );
            assert!(
                version.is_none() || version > *acknowledged,
                "{key}: {version:?} after {acknowledged:?}"
            );
        }
        self.held = (found, version);
        self.possible.clear();
    }
}

/// Which content an answer shows. Every byte of it is looked at.
fn found(answer: &Response) -> Content {
    if answer.status == 404 {
        return Content::Absent;
    }
    assert_eq!(answer.status, 200, "{answer}");
    let body = answer.json();
    let value = body["value"].as_str().unwrap_or_else(|| panic!("no text in {answer}"));
    let number = value.split_once(':').and_then(|(number, _)| number.parse().ok());
    let number = number.unwrap_or_else(|| panic!("nothing that was written: {answer}"));
    assert!(value == text(number, value.len()), "no value that was written: {answer}");
    Content::Value { number, length: value.len() }
}

fn json(content: Content) -> String {
    match content {
        Content::Absent => "null".to_owned(),
        Content::Value { number, length } => format!("\"{}\"", text(number, length)),
    }
}

/// One line of a batch. Deletes are forced, so that none fails and stops an atomic batch.
fn operation(key: &str, content: Content) -> String {
    match content {
        Content::Absent => format!(r#"{{"op":"delete","key":"{key}","force":true}}"#),
        Content::Value { .. } => format!(r#"{{"op":"put","key":"{key}","value":{}}}"#, json(content)),
    }
}

/// No write was acknowledged, in a way that a node may answer so.
fn refused(answer: &Response) -> u64 {
    assert!(matches!(answer.status, 503 | 507), "{answer}");
    0
}
