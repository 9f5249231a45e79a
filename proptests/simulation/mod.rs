//! The real stack in simulated time: nodes as the binary runs them, from the accept loop over warp's filters, links and membership to
//! the tables on sled, on hosts of a simulated network (`turmoil`) that is slow, cut and healed, while they crash, stop and come back.
//!
//! All follows from a seed: one that fails is printed, and `DYNARUST_SEED=n cargo test --test proptests simulation::one_seed --
//! --nocapture` runs it again and prints everything that happened. `DYNARUST_SEEDS=from..to` tries others than those that are tried
//! always.
//!
//! Not simulated are the disk of eventual tables, which keeps what was written before a crash (`tests/crash` kills real processes, and cuts
//! their power; `strong` loses what was not synced), and the threads that carry changes to subscribers.

mod client;
mod disk;
mod plan;
mod run;
mod stack;
mod strong;
mod trace;

use std::{ops::Range, process::Command, thread};

use self::{
    plan::Plan,
    run::{run, run_traced},
};

/// Simulations that are run always.
const SEEDS: Range<u64> = 0..120;
const FOUND: [u64; 1] = [471];
/// Tests that share them, so that all processors have some.
const SHARES: u64 = 2;
/// Simulations that are run twice.
const TWICE: Range<u64> = 0..5;
const TRACE_BEGINS: &str = "\n-- all that happens --\n";
const TRACE_ENDS: &str = "\n-- the end --\n";

fn run_share(share: u64) {
    let (mut runs, mut acknowledged) = (0, 0);
    for seed in crate::seeds(SEEDS, &FOUND).into_iter().filter(|seed| seed % SHARES == share) {
        match run(seed) {
            Ok(outcome) => acknowledged += outcome.acknowledged,
            Err(broken) => panic!("DYNARUST_SEED={seed}: {broken}\n{:#?}", Plan::of(seed)),
        }
        runs += 1;
    }
    assert!(acknowledged >= 30 * runs, "only {acknowledged} writes were acknowledged in {runs} simulations");
}

#[test]
fn real_nodes_converge_and_lose_nothing_in_simulated_time_1() {
    run_share(0);
}

#[test]
fn real_nodes_converge_and_lose_nothing_in_simulated_time_2() {
    run_share(1);
}

/// The trace of a seed, as a process of its own sees it: in what order a runtime drops the tasks of a host that crashes depends on
/// how many tasks its process has had.
fn trace_of(test: &str, seed: u64) -> String {
    let program = std::env::current_exe().expect("this program");
    let run = Command::new(program)
        .args([test, "--exact", "--nocapture"])
        .env("DYNARUST_SEED", seed.to_string())
        .output()
        .expect("it runs");
    let output = String::from_utf8(run.stdout).expect("text");
    assert!(run.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&run.stderr));
    let (_, trace) = output.split_once(TRACE_BEGINS).expect("a trace");
    let (trace, _) = trace.split_once(TRACE_ENDS).expect("its end");
    trace.to_owned()
}

/// Pairs of runs of which one has to be alike. tokio wakes those who wait for one `sync::watch` in an order that it throws dice for, which shows
/// where two of them have something to do at one instant. What depends on a clock, on threads or on the order of a
/// hash map shows in each.
const PAIRS_MAX: usize = 3;

/// Runs seeds twice each, by a test that prints the trace of one.
fn expect_same_traces(test: &'static str, seeds: Range<u64>) {
    for seed in seeds {
        let differences: Vec<_> = (0..PAIRS_MAX).map_while(|_| difference(test, seed)).collect();
        assert!(differences.len() < PAIRS_MAX, "seed {seed}: {differences:#?}");
    }
}

/// Where two runs of a seed differ first.
fn difference(test: &'static str, seed: u64) -> Option<(String, String)> {
    let again = thread::spawn(move || trace_of(test, seed));
    let (one, other) = (trace_of(test, seed), again.join().expect("a trace"));
    assert!(one.lines().count() > 1_000, "seed {seed}: hardly anything happened");
    let end = || std::iter::once("the end");
    let mut pairs = one.lines().chain(end()).zip(other.lines().chain(end()));
    pairs.find(|(one, other)| one != other).map(|(one, other)| (one.to_owned(), other.to_owned()))
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    expect_same_traces("simulation::one_seed", TWICE);
}

/// The seed of `DYNARUST_SEED`, with everything that happens.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("DYNARUST_SEED") else { return };
    let seed = seed.parse().expect("a number");
    println!("{:#?}", Plan::of(seed));
    let (outcome, trace) = run_traced(seed);
    println!("{TRACE_BEGINS}{}{TRACE_ENDS}", trace.join("\n"));
    println!("{outcome:?}");
    assert!(outcome.is_ok());
}
