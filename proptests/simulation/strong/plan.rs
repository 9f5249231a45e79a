//! What happens in a simulation of strong tables, and when: drawn from a seed.

use std::time::Duration;

use crate::random::Random;

/// Which node something happens to.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Whichever leads then; a certain one if none does.
    Leader(usize),
    Node(usize),
}

/// What happens to nodes, or between them, for a while.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A node ends at once, and loses what it had not synced.
    Crash(Target),
    /// All nodes do.
    CrashAll,
    /// A node announces that it stops, and ends.
    Stop(Target),
    /// Nothing gets from a node to any other, nor back.
    Isolate(Target),
    /// A node hears of no other, but is heard.
    Deafen(Target),
    /// No other hears of a node, but it hears of them.
    Mute(Target),
    /// Nothing gets from either to the other.
    Cut(Target, usize),
}

/// A fault, when it begins and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub at: Duration,
    pub fault: Fault,
    pub lasting: Duration,
}

/// A simulation before it is run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// How far each wall clock is ahead, in milliseconds.
    pub skews_ms: Vec<i64>,
    /// When each node begins.
    pub begins: Vec<Duration>,
    /// The least and the most that a segment is on its way.
    pub latency: (Duration, Duration),
    /// Until when there are faults and operations. Then all is healed.
    pub troubled: Duration,
    /// In order.
    pub troubles: Vec<Trouble>,
    /// When an operator has another member lead.
    pub transfer: Option<Duration>,
    /// How long healed nodes may take to be whole and answer.
    pub recovery_max: Duration,
    /// How long a client rests between two operations at the most.
    pub rest_max: Duration,
    pub clients: usize,
    /// Keys in use at once.
    pub keys: usize,
    /// Whose syncs all take long. A leader's entries are on other disks before they are on such a one.
    pub slow_disks: Vec<bool>,
}

/// When trouble begins: time enough for the cluster to be whole and the table to be made.
const PEACE: Duration = Duration::from_secs(3);
/// From this seed on the nodes are far from each other.
pub const FAR_FROM: u64 = 1_000_000;
/// What a segment is on its way between them, in milliseconds: a round trip of up to 320 ms, as between Europe and Australia.
const FAR_MS: (u64, u64) = (140, 160);
/// How much longer everything takes there at the beginning.
const FAR_PEACE: Duration = Duration::from_secs(5);

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let milliseconds = |random: &mut Random, range| Duration::from_millis(random.below(range));
        let nodes = [3, 3, 3, 4, 5][random.index(5)];
        let peace = if seed < FAR_FROM { PEACE } else { PEACE + FAR_PEACE };
        let troubled = peace + milliseconds(&mut random, 5_000..11_000);
        let least = milliseconds(&mut random, 0..4);
        let near = (least, least + milliseconds(&mut random, 1..8));
        let far = (Duration::from_millis(FAR_MS.0), Duration::from_millis(FAR_MS.1));
        let latency = if seed < FAR_FROM { near } else { far };
        let mut troubles = Vec::new();
        let mut at = peace;
        while at < troubled {
            let lasting = milliseconds(&mut random, 100..3_500).min(troubled - at);
            troubles.push(Trouble { at, fault: Fault::draw(&mut random, nodes), lasting });
            at += milliseconds(&mut random, 300..3_000);
        }
        Self {
            seed,
            nodes,
            skews_ms: (0..nodes).map(|_| random.below(0..400) as i64 - 200).collect(),
            // Some come when the table is made already.
            begins: (0..nodes)
                .map(|index| match index {
                    0..2 => milliseconds(&mut random, 0..100),
                    _ if random.one_in(4) => milliseconds(&mut random, 0..6_000),
                    _ => milliseconds(&mut random, 0..100),
                })
                .collect(),
            latency,
            troubled,
            troubles,
            transfer: None,
            // The judge asks one thing after the other.
            recovery_max: Duration::from_secs(if seed < FAR_FROM { 60 } else { 200 }),
            rest_max: milliseconds(&mut random, 10..150),
            clients: 3 + random.index(3),
            keys: 1 + random.index(3),
            slow_disks: (0..nodes).map(|_| random.one_in(3)).collect(),
        }
    }

    /// A plan of a seed in which two nodes cannot reach each other while one of them makes the table.
    pub fn cut_in_the_beginning(seed: u64) -> Self {
        let fault = Fault::Cut(Target::Node(0), 2);
        let cut = Trouble { at: Duration::ZERO, fault, lasting: PEACE };
        Self { troubles: vec![cut], transfer: None, ..Self::calm(seed) }
    }

    /// A plan of a seed without trouble, but that another member is to lead.
    pub fn calm(seed: u64) -> Self {
        let plan = Self::of(seed);
        let transfer = plan.troubled - Duration::from_secs(3);
        Self {
            begins: vec![Duration::ZERO; plan.nodes],
            troubles: Vec::new(),
            transfer: Some(transfer),
            ..plan
        }
    }
}

impl Fault {
    fn draw(random: &mut Random, nodes: usize) -> Self {
        let node = random.index(nodes);
        let target = if random.one_in(2) { Target::Leader(node) } else { Target::Node(node) };
        match random.below(0..12) {
            0..3 => Self::Crash(target),
            3 | 11 => Self::CrashAll,
            4 => Self::Stop(target),
            5 | 6 => Self::Isolate(target),
            7 => Self::Deafen(target),
            8 => Self::Mute(target),
            _ => Self::Cut(target, (node + 1 + random.index(nodes - 1)) % nodes),
        }
    }
}
