//! The hot paths of the core and of a record's bytes, one call each: what every request pays.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dynarust::{
    cli::bench::document::Documents,
    core::{
        clock::{Clock, NodeId, Timestamp},
        json::Value,
        register::{Register, fingerprint},
    },
    storage::{
        codec::{Codec, Dictionaries, Dictionary, Samples},
        record::{self, Body, Head, Record},
    },
};

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
    let head = Head { marker: register.marker(), live: true, expires_at_ms: None, quiet: false };
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

criterion_group!(benches, clock, register, json, codec, record);
criterion_main!(benches);
