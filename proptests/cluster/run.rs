//! Runs a schedule on a cluster, has everything heal, and looks at what is left.

use dynarust::core::{
    json::Value,
    protocol::{progress::is_majority, replica::Replica},
    register::Payload,
};

use super::{
    node::GRACE_MS,
    schedule::{Schedule, Step, Write},
    world::{Outcome, ROUND_MS, World},
};

/// Rounds in which a cluster that can talk converges: links dropped and dialed again, a first sync, a settle time, a timeout, and
/// then a comparison or two.
const ROUNDS_TO_CONVERGE: u64 = 40;
/// Rounds after which the instants that are compared are later than all that happened.
const ROUNDS_TO_SETTLE: u64 = 5;
/// Rounds after the grace in which the floor passes everything, and tombstones go.
const ROUNDS_TO_SWEEP: u64 = 15;
const NODES_MAX: usize = 8;

/// Runs a schedule; what broke, and what happened if that is `traced`.
pub fn run(schedule: &Schedule, traced: bool) -> (Outcome<()>, Vec<String>) {
    let mut world = World::new(schedule, traced);
    let outcome = go(&mut world, schedule);
    (outcome, world.into_trace())
}

fn go(world: &mut World, schedule: &Schedule) -> Outcome<()> {
    for (at_ms, step) in &schedule.steps {
        world.run_until(*at_ms)?;
        world.note(|| format!("{step:?}"));
        take(world, *step);
    }
    heal_all(world);
    converge(world)?;
    sweep(world)
}

/// One thing happens, if it can.
fn take(world: &mut World, step: Step) {
    match step {
        Step::Write { node, key, write: what } => write(world, node, key, what),
        Step::Burst { node, count } => {
            for key in 0..count {
                write(world, node, key, Write::Put);
            }
        }
        Step::CutOneWay { from, to } => drop(world.cut.insert((from, to))),
        Step::CutPair { left, right } => world.cut.extend([(left, right), (right, left)]),
        Step::CutHalves { half } => {
            let all = 0..world.nodes.len();
            let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
            world.cut.extend(pairs.filter(|(from, to)| (half >> from ^ half >> to) & 1 == 1));
        }
        Step::Isolate { node } => {
            let others = 0..world.nodes.len();
            world.cut.extend(others.flat_map(|other| [(node, other), (other, node)]));
        }
        Step::Drop { left, right } => world.drop_link(left, right),
        Step::Heal => world.heal(),
        Step::Crash { node, silent } if world.nodes[node].is_up => world.crash(node, silent),
        Step::Restart { node } if !world.nodes[node].is_up => world.restart(node),
        Step::Close { node } if world.nodes[node].is_up => world.shut_down(node),
        Step::Damage { node } if world.nodes[node].is_up => world.damage(node),
        Step::Crash { .. } | Step::Close { .. } | Step::Damage { .. } | Step::Restart { .. } => {}
        Step::Clock { node, skew_ms } => world.nodes[node].set_skew(skew_ms),
        Step::Slow { node, latency_ms, sync_ms } => {
            world.nodes[node].latency_ms = latency_ms;
            world.nodes[node].sync_ms = sync_ms;
        }
        Step::Hang { node, for_ms } => world.nodes[node].hung_until_ms = world.now_ms + for_ms,
        Step::Forget { node } => forget(world, node),
        Step::Return { node } => come_back(world, node),
        Step::Join if world.nodes.len() < NODES_MAX => world.join(false),
        Step::Join => {}
    }
}

pub fn write(world: &mut World, node: usize, key: usize, what: Write) {
    let value = Value::parse(&world.random.below(0..1_000_000).to_string()).expect("JSON");
    let wall_ms = world.nodes[node].wall_ms(world.now_ms);
    world.write(node, key, |held| match what {
        Write::Put => Some(Payload::Live { value, expires_at_ms: None }),
        Write::Expiring(ms) => Some(Payload::Live { value, expires_at_ms: Some(wall_ms + ms) }),
        Write::Delete => held.filter(|held| **held != Payload::Deleted).map(|_| Payload::Deleted),
        Write::ForceDelete => Some(Payload::Deleted),
    });
}

