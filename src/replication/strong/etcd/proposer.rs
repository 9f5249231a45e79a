//! Decides what this node's requests come to, and commits it to etcd.
//!
//! One task takes the requests that wait, evaluates them in order on the rows of this node, and commits the outcome in one transaction
//! that compares that the head is still the commit up to which this node had applied everything. If another node's commit came first,
//! nothing was done: it waits until it has applied that one, and evaluates anew. So each evaluation that commits saw just the state
//! before it, and timestamps rise in the order of commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;

use super::{
    committer::{Committer, Fate, refusal},
    gateway::{Etcd, Failure},
    layout::{Commit, Layout},
    replica::{Place, Replica},
};
use crate::{
    core::{
        strong::{
            entry::Effect,
            evaluate::{Evaluation, evaluate},
            request::{Outcome, Request},
        },
        write::Limits,
    },
    error::{Error, Result},
    replication::strong::overlay::{Overlaid, Overlay, effect_bytes},
    storage::counters::Counter,
};

/// Requests that wait. More are refused.
const QUEUE_MAX: usize = 4_096;
/// Most effects of a commit, unless one request has more: etcd takes 128 operations unless told otherwise (`--max-txn-ops`), and one is
/// the head.
pub const EFFECTS_MAX: usize = 127;
/// Most bytes of a commit, unless one request has more: etcd takes 1.5 MiB unless told otherwise (`--max-request-bytes`).
const COMMIT_BYTES_MAX: usize = 1024 * 1024;
/// How long a request may take.
pub const REQUEST_MAX: Duration = Duration::from_secs(5);
/// The pause before a new try while etcd does not answer.
pub const RETRY: Duration = Duration::from_millis(100);
/// The least time that a node lets others go first.
const YIELD_MIN: Duration = Duration::from_millis(2);

/// What a request is: it waits, so that giving up means that nothing was done; or it was sent.
const WAITS: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

struct Job {
    request: Request,
    state: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<Outcome>>,
}

impl Job {
    /// Changes its state, if it is the other one.
    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What the proposer counts.
#[derive(Default)]
pub struct Counters {
    /// Commits.
    pub commits: Counter,
    /// Commits that were evaluated anew.
    pub conflicts: Counter,
}

/// Takes requests.
pub struct Proposer(mpsc::Sender<Job>);

impl Proposer {
    /// The proposer, and the task that must run for it.
    pub fn new(
        replica: &Arc<Replica>,
        etcd: &Etcd,
        value_bytes_max: u64,
        counters: Arc<Counters>,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let task = Task {
            replica: replica.clone(),
            committer: Committer::new(replica, etcd),
            value_bytes_max,
            counters,
            alone: 0,
        };
        (Self(sender), task.run(jobs))
    }

    /// Has a request decided and committed.
    ///
    /// # Errors
    /// As `Backend::submit`.
    pub async fn submit(&self, request: Request) -> Result<Outcome> {
        let (answer, decided) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(WAITS));
        let job = Job { request, state: state.clone(), answer };
        self.0.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::Overloaded(format!("{QUEUE_MAX} requests wait for etcd already; try again"))
            }
            mpsc::error::TrySendError::Closed(_) => Error::Draining,
        })?;
        if let Ok(decided) = timeout_at(Instant::now() + REQUEST_MAX, decided).await {
            return decided.unwrap_or_else(|_| Err(unknown("the node is stopping")));
        }
        match state.compare_exchange(WAITS, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Err(Error::NoQuorum(no_quorum())),
            Err(_) => Err(unknown("etcd has not confirmed it in time")),
        }
    }
}

/// Why a request is refused while etcd does not answer.
pub fn no_quorum() -> String {
    "etcd, which keeps the strong tables, does not answer, has no majority, or is busy with other nodes: nothing was written. Try again; \
     reads with ?read=stale are answered from here"
        .into()
}

fn unknown(why: &str) -> Error {
    Error::OutcomeUnknown(format!("the write may or may not take effect ({why}): read the key to find out"))
}

/// What requests come to, evaluated together.
struct Batch {
    effects: Vec<Effect>,
    /// What each of the first requests is told.
    outcomes: Vec<Result<Outcome>>,
}

struct Task {
    replica: Arc<Replica>,
    committer: Committer,
    value_bytes_max: u64,
    counters: Arc<Counters>,
    /// So many of the next requests are committed one by one, because etcd refused them together.
    alone: usize,
}

