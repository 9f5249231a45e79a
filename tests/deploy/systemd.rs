//! What a node tells systemd.

use std::{os::unix::net::UnixDatagram, path::Path, str};

use super::read;
use crate::harness::{DEADLINE, Setup};

/// What systemd hears.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        Self { socket }
    }

    /// The next message.
    fn hear(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("the node says something in time");
        str::from_utf8(&message[..length]).expect("it is text").to_owned()
    }

    /// Waits for a message with this line.
    fn wait_for(&self, line: &str) {
        while !self.hear().lines().any(|heard| heard == line) {}
    }
}

#[test]
fn a_node_tells_systemd_that_it_serves_lives_and_stops() {
    let setup = Setup::new();
    let path = setup.home().join("notify");
    let manager = Manager::listen(&path);
    let node = setup.environment("NOTIFY_SOCKET", &path).environment("WATCHDOG_USEC", "150000").start();
    assert_eq!(manager.hear().trim(), "READY=1");
    node.get("/readyz").expect(200);
    manager.wait_for("STATUS=ready");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    node.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert_eq!(node.wait().1.code(), Some(0));
}

/// A node that waits for its cluster is not broken: it serves, says what it waits for, and is not restarted.
#[test]
fn a_node_that_waits_for_its_cluster_is_alive() {
    let setup = Setup::new().join("127.0.0.1:1");
    let path = setup.home().join("notify");
    let manager = Manager::listen(&path);
    let _node = setup.environment("NOTIFY_SOCKET", &path).environment("WATCHDOG_USEC", "150000").start();
    assert_eq!(manager.hear().trim(), "READY=1");
    let status = manager.hear();
    assert!(status.starts_with("STATUS=joining"), "{status}");
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn the_service_expects_what_the_node_says() {
    let unit = read("systemd/dynarust.service");
    let has = |line: &str| unit.lines().any(|other| other == line);
    assert!(has("Type=notify"), "{unit}");
    assert!(unit.lines().any(|line| line.starts_with("WatchdogSec=")), "{unit}");
    assert!(has("ExecStart=/usr/local/bin/DynaRust"), "{unit}");
}
