//! The address at which other nodes are told to reach this one, as text.
//!
//! In order of preference: the configured address; the listening address, if it is a specific one; the local interface
//! used to reach a peer, once that peer has dialed it; the address a peer dialed. A node that listens on all interfaces
//! and has met no other node has no address, and needs none.
//!
//! A learned address is kept, so that a node with two interfaces does not keep changing. There is one exception: an
//! address that only works on this machine is replaced by one that works for others. The address survives a restart
//! until a peer reaches the node at another one. An IP address, which machines may lose, is also dropped if the node
//! reaches a peer from another.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The network that counts as one address where there are limits per address. For IPv6 it is the upper half: whoever
/// has one such network can use any address in it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// What a node knows of its own address.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// Configured or specific. Never replaced by a learned one.
    fixed: Option<String>,
    learned: Option<String>,
    candidate: Option<String>,
    /// The address from before the restart.
    remembered: Option<String>,
    port: u16,
}

impl Advertised {
    /// `told` is the configured address, if any. `listen` includes the actual port.
    pub fn new(told: Option<&str>, listen: SocketAddr) -> Self {
        let specific = (!listen.ip().is_unspecified()).then(|| listen.to_string());
        Self {
            fixed: told.map(str::to_owned).or(specific),
            learned: None,
            candidate: None,
            remembered: None,
            port: listen.port(),
        }
    }

    /// Restores the address from before a restart. An address with another port is ignored.
    pub fn remembering(self, address: Option<String>) -> Self {
        let here = |address: &String| port_of(address) == Some(self.port) && reach(address) != Reach::Nobody;
        let remembered = address.filter(here).filter(|_| self.fixed.is_none());
        Self { remembered, ..self }
    }

    /// The address to tell others, if known.
    pub fn current(&self) -> Option<&str> {
        self.fixed.as_deref().or(self.learned.as_deref())
    }

    /// An address for a peer to dial and confirm, while none is known to work for others.
    pub fn candidate(&self) -> Option<&str> {
        self.remembered.as_deref().or(self.candidate.as_deref())
    }

    /// This node reached a peer from the local address `local`, so the peer may reach it there too.
    pub fn reached_from(&mut self, local: IpAddr) {
        let address = SocketAddr::new(local.to_canonical(), self.port).to_string();
        if self.improves(&address) {
            self.remembered.take_if(|remembered| remembered.parse::<SocketAddr>().is_ok());
            self.candidate = Some(address);
        }
    }

    /// A peer reached this node at `address`. Returns whether the address to tell others changed.
    pub fn reached_as(&mut self, address: &str) -> bool {
        self.learn(address)
    }

    fn learn(&mut self, address: &str) -> bool {
        let remembered = self.remembered.as_deref().map_or(Reach::Nobody, reach);
        let better = self.improves(address) && reach(address) >= remembered;
        if better {
            self.learned = Some(address.to_owned());
            (self.candidate, self.remembered) = (None, None);
        }
        better
    }

    fn improves(&self, address: &str) -> bool {
        let known = self.learned.as_deref().map(reach);
        self.fixed.is_none() && reach(address) > known.unwrap_or(Reach::Nobody)
    }
}

/// Who can dial an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Nobody,
    ThisMachine,
    Others,
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

