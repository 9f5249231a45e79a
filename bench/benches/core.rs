//! The hot paths of the core and of a record's bytes, one call each: what every request pays.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dynarust::{
    core::{
        clock::{Clock, NodeId, Timestamp},
        digest::{
            DigestKey, KeyHash,
            tree::{Leaf, PartitionTree},
        },
        json::Value,
        name::TableName,
        register::{Fingerprint, Marker, Register, fingerprint},
    },
    storage::table::{
        codec::{Codec, Dictionaries, Dictionary, Samples},
        record::{self, Body, Head, Record},
    },
};
use dynarust_bench::client::document::Documents;

const VALUE_BYTES: usize = 350;
/// What a dictionary makes of it.
const CODED_BYTES: usize = 115;

fn document() -> String {
    let mut document = Vec::new();
    Documents::new(1, VALUE_BYTES).write(&mut document);
    String::from_utf8(document).expect("documents are text")
}

fn clock(criterion: &mut Criterion) {
    let mut clock = Clock::new(NodeId(1), 0, 500);
    clock.extend(u64::MAX);
    criterion.bench_function("clock tick", |bencher| {
        bencher.iter(|| clock.tick(black_box(1_763_689_000_123)).expect("below the bound"));
    });
}

fn register(criterion: &mut Criterion) {
    let value = Value::trusted(document());
    let at = |hlc| Register::live(value.clone(), None, Timestamp { hlc, node: NodeId(1) });
    let (older, newer) = (at(1), at(2));
    criterion.bench_function("register merge, the later wins", |bencher| {
        bencher.iter_batched(
            || (older.clone(), newer.clone()),
            |(mut register, other)| {
                register.merge(other);
                register
            },
            criterion::BatchSize::SmallInput,
        );
    });
    let text = document();
    criterion.bench_function("fingerprint of 350 bytes", |bencher| {
        bencher.iter(|| fingerprint(Some(black_box(text.as_bytes())), None));
    });
}

fn json(criterion: &mut Criterion) {
    let compact = document();
    criterion.bench_function("value of 350 bytes, compact already", |bencher| {
        bencher.iter(|| Value::parse(black_box(&compact)).expect("json"));
    });
    let tree: serde_json::Value = serde_json::from_str(&compact).expect("json");
    let pretty = serde_json::to_string_pretty(&tree).expect("json");
    criterion.bench_function("value of 350 bytes, indented", |bencher| {
        bencher.iter(|| Value::parse(black_box(&pretty)).expect("json"));
    });
}

fn codec(criterion: &mut Criterion) {
    let (mut documents, mut samples) = (Documents::new(2, VALUE_BYTES), Samples::default());
    let mut sample = Vec::new();
    documents.write(&mut sample);
    while !samples.add(&sample) {
        sample.clear();
        documents.write(&mut sample);
    }
    let mut trained = Dictionaries::default();
    trained.push(Dictionary::new(&samples.train().expect("documents are alike")));
    let plain = document();
    for (name, dictionaries) in [("alone", Dictionaries::default()), ("with a dictionary", trained)] {
        let mut coded = Vec::new();
        criterion.bench_function(&format!("compress 350 bytes, {name}"), |bencher| {
            bencher.iter(|| dictionaries.encode(black_box(plain.as_bytes()), &mut coded));
        });
        let codec = dictionaries.encode(plain.as_bytes(), &mut coded);
        criterion.bench_function(&format!("decompress 350 bytes, {name}"), |bencher| {
            bencher.iter(|| dictionaries.decode(codec, black_box(&coded), VALUE_BYTES).expect("whole"));
        });
    }
}

fn record(criterion: &mut Criterion) {
    let register = Register::live(Value::trusted(document()), None, Timestamp { hlc: 1, node: NodeId(1) });
    let head = Head {
        marker: register.marker(),
        live: true,
        expires_at_ms: None,
        quiet: false,
        expired: false,
        coded_bytes: 0,
    };
    let payload = [b'x'; CODED_BYTES];
    let record = Record { head, codec: Codec::RAW, body: Body::Inline(&payload) };
    let row = b"\x01user-00000001";
    criterion.bench_function("record to bytes", |bencher| {
        bencher.iter(|| record::encode(row, black_box(&record)));
    });
    let bytes = record::encode(row, &record);
    criterion.bench_function("record from bytes", |bencher| {
        bencher.iter(|| record::decode(row, black_box(&bytes)).map(|record| record.head));
    });
}

/// The trees of a table of a million rows, with the writes of the last seconds at 5,000 a second.
fn digests(criterion: &mut Criterion) {
    const ROWS: u64 = 1_000_000;
    const WRITES: u64 = 50_000;
    const NOW_MS: u64 = 1_763_689_000_123;
    let (digest_key, table) = (DigestKey([1; 32]), TableName::parse("default").expect("a name"));
    let key = |number: u64| format!("user-{:08}", number % ROWS).into_bytes();
    let leaf = |key: &[u8], at_ms: u64| {
        let timestamp = Timestamp { hlc: at_ms << 16, node: NodeId(1) };
        let digest = digest_key.leaf(&table, key, &Marker { timestamp, fingerprint: Fingerprint([2; 8]) });
        Leaf { at_ms, digest }
    };
    let name = key(1);
    criterion.bench_function("leaf of a row", |bencher| bencher.iter(|| leaf(black_box(&name), NOW_MS)));

    let mut trees = vec![PartitionTree::new(6); 256];
    let tree = |trees: &mut Vec<PartitionTree>, hash: KeyHash, old, new, now_ms| {
        trees[usize::from(hash.partition())].replace(hash, old, Some(new), now_ms);
    };
    for number in 0..ROWS {
        let name = key(number);
        tree(&mut trees, KeyHash::of(&name), None, leaf(&name, 1), NOW_MS);
    }
    // As often as a row was written, so its leaf was at another instant.
    let mut written = 0_u64;
    let mut write = |trees: &mut Vec<PartitionTree>| {
        let name = key(written.wrapping_mul(7919));
        let rounds = written / ROWS;
        let at_ms = NOW_MS + written / 5;
        let old = if rounds == 0 { leaf(&name, 1) } else { leaf(&name, NOW_MS + (written - ROWS) / 5) };
        tree(trees, KeyHash::of(&name), Some(old), leaf(&name, at_ms), at_ms);
        written += 1;
        at_ms
    };
    for _ in 0..WRITES {
        write(&mut trees);
    }
    criterion.bench_function("digests of a PUT: two leaves and their tree", |bencher| {
        bencher.iter(|| write(black_box(&mut trees)));
    });
    let now_ms = write(&mut trees);
    criterion.bench_function("root of a table of a million rows, written to", |bencher| {
        bencher.iter(|| {
            let sum = trees.iter().map(|tree| tree.total_at(black_box(now_ms - 2000))).sum();
            digest_key.root([(&table, sum)].into_iter())
        });
    });
    criterion.bench_function("root of a table of a million rows, idle", |bencher| {
        bencher.iter(|| {
            let sum = trees.iter().map(|tree| tree.total_at(black_box(now_ms))).sum();
            digest_key.root([(&table, sum)].into_iter())
        });
    });
}

criterion_group!(benches, clock, register, json, codec, record, digests);
criterion_main!(benches);
