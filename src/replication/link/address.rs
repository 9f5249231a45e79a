//! The address at which a node tells others to reach it, as text.
//!
//! In this order: what it was told to say; the address it listens at, if that is one; the address of the interface through which it
//! reached a peer, once that peer has dialed it there; the text under which a peer reached it. A node that listens on all
//! interfaces and has met nobody has none, and needs none.
//!
//! What was learned stays, so that a cluster does not chase a node with two interfaces. One exception: an address that only this
//! machine understands gives way to one that others do. A restart remembers it, until a peer reaches the node under another; a
//! number, as machines get new ones, also until the node reaches a peer from another.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What counts as one address where addresses have limits: of IPv6 the upper half, as whoever has one has all of the lower.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// What is known about a node's own address.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// Given or specific: nothing that is learned replaces it.
    fixed: Option<String>,
    learned: Option<String>,
    candidate: Option<String>,
    /// What was told before the restart.
    remembered: Option<String>,
    port: u16,
}

impl Advertised {
    /// What a node advertises that was told to say `told`, if it was, and listens at `listen`, with the port it really got.
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

    /// The same after a restart, before which others were told `address`. Nothing is known of one with another port.
    pub fn remembering(self, address: Option<String>) -> Self {
        let here = |address: &String| port_of(address) == Some(self.port) && reach(address) != Reach::Nobody;
        let remembered = address.filter(here).filter(|_| self.fixed.is_none());
        Self { remembered, ..self }
    }

    /// The address to tell others, once there is one.
    pub fn current(&self) -> Option<&str> {
        self.fixed.as_deref().or(self.learned.as_deref())
    }

    /// The address that a peer is to dial and confirm, as none is known yet that others can use.
    pub fn candidate(&self) -> Option<&str> {
        self.remembered.as_deref().or(self.candidate.as_deref())
    }

    /// This node reached a peer through a socket whose local address is `local`: the peer may reach it there too.
    pub fn reached_from(&mut self, local: IpAddr) {
        let address = SocketAddr::new(local.to_canonical(), self.port).to_string();
        if self.improves(&address) {
            self.remembered.take_if(|remembered| remembered.parse::<SocketAddr>().is_ok());
            self.candidate = Some(address);
        }
    }

    /// A peer reached this node under `address`. Says whether the address to tell others changed.
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
    fn one_half_of_an_ipv6_address_is_one_address() {
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
    fn what_was_told_or_listened_at_is_never_replaced() {
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
    fn the_interface_towards_a_peer_counts_once_the_peer_came_back_through_it() {
        let mut advertised = listening("0.0.0.0:6661");
        advertised.reached_from(ip("10.0.0.7"));
        assert_eq!((advertised.current(), advertised.candidate()), (None, Some("10.0.0.7:6661")));
        assert!(advertised.reached_as("10.0.0.7:6661"));
        assert_eq!((advertised.current(), advertised.candidate()), (Some("10.0.0.7:6661"), None));
    }

    #[test]
    fn an_interface_that_nobody_came_back_through_is_not_told() {
        for (local, candidate) in [("::ffff:10.0.0.7", "10.0.0.7:6661"), ("fd00::7", "[fd00::7]:6661")] {
            let mut advertised = listening("[::]:6661");
            advertised.reached_from(ip(local));
            assert_eq!((advertised.current(), advertised.candidate()), (None, Some(candidate)));
        }
    }

    #[test]
    fn the_first_name_it_was_reached_under_stays() {
        let mut advertised = listening("0.0.0.0:6660");
        assert!(advertised.reached_as("dynarust-node1:6660"));
        assert!(!advertised.reached_as("172.18.0.2:6660"));
        assert_eq!(advertised.current(), Some("dynarust-node1:6660"));
    }

    #[test]
    fn a_name_for_this_machine_alone_gives_way_to_one_for_all() {
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
    fn what_was_told_before_a_restart_is_told_until_something_speaks_against_it() {
        for address in ["node1:6660", "10.0.0.7:6660", "localhost:6660"] {
            let mut same = restarted("0.0.0.0:6660", address);
            assert_eq!((same.current(), same.candidate()), (None, Some(address)));
            assert!(same.reached_as(address));
            assert_eq!((same.current(), same.candidate()), (Some(address), None));
            let mut moved = restarted("0.0.0.0:6660", address);
            assert!(moved.reached_as("elsewhere:6660"), "{address}");
            assert_eq!((moved.current(), moved.candidate()), (Some("elsewhere:6660"), None));
        }
        // A name says where the node is whatever number its machine got, and a number does not.
        let mut named = restarted("0.0.0.0:6660", "node1:6660");
        named.reached_from(ip("10.0.0.8"));
        assert_eq!(named.candidate(), Some("node1:6660"));
        assert!(!named.reached_as("localhost:6660"), "others know a better one");
        let mut numbered = restarted("0.0.0.0:6660", "10.0.0.7:6660");
        numbered.reached_from(ip("10.0.0.8"));
        assert_eq!(numbered.candidate(), Some("10.0.0.8:6660"));
    }

    #[test]
    fn what_was_told_before_a_restart_is_forgotten_where_the_node_listens_elsewhere() {
        for listen in ["0.0.0.0:7000", "10.0.0.9:6660"] {
            let advertised = restarted(listen, "node1:6660");
            assert_eq!(advertised.candidate(), None, "{listen}");
        }
        let told = Advertised::new(Some("told:6660"), "0.0.0.0:6660".parse().expect("an address"));
        let told = told.remembering(Some("node1:6660".into()));
        assert_eq!((told.current(), told.candidate()), (Some("told:6660"), None));
    }

    #[test]
    fn what_nobody_can_dial_is_never_told() {
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
