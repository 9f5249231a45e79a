//! The functions of `linux.rs` for systems without /proc: each is an error.

use std::collections::HashSet;

use crate::error::{Error, Result};

fn unsupported<T>(figure: &str) -> Result<T> {
    Err(Error::Failed(format!("{figure} can be read on Linux only")))
}

/// Resident memory of a process.
pub fn resident_bytes(_pid: u32) -> Result<u64> {
    unsupported("the memory of a process")
}

/// Peak resident memory of a process.
pub fn peak_bytes(_pid: u32) -> Result<u64> {
    unsupported("the memory of a process")
}

/// Resets the peak.
pub fn reset_peak(_pid: u32) -> Result<()> {
    unsupported("the memory of a process")
}

/// Processor time of a process.
pub fn cpu_seconds(_pid: u32) -> Result<f64> {
    unsupported("the processor time of a process")
}

/// Bytes that a process wrote to disks.
pub fn written_bytes(_pid: u32) -> Result<u64> {
    unsupported("what a process wrote")
}

/// Memory of all TCP sockets.
pub fn socket_bytes() -> Result<u64> {
    unsupported("the memory of sockets")
}

/// Client ports with an open connection to `server_port`.
pub fn ports_connected_to(_server_port: u16) -> Result<HashSet<u16>> {
    unsupported("the table of connections")
}
