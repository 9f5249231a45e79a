//! The etcd API: against a real etcd, by etcdctl, and over a cluster whose leader is killed.

mod client;
mod cluster;
mod etcdctl;
mod generator;
mod locks;
mod oracle;
mod recovery;
mod rules;
mod speed;

use std::net::SocketAddr;

use tokio::runtime::Runtime;

use crate::harness::{Node, Setup};

/// A node that serves the etcd API on a free port, and a runtime for its clients.
struct Served {
    node: Node,
    address: SocketAddr,
    runtime: Runtime,
}

impl Served {
    fn start() -> Self {
        Self::start_with(|setup| setup)
    }

    fn start_with(change: impl FnOnce(Setup) -> Setup) -> Self {
        Self::from(change(Setup::new().flag("--etcd", "127.0.0.1:0")))
    }

    fn from(setup: Setup) -> Self {
        let node = setup.start();
        let address = address_in(&node.log());
        Self { node, address, runtime: runtime() }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The address that the log names.
fn address_in(log: &str) -> SocketAddr {
    let line = log.lines().rev().find(|line| line.contains("listening for the etcd API"));
    let line = line.unwrap_or_else(|| panic!("no line with the address in {log}"));
    let (_, address) = line.split_once("address=").expect("an address");
    address.split_whitespace().next().and_then(|text| text.parse().ok()).expect("an address")
}
