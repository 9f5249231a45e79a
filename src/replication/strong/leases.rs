//! Leases of the etcd API. That there is one is a row, in the log; until when it lasts is known to the leader only, in memory. A new leader
//! lets each last for its whole time again: a client cannot have kept it alive where nobody answered. The leader ends those whose time has
//! come, through the log.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Strong,
    group::{REQUEST_MAX, RETRY, no_quorum},
    member::{Member, Parts},
    rpc::{Call, CallAnswer},
};
use crate::{
    core::{
        etcd::{self, row},
        strong::request::{Refusal, Request},
    },
    error::{Error, Result},
    storage::{Store, table::scan::Range},
};

/// Most leases that are ended at a time: they share a few entries of the log.
const ENDED_MAX: usize = 500;
/// Rows that are read at a time.
const PAGE_ROWS: usize = 1_000;

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
    /// The term in which this node leads, or led last.
    term: u64,
    leases: BTreeMap<i64, Lease>,
}

#[derive(Clone, Copy)]
struct Lease {
    granted_s: i64,
    until: Instant,
}

impl Lease {
    fn from_now(granted_s: i64) -> Self {
        Self { granted_s, until: Instant::now() + seconds(granted_s) }
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

    /// The row of a lease was written: with how many seconds it lasts, or deleted.
    pub fn note(&self, id: i64, granted_s: Option<i64>) {
        let mut deadlines = self.deadlines();
        match granted_s {
            Some(granted_s) => {
                deadlines.leases.entry(id).or_insert_with(|| Lease::from_now(granted_s));
            }
            None => drop(deadlines.leases.remove(&id)),
        }
    }

    /// This node leads in a term: if that is news, all leases last for their whole time again.
    fn lead(&self, term: u64, store: &Store) -> Result<()> {
        // Held meanwhile, so that what is applied now is noted after what was read.
        let mut deadlines = self.deadlines();
        if deadlines.term == term {
            return Ok(());
        }
        deadlines.leases.clear();
        for (id, granted_s) in granted(store)? {
            deadlines.leases.insert(id, Lease::from_now(granted_s));
        }
        deadlines.term = term;
        Ok(())
    }

    /// Leases whose time has come.
    fn ended(&self) -> Vec<i64> {
        let now = Instant::now();
        let deadlines = self.deadlines();
        let ended = deadlines.leases.iter().filter(|(_, lease)| lease.until <= now);
        ended.map(|(id, _)| *id).take(ENDED_MAX).collect()
    }

    /// One whose time has come is no more, even if that is not in the log yet.
    fn answer(&self, call: LeaseCall) -> Option<LeaseTime> {
        let mut deadlines = self.deadlines();
        let (LeaseCall::KeepAlive(id) | LeaseCall::TimeToLive(id)) = call;
        let lease = deadlines.leases.get_mut(&id).filter(|lease| lease.until > Instant::now())?;
        if matches!(call, LeaseCall::KeepAlive(_)) {
            *lease = Lease::from_now(lease.granted_s);
        }
        Some(lease.time())
    }
}

/// All leases in a store, and how many seconds they last.
///
/// # Errors
/// Those of the storage.
pub fn granted(store: &Store) -> Result<Vec<(i64, i64)>> {
    let (mut leases, table) = (Vec::new(), etcd::table());
    if !store.is_strong(table) {
        return Ok(leases);
    }
    let (low, high) = row::lease_bounds();
    let mut range = Range { start: Some(low), end: Some(high), ..Range::default() };
    loop {
        let page = store.rows(table, &range, PAGE_ROWS)?;
        if page.incomplete {
            return Err(Error::Corrupt(format!("rows of leases in table {table} cannot be read")));
        }
        range.after = page.rows.last().map(|row| row.key.clone());
        for row in page.rows {
            if let Some(row::Named::Lease(id)) = row::Named::of(&row.key) {
                // What cannot be read is none: it was written past the API.
                leases.extend(row::lease_ttl_s(&row.entry.value).map(|ttl_s| (id, ttl_s)));
            }
        }
        if !page.more {
            return Ok(leases);
        }
    }
}

/// Ends leases whose time has come, if this node leads.
///
/// # Errors
/// Those of the storage.
pub async fn expire(member: &Member, parts: &Parts) -> Result<()> {
    if !member.has_applied_its_term() {
        return Ok(());
    }
    let leases = &parts.revisions.leases;
    leases.lead(member.metrics().borrow().current_term, &parts.store)?;
    let revokes = leases
        .ended()
        .into_iter()
        .map(|id| member.propose(Request::Etcd(etcd::request::Request::Revoke(id))));
    // Whatever fails, or takes too long, is found again.
    let _ = timeout(REQUEST_MAX, join_all(revokes)).await;
    Ok(())
}

/// Answers another node about a lease. `None` if this node does not lead, or may not without knowing.
///
/// # Errors
/// Those of the storage.
pub fn answer(member: &Member, parts: &Parts, call: LeaseCall) -> Option<Result<Option<LeaseTime>>> {
    if !member.leads_majority() || !member.has_applied_its_term() {
        return None;
    }
    let leases = &parts.revisions.leases;
    let led = leases.lead(member.metrics().borrow().current_term, &parts.store);
    Some(led.map(|()| leases.answer(call)))
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
                Some(leader) if leader == self.0.parts.store.node() => answer(&member, &self.0.parts, call),
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
    answer(member, parts, call).map(|answer| CallAnswer::Lease(answer.map_err(Refusal::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_from_when_it_was_kept_alive_and_not_beyond_its_end() {
        let leases = Leases::default();
        leases.note(1, Some(5));
        sleep(Duration::from_secs(4)).await;
        assert_eq!(leases.answer(LeaseCall::TimeToLive(1)).map(|time| time.left_ms), Some(1_000));
        assert_eq!(leases.answer(LeaseCall::KeepAlive(1)).map(|time| time.left_ms), Some(5_000));
        // Applied once more, as after a crash, it lasts no longer.
        leases.note(1, Some(5));
        sleep(Duration::from_secs(5)).await;
        assert_eq!((leases.ended(), leases.answer(LeaseCall::KeepAlive(1))), (vec![1], None));
        leases.note(1, None);
        assert!(leases.ended().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_lease_is_no_overflow() {
        let leases = Leases::default();
        leases.note(1, Some(9_000_000_000));
        let time = leases.answer(LeaseCall::KeepAlive(1)).expect("is there");
        assert_eq!(time.granted_s, 9_000_000_000);
    }
}
