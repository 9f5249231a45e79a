//! What strangers may cost. A handshake takes a place among a fixed number, and a token of the address it comes from, which
//! comes back only with a link that stands: so whoever guesses at the secret, or sends rubbish, is soon told to wait, and nodes
//! at other addresses do not notice.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::secret::{REMEDY, Secrets};
use crate::error::{Error, Result};

/// Handshakes in progress, over all addresses: each may hold a frame in memory, and none takes longer than five seconds.
pub const HANDSHAKES_MAX: usize = 64;
/// Handshakes that one address may have failed or in progress, at once: enough for the nodes of a whole cluster behind one
/// address that all start together.
const TOKENS_MAX: f64 = 16.0;
/// How fast they come back, so that a node with a wrong secret, which tries about as often, is told what is wrong.
const TOKENS_PER_SECOND: f64 = 1.0;
/// Addresses that are remembered. Beyond that many the one that has failed least is forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Lets handshakes begin, or not.
pub struct Door {
    secrets: Secrets,
    places: Arc<Semaphore>,
    buckets: Mutex<Buckets>,
}

impl Door {
    /// For a node with these secrets.
    pub fn new(secrets: Secrets) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Arc::new(Self { secrets, places, buckets: Mutex::default() })
    }

    /// Lets a handshake with a node at `remote` begin.
    ///
    /// # Errors
    /// `Forbidden` from elsewhere where there is no secret, `TooMany` after too many that failed, `Overloaded` while there are
    /// too many in progress. The messages say what to do, and are meant for the node that dials.
    pub fn admit(self: &Arc<Self>, remote: SocketAddr) -> Result<Admission> {
        if !self.secrets.allow(remote.ip()) {
            return Err(Error::Forbidden(format!(
                "without CLUSTER_SECRET this node links with nodes of its own machine only, and {} is not one: {REMEDY}",
                remote.ip()
            )));
        }
        let address = network(remote.ip());
        if !self.buckets().take(address, Instant::now()) {
            return Err(Error::TooMany(format!(
                "too many handshakes from {} failed: wait a while, and see there and here why",
                remote.ip()
            )));
        }
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Ok(Admission { door: Arc::clone(self), address, _place: place }),
            Err(_) => {
                self.buckets().give_back(address);
                Err(Error::Overloaded(format!(
                    "{HANDSHAKES_MAX} handshakes are in progress, which is as many as this node has at a time; try again"
                )))
            }
        }
    }

    fn buckets(&self) -> std::sync::MutexGuard<'_, Buckets> {
        // Whole whatever panicked: each bucket is a number.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one handshake, until it is dropped.
pub struct Admission {
    door: Arc<Door>,
    address: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Admission {
    /// The link stands: it does not count against its address.
    pub fn succeed(self) {
        self.door.buckets().give_back(self.address);
    }
}

/// What counts as one address: a household's or a server's whole IPv6 network is.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
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
    fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        if !self.0.contains_key(&address) && self.0.len() >= ADDRESSES_MAX {
            self.forget_one(now);
        }
        let bucket = self.0.entry(address).or_insert(Bucket { tokens: TOKENS_MAX, at: now });
        let allowed = bucket.refill(now) >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    fn give_back(&mut self, address: IpAddr) {
        if let Some(bucket) = self.0.get_mut(&address) {
            bucket.tokens = (bucket.tokens + 1.0).min(TOKENS_MAX);
        }
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

    #[test]
    fn failures_use_up_an_address_and_no_other_and_time_brings_it_back() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        let allowed = (0..100).filter(|_| buckets.take(address(1), start)).count();
        assert_eq!(allowed, TOKENS_MAX as usize);
        assert!(buckets.take(address(2), start), "another address has its own");
        let later = start + Duration::from_secs(3);
        assert_eq!((0..100).filter(|_| buckets.take(address(1), later)).count(), 3);
    }

    #[test]
    fn what_succeeds_costs_nothing() {
        let door = Door::new(Secrets::Open);
        for _ in 0..100 {
            door.admit(SocketAddr::from(([127, 0, 0, 1], 1))).expect("admitted").succeed();
        }
    }

    #[test]
    fn no_more_addresses_are_remembered_than_the_limit_and_the_worst_stay() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        while buckets.take(address(1), start) {}
        for number in 0..3 * ADDRESSES_MAX as u32 {
            buckets.take(IpAddr::from((0x0b00_0000 + number).to_be_bytes()), start);
        }
        assert_eq!(buckets.0.len(), ADDRESSES_MAX);
        assert!(!buckets.take(address(1), start), "it is not forgotten");
    }

    #[test]
    fn without_a_secret_only_the_own_machine_may_begin() {
        let door = Door::new(Secrets::Open);
        let error = door.admit(SocketAddr::from(([10, 0, 0, 1], 1))).err().expect("refused");
        assert!(matches!(&error, Error::Forbidden(why) if why.contains("CLUSTER_SECRET")), "{error:?}");
    }

    #[test]
    fn handshakes_in_progress_are_bounded_over_all_addresses() {
        let door = Door::new(Secrets::new(["sixteen letters!"]).expect("long enough"));
        let remote = |number: usize| SocketAddr::from(([10, 0, 1, number as u8], 1));
        let held: Vec<_> =
            (0..HANDSHAKES_MAX).map(|number| door.admit(remote(number)).expect("a place")).collect();
        assert!(matches!(door.admit(remote(200)), Err(Error::Overloaded(_))));
        drop(held);
        assert!(door.admit(remote(200)).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
