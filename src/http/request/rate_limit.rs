//! Limits on the requests a second of one client: by its token, and by its address. A client has a bucket of tokens, as in nginx's
//! `limit_req` and Envoy's rate limits: each request takes one, they come back at the rate, and the burst is the size of the bucket.
//!
//! A client that is not known yet may always begin, so the number of clients that are remembered is bounded by forgetting: those that have
//! waited longest go first, and they are the ones whose buckets are full again.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    nanos::Nanos,
    state::StateStore,
};

use crate::{
    error::{Error, Result},
    http::access::Principal,
    node::network,
};

/// Clients that are remembered for each limit: one and a half MiB. Beyond that, half of them are forgotten.
const CLIENTS_MAX: usize = 65_536;

/// Requests a second, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second.
    pub per_second: NonZeroU32,
    /// Requests that may come at once after a pause.
    pub burst: NonZeroU32,
}

/// The limits of all clients. Clones share the counts. The default has no limit.
#[derive(Clone, Debug, Default)]
pub struct RateLimits(Arc<Limits>);

#[derive(Debug, Default)]
struct Limits {
    of_token: Option<Limit>,
    of_address: Option<Limit>,
}

impl RateLimits {
    /// These limits, each of which may be absent.
    pub fn new(of_token: Option<Rate>, of_address: Option<Rate>) -> Self {
        Self(Arc::new(Limits { of_token: of_token.map(Limit::new), of_address: of_address.map(Limit::new) }))
    }

    /// Counts a request of an address. An IPv6 network of 64 bits is one address.
    ///
    /// # Errors
    /// `RateLimited`.
    pub fn count_address(&self, address: IpAddr) -> Result<()> {
        let Some(limit) = &self.0.of_address else { return Ok(()) };
        let address = network(address.to_canonical());
        limit.count(address, || format!("{address} sends"), "--rate-limit-per-address")
    }

    /// Counts a request of a token. Operators, and clients without a token, have no limit here.
    ///
    /// # Errors
    /// `RateLimited`.
    pub fn count_token(&self, principal: &Principal) -> Result<()> {
        match (&self.0.of_token, principal) {
            (Some(limit), Principal::Token(token)) => limit.count(
                &*token.name,
                || format!("the token {:?} sends", token.name),
                "--rate-limit-per-token",
            ),
            (Some(_), Principal::Nobody | Principal::Anyone | Principal::Operator) | (None, _) => Ok(()),
        }
    }

    /// How many requests were refused, by what was counted.
    pub fn refused(&self) -> [(&'static str, u64); 2] {
        [("token", &self.0.of_token), ("address", &self.0.of_address)]
            .map(|(by, limit)| (by, limit.as_ref().map_or(0, |limit| limit.refused.load(Ordering::Relaxed))))
    }
}

/// One limit, for all its clients.
struct Limit {
    rate: Rate,
    limiter: RateLimiter<u64, Clients, MonotonicClock>,
    /// Clients are known by a hash that nobody can predict: no text is copied for a request.
    hasher: RandomState,
    refused: AtomicU64,
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limit").field(&self.rate).finish()
    }
}

impl Limit {
    fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let limiter = RateLimiter::new(quota, Clients::default(), MonotonicClock);
        Self { rate, limiter, hasher: RandomState::new(), refused: AtomicU64::new(0) }
    }

    fn count(&self, client: impl Hash, who: impl FnOnce() -> String, setting: &str) -> Result<()> {
        let Err(refused) = self.limiter.check_key(&self.hasher.hash_one(client)) else { return Ok(()) };
        self.refused.fetch_add(1, Ordering::Relaxed);
        let wait = refused.wait_time_from(self.limiter.clock().now());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let Rate { per_second, burst } = self.rate;
        Err(Error::RateLimited {
            why: format!(
                "{} more than {per_second} requests a second, or {burst} at once ({setting}): send the next in {wait_ms} ms",
                who()
            ),
            wait_ms,
        })
    }
}

