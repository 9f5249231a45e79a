//! Delivery without the reader: threads hand changes to the sinks of readers that wait, which saves a turn of the reader's task for each
//! change. A sink takes changes at once or not at all; a reader whose sink takes no more is woken, and goes on as if there were no sink.
//!
//! A change goes to a reader either way, never both: the queue gives it to one of them. While the sink has one, the reader takes nothing, and
//! while the reader has something to do, the sink gets nothing; so all changes arrive in order.
//!
//! A change with very many readers is delivered in small turns, between which come those with few. And whoever waits for the answer to a request
//! comes before all of them: the threads are nice to others.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread, vec,
};

use super::{change::Change, entry::LoggedChange, queue::Subscriber};

/// Readers of one change up to which they come before all that are parts of a crowd.
const FEW_MAX: usize = 96;
/// Readers that a thread serves before it looks for others: about a tenth of a millisecond.
const TURN_MAX: usize = 16;
/// Turns in a row for changes with few readers, while a crowd waits.
const FEW_TURNS_MAX: usize = 4;
/// Changes that are offered at once, and about how many bytes.
const OFFERED_MAX: usize = 16;
const OFFERED_BYTES_MAX: usize = 64 * 1024;
/// Offers in a row to one sink. A reader that has more goes on by itself.
const OFFERS_MAX: usize = 4;
/// Most threads. Each can keep a processor busy while there are large crowds.
const THREADS_MAX: usize = 8;

/// How much less of a busy processor the threads ask for than the others of the process, as a nice value (nice(2)). A crowd takes a whole core
/// for a while, and each write wants it several times.
const NICENESS: i32 = 5;

/// Takes changes in place of a reader that waits for them.
pub trait Sink: Send + Sync {
    /// Offers the next changes, all of them or none.
    fn offer(&self, changes: &[Arc<Change>]) -> Offered;
}

/// What became of changes that were offered to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The sink has taken them, and may be offered more.
    Taken,
    /// The sink has taken them, and the reader must do something about it.
    TakenForReader,
    /// The reader must take them.
    Refused,
}

impl Subscriber {
    /// Hands to the sink what waits, and wakes the reader for what is left.
    fn deliver(&self) {
        let sink = self.queue().begin_delivery();
        let refused = sink.and_then(|sink| self.offer_all(&*sink));
        let mut queue = self.queue();
        if let Some(refused) = refused {
            queue.leave_to_reader(refused);
        } else if !queue.is_left() {
            return;
        }
        drop(queue);
        self.wake();
    }

    /// Offers what waits. What the reader has to take, if it has to do something.
    fn offer_all(&self, sink: &dyn Sink) -> Option<Vec<Arc<LoggedChange>>> {
        for _ in 0..OFFERS_MAX {
            let logged = self.queue().next_delivery(OFFERED_MAX, OFFERED_BYTES_MAX);
            if logged.is_empty() {
                return None;
            }
            let changes: Vec<Arc<Change>> = logged.iter().filter_map(|logged| logged.change()).collect();
            let offered = if changes.is_empty() { Offered::Taken } else { sink.offer(&changes) };
            match offered {
                Offered::Taken => {}
                Offered::TakenForReader => return Some(Vec::new()),
                Offered::Refused => return Some(logged),
            }
        }
        // Others wait for this thread.
        Some(Vec::new())
    }
}

/// Readers that have changes for their sinks.
#[derive(Default)]
pub struct Deliveries {
    state: Mutex<State>,
    added: Condvar,
}

#[derive(Default)]
struct State {
    few: VecDeque<Arc<Subscriber>>,
    /// Turns of those since the last of a crowd.
    few_turns: usize,
    /// For each change with very many readers, those that do not have it yet.
    crowds: VecDeque<vec::IntoIter<Arc<Subscriber>>>,
    /// Threads that wait.
    idle: usize,
    is_ended: bool,
}

