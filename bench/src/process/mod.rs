//! What the operating system knows about the target: its memory, processor time, disk space and sockets. What is read from /proc
//! needs Linux; elsewhere those figures are an error that says so.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::{fs, io::ErrorKind, os::unix::fs::MetadataExt, path::Path};

#[cfg(target_os = "linux")]
pub use linux::{
    cpu_seconds, peak_bytes, ports_connected_to, reset_peak, resident_bytes, socket_bytes, written_bytes,
};
#[cfg(not(target_os = "linux"))]
pub use other::{
    cpu_seconds, peak_bytes, ports_connected_to, reset_peak, resident_bytes, socket_bytes, written_bytes,
};

use crate::error::{Error, Result};

/// Disk space of a directory in allocated blocks, as `du` counts it.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let reading = |e| Error::io(format_args!("reading {}", directory.display()), &e);
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let metadata = match entry.metadata() {
            // The engine removes files of its own meanwhile.
            Err(gone) if gone.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.map_err(reading)?,
        };
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * BLOCK_BYTES };
    }
    Ok(bytes)
}

/// Bytes in mebibytes, the unit of the figures.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