/// For each client, when its bucket will be full, in the limiter's time.
#[derive(Default)]
struct Clients(Mutex<HashMap<u64, Nanos>>);

impl StateStore for Clients {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, client: &u64, decide: F) -> std::result::Result<T, E>
    where
        F: Fn(Option<Nanos>) -> std::result::Result<(T, Nanos), E>,
    {
        // The map is whole after each change, also if a thread panics.
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clients.get(client).copied();
        let (outcome, full_at) = decide(known)?;
        if known.is_none() && clients.len() >= CLIENTS_MAX {
            forget_half(&mut clients);
        }
        clients.insert(*client, full_at);
        Ok(outcome)
    }
}

/// Forgets the half whose buckets are full first.
fn forget_half(clients: &mut HashMap<u64, Nanos>) {
    let mut instants: Vec<Nanos> = clients.values().copied().collect();
    let middle = instants.len() / 2;
    let (_, middle, _) = instants.select_nth_unstable(middle);
    let middle = *middle;
    clients.retain(|_, full_at| *full_at > middle);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::access::Grants, http::access::Token};

    fn rate(per_second: u32, burst: u32) -> Option<Rate> {
        let number = |number| NonZeroU32::new(number).expect("not zero");
        Some(Rate { per_second: number(per_second), burst: number(burst) })
    }

    fn token(name: &str) -> Principal {
        let token = Token { name: name.into(), grants: Grants::default(), expires_at_ms: None };
        Principal::Token(Arc::new(token))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_client_has_a_burst_of_its_own_and_is_told_how_long_to_wait() {
        let limits = RateLimits::new(rate(1, 2), rate(2, 1));
        for name in ["a", "b"] {
            assert_eq!(
                [limits.count_token(&token(name)), limits.count_token(&token(name))],
                [Ok(()), Ok(())]
            );
            let Err(Error::RateLimited { why, wait_ms }) = limits.count_token(&token(name)) else {
                panic!("{name} has no limit")
            };
            assert!((1..=1000).contains(&wait_ms), "{wait_ms}");
            assert!(why.contains(name) && why.contains("--rate-limit-per-token"), "{why}");
        }
        assert_eq!(limits.count_address(address("10.0.0.1")), Ok(()));
        assert!(limits.count_address(address("10.0.0.1")).is_err());
        assert!(limits.count_address(address("::ffff:10.0.0.1")).is_err(), "the same address");
        assert_eq!(limits.count_address(address("2001:db8:1:2::1")), Ok(()));
        assert!(limits.count_address(address("2001:db8:1:2::2")).is_err(), "the same network");
        assert_eq!(limits.refused(), [("token", 2), ("address", 3)]);
    }

    #[test]
    fn only_tokens_are_counted_as_tokens_and_no_limit_is_none() {
        let limits = RateLimits::new(rate(1, 1), None);
        for principal in [Principal::Anyone, Principal::Operator, Principal::Nobody] {
            for _ in 0..3 {
                assert_eq!(limits.count_token(&principal), Ok(()));
                assert_eq!(limits.count_address(address("10.0.0.1")), Ok(()));
            }
        }
        assert_eq!(RateLimits::default().refused(), [("token", 0), ("address", 0)]);
    }

    #[test]
    fn the_number_of_clients_is_bounded_and_the_busiest_is_not_forgotten() {
        let limit = Limit::new(rate(1, 100).expect("a rate"));
        let count = |client: u64| limit.count(client, String::new, "");
        for _ in 0..100 {
            assert_eq!(count(0), Ok(()));
        }
        for client in 1..2 * CLIENTS_MAX as u64 {
            assert_eq!(count(client), Ok(()));
        }
        // As many come back in a second or two as this takes.
        assert!((0..10).any(|_| count(0).is_err()), "the busiest was forgotten");
        let clients = limit.limiter.into_state_store().0.into_inner().expect("sound");
        assert!((CLIENTS_MAX / 4..=CLIENTS_MAX).contains(&clients.len()), "{}", clients.len());
    }
}
