//! What one address may have of what there is for all: connections, and requests in flight. So no address can shut all others
//! out, however many connections it opens and however little it says on them.
//!
//! Of IPv6 a network of 64 bits is one address. A proxy is one address too: `--max-connections-per-address` has to be set for one
//! on another machine. Those of this machine have a share of their own, all unless that is set: they are its own programs, and a
//! proxy beside the node.

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

/// The shares of all addresses that are connected now.
#[derive(Debug)]
pub struct AddressLimits {
    connections_max: usize,
    loopback_connections_max: usize,
    addresses: Mutex<HashMap<IpAddr, Arc<Counts>>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Changed under the lock of the addresses only.
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// A connection's place in the share of its address, until it is dropped.
#[derive(Debug)]
pub struct AddressSlot {
    address_limits: Arc<AddressLimits>,
    address: IpAddr,
    counts: Arc<Counts>,
}

impl AddressLimits {
    /// Of so many connections an address, or an address of this machine. It may have as many requests in flight.
    pub fn new(connections_max: usize, loopback_connections_max: usize) -> Arc<Self> {
        Arc::new(Self { connections_max, loopback_connections_max, addresses: Mutex::default() })
    }

    fn of(&self, address: IpAddr) -> usize {
        if address.is_loopback() { self.loopback_connections_max } else { self.connections_max }
    }

    /// A place for one more connection of an address.
    ///
    /// # Errors
    /// `TooMany` where it has its share.
    pub fn connect(self: &Arc<Self>, address: IpAddr) -> Result<AddressSlot> {
        let address =
            if address.to_canonical().is_loopback() { address.to_canonical() } else { network(address) };
        let limit = self.of(address);
        let mut addresses = self.addresses();
        let counts = addresses.entry(address).or_default();
        if counts.connections.load(Ordering::Relaxed) >= limit {
            return Err(Error::TooMany(format!(
                "{address} has its {limit} connections (--max-connections-per-address): use those, or close some"
            )));
        }
        counts.connections.fetch_add(1, Ordering::Relaxed);
        Ok(AddressSlot { address_limits: Arc::clone(self), address, counts: Arc::clone(counts) })
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Counts>>> {
        // Counts are numbers, whole whatever panicked.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressSlot {
    /// Counts a request of this connection until what is returned is dropped.
    pub fn request(&self) -> InFlight {
        let before = self.counts.requests.fetch_add(1, Ordering::Relaxed);
        InFlight {
            counts: Arc::clone(&self.counts),
            is_too_many: before >= self.address_limits.of(self.address),
        }
    }

    /// The error of a request beyond the share of its address.
    pub fn too_many_requests(&self) -> Error {
        Error::TooMany(format!(
            "{} has {} requests in flight, which is its share (--max-connections-per-address): wait for some",
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
    /// Whether its address had its share before.
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
    fn an_address_has_its_share_and_no_other_notices() {
        let address_limits = AddressLimits::new(2, 3);
        let slots: Vec<_> =
            (0..2).map(|_| address_limits.connect(address("10.0.0.1")).expect("a place")).collect();
        assert!(matches!(address_limits.connect(address("10.0.0.1")), Err(Error::TooMany(_))));
        assert!(address_limits.connect(address("10.0.0.2")).is_ok());
        drop(slots);
        assert!(address_limits.connect(address("10.0.0.1")).is_ok());
        assert_eq!(address_limits.addresses().len(), 0, "who has left is forgotten");
    }

    #[test]
    fn addresses_of_this_machine_have_a_share_of_their_own() {
        let address_limits = AddressLimits::new(1, 2);
        for here in ["127.0.0.1", "::1", "::ffff:127.0.0.2"] {
            let _slots = [(); 2].map(|()| address_limits.connect(address(here)).expect("a place"));
            assert!(address_limits.connect(address(here)).is_err(), "{here}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let address_limits = AddressLimits::new(1, 1);
        let _one = address_limits.connect(address("2001:db8:1:2::1")).expect("a place");
        assert!(address_limits.connect(address("2001:db8:1:2:ffff::9")).is_err());
        assert!(address_limits.connect(address("2001:db8:1:3::1")).is_ok());
        let _mapped = address_limits.connect(address("::ffff:10.0.0.1")).expect("a place");
        assert!(address_limits.connect(address("10.0.0.1")).is_err());
    }

    #[test]
    fn requests_in_flight_have_the_same_share() {
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
