//! The proposer: the one task on the leader that decides what requests come to.
//!
//! It takes the requests that wait, evaluates them in order on the state that the log makes, and proposes one entry with
//! the registers of many. That state is the store, and over it an *overlay* of the registers of entries that are not
//! applied yet. Every answer waits for its entry to commit, even one that changes nothing: a leader that was replaced
//! without knowing must not answer from old rows.
//!
//! An entry costs every node a sync, a message and some wakeups, whatever it carries: as much as many requests. So there is
//! one at a time, and what comes meanwhile goes into the next; a second is on its way only where the first takes long, as over
//! a slow link. Under load the next one waits a little for the clients that the last one answered, as the committer of the
//! store does.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{Raft, ServerState, error::ClientWriteError, raft::ClientWriteResponse};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use super::{
    overlay::{Overlaid, Overlay, effect_bytes, written},
    state_machine::{StateMachine, not_restored},
    types::{Group, Metrics, Node},
};
use crate::{
    core::{
        clock::NodeId,
        strong::{
            entry::{Applied, Effect, Entry, Proposal},
            evaluate::{Evaluation, evaluate},
            request::{Outcome, Refusal, Request},
        },
        write::Limits,
    },
    error::Result,
    storage::{
        Store,
        commit::{Incarnation, timestamps::Timestamps},
    },
};

/// Requests that wait for the proposer. More are refused.
const QUEUE_MAX: usize = 4_096;
/// Most effects of an entry, unless one request has more: enough that a sync of the log is shared by many.
const EFFECTS_MAX: usize = 1_024;
/// Most bytes of an entry, unless one request has more.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Entries that are proposed and not applied, at most.
const IN_FLIGHT_MAX: u32 = 2;
/// How long an entry waits for the one before it to be applied.
const ALONE_WAIT_MAX: Duration = Duration::from_millis(25);
/// An entry waits for more requests at most this part of the time that the last one took, and no longer than this.
const GATHER_PART: u32 = 4;
const GATHER_MAX: Duration = Duration::from_millis(2);
/// It does not wait at all for less: the runtime's timers are no finer.
const GATHER_MIN: Duration = Duration::from_millis(1);

/// What became of a request.
#[derive(Debug)]
pub enum Proposed {
    /// It was decided.
    Decided(std::result::Result<Outcome, Refusal>),
    /// This node does not lead. Nothing was done.
    NotLeader,
}

struct Job {
    request: Request,
    answer: oneshot::Sender<Proposed>,
}

/// The proposer of a group.
#[derive(Clone)]
pub struct Proposer(mpsc::Sender<Job>);

impl Proposer {
    /// Starts the proposer.
    pub fn start(
        raft: Raft<Group>,
        machine: StateMachine,
        store: Store,
        timestamps: Arc<Timestamps>,
        value_bytes_max: u64,
    ) -> Self {
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let task = Task {
            raft,
            machine,
            store,
            timestamps,
            value_bytes_max,
            overlay: Arc::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)),
            last: Arc::default(),
        };
        tokio::spawn(task.run(jobs));
        Self(sender)
    }

    /// Has a request decided. The answer comes when its entry is committed and applied here.
    pub async fn propose(&self, request: Request) -> Proposed {
        let (answer, decided) = oneshot::channel();
        let full = || {
            let why = format!("{QUEUE_MAX} requests wait for the leader of the strong tables; try again");
            Proposed::Decided(Err(Refusal::Unavailable(why)))
        };
        match self.0.try_send(Job { request, answer }) {
            Ok(()) => decided.await.unwrap_or_else(|_| Proposed::Decided(Err(lost()))),
            Err(mpsc::error::TrySendError::Full(_)) => full(),
            Err(mpsc::error::TrySendError::Closed(_)) => Proposed::NotLeader,
        }
    }
}

fn lost() -> Refusal {
    Refusal::OutcomeUnknown(
        "the leader changed while the write was on its way: it may or may not take effect; read the key to find out"
            .into(),
    )
}

struct Task {
    raft: Raft<Group>,
    machine: StateMachine,
    store: Store,
    timestamps: Arc<Timestamps>,
    value_bytes_max: u64,
    overlay: Arc<Mutex<Overlay>>,
    in_flight: Arc<Semaphore>,
    last: Arc<Mutex<Last>>,
}

/// The last entry that was answered.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    requests: usize,
    took: Duration,
}

/// The requests that wait: those that were taken from the channel come first.
struct Waiting {
    taken: VecDeque<Job>,
    jobs: mpsc::Receiver<Job>,
}

