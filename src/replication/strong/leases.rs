//! Leases of the etcd API. That there is one is a row, in the log; until when it lasts is known to the leader only, in memory. A new leader
//! lets each last for its whole time again: a client cannot have kept it alive where nobody answered. The leader ends those whose time has
//! come, through the log.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{
    Strong,
    group::{REQUEST_MAX, RETRY, no_quorum},
    member::{Member, Parts},
    proposer::Proposed,
    revisions::each,
    rpc::{Call, CallAnswer},
};
use crate::{
    core::{
        etcd::{
            self,
            request::{Answer, Body, Problem},
            row::{self, Granted, Named},
        },
        strong::request::{Outcome, Refusal, Request},
    },
    error::{Error, Result},
    storage::Store,
};

/// How often the leader looks for leases whose time has come, and takes one step to end each of them. They last for seconds.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);
/// Most leases that are ended at a time: they share a few entries of the log.
const ENDED_MAX: usize = 500;
/// When a lease is tried again that could not be ended: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// What a node asks the leader about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseCall {
    /// Let it last for its whole time from now.
    KeepAlive(i64),
    /// Until when it lasts.
    TimeToLive(i64),
}

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTime {
    /// For how many seconds, whenever it was kept alive.
    pub granted_s: i64,
    /// For how many milliseconds from now.
    pub left_ms: u64,
}

/// Until when leases last.
#[derive(Default)]
pub struct Leases(Mutex<Deadlines>);

#[derive(Default)]
struct Deadlines {
    /// The term in which this node leads, or led last, and has read the rows of all leases. 0, which is no leader's, once they are to be read anew.
    term: u64,
    leases: BTreeMap<i64, Lease>,
    /// What was applied since the rows are being read. It is newer than what was read.
    since: Option<BTreeMap<i64, Option<Granted>>>,
}

impl Deadlines {
    fn note(&mut self, id: i64, granted: Option<&Granted>) {
        match granted {
            // Applied once more, as after a crash, it lasts no longer.
            Some(granted) if granted.revoked.is_none() => {
                self.leases.entry(id).or_insert_with(|| Lease::new(granted));
            }
            Some(granted) => drop(self.leases.insert(id, Lease::new(granted))),
            None => drop(self.leases.remove(&id)),
        }
    }
}

#[derive(Clone, Copy)]
struct Lease {
    granted_s: i64,
    until: Instant,
    /// Whether some of its keys are deleted already.
    is_revoked: bool,
    /// How often it could not be ended.
    failures: u32,
    /// When that is tried again.
    retry: Option<Instant>,
}

impl Lease {
    fn new(granted: &Granted) -> Self {
        // One that has begun to end has no time left.
        let is_revoked = granted.revoked.is_some();
        let left = if is_revoked { Duration::ZERO } else { seconds(granted.ttl) };
        Self { granted_s: granted.ttl, until: Instant::now() + left, is_revoked, failures: 0, retry: None }
    }

