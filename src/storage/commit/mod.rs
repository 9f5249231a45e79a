//! Group commit: one thread makes everything written so far durable with one flush and one sync, then completes all writers that waited for
//! it. Writers that arrive meanwhile share the next round.
//!
//! If the disk fails, the round's writers fail, and so does every later write, until the thread finds room on the disk and reopens the
//! store: sled keeps its first error for the life of its handle.

pub mod timestamps;

use std::{
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// A round that waits for more writers goes on without them if none came for this long.
const GATHER_PAUSE: Duration = Duration::from_micros(500);
/// So many share the cost of a round well: it takes as much as several writes.
const GATHER_ENOUGH: usize = 16;
/// Longest time that a round waits for more writers.
const GATHER_MAX: Duration = Duration::from_millis(2);
/// After a round that waited in vain, so many wait for half of the writers only: where clients write each at a time of its own, who wrote
/// last does not write again at once.
const CAUTIOUS_ROUNDS: u32 = 16;

/// How often data that nobody waits for is made durable.
const BACKGROUND_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is on disk: it survives `kill -9` and a power cut.
    Always,
    /// At once; on disk within this time.
    Interval(Duration),
    /// At once; on disk when the engine writes it, about a tenth of a second later.
    None,
}

/// One incarnation of the store: from an opening of its engine to the failure that ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incarnation(u64);

/// Where writers wait, and how the thread gets its work.
pub struct Committer {
    durability: Durability,
    requests: Mutex<Requests>,
    wake: Condvar,
    /// Whether `Requests::failure` is set. Every write asks, so it needs no lock.
    failed: AtomicBool,
    /// How many times the storage failed; also in `Requests::incarnation`, for holders of the lock.
    incarnations: AtomicU64,
}

#[derive(Default)]
struct Requests {
    waiters: Vec<oneshot::Sender<Result<()>>>,
    /// The thread is woken when this many wait.
    wake_at: usize,
    /// How many wrote at a time when the last round ended: those that it answered, and those that had come meanwhile.
    writers: usize,
    /// How many of the next rounds wait for half of them only.
    cautious_rounds: u32,
    failure: Option<String>,
    stopping: bool,
    incarnation: Incarnation,
}

impl Requests {
    fn check(&self, incarnation: Incarnation) -> Result<()> {
        if self.stopping {
            return Err(Error::Draining);
        }
        match &self.failure {
            Some(reason) => Err(Error::StorageFull(reason.clone())),
            None if self.incarnation != incarnation => {
                Err(Error::StorageFull("the storage failed before the write was durable".into()))
            }
            None => Ok(()),
        }
    }

    fn answer(&mut self, result: &Result<()>) {
        for waiter in mem::take(&mut self.waiters) {
            // A writer that went away needs no answer.
            let _ = waiter.send(result.clone());
        }
    }
}

/// What the thread does next.
pub enum Round {
    /// Sync, then answer these writers.
    Sync(Vec<oneshot::Sender<Result<()>>>),
    /// Reopen the store.
    Recover,
    /// Stop.
    Stop,
}

impl Committer {
    /// Makes one without waiting writers.
    pub fn new(durability: Durability) -> Self {
        Self {
            durability,
            requests: Mutex::default(),
            wake: Condvar::new(),
            failed: AtomicBool::new(false),
            incarnations: AtomicU64::new(0),
        }
    }

    /// Waits until everything written before the call is as durable as the options promise.
    ///
    /// # Errors
    /// `StorageFull` if the storage failed since `incarnation`, `Draining` while the store is closed.
    pub async fn acknowledge(&self, incarnation: Incarnation) -> Result<()> {
        match self.durability {
            Durability::Always => self.durable(incarnation).await,
            Durability::Interval(_) | Durability::None => self.lock().check(incarnation),
        }
    }