impl Waiting {
    /// Waits for a request. None comes any more if it returns false.
    async fn any(&mut self) -> bool {
        if self.taken.is_empty() {
            let Some(job) = self.jobs.recv().await else { return false };
            self.taken.push_back(job);
        }
        true
    }

    /// The next request that somebody waits for still.
    fn next_awaited(&mut self) -> Option<Job> {
        std::iter::from_fn(|| self.taken.pop_front().or_else(|| self.jobs.try_recv().ok()))
            .find(|job| !job.answer.is_closed())
    }

    /// Sends all elsewhere.
    fn refuse(&mut self) {
        while let Some(job) = self.next_awaited() {
            let _ = job.answer.send(Proposed::NotLeader);
        }
    }

    /// Waits a little until the clients that the last entry answered are back, in addition to those that wait already.
    async fn gather(&mut self, last: Last) {
        let longest = (last.took / GATHER_PART).min(GATHER_MAX);
        if last.requests <= 1 || longest < GATHER_MIN {
            return;
        }
        let until = Instant::now() + longest;
        let expected = (self.taken.len() + self.jobs.len() + last.requests).min(EFFECTS_MAX);
        while self.taken.len() + self.jobs.len() < expected {
            let Ok(Some(job)) = timeout_at(until, self.jobs.recv()).await else { return };
            self.taken.push_back(job);
        }
    }
}

/// What openraft tells of an entry that was proposed.
type Committed = std::result::Result<ClientWriteResponse<Group>, ClientWriteError<NodeId, Node>>;

/// The answers that wait for an entry.
type Answers = Vec<(oneshot::Sender<Proposed>, std::result::Result<Outcome, Refusal>)>;

impl Task {
    async fn run(self, jobs: mpsc::Receiver<Job>) {
        let mut waiting = Waiting { taken: VecDeque::new(), jobs };
        while waiting.any().await {
            // They go to the next leader at once, and do not wait for entries that are still on their way.
            if self.raft.metrics().borrow().state != ServerState::Leader {
                waiting.refuse();
                continue;
            }
            let Some(permit) = turn(&self.in_flight).await else { return };
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.gather(last).await;
            // Nothing is done for clients that have left.
            let Some(first) = waiting.next_awaited() else { continue };
            let Some(term) = self.leading_term().await else {
                let _ = first.answer.send(Proposed::NotLeader);
                continue;
            };
            let incarnation = match self.ready().await {
                Ok(incarnation) => incarnation,
                Err(error) => {
                    let _ = first.answer.send(Proposed::Decided(Err(error.into())));
                    continue;
                }
            };
            // It may have waited long for the term.
            if first.answer.is_closed() {
                continue;
            }
            let (effects, answers) = match self.evaluate(term, incarnation, first, &mut waiting) {
                Ok(evaluated) => evaluated,
                Err(answers) => {
                    answer(answers, Fate::Done);
                    continue;
                }
            };
            let (begun, requests) = (Instant::now(), answers.len());
            let registers: Vec<_> = effects.iter().filter_map(written).collect();
            let entry = Entry::new(term, effects);
            let proposal = entry.proposal.clone();
            match self.raft.client_write_ff(entry).await {
                Ok(committed) => {
                    let (overlay, last, metrics) =
                        (self.overlay.clone(), self.last.clone(), self.raft.metrics());
                    tokio::spawn(async move {
                        let applied = applied(committed, metrics, term).await;
                        *last.lock().unwrap_or_else(PoisonError::into_inner) =
                            Last { requests, took: begun.elapsed() };
                        overlay.lock().unwrap_or_else(PoisonError::into_inner).settle(term, &registers);
                        answer(answers, Fate::of(applied, &proposal));
                        drop(permit);
                    });
                }
                Err(error) => {
                    debug!(%error, "an entry of the strong tables was not proposed");
                    answer(answers, Fate::of(None, &proposal));
                }
            }
        }
    }

    /// The term in which this node leads, once it has applied everything of earlier terms. `None` if it does not lead.
    async fn leading_term(&self) -> Option<u64> {
        let mut metrics = self.raft.metrics();
        loop {
            let look = |metrics: &Metrics| {
                let applied = metrics.last_applied.map(|applied| applied.leader_id.term);
                (metrics.state, metrics.current_term, applied)
            };
            let (state, term, applied) = look(&metrics.borrow_and_update());
            if state != ServerState::Leader {
                return None;
            }
            // An entry of this term is applied, so all that were before it are.
            if applied == Some(term) {
                return Some(term);
            }
            metrics.changed().await.ok()?;
        }
    }

    /// Returns when the clock can stamp writes and the store holds all that was applied: the store's incarnation, which does.
    async fn ready(&self) -> Result<Incarnation> {
        self.timestamps.before_writing().await?;
        self.machine.intact().await
    }

