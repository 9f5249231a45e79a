//! Limits what unknown nodes can cost. Handshakes are limited in number, overall and per address. When there is no
//! room, the oldest one is evicted. So opening handshakes and letting them hang keeps nobody out, not even at the same
//! address: an honest handshake takes milliseconds.
//!
//! A handshake that fails, by a wrong secret or by garbage, takes a token of its address. A node that guesses secrets
//! soon has to wait, and nodes at other addresses do not notice.
//!
//! The buckets are ours and not `governor`'s (6 crates): it takes a token with each check, and here only a failure takes one. It also
//! remembers any number of addresses.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    address::network,
    secret::{REMEDY, Secrets},
};
use crate::error::{Error, Result};

/// Most handshakes in progress. Each may hold a frame in memory, and none takes longer than five seconds.
pub const HANDSHAKES_MAX: usize = 64;
/// Most handshakes in progress per address: a quarter of all, and enough for a whole cluster behind one address.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 16;
/// How many handshakes an address may fail at once: enough for a whole cluster behind one address that starts with a
/// wrong secret.
const TOKENS_MAX: f64 = 16.0;
/// How fast tokens come back: about as often as a node with a wrong secret tries, so that it is told what is wrong.
const TOKENS_PER_SECOND: f64 = 1.0;
/// Most addresses remembered. Beyond that, the one with the fewest failures is forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Decides which handshakes may begin.
pub struct AdmissionControl {
    secrets: Secrets,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: Buckets,
    /// Oldest first.
    in_progress: Vec<InProgress>,
    next_id: u64,
}

struct InProgress {
    id: u64,
    address: IpAddr,
    evicted: Arc<Notify>,
}

impl AdmissionControl {
    /// For a node with these secrets.
    pub fn new(secrets: Secrets) -> Arc<Self> {
        Arc::new(Self { secrets, state: Mutex::default() })
    }

    /// Admits a handshake with a node at `remote`.
    ///
    /// # Errors
    /// `Forbidden` from another machine if there is no secret, `TooMany` after too many failures. The texts are for the
    /// dialing node and say what to do.
    pub fn admit(self: &Arc<Self>, remote: SocketAddr) -> Result<Admission> {
        if !self.secrets.allow(remote.ip()) {
            return Err(Error::Forbidden(format!(
                "without CLUSTER_SECRET this node links only with nodes on its own machine, and {} is not: {REMEDY}",
                remote.ip()
            )));
        }
        let address = network(remote.ip());
        let mut state = self.state();
        if !state.buckets.has_one(address, Instant::now()) {
            return Err(Error::TooMany(format!(
                "too many handshakes from {} failed: wait a while, and look in the logs of both nodes for the reason",
                remote.ip()
            )));
        }
        let (id, evicted) = state.begin(address);
        Ok(Admission { admission_control: Arc::clone(self), id, address, evicted })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state consistent, even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, address: IpAddr) -> (u64, Arc<Notify>) {
        if self.of(address) >= HANDSHAKES_PER_ADDRESS_MAX {
            self.evict_oldest_of(address);
        } else if self.in_progress.len() >= HANDSHAKES_MAX {
            let addresses = self.in_progress.iter().map(|one| one.address);
            let busiest = addresses.max_by_key(|address| self.of(*address));
            self.evict_oldest_of(busiest.expect("the table is full"));
        }
        let (id, evicted) = (self.next_id, Arc::new(Notify::new()));
        self.next_id += 1;
        self.in_progress.push(InProgress { id, address, evicted: Arc::clone(&evicted) });
        (id, evicted)
    }

    fn of(&self, address: IpAddr) -> usize {
        self.in_progress.iter().filter(|one| one.address == address).count()
    }

    fn evict_oldest_of(&mut self, address: IpAddr) {
        if let Some(at) = self.in_progress.iter().position(|one| one.address == address) {
            self.in_progress.remove(at).evicted.notify_one();
        }
    }
}

/// Permission for one handshake, until it is dropped.
pub struct Admission {
    admission_control: Arc<AdmissionControl>,
    id: u64,
    address: IpAddr,
    evicted: Arc<Notify>,
}

impl Admission {
    /// Completes when the handshake must make room for others.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Counts the handshake as failed.
    pub fn fail(self) {
        self.admission_control.state().buckets.take(self.address, Instant::now());
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.admission_control.state().in_progress.retain(|one| one.id != self.id);
    }
}

#[derive(Default)]
struct Buckets(HashMap<IpAddr, Bucket>);

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * TOKENS_PER_SECOND).min(TOKENS_MAX);
        self.at = now;
        self.tokens
    }
}

