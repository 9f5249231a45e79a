//! How long each hot operation takes, one call at a time.

mod operations;

use criterion::{Criterion, criterion_group, criterion_main};

/// Rows of a table whose digests are measured.
const ROWS: u64 = 1_000_000;

fn times(criterion: &mut Criterion) {
    for operation in operations::all() {
        let mut run = (operation.prepare)(ROWS);
        criterion.bench_function(operation.name, |bencher| bencher.iter(&mut run));
    }
}

criterion_group!(benches, times);
criterion_main!(benches);
