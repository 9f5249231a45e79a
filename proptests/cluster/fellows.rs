//! Nodes that were forgotten together, while a majority went on: none of them is whole again by the word of another.

use dynarust::core::{protocol::replica::Replica, register::Payload};

use super::{
    node::GRACE_MS,
    run::{converge, write},
    schedule::{Schedule, Write},
    world::{ROUND_MS, World},
};

/// Those that go on.
const MAJORITY: [usize; 3] = [0, 1, 2];
/// Those that are forgotten, and stay linked with each other.
const FELLOWS: [usize; 2] = [3, 4];
/// A key that the majority deletes.
const DELETED: usize = 0;
/// A key that a fellow deletes.
const DELETED_APART: usize = 1;

fn pass(world: &mut World, rounds: u64) {
    let until_ms = world.now_ms + rounds * ROUND_MS;
    world.run_until(until_ms).expect("nothing breaks");
}

/// How many live rows a node holds.
fn live(world: &World, node: usize) -> usize {
    let rows = world.nodes[node].replica.rows();
    rows.iter().filter(|(_, _, register)| *register.payload() != Payload::Deleted).count()
}

/// Five nodes that agreed on three keys. Two were cut off and forgotten since, a key was deleted on each side, and the majority swept.
fn parted(seed: u64) -> World {
    let mut world = World::new(&Schedule::quiet(seed, 5), false);
    pass(&mut world, 3);
    (0..3).for_each(|key| write(&mut world, 0, key, Write::Put));
    pass(&mut world, 10);
    for (one, other) in MAJORITY.iter().flat_map(|one| FELLOWS.map(|other| (*one, other))) {
        world.cut.extend([(one, other), (other, one)]);
    }
    pass(&mut world, 6);
    FELLOWS.into_iter().for_each(|fellow| world.forget(fellow, &MAJORITY));
    pass(&mut world, 3);
    write(&mut world, MAJORITY[0], DELETED, Write::Delete);
    write(&mut world, FELLOWS[0], DELETED_APART, Write::Delete);
    pass(&mut world, GRACE_MS / ROUND_MS + 15);
    assert!(MAJORITY.iter().all(|node| world.nodes[*node].replica.swept().tombstones_ms > 0), "seed {seed}");
    world
}

/// One fellow hears that it was forgotten, and then hears the other alone for a while.
fn hear_of_it(world: &mut World, fellow: usize) {
    let is_between = |from: usize, to: usize| (from, to) == (fellow, 0) || (from, to) == (0, fellow);
    world.heal_where(is_between);
    while world.nodes[fellow].incarnation == 0 {
        let next_ms = world.now_ms + 50;
        world.run_until(next_ms).expect("nothing breaks");
    }
    world.cut.extend([(fellow, 0), (0, fellow)]);
}

/// All meet again. What either side deleted is gone.
fn meet_again(mut world: World, seed: u64) {
    world.heal();
    converge(&mut world).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    for node in 0..world.nodes.len() {
        assert_eq!(live(&world, node), 1, "seed {seed}: what was deleted is back on {node}");
    }
}

/// The first was told that it had been forgotten, and a round later the second, which was not told yet, made it whole: keys that the others had
/// deleted came back with it, and what it had deleted itself was swept before anybody had it.
#[test]
fn what_was_deleted_does_not_come_back_with_one_of_two_that_were_forgotten_together() {
    for seed in 0..20 {
        let mut world = parted(seed);
        hear_of_it(&mut world, FELLOWS[0]);
        pass(&mut world, 6);
        assert!(world.nodes[FELLOWS[1]].is_complete(), "seed {seed}: it was not told");
        meet_again(world, seed);
    }
}

#[test]
fn one_that_was_forgotten_is_not_whole_by_a_fellow_and_knows_it_still_after_a_restart() {
    for seed in 0..20 {
        let mut world = parted(seed);
        hear_of_it(&mut world, FELLOWS[0]);
        pass(&mut world, 6);
        assert!(!world.nodes[FELLOWS[0]].is_complete(), "seed {seed}");
        world.crash(FELLOWS[0], false);
        world.restart(FELLOWS[0]);
        pass(&mut world, 8);
        assert!(!world.nodes[FELLOWS[0]].is_complete(), "seed {seed}");
        meet_again(world, seed);
    }
}

/// One that restarts is taken in its next incarnation, and nobody told it that the former one had been forgotten.
#[test]
fn one_that_restarted_before_it_was_told_does_not_bring_back_what_was_deleted() {
    for seed in 0..20 {
        let mut world = parted(seed);
        world.crash(FELLOWS[0], false);
        world.nodes[FELLOWS[0]].incarnation += 1;
        world.restart(FELLOWS[0]);
        pass(&mut world, 8);
        assert!(world.nodes[FELLOWS[0]].is_complete(), "seed {seed}: nobody has told it yet");
        meet_again(world, seed);
    }
}

#[test]
fn two_that_were_forgotten_together_do_not_make_each_other_whole() {
    for seed in 0..20 {
        let mut world = parted(seed);
        FELLOWS.into_iter().for_each(|fellow| hear_of_it(&mut world, fellow));
        pass(&mut world, 8);
        assert!(FELLOWS.iter().all(|fellow| !world.nodes[*fellow].is_complete()), "seed {seed}");
        meet_again(world, seed);
    }
}