impl Buckets {
    /// Whether an address may fail once more.
    fn has_one(&mut self, address: IpAddr, now: Instant) -> bool {
        self.0.get_mut(&address).is_none_or(|bucket| bucket.refill(now) >= 1.0)
    }

    fn take(&mut self, address: IpAddr, now: Instant) {
        if !self.0.contains_key(&address) && self.0.len() >= ADDRESSES_MAX {
            self.forget_one(now);
        }
        let bucket = self.0.entry(address).or_insert(Bucket { tokens: TOKENS_MAX, at: now });
        // Handshakes that began together may fail together, after the last token is gone.
        bucket.tokens = (bucket.refill(now) - 1.0).max(0.0);
    }

    fn forget_one(&mut self, now: Instant) {
        let fullest = self.0.iter_mut().map(|(address, bucket)| (bucket.refill(now), *address));
        if let Some((_, address)) = fullest.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
            self.0.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn remote(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 1))
    }

    fn admission_control() -> Arc<AdmissionControl> {
        AdmissionControl::new(Secrets::new(["sixteen letters!"]).expect("long enough"))
    }

    fn is_displaced(admission: &Admission) -> bool {
        use futures_util::FutureExt;
        admission.evicted().now_or_never().is_some()
    }

    #[test]
    fn failures_use_up_only_their_own_address_and_time_restores_it() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        let fail = |buckets: &mut Buckets, now| {
            let allowed = buckets.has_one(address(1), now);
            if allowed {
                buckets.take(address(1), now);
            }
            allowed
        };
        assert_eq!((0..100).filter(|_| fail(&mut buckets, start)).count(), TOKENS_MAX as usize);
        assert!(buckets.has_one(address(2), start), "other addresses are not affected");
        let later = start + Duration::from_secs(3);
        assert_eq!((0..100).filter(|_| fail(&mut buckets, later)).count(), 3);
    }

    #[test]
    fn only_failures_cost_tokens() {
        let admission_control = admission_control();
        for _ in 0..100 {
            drop(admission_control.admit(remote(1)).expect("admitted"));
        }
        for _ in 0..TOKENS_MAX as usize {
            admission_control.admit(remote(1)).expect("admitted").fail();
        }
        assert!(matches!(admission_control.admit(remote(1)), Err(Error::TooMany(_))));
    }

    /// Anyone at an address could open sixteen hanging handshakes, and honest nodes of that address got 429.
    #[test]
    fn hanging_handshakes_are_evicted_and_keep_nobody_out() {
        let admission_control = admission_control();
        let hanging: Vec<_> = (0..HANDSHAKES_PER_ADDRESS_MAX)
            .map(|_| admission_control.admit(remote(1)).expect("a place"))
            .collect();
        let honest = admission_control.admit(remote(1)).expect("it is admitted anyway");
        assert!(is_displaced(&hanging[0]) && !is_displaced(&hanging[1]) && !is_displaced(&honest));
        drop(hanging);
        assert_eq!(admission_control.state().in_progress.len(), 1);
    }

    #[test]
    fn the_number_of_addresses_is_limited_and_the_worst_are_kept() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        while buckets.has_one(address(1), start) {
            buckets.take(address(1), start);
        }
        for number in 0..3 * ADDRESSES_MAX as u32 {
            buckets.take(IpAddr::from((0x0b00_0000 + number).to_be_bytes()), start);
        }
        assert_eq!(buckets.0.len(), ADDRESSES_MAX);
        assert!(!buckets.has_one(address(1), start), "it is remembered");
    }

    #[test]
    fn without_a_secret_only_the_local_machine_is_admitted() {
        let admission_control = AdmissionControl::new(Secrets::Open);
        let error = admission_control.admit(SocketAddr::from(([10, 0, 0, 1], 1))).err().expect("refused");
        assert!(matches!(&error, Error::Forbidden(why) if why.contains("CLUSTER_SECRET")), "{error:?}");
    }

    #[test]
    fn handshakes_in_progress_are_limited_over_all_addresses() {
        let admission_control = admission_control();
        let busy: Vec<_> = (0..10).map(|_| admission_control.admit(remote(500)).expect("a place")).collect();
        let held: Vec<_> = (0..HANDSHAKES_MAX)
            .map(|number| admission_control.admit(remote(number)).expect("a place"))
            .collect();
        assert_eq!(admission_control.state().in_progress.len(), HANDSHAKES_MAX);
        assert_eq!(
            busy.iter().filter(|one| is_displaced(one)).count(),
            9,
            "the busiest address loses handshakes until it has as many as the others"
        );
        assert_eq!(held.iter().filter(|one| is_displaced(one)).count(), 1);
    }
}
