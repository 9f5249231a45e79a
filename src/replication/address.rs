//! The address at which a node tells others to reach it, as text.
//!
//! In this order: what it was told to say; the address it listens at, if that is one; the address of the interface through which it
//! reached a peer, once that peer has dialed it there; the text under which a peer reached it. A node that listens on all
//! interfaces and has met nobody has none, and needs none.
//!
//! What was learned stays until the restart, so that a cluster does not chase a node with two interfaces. One exception: an
//! address that only this machine understands gives way to one that others do.

use std::net::{IpAddr, SocketAddr};

/// What is known about a node's own address.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// Given or specific: nothing that is learned replaces it.
    fixed: Option<String>,
    learned: Option<String>,
    candidate: Option<String>,
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
            port: listen.port(),
        }
    }

    /// The address to tell others, once there is one.
    pub fn current(&self) -> Option<&str> {
        self.fixed.as_deref().or(self.learned.as_deref())
    }

    /// The address that a peer is to dial and confirm, as none is known yet that others can use.
    pub fn candidate(&self) -> Option<&str> {
        self.candidate.as_deref()
    }

    /// This node reached a peer through a socket whose local address is `local`: the peer may reach it there too.
    pub fn reached_from(&mut self, local: IpAddr) {
        let address = SocketAddr::new(local.to_canonical(), self.port).to_string();
        if self.improves(&address) {
            self.candidate = Some(address);
        }
    }

    /// A peer dialed the candidate and found this node there. Says whether the address to tell others changed.
    pub fn confirmed(&mut self, address: &str) -> bool {
        self.candidate.take_if(|candidate| candidate == address).is_some_and(|address| self.learn(&address))
    }

    /// A peer dialed the candidate and found nobody, or somebody else.
    pub fn refuted(&mut self, address: &str) {
        self.candidate.take_if(|candidate| candidate == address);
    }

    /// A peer reached this node under `address`. Says whether the address to tell others changed.
    pub fn reached_as(&mut self, address: &str) -> bool {
        self.learn(address)
    }

    fn learn(&mut self, address: &str) -> bool {
        let better = self.improves(address);
        if better {
            self.learned = Some(address.to_owned());
            self.candidate = None;
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

fn reach(address: &str) -> Reach {
    let Some((host, port)) = address.rsplit_once(':') else { return Reach::Nobody };
    if host.is_empty() || !port.parse::<u16>().is_ok_and(|port| port != 0) {
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
        assert!(!advertised.confirmed("10.0.0.8:6661"));
        assert!(advertised.confirmed("10.0.0.7:6661"));
        assert_eq!((advertised.current(), advertised.candidate()), (Some("10.0.0.7:6661"), None));
    }

    #[test]
    fn an_interface_that_nobody_comes_back_through_is_not_told() {
        let mut advertised = listening("[::]:6661");
        advertised.reached_from(ip("::ffff:10.0.0.7"));
        assert_eq!(advertised.candidate(), Some("10.0.0.7:6661"));
        advertised.refuted("10.0.0.7:6661");
        assert_eq!((advertised.current(), advertised.candidate()), (None, None));
        advertised.reached_from(ip("fd00::7"));
        assert_eq!(advertised.candidate(), Some("[fd00::7]:6661"));
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