impl Deliveries {
    /// How many threads deliver.
    pub fn threads() -> usize {
        thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX))
    }

    /// Delivers soon to the readers of a change. Each is requested once at a time (`Queue::request_wakeup`), so no more can wait here than
    /// there are subscribers.
    pub fn add(&self, readers: Vec<Arc<Subscriber>>) {
        let mut state = self.lock();
        if readers.is_empty() || state.is_ended {
            return;
        }
        let (idle, turns) = (state.idle, readers.len().div_ceil(TURN_MAX));
        if readers.len() <= FEW_MAX {
            state.few.extend(readers);
        } else {
            state.crowds.push_back(readers.into_iter());
        }
        drop(state);
        (0..turns.min(idle)).for_each(|_| self.added.notify_one());
    }

    /// Delivers until the end.
    pub fn run(&self) {
        // On Linux this is the calling thread alone. Where it fails, they are as quick as the others.
        let _ = rustix::process::nice(NICENESS);
        let mut turn = Vec::with_capacity(TURN_MAX);
        while self.next_turn(&mut turn) {
            turn.drain(..).for_each(|reader| reader.deliver());
        }
    }

    /// Ends the threads. What was not delivered is left in the queues.
    pub fn end(&self) {
        let mut state = self.lock();
        *state = State { is_ended: true, ..State::default() };
        drop(state);
        self.added.notify_all();
    }

    /// Waits for the next readers; `false` at the end.
    fn next_turn(&self, turn: &mut Vec<Arc<Subscriber>>) -> bool {
        let mut state = self.lock();
        loop {
            if state.is_ended {
                return false;
            }
            if state.take_turn(turn) {
                return true;
            }
            state.idle += 1;
            state = self.added.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = state.idle.saturating_sub(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the next readers, and whether there are any: mostly those of changes with few, and some of each crowd in turn.
    fn take_turn(&mut self, turn: &mut Vec<Arc<Subscriber>>) -> bool {
        let is_for_crowd = self.few.is_empty() || self.few_turns >= FEW_TURNS_MAX;
        if is_for_crowd && let Some(mut crowd) = self.crowds.pop_front() {
            self.few_turns = 0;
            turn.extend(crowd.by_ref().take(TURN_MAX));
            if crowd.len() > 0 {
                self.crowds.push_back(crowd);
            }
            return true;
        }
        self.few_turns = (self.few_turns + 1).min(FEW_TURNS_MAX);
        let few = self.few.len().min(TURN_MAX);
        turn.extend(self.few.drain(..few));
        if self.few.is_empty() {
            // It may have been long.
            self.few.shrink_to(FEW_MAX);
        }
        !turn.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
        task::{Wake, Waker},
        thread::Thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::storage::{
        changes::{
            entry::LoggedChange,
            queue::{Queue, Waiting},
            wakeups::Round,
        },
        tests::DEADLINE,
    };

    /// What a reader and its sink took, in this order.
    type Taken = Arc<Mutex<Vec<u64>>>;

    fn note(taken: &Taken, change: &Change) {
        taken.lock().expect("no panic").push(change.timestamp.hlc);
    }

    struct Noting {
        taken: Taken,
        offered: AtomicU64,
        answer: fn(u64) -> Offered,
    }

    impl Sink for Noting {
        fn offer(&self, changes: &[Arc<Change>]) -> Offered {
            let answer = (self.answer)(self.offered.fetch_add(1, Ordering::Relaxed));
            if answer != Offered::Refused {
                changes.iter().for_each(|change| note(&self.taken, change));
            }
            answer
        }
    }

    /// A subscriber with a sink that answers so to the offer of each number.
    fn subscriber(answer: fn(u64) -> Offered) -> (Arc<Subscriber>, Taken) {
        let (subscriber, taken) = (Arc::new(Subscriber::new(false)), Taken::default());
        let sink = Noting { taken: Arc::clone(&taken), offered: AtomicU64::new(0), answer };
        subscriber.queue().set_sink(Arc::new(sink));
        (subscriber, taken)
    }

    /// A crowd waited for as long as there were changes with few readers, and its readers were not even told that they lagged.
    #[test]
    fn a_crowd_has_its_turns_however_much_else_there_is() {
        let (few, crowd) = (subscriber(|_| Offered::Taken).0, subscriber(|_| Offered::Taken).0);
        let mut state = State::default();
        state.crowds.push_back(vec![Arc::clone(&crowd); 2 * TURN_MAX].into_iter());
        let mut turns_of_crowd = 0;
        for _ in 0..3 * FEW_TURNS_MAX {
            state.few.extend(vec![Arc::clone(&few); TURN_MAX]);
            let mut turn = Vec::new();
            assert!(state.take_turn(&mut turn) && turn.len() == TURN_MAX);
            turns_of_crowd += u32::from(Arc::ptr_eq(&turn[0], &crowd));
        }
        assert_eq!(turns_of_crowd, 2);
        assert!(state.crowds.is_empty());
    }

    fn push(subscriber: &Subscriber, sequence: u64) {
        subscriber.queue().push(&Arc::new(LoggedChange::of_test(sequence, 1)));
    }

    /// What the reader takes until it has to wait.
    fn read(subscriber: &Subscriber, taken: &Taken, waker: &Waker) {
        // As a stream does: what it took is ahead of what the sink gets from then on.
        loop {
            let waiting = subscriber.queue().take(waker, true);
            let Waiting::Change(logged) = waiting else { return };
            note(taken, &logged.change().expect("it has no value to decode"));
        }
    }

    fn seen(taken: &Taken) -> Vec<u64> {
        taken.lock().expect("no panic").clone()
    }

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn flag() -> (Arc<Flag>, Waker) {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        (Arc::clone(&flag), Waker::from(flag))
    }

    #[test]
    fn a_sink_takes_changes_only_while_the_reader_waits() {
        let (subscriber, taken) = subscriber(|_| Offered::Taken);
        let (woken, waker) = flag();
        push(&subscriber, 1);
        subscriber.deliver();
        assert!(seen(&taken).is_empty(), "the reader has not said that it waits");
        read(&subscriber, &taken, &waker);
        push(&subscriber, 2);
        push(&subscriber, 3);
        subscriber.deliver();
        assert_eq!(seen(&taken), [1, 2, 3]);
        assert!(subscriber.queue().pause_at_end(), "the sink has everything");
        push(&subscriber, 4);
        subscriber.deliver();
        assert_eq!(seen(&taken), [1, 2, 3], "the reader has something to do");
        assert!(woken.0.load(Ordering::Relaxed), "it takes the change itself");
        read(&subscriber, &taken, &waker);
        assert_eq!(seen(&taken), [1, 2, 3, 4]);
    }

    #[test]
    fn the_reader_goes_on_where_the_sink_has_stopped() {
        let answer = |number| if number == 0 { Offered::Refused } else { Offered::TakenForReader };
        let (subscriber, taken) = subscriber(answer);
        for (first, by_sink) in [(1, vec![]), (5, (1..8).collect())] {
            let (woken, waker) = flag();
            read(&subscriber, &taken, &waker);
            (first..first + 3).for_each(|sequence| push(&subscriber, sequence));
            subscriber.deliver();
            assert_eq!(seen(&taken), by_sink);
            assert!(woken.0.load(Ordering::Relaxed), "what is left is for the reader");
            push(&subscriber, first + 3);
            subscriber.deliver();
            assert_eq!(seen(&taken), by_sink);
            read(&subscriber, &taken, &waker);
            assert!(seen(&taken).iter().copied().eq(1..first + 4), "{:?}", seen(&taken));
            subscriber.queue().pause_at_end();
        }
    }

    /// One reader of everything must not keep a thread to itself.
    #[test]
    fn a_reader_that_has_very_much_goes_on_by_itself() {
        let (subscriber, taken) = subscriber(|_| Offered::Taken);
        let (woken, waker) = flag();
        read(&subscriber, &taken, &waker);
        (1..=100).for_each(|sequence| push(&subscriber, sequence));
        subscriber.deliver();
        assert_eq!(seen(&taken).len(), OFFERS_MAX * OFFERED_MAX);
        assert!(woken.0.load(Ordering::Relaxed));
        read(&subscriber, &taken, &waker);
        assert!(seen(&taken).into_iter().eq(1..=100));
    }

    /// It was asked for a delivery, then had to take a snapshot, after which the sink gets nothing for a while.
    #[test]
    fn a_reader_that_waits_without_its_sink_is_woken_instead() {
        let (subscriber, taken) = subscriber(|_| Offered::Taken);
        let (woken, waker) = flag();
        push(&subscriber, 1);
        assert!(matches!(subscriber.queue().take(&waker, false), Waiting::Change(_)));
        assert!(matches!(subscriber.queue().take(&waker, false), Waiting::Nothing));
        push(&subscriber, 2);
        subscriber.deliver();
        assert!(seen(&taken).is_empty() && woken.0.load(Ordering::Relaxed));
    }

    #[test]
    fn a_reader_that_lagged_or_is_at_its_end_is_woken() {
        for change in [(|queue| queue.lagged = true) as fn(&mut Queue), |queue| queue.ended = true] {
            let (subscriber, taken) = subscriber(|_| Offered::Taken);
            let (woken, waker) = flag();
            read(&subscriber, &taken, &waker);
            push(&subscriber, 1);
            change(&mut subscriber.queue());
            subscriber.deliver();
            assert!(seen(&taken).is_empty() && woken.0.load(Ordering::Relaxed));
        }
    }

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Two threads deliver, one publishes, and the reader has something else to do from time to time.
    #[test]
    fn reader_and_sink_together_take_everything_once_and_in_order() {
        const CHANGES: u64 = 20_000;
        let (subscriber, taken) = subscriber(|number| match number % 7 {
            3 => Offered::Refused,
            5 => Offered::TakenForReader,
            _ => Offered::Taken,
        });
        let deliveries = Deliveries::default();
        thread::scope(|scope| {
            scope.spawn(|| deliveries.run());
            scope.spawn(|| deliveries.run());
            let reader = scope.spawn(|| {
                let waker = Waker::from(Arc::new(Unpark(thread::current())));
                let end = Instant::now() + DEADLINE;
                while seen(&taken).len() < CHANGES as usize {
                    assert!(Instant::now() < end, "some are lost");
                    read(&subscriber, &taken, &waker);
                    thread::park_timeout(Duration::from_micros(50));
                    subscriber.queue().pause_at_end();
                }
            });
            for sequence in 1..=CHANGES {
                while !subscriber.queue().has_room() {
                    thread::yield_now();
                }
                let mut round = Round::default();
                let mut queue = subscriber.queue();
                assert!(!queue.push(&Arc::new(LoggedChange::of_test(sequence, 1))));
                round.add(&subscriber, queue);
                deliveries.add(round.for_sinks);
            }
            let ended = reader.join();
            deliveries.end();
            ended.expect("it takes everything");
        });
        assert!(seen(&taken).into_iter().eq(1..=CHANGES));
    }

    #[test]
    fn those_of_few_come_before_the_rest_of_a_crowd_and_crowds_take_turns() {
        let crowd = |count: usize| (0..count).map(|_| Arc::new(Subscriber::new(false))).collect::<Vec<_>>();
        let (one, other, few) = (crowd(FEW_MAX + 1), crowd(FEW_MAX + 1), crowd(1));
        let deliveries = Deliveries::default();
        let turn = || {
            let mut turn = Vec::new();
            deliveries.lock().take_turn(&mut turn);
            turn
        };
        let is_of = |turn: &[Arc<Subscriber>], crowd: &[Arc<Subscriber>]| {
            !turn.is_empty() && turn.iter().all(|one| crowd.iter().any(|other| Arc::ptr_eq(one, other)))
        };
        deliveries.add(one.clone());
        deliveries.add(other.clone());
        assert!(is_of(&turn(), &one));
        deliveries.add(few.clone());
        assert!(is_of(&turn(), &few));
        assert!(is_of(&turn(), &other));
        let mut left = 2 * (FEW_MAX + 1) - 2 * TURN_MAX;
        let mut is_turn_of_one = true;
        while left > 2 {
            let turn = turn();
            assert!(is_of(&turn, if is_turn_of_one { &one } else { &other }));
            is_turn_of_one = !is_turn_of_one;
            left -= turn.len();
        }
    }
}
