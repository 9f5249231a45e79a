//! What happens in a simulation, and when: drawn from a seed.

use std::time::Duration;

use crate::random::Random;

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
        faults.sort_by_key(|(at, _)| *at);
        Self {
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
        }
    }
}
