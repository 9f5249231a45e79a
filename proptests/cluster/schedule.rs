//! What happens to a cluster, and when: drawn from a seed.

use std::fmt;

use crate::random::Random;

/// What a client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Put,
    /// With so many milliseconds to live.
    Expiring(u64),
    /// Where there is a value.
    Delete,
    /// Whether there is a value or not.
    ForceDelete,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Write {
        node: usize,
        key: usize,
        write: Write,
    },
    /// More writes than a journal holds, or fewer.
    Burst {
        node: usize,
        count: usize,
    },
    /// Nothing gets from one to the other.
    CutOneWay {
        from: usize,
        to: usize,
    },
    CutPair {
        left: usize,
        right: usize,
    },
    /// Nodes whose bit is set hear nothing of those whose bit is not.
    CutHalves {
        half: usize,
    },
    Isolate {
        node: usize,
    },
    /// A link ends, and what was on its way with it.
    Drop {
        left: usize,
        right: usize,
    },
    Heal,
    /// `silent`: nobody is told.
    Crash {
        node: usize,
        silent: bool,
    },
    /// Stops in order.
    Close {
        node: usize,
    },
    /// A crash after which the disk has lost some rows, and has older versions of others.
    Damage {
        node: usize,
    },
    Restart {
        node: usize,
    },
    /// The wall clock is set so far from the right time.
    Clock {
        node: usize,
        skew_ms: i64,
    },
    Slow {
        node: usize,
        latency_ms: u64,
        sync_ms: u64,
    },
    Hang {
        node: usize,
        for_ms: u64,
    },
    /// A majority of members that hear each other forgets one that is down, or that none of them hears.
    Forget {
        node: usize,
    },
    /// A node is started again if it is down, and heard by all.
    Return {
        node: usize,
    },
    /// An empty node joins.
    Join,
}

/// What happens to one cluster.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    pub nodes: usize,
    /// Those that are whole at first.
    pub complete: usize,
    pub journal_keys_max: usize,
    pub keys: usize,
    /// When, in milliseconds, and what.
    pub steps: Vec<(u64, Step)>,
}

/// Clocks differ by twice that at the most, and a little less than is allowed.
const SKEW_MAX_MS: u64 = 240;

impl Schedule {
    /// A cluster to which nothing happens.
    pub fn quiet(seed: u64, nodes: usize) -> Self {
        Self { seed, nodes, complete: nodes, journal_keys_max: 1_000, keys: 200, steps: Vec::new() }
    }

    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = 2 + random.index(6).min(random.index(6));
        let complete = if random.one_in(4) { 1 } else { nodes };
        let journal_keys_max = 4 << random.index(6);
        let keys = 1 + random.index(12);
        let mut steps = Vec::new();
        let mut at_ms = 3_000;
        for node in 0..nodes {
            let skew_ms = random.below(0..2 * SKEW_MAX_MS) as i64 - SKEW_MAX_MS as i64;
            steps.push((0, Step::Clock { node, skew_ms }));
        }
        for _ in 0..random.below(10..70) {
            at_ms += if random.one_in(6) { random.below(0..9_000) } else { random.below(0..700) };
            steps.push((at_ms, step(&mut random, nodes, keys)));
        }
        if random.one_in(3) {
            steps.extend(long_partition(&mut random, nodes, keys, at_ms));
        }
        Self { seed, nodes, complete, journal_keys_max, keys, steps }
    }
}

/// Sides that are apart for so long that a majority forgets the others, while both write, delete and let expire; then they meet again.
fn long_partition(random: &mut Random, nodes: usize, keys: usize, begun_ms: u64) -> Vec<(u64, Step)> {
    let mut at_ms = begun_ms + 8_000;
    let half = 1 + random.index((1 << nodes) - 2);
    let mut steps: Vec<_> = (0..nodes).map(|node| (begun_ms, Step::Restart { node })).collect();
    steps.extend([(begun_ms, Step::Heal), (at_ms, Step::CutHalves { half })]);
    let mut write = |random: &mut Random, at_ms| {
        let (node, key) = (random.index(nodes), random.index(keys));
        steps.push((at_ms, Step::Write { node, key, write: write(random) }));
    };
    for _ in 0..random.below(1..12) {
        at_ms += random.below(0..900);
        write(random, at_ms);
    }
    let forgotten_ms = at_ms + random.below(0..6_000);
    for _ in 0..random.below(1..12) {
        at_ms += random.below(0..2_500);
        write(random, at_ms);
    }
    at_ms += random.below(10_000..40_000);
    let first = random.index(nodes);
    steps.extend((0..nodes).map(|node| (forgotten_ms, Step::Forget { node: (first + node) % nodes })));
    if random.one_in(3) {
        steps.push((at_ms - 5_000, Step::Crash { node: random.index(nodes), silent: false }));
    }
    steps.push((at_ms, Step::Heal));
    steps.sort_by_key(|(at_ms, _)| *at_ms);
    steps
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, complete, journal_keys_max, keys, .. } = self;
        writeln!(f, "{nodes} nodes, {complete} whole, {keys} keys, {journal_keys_max} in the journal")?;
        self.steps.iter().try_for_each(|(at_ms, step)| writeln!(f, "{at_ms:>7} {step:?}"))
    }
}

fn step(random: &mut Random, nodes: usize, keys: usize) -> Step {
    let node = random.index(nodes);
    let other = (node + 1 + random.index(nodes - 1)) % nodes;
    match random.below(0..100) {
        0..50 => Step::Write { node, key: random.index(keys), write: write(random) },
        50..54 => Step::Burst { node, count: 1 << random.index(7) },
        54..57 => Step::CutOneWay { from: node, to: other },
        57..60 => Step::CutPair { left: node, right: other },
        60..63 => Step::CutHalves { half: random.index(1 << nodes) },
        63..66 => Step::Isolate { node },
        66..68 => Step::Drop { left: node, right: other },
        68..74 => Step::Heal,
        74..77 => Step::Crash { node, silent: random.one_in(2) },
        77 => Step::Close { node },
        78 => Step::Damage { node },
        79..85 => Step::Restart { node },
        85..87 => {
            let skew_ms = random.below(0..2 * SKEW_MAX_MS) as i64 - SKEW_MAX_MS as i64;
            Step::Clock { node, skew_ms }
        }
        87..89 => Step::Slow { node, latency_ms: random.below(1..900), sync_ms: random.below(1..400) },
        89..91 => Step::Hang { node, for_ms: random.below(100..8_000) },
        91..95 => Step::Forget { node },
        95..99 => Step::Return { node },
        _ => Step::Join,
    }
}

fn write(random: &mut Random) -> Write {
    match random.below(0..10) {
        0..5 => Write::Put,
        5..7 => Write::Expiring(random.below(1..9_000)),
        7..9 => Write::Delete,
        _ => Write::ForceDelete,
    }
}