impl Task {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut waiting = Vec::new();
        loop {
            if waiting.is_empty() && jobs.recv_many(&mut waiting, EFFECTS_MAX).await == 0 {
                return;
            }
            while waiting.len() < EFFECTS_MAX
                && let Ok(job) = jobs.try_recv()
            {
                waiting.push(job);
            }
            waiting.retain(|job: &Job| job.state.load(Ordering::Acquire) == WAITS && !job.answer.is_closed());
            if waiting.is_empty() {
                continue;
            }
            if let Err(failure) = self.step(&mut waiting).await {
                debug!(%failure, "requests to strong tables wait");
                sleep(RETRY).await;
            }
        }
    }

    /// Decides as many requests as fit a commit, and commits them.
    ///
    /// # Errors
    /// Why nothing can be done now.
    async fn step(&mut self, waiting: &mut Vec<Job>) -> std::result::Result<(), Failure> {
        if let Some(why) = self.replica.failure() {
            waiting.drain(..).for_each(|job| tell(job, Err(Error::NotReady(why.clone()))));
            return Ok(());
        }
        let following = self.replica.following();
        let (cluster, _) =
            following.ok_or_else(|| Failure::Unreachable("etcd is not followed yet".into()))?;
        let layout = Layout::new(cluster);
        self.committer.ask_first(&layout).await?;
        if let Err(error) = self.replica.timestamps.before_writing().await {
            waiting.drain(..).for_each(|job| tell(job, Err(error.clone())));
            return Ok(());
        }
        let incarnation = self.replica.store.incarnation();
        if !self.replica.is_intact() {
            return Err(Failure::Unreachable("the storage is being reopened".into()));
        }
        // Before evaluating: what is applied meanwhile is another commit, and this one comes too late then.
        let place = self.replica.place();
        let batch = self.evaluate(waiting);
        if self.replica.store.incarnation() != incarnation {
            return Err(Failure::Unreachable("the storage was reopened".into()));
        }
        let taken = batch.outcomes.len();
        let mut claimed = 0;
        while claimed < taken && waiting[claimed].change(WAITS, SENT) {
            claimed += 1;
        }
        if claimed < taken {
            // One has been given up meanwhile: the others are decided without it.
            wait_again(&waiting[..claimed]);
            return Ok(());
        }
        self.commit(&layout, cluster, place, batch, waiting).await
    }

    /// Evaluates the first requests, as many as fit a commit.
    fn evaluate(&mut self, waiting: &[Job]) -> Batch {
        let Replica { store, timestamps, .. } = &*self.replica;
        let limits = Limits { now_ms: store.now_ms(), value_bytes_max: self.value_bytes_max };
        let (mut overlay, mut bytes) = (Overlay::default(), 0);
        let mut batch = Batch { effects: Vec::new(), outcomes: Vec::new() };
        for job in waiting {
            let view = Overlaid { overlay: &overlay, store, timestamps };
            let evaluated = evaluate(job.request.clone(), &view, limits, || timestamps.tick());
            let (effects, outcome) = match evaluated {
                Ok(Evaluation { effects, outcome }) => (effects, Ok(outcome)),
                Err(error) => (Vec::new(), Err(error)),
            };
            bytes += effects.iter().map(effect_bytes).sum::<usize>();
            let is_full = batch.effects.len() + effects.len() > EFFECTS_MAX || bytes > COMMIT_BYTES_MAX;
            if !batch.outcomes.is_empty() && (is_full || self.alone > 0) {
                break;
            }
            effects.iter().for_each(|effect| overlay.add(effect));
            batch.effects.extend(effects);
            batch.outcomes.push(outcome);
        }
        self.alone = self.alone.saturating_sub(1);
        batch
    }

    /// Commits what the first requests came to, and tells them. Those whose commit comes too late go on waiting.
    ///
    /// # Errors
    /// Why nothing can be done now.
    async fn commit(
        &mut self,
        layout: &Layout,
        cluster: u64,
        place: Place,
        batch: Batch,
        waiting: &mut Vec<Job>,
    ) -> std::result::Result<(), Failure> {
        let Batch { effects, outcomes } = batch;
        let (begun, count) = (Instant::now(), outcomes.len());
        let commit = match effects.is_empty() {
            true => Ok(None),
            false => self.committer.new_commit(place, effects).map(Some),
        };
        let commit = match commit {
            Ok(commit) => commit,
            Err(error) => {
                waiting.drain(..count).for_each(|job| tell(job, Err(error.clone())));
                return Ok(());
            }
        };
        let fate = match &commit {
            Some(commit) => self.committer.put(layout, cluster, place, commit).await,
            None => self.committer.confirm(layout, place).await,
        };
        match fate {
            Ok(Fate::Done(revision)) => {
                if let Some(commit) = commit {
                    self.counters.commits.increment();
                    self.committer.apply(cluster, Commit { revision, ..commit }).await;
                }
                waiting.drain(..count).zip(outcomes).for_each(|(job, outcome)| tell(job, outcome));
                if self.replica.yields() {
                    sleep(begun.elapsed().max(YIELD_MIN)).await;
                }
                Ok(())
            }
            Ok(Fate::Late(head)) => {
                self.counters.conflicts.increment();
                wait_again(&waiting[..count]);
                self.committer.until_applied(head).await
            }
            Ok(Fate::Untold) => {
                let why = "etcd did not confirm it, and this node has not seen what came after";
                waiting.drain(..count).for_each(|job| tell(job, Err(unknown(why))));
                Ok(())
            }
            Err(Failure::Refused(why)) => {
                self.refuse(&why, count, commit.as_ref(), waiting);
                Ok(())
            }
            Err(failure) => {
                wait_again(&waiting[..count]);
                Err(failure)
            }
        }
    }

    /// etcd refused what the first requests came to: commits them one by one, or tells the only one.
    fn refuse(&mut self, why: &str, count: usize, commit: Option<&Commit>, waiting: &mut Vec<Job>) {
        if count > 1 {
            self.alone = count;
            wait_again(&waiting[..count]);
            return;
        }
        let writes = commit.map_or(0, |commit| commit.effects().count());
        waiting.drain(..count).for_each(|job| tell(job, Err(refusal(why, writes))));
    }
}

/// These requests were surely not done.
fn wait_again(jobs: &[Job]) {
    jobs.iter().for_each(|job| assert!(job.change(SENT, WAITS), "only this task changes what was sent"));
}

fn tell(job: Job, outcome: Result<Outcome>) {
    // Whoever no longer waits needs no answer.
    let _ = job.answer.send(outcome);
}
