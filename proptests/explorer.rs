//! The rules of `core::protocol::agreement`, looked through: everything that can happen to three nodes and a key or two in some number of steps, in every
//! order. What a node knows is the code of the product (`Progress`, `Floor`, `Agreement`); rows, messages and who is a member are a model of it.
//!
//! A run is bounded by states, so that it looks at the same ones everywhere. `DYNARUST_EXPLORE=seconds cargo test --release --test proptests
//! explorer::today -- --nocapture` looks further for so long, on one processor, and prints how far it came.

mod canonical;
mod former;
mod ghost;
mod rules;
mod search;
mod state;
mod step;
mod sync;

use std::time::{Duration, Instant};

use self::{
    ghost::Broken,
    rules::{Rule, Rules},
    search::{Bounds, Explored, explore},
    state::{Cluster, Content},
    step::{Limits, Spread, Step},
};

/// States of a start that are looked at always: two seconds each without optimization.
const STATES_MAX: usize = 10_000;
/// States that are looked at on demand at the most: 3 GB.
const STATES_ON_DEMAND_MAX: usize = 100_000_000;
/// However slow the machine, a search for what must be there goes on for so long.
const SEARCH_TIME: Duration = Duration::from_secs(120);

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// From where on everything is looked at.
#[derive(Clone, Copy, Debug)]
struct Start {
    name: &'static str,
    keys: usize,
    steps: &'static [Step],
    limits: Limits,
}

const NOTHING: Limits =
    Limits { writes: 0, deletes: 0, expiries: 0, cuts: 0, restarts: 0, damages: 0, forgets: 0, forced: 0 };

const PUT: Step = Step::Write { node: A, key: 0, content: Content::Live, spread: Spread::Pushed };
const DELETE: Step = Step::Write { node: A, key: 0, content: Content::Deleted, spread: Spread::Pushed };

/// All hold one row.
const TOGETHER: &[Step] = &[PUT, Step::Settle];
/// What all held was deleted, and they have removed the tombstone.
const SWEPT_EVERYWHERE: &[Step] = &[PUT, Step::Settle, DELETE, Step::Settle];
/// C is cut off, and the others go on without it.
const APART: &[Step] = &[
    PUT,
    Step::Settle,
    Step::Isolate { node: C },
    Step::Forget { node: A, gone: C, forced: false },
    Step::Settle,
];
/// The same, and what all held was deleted and swept meanwhile.
const SWEPT: &[Step] = &[
    PUT,
    Step::Settle,
    Step::Isolate { node: C },
    Step::Forget { node: A, gone: C, forced: false },
    DELETE,
    Step::Settle,
];

/// C is cut off, and forgets the others, as formerly every side did.
const FORGETS_ALONE: &[Step] = &[
    PUT,
    Step::Settle,
    Step::Isolate { node: C },
    Step::Forget { node: C, gone: A, forced: false },
    Step::Forget { node: C, gone: B, forced: false },
];
/// The same, and the others forget it as well.
const FORGET_EACH_OTHER: &[Step] = &[
    PUT,
    Step::Settle,
    Step::Isolate { node: C },
    Step::Forget { node: C, gone: A, forced: false },
    Step::Forget { node: C, gone: B, forced: false },
    Step::Forget { node: A, gone: C, forced: false },
    Step::Settle,
];
/// All hold one row, and another was deleted and swept.
const SWEPT_BESIDE: &[Step] = &[
    PUT,
    Step::Write { node: B, key: 1, content: Content::Live, spread: Spread::Pushed },
    Step::Write { node: B, key: 1, content: Content::Deleted, spread: Spread::Pushed },
    Step::Settle,
];

/// A minority of one, without a row, is told to go on by itself, and the others go on without it.
const FORCED: &[Step] = &[
    Step::Settle,
    Step::Isolate { node: C },
    Step::Forget { node: C, gone: A, forced: true },
    Step::Forget { node: C, gone: B, forced: true },
    Step::Forget { node: A, gone: C, forced: false },
    Step::Settle,
];
/// All hold one row, and C is cut off.
const CUT: &[Step] = &[PUT, Step::Settle, Step::Isolate { node: C }];