    /// Evaluates the first request and those that wait, as many as fit an entry.
    ///
    /// # Errors
    /// The refusal of each, if the store is in another incarnation by then: what they were evaluated on may lack what was applied.
    fn evaluate(
        &self,
        term: u64,
        incarnation: Incarnation,
        first: Job,
        waiting: &mut Waiting,
    ) -> std::result::Result<(Vec<Effect>, Answers), Answers> {
        let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        if overlay.term != term {
            *overlay = Overlay::of(term);
        }
        let limits = Limits { now_ms: self.store.now_ms(), value_bytes_max: self.value_bytes_max };
        let (mut effects, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(Job { request, answer }) = next {
            let view = Overlaid { overlay: &overlay, store: &self.store, timestamps: &self.timestamps };
            let evaluated = evaluate(request, &view, limits, || self.timestamps.tick_at(limits.now_ms));
            let outcome = evaluated.map(|Evaluation { effects: more, outcome }| {
                bytes += more.iter().map(effect_bytes).sum::<usize>() + outcome.value_bytes();
                more.iter().for_each(|effect| overlay.add(effect));
                effects.extend(more);
                outcome
            });
            answers.push((answer, outcome.map_err(Refusal::from)));
            let is_full = effects.len() >= EFFECTS_MAX || bytes >= ENTRY_BYTES_MAX;
            next = if is_full { None } else { waiting.next_awaited() };
        }
        if self.store.incarnation() != incarnation {
            overlay.undo();
            let refused = |(answer, _)| (answer, Err(Refusal::from(not_restored())));
            return Err(answers.into_iter().map(refused).collect());
        }
        overlay.keep();
        Ok((effects, answers))
    }
}

/// Returns when the next entry may be on its way: when there is no other, or, where that takes long, only one.
async fn turn(in_flight: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    match timeout(ALONE_WAIT_MAX, in_flight.clone().acquire_many_owned(IN_FLIGHT_MAX)).await {
        Ok(all) => all.ok()?.split(1),
        Err(_) => in_flight.clone().acquire_owned().await.ok(),
    }
}

/// What applying an entry of this term gave. `None` if nobody knows: openraft tells nobody of an entry that a snapshot covers, and by the time that
/// an entry of a later term is applied, it has told of all others.
async fn applied(
    mut committed: oneshot::Receiver<Committed>,
    mut metrics: watch::Receiver<Metrics>,
    term: u64,
) -> Option<Applied> {
    let passed = |metrics: &Metrics| metrics.last_applied.is_some_and(|last| last.leader_id.term > term);
    let committed = tokio::select! {
        biased;
        committed = &mut committed => committed.ok(),
        // It may have come just before.
        _ = metrics.wait_for(passed) => committed.try_recv().ok(),
    };
    Some(committed?.ok()?.data)
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is applied.
    Done,
    /// It has no effect, and never will: it is void, or never went to this node's log. openraft refuses an entry that comes
    /// when the node leads no more, with the same error as one that a new leader has removed from the log.
    Nothing,
    /// It went to this node's log. It may be in those of others, and may yet be committed.
    Unknown,
}

impl Fate {
    /// Of an entry that was applied, or is known no more to openraft.
    fn of(applied: Option<Applied>, proposal: &Proposal) -> Self {
        match applied {
            Some(Applied::Done) => Self::Done,
            Some(Applied::Void) => Self::Nothing,
            None if !proposal.was_appended() => Self::Nothing,
            None => Self::Unknown,
        }
    }
}

/// Answers the requests of an entry.
fn answer(answers: Answers, fate: Fate) {
    for (answer, outcome) in answers {
        // Whoever no longer waits needs no answer.
        let _ = answer.send(match fate {
            Fate::Done => Proposed::Decided(outcome),
            Fate::Nothing => Proposed::NotLeader,
            Fate::Unknown => Proposed::Decided(Err(lost())),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::TableName;
    use crate::replication::strong::{
        group::tests::{Alone, Pair},
        member::Member,
        rpc::GroupId,
    };

    fn create(name: &str) -> Request {
        Request::Create(TableName::parse(name).expect("a name"))
    }

    fn job() -> Job {
        Job { request: create("stock"), answer: oneshot::channel().0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_entry_is_on_its_way_only_once_the_first_takes_long() {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize));
        let begun = Instant::now();
        let first = turn(&in_flight).await;
        assert!(first.is_some() && begun.elapsed().is_zero());
        let second = turn(&in_flight).await;
        assert!(second.is_some() && begun.elapsed() >= ALONE_WAIT_MAX);
        assert!(timeout(Duration::from_secs(9), turn(&in_flight)).await.is_err(), "two are on their way");
        drop((first, second));
        let begun = Instant::now();
        assert!(turn(&in_flight).await.is_some() && begun.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_waits_a_little_for_the_clients_that_were_answered_last() {
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let mut waiting = Waiting { taken: VecDeque::from([job()]), jobs };
        let slow = Duration::from_millis(100);
        for (last, waits) in [
            (Last { requests: 1, took: slow }, Duration::ZERO),
            (Last { requests: 2, took: Duration::from_millis(3) }, Duration::ZERO),
            (Last { requests: 2, took: slow }, GATHER_MAX),
        ] {
            let begun = Instant::now();
            waiting.gather(last).await;
            assert!(begun.elapsed() >= waits && begun.elapsed() <= 2 * waits, "{last:?}");
            assert_eq!(waiting.taken.len(), 1, "nobody came");
        }
        let clients = tokio::spawn(async move {
            for _ in 0..2 {
                let is_taken = sender.send(job()).await.is_ok();
                assert!(is_taken, "it waits");
            }
            sender
        });
        let begun = Instant::now();
        waiting.gather(Last { requests: 2, took: slow }).await;
        let count = waiting.taken.len() + waiting.jobs.len();
        assert_eq!((count, begun.elapsed()), (3, Duration::ZERO), "both are back");
        drop(clients);
    }

    /// openraft tells nobody what became of an entry that a snapshot covers. A leader that was deposed while entries were on their way, and was
    /// then sent a snapshot, waited for them for ever, and when it led again, each write to a strong table timed out.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_that_was_deposed_and_sent_a_snapshot_proposes_when_it_leads_again() {
        let pair = Pair::start().await;
        let leader = &pair.leader;
        pair.voter.confirm(false);
        let mut metrics = leader.metrics();
        let mut waiting = Vec::new();
        for name in ["one", "two"] {
            let last = metrics.borrow().last_log_index;
            let proposing = leader.clone();
            waiting.push(tokio::spawn(async move { proposing.propose(create(name)).await }));
            let appended = metrics.wait_for(|metrics| metrics.last_log_index > last);
            timeout(Duration::from_secs(5), appended).await.expect("in time").expect("openraft runs");
        }
        for step in pair.snapshot() {
            leader.serve(step).await.expect("is taken");
        }
        for proposed in waiting {
            let proposed =
                timeout(Duration::from_secs(5), proposed).await.expect("it is told").expect("it ends");
            assert!(matches!(proposed, Proposed::Decided(Err(Refusal::OutcomeUnknown(_)))), "{proposed:?}");
        }
        pair.elect().await;
        let created = timeout(Duration::from_secs(5), leader.propose(create("three"))).await;
        assert!(matches!(created, Ok(Proposed::Decided(Ok(Outcome::Created(true))))), "{created:?}");
        pair.stop().await;
    }

    /// An entry that openraft refused, because the node led no more when it came, was taken for one that may yet be
    /// committed: the client got 504 `outcome-unknown` though nothing was done. Now it goes to the next leader.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_entry_that_never_went_to_the_log_has_no_effect_for_certain() {
        let node = Alone::start().await;
        let directory = node.node.directory.path().join("follower");
        let follower = Member::open(GroupId(1), &directory, node.parts.clone()).await.expect("opens");
        let entry = Entry::new(1, Vec::new());
        let proposal = entry.proposal.clone();
        let committed = follower.raft.client_write_ff(entry).await.expect("openraft runs");
        let refused = committed.await.expect("it answers").expect_err("nobody leads");
        assert!(refused.to_string().contains("forward"), "{refused}");
        assert_eq!(Fate::of(None, &proposal), Fate::Nothing);
        follower.stop().await;
        node.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_an_entry_that_went_to_the_log_nobody_knows_unless_it_is_applied() {
        let node = Alone::start().await;
        let table = TableName::parse("stock").expect("a name");
        assert_eq!(node.strong.create(table).await, Ok(true));
        let leader = node.strong.member().expect("it is a member");
        let term = leader.metrics().borrow().current_term;
        for (term, fate) in [(term, Fate::Done), (term + 1, Fate::Nothing)] {
            let entry = Entry::new(term, Vec::new());
            let proposal = entry.proposal.clone();
            let committed = leader.raft.client_write_ff(entry).await.expect("openraft runs");
            let applied = committed.await.expect("it answers").expect("it leads").data;
            assert_eq!(Fate::of(Some(applied), &proposal), fate);
            // As if a new leader had removed it from the log: others may have it.
            assert_eq!(Fate::of(None, &proposal), Fate::Unknown);
        }
        drop(leader);
        node.stop().await;
    }
}
