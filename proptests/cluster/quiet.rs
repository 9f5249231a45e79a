//! Clusters to which little happens: they compare nothing that need not be compared.

use super::{
    run::{converge, write},
    schedule::{Schedule, Write},
    world::{ROUND_MS, World},
};

/// More than any schedule has.
const KEYS: usize = 1 << 20;

/// Has each node write now and then, until an instant.
fn write_until(world: &mut World, until_ms: u64, pause_ms: u64) {
    while world.now_ms < until_ms {
        let (node, key) = (world.random.index(world.nodes.len()), world.random.index(KEYS));
        let what = match world.random.below(0..8) {
            0 => Write::Delete,
            1 => Write::ForceDelete,
            2 => Write::Expiring(world.random.below(1..5_000)),
            _ => Write::Put,
        };
        write(world, node, key, what);
        let next_ms = world.now_ms + 1 + world.random.below(0..pause_ms);
        world.run_until(next_ms).expect("nothing breaks");
    }
}

#[test]
fn constant_writing_and_sweeping_start_no_comparison() {
    for seed in 0..8 {
        let schedule =
            Schedule { keys: [60, 400][seed as usize / 4], ..Schedule::quiet(seed, 2 + seed as usize % 4) };
        let mut world = World::new(&schedule, false);
        for node in 0..world.nodes.len() {
            world.nodes[node].set_skew(world.random.below(0..400) as i64 - 200);
        }
        world.run_until(3_000).expect("nothing breaks");
        let settled = world.figures();
        write_until(&mut world, 63_000, 60);
        let figures = world.figures();
        assert_eq!(
            (figures.sessions, figures.rows_repaired),
            (settled.sessions, settled.rows_repaired),
            "seed {seed}"
        );
        assert!(figures.rows_pushed > 500, "{figures:?}");
        let swept = world.nodes.iter().all(|node| {
            let swept = dynarust::core::protocol::replica::Replica::swept(&node.replica);
            swept.tombstones_ms > 0 && swept.expired_ms > 0
        });
        assert!(swept, "the floor rises under writing");
    }
}

#[test]
fn after_a_short_cut_what_was_missed_is_pushed_and_nothing_compared() {
    for seed in 0..12 {
        let mut world = World::new(&Schedule::quiet(seed, 2), false);
        world.run_until(5_000).expect("nothing breaks");
        write_until(&mut world, 10_000, 100);
        let before = world.figures();
        world.cut.extend([(0, 1), (1, 0)]);
        let cut_ms = 1_000 + world.random.below(0..12_000);
        write_until(&mut world, 10_000 + cut_ms, 100);
        world.heal();
        world.drop_link(0, 1);
        write_until(&mut world, 30_000, 100);
        converge(&mut world).expect("it converges");
        let after = world.figures();
        assert_eq!(
            (after.sessions, after.rows_repaired),
            (before.sessions, before.rows_repaired),
            "seed {seed}"
        );
    }
}

#[test]
fn after_a_cut_longer_than_the_journal_a_comparison_finds_the_rest() {
    for seed in 0..6 {
        let schedule = Schedule { journal_keys_max: 4, ..Schedule::quiet(seed, 2) };
        let mut world = World::new(&schedule, false);
        world.run_until(5_000).expect("nothing breaks");
        world.cut.extend([(0, 1), (1, 0)]);
        write_until(&mut world, 15_000, 100);
        world.heal();
        let healed_ms = world.now_ms;
        converge(&mut world).expect("it converges");
        assert!(world.figures().rows_repaired > 0, "seed {seed}");
        let took_ms = world.now_ms - healed_ms;
        assert!(took_ms <= 6 * ROUND_MS, "{took_ms} ms, seed {seed}");
    }
}
