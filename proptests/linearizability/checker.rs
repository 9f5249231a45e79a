//! A linearizability checker for one key: whether there is one order of its operations that each could have seen, in which an operation
//! that was answered before another began comes first.
//!
//! The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memory of what was tried ("Testing for
//! linearizability", 2017): without it, a history with many operations of unknown outcome takes for ever. `stateright`'s
//! `LinearizabilityTester` has no such memory and brings a web server, so this is our own.

use std::{collections::HashSet, time::Duration};

/// What a key holds: a number, or nothing.
pub type Held = Option<u64>;

/// What a client asked for, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Wrote or deleted.
    Write(Held),
    /// Read, and saw this.
    Read(Held),
    /// Replaced the first by the second.
    Swap(Held, Held),
    /// Was told that the key does not hold this.
    Differs(Held),
}

/// One operation, with the times of its request and of its answer since the start of the history.
#[derive(Clone, Debug)]
pub struct Event {
    pub operation: Operation,
    pub called: Duration,
    /// `None` if it is unknown whether it took effect: it may have at any time since, or may never.
    pub returned: Option<Duration>,
}

/// Configurations tried before the search gives up.
const TRIED_MAX: usize = 3_000_000;

/// Checks the history of a key that was absent at first.
///
/// # Errors
/// The longest part that is linearizable, and what could not follow.
pub fn check(events: &[Event]) -> Result<(), String> {
    let mut events = events.to_vec();
    // What nobody knows of a read or of a failed comparison says nothing.
    events.retain(|event| {
        event.returned.is_some() || matches!(event.operation, Operation::Write(_) | Operation::Swap(..))
    });
    events.sort_by_key(|event| event.called);
    let mut search = Search::new(&events);
    if search.run() { Ok(()) } else { Err(search.report()) }
}

struct Search<'a> {
    /// In the order of their requests.
    events: &'a [Event],
    /// Those whose outcome is known, and the others.
    known: Vec<usize>,
    unknown: Vec<usize>,
    /// Which have their place in the order, a bit each, and how many of the known.
    done: Vec<u64>,
    known_done: usize,
    order: Vec<usize>,
    tried: HashSet<(Vec<u64>, Held)>,
    longest: Vec<usize>,
}

/// A step of the search: the state before it, what may come next, and where the known ones begin that are not done.
struct Step {
    state: Held,
    candidates: Vec<usize>,
    first_open: usize,
}

impl<'a> Search<'a> {
    fn new(events: &'a [Event]) -> Self {
        let (known, unknown) = (0..events.len()).partition(|event| events[*event].returned.is_some());
        Self {
            events,
            known,
            unknown,
            done: vec![0; events.len().div_ceil(64)],
            known_done: 0,
            order: Vec::new(),
            tried: HashSet::new(),
            longest: Vec::new(),
        }
    }

    fn run(&mut self) -> bool {
        let mut steps = vec![self.step(None, 0)];
        while self.known_done < self.known.len() {
            let Some(step) = steps.last_mut() else { return false };
            let Some(next) = step.candidates.pop() else {
                steps.pop();
                if let Some(undone) = self.order.pop() {
                    self.toggle(undone);
                }
                continue;
            };
            let Some(state) = apply(&self.events[next].operation, step.state) else { continue };
            let first_open = step.first_open;
            self.toggle(next);
            if !self.tried.insert((self.done.clone(), state)) {
                self.toggle(next);
                continue;
            }
            self.order.push(next);
            assert!(self.tried.len() < TRIED_MAX, "too much is unknown to decide: {:#?}", self.events);
            if self.order.len() > self.longest.len() {
                self.longest.clone_from(&self.order);
            }
            steps.push(self.step(state, first_open));
        }
        true
    }

    fn is_done(&self, event: usize) -> bool {
        self.done[event / 64] >> (event % 64) & 1 == 1
    }

    fn toggle(&mut self, event: usize) {
        self.done[event / 64] ^= 1 << (event % 64);
        if self.events[event].returned.is_some() {
            self.known_done = if self.is_done(event) { self.known_done + 1 } else { self.known_done - 1 };
        }
    }

    /// What may come next: all that was asked for before any that is still to come was answered. Those tried first are last: known before
    /// unknown, and of the known the one answered first.
    fn step(&self, state: Held, mut first_open: usize) -> Step {
        while self.known.get(first_open).is_some_and(|event| self.is_done(*event)) {
            first_open += 1;
        }
        let mut horizon = Duration::MAX;
        let mut open = Vec::new();
        for event in self.known[first_open..].iter().copied().filter(|event| !self.is_done(*event)) {
            if self.events[event].called > horizon {
                break;
            }
            horizon = horizon.min(self.events[event].returned.unwrap_or(Duration::MAX));
            open.push(event);
        }
        open.retain(|event| self.events[*event].called <= horizon);
        open.sort_by_key(|event| std::cmp::Reverse(self.events[*event].returned));
        let unknown = self.unknown.iter().copied();
        let unknown = unknown.filter(|event| !self.is_done(*event) && self.events[*event].called <= horizon);
        Step { state, candidates: unknown.chain(open).collect(), first_open }
    }

    fn report(&self) -> String {
        let line = |event: &usize| format!("{:?}", self.events[*event]);
        let order: Vec<_> = self.longest.iter().map(line).collect();
        let tail = order.len().saturating_sub(12);
        let left = (0..self.events.len()).filter(|event| !self.longest.contains(event));
        let left: Vec<_> = left.take(12).map(|event| line(&event)).collect();
        format!(
            "{} of {} operations have an order; it ends with\n{}\nand nothing of these can follow:\n{}",
            order.len(),
            self.events.len(),
            order[tail..].join("\n"),
            left.join("\n")
        )
    }
}

/// The state after an operation; `None` if it cannot have seen this state.
fn apply(operation: &Operation, state: Held) -> Option<Held> {
    match operation {
        Operation::Write(value) => Some(*value),
        Operation::Read(seen) => (*seen == state).then_some(state),
        Operation::Swap(expected, value) => (*expected == state).then_some(*value),
        Operation::Differs(expected) => (*expected != state).then_some(state),
    }
}
