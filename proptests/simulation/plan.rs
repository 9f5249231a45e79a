//! What happens in a simulation, and when: drawn from a seed.

use std::time::Duration;

use crate::random::Random;

/// How long after the start of a node its clock leaps at the earliest.
const LEAPS_AFTER_MS: u64 = 1_000;
/// How long a clock is wrong at the most: less than the node believes it after.
const LEAP_LASTS_MAX_MS: u64 = 8_000;
/// How far it leaps at the most.
const LEAP_MAX_MS: u64 = 3_600_000;

/// What happens to nodes, or between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing gets from either to the other.
    Cut(usize, usize),
    /// Nothing gets from the first to the second.
    CutOneWay(usize, usize),
    /// All gets through again.
    Heal(usize, usize),
    /// A node ends at once, without a word.
    Crash(usize),
    /// A node announces that it leaves, and ends.
    Stop(usize),
    /// A node begins its next life, whether its last has ended or not.
    Start(usize),
    /// The wall clock of a node leaps by so many milliseconds.
    Leap(usize, i64),
    /// It is right again.
    Return(usize),
}

/// A simulation before it is run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    /// How far each wall clock is ahead, in milliseconds.
    pub skews_ms: Vec<i64>,
    /// When each node begins.
    pub begins: Vec<Duration>,
    /// The least and the most that a segment is on its way.
    pub latency: (Duration, Duration),
    /// Until when there are faults and writes. Then all is healed.
    pub troubled: Duration,
    /// In order.
    pub faults: Vec<(Duration, Fault)>,
    /// How long a writer rests between two writes at the most.
    pub rest_max: Duration,
    pub writers: usize,
    pub keys: usize,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let milliseconds = |random: &mut Random, range| Duration::from_millis(random.below(range));
        let nodes = 2 + random.index(4);
        let troubled = milliseconds(&mut random, 6_000..16_000);
        let least = milliseconds(&mut random, 0..20);
        let latency = (least, least + milliseconds(&mut random, 1..80));
        let mut faults = Vec::new();
        for _ in 0..random.below(0..9) {
            let at = milliseconds(&mut random, 500..troubled.as_millis() as u64);
            let later = at + milliseconds(&mut random, 50..8_000);
            let one = random.index(nodes);
            let other = (one + 1 + random.index(nodes - 1)) % nodes;
            let (fault, end) = match random.below(0..5) {
                0 | 1 => (Fault::Cut(one, other), Fault::Heal(one, other)),
                2 => (Fault::CutOneWay(one, other), Fault::Heal(one, other)),
                3 => (Fault::Crash(one), Fault::Start(one)),
                _ => (Fault::Stop(one), Fault::Start(one)),
            };
            faults.extend([(at, fault), (later.min(troubled), end)]);
        }
        let mut plan = Self {
            nodes,
            skews_ms: (0..nodes).map(|_| random.below(0..400) as i64 - 200).collect(),
            begins: (0..nodes)
                .map(|index| match index {
                    0 => Duration::ZERO,
                    _ if random.one_in(3) => milliseconds(&mut random, 0..6_000),
                    _ => milliseconds(&mut random, 0..100),
                })
                .collect(),
            latency,
            troubled,
            faults,
            rest_max: milliseconds(&mut random, 10..400),
            writers: 1 + random.index(3),
            keys: 1 + random.index(40),
        };
        plan.add_leaps(&mut random);
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Lets clocks leap, up to an hour forward or back, and come back within seconds. Not those of nodes that start again: who starts with a
    /// wrong clock cannot know that it is wrong.
    fn add_leaps(&mut self, random: &mut Random) {
        let restarts = |node: usize| {
            self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Start(other) if *other == node))
        };
        let nodes: Vec<usize> = (0..self.nodes).filter(|node| !restarts(*node)).collect();
        for node in nodes {
            let begins = self.begins[node].as_millis() as u64 + LEAPS_AFTER_MS;
            let troubled = self.troubled.as_millis() as u64;
            if begins >= troubled || !random.one_in(3) {
                continue;
            }
            let at = random.below(begins..troubled);
            let until = (at + random.below(1..LEAP_LASTS_MAX_MS)).min(troubled);
            let by_ms = random.below(1..LEAP_MAX_MS) as i64;
            let by_ms = if random.one_in(2) { by_ms } else { -by_ms };
            let (at, until) = (Duration::from_millis(at), Duration::from_millis(until));
            self.faults.extend([(at, Fault::Leap(node, by_ms)), (until, Fault::Return(node))]);
        }
    }
}