fn reach(address: &str) -> Reach {
    let Some((host, _)) = address.rsplit_once(':') else { return Reach::Nobody };
    if host.is_empty() || port_of(address).is_none_or(|port| port == 0) {
        return Reach::Nobody;
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if ip.is_unspecified() => Reach::Nobody,
        Ok(ip) if ip.is_loopback() => Reach::ThisMachine,
        Err(_) if bare.eq_ignore_ascii_case("localhost") => Reach::ThisMachine,
        Ok(_) | Err(_) => Reach::Others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_counts_by_its_upper_half() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    fn listening(listen: &str) -> Advertised {
        Advertised::new(None, listen.parse().expect("an address"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_configured_or_listening_address_is_never_replaced() {
        let told = Advertised::new(Some("node1.example:6660"), "0.0.0.0:6660".parse().expect("an address"));
        for (mut advertised, expected) in
            [(told, "node1.example:6660"), (listening("127.0.0.1:6660"), "127.0.0.1:6660")]
        {
            assert!(!advertised.reached_as("other:6660"));
            advertised.reached_from(ip("10.0.0.7"));
            assert_eq!((advertised.current(), advertised.candidate()), (Some(expected), None));
        }
    }

    #[test]
    fn the_interface_towards_a_peer_counts_once_the_peer_dialed_it() {
        let mut advertised = listening("0.0.0.0:6661");
        advertised.reached_from(ip("10.0.0.7"));
        assert_eq!((advertised.current(), advertised.candidate()), (None, Some("10.0.0.7:6661")));
        assert!(advertised.reached_as("10.0.0.7:6661"));
        assert_eq!((advertised.current(), advertised.candidate()), (Some("10.0.0.7:6661"), None));
    }

    #[test]
    fn an_unconfirmed_interface_is_only_a_candidate() {
        for (local, candidate) in [("::ffff:10.0.0.7", "10.0.0.7:6661"), ("fd00::7", "[fd00::7]:6661")] {
            let mut advertised = listening("[::]:6661");
            advertised.reached_from(ip(local));
            assert_eq!((advertised.current(), advertised.candidate()), (None, Some(candidate)));
        }
    }

    #[test]
    fn the_first_name_that_works_is_kept() {
        let mut advertised = listening("0.0.0.0:6660");
        assert!(advertised.reached_as("dynarust-node1:6660"));
        assert!(!advertised.reached_as("172.18.0.2:6660"));
        assert_eq!(advertised.current(), Some("dynarust-node1:6660"));
    }

    #[test]
    fn a_name_for_this_machine_only_gives_way_to_one_for_all() {
        for here in ["127.0.0.1:6660", "localhost:6660", "[::1]:6660"] {
            let mut advertised = listening("0.0.0.0:6660");
            assert!(advertised.reached_as(here));
            assert!(advertised.reached_as("node1:6660"), "{here}");
            assert!(!advertised.reached_as(here));
        }
    }

    fn restarted(listen: &str, address: &str) -> Advertised {
        listening(listen).remembering(Some(address.into()))
    }

    #[test]
    fn the_address_before_a_restart_is_kept_until_it_is_contradicted() {
        for address in ["node1:6660", "10.0.0.7:6660", "localhost:6660"] {
            let mut same = restarted("0.0.0.0:6660", address);
            assert_eq!((same.current(), same.candidate()), (None, Some(address)));
            assert!(same.reached_as(address));
            assert_eq!((same.current(), same.candidate()), (Some(address), None));
            let mut moved = restarted("0.0.0.0:6660", address);
            assert!(moved.reached_as("elsewhere:6660"), "{address}");
            assert_eq!((moved.current(), moved.candidate()), (Some("elsewhere:6660"), None));
        }
        // A name stays valid when its machine gets another IP address.
        let mut named = restarted("0.0.0.0:6660", "node1:6660");
        named.reached_from(ip("10.0.0.8"));
        assert_eq!(named.candidate(), Some("node1:6660"));
        assert!(!named.reached_as("localhost:6660"), "other nodes know a better one");
        let mut numbered = restarted("0.0.0.0:6660", "10.0.0.7:6660");
        numbered.reached_from(ip("10.0.0.8"));
        assert_eq!(numbered.candidate(), Some("10.0.0.8:6660"));
    }

    #[test]
    fn the_address_before_a_restart_is_dropped_if_the_node_listens_elsewhere() {
        for listen in ["0.0.0.0:7000", "10.0.0.9:6660"] {
            let advertised = restarted(listen, "node1:6660");
            assert_eq!(advertised.candidate(), None, "{listen}");
        }
        let told = Advertised::new(Some("told:6660"), "0.0.0.0:6660".parse().expect("an address"));
        let told = told.remembering(Some("node1:6660".into()));
        assert_eq!((told.current(), told.candidate()), (Some("told:6660"), None));
    }

    #[test]
    fn an_address_that_cannot_be_dialed_is_never_told() {
        let mut advertised = listening("0.0.0.0:6660");
        for nowhere in
            ["0.0.0.0:6660", "[::]:6660", "[::ffff:0.0.0.0]:6660", "", "node1", ":6660", "node1:0", "node1:x"]
        {
            assert!(!advertised.reached_as(nowhere), "{nowhere}");
        }
        advertised.reached_from(ip("0.0.0.0"));
        assert_eq!((advertised.current(), advertised.candidate()), (None, None));
    }
}
