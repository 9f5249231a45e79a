//! The storage: the bytes of a record, and a row of a store in a directory of its own.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dynarust::{
    core::{
        clock::{NodeId, Timestamp},
        json::Value,
        name::{Key, TableName},
        register::Register,
        wall_clock::Reading,
    },
    storage::{
        Buffers, Environment, Options, Store,
        commit::Durability,
        table::{
            codec::{Codec, Dictionaries, Dictionary, Samples},
            record::{self, Body, Head, Record},
        },
    },
};
use dynarust_bench::{
    client::{
        document::{Documents, Random},
        target,
    },
    instructions::Operation,
};

use super::{NOW_MS, VALUE_BYTES, document};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "compress, alone", prepare: |_| compress(Dictionaries::default()) },
    Operation { name: "compress, with a dictionary", prepare: |_| compress(trained()) },
    Operation { name: "decompress, alone", prepare: |_| decompress(Dictionaries::default()) },
    Operation { name: "decompress, with a dictionary", prepare: |_| decompress(trained()) },
    Operation { name: "record encode", prepare: |_| encode() },
    Operation { name: "record decode", prepare: |_| decode() },
    Operation { name: "store read", prepare: |_| read(ROWS) },
    Operation { name: "store write", prepare: |_| write() },
];

/// What a dictionary makes of a document.
const CODED_BYTES: usize = 115;
const ROW: &[u8] = b"\x01user-00000001";
/// Rows of a store: few, as valgrind makes their writing fifty times slower.
const ROWS: u64 = 1000;
/// Documents that are written to it, in turn.
const VALUES: usize = 1000;

/// A dictionary of as many documents as it takes.
fn trained() -> Dictionaries {
    let (mut documents, mut samples) = (Documents::new(2, VALUE_BYTES), Samples::default());
    let mut sample = Vec::new();
    documents.write(&mut sample);
    while !samples.add(&sample) {
        sample.clear();
        documents.write(&mut sample);
    }
    let mut trained = Dictionaries::default();
    trained.push(Dictionary::new(&samples.train().expect("documents are alike")));
    trained
}

fn compress(dictionaries: Dictionaries) -> Box<dyn FnMut()> {
    let (plain, mut coded) = (document(), Vec::new());
    Box::new(move || {
        black_box(dictionaries.encode(black_box(plain.as_bytes()), &mut coded));
    })
}

fn decompress(dictionaries: Dictionaries) -> Box<dyn FnMut()> {
    let mut coded = Vec::new();
    let codec = dictionaries.encode(document().as_bytes(), &mut coded);
    Box::new(move || {
        black_box(dictionaries.decode(codec, black_box(&coded), VALUE_BYTES).expect("whole"));
    })
}

fn register(hlc: u64) -> Register {
    Register::live(Value::trusted(document()), None, Timestamp { hlc, node: NodeId(1) })
}

/// The record of a compressed document.
fn record_of(payload: &[u8]) -> Record<'_> {
    let head = Head {
        marker: register(1).marker(),
        live: true,
        expires_at_ms: None,
        quiet: false,
        expired: false,
        coded_bytes: 0,
    };
    Record { head, codec: Codec::RAW, body: Body::Inline(payload) }
}

fn encode() -> Box<dyn FnMut()> {
    let record = record_of(&[b'x'; CODED_BYTES]);
    Box::new(move || {
        black_box(record::encode(ROW, black_box(&record)));
    })
}

fn decode() -> Box<dyn FnMut()> {
    let bytes = record::encode(ROW, &record_of(&[b'x'; CODED_BYTES]));
    Box::new(move || {
        black_box(record::decode(ROW, black_box(&bytes)).map(|record| record.head).expect("whole"));
    })
}

/// A store with rows, whose clock only a write moves, and whose work waits to be asked for: each run does the same.
struct Rows {
    store: Store,
    _directory: tempfile::TempDir,
    table: TableName,
    values: Vec<Value>,
    written: usize,
}

impl Rows {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = Environment::simulated(
            Box::new(|| Reading { wall_ms: NOW_MS, monotonic_ms: 0 }),
            500,
            Arc::new(numbers(AtomicU64::new(1))),
        );
        let options = Options {
            data: directory.path().join("storage.db"),
            durability: Durability::None,
            cache_bytes: 64 << 20,
            buffers: Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 2,
            subscriptions_max: 2,
            set_aside_damaged: false,
            peers: Default::default(),
            environment,
        };
        let store = Store::open(options).expect("the store opens");
        let table = TableName::parse("default").expect("a name");
        let mut rows = Self { store, _directory: directory, table, values: values(), written: 0 };
        (0..ROWS).for_each(|number| rows.write(number));
        rows
    }

    fn write(&mut self, number: u64) {
        self.written += 1;
        let timestamp = Timestamp { hlc: (NOW_MS << 16) + self.written as u64, node: NodeId(1) };
        let value = self.values[self.written % self.values.len()].clone();
        let register = Register::live(value, None, timestamp);
        black_box(self.store.merge(&self.table, &key(number), |_| Ok(register)).expect("written"));
    }
}

fn values() -> Vec<Value> {
    let mut documents = Documents::new(3, VALUE_BYTES);
    let mut next = || {
        let mut document = Vec::new();
        documents.write(&mut document);
        Value::trusted(String::from_utf8(document).expect("documents are text"))
    };
    (0..VALUES).map(|_| next()).collect()
}

fn key(number: u64) -> Key {
    Key::parse(&target::key(number)).expect("a key")
}

/// Numbers that are the same in each run.
fn numbers(next: AtomicU64) -> impl Fn(&mut [u8]) -> dynarust::Result<()> + Send + Sync {
    move |bytes| {
        let mut random = Random::new(next.fetch_add(1, Ordering::Relaxed));
        bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        Ok(())
    }
}

/// Reads of so many keys in turn.
fn read(keys: u64) -> Box<dyn FnMut()> {
    let rows = Rows::new();
    let keys: Vec<Key> = (0..keys).map(key).collect();
    let mut turn = 0;
    Box::new(move || {
        black_box(rows.store.get(&rows.table, &keys[turn % keys.len()]).expect("read").expect("there"));
        turn += 7919;
    })
}

/// Overwrites of random keys.
fn write() -> Box<dyn FnMut()> {
    let (mut rows, mut random) = (Rows::new(), Random::new(4));
    Box::new(move || rows.write(random.below(ROWS)))
}