    fn time(self) -> LeaseTime {
        let left = self.until.saturating_duration_since(Instant::now());
        LeaseTime { granted_s: self.granted_s, left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// A clock does not go as far as the longest lease.
fn seconds(granted_s: i64) -> Duration {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    Duration::from_secs(u64::try_from(granted_s).unwrap_or_default()).min(LONGEST)
}

impl Leases {
    fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row of a lease was written, or deleted.
    pub fn note(&self, id: i64, granted: Option<Granted>) {
        let mut deadlines = self.deadlines();
        deadlines.note(id, granted.as_ref());
        if let Some(since) = &mut deadlines.since {
            since.insert(id, granted);
        }
    }

    /// This node leads in a term: if that is news, all leases last for their whole time again.
    async fn lead(&self, term: u64, store: &Store) -> Result<()> {
        if !self.begin_to_read(term) {
            return Ok(());
        }
        let reading = store.clone();
        let granted = store.environment().run(move || granted(&reading)).await;
        self.take_over(term, granted)
    }

    /// Remembers from now on what is applied, as the rows are read. Returns whether they have to be, in this term.
    fn begin_to_read(&self, term: u64) -> bool {
        let mut deadlines = self.deadlines();
        let is_news = deadlines.term != term;
        deadlines.since = is_news.then(BTreeMap::new);
        is_news
    }

    /// The rows were read: what was applied meanwhile is newer.
    fn take_over(&self, term: u64, granted: Result<Vec<(i64, Granted)>>) -> Result<()> {
        let mut deadlines = self.deadlines();
        let since = deadlines.since.take().unwrap_or_default();
        deadlines.leases = granted?.iter().map(|(id, granted)| (*id, Lease::new(granted))).collect();
        for (id, granted) in since {
            deadlines.note(id, granted.as_ref());
        }
        deadlines.term = term;
        Ok(())
    }

    /// All leases last for their whole time again, once the rows are read anew: nobody could keep one alive meanwhile, or some of the rows were lost.
    pub fn begin_anew(&self) {
        self.deadlines().term = 0;
    }

    /// Leases whose time has come, and whether they have begun to end.
    fn ended(&self) -> Vec<(i64, bool)> {
        let now = Instant::now();
        let is_due = |lease: &Lease| lease.until <= now && lease.retry.is_none_or(|retry| retry <= now);
        let deadlines = self.deadlines();
        let ended = deadlines.leases.iter().filter(|(_, lease)| is_due(lease));
        ended.map(|(id, lease)| (*id, lease.is_revoked)).take(ENDED_MAX).collect()
    }

    /// There is no such lease in the rows, unless it was granted again meanwhile.
    fn gone(&self, id: i64) {
        let mut deadlines = self.deadlines();
        if deadlines.leases.get(&id).is_some_and(|lease| lease.until <= Instant::now()) {
            deadlines.leases.remove(&id);
        }
    }

    /// A lease could not be ended: it is tried again, each time after a longer pause, so that what fails always holds up nothing else.
    fn failed(&self, id: i64) {
        if let Some(lease) = self.deadlines().leases.get_mut(&id) {
            let (first, longest) = BACKOFF;
            let pause = first.saturating_mul(2_u32.saturating_pow(lease.failures)).min(longest);
            lease.failures = lease.failures.saturating_add(1);
            lease.retry = Some(Instant::now() + pause);
        }
    }

    /// Answers about a lease, if the rows of all leases were read in this term. One whose time has come is no more, even if that is not in the log yet.
    fn answer(&self, term: u64, call: LeaseCall) -> Option<Option<LeaseTime>> {
        let mut deadlines = self.deadlines();
        if deadlines.term != term {
            return None;
        }
        let (LeaseCall::KeepAlive(id) | LeaseCall::TimeToLive(id)) = call;
        let now = Instant::now();
        Some(deadlines.leases.get_mut(&id).filter(|lease| lease.until > now).map(|lease| {
            if matches!(call, LeaseCall::KeepAlive(_)) {
                lease.until = now + seconds(lease.granted_s);
            }
            lease.time()
        }))
    }
}

/// All leases in a store.
///
/// # Errors
/// Those of the storage.
pub fn granted(store: &Store) -> Result<Vec<(i64, Granted)>> {
    let (mut leases, (low, high)) = (Vec::new(), row::lease_bounds());
    each(store, &low, &high, |key, value| {
        if let Some(Named::Lease(id)) = Named::of(key) {
            // What cannot be read is none: it was written past the API.
            leases.extend(Granted::of(value).map(|granted| (id, granted)));
        }
        Ok(())
    })?;
    Ok(leases)
}

/// Ends leases whose time has come, as long as this node is a member.
pub async fn keep(member: Weak<Member>, parts: Parts) {
    let mut said = String::new();
    loop {
        sleep(EXPIRE_EVERY).await;
        let Some(member) = member.upgrade() else { return };
        let ended = expire(&member, &parts).await.map_or_else(|error| error.to_string(), |()| String::new());
        if !ended.is_empty() && ended != said {
            warn!(why = ended, "leases of the etcd API do not end");
        }
        said = ended;
    }
}

/// Ends leases whose time has come, if this node leads a majority. Without one nobody can keep a lease alive: they all last for their whole time again
/// once there is one. Of each lease one step is taken, so that a large one holds up no other.
///
/// # Errors
/// Those of the storage; why a lease could not be ended.
async fn expire(member: &Member, parts: &Parts) -> Result<()> {
    let leases = &parts.revisions.leases;
    if member.is_leader() && !member.leads_majority() {
        leases.begin_anew();
    }
    if !member.leads_majority() || !member.has_applied_its_term() {
        return Ok(());
    }
    let term = member.metrics().borrow().current_term;
    leases.lead(term, &parts.store).await?;
    let revokes = leases.ended().into_iter().map(|(id, has_begun)| async move {
        let revoked = timeout(REQUEST_MAX, revoke(member, leases, id, has_begun)).await;
        let revoked = revoked.unwrap_or_else(|_| Err(Error::NoQuorum(no_quorum())));
        if revoked.is_err() {
            leases.failed(id);
        }
        revoked
    });
    join_all(revokes).await.into_iter().collect()
}

/// Takes one step to end a lease.
async fn revoke(member: &Member, leases: &Leases, id: i64, has_begun: bool) -> Result<()> {
    let request = match has_begun {
        true => etcd::request::Request::ContinueRevoke(id),
        false => etcd::request::Request::Revoke(id),
    };
    match member.propose(Request::Etcd(request)).await {
        // Its row says so, and the next look takes the next step.
        Proposed::Decided(Ok(Outcome::Etcd(Ok(Answer { body: Body::Revoking, .. })))) => Ok(()),
        Proposed::Decided(Ok(Outcome::Etcd(Ok(_) | Err(Problem::LeaseNotFound)))) => {
            leases.gone(id);
            Ok(())
        }
        Proposed::Decided(Ok(other)) => {
            Err(Error::Conflict(format!("lease {} cannot end: {other:?}", row::lease_text(id))))
        }
        Proposed::Decided(Err(refusal)) => Err(refusal.into()),
        // The next leader ends it.
        Proposed::NotLeader => Ok(()),
    }
}

/// Answers another node about a lease. `None` if this node does not lead, or may not without knowing, or has not read all leases yet.
pub fn answer(member: &Member, parts: &Parts, call: LeaseCall) -> Option<Option<LeaseTime>> {
    if !member.leads_majority() || !member.has_applied_its_term() {
        return None;
    }
    let term = member.metrics().borrow().current_term;
    parts.revisions.leases.answer(term, call)
}

impl Strong {
    /// Asks the leader about a lease. `None` if there is none.
    ///
    /// # Errors
    /// `NoQuorum`.
    pub async fn lease(&self, call: LeaseCall) -> Result<Option<LeaseTime>> {
        let until = Instant::now() + REQUEST_MAX;
        loop {
            let Some((member, _)) = self.0.member() else { return Err(self.0.asleep()) };
            let leader = member.metrics().borrow().current_leader;
            let left = until.saturating_duration_since(Instant::now());
            let answer = match leader {
                Some(leader) if leader == self.0.parts.store.node() => {
                    answer(&member, &self.0.parts, call).map(Ok)
                }
                Some(leader) => match self.0.call(leader, Call::Lease(call), left).await {
                    Ok(CallAnswer::Lease(answer)) => Some(answer.map_err(Error::from)),
                    Ok(CallAnswer::OtherGroup(refusal)) => Some(Err(refusal.into())),
                    Ok(_) | Err(_) => None,
                },
                None => None,
            };
            match answer {
                Some(answer) => return answer,
                None if Instant::now() + RETRY >= until => return Err(Error::NoQuorum(no_quorum())),
                None => sleep(RETRY).await,
            }
        }
    }
}

/// The answer to another node's call about a lease; `None` if this node does not lead.
pub fn serve(member: &Member, parts: &Parts, call: LeaseCall) -> Option<CallAnswer> {
    answer(member, parts, call).map(|answer| CallAnswer::Lease(Ok::<_, Refusal>(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::strong::group::tests::{Alone, Pair};

    fn lasts(ttl: i64) -> Option<Granted> {
        Some(Granted::new(ttl))
    }

    fn left_ms(leases: &Leases, call: LeaseCall) -> Option<u64> {
        leases.answer(0, call).expect("it leads").map(|time| time.left_ms)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_from_when_it_was_kept_alive_and_not_beyond_its_end() {
        let leases = Leases::default();
        leases.note(1, lasts(5));
        sleep(Duration::from_secs(4)).await;
        assert_eq!(left_ms(&leases, LeaseCall::TimeToLive(1)), Some(1_000));
        assert_eq!(left_ms(&leases, LeaseCall::KeepAlive(1)), Some(5_000));
        // Applied once more, as after a crash, it lasts no longer.
        leases.note(1, lasts(5));
        sleep(Duration::from_secs(5)).await;
        assert_eq!((leases.ended(), left_ms(&leases, LeaseCall::KeepAlive(1))), (vec![(1, false)], None));
        leases.note(1, None);
        assert!(leases.ended().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_lease_is_no_overflow() {
        let leases = Leases::default();
        leases.note(1, lasts(9_000_000_000));
        let time = leases.answer(0, LeaseCall::KeepAlive(1)).flatten().expect("is there");
        assert_eq!(time.granted_s, 9_000_000_000);
    }

    /// A lease that was granted again while the leader was told that the former one is no more had no end from then on.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_granted_again_is_not_gone() {
        let leases = Leases::default();
        leases.note(1, Some(Granted::new(5).revoked_up_to(b"k")));
        leases.note(1, None);
        leases.note(1, lasts(5));
        leases.gone(1);
        assert_eq!(left_ms(&leases, LeaseCall::TimeToLive(1)), Some(5_000));
        sleep(Duration::from_secs(5)).await;
        leases.gone(1);
        assert!(leases.ended().is_empty());
    }

    /// A lease that could not be ended was tried again four times a second, and five hundred of them kept all others from ending.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_cannot_be_ended_waits_longer_each_time() {
        let leases = Leases::default();
        leases.note(1, Some(Granted::new(5).revoked_up_to(b"k")));
        assert_eq!(leases.ended(), [(1, true)], "one that has begun to end has no time left");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            leases.failed(1);
            assert!(leases.ended().is_empty());
            let began = Instant::now();
            while leases.ended().is_empty() {
                sleep(Duration::from_millis(250)).await;
            }
            pauses.push(began.elapsed().as_millis());
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    }

    /// A leader knows of leases that were granted before it started only from their rows.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_reads_all_leases_once_a_term_and_what_is_applied_meanwhile_counts() {
        let node = Alone::start().await;
        assert_eq!(node.strong.create(etcd::table().clone()).await, Ok(true));
        for id in [1, 2, 3] {
            let grant = etcd::request::Request::Grant { id, ttl_s: 60 };
            node.strong.submit(Request::Etcd(grant)).await.expect("is granted");
        }
        let leases = Leases::default();
        assert_eq!(leases.answer(7, LeaseCall::TimeToLive(1)), None, "nothing was read");
        let store = node.parts.store.clone();
        let lead = |term| leases.lead(term, &store);
        let is_there = |term, id| leases.answer(term, LeaseCall::TimeToLive(id)).map(|time| time.is_some());
        // This was applied after the rows were read, and before that was known.
        assert!(leases.begin_to_read(6));
        let rows = granted(&store);
        leases.note(2, None);
        leases.note(4, lasts(60));
        leases.take_over(6, rows).expect("was read");
        assert_eq!([1, 2, 3, 4].map(|id| is_there(6, id)), [Some(true), Some(false), Some(true), Some(true)]);
        lead(7).await.expect("reads");
        assert_eq!([1, 2, 3, 4].map(|id| is_there(7, id)), [Some(true), Some(true), Some(true), Some(false)]);
        assert_eq!((is_there(6, 1), is_there(8, 1)), (None, None));
        leases.note(3, None);
        lead(7).await.expect("reads");
        assert_eq!(is_there(7, 3), Some(false), "it is read once");
        lead(8).await.expect("reads");
        assert_eq!((is_there(7, 3), is_there(8, 3)), (None, Some(true)), "it is read again in another term");
        // Nobody could keep them alive while no majority answered: they last for their whole time again.
        leases.deadlines().leases.values_mut().for_each(|lease| lease.until = Instant::now());
        assert_eq!(leases.ended().len(), 3);
        leases.begin_anew();
        assert_eq!(is_there(8, 1), None, "nothing is known until they are read");
        lead(8).await.expect("reads");
        assert_eq!((leases.ended(), is_there(8, 1)), (Vec::new(), Some(true)));
        node.stop().await;
    }

    /// A leader whose links stood still for longer than a lease, and that led on in its term, ended leases that nobody could have kept alive.
    #[tokio::test(flavor = "multi_thread")]
    async fn leases_last_anew_after_a_leader_had_no_majority() {
        let pair = Pair::start().await;
        let (leader, parts) = (&pair.leader, &pair.node.parts);
        let term = leader.metrics().borrow().current_term;
        let knows = || parts.revisions.leases.answer(term, LeaseCall::TimeToLive(1)).is_some();
        // openraft tells of the majority with each heartbeat.
        timeout(REQUEST_MAX, async {
            while !knows() {
                expire(leader, parts).await.expect("reads");
                sleep(EXPIRE_EVERY).await;
            }
        })
        .await
        .expect("it leads a majority");
        pair.voter.confirm(false);
        timeout(REQUEST_MAX, async {
            while leader.leads_majority() {
                sleep(EXPIRE_EVERY).await;
            }
        })
        .await
        .expect("nobody confirms");
        expire(leader, parts).await.expect("there is nothing to do");
        assert!(leader.is_leader() && !knows(), "they are to be read anew");
        pair.stop().await;
    }
}
