//! What strangers may cost. A handshake takes a place among a fixed number, and only so many of those are for one address; where
//! there is none left, the one that has taken longest gives way. So nobody who opens handshakes and lets them hang keeps others
//! out, at his address neither: an honest one is over in milliseconds.
//!
//! One that fails, by a wrong secret or by rubbish, takes a token of its address. Whoever guesses at the secret is soon told to wait,
//! and nodes at other addresses do not notice.

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

/// Handshakes in progress, over all addresses: each may hold a frame in memory, and none takes longer than five seconds.
pub const HANDSHAKES_MAX: usize = 64;
/// Those of one address among them: a quarter, and enough for the nodes of a whole cluster behind one address.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 16;
/// Handshakes that one address may fail at once: enough for the nodes of a whole cluster behind one address that all start
/// together with a wrong secret.
const TOKENS_MAX: f64 = 16.0;
/// How fast they come back, so that a node with a wrong secret, which tries about as often, is told what is wrong.
const TOKENS_PER_SECOND: f64 = 1.0;
/// Addresses that are remembered. Beyond that many the one that has failed least is forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Lets handshakes begin, or not.
pub struct AdmissionControl {
    secrets: Secrets,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: Buckets,
    /// The oldest first.
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

    /// Lets a handshake with a node at `remote` begin.
    ///
    /// # Errors
    /// `Forbidden` from elsewhere where there is no secret, `TooMany` after too many that failed. The messages say what to do, and
    /// are meant for the node that dials.
    pub fn admit(self: &Arc<Self>, remote: SocketAddr) -> Result<Admission> {
        if !self.secrets.allow(remote.ip()) {
            return Err(Error::Forbidden(format!(
                "without CLUSTER_SECRET this node links with nodes of its own machine only, and {} is not one: {REMEDY}",
                remote.ip()
            )));
        }
        let address = network(remote.ip());
        let mut state = self.state();
        if !state.buckets.has_one(address, Instant::now()) {
            return Err(Error::TooMany(format!(
                "too many handshakes from {} failed: wait a while, and see there and here why",
                remote.ip()
            )));
        }
        let (id, evicted) = state.begin(address);
        Ok(Admission { admission_control: Arc::clone(self), id, address, evicted })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole, whatever panicked.
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
            self.evict_oldest_of(busiest.expect("there are as many as there may be"));
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

/// The right to one handshake, until it is dropped.
pub struct Admission {
    admission_control: Arc<AdmissionControl>,
    id: u64,
    address: IpAddr,
    evicted: Arc<Notify>,
}

impl Admission {
    /// Returns when it has to give way to others.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Holds the handshake against its address.
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
        // Handshakes that began together may fail together, when there is no token left.
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
    fn failures_use_up_an_address_and_no_other_and_time_brings_it_back() {
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
        assert!(buckets.has_one(address(2), start), "another address has its own");
        let later = start + Duration::from_secs(3);
        assert_eq!((0..100).filter(|_| fail(&mut buckets, later)).count(), 3);
    }

    #[test]
    fn what_does_not_fail_costs_nothing() {
        let admission_control = admission_control();
        for _ in 0..100 {
            drop(admission_control.admit(remote(1)).expect("admitted"));
        }
        for _ in 0..TOKENS_MAX as usize {
            admission_control.admit(remote(1)).expect("admitted").fail();
        }
        assert!(matches!(admission_control.admit(remote(1)), Err(Error::TooMany(_))));
    }

    /// Sixteen handshakes that hung, which anyone at an address can open, gave honest nodes of that address 429.
    #[test]
    fn handshakes_that_hang_keep_nobody_out_and_give_way() {
        let admission_control = admission_control();
        let hanging: Vec<_> = (0..HANDSHAKES_PER_ADDRESS_MAX)
            .map(|_| admission_control.admit(remote(1)).expect("a place"))
            .collect();
        let honest = admission_control.admit(remote(1)).expect("it is let in all the same");
        assert!(is_displaced(&hanging[0]) && !is_displaced(&hanging[1]) && !is_displaced(&honest));
        drop(hanging);
        assert_eq!(admission_control.state().in_progress.len(), 1);
    }

    #[test]
    fn no_more_addresses_are_remembered_than_the_limit_and_the_worst_stay() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        while buckets.has_one(address(1), start) {
            buckets.take(address(1), start);
        }
        for number in 0..3 * ADDRESSES_MAX as u32 {
            buckets.take(IpAddr::from((0x0b00_0000 + number).to_be_bytes()), start);
        }
        assert_eq!(buckets.0.len(), ADDRESSES_MAX);
        assert!(!buckets.has_one(address(1), start), "it is not forgotten");
    }

    #[test]
    fn without_a_secret_only_the_own_machine_may_begin() {
        let admission_control = AdmissionControl::new(Secrets::Open);
        let error = admission_control.admit(SocketAddr::from(([10, 0, 0, 1], 1))).err().expect("refused");
        assert!(matches!(&error, Error::Forbidden(why) if why.contains("CLUSTER_SECRET")), "{error:?}");
    }

    #[test]
    fn handshakes_in_progress_are_bounded_over_all_addresses() {
        let admission_control = admission_control();
        let busy: Vec<_> = (0..10).map(|_| admission_control.admit(remote(500)).expect("a place")).collect();
        let held: Vec<_> = (0..HANDSHAKES_MAX)
            .map(|number| admission_control.admit(remote(number)).expect("a place"))
            .collect();
        assert_eq!(admission_control.state().in_progress.len(), HANDSHAKES_MAX);
        assert_eq!(
            busy.iter().filter(|one| is_displaced(one)).count(),
            9,
            "of the busiest, down to one as all have"
        );
        assert_eq!(held.iter().filter(|one| is_displaced(one)).count(), 1);
    }
}
