//! The socket that a node serves at, and the address at which others reach it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::{
    config::{Config, kinds::Address},
    error::{Error, Result},
};

/// Connections that wait to be accepted. The kernel cuts it down to net.core.somaxconn (4096); a smaller one would refuse
/// some of many subscribers that come back at the same moment.
const BACKLOG: u32 = 4096;

/// Listens at the first of the addresses that `address` stands for which can be had.
///
/// # Errors
/// `Io`, with the remedy: the name is unknown, the port is taken or not allowed, the address is another machine's.
pub async fn bind(address: &Address) -> Result<TcpListener> {
    let resolved = lookup_host((address.host(), address.port())).await;
    let resolved = resolved.map_err(|error| {
        Error::Io(format!("cannot listen at {}: its host does not resolve ({error})", address.as_str()))
    })?;
    let mut refusal = io::ErrorKind::AddrNotAvailable.into();
    for candidate in resolved {
        match listen(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => refusal = error,
        }
    }
    Err(Error::Io(format!("cannot listen at {}: {}", address.as_str(), explain(&refusal))))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A node that restarts need not wait for the connections of its last life to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use. Another node may be running (`ss -ltnp` shows who listens); stop that one, or choose \
             another port"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address. 127.0.0.1 is this machine alone, 0.0.0.0 all its interfaces"
                .into()
        }
        io::ErrorKind::PermissionDenied => {
            "not allowed. Ports below 1024 are for root; choose another, such as 6660".into()
        }
        _ => error.to_string(),
    }
}

/// The address that a node listening at `local` tells others, as text: a name that was given is resolved by whoever uses it.
pub fn advertised(config: &Config, local: SocketAddr) -> String {
    match &config.advertise {
        Some(address) => address.as_str().to_owned(),
        None => reachable(local).to_string(),
    }
}

/// The address at which others reach a node that listens at `local`: that one, if it names one interface.
fn reachable(local: SocketAddr) -> SocketAddr {
    if !local.ip().is_unspecified() {
        return local;
    }
    let outward = outward_interface(local.ip());
    SocketAddr::new(outward.unwrap_or_else(|_| loopback(local.ip())), local.port())
}

/// The address at which this machine reaches a node that listens at `local`.
pub fn reachable_here(local: SocketAddr) -> SocketAddr {
    if local.ip().is_unspecified() { SocketAddr::new(loopback(local.ip()), local.port()) } else { local }
}

/// The interface that leads outside. Connecting a datagram socket asks the routing table and sends nothing; the target is
/// an address of RFC 5737 or RFC 3849 that nobody has.
fn outward_interface(family: IpAddr) -> io::Result<IpAddr> {
    let target: IpAddr = match family {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((family, 0))?;
    socket.connect((target, 9))?;
    Ok(socket.local_addr()?.ip())
}

fn loopback(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kinds::Kind;

    async fn refusal(address: &str) -> String {
        bind(&Address::parse(address).expect("an address")).await.expect_err("refused").to_string()
    }

    #[tokio::test]
    async fn a_name_is_resolved_and_port_0_takes_a_free_one() {
        let listener = bind(&Address::parse("localhost:0").expect("an address")).await.expect("bound");
        let local = listener.local_addr().expect("bound");
        assert!(local.ip().is_loopback() && local.port() != 0);
        assert_eq!(reachable(local), local);
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_said_with_its_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = taken.local_addr().expect("bound").to_string();
        let said = refusal(&address).await;
        assert!(said.contains(&address) && said.contains("in use") && said.contains("choose"), "{said}");
        assert!(refusal("192.0.2.1:6660").await.contains("no interface"));
        assert!(refusal("no-such-host.invalid:6660").await.contains("does not resolve"));
    }

    #[test]
    fn every_interface_is_no_address_to_be_reached_at() {
        for text in ["0.0.0.0:6660", "[::]:6660"] {
            let local = text.parse().expect("an address");
            for address in [reachable(local), reachable_here(local)] {
                assert!(!address.ip().is_unspecified() && address.port() == 6660, "{address}");
            }
        }
    }
}
