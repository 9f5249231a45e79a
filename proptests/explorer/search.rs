//! Breadth first through all that can happen, so that what is found is found by the fewest steps. A state is kept as the step that led to it,
//! and made again from the start where it is gone on from: a number each, instead of a cluster each.

use std::{collections::HashSet, fmt, hash::BuildHasherDefault, time::Instant};

use super::{ghost::Broken, state::Cluster, step::Step};

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// States at the most: each takes about 30 bytes.
    pub states_max: usize,
    pub depth_max: usize,
    pub until: Instant,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub start: Vec<Step>,
    pub steps: Vec<Step>,
    pub broken: Broken,
}

/// How far somebody looked.
#[derive(Debug, Default)]
pub struct Explored {
    pub found: Option<Found>,
    pub states: usize,
    /// All that can happen in so many steps was looked at.
    pub depth: usize,
    /// Whether there is nothing more to look at.
    pub is_all: bool,
}

/// How a state came about.
struct Visited {
    parent: u32,
    /// Which of the steps that were possible there.
    step: u16,
}

/// Numbers that are hashes already.
#[derive(Default)]
struct Identity(u64);

impl std::hash::Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of states are hashed");
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// Looks for what breaks, and counts as `wanted`, after some first steps.
pub fn explore(first: &Cluster, start: &[Step], bounds: Bounds, wanted: impl Fn(Broken) -> bool) -> Explored {
    let mut root = first.clone();
    for step in start {
        let broken = root.take(*step);
        assert_eq!(broken, None, "nothing is looked for before the start is over");
    }
    root.limits = first.limits;
    let mut seen: HashSet<u64, BuildHasherDefault<Identity>> = HashSet::default();
    seen.insert(root.canonical());
    let mut visited = vec![Visited { parent: 0, step: 0 }];
    let (mut next, mut level_end) = (0, 1);
    let mut explored = Explored::default();
    while next < visited.len() && explored.depth < bounds.depth_max {
        let is_over = visited.len() >= bounds.states_max || Instant::now() >= bounds.until;
        if is_over {
            explored.states = visited.len();
            return explored;
        }
        let state = rebuild(&root, &visited, next);
        for (number, step) in state.steps().into_iter().enumerate() {
            let mut following = state.clone();
            if let Some(broken) = following.take(step).filter(|broken| wanted(*broken)) {
                let mut steps = steps_to(&root, &visited, next);
                steps.push(step);
                explored.found = Some(Found { start: start.to_vec(), steps, broken });
                explored.states = visited.len();
                return explored;
            }
            if seen.insert(following.canonical()) {
                visited.push(Visited { parent: next as u32, step: number as u16 });
            }
        }
        next += 1;
        if next == level_end {
            explored.depth += 1;
            level_end = visited.len();
        }
    }
    explored.states = visited.len();
    explored.is_all = next == visited.len();
    explored
}

/// The steps from the root to a state, as numbers of those that were possible.
fn numbers_to(visited: &[Visited], mut state: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    while state > 0 {
        numbers.push(usize::from(visited[state].step));
        state = visited[state].parent as usize;
    }
    numbers.reverse();
    numbers
}

fn rebuild(root: &Cluster, visited: &[Visited], state: usize) -> Cluster {
    let mut cluster = root.clone();
    for number in numbers_to(visited, state) {
        let step = cluster.steps()[number];
        cluster.take(step);
    }
    cluster
}

fn steps_to(root: &Cluster, visited: &[Visited], state: usize) -> Vec<Step> {
    let mut cluster = root.clone();
    let mut steps = Vec::new();
    for number in numbers_to(visited, state) {
        let step = cluster.steps()[number];
        cluster.take(step);
        steps.push(step);
    }
    steps
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.broken)?;
        for step in &self.start {
            writeln!(f, "  at first: {step}")?;
        }
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {}. {step}", number + 1)?;
        }
        Ok(())
    }
}
