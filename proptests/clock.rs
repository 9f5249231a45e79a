//! Laws of the clock: whatever the wall clock does, and however often the node restarts, timestamps only grow, stay below the
//! durable bound, and follow what was observed.

use dynarust::core::clock::{BoundReached, Clock, NodeId, Timestamp};
use proptest::{collection::vec, prelude::*};

use crate::{cases, generators::timestamp};

const NODE: NodeId = NodeId(7);
const DRIFT_MAX_MS: u64 = 500;

#[derive(Clone, Debug)]
enum Step {
    /// The wall clock is set, forwards or backwards.
    SetWall(u64),
    Tick,
    /// A remote timestamp, so many milliseconds off the wall clock.
    Observe {
        ahead_ms: i64,
        counter: u16,
    },
    /// The bound that is wanted becomes durable and is handed to the clock.
    Extend {
        lead_ms: u64,
    },
    /// A bound becomes durable, and the node dies before the clock hears of it.
    ExtendOnDiskOnly {
        lead_ms: u64,
    },
    /// All but the durable bound is forgotten.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    // With no lead at all the next reading may be the bound itself.
    let lead_ms = || prop_oneof![1 => Just(0), 3 => 0..3_000u64];
    prop_oneof![
        2 => (1_000_000..1_010_000u64).prop_map(Step::SetWall),
        8 => Just(Step::Tick),
        2 => (-2_000..2_000i64, any::<u16>()).prop_map(|(ahead_ms, counter)| Step::Observe { ahead_ms, counter }),
        3 => lead_ms().prop_map(|lead_ms| Step::Extend { lead_ms }),
        1 => lead_ms().prop_map(|lead_ms| Step::ExtendOnDiskOnly { lead_ms }),
        1 => Just(Step::Restart),
    ]
}

/// A clock, its wall clock and its disk.
struct World {
    clock: Clock,
    now_ms: u64,
    durable_bound: u64,
    /// The highest reading handed out in all lives, and the highest handed out or observed in this one.
    handed_out: u64,
    seen: u64,
}

impl World {
    fn new() -> Self {
        Self {
            clock: Clock::new(NODE, 0, DRIFT_MAX_MS),
            now_ms: 1_000_000,
            durable_bound: 0,
            handed_out: 0,
            seen: 0,
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::SetWall(now_ms) => self.now_ms = now_ms,
            Step::Tick => self.tick()?,
            Step::Observe { ahead_ms, counter } => self.observe(ahead_ms, counter)?,
            Step::Extend { lead_ms } => {
                self.make_bound_durable(lead_ms);
                self.clock.extend(self.durable_bound);
            }
            Step::ExtendOnDiskOnly { lead_ms } => self.make_bound_durable(lead_ms),
            Step::Restart => {
                self.clock = Clock::new(NODE, self.durable_bound, DRIFT_MAX_MS);
                self.seen = self.durable_bound;
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), TestCaseError> {
        let before = self.clock.clone();
        match self.clock.tick(self.now_ms) {
            Ok(timestamp) => {
                prop_assert!(timestamp.hlc > self.handed_out, "in any life");
                prop_assert!(timestamp.hlc > self.seen, "above what was observed");
                prop_assert!(timestamp.hlc < self.durable_bound, "below the durable bound");
                prop_assert!(timestamp.unix_ms() >= self.now_ms);
                prop_assert_eq!(timestamp.node, NODE);
                prop_assert_eq!(self.clock.last(), timestamp.hlc);
                self.handed_out = timestamp.hlc;
                self.seen = timestamp.hlc;
            }
            Err(BoundReached) => {
                prop_assert_eq!(
                    format!("{before:?}"),
                    format!("{:?}", self.clock),
                    "a refusal changes nothing"
                );
            }
        }
        Ok(())
    }

    fn observe(&mut self, ahead_ms: i64, counter: u16) -> Result<(), TestCaseError> {
        let unix_ms = self.now_ms.checked_add_signed(ahead_ms).expect("the wall clock is far from both ends");
        let remote = Timestamp { hlc: (unix_ms << 16) | u64::from(counter), node: NodeId(8) };
        let before = self.clock.clone();
        match self.clock.observe(self.now_ms, remote) {
            Ok(()) => {
                prop_assert!(ahead_ms <= DRIFT_MAX_MS as i64);
                self.seen = self.seen.max(remote.hlc);
            }
            Err(drift) => {
                prop_assert_eq!((drift.ahead_ms as i64, drift.allowed_ms), (ahead_ms, DRIFT_MAX_MS));
                prop_assert!(ahead_ms > DRIFT_MAX_MS as i64);
                prop_assert_eq!(
                    format!("{before:?}"),
                    format!("{:?}", self.clock),
                    "a refusal changes nothing"
                );
            }
        }
        prop_assert_eq!(self.clock.last(), self.seen);
        Ok(())
    }

    fn make_bound_durable(&mut self, lead_ms: u64) {
        if let Some(bound) = self.clock.bound_wanted(self.now_ms, lead_ms) {
            self.durable_bound = self.durable_bound.max(bound);
        }
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn timestamps_only_grow_whatever_happens(steps in vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step)?;
        }
    }

    #[test]
    fn a_clock_whose_bound_was_extended_ticks(now_ms in 0..1u64 << 47, bound in 0..1u64 << 62, lead_ms in 1..10_000u64) {
        let mut clock = Clock::new(NODE, bound, DRIFT_MAX_MS);
        prop_assert_eq!(clock.tick(0), Err(BoundReached), "a new clock hands out nothing");
        let wanted = clock.bound_wanted(now_ms, lead_ms);
        prop_assert!(wanted.is_some_and(|wanted| wanted > bound));
        clock.extend(wanted.expect("just looked at"));
        prop_assert_eq!(clock.bound_wanted(now_ms, lead_ms), None, "once is enough");
        prop_assert!(clock.tick(now_ms).is_ok());
    }

    #[test]
    fn a_timestamp_as_text_comes_back_and_sorts_as_it_compares(a in timestamp(), b in timestamp()) {
        prop_assert_eq!(a.to_string().parse(), Ok(a));
        prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
    }

    #[test]
    fn other_text_is_no_timestamp(text in "[0-9a-fA-F+-]{31,35}|.{0,40}") {
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            prop_assert_eq!(timestamp.to_string(), text);
        }
    }
}
