//! What a comparison takes: bytes of metadata and round trips, for few rows that differ among many that do not.

use dynarust::core::{
    clock::{NodeId, Timestamp},
    digest::RootDigest,
    protocol::message::{Flags, Message, Round},
    register::Register,
};

use super::{NOW_MS, Name, WRITTEN_MS, key, live, replica, table, talk::Talk};
use crate::replica::MemoryReplica;

/// Round trips that finding and moving a row takes at the most.
const ROUND_TRIPS_MAX: u32 = 5;

/// Compares two replicas of so many keys of which so many differ, and returns the bytes it took.
fn compare(keys: u64, differing: u64) -> usize {
    let at = |later: u64, number: u64| Timestamp {
        hlc: (WRITTEN_MS + later) << 16 | (number & 0xffff),
        node: NodeId(0x9c3f_0d51_77aa_e201 + number % 3),
    };
    let rows = |later: u64, step: u64| -> Vec<(Name, Register)> {
        let row = |number: u64| {
            let name = (table(0), key(&format!("user:{number:08}")));
            (name, Register::new(live(number as u32, None), at(later, number)))
        };
        (0..keys).step_by(step as usize).map(row).collect()
    };
    let common = rows(0, 1);
    let side = |node| replica(node, common.iter().map(|(name, register)| (name, register)));
    let (left, right) = (side(1), side(2));
    // Every other one is newer on the left.
    for (index, ((table, key), register)) in rows(1, keys / differing).into_iter().enumerate() {
        let newer: &MemoryReplica = if index % 2 == 0 { &left } else { &right };
        newer.merge(&table, &key, register);
    }
    let mut talk = Talk::new(left, right, NOW_MS - 2_000);
    talk.open(0, 0x1234_5678_9abc_def0);
    talk.run(&mut std::iter::empty());
    assert!(talk.is_equal());
    let moved = talk.sent_to(0).len() + talk.sent_to(1).len();
    assert_eq!(moved as u64, differing, "rows that differ are moved, and no others");
    let figures = talk.figures();
    let round_trips = figures.steps.div_ceil(2);
    println!(
        "{differing} of {keys}: {} bytes in {} messages, {round_trips} round trips",
        figures.bytes, figures.messages
    );
    assert!(round_trips <= ROUND_TRIPS_MAX, "{round_trips} round trips");
    figures.bytes
}

fn assert_costs(keys: u64, limits: &[(u64, usize)]) {
    for (differing, bytes_max) in limits {
        let bytes = compare(keys, *differing);
        assert!(bytes <= *bytes_max, "{bytes} bytes for {differing} of {keys}: at most {bytes_max}");
    }
}

#[test]
fn few_rows_among_twenty_thousand_are_found_with_few_bytes() {
    assert_costs(20_000, &[(1, 1_200), (10, 9_000), (1_000, 220_000)]);
}

#[test]
fn few_rows_among_a_hundred_thousand_are_found_with_few_bytes() {
    assert_costs(100_000, &[(1, 1_200), (10, 9_000)]);
}

/// The figures that docs/figures.md states. Takes a gigabyte, and minutes: `DYNARUST_LONG_COSTS=1 cargo test --test proptests costs`.
#[test]
fn few_rows_among_a_million_are_found_with_few_bytes() {
    if std::env::var_os("DYNARUST_LONG_COSTS").is_none() {
        return;
    }
    assert_costs(1_000_000, &[(1, 1_500), (10, 10_000), (1_000, 460_000)]);
}

#[test]
fn a_round_of_an_idle_cluster_fits_in_64_bytes() {
    let round = Round {
        now_ms: NOW_MS,
        echo: Some((NOW_MS, 1_000)),
        behind_ms: 2_000,
        root: Some(RootDigest([255; 16])),
        rows: 1_000_000,
        guarantee_ms: NOW_MS,
        agreed_ms: NOW_MS,
        swept_ms: NOW_MS,
        expired_ms: NOW_MS,
        flags: Flags { complete: true, ..Flags::default() },
    };
    let bytes = postcard::to_stdvec(&Message::Round(round)).expect("it can be encoded");
    assert!(bytes.len() <= 64, "{} bytes", bytes.len());
}
