//! Detects containers, and adds advice for them to messages.

use std::{env, net::SocketAddr, path::Path};

use rustix::process::{Pid, getppid};

use crate::error::Error;

/// Files that container engines create in their containers.
const FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
/// Variables that container engines set in their containers.
const VARIABLES: [&str; 2] = ["container", "KUBERNETES_SERVICE_HOST"];

/// Whether this process is the first of a container, or started by the first. Not for a node that somebody starts by hand in a
/// container: for that one a loopback address is fine.
pub fn runs_the_node() -> bool {
    let parent = Pid::as_raw(getppid());
    is_container() && (std::process::id() == 1 || parent <= 1)
}

fn is_container() -> bool {
    FILES.iter().any(|file| Path::new(file).exists())
        || VARIABLES.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// A warning if a node in a container listens on the loopback interface, which is the container's own.
pub fn unreachable(local: SocketAddr) -> Option<String> {
    local.ip().to_canonical().is_loopback().then(|| {
        format!(
            "listening on {local} in a container: nobody outside it can reach the node; listen on 0.0.0.0:{} instead",
            local.port()
        )
    })
}

/// Adds to an error about the cluster secret how to pass one to a container.
pub fn explain_secret(error: Error) -> Error {
    match error {
        Error::Config(why) => Error::Config(format!(
            "{why}. In a container: docker run -e CLUSTER_SECRET=..., the same for all nodes"
        )),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_gets_a_warning() {
        for (local, words) in [("127.0.0.1:6660", "0.0.0.0:6660"), ("[::1]:7000", "0.0.0.0:7000")] {
            let said = unreachable(local.parse().expect("an address")).expect("a warning");
            assert!(said.contains(local) && said.contains(words), "{said}");
        }
        for local in ["0.0.0.0:6660", "172.17.0.2:6660", "[::]:6660"] {
            assert_eq!(unreachable(local.parse().expect("an address")), None, "{local}");
        }
    }
}
