//! Load on a whole cluster that remembers: writers that go on to another node where one does not answer, and for each key what
//! was acknowledged with the latest version, and what was sent and never answered.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::{
    crash::ledger::Chance,
    harness::{
        DEADLINE,
        cluster::{Client, Cluster},
        http::Request,
        wait_until,
    },
};

const TABLE: &str = "ledger";
const KEYS_PER_WRITER: u64 = 40;

/// All writers, and what they know.
pub struct Ledger {
    writers: Vec<Writer>,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    moves: AtomicU64,
}

struct Writer {
    name: usize,
    chance: Chance,
    next_value: u64,
    keys: BTreeMap<String, Known>,
}

/// What is known of a key. `None` is that it is deleted.
#[derive(Default)]
struct Known {
    version: String,
    value: Option<u64>,
    /// Sent and not answered: it may have been taken, with any version.
    possible: Vec<Option<u64>>,
}

/// Ends the load, also where the test failed: else the writers would write on, and it would wait for them.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Ledger {
    pub fn new(writers: usize) -> Self {
        let writer =
            |name| Writer { name, chance: Chance::new(name as u64), next_value: 0, keys: BTreeMap::new() };
        Self {
            writers: (0..writers).map(writer).collect(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            moves: AtomicU64::new(0),
        }
    }

    /// Writes for as long as `disturb` takes. It is told how many writes were acknowledged so far.
    pub fn load(&mut self, cluster: &mut Cluster, disturb: impl FnOnce(&mut Cluster, &dyn Fn() -> u64)) {
        self.stop.store(false, Ordering::Relaxed);
        let (stop, acknowledged, moves) = (&self.stop, &self.acknowledged, &self.moves);
        thread::scope(|scope| {
            let mut writers = Vec::new();
            for writer in &mut self.writers {
                let mut client = Client::new(cluster, writer.name % 3);
                writers.push(scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        writer.write(&mut client);
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    moves.fetch_add(client.moves, Ordering::Relaxed);
                }));
            }
            let stop = Stop(stop);
            disturb(cluster, &|| acknowledged.load(Ordering::Relaxed));
            drop(stop);
            for writer in writers {
                writer.join().expect("each write is taken by some node");
            }
        });
    }

    /// Waits until so many more writes have been acknowledged.
    pub fn wait_for(more: u64, acknowledged: &dyn Fn() -> u64) {
        let before = acknowledged();
        wait_until("writes go on", 2 * DEADLINE, || acknowledged() >= before + more);
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How often a writer had to go on to another node.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Looks whether all nodes that run hold what was acknowledged, or what was sent later without an answer.
    pub fn verify(&self, cluster: &Cluster) {
        for node in cluster.running() {
            let held = node.get(&format!("/{TABLE}/store")).expect(200).json();
            for (key, known) in self.writers.iter().flat_map(|writer| &writer.keys) {
                let found = held.get(key).and_then(Value::as_u64);
                assert!(
                    found == known.value || known.possible.contains(&found),
                    "{key} on {} is {found:?}; acknowledged last was {:?} with version {}, never answered {:?}",
                    node.address(),
                    known.value,
                    known.version,
                    known.possible
                );
            }
        }
    }
}

impl Writer {
    fn write(&mut self, client: &mut Client) {
        let key = format!("w{}-{}", self.name, self.chance.below(KEYS_PER_WRITER));
        self.next_value += 1;
        let value = (self.chance.below(5) > 0).then_some(self.next_value);
        let operation = match value {
            Some(value) => json!([{ "op": "put", "key": key, "value": value }]),
            None => json!([{ "op": "delete", "key": key, "force": true }]),
        };
        let request = Request::new("POST", &format!("/{TABLE}/batch")).body(operation.to_string());
        let known = self.keys.entry(key).or_default();
        let answer = client.send_watched(&request, || known.possible.push(value)).expect(200).json();
        let result = &answer["results"][0];
        let version = result["version"].as_str().unwrap_or_else(|| panic!("not taken: {answer}"));
        if version > known.version.as_str() {
            (known.version, known.value) = (version.to_owned(), value);
        }
    }
}
