//! Clusters of real processes over real sockets: what they hold is the same everywhere and nothing acknowledged is lost,
//! whatever is killed, cut, stopped, restarted, or started wrongly.

mod access;
mod alone;
mod ancestor;
pub mod clocks;
mod crash;
mod cuts;
mod directories;
mod full_disk;
mod groups;
mod join;
mod ledger;
mod long_cuts;
mod model;
mod orders;
mod quiet;
mod readiness;
mod regressions;
mod replicate;
mod stopped;
mod sweep;
mod tables;

use crate::harness::{DEADLINE, Node, wait_until};

/// Waits until a node answers so.
#[track_caller]
fn wait_for_body(node: &Node, path: &str, body: &str) {
    wait_until(&format!("{path} on {} is {body}", node.address()), DEADLINE, || {
        let answer = node.get(path);
        answer.status == 200 && answer.text().trim_end() == body
    });
}

/// Waits until a node has nothing there.
#[track_caller]
fn wait_for_absence(node: &Node, path: &str) {
    wait_until(&format!("{path} on {} is gone", node.address()), DEADLINE, || node.get(path).status == 404);
}

/// Waits until a node has logged that.
fn wait_until_logged(node: &Node, text: &str) {
    wait_until(&format!("{} says {text:?}", node.address()), DEADLINE, || node.log().contains(text));
}
