//! Strong tables in simulated time: the real stack, whose nodes crash and lose what they had not synced, stop, are cut off, hear nothing or
//! are not heard, mostly whichever leads.
//!
//! Clients read, write, delete, compare and set; in the end everything is read on every node. What must hold: the history of each key is
//! linearizable, so that no answered write is lost and of racing writers one wins; each transaction takes one branch; two replicas at one applied
//! index have one digest; and when all is healed, all nodes are whole, hold the same and answer.
//!
//! [docs/internals.md](../../../docs/internals.md#proof) names the faults of the product that this finds when they are put in by hand.
//!
//! `DYNARUST_SEEDS=from..to cargo test --test proptests simulation::strong` tries other seeds than those that are tried always, and
//! `DYNARUST_SEED=n cargo test --test proptests simulation::strong::one_seed -- --nocapture` runs one with everything that happens.
//!
//! The log of the strong tables lies on a simulated disk, whose syncs take time. The store is copied as it is when a node crashes: what its
//! engine has not written to its files by then is lost.

mod branches;
mod client;
mod digests;
mod plan;
mod run;

use std::ops::Range;

use self::{
    plan::Plan,
    run::{Outcome, run, run_traced},
};
use super::{TRACE_BEGINS, TRACE_ENDS, expect_same_traces};

/// Simulations that are run always.
const SEEDS: Range<u64> = 0..7;
const FOUND: [u64; 0] = [];
/// Simulations that are run twice.
const TWICE: Range<u64> = 0..1;

#[test]
fn histories_are_linearizable_in_simulated_time() {
    let (mut runs, mut all) = (0, Outcome::default());
    for seed in crate::seeds(SEEDS, &FOUND) {
        match run(seed) {
            Ok(outcome) => {
                all.answered += outcome.answered;
                all.unknown += outcome.unknown;
                all.recovered_after = all.recovered_after.max(outcome.recovered_after);
                all.term += outcome.term;
                all.lost_bytes += outcome.lost_bytes;
                all.compared += outcome.compared;
            }
            Err(broken) => panic!("DYNARUST_SEED={seed}: {broken}\n{:#?}", Plan::of(seed)),
        }
        runs += 1;
    }
    println!("{runs} simulations: {all:?}");
    if runs < SEEDS.end {
        return;
    }
    assert!(
        all.answered >= 100 * runs,
        "only {} operations were answered in {runs} simulations",
        all.answered
    );
    assert!(all.term >= 2 * runs, "hardly any elections in {runs} simulations");
    assert!(all.lost_bytes > 0, "no crash lost anything in {runs} simulations");
    assert!(all.compared >= 100 * runs, "hardly any digests were compared in {runs} simulations");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    expect_same_traces("simulation::strong::one_seed", TWICE);
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