const ALL_TOGETHER: Start = Start {
    name: "all together",
    keys: 1,
    steps: TOGETHER,
    limits: Limits { writes: 2, deletes: 1, expiries: 1, cuts: 1, restarts: 1, forgets: 1, ..NOTHING },
};
const DAMAGE: Start = Start {
    name: "damage",
    keys: 1,
    steps: TOGETHER,
    limits: Limits { writes: 1, deletes: 1, restarts: 2, damages: 1, cuts: 1, ..NOTHING },
};
const DAMAGED_TWICE: Start = Start {
    name: "two are damaged while one is cut off",
    keys: 1,
    steps: CUT,
    limits: Limits { deletes: 1, restarts: 1, damages: 2, ..NOTHING },
};
const DAMAGED_AFTER_SWEEP: Start = Start {
    name: "a deletion was swept everywhere, and one is damaged",
    keys: 1,
    steps: SWEPT_EVERYWHERE,
    limits: Limits { writes: 1, restarts: 2, damages: 1, cuts: 1, forgets: 1, ..NOTHING },
};
const FORGOTTEN: Start = Start {
    name: "one was forgotten",
    keys: 1,
    steps: APART,
    limits: Limits { writes: 2, deletes: 1, expiries: 1, forgets: 1, ..NOTHING },
};
const DELETED_LATE: Start = Start {
    name: "one was forgotten, and a deletion is late",
    keys: 1,
    steps: APART,
    limits: Limits { deletes: 1, ..NOTHING },
};
const SWEPT_WITHOUT_ONE: Start = Start {
    name: "a deletion was swept without one",
    keys: 1,
    steps: SWEPT,
    limits: Limits { writes: 1, cuts: 1, restarts: 1, ..NOTHING },
};
const TWO_KEYS: Start = Start {
    name: "two keys",
    keys: 2,
    steps: APART,
    limits: Limits { writes: 1, deletes: 2, restarts: 1, damages: 1, ..NOTHING },
};
const MINORITY: Start = Start {
    name: "a minority may be forced",
    keys: 1,
    steps: TOGETHER,
    limits: Limits { writes: 2, deletes: 1, cuts: 1, forgets: 1, forced: 2, restarts: 1, ..NOTHING },
};
const MINORITY_FORCED: Start = Start {
    name: "a minority was forced",
    keys: 1,
    steps: FORCED,
    limits: Limits { writes: 2, deletes: 1, expiries: 1, restarts: 1, ..NOTHING },
};

/// What is looked at.
const STARTS: [Start; 10] = [
    ALL_TOGETHER,
    DAMAGE,
    DAMAGED_TWICE,
    DAMAGED_AFTER_SWEEP,
    FORGOTTEN,
    DELETED_LATE,
    SWEPT_WITHOUT_ONE,
    TWO_KEYS,
    MINORITY,
    MINORITY_FORCED,
];

fn look(rules: Rules, start: Start, bounds: Bounds, wanted: impl Fn(Broken) -> bool) -> Explored {
    let first = Cluster::new(rules, start.keys, start.limits);
    explore(&first, start.steps, bounds, wanted)
}

fn bounds(states_max: usize, time: Duration) -> Bounds {
    Bounds { states_max, depth_max: usize::MAX, until: Instant::now() + time }
}