    /// The current incarnation.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnations.load(Ordering::Acquire))
    }

    /// Waits until everything written before the call survives a power cut.
    ///
    /// # Errors
    /// As `acknowledge`.
    pub async fn durable(&self, incarnation: Incarnation) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut requests = self.lock();
            requests.check(incarnation)?;
            requests.waiters.push(sender);
            if requests.waiters.len() == requests.wake_at.max(1) {
                self.wake.notify_one();
            }
        }
        receiver.await.unwrap_or(Err(Error::Draining))
    }

    /// Why writes are refused, if they are.
    pub fn failure(&self) -> Option<String> {
        if self.failed.load(Ordering::Acquire) { self.lock().failure.clone() } else { None }
    }

    /// Refuses writes from now on, fails the waiting ones, and makes the thread reopen the store.
    pub fn fail(&self, reason: &str) {
        let mut requests = self.lock();
        requests.failure.get_or_insert_with(|| reason.to_owned());
        requests.incarnation = Incarnation(self.incarnations.fetch_add(1, Ordering::AcqRel) + 1);
        self.failed.store(true, Ordering::Release);
        requests.answer(&Err(Error::StorageFull(reason.to_owned())));
        self.wake.notify_one();
    }

    /// Passes a result on. If it is the error of an engine that takes nothing more, refuses writes from now on, as `fail` does.
    pub fn noticed<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::StorageFull(reason)) = &result {
            self.fail(reason);
        }
        result
    }

    /// Accepts writes again.
    pub fn recover(&self) {
        let mut requests = self.lock();
        requests.failure = None;
        self.failed.store(false, Ordering::Release);
    }

    /// Answers all waiting writers.
    pub fn answer(&self, result: &Result<()>) {
        self.lock().answer(result);
    }

    /// Stops the thread; later requests are refused.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_all();
    }

    /// Waits for work. With `Durability::Interval` and `None` rounds also come by time.
    pub fn next_round(&self) -> Round {
        let mut requests = self.lock();
        let due = match self.durability {
            Durability::Interval(every) => Some(Instant::now() + every),
            // sled flushes by itself, but stops for good once it meets a page that it cannot move.
            Durability::None => Some(Instant::now() + BACKGROUND_SYNC_INTERVAL),
            Durability::Always => None,
        };
        loop {
            if requests.stopping {
                return Round::Stop;
            }
            if requests.failure.is_some() {
                return Round::Recover;
            }
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if !requests.waiters.is_empty() || left == Some(Duration::ZERO) {
                requests = self.gather(requests);
                // Who closes the storage, or reopens it, answers the waiters.
                if requests.stopping || requests.failure.is_some() {
                    continue;
                }
                return Round::Sync(mem::take(&mut requests.waiters));
            }
            requests = self.wait(requests, left);
        }
    }

    /// Takes the waiting writers.
    pub fn waiters(&self) -> Vec<oneshot::Sender<Result<()>>> {
        mem::take(&mut self.lock().waiters)
    }

    /// Records that so many waiters of a round are answered next.
    pub fn round_ends(&self, served: usize) {
        let mut requests = self.lock();
        requests.writers = served + requests.waiters.len();
    }

    /// Waits a little for more writers, as whoever was answered last is likely to write again, and a round for many costs little more than one
    /// for a few. A lone writer waits for nobody.
    fn gather<'a>(&'a self, mut requests: MutexGuard<'a, Requests>) -> MutexGuard<'a, Requests> {
        let enough = enough(requests.writers, requests.cautious_rounds > 0);
        requests.cautious_rounds = requests.cautious_rounds.saturating_sub(1);
        let until = Instant::now() + GATHER_MAX;
        requests.wake_at = enough;
        loop {
            let before = requests.waiters.len();
            if before >= enough || requests.stopping || requests.failure.is_some() {
                break;
            }
            requests = self.wait(requests, Some(GATHER_PAUSE));
            if requests.waiters.len() == before || Instant::now() >= until {
                break;
            }
        }
        if requests.waiters.len() < enough {
            requests.cautious_rounds = CAUTIOUS_ROUNDS;
        }
        requests.wake_at = 1;
        requests
    }

    /// Waits for `pause`. Returns false if the thread is to stop.
    pub fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut requests = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if requests.stopping || left.is_zero() {
                return !requests.stopping;
            }
            requests = self.wait(requests, Some(left));
        }
    }

    fn wait<'a>(
        &self,
        requests: MutexGuard<'a, Requests>,
        left: Option<Duration>,
    ) -> MutexGuard<'a, Requests> {
        match left {
            Some(left) => self.wake.wait_timeout(requests, left).unwrap_or_else(PoisonError::into_inner).0,
            None => self.wake.wait(requests).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        // The requests are consistent before anything can panic.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of so many that wrote at a time a round waits for: all, if they are few. Of many, seven of eight: where the processor is short, or
/// the disk slow, fewer rounds are more writes, by a sixth with 64 writers and one core. Or half, if it is cautious.
fn enough(writers: usize, is_cautious: bool) -> usize {
    let most = if is_cautious { writers / 2 } else { writers - writers / 8 };
    writers.min(GATHER_ENOUGH.max(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::DEADLINE;

    impl Requests {
        fn stop_if(&mut self, is_so: impl Fn(&Self) -> bool) -> bool {
            self.stopping = is_so(self);
            self.stopping
        }
    }

    #[test]
    fn a_round_waits_for_few_writers_and_for_most_of_many() {
        let expected = [(0, 0), (1, 1), (2, 2), (16, 16), (17, 16), (32, 28), (64, 56), (1_000, 875)];
        assert_eq!(expected.map(|(writers, _)| (writers, enough(writers, false))), expected);
        assert_eq!([17, 64, 1_000].map(|writers| enough(writers, true)), [16, 32, 500]);
    }

    /// Those that came during a round write at the same time as those that it answers.
    #[test]
    fn who_was_answered_and_who_waits_are_the_writers_of_the_next_round() {
        let committer = Committer::new(Durability::Always);
        let waiter = || oneshot::channel().0;
        committer.lock().waiters = vec![waiter(), waiter()];
        let Round::Sync(answered) = committer.next_round() else { panic!("somebody waits") };
        assert_eq!((answered.len(), committer.lock().writers), (2, 0), "nobody is waited for at first");
        committer.lock().waiters.push(waiter());
        committer.round_ends(answered.len());
        assert_eq!(committer.lock().writers, 3);
        committer.lock().waiters.extend([waiter(), waiter()]);
        let Round::Sync(all) = committer.next_round() else { panic!("all are there") };
        assert_eq!((all.len(), committer.lock().wake_at), (3, 1));
    }

    /// The round went on, found the engine closed, and told the writers that their rows were lost; the close made them durable.
    #[test]
    fn a_store_that_closes_while_a_round_gathers_answers_the_writers_itself() {
        let committer = Committer::new(Durability::Always);
        let end = Instant::now() + DEADLINE;
        let is_stopped_while_gathering = || loop {
            assert!(Instant::now() < end, "it gathers");
            committer.round_ends(15);
            committer.lock().waiters = vec![oneshot::channel().0];
            let (round, is_stopped) = std::thread::scope(|scope| {
                let round = scope.spawn(|| committer.next_round());
                while !round.is_finished() && !committer.lock().stop_if(|requests| requests.wake_at > 1) {}
                committer.wake.notify_all();
                (round.join().expect("no panic"), committer.lock().stopping)
            });
            if is_stopped {
                return round;
            }
        };
        assert!(matches!(is_stopped_while_gathering(), Round::Stop));
        assert_eq!(committer.waiters().len(), 1);
    }

    /// Clients that write each at a time of its own are not waited for in round after round.
    #[test]
    fn after_a_round_that_waited_in_vain_some_wait_for_half() {
        let committer = Committer::new(Durability::Always);
        let next = |waiting: usize| {
            committer.round_ends(64);
            committer.lock().waiters = (0..waiting).map(|_| oneshot::channel().0).collect();
            let Round::Sync(round) = committer.next_round() else { panic!("somebody waits") };
            assert_eq!(round.len(), waiting);
            committer.lock().cautious_rounds
        };
        assert_eq!(next(56), 0, "seven of eight are there");
        assert_eq!(next(55), CAUTIOUS_ROUNDS, "one of them does not come");
        assert_eq!(next(32), CAUTIOUS_ROUNDS - 1, "half is enough");
        assert_eq!(next(31), CAUTIOUS_ROUNDS);
    }

    /// A writer that went away costs the others half a millisecond, and no more.
    #[test]
    fn a_round_goes_on_without_writers_that_do_not_come() {
        let committer = Committer::new(Durability::Always);
        committer.round_ends(16);
        committer.lock().waiters.push(oneshot::channel().0);
        let Round::Sync(one) = committer.next_round() else { panic!("somebody waits") };
        assert_eq!(one.len(), 1);
    }
}
