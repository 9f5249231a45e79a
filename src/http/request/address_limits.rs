//! Limits per address: connections, and requests in flight. So no address can shut out the others, however many connections it opens and
//! however little it sends on them.
//!
//! An IPv6 network of 64 bits counts as one address. A proxy is one address too: set `--max-connections-per-address` for a proxy on another
//! machine. Loopback addresses have a limit of their own, which is the limit of all connections unless the option is set: they are this
//! machine's programs and a proxy next to the node.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    error::{Error, Result},
    node::network,
};

/// The connections and requests of all connected addresses.
#[derive(Debug)]
pub struct AddressLimits {
    connections_max: usize,
    loopback_connections_max: usize,
    addresses: Mutex<HashMap<IpAddr, Arc<Counts>>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Changed only under the lock of `addresses`.
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// The place of one connection within its address's limit; released when dropped.
#[derive(Debug)]
pub struct AddressSlot {
    address_limits: Arc<AddressLimits>,
    address: IpAddr,
    counts: Arc<Counts>,
}

impl AddressLimits {
    /// The most connections per address, and per loopback address. Each may have as many requests in flight.
    pub fn new(connections_max: usize, loopback_connections_max: usize) -> Arc<Self> {
        Arc::new(Self { connections_max, loopback_connections_max, addresses: Mutex::default() })
    }

    fn of(&self, address: IpAddr) -> usize {
        if address.is_loopback() { self.loopback_connections_max } else { self.connections_max }
    }

    /// Takes a place for one more connection of an address.
    ///
    /// # Errors
    /// `TooMany` if the address is at its limit.
    pub fn connect(self: &Arc<Self>, address: IpAddr) -> Result<AddressSlot> {
        let address =
            if address.to_canonical().is_loopback() { address.to_canonical() } else { network(address) };
        let limit = self.of(address);
        let mut addresses = self.addresses();
        let counts = addresses.entry(address).or_default();
        if counts.connections.load(Ordering::Relaxed) >= limit {
            return Err(Error::TooMany(format!(
                "{address} already has {limit} connections, the most allowed (--max-connections-per-address): reuse them, or close some"
            )));
        }
        counts.connections.fetch_add(1, Ordering::Relaxed);
        Ok(AddressSlot { address_limits: Arc::clone(self), address, counts: Arc::clone(counts) })
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Counts>>> {
        // Counts are plain numbers, valid even after a panic.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressSlot {
    /// Counts a request of this connection until the result is dropped.
    pub fn request(&self) -> InFlight {
        let before = self.counts.requests.fetch_add(1, Ordering::Relaxed);
        InFlight {
            counts: Arc::clone(&self.counts),
            is_too_many: before >= self.address_limits.of(self.address),
        }
    }

    /// The error for a request beyond the address's limit.
    pub fn too_many_requests(&self) -> Error {
        Error::TooMany(format!(
            "{} already has {} requests in flight, the most allowed (--max-connections-per-address): wait for some to finish",
            self.address,
            self.address_limits.of(self.address)
        ))
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut addresses = self.address_limits.addresses();
        if self.counts.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            addresses.remove(&self.address);
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight {
    counts: Arc<Counts>,
    /// Whether its address was already at the limit.
    pub is_too_many: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.counts.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_at_its_limit_does_not_affect_others() {
        let address_limits = AddressLimits::new(2, 3);
        let slots: Vec<_> =
            (0..2).map(|_| address_limits.connect(address("10.0.0.1")).expect("a place")).collect();
        assert!(matches!(address_limits.connect(address("10.0.0.1")), Err(Error::TooMany(_))));
        assert!(address_limits.connect(address("10.0.0.2")).is_ok());
        drop(slots);
        assert!(address_limits.connect(address("10.0.0.1")).is_ok());
        assert_eq!(address_limits.addresses().len(), 0, "an address without connections is forgotten");
    }

    #[test]
    fn loopback_addresses_have_their_own_limit() {
        let address_limits = AddressLimits::new(1, 2);
        for here in ["127.0.0.1", "::1", "::ffff:127.0.0.2"] {
            let _slots = [(); 2].map(|()| address_limits.connect(address(here)).expect("a place"));
            assert!(address_limits.connect(address(here)).is_err(), "{here}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let address_limits = AddressLimits::new(1, 1);
        let _one = address_limits.connect(address("2001:db8:1:2::1")).expect("a place");
        assert!(address_limits.connect(address("2001:db8:1:2:ffff::9")).is_err());
        assert!(address_limits.connect(address("2001:db8:1:3::1")).is_ok());
        let _mapped = address_limits.connect(address("::ffff:10.0.0.1")).expect("a place");
        assert!(address_limits.connect(address("10.0.0.1")).is_err());
    }

    #[test]
    fn requests_in_flight_have_the_same_limit() {
        let address_limits = AddressLimits::new(2, 3);
        let (one, other) =
            (address_limits.connect(address("10.0.0.1")), address_limits.connect(address("10.0.0.1")));
        let (one, other) = (one.expect("a place"), other.expect("a place"));
        let first = one.request();
        let second = other.request();
        assert!(!first.is_too_many && !second.is_too_many && one.request().is_too_many);
        drop(first);
        assert!(!other.request().is_too_many);
    }
}