/// Nothing that can happen loses a row, brings a deleted key back against the rules, or keeps nodes apart.
#[test]
fn today_nothing_breaks_whatever_happens() {
    let wanted = std::env::var("DYNARUST_EXPLORE").ok();
    let seconds: Option<u64> = wanted.map(|text| text.parse().expect("DYNARUST_EXPLORE=seconds"));
    let mut broken = Vec::new();
    for start in STARTS {
        let bounds = match seconds {
            None => bounds(STATES_MAX, SEARCH_TIME),
            Some(seconds) => bounds(STATES_ON_DEMAND_MAX, Duration::from_secs(seconds) / STARTS.len() as u32),
        };
        let explored = look(Rules::Today, start, bounds, |_| true);
        let (states, depth) = (explored.states, explored.depth);
        let all = if explored.is_all { ", all that there are" } else { "" };
        println!("{}: {states} states, all of {depth} steps{all}", start.name);
        broken.extend(explored.found.map(|found| format!("from \"{}\": {found}", start.name)));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The first that breaks under the former rules, of what is wanted.
fn formerly(start: Start, wanted: impl Fn(Broken) -> bool) -> String {
    let explored = look(Rules::Former, start, bounds(STATES_MAX * 10, SEARCH_TIME), wanted);
    let found = explored.found.expect("the former rules broke it").to_string();
    println!("{}, after {} states: {found}", start.name, explored.states);
    found
}

fn is_loss(broken: Broken) -> bool {
    matches!(broken, Broken::Vanished { .. } | Broken::LostByMajority { .. })
}

/// A node that was cut off wrote and deleted keys of its own, and then a majority removed what it had acknowledged.
#[test]
fn formerly_a_majority_deleted_what_it_acknowledged() {
    let limits = Limits { writes: 1, deletes: 1, ..NOTHING };
    let start = Start { name: "case 1", keys: 2, steps: FORGETS_ALONE, limits };
    let found = formerly(start, is_loss);
    assert!(found.contains("C is heard again"), "{found}");
}

/// A node that was cut off did nothing, and then the deletions of the majority were back.
#[test]
fn formerly_deletions_of_the_majority_came_back() {
    let limits = Limits { deletes: 1, ..NOTHING };
    let start = Start { name: "case 2", keys: 1, steps: FORGET_EACH_OTHER, limits };
    let found = formerly(start, |broken| matches!(broken, Broken::Returned { .. }));
    assert!(found.contains("C is heard again"), "{found}");
}

/// A disk lost a row, and then all did.
#[test]
fn formerly_damage_on_one_disk_deleted_a_row_everywhere() {
    let limits = Limits { damages: 1, ..NOTHING };
    let start = Start { name: "case 3", keys: 2, steps: SWEPT_BESIDE, limits };
    let found = formerly(start, |broken| matches!(broken, Broken::Vanished { .. }));
    assert!(found.contains("crashes and loses key 0"), "{found}");
}

/// Each rule, and from where on what breaks without it.
const NEEDED: [(Rule, Start); 10] = [
    (Rule::LateRowsLower, SWEPT_WITHOUT_ONE),
    (Rule::LateDeletionsLower, DELETED_LATE),
    (Rule::ClaimantAgrees, SWEPT_WITHOUT_ONE),
    (Rule::ProverIsWhole, TWO_KEYS),
    (
        Rule::MajorityForgets,
        Start {
            name: "both sides forgot each other",
            keys: 1,
            steps: FORGET_EACH_OTHER,
            limits: Limits { deletes: 1, ..NOTHING },
        },
    ),
    (Rule::DamageShows, DAMAGED_TWICE),
    (Rule::AgreementOutlasts, DAMAGED_AFTER_SWEEP),
    (Rule::StartsSyncing, TWO_KEYS),
    (Rule::ApartIsApart, MINORITY_FORCED),
    (Rule::ApartWaits, SWEPT_WITHOUT_ONE),
];

/// No rule is there for nothing.
#[test]
fn without_any_of_the_rules_something_breaks() {
    let mut kept = Vec::new();
    for (rule, start) in NEEDED {
        let explored = look(Rules::Without(rule), start, bounds(5 * STATES_MAX, SEARCH_TIME), |_| true);
        match explored.found {
            Some(found) => println!("without {rule:?} from \"{}\": {found}", start.name),
            None => kept.push((rule, explored.states)),
        }
    }
    assert!(kept.is_empty(), "nothing breaks without {kept:?}");
}

/// What an hour of the explorer found, what reading those found, and the rule that each lacked.
const FOUND: [(&str, Rule, Start, &[Step]); 3] = [
    (
        "a disk lost a deletion that its node had announced, but not saved",
        Rule::AnnouncesSaved,
        DAMAGE,
        &[
            Step::Write { node: A, key: 0, content: Content::Live, spread: Spread::Local },
            Step::Write { node: A, key: 0, content: Content::Deleted, spread: Spread::Local },
            Step::Sync { one: A, other: B },
            Step::Sync { one: A, other: C },
            Step::Sync { one: A, other: B },
            Step::Damage { node: A, key: 0, ages: true, everything: false },
            Step::Sync { one: B, other: C },
            Step::Sync { one: B, other: C },
            Step::KeepUp { node: B },
            Step::Settle,
        ],
    ),
    (
        "a restart removed a deletion that came late",
        Rule::LateGarbageStays,
        TWO_KEYS,
        &[
            Step::Write { node: A, key: 1, content: Content::Live, spread: Spread::Local },
            Step::Write { node: A, key: 1, content: Content::Deleted, spread: Spread::Local },
            Step::Write { node: C, key: 0, content: Content::Deleted, spread: Spread::Local },
            Step::Settle,
            Step::Heal { node: C },
            Step::Sync { one: A, other: C },
            Step::Restart { node: A },
            Step::Sync { one: A, other: B },
        ],
    ),
    (
        "a deletion came after its node had announced more, and another swept by that",
        Rule::LateGarbageStays,
        TWO_KEYS,
        &[
            Step::Write { node: A, key: 1, content: Content::Live, spread: Spread::Local },
            Step::Write { node: A, key: 1, content: Content::Deleted, spread: Spread::Local },
            Step::Write { node: C, key: 0, content: Content::Deleted, spread: Spread::Local },
            Step::Sync { one: A, other: B },
            Step::KeepUp { node: A },
            Step::KeepUp { node: B },
            Step::Sync { one: A, other: B },
            Step::Heal { node: C },
            Step::Sync { one: A, other: C },
            Step::KeepUp { node: B },
            Step::Sync { one: A, other: B },
        ],
    ),
];

#[test]
fn what_was_found_breaks_nothing_any_more() {
    for (name, rule, start, steps) in FOUND {
        let broken = |rules: Rules| {
            let mut cluster = Cluster::new(rules, start.keys, start.limits);
            start.steps.iter().chain(steps).find_map(|step| cluster.take(*step).map(|broken| (*step, broken)))
        };
        assert_eq!(broken(Rules::Today), None, "{name}");
        assert!(broken(Rules::Without(rule)).is_some(), "{name}: it does not need {rule:?}");
    }
}

#[test]
fn the_start_is_whole_and_equal() {
    let mut cluster = Cluster::new(Rules::Today, 1, NOTHING);
    for step in TOGETHER {
        assert_eq!(cluster.take(*step), None);
    }
    assert!((0..3).all(|node| cluster.nodes[node].is_complete()));
    assert_eq!(cluster.ghost.settled_ms, cluster.now_ms);
    assert!((0..3).all(|node| cluster.nodes[node].rows[0].is_some()));
}
