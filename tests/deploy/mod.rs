//! What `deploy/` has for those who run nodes, held to what nodes do: the service and its messages, the manifests, the alerts and the
//! dashboard.

mod queries;
mod settings;
mod systemd;
mod tools;

use std::fs;

use crate::pages::page;

/// The text of a file below `deploy`.
fn read(name: &str) -> String {
    fs::read_to_string(page::root().join("deploy").join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}