/// A majority of the members that hear each other forgets one that none of them hears.
fn forget(world: &mut World, node: usize) {
    if !world.nodes[node].is_member || world.nodes.len() < 3 {
        return;
    }
    let members = world.members();
    let first = world.random.index(members.len());
    let mut side: Vec<usize> = Vec::new();
    for index in 0..members.len() {
        let member = members[(first + index) % members.len()];
        if world.nodes[member].is_up && side.iter().all(|other| world.is_heard(member, *other)) {
            side.push(member);
        }
    }
    let is_away = !side.contains(&node) && side.iter().all(|member| !world.is_heard(node, *member));
    if is_away && is_majority(side.len(), members.len()) {
        world.forget(node, &side);
    }
}

/// One that was away is there again.
fn come_back(world: &mut World, node: usize) {
    if !world.nodes[node].is_up {
        world.restart(node);
    }
    world.heal_where(|from, to| from == node || to == node);
}

/// Everything that was broken is well again. A node that was forgotten comes back, or it never does.
fn heal_all(world: &mut World) {
    world.note(|| "all is well".into());
    world.heal();
    for node in 0..world.nodes.len() {
        world.nodes[node].hung_until_ms = 0;
        world.nodes[node].latency_ms = 0;
        world.nodes[node].sync_ms = 5;
        let is_needed = world.is_damaged;
        if !world.nodes[node].is_member && !is_needed && world.random.one_in(3) {
            world.gone(node);
            continue;
        }
        come_back(world, node);
    }
}

/// Lets rounds go by until all hold the same.
pub fn converge(world: &mut World) -> Outcome<()> {
    for _ in 0..ROUNDS_TO_CONVERGE {
        let next_ms = world.now_ms + ROUND_MS;
        world.run_until(next_ms)?;
        if is_converged(world) {
            return check(world);
        }
    }
    Err(format!("it does not converge: {}", differences(world)))
}

fn is_converged(world: &World) -> bool {
    // Who was forgotten comes back first.
    if world.nodes.iter().any(|node| !node.is_member && !node.is_gone) {
        return false;
    }
    let members = world.members();
    let first = world.nodes[members[0]].replica.rows();
    members
        .iter()
        .all(|member| world.nodes[*member].replica.rows() == first && world.nodes[*member].is_complete())
}

fn differences(world: &World) -> String {
    let of = |member: &usize| {
        let node = &world.nodes[*member];
        let rows = node.replica.rows();
        let rows = rows.iter().map(|(_, key, register)| format!("{} {}", key.as_str(), register.timestamp()));
        let complete = if node.is_complete() { "" } else { " not whole" };
        format!("\n{member}{complete} {:?}: {}", node.replica.swept(), rows.collect::<Vec<_>>().join(", "))
    };
    world.members().iter().map(of).collect()
}

fn check(world: &World) -> Outcome<()> {
    let members = world.members();
    let roots: Vec<_> = members.iter().map(|member| world.nodes[*member].root(world.now_ms)).collect();
    if roots.iter().any(|root| root.is_none() || *root != roots[0]) {
        return Err("rows are the same, and roots are not".into());
    }
    if !members.iter().all(|member| world.nodes[*member].replica.is_consistent()) {
        return Err("a tree is not the sum of its rows".into());
    }
    let node = &world.nodes[members[0]];
    let lost = world.model.lost(&node.replica.rows(), node.wall_ms(world.now_ms), world.proven_ms);
    if lost.is_empty() { Ok(()) } else { Err(format!("lost: {}", lost.join(", "))) }
}

/// Waits until the grace period is over: then no tombstones are left, and all still hold the same.
fn sweep(world: &mut World) -> Outcome<()> {
    let settled_ms = world.now_ms + ROUNDS_TO_SETTLE * ROUND_MS;
    world.run_until(settled_ms)?;
    let sessions = world.figures().sessions;
    let until_ms = world.now_ms + GRACE_MS + ROUNDS_TO_SWEEP * ROUND_MS;
    world.run_until(until_ms)?;
    if !is_converged(world) {
        return Err(format!("it does not stay converged: {}", differences(world)));
    }
    check(world)?;
    for member in world.members() {
        let node = &world.nodes[member];
        let wall_ms = node.wall_ms(world.now_ms);
        let garbage = node.replica.rows().into_iter().find(|(_, _, register)| match register.payload() {
            Payload::Deleted => true,
            Payload::Live { expires_at_ms, .. } => {
                expires_at_ms.is_some_and(|at_ms| at_ms + 15_000 < wall_ms)
            }
        });
        if let Some((_, key, register)) = garbage {
            return Err(format!("{} of {} is still on {member}", key.as_str(), register.timestamp()));
        }
    }
    let late = world.figures().sessions - sessions;
    if late == 0 { Ok(()) } else { Err(format!("{late} comparisons for nothing")) }
}
