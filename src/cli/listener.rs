//! The listening socket of a node, and the addresses at which clients and other nodes reach it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tracing::info;

use crate::{
    config::{Config, types::Address},
    error::{Error, Result},
};

/// Connections that may wait to be accepted. The kernel's limit is net.core.somaxconn (4096). With a smaller backlog, many subscribers
/// that reconnect at the same time would be refused.
const BACKLOG: u32 = 4096;

/// Listens at the first of the resolved addresses that is available.
///
/// # Errors
/// `Io` if the name does not resolve, the port is in use or not allowed, or the address is not of this machine. The text says what to do.
pub async fn bind(address: &Address) -> Result<TcpListener> {
    let resolved = lookup_host((address.host(), address.port())).await;
    let resolved = resolved.map_err(|error| {
        Error::Io(format!("cannot listen on {}: the host name does not resolve ({error})", address.as_str()))
    })?;
    let mut refusal = io::ErrorKind::AddrNotAvailable.into();
    for candidate in resolved {
        match listen(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => refusal = error,
        }
    }
    Err(Error::Io(format!("cannot listen on {}: {}", address.as_str(), explain(&refusal))))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // So that a restarted node need not wait until its old connections have timed out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use. Another node may be running (`ss -ltnp` shows who listens): stop it, or choose \
             another port"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "no network interface of this machine has that address. Use 127.0.0.1 for this machine only, 0.0.0.0 for all its interfaces"
                .into()
        }
        io::ErrorKind::PermissionDenied => {
            "not allowed. Ports below 1024 are for root: choose another, such as 6660".into()
        }
        _ => error.to_string(),
    }
}

/// Returns an error if all addresses to join are this node's own, which listens at `local`. Names are not resolved, as one may stand for
/// several nodes, or for another node later.
///
/// # Errors
/// `Config` with what to do instead.
pub fn reject_own_address(join: &[Address], local: SocketAddr) -> Result<()> {
    let own = |address: &Address| is_own(address, local);
    for address in join.iter().filter(|address| own(address)) {
        if join.iter().all(own) {
            return Err(Error::Config(format!(
                "JOIN {}: that is this node's own address. Name another node of the cluster; to start alone, leave it out",
                address.as_str()
            )));
        }
        info!("{} is this node's own address: it joins the others", address.as_str());
    }
    Ok(())
}

/// Whether this certainly is the node's own address.
fn is_own(address: &Address, local: SocketAddr) -> bool {
    let ip = match address.host().parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical(),
        Err(_) if address.is_this_machine() => loopback(local.ip()),
        Err(_) => return false,
    };
    let listens_everywhere = local.ip().is_unspecified();
    let is_here = ip.is_unspecified() || ip.is_loopback() && listens_everywhere;
    address.port() == local.port()
        && (is_here || ip == local.ip().to_canonical() || listens_everywhere && ip == reachable(local).ip())
}

/// The address that a node listening at `local` tells others, as text: the other nodes resolve a name themselves.
pub fn advertised_address(config: &Config, local: SocketAddr) -> String {
    match &config.advertise {
        Some(address) => address.0.as_str().to_owned(),
        None => reachable(local).to_string(),
    }
}

/// The address at which other nodes reach one that listens at `local`: the same, unless it means all interfaces.
fn reachable(local: SocketAddr) -> SocketAddr {
    if !local.ip().is_unspecified() {
        return local;
    }
    let outward = default_route_interface(local.ip());
    SocketAddr::new(outward.unwrap_or_else(|_| loopback(local.ip())), local.port())
}

/// The address at which programs of this machine reach a node that listens at `local`.
pub fn reachable_here(local: SocketAddr) -> SocketAddr {
    if local.ip().is_unspecified() { SocketAddr::new(loopback(local.ip()), local.port()) } else { local }
}

/// The address of the interface with the default route. Connecting a UDP socket looks up the route and sends nothing. The target is
/// a documentation address (RFC 5737, RFC 3849), which no host has.
fn default_route_interface(family: IpAddr) -> io::Result<IpAddr> {
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
    use crate::config::types::SettingType;

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
    async fn errors_say_why_it_cannot_listen_and_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = taken.local_addr().expect("bound").to_string();
        let said = refusal(&address).await;
        assert!(said.contains(&address) && said.contains("in use") && said.contains("choose"), "{said}");
        assert!(refusal("192.0.2.1:6660").await.contains("no network interface"));
        assert!(refusal("no-such-host.invalid:6660").await.contains("does not resolve"));
    }

    #[test]
    fn a_node_told_to_join_only_itself_is_refused() {
        let refused = |join: &[&str], local: &str| {
            let join: Vec<_> = join.iter().map(|text| Address::parse(text).expect("an address")).collect();
            reject_own_address(&join, local.parse().expect("an address")).err().map(|error| error.to_string())
        };
        for (join, local) in [
            (&["127.0.0.1:6660"][..], "127.0.0.1:6660"),
            (&["6660", "localhost:6660"], "127.0.0.1:6660"),
            (&["127.0.0.1:6660"], "0.0.0.0:6660"),
            (&["0.0.0.0:6660"], "0.0.0.0:6660"),
            (&["[::1]:6660"], "[::]:6660"),
        ] {
            let why = refused(join, local).unwrap_or_else(|| panic!("{join:?} at {local}"));
            assert!(why.contains(join[0].trim_start_matches("6660")) && why.contains("own address"), "{why}");
        }
        for (join, local) in [
            (&[][..], "127.0.0.1:6660"),
            (&["127.0.0.1:6661"], "127.0.0.1:6660"),
            (&["127.0.0.2:6660"], "127.0.0.1:6660"),
            (&["127.0.0.1:6660", "127.0.0.1:6661"], "127.0.0.1:6660"),
            // It may be the name of a service with several nodes.
            (&["dynarust:6660"], "0.0.0.0:6660"),
        ] {
            assert_eq!(refused(join, local), None, "{join:?} at {local}");
        }
    }

    #[test]
    fn nodes_are_not_reached_at_the_unspecified_address() {
        for text in ["0.0.0.0:6660", "[::]:6660"] {
            let local = text.parse().expect("an address");
            for address in [reachable(local), reachable_here(local)] {
                assert!(!address.ip().is_unspecified() && address.port() == 6660, "{address}");
            }
        }
    }
}
