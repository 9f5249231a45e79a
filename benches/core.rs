//! The core's hot paths, one call each: what every request pays.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dynarust::{
    cli::bench::document::Documents,
    core::{
        clock::{Clock, NodeId, Timestamp},
        json::Value,
        register::{Register, fingerprint},
    },
};

const VALUE_BYTES: usize = 350;

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

criterion_group!(benches, clock, register, json);
criterion_main!(benches);
