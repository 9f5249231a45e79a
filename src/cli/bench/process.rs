//! What the operating system says of the target: its resident memory, and its sockets as the kernel sees them. Linux only, as
//! it is read from /proc; elsewhere these figures are an error that says so.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

use crate::error::{Error, Result};

/// Pages in which the kernel counts its socket memory.
const PAGE_BYTES: u64 = 4096;
/// `TCP_ESTABLISHED` as /proc/net/tcp writes it.
const ESTABLISHED: &str = "01";

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes << 10)
        .ok_or_else(|| Error::Io(format!("process {pid} states no VmRSS")))
}

/// What a directory takes on disk, as `du` counts: blocks, not lengths.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let reading = |e| Error::io(format_args!("reading {}", directory.display()), &e);
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let metadata = entry.metadata().map_err(reading)?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * BLOCK_BYTES };
    }
    Ok(bytes)
}

/// Bytes as the figures have them.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Memory that the kernel holds for all TCP sockets of this machine.
pub fn socket_bytes() -> Result<u64> {
    let statistics = read("/proc/net/sockstat")?;
    let line = statistics.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1);
    let pages = pages.and_then(|pages| pages.parse::<u64>().ok());
    pages
        .map(|pages| pages * PAGE_BYTES)
        .ok_or_else(|| Error::Io("/proc/net/sockstat states no TCP mem".into()))
}

/// Ports of the clients whose connection to `server_port` is still open on the server's side. A client that does not read never
/// learns that it was closed; the kernel knows.
pub fn ports_connected_to(server_port: u16) -> Result<HashSet<u16>> {
    let mut ports = HashSet::new();
    // A machine without IPv6 has no second file.
    for table in [read("/proc/net/tcp")?, fs::read_to_string("/proc/net/tcp6").unwrap_or_default()] {
        ports.extend(table.lines().skip(1).filter_map(|line| {
            let mut columns = line.split_ascii_whitespace().skip(1);
            let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
            (state == ESTABLISHED && port(local)? == server_port).then(|| port(remote))?
        }));
    }
    Ok(ports)
}

fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(format_args!("reading {path}"), &e))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert!(resident_bytes(std::process::id()).expect("this process") > 1 << 20);
        assert!(resident_bytes(u32::MAX).is_err());
        socket_bytes().expect("sockets");
    }

    #[test]
    fn a_connection_is_seen_until_the_server_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server_port = listener.local_addr().expect("bound").port();
        let client = TcpStream::connect(("127.0.0.1", server_port)).expect("connects");
        let client_port = client.local_addr().expect("connected").port();
        let accepted = listener.accept().expect("accepts");
        assert!(ports_connected_to(server_port).expect("table").contains(&client_port));
        drop(accepted);
        assert!(!ports_connected_to(server_port).expect("table").contains(&client_port));
    }
}
