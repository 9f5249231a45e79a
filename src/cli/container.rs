//! Whether this is a container, and what differs there for whoever starts a node.

use std::{env, net::SocketAddr, path::Path};

use rustix::process::{Pid, getppid};

use crate::error::Error;

/// Files that engines put into their containers.
const FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
/// Variables that engines set in their containers.
const VARIABLES: [&str; 2] = ["container", "KUBERNETES_SERVICE_HOST"];

/// Whether the node is what a container runs: its first process, or started by that. Where people work or test in a container, a node
/// that only they reach is what they want.
pub fn runs_the_node() -> bool {
    let parent = Pid::as_raw(getppid());
    is_container() && (std::process::id() == 1 || parent <= 1)
}

fn is_container() -> bool {
    FILES.iter().any(|file| Path::new(file).exists())
        || VARIABLES.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// What to warn of where a node in a container listens at `local`: its loopback interface is the container's own.
pub fn unreachable(local: SocketAddr) -> Option<String> {
    local.ip().to_canonical().is_loopback().then(|| {
        format!(
            "listening on {local} in a container: nobody outside it can reach the node; listen on 0.0.0.0:{} instead",
            local.port()
        )
    })
}

/// Says of an error that a secret is missing or wrong how a container is given one.
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
    fn a_loopback_address_is_out_of_reach_and_others_are_not() {
        for (local, words) in [("127.0.0.1:6660", "0.0.0.0:6660"), ("[::1]:7000", "0.0.0.0:7000")] {
            let said = unreachable(local.parse().expect("an address")).expect("a warning");
            assert!(said.contains(local) && said.contains(words), "{said}");
        }
        for local in ["0.0.0.0:6660", "172.17.0.2:6660", "[::]:6660"] {
            assert_eq!(unreachable(local.parse().expect("an address")), None, "{local}");
        }
    }
}
