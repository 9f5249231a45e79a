//! Laws and models. Each property is tried on cases drawn at random; one that fails is made small, printed, and kept in a file
//! `NAME.regressions` beside the module, from which `cargo test --test proptests NAME` tries it first from then on.
//! `PROPTEST_CASES=n` tries n cases of each property.

mod clock;
mod cluster;
mod codec;
mod edges;
mod etcd;
mod explorer;
mod generators;
mod json;
mod linearizability;
mod link;
mod members;
mod merkle;
mod random;
mod reconcile;
mod register;
mod replica;
mod simulation;
mod storage;
mod strict;
mod trusted_clock;
mod watch;

use std::ops::Range;

use proptest::test_runner::{Config, FileFailurePersistence};

/// Tries `cases`, unless the environment wants another number of them.
fn cases(cases: u32) -> Config {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config {
        cases: wanted.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        // A case that waits out a deadline is slow to make small.
        max_shrink_time: 30_000,
        ..Config::default()
    }
}

/// The seeds of the environment, or those that are tried always, among them some that found a fault once.
fn seeds(always: Range<u64>, found: &[u64]) -> Vec<u64> {
    let Ok(text) = std::env::var("DYNARUST_SEEDS") else {
        return always.chain(found.iter().copied()).collect();
    };
    let bounds = text.split_once("..").expect("DYNARUST_SEEDS=from..to");
    (bounds.0.parse().expect("a number")..bounds.1.parse().expect("a number")).collect()
}
