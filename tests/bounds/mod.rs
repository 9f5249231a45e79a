//! Nothing is unbounded: what clients may take of a node's memory, places and time, and what they are told beyond that.

mod batches;
mod coding;
mod memory;
mod pressure;
mod removal;
mod shares;

use std::fs;

use crate::harness::Node;

/// Memory of a node's process that is there in fact, in bytes.
fn resident_bytes(node: &Node) -> u64 {
    status_bytes(node, "VmRSS:")
}

/// The most that it ever was.
fn peak_bytes(node: &Node) -> u64 {
    status_bytes(node, "VmHWM:")
}

fn status_bytes(node: &Node, field: &str) -> u64 {
    1024 * status_number(node, field)
}

/// Threads of a node's process.
fn threads(node: &Node) -> u64 {
    status_number(node, "Threads:")
}

fn status_number(node: &Node, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a process has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number, maybe of kB")
}
